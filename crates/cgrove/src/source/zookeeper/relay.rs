//! Between the client library and the servers. The library connects to a port of loopback, and again whenever it likes; the
//! relay reaches the servers, one after the other and with pauses, speaks TLS to them, and passes on what [`Guard`] lets pass.
//! The port takes connections of this process only, and is held until the library is done with it: who had it then would
//! be given the credentials.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use zookeeper_client::StateWatcher;

use super::Trouble;
use super::backoff::{Backoff, spread};
use super::guard::{Guard, LONGEST};
use super::hosts::Host;
use super::pass::{End, pass};
use super::port::Port;
use crate::client_tls::Stream;

/// To reach one server, TLS included.
const REACH: Duration = Duration::from_secs(3);
/// For the library to come, once a server is there; it pauses between its attempts itself.
const LATE: Duration = Duration::from_secs(5);
/// For the farewell to a server.
const FAREWELL: Duration = Duration::from_millis(500);
/// A long list of servers that hang is tried in several rounds.
pub(super) const ROUND: Duration = Duration::from_secs(20);
/// More than the library goes on by itself, which is 7/5 of the session's time.
const ALONE: u32 = 2;

/// The servers, as the configuration and its files are now.
pub(super) struct Servers {
    pub(super) hosts: Vec<Host>,
    pub(super) tls: Option<TlsConnector>,
    /// The znode that is watched, chroot included.
    pub(super) watched: String,
    /// What a session is asked to last.
    pub(super) session_timeout: Duration,
}

/// How it stands with the servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reach {
    /// None has been reached yet.
    Seeking,
    Reached,
    /// The last one was lost, for this reason; they are tried again.
    Lost(String),
    /// The relay gave up.
    Over(Trouble),
}

/// A relay's handle. It works until the library's client has ended that [`Relay::leave`] names, or at once to its drop.
pub(super) struct Relay {
    pub(super) port: u16,
    pub(super) reach: watch::Receiver<Reach>,
    leave: Option<oneshot::Sender<StateWatcher>>,
}

impl Relay {
    pub(super) async fn start(servers: Servers, backoff: Arc<Mutex<Backoff>>) -> std::io::Result<Self> {
        let port = Port::open().await?;
        let (tell, reach) = watch::channel(Reach::Seeking);
        let (leave, left) = oneshot::channel();
        let here = port.here.port();
        tokio::spawn(serve(port, servers, backoff, tell, left));
        Ok(Self { port: here, reach, leave: Some(leave) })
    }

    /// The client is dropped: what it still says is passed on, and the port is held until it has ended.
    pub(super) fn leave(&mut self, state: StateWatcher) {
        if let Some(leave) = self.leave.take() {
            let _ = leave.send(state);
        }
    }

    /// Why the relay gave up, once it does.
    pub(super) async fn over(reach: &mut watch::Receiver<Reach>) -> Trouble {
        match reach.wait_for(|reach| matches!(reach, Reach::Over(_))).await.map(|r| r.clone()) {
            Ok(Reach::Over(trouble)) => trouble,
            _ => Trouble::Away("the relay to the servers has ended".into()),
        }
    }
}

async fn serve(
    mut port: Port,
    servers: Servers,
    backoff: Arc<Mutex<Backoff>>,
    tell: watch::Sender<Reach>,
    mut left: oneshot::Receiver<StateWatcher>,
) {
    let alone = servers.session_timeout.max(LONGEST) * ALONE;
    let mut relaying = Box::pin(relay(&mut port, servers, &backoff, &tell));
    let state = tokio::select! {
        trouble = &mut relaying => {
            tell.send_replace(Reach::Over(trouble));
            left.await
        }
        state = &mut left => match state {
            Ok(state) => {
                let farewell = async { tokio::select! { _ = &mut relaying => {}, () = ended(state.clone()) => {} } };
                let _ = timeout(FAREWELL, farewell).await;
                Ok(state)
            }
            never => never,
        }
    };
    drop(relaying);
    let Ok(state) = state else { return };
    // Without an answer the library would try for as long as its session might last.
    let dismissing = async {
        loop {
            let mut client = port.client().await;
            let _ = client.write_all(&EXPIRED).await;
            let _ = timeout(FAREWELL, client.read(&mut [0; 4096])).await;
        }
    };
    let _ = timeout(alone, async {
        tokio::select! { () = dismissing => {}, () = ended(state) => {} }
    })
    .await;
}

/// A greeting that says that the session has ended: no version, time or session, and a password.
const EXPIRED: [u8; 41] = {
    let mut frame = [0; 41];
    (frame[3], frame[23]) = (37, 16);
    frame
};

/// The library tells of an end only once; one that it told already is seen as well.
pub(super) async fn ended(mut state: StateWatcher) {
    while !state.state().is_terminated() && !state.changed().await.is_terminated() {}
}

