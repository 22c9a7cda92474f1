//! The znode `{prefix}/arch_conf`: read, watched, read again on every reconnect, and written by `cgrove push`.
//! A supervisor outlives session expiry, server restarts and bad names; it never gives up.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tracing::debug;
use zookeeper_client::{Acl, Acls, Client, CreateMode, Error, Permission, SaslOptions, SessionState};
use zookeeper_client::{TlsCa, TlsCerts, TlsIdentity, TlsOptions};

use super::{Fetched, News};
use cgrove_config::{ClientTls, Secret, ZooKeeper};

/// One-shot watches survive reconnects; this catches whatever they might miss.
const REREAD: Duration = Duration::from_secs(30);
/// Without permission to read no watch can be set, so we ask.
const RETRY_REFUSED: Duration = Duration::from_secs(2);
/// No watch tells of an ACL either: about how long after its mend a document that was refused for it is taken.
const RETRY_EXPOSED: Duration = Duration::from_secs(5);
/// While disconnected, operations queue; none may hang.
const OPERATION: Duration = Duration::from_secs(5);
/// Between sessions, about: see [`spread`].
const BACKOFF: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(300), Duration::from_millis(700), Duration::from_millis(1500)];

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
    let mut attempt = 0;
    while !news.is_closed() {
        let error = match connect(&config).await {
            Ok(client) => session(&client, &config, &news, &mut attempt).await,
            Err(e) => e,
        };
        if news.send(News::Away(error)).await.is_err() {
            return;
        }
        tokio::time::sleep(spread(BACKOFF[attempt.min(BACKOFF.len() - 1)])).await;
        attempt += 1;
    }
}

/// Half to one and a half of it: what happens to a whole cluster at once must not be answered by all nodes at once, nor
/// again and again.
fn spread(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64())
}

/// Connects once, with authentication. The error says what the client library hides.
pub(crate) async fn connect(config: &ZooKeeper) -> Result<Client, String> {
    let mut connector = Client::connector()
        .with_fail_eagerly()
        .with_session_timeout(config.session_timeout)
        .with_connection_timeout(Duration::from_secs(3));
    for auth in &config.auth {
        let credential = auth.credential.read().map_err(|e| format!("zookeeper.auth: {e}"))?;
        connector = match (auth.scheme.as_str(), credential.split_once(':')) {
            ("sasl", Some((user, password))) => {
                connector.with_sasl(SaslOptions::digest_md5(user.to_owned(), password.to_owned()))
            }
            ("sasl", None) => return Err("zookeeper.auth: the credential of sasl is user:password".into()),
            (scheme, _) => connector.with_auth(scheme, credential.as_bytes()),
        };
    }
    let secure = config.tls.is_some();
    if let Some(tls) = &config.tls {
        connector = connector.with_tls(tls_options(tls)?);
    }
    let connecting = async {
        match secure {
            true => connector.secure_connect(&config.hosts).await,
            false => connector.connect(&config.hosts).await,
        }
    };
    match tokio::time::timeout(config.session_timeout + OPERATION, connecting).await {
        Ok(Ok(client)) => Ok(client),
        Ok(Err(e)) => Err(format!("zookeeper {}: {e}{}", config.hosts, diagnose(&config.hosts).await)),
        Err(_) => Err(format!("zookeeper {}: no answer{}", config.hosts, diagnose(&config.hosts).await)),
    }
}

fn tls_options(tls: &ClientTls) -> Result<TlsOptions, String> {
    let read = |setting: &str, path: &std::path::Path| {
        std::fs::read_to_string(path).map_err(|e| format!("zookeeper.{setting} {}: {e}", path.display()))
    };
    let ca = TlsCa::from_pem(&read("tls_ca", &tls.ca)?).map_err(|e| format!("zookeeper.tls_ca: {e}"))?;
    let mut certificates = TlsCerts::builder().with_ca(ca);
    if let Some((certificate, key)) = &tls.identity {
        let identity = TlsIdentity::from_pem(&read("tls_certificate", certificate)?, &read("tls_key", key)?)
            .map_err(|e| format!("zookeeper.tls_certificate: {e}"))?;
        certificates = certificates.with_identity(identity);
    }
    let certificates = certificates.build().map_err(|e| format!("zookeeper.tls_ca: {e}"))?;
    Ok(TlsOptions::new().with_certs(certificates))
}

/// The client collapses causes; name resolution and TCP tell them apart.
async fn diagnose(hosts: &str) -> String {
    let mut found = Vec::new();
    for host in hosts.split('/').next().unwrap_or_default().split(',') {
        let address = if host.contains(':') { host.to_owned() } else { format!("{host}:2181") };
        let attempt = tokio::time::timeout(Duration::from_secs(1), tokio::net::TcpStream::connect(&address)).await;
        found.push(match attempt {
            Ok(Ok(_)) => format!("{address} accepts connections but gave no session"),
            Ok(Err(e)) => format!("{address}: {e}"),
            Err(_) => format!("{address}: no answer"),
        });
    }
    format!(" ({})", found.join("; "))
}

