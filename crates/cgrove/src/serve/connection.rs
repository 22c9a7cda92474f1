//! Connections: let in, greeted, served until they end or somebody else needs the place.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tracing::debug;

use super::crowd::{Member, Stage};
use super::dropped::Why;
use super::port::{self, Ends, Raw};
use super::{Library, Listener, patient, route};

/// A client must have sent its request by then.
const HEADERS: Duration = Duration::from_secs(10);
/// Without clients the loop shows this often that it is alive.
const QUIET: Duration = Duration::from_secs(5);
/// Who came when all places were taken has its answer about health by then.
const LIMITED: Duration = Duration::from_secs(5);
/// Without descriptors nobody is let in for so long.
const SHORT_OF: Duration = Duration::from_millis(20);
/// Serves until dropped.
pub(crate) async fn run(listener: Listener, library: Arc<Library>) {
    let pulse = library.board.pulses.of("server", Duration::from_secs(30));
    loop {
        pulse.beat();
        let Ok(accepted) = tokio::time::timeout(QUIET, listener.accept()).await else { continue };
        let (raw, ends) = match accepted {
            Ok(pair) => pair,
            Err(e) => {
                // Out of descriptors, or the client was gone already.
                debug!("accept: {e}");
                if matches!(e.raw_os_error(), Some(EMFILE | ENFILE)) {
                    library.crowd.shed().into_iter().for_each(|peer| library.dropped(peer, Why::Room));
                    tokio::time::sleep(SHORT_OF).await;
                }
                continue;
            }
        };
        let admitted = library.crowd.enter(ends.door(), ends.whose);
        if let Some(gone) = admitted.gone {
            library.dropped(gone, Why::Room);
        }
        tokio::spawn(connection(raw, ends, library.clone(), admitted.member));
    }
}

const EMFILE: i32 = nix::errno::Errno::EMFILE as i32;
const ENFILE: i32 = nix::errno::Errno::ENFILE as i32;

async fn connection(raw: Raw, mut ends: Ends, library: Arc<Library>, member: Member) {
    library.board.update(|s| s.server.connections += 1);
    let limited = member.limited;
    let count = Arc::new(Count { library: library.clone(), member });
    let gone = library.gone.clone();
    let pushed_out = count.member.pushed_out();
    let serving = async {
        let greeting = port::greet(raw, &mut ends, library.proof.certificates.as_ref());
        let stream = match tokio::time::timeout(HEADERS, greeting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) => return debug!(peer = %ends, "greeting: {e}"),
            Err(_) => return debug!(peer = %ends, "greeting: no answer"),
        };
        let service = service_fn(|request| {
            let (library, count) = (library.clone(), count.clone());
            async move {
                count.member.is(Stage::Busy);
                let mut reply = route(request, ends, library, count.clone()).await;
                if count.member.limited {
                    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                // What is still to be sent is a task of its own; who takes it slowly is as good as idle.
                count.member.is(Stage::Idle);
                Ok::<_, Infallible>(reply)
            }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS)
            .max_buf_size(16 << 10)
            .serve_connection(TokioIo::new(patient::Patient::new(stream)), service)
            .with_upgrades();
        if let Err(e) = served.await {
            if patient::was_slow(&e) {
                library.dropped(ends.whose, Why::Slow);
            }
            debug!(peer = %ends, "connection: {e}");
        }
    };
    let longest = async {
        match limited {
            true => tokio::time::sleep(LIMITED).await,
            false => std::future::pending().await,
        }
    };
    tokio::select! {
        () = gone.cancelled() => {}
        () = pushed_out.cancelled() => {}
        () = longest => {}
        () = serving => {}
    }
}

/// Counts a connection for as long as anything of it lives.
pub(super) struct Count {
    library: Arc<Library>,
    pub(super) member: Member,
}

impl Drop for Count {
    fn drop(&mut self) {
        self.library.board.update(|s| s.server.connections -= 1);
    }
}