/// Servers one after the other, until the session cannot be kept.
async fn relay(
    port: &mut Port,
    mut servers: Servers,
    backoff: &Mutex<Backoff>,
    tell: &watch::Sender<Reach>,
) -> Trouble {
    let backoff = || backoff.lock().unwrap_or_else(PoisonError::into_inner);
    let mut established = false;
    loop {
        let began = Instant::now();
        let (mut failed, mut bad) = (Vec::new(), 0);
        for host in &servers.hosts {
            if began.elapsed() > ROUND {
                failed.push("the others are tried later".into());
                break;
            }
            let reaching = timeout(REACH, reach(host, servers.tls.as_ref()));
            let server = match port.beside(reaching).await {
                Ok(Ok(server)) => server,
                Ok(Err(why)) => {
                    failed.push(format!("{host}: {why}"));
                    continue;
                }
                Err(_) => {
                    failed.push(format!("{host}: no answer within 3 s"));
                    continue;
                }
            };
            tell.send_replace(Reach::Reached);
            let Ok(client) = timeout(LATE, port.client()).await else {
                return Trouble::Away("the client library does not come back".into());
            };
            let mut guard = Guard::new(&servers.watched);
            let (since, end) = (Instant::now(), port.beside(pass(client, server, &mut guard)).await);
            backoff().ended(guard.answered, since.elapsed());
            let hostile = matches!(end, End::Hostile(_));
            let why = match end {
                End::Hostile(why) => why,
                _ if guard.refused => "it refuses our credentials; check zookeeper.auth".into(),
                End::Away(why) if guard.greeted => format!("connection lost: {why}"),
                End::Away(why) => format!("accepts connections but gave no session: {why}"),
                End::Left if guard.sasl && !guard.answered => {
                    "SASL came to nothing: it knows another password, or no DIGEST-MD5; check zookeeper.auth".into()
                }
                End::Left if guard.greeted => "the client library ended the connection".into(),
                End::Left => {
                    format!("accepts connections but gave no session within {:.1} s", since.elapsed().as_secs_f32())
                }
            };
            established |= guard.answered;
            if guard.answered {
                if hostile {
                    return Trouble::Hostile(format!("{host} {why}"));
                }
                (failed, bad) = (vec![format!("{host}: {why}")], 0);
                break;
            }
            failed.push(format!("{host}: {why}"));
            bad += usize::from(hostile);
        }
        failed.sort();
        let why = failed.join("; ");
        match (established, bad) {
            (false, bad) if bad < servers.hosts.len() => return Trouble::Away(format!("no session ({why})")),
            (false, _) | (true, 1..) => return Trouble::Hostile(format!("no session ({why})")),
            (true, 0) => {}
        }
        tell.send_replace(Reach::Lost(why));
        let pause = spread(backoff().next(false));
        port.beside(sleep(pause)).await;
        servers.hosts.rotate_left(1);
    }
}

/// The error is for people, and does not name the server.
async fn reach(host: &Host, tls: Option<&TlsConnector>) -> Result<Box<dyn Stream>, String> {
    let tcp = TcpStream::connect((host.name.as_str(), host.port)).await.map_err(|e| e.to_string())?;
    let _ = tcp.set_nodelay(true);
    if !host.tls {
        return Ok(Box::new(tcp));
    }
    let tls = tls.ok_or("tcp+tls:// needs zookeeper.tls_ca")?;
    let name = ServerName::try_from(host.name.clone()).map_err(|e| format!("TLS: {e}"))?;
    Ok(Box::new(tls.connect(name, tcp).await.map_err(|e| format!("TLS: {e}"))?))
}

#[cfg(test)]
mod tests {
    use super::super::pass::tests::{frame, greeting, ints};
    use super::*;
    use tokio::net::TcpListener;

    /// A server that greets and then says nothing: the library, left alone, ends soon, and only then the port is free.
    #[tokio::test(flavor = "multi_thread")]
    async fn the_port_is_held_until_the_library_has_ended() {
        let far = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = Host { name: "127.0.0.1".into(), port: far.local_addr().unwrap().port(), tls: false };
        tokio::spawn(async move {
            let mut held = Vec::new();
            loop {
                let (mut one, _) = far.accept().await.unwrap();
                for answer in [greeting(), frame(&ints(&[-2, 0, 9, 0]))] {
                    let mut asked = vec![0; one.read_u32().await.unwrap() as usize];
                    one.read_exact(&mut asked).await.unwrap();
                    one.write_all(&answer).await.unwrap();
                }
                held.push(one);
            }
        });
        let servers = Servers { hosts: vec![host], tls: None, watched: "/a".into(), session_timeout: ROUND };
        let mut relay = Relay::start(servers, Arc::default()).await.unwrap();
        let cluster = format!("127.0.0.1:{}", relay.port);
        let client = zookeeper_client::Client::connector().connect(&cluster).await.unwrap();
        let state = client.state_watcher();
        relay.leave(state.clone());
        drop(client);
        assert!(TcpListener::bind(&cluster).await.is_err());
        timeout(Duration::from_secs(5), ended(state)).await.unwrap();
        drop(relay);
        timeout(Duration::from_secs(5), async {
            while TcpListener::bind(&cluster).await.is_err() {
                sleep(FAREWELL).await
            }
        })
        .await
        .unwrap();
    }
}
