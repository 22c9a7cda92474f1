//! The znode `{prefix}/arch_conf`: read, watched, read again on every reconnect, and written by `cgrove push`.
//! A supervisor outlives session expiry, server restarts, bad names and servers that break the protocol; it never gives up,
//! and asks each time later. The client library speaks with the servers through a relay, which bounds what they can do to it.

mod backoff;
mod client;
mod guard;
mod hosts;
mod own;
mod pass;
mod port;
mod relay;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::debug;
use zookeeper_client::{Acl, Acls, Client, CreateMode, Error, Permission, SessionState, StateWatcher};

use self::backoff::{Backoff, spread};
use self::client::{Session, connect, contained};
use self::relay::{Reach, Relay};
use super::pace::Pace;
use super::{Fetched, News};
use cgrove_config::{Secret, ZooKeeper};

/// One-shot watches survive reconnects; this catches whatever they might miss.
const REREAD: Duration = Duration::from_secs(30);
/// Without permission to read no watch can be set, so we ask.
const RETRY_REFUSED: Duration = Duration::from_secs(2);
/// No watch tells of an ACL either: about how long after its mend a document that was refused for it is taken.
const RETRY_EXPOSED: Duration = Duration::from_secs(5);
/// While disconnected, operations queue; none may hang.
const OPERATION: Duration = Duration::from_secs(5);
/// From one look to the next, while the connection is lost.
const RETRY_LOST: Duration = Duration::from_millis(500);
/// For the relay to say why it cut a connection.
const REASON: Duration = Duration::from_millis(100);

/// Why a session came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Trouble {
    /// Nobody answers, or the connection is lost.
    Away(String),
    /// What the server says is not ZooKeeper's protocol, or without end.
    Hostile(String),
    /// It answers, but not to us.
    Refused(String),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Away(why) | Self::Hostile(why) | Self::Refused(why) => f.write_str(why),
        }
    }
}

/// The document's znode below the chroot.
pub(crate) fn path(config: &ZooKeeper) -> String {
    format!("{}/arch_conf", config.prefix)
}

/// Where a reader finds it, for messages.
pub(crate) fn place(config: &ZooKeeper) -> String {
    format!("zookeeper {} znode {}", config.hosts, path(config))
}

/// Runs until the receiver is gone.
pub(crate) async fn run(config: ZooKeeper, news: mpsc::Sender<News>) {
    let backoff = Arc::new(Mutex::new(Backoff::default()));
    while !news.is_closed() {
        let attempt = one(config.clone(), news.clone(), backoff.clone());
        let Err(trouble) = contained(attempt).await else { return };
        let next = |hostile| backoff.lock().unwrap_or_else(PoisonError::into_inner).next(hostile);
        let (pause, why) = match trouble {
            Trouble::Refused(why) => (RETRY_REFUSED, why),
            Trouble::Hostile(why) => (spread(next(true)), format!("zookeeper {}: {why}", config.hosts)),
            Trouble::Away(why) => (spread(next(false)), format!("zookeeper {}: {why}", config.hosts)),
        };
        if news.send(News::Away(why)).await.is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
    }
}

/// One session; `Ok` when nobody listens any more.
async fn one(config: ZooKeeper, news: mpsc::Sender<News>, backoff: Arc<Mutex<Backoff>>) -> Result<(), Trouble> {
    let session = connect(&config, &backoff).await?;
    let (began, mut answered) = (Instant::now(), false);
    let (reach, mut over) = (session.reach(), session.reach());
    let end = tokio::select! {
        biased;
        trouble = Relay::over(&mut over) => Err(trouble),
        end = follow(&session, reach, &config, &news, &mut answered) => end,
    };
    backoff.lock().unwrap_or_else(PoisonError::into_inner).ended(answered, began.elapsed());
    if matches!(end, Err(Trouble::Refused(_))) {
        session.close().await;
    }
    end
}

