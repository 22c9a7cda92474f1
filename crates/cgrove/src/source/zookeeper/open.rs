//! To a session: the servers of the list, each reached, greeted, and told who we are. The error tells of every server.

use std::time::Duration;

use cgrove_config::ZooKeeper;
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::hosts::{self, Host};
use super::sasl;
use super::session::{OPERATION, Session, Ticket, Trouble};
use super::wire::{Op, Writer, code, xid};
use crate::client_tls::{self, Stream};

/// To reach one server, TLS included.
const REACH: Duration = Duration::from_secs(3);
/// A long list of servers that hang is tried in several rounds.
const ROUND: Duration = Duration::from_secs(20);

/// What the configuration and its files say, as they are now.
struct Prepared {
    hosts: Vec<Host>,
    chroot: String,
    tls: Option<TlsConnector>,
    /// Scheme and credential.
    proofs: Vec<(String, String)>,
    session_timeout: Duration,
}

/// A session with the first server that gives one; takes up the one before if it can. One that has ended is forgotten.
pub(super) async fn open(config: &ZooKeeper, before: &mut Option<Ticket>) -> Result<Session, Trouble> {
    let preparing = {
        let config = config.clone();
        spawn_blocking(move || prepare(&config))
    };
    let prepared = match timeout(OPERATION, preparing).await {
        Ok(Ok(prepared)) => prepared.map_err(Trouble::Away)?,
        _ => {
            return Err(Trouble::Away(
                "the files that zookeeper.auth and zookeeper.tls_ca name cannot be read within 5 s".into(),
            ));
        }
    };
    before.take_if(|ticket| ticket.ends < Instant::now());
    let began = Instant::now();
    let (mut found, mut hostile) = (Vec::new(), true);
    for host in &prepared.hosts {
        if began.elapsed() > ROUND {
            found.push("the others are tried later".into());
            break;
        }
        let mut result = with(host, &prepared, before.clone()).await;
        if before.is_some() && result.as_ref().is_err_and(|e| *e == Trouble::Code(code::SESSION_EXPIRED)) {
            *before = None;
            result = with(host, &prepared, None).await;
        }
        let why = match result {
            Ok(session) => return Ok(session),
            Err(Trouble::Code(code::SESSION_EXPIRED)) => "the session that it gives has ended already".into(),
            Err(e) => {
                hostile &= matches!(e, Trouble::Hostile(_));
                e.to_string()
            }
        };
        found.push(format!("{host}: {why}"));
    }
    found.sort();
    let why = format!("zookeeper {}: no session ({})", config.hosts, found.join("; "));
    Err(if hostile { Trouble::Hostile(why) } else { Trouble::Away(why) })
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
    Ok(Prepared { hosts, chroot, tls, proofs, session_timeout: config.session_timeout })
}

async fn with(host: &Host, prepared: &Prepared, before: Option<Ticket>) -> Result<Session, Trouble> {
    let stream = match timeout(REACH, reach(host, prepared.tls.as_ref())).await {
        Ok(stream) => stream.map_err(Trouble::Away)?,
        Err(_) => return Err(Trouble::Away("no answer within 3 s".into())),
    };
    let (chroot, most) = (prepared.chroot.clone(), prepared.session_timeout);
    let mut session = Session::greet(stream, host.to_string(), chroot, most, before).await?;
    match timeout(OPERATION, prove(&mut session, &prepared.proofs)).await {
        Ok(proved) => proved.map(|()| session),
        Err(_) => Err(Trouble::Away("no answer to zookeeper.auth within 5 s".into())),
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

/// SASL first, then what `addauth` would send.
async fn prove(session: &mut Session, proofs: &[(String, String)]) -> Result<(), Trouble> {
    let refused = |e| match e {
        Trouble::Code(code::AUTH_FAILED | code::SASL_NEEDED | code::NO_AUTH) => {
            Trouble::Away("it refuses our credentials; check zookeeper.auth".into())
        }
        e => e,
    };
    for (_, secret) in proofs.iter().filter(|(scheme, _)| scheme == "sasl") {
        let (user, password) = secret.split_once(':').unwrap_or((secret, ""));
        let token = |token: &[u8]| Writer::default().buffer(token);
        let challenge = session.call(Op::Sasl, token(b"")).await.map_err(refused)?.buffer()?;
        let response =
            sasl::respond(&challenge, user, password).map_err(|why| Trouble::Hostile(format!("SASL: {why}")))?;
        let answer = session.call(Op::Sasl, token(response.text.as_bytes())).await.map_err(refused)?.buffer()?;
        if answer != response.proof.as_bytes() {
            return Err(Trouble::Hostile("SASL: it does not know the password itself".into()));
        }
    }
    for (scheme, secret) in proofs.iter().filter(|(scheme, _)| scheme != "sasl") {
        let request = Writer::default().int(0).text(scheme).text(secret);
        session.exchange(xid::AUTH, Op::Auth, request).await.map_err(refused)?;
    }
    Ok(())
}
