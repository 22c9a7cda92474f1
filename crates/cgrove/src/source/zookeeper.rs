//! The znode `{prefix}/arch_conf`: read, watched, read again on every reconnect, and written by `cgrove push`.
//! A supervisor outlives session expiry, server restarts, bad names and servers that break the protocol; it never gives up,
//! and asks each time later.

mod backoff;
mod hosts;
mod open;
mod sasl;
mod session;
mod wire;

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::backoff::{Backoff, spread};
use self::open::open;
use self::session::{Session, Trouble, Wake};
use self::wire::{Acl, Op, Stat, Writer, code, permission};
use super::pace::Pace;
use super::{Fetched, News};
use cgrove_config::{Secret, ZooKeeper};

/// Watches fire once and are set anew with each read; this catches whatever they might miss.
const REREAD: Duration = Duration::from_secs(30);
/// Without permission to read no watch can be set, so we ask.
const RETRY_REFUSED: Duration = Duration::from_secs(2);
/// No watch tells of an ACL either: about how long after its mend a document that was refused for it is taken.
const RETRY_EXPOSED: Duration = Duration::from_secs(5);

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
    let mut backoff = Backoff::default();
    let mut ticket = None;
    while !news.is_closed() {
        let trouble = match open(&config, &mut ticket).await {
            Ok(mut session) => {
                let (began, mut answered) = (Instant::now(), false);
                let end = follow(&mut session, &config, &news, &mut answered).await;
                backoff.ended(answered, began.elapsed());
                match end {
                    Ok(()) => return,
                    Err(Trouble::Away(why)) => {
                        ticket = Some(session.ticket());
                        Trouble::Away(format!("zookeeper {}: {why}; reconnecting", config.hosts))
                    }
                    Err(Trouble::Refused(why)) => {
                        ticket = None;
                        session.close().await;
                        Trouble::Refused(why)
                    }
                    Err(Trouble::Hostile(why)) => Trouble::Hostile(format!("zookeeper {}: {why}", config.hosts)),
                    Err(other) => Trouble::Away(format!("zookeeper {}: {other}", config.hosts)),
                }
            }
            Err(trouble) => trouble,
        };
        if matches!(trouble, Trouble::Hostile(_)) {
            ticket = None;
        }
        let pause = match trouble {
            Trouble::Refused(_) => RETRY_REFUSED,
            Trouble::Hostile(_) => spread(backoff.next(true)),
            Trouble::Away(_) | Trouble::Code(_) => spread(backoff.next(false)),
        };
        if news.send(News::Away(trouble.to_string())).await.is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
    }
}

/// Reads and watches until the session is lost; `Ok` when nobody listens any more.
async fn follow(
    session: &mut Session,
    config: &ZooKeeper,
    news: &mpsc::Sender<News>,
    answered: &mut bool,
) -> Result<(), Trouble> {
    let path = path(config);
    // A follower that lags must not take us back to a document that was replaced already. Whoever takes a session up
    // again is refused by one that has not seen what he has.
    if !session.resumed {
        match session.call(Op::Sync, Writer::default().text(&session.full(&path))).await {
            Ok(_) | Err(Trouble::Code(_)) => {}
            Err(lost) => return Err(lost),
        }
    }
    let credentials_in_files = config.auth.iter().any(|a| matches!(a.credential, Secret::File(_)));
    let mut pace = Pace::new();
    loop {
        let mut pause = spread(REREAD);
        let item = match get(session, &path, true).await {
            Ok((bytes, stat)) => {
                let exposed = exposed(session, config, &path).await?;
                if exposed.is_some() && config.require_safe_acl {
                    pause = spread(RETRY_EXPOSED);
                }
                let (version, mzxid) = (i64::from(stat.version), Some(stat.mzxid));
                News::Document(Fetched { bytes, version, mzxid, exposed })
            }
            Err(Trouble::Code(code::NO_NODE)) => {
                match session.call(Op::Exists, Writer::default().text(&session.full(&path)).flag(true)).await {
                    Ok(_) => pause = pace.take(), // It came into being meanwhile.
                    Err(Trouble::Code(code::NO_NODE)) => {}
                    Err(Trouble::Code(_)) => pause = RETRY_REFUSED,
                    Err(lost) => return Err(lost),
                }
                let place = &config.hosts;
                News::Missing(format!("znode {path} does not exist on {place}; `cgrove push TREE` makes it"))
            }
            Err(Trouble::Code(code::NO_AUTH)) => {
                let how = if config.auth.is_empty() { "zookeeper.auth is empty" } else { "check zookeeper.auth" };
                let why = format!("znode {path}: not authorized to read it; {how}, and its ACL with zkCli's getAcl");
                if credentials_in_files {
                    // They may have been mended: the next connection reads them again.
                    return Err(Trouble::Refused(why));
                }
                pause = RETRY_REFUSED;
                News::Away(why)
            }
            Err(other) => return Err(other),
        };
        *answered = true;
        if news.send(item).await.is_err() {
            return Ok(());
        }
        if session.wait(pause).await? == Wake::Fired {
            tokio::time::sleep(pace.take()).await;
        }
    }
}

async fn get(session: &mut Session, path: &str, watch: bool) -> Result<(Bytes, Stat), Trouble> {
    let mut reply = session.call(Op::GetData, Writer::default().text(&session.full(path)).flag(watch)).await?;
    // It stays for long; what it was read into need not.
    let bytes = Bytes::copy_from_slice(&reply.buffer()?);
    Ok((bytes, Stat::read(&mut reply)?))
}