/// Reads and watches until the session is lost; returns why.
async fn session(client: &Client, config: &ZooKeeper, news: &mpsc::Sender<News>, attempt: &mut usize) -> String {
    let path = path(config);
    // A follower that lags must not take us back to a document that was replaced already.
    let _ = within(client.sync(&path)).await;
    let credentials_in_files = config.auth.iter().any(|a| matches!(a.credential, Secret::File(_)));
    let mut state = client.state_watcher();
    loop {
        let item;
        let mut watcher = None;
        let mut pause = spread(REREAD);
        match within(client.get_and_watch_data(&path)).await {
            Ok((data, stat, armed)) => {
                let exposed = exposed(client, config, &path).await;
                if exposed.is_some() && config.require_safe_acl {
                    pause = spread(RETRY_EXPOSED);
                }
                let (bytes, version) = (Bytes::from(data), i64::from(stat.version));
                item = News::Document(Fetched { bytes, version, mzxid: Some(stat.mzxid), exposed });
                watcher = Some(armed);
                *attempt = 0;
            }
            Err(Error::NoNode) => {
                item = News::Missing(format!(
                    "znode {path} does not exist on {}; `cgrove push TREE` makes it",
                    config.hosts
                ));
                match within(client.check_and_watch_stat(&path)).await {
                    Ok((None, armed)) => watcher = Some(armed),
                    Ok((Some(_), _)) => continue, // It came into being meanwhile.
                    Err(_) => pause = RETRY_REFUSED,
                }
            }
            Err(Error::NoAuth) => {
                let how = if config.auth.is_empty() { "zookeeper.auth is empty" } else { "check zookeeper.auth" };
                let why = format!("znode {path}: not authorized to read it; {how}, and its ACL with zkCli's getAcl");
                if credentials_in_files {
                    // They may have been mended: the next connection reads them again.
                    let _ = news.send(News::Away(why.clone())).await;
                    tokio::time::sleep(RETRY_REFUSED).await;
                    return why;
                }
                item = News::Away(why);
                pause = RETRY_REFUSED;
            }
            Err(Error::ConnectionLoss | Error::Timeout) => {
                item = News::Away(format!("zookeeper {}: connection lost; reconnecting", config.hosts));
                pause = Duration::from_millis(500);
            }
            Err(e) => return format!("zookeeper {}: {e}", config.hosts),
        }
        if news.send(item).await.is_err() {
            return "stopped".into();
        }
        // A watcher's loss panics in the client library; a task of its own turns that into a wake-up.
        let mut fired = match watcher {
            Some(watcher) => tokio::spawn(async move { watcher.changed().await.session_state }),
            None => tokio::spawn(std::future::pending()),
        };
        let end = tokio::select! {
            event = &mut fired => {
                debug!("watch: {event:?}");
                match event {
                    Ok(state) if state.is_terminated() => Some(state),
                    _ => None,
                }
            }
            end = lost(&mut state, news, config) => end,
            () = tokio::time::sleep(pause) => None,
        };
        fired.abort();
        if let Some(state) = end {
            return format!("zookeeper {}: session {state:?}; starting a new one", config.hosts);
        }
    }
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
async fn lost(
    state: &mut zookeeper_client::StateWatcher,
    news: &mpsc::Sender<News>,
    config: &ZooKeeper,
) -> Option<SessionState> {
    loop {
        match state.changed().await {
            SessionState::Disconnected => {
                let _ = news.send(News::Away(format!("zookeeper {}: disconnected; reconnecting", config.hosts))).await;
            }
            SessionState::SyncConnected | SessionState::ConnectedReadOnly => {
                let _ = news.send(News::Connected).await;
                return None;
            }
            end => return Some(end),
        }
    }
}

async fn within<T>(operation: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(OPERATION, operation).await.unwrap_or(Err(Error::Timeout))
}

/// The document and its version as they are now; `None` when the znode is missing.
pub(crate) async fn read_once(config: &ZooKeeper) -> Result<Option<(Bytes, i32)>, String> {
    let client = connect(config).await?;
    match within(client.get_data(&path(config))).await {
        Ok((data, stat)) => Ok(Some((Bytes::from(data), stat.version))),
        Err(Error::NoNode) => Ok(None),
        Err(e) => Err(format!("{}: {e}", place(config))),
    }
}

/// Writes the document if its version is still `expected` (`None`: it must not exist yet). Returns the new version.
pub(crate) async fn write(config: &ZooKeeper, data: &[u8], expected: Option<i32>) -> Result<i32, String> {
    let client = connect(config).await?;
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
                    .map_err(|e| format!("{}: {e}", config.prefix))?;
            }
            within(client.create(&path, data, &options)).await.map(|(stat, _)| stat.version.max(0))
        }
    };
    result.map_err(|e| match e {
        Error::BadVersion | Error::NodeExists => {
            format!("{}: someone else changed it meanwhile; look at `cgrove plan` and push again", place(config))
        }
        Error::NoAuth => {
            format!("{}: not authorized to write it; check zookeeper.auth and the znode's ACL", place(config))
        }
        Error::ConnectionLoss => {
            format!("{}: connection lost; a document larger than the server's jute.maxbuffer does that", place(config))
        }
        e => format!("{}: {e}", place(config)),
    })
}