/// Reads and watches until the session is lost; `Ok` when nobody listens any more.
async fn follow(
    session: &Session,
    mut reach: watch::Receiver<Reach>,
    config: &ZooKeeper,
    news: &mpsc::Sender<News>,
    answered: &mut bool,
) -> Result<(), Trouble> {
    let client = &session.client;
    let path = path(config);
    let mut state = client.state_watcher();
    // A follower that lags must not take us back to a document that was replaced already.
    let _ = within(client.sync(&path)).await;
    let credentials_in_files = config.auth.iter().any(|a| matches!(a.credential, Secret::File(_)));
    let mut pace = Pace::new();
    loop {
        let mut watcher = None;
        let mut pause = spread(REREAD);
        let item = match within(client.get_and_watch_data(&path)).await {
            Ok((data, stat, armed)) => {
                let exposed = exposed(client, config, &path).await;
                if exposed.is_some() && config.require_safe_acl {
                    pause = spread(RETRY_EXPOSED);
                }
                // It stays for long; what it was read into need not.
                let (bytes, version) = (Bytes::copy_from_slice(&data), i64::from(stat.version));
                watcher = Some(armed);
                News::Document(Fetched { bytes, version, mzxid: Some(stat.mzxid), exposed })
            }
            Err(Error::NoNode) => {
                match within(client.check_and_watch_stat(&path)).await {
                    Ok((None, armed)) => watcher = Some(armed),
                    Ok((Some(_), _)) => pause = pace.take(), // It came into being meanwhile.
                    Err(_) => pause = RETRY_REFUSED,
                }
                let place = &config.hosts;
                News::Missing(format!("znode {path} does not exist on {place}; `cgrove push TREE` makes it"))
            }
            Err(Error::NoAuth) => {
                let how = if config.auth.is_empty() { "zookeeper.auth is empty" } else { "check zookeeper.auth" };
                let why = format!("znode {path}: not authorized to read it; {how}, and its ACL with zkCli's getAcl");
                if credentials_in_files {
                    // They may have been mended: the next connection reads them again.
                    return Err(Trouble::Refused(why));
                }
                pause = RETRY_REFUSED;
                News::Away(why)
            }
            // The library is on its way to the next server, as long as the session lasts.
            Err(e) if client.state() == SessionState::Disconnected => {
                debug!("read: {e}");
                pause = RETRY_LOST;
                News::Away(lost(config, &reach))
            }
            Err(Error::Timeout) => return Err(Trouble::Away("no answer to a read within 5 s".into())),
            Err(e) if client.state().is_terminated() => return Err(over(&reach, &e.to_string())),
            Err(Error::ConnectionLoss) => {
                pause = RETRY_LOST;
                News::Away(lost(config, &reach))
            }
            Err(e) => return Err(Trouble::Away(e.to_string())),
        };
        *answered |= !matches!(item, News::Away(_));
        if news.send(item).await.is_err() {
            return Ok(());
        }
        // A watcher's loss panics in the client library; a task of its own turns that into a wake-up.
        let mut fired = match watcher {
            Some(watcher) => tokio::spawn(async move { watcher.changed().await.session_state }),
            None => tokio::spawn(std::future::pending()),
        };
        let (end, paced) = tokio::select! {
            event = &mut fired => {
                debug!("watch: {event:?}");
                (event.ok().filter(|state| state.is_terminated()), true)
            }
            end = change(&mut state, &mut reach, news, config) => (end, false),
            () = tokio::time::sleep(pause) => (None, false),
        };
        fired.abort();
        if let Some(state) = end {
            return Err(over(&reach, &format!("session {state:?}")));
        }
        if paced {
            tokio::time::sleep(pace.take()).await;
        }
    }
}

fn lost(config: &ZooKeeper, reach: &watch::Receiver<Reach>) -> String {
    match &*reach.borrow() {
        Reach::Lost(why) => format!("zookeeper {}: {why}; reconnecting", config.hosts),
        _ => format!("zookeeper {}: connection lost; reconnecting", config.hosts),
    }
}

fn over(reach: &watch::Receiver<Reach>, end: &str) -> Trouble {
    Trouble::Away(match &*reach.borrow() {
        Reach::Lost(why) => format!("{end}; starting a new one ({why})"),
        _ => format!("{end}; starting a new one"),
    })
}

/// Says so when anybody may write the document, or put another one in its place.
async fn exposed(client: &Client, config: &ZooKeeper, path: &str) -> Option<String> {
    let anybody = |acls: &[Acl], wanted: Permission| {
        let world = acls.iter().filter(|acl| acl.scheme() == "world" && acl.id() == "anyone");
        world.fold(Permission::NONE, |all, acl| all | acl.permission()).has(wanted)
    };
    let mend = "set its ACL with zkCli's setAcl, or let `cgrove push` make it with zookeeper.auth";
    match within(client.get_acl(path)).await {
        Ok((acls, _)) if anybody(&acls, Permission::WRITE) || anybody(&acls, Permission::ADMIN) => {
            return Some(format!("znode {path} can be written by anybody; {mend}"));
        }
        Err(Error::NoAuth) if config.require_safe_acl => {
            return Some(format!("the ACL of znode {path} cannot be read"));
        }
        _ => {}
    }
    let above = if config.prefix.is_empty() { "/" } else { &config.prefix };
    match within(client.get_acl(above)).await {
        Ok((acls, _))
            if anybody(&acls, Permission::DELETE | Permission::CREATE) || anybody(&acls, Permission::ADMIN) =>
        {
            Some(format!("znode {above} lets anybody delete {path} and make another; {mend}"))
        }
        Err(Error::NoAuth) if config.require_safe_acl => Some(format!("the ACL of znode {above} cannot be read")),
        _ => None,
    }
}