/// Says so when anybody may write the document, or put another one in its place.
async fn exposed(session: &mut Session, config: &ZooKeeper, path: &str) -> Result<Option<String>, Trouble> {
    let mend = "set its ACL with zkCli's setAcl, or let `cgrove push` make it with zookeeper.auth";
    let unreadable = |path: &str| config.require_safe_acl.then(|| format!("the ACL of znode {path} cannot be read"));
    match open_to_anybody(session, path).await {
        Ok(open) if open & (permission::WRITE | permission::ADMIN) != 0 => {
            return Ok(Some(format!("znode {path} can be written by anybody; {mend}")));
        }
        Err(Trouble::Code(code::NO_AUTH)) if config.require_safe_acl => return Ok(unreadable(path)),
        Ok(_) | Err(Trouble::Code(_)) => {}
        Err(lost) => return Err(lost),
    }
    let above = if config.prefix.is_empty() { "/" } else { &config.prefix };
    let replace = permission::DELETE | permission::CREATE;
    match open_to_anybody(session, above).await {
        Ok(open) if open & replace == replace || open & permission::ADMIN != 0 => {
            Ok(Some(format!("znode {above} lets anybody delete {path} and make another; {mend}")))
        }
        Err(Trouble::Code(code::NO_AUTH)) => Ok(unreadable(above)),
        Ok(_) | Err(Trouble::Code(_)) => Ok(None),
        Err(lost) => Err(lost),
    }
}

/// What everybody may do with a znode.
async fn open_to_anybody(session: &mut Session, path: &str) -> Result<i32, Trouble> {
    let mut reply = session.call(Op::GetAcl, Writer::default().text(&session.full(path))).await?;
    let world = |acl: &Acl| acl.scheme == "world" && acl.id == "anyone";
    Ok(Acl::read_list(&mut reply)?.iter().filter(|acl| world(acl)).fold(0, |all, acl| all | acl.permission))
}

/// A session for one command; the error is for people.
async fn once(config: &ZooKeeper) -> Result<Session, String> {
    open(config, &mut None).await.map_err(|e| e.to_string())
}

/// The document and its version as they are now; `None` when the znode is missing.
pub(crate) async fn read_once(config: &ZooKeeper) -> Result<Option<(Bytes, i32)>, String> {
    let mut session = once(config).await?;
    let result = match get(&mut session, &path(config), false).await {
        Ok((bytes, stat)) => Ok(Some((bytes, stat.version))),
        Err(Trouble::Code(code::NO_NODE)) => Ok(None),
        Err(Trouble::Code(code::NO_AUTH)) => {
            Err(format!("{}: not authorized to read it; check zookeeper.auth and the znode's ACL", place(config)))
        }
        Err(e) => Err(format!("{}: {e}", place(config))),
    };
    session.close().await;
    result
}

/// Writes the document if its version is still `expected` (`None`: it must not exist yet). Returns the new version.
pub(crate) async fn write(config: &ZooKeeper, data: &[u8], expected: Option<i32>) -> Result<i32, String> {
    let mut session = once(config).await?;
    let result = put(&mut session, config, data, expected).await;
    session.close().await;
    result
}

async fn put(session: &mut Session, config: &ZooKeeper, data: &[u8], expected: Option<i32>) -> Result<i32, String> {
    let path = path(config);
    let create = |full: &str, data: &[u8]| {
        let writer = Writer::default().text(full).buffer(data);
        // 0: it stays.
        if config.auth.is_empty() { writer.acl("world", "anyone").int(0) } else { writer.acl("auth", "").int(0) }
    };
    let result = match expected {
        Some(version) => {
            let request = Writer::default().text(&session.full(&path)).buffer(data).int(version);
            match session.call(Op::SetData, request).await {
                Ok(mut reply) => Stat::read(&mut reply).map(|stat| stat.version).map_err(Trouble::from),
                Err(e) => Err(e),
            }
        }
        None => {
            // Whoever may write the znode above could delete the document, so it has the same ACL.
            for (end, _) in config.prefix.match_indices('/').skip(1).chain([(config.prefix.len(), "")]) {
                let Some(above) = config.prefix.get(..end).filter(|above| !above.is_empty()) else { continue };
                match session.call(Op::Create, create(&session.full(above), b"")).await {
                    Ok(_) | Err(Trouble::Code(code::NODE_EXISTS)) => {}
                    Err(e) => return Err(why(config, above, e)),
                }
            }
            session.call(Op::Create, create(&session.full(&path), data)).await.map(|_| 0)
        }
    };
    result.map_err(|e| why(config, &path, e))
}

fn why(config: &ZooKeeper, path: &str, trouble: Trouble) -> String {
    let place = format!("zookeeper {} znode {path}", config.hosts);
    match trouble {
        Trouble::Code(code::BAD_VERSION | code::NODE_EXISTS) => {
            format!("{place}: someone else changed it meanwhile; look at `cgrove plan` and push again")
        }
        Trouble::Code(code::NO_AUTH) => {
            format!("{place}: not authorized to write it; check zookeeper.auth and the znode's ACL")
        }
        Trouble::Code(code::INVALID_ACL) => format!("{place}: the server believes none of zookeeper.auth"),
        Trouble::Code(code::NO_NODE) => format!("{place}: what is above it does not exist; does the chroot?"),
        Trouble::Away(why) => format!("{place}: {why}; a document larger than the server's jute.maxbuffer does that"),
        e => format!("{place}: {e}"),
    }
}
