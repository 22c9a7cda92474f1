//! To a session of the client library: what the configuration says, a relay to the servers, the library's client behind it.

use std::any::Any;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use cgrove_config::ZooKeeper;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};
use zookeeper_client::{Client, Error, SaslOptions};

use super::backoff::Backoff;
use super::relay::{ROUND, Reach, Relay, Servers, ended};
use super::{OPERATION, Trouble, hosts, path};
use crate::client_tls;

/// The library pings after 3/8 of it, and gives a connection up after all of it without an answer.
const CONNECTION: Duration = Duration::from_secs(3);
const FAREWELL: Duration = Duration::from_millis(500);

/// A client of the library's, and the relay that it must not outlive.
pub(super) struct Session {
    pub(super) client: Client,
    relay: Relay,
}

impl Session {
    pub(super) fn reach(&self) -> watch::Receiver<Reach> {
        self.relay.reach.clone()
    }

    /// Ends the session, so that the server need not keep it; that is not waited for for long.
    pub(super) async fn close(self) {
        let state = self.client.state_watcher();
        drop(self);
        let _ = timeout(FAREWELL, ended(state)).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.relay.leave(self.client.state_watcher());
    }
}

/// What the configuration and its files say, as they are now.
struct Prepared {
    servers: Servers,
    chroot: String,
    /// Scheme and credential.
    proofs: Vec<(String, String)>,
}

/// A session with the first server that gives one.
pub(super) async fn connect(config: &ZooKeeper, backoff: &Arc<Mutex<Backoff>>) -> Result<Session, Trouble> {
    let preparing = {
        let config = config.clone();
        spawn_blocking(move || prepare(&config))
    };
    let Prepared { servers, chroot, proofs } = match timeout(OPERATION, preparing).await {
        Ok(Ok(prepared)) => prepared.map_err(Trouble::Away)?,
        _ => {
            return Err(Trouble::Away(
                "the files that zookeeper.auth and zookeeper.tls_ca name cannot be read within 5 s".into(),
            ));
        }
    };
    let relay = Relay::start(servers, backoff.clone())
        .await
        .map_err(|e| Trouble::Away(format!("no port on 127.0.0.1 for the relay to the servers: {e}")))?;
    let (mut reach, mut over) = (relay.reach.clone(), relay.reach.clone());
    let cluster = format!("127.0.0.1:{}{chroot}", relay.port);
    let connecting = async {
        let _ = reach.wait_for(|reach| *reach != Reach::Seeking).await;
        loop {
            let error = match connector(&proofs, config.session_timeout).connect(&cluster).await {
                Ok(client) => return Ok(client),
                Err(error) => error,
            };
            match error {
                Error::AuthFailed => {
                    return Err(Trouble::Away("it refuses our credentials; check zookeeper.auth".into()));
                }
                Error::BadArguments(_) => return Err(Trouble::Away(error.to_string())),
                // The relay goes on to the next server, or says that there is none.
                _ => sleep(Duration::from_millis(100)).await,
            }
        }
    };
    let client = tokio::select! {
        biased;
        trouble = Relay::over(&mut over) => Err(trouble),
        done = timeout(ROUND + OPERATION, connecting) => done.unwrap_or_else(|_| Err(Trouble::Away("no answer".into()))),
    };
    client.map(|client| Session { client, relay })
}

fn prepare(config: &ZooKeeper) -> Result<Prepared, String> {
    let (mut hosts, chroot) = hosts::parse(&config.hosts, config.tls.is_some())?;
    fastrand::shuffle(&mut hosts);
    let tls = config.tls.as_ref().map(|tls| client_tls::connector("zookeeper", tls)).transpose()?;
    let mut proofs = Vec::new();
    for auth in &config.auth {
        let secret = auth.credential.read().map_err(|e| format!("zookeeper.auth: {e}"))?;
        if auth.scheme == "sasl" && !secret.contains(':') {
            return Err("zookeeper.auth: the credential of sasl is user:password".into());
        }
        proofs.push((auth.scheme.clone(), secret));
    }
    let watched = format!("{chroot}{}", path(config));
    let servers = Servers { hosts, tls, watched, session_timeout: config.session_timeout };
    Ok(Prepared { servers, chroot, proofs })
}

fn connector(proofs: &[(String, String)], session_timeout: Duration) -> zookeeper_client::Connector {
    let mut connector = Client::connector().with_session_timeout(session_timeout).with_connection_timeout(CONNECTION);
    for (scheme, secret) in proofs {
        connector = match (scheme.as_str(), secret.split_once(':')) {
            ("sasl", Some((user, password))) => {
                connector.with_sasl(SaslOptions::digest_md5(user.to_owned(), password.to_owned()))
            }
            (scheme, _) => connector.with_auth(scheme, secret.as_bytes()),
        };
    }
    connector
}

/// Work with the library, in a task of its own: what panics there ends the work, not the daemon.
pub(super) async fn contained<T: Send + 'static>(
    work: impl Future<Output = Result<T, Trouble>> + Send + 'static,
) -> Result<T, Trouble> {
    QUIET.call_once(quieten);
    let mut tasks = JoinSet::new();
    tasks.spawn(work);
    match tasks.join_next().await {
        Some(Ok(done)) => done,
        Some(Err(e)) => {
            let why = e.try_into_panic().map_or_else(|e| e.to_string(), |payload| said(&*payload).to_owned());
            Err(Trouble::Hostile(format!("the client library failed at what the server sent: {why}")))
        }
        None => Err(Trouble::Away("stopped".into())),
    }
}

static QUIET: Once = Once::new();

/// A panic of the library's, in its tasks or in ours, is a line of the log.
fn quieten() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        match panic.location().filter(|place| place.file().contains("/zookeeper-client-")) {
            Some(place) => {
                tracing::warn!("the ZooKeeper client library failed ({place}): {}", said(panic.payload()));
            }
            None => usual(panic),
        }
    }));
}

/// What a panic says.
fn said(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_panics_is_trouble() {
        let fails = |at: usize| contained(async move { Ok(*[1, 2].get(at).unwrap()) });
        assert_eq!(fails(1).await, Ok(2));
        let Err(Trouble::Hostile(why)) = fails(2).await else { panic!("a panic is trouble") };
        assert!(why.contains("failed at what the server sent: called"), "{why}");
    }
}