/// Follows the session's state: `None` after a reconnect (read again), `Some` when the session is over.
async fn change(
    state: &mut StateWatcher,
    reach: &mut watch::Receiver<Reach>,
    news: &mpsc::Sender<News>,
    config: &ZooKeeper,
) -> Option<SessionState> {
    loop {
        let now = tokio::select! {
            now = state.changed() => now,
            Ok(()) = reach.changed() => {
                if !matches!(*reach.borrow_and_update(), Reach::Lost(_)) {
                    continue;
                }
                SessionState::Disconnected
            }
        };
        match now {
            SessionState::Disconnected => {
                let _ = news.send(News::Away(lost(config, reach))).await;
            }
            SessionState::SyncConnected | SessionState::ConnectedReadOnly => return None,
            end => return Some(end),
        }
    }
}

async fn within<T>(operation: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(OPERATION, operation).await.unwrap_or(Err(Error::Timeout))
}

/// One command's work with a session; the error is for people.
async fn once<T, W, F>(config: &ZooKeeper, work: W) -> Result<T, String>
where
    T: Send + 'static,
    W: FnOnce(Arc<Session>, ZooKeeper) -> F + Send + 'static,
    F: Future<Output = Result<T, String>> + Send,
{
    let ours = config.clone();
    let done = contained(async move {
        let session = Arc::new(connect(&ours, &Arc::default()).await?);
        let mut over = session.reach();
        let result = tokio::select! {
            biased;
            done = work(session.clone(), ours.clone()) => done,
            trouble = Relay::over(&mut over) => return Err(trouble),
        };
        if result.is_err()
            && let Ok(Trouble::Hostile(why)) = tokio::time::timeout(REASON, Relay::over(&mut over)).await
        {
            // The library only knows that its connection is lost.
            return Err(Trouble::Hostile(why));
        }
        if let Some(session) = Arc::into_inner(session) {
            session.close().await;
        }
        Ok(result)
    });
    done.await.map_err(|trouble| format!("zookeeper {}: {trouble}", config.hosts))?
}

/// The document and its version as they are now; `None` when the znode is missing.
pub(crate) async fn read_once(config: &ZooKeeper) -> Result<Option<(Bytes, i32)>, String> {
    once(config, async |session: Arc<Session>, config: ZooKeeper| {
        match within(session.client.get_data(&path(&config))).await {
            Ok((data, stat)) => Ok(Some((Bytes::from(data), stat.version))),
            Err(Error::NoNode) => Ok(None),
            Err(Error::NoAuth) => {
                Err(format!("{}: not authorized to read it; check zookeeper.auth and the znode's ACL", place(&config)))
            }
            Err(e) => Err(format!("{}: {e}", place(&config))),
        }
    })
    .await
}

/// Writes the document if its version is still `expected` (`None`: it must not exist yet). Returns the new version.
pub(crate) async fn write(config: &ZooKeeper, data: &[u8], expected: Option<i32>) -> Result<i32, String> {
    let data = data.to_vec();
    once(config, move |session: Arc<Session>, config: ZooKeeper| async move {
        put(&session.client, &config, &data, expected).await
    })
    .await
}

async fn put(client: &Client, config: &ZooKeeper, data: &[u8], expected: Option<i32>) -> Result<i32, String> {
    let path = path(config);
    let acls = if config.auth.is_empty() { Acls::anyone_all() } else { Acls::creator_all() };
    let result = match expected {
        Some(version) => within(client.set_data(&path, data, Some(version))).await.map(|stat| stat.version),
        None => {
            let options = CreateMode::Persistent.with_acls(acls);
            if !config.prefix.is_empty() {
                // Whoever may write the znode above could delete the document, so it has the same ACL.
                let above = CreateMode::Persistent.with_acls(acls);
                within(client.mkdir(&config.prefix, &above))
                    .await
                    .or_else(|e| if e == Error::NodeExists { Ok(()) } else { Err(e) })
                    .map_err(|e| why(config, &config.prefix, e))?;
            }
            within(client.create(&path, data, &options)).await.map(|(stat, _)| stat.version.max(0))
        }
    };
    result.map_err(|e| why(config, &path, e))
}

fn why(config: &ZooKeeper, path: &str, error: Error) -> String {
    let place = format!("zookeeper {} znode {path}", config.hosts);
    match error {
        Error::BadVersion | Error::NodeExists => {
            format!("{place}: someone else changed it meanwhile; look at `cgrove plan` and push again")
        }
        Error::NoAuth => format!("{place}: not authorized to write it; check zookeeper.auth and the znode's ACL"),
        Error::InvalidAcl => format!("{place}: the server believes none of zookeeper.auth"),
        Error::NoNode => format!("{place}: what is above it does not exist; does the chroot?"),
        Error::ConnectionLoss => {
            format!("{place}: connection lost; a document larger than the server's jute.maxbuffer does that")
        }
        e => format!("{place}: {e}"),
    }
}
