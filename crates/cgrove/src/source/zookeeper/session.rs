//! A session with one server: one request at a time, pings in between, and the watch's notification. Everything that
//! arrives is bounded in size, number and time; a server that breaks the protocol loses the session.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use cgrove_config::ZooKeeper;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::hosts::{self, Host};
use super::sasl;
use super::stream;
use super::wire::{MAX_FRAME, Malformed, Op, Reader, Welcome, Writer, code, xid};
use crate::client_tls::{self, Stream};

/// No request may hang.
const OPERATION: Duration = Duration::from_secs(5);
/// To reach one server, TLS included.
const REACH: Duration = Duration::from_secs(3);
/// A long list of servers that hang is tried in several rounds.
const ROUND: Duration = Duration::from_secs(20);
/// A farewell is not waited for.
const FAREWELL: Duration = Duration::from_millis(500);
/// While one answer is waited for. A watch that we set fires once.
const NOTIFICATIONS: usize = 16;
const CHUNK: usize = 16 << 10;

/// Why a request, or a whole session, came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The server refuses this request, by its code; the session goes on.
    Code(i32),
    /// Nobody answers, or the connection is lost.
    Away(String),
    /// What the server says is not ZooKeeper's protocol, or without end.
    Hostile(String),
    /// It answers, but not to us.
    Refused(String),
}

impl From<Malformed> for Trouble {
    fn from(_: Malformed) -> Self {
        Self::Hostile("its answer is not the one to our question".into())
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "it answers with error {code}"),
            Self::Away(why) | Self::Hostile(why) | Self::Refused(why) => f.write_str(why),
        }
    }
}

/// A session that may be taken up again over another connection.
#[derive(Debug, Clone)]
pub(super) struct Ticket {
    id: i64,
    password: Bytes,
    zxid: i64,
    ends: Instant,
}

pub(super) struct Session {
    stream: Box<dyn Stream>,
    input: BytesMut,
    chroot: String,
    /// The server, for messages.
    place: String,
    xid: i32,
    /// As the server gave it, but no longer than we want to wait for a silent one.
    timeout: Duration,
    sent: Instant,
    heard: Instant,
    pinged: bool,
    /// A watch fired.
    fired: bool,
    ticket: Ticket,
    /// It is the one before, so the server knows what we have seen.
    pub(super) resumed: bool,
}

/// What ended a wait.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wake {
    Fired,
    Time,
}

impl Session {
    /// With the first server that gives a session; takes up the one before if it can. The error tells of every server.
    pub(super) async fn open(config: &ZooKeeper, before: Option<Ticket>) -> Result<Self, Trouble> {
        let all = |why: String| format!("zookeeper {}: {why}", config.hosts);
        let (mut hosts, chroot) = hosts::parse(&config.hosts, config.tls.is_some()).map_err(Trouble::Away)?;
        let tls = config
            .tls
            .as_ref()
            .map(|tls| client_tls::connector("zookeeper", tls))
            .transpose()
            .map_err(Trouble::Away)?;
        let mut proofs = Vec::new();
        for auth in &config.auth {
            let secret = auth.credential.read();
            proofs.push((&*auth.scheme, secret.map_err(|e| Trouble::Away(format!("zookeeper.auth: {e}")))?));
        }
        fastrand::shuffle(&mut hosts);
        let began = Instant::now();
        let mut before = before.filter(|ticket| ticket.ends > Instant::now());
        let (mut found, mut hostile) = (Vec::new(), true);
        for host in &hosts {
            if began.elapsed() > ROUND {
                found.push("the others are tried later".into());
                break;
            }
            // A session that has ended is followed by a new one, with the same server.
            loop {
                let taken = before.is_some();
                match Self::with(host, tls.as_ref(), config, before.clone()).await {
                    Ok(mut session) => {
                        session.chroot.clone_from(&chroot);
                        match timeout(OPERATION, session.prove(&proofs)).await {
                            Ok(Ok(())) => return Ok(session),
                            Ok(Err(e)) => {
                                hostile &= matches!(e, Trouble::Hostile(_));
                                found.push(format!("{host}: {e}"));
                            }
                            Err(_) => {
                                hostile = false;
                                found.push(format!("{host}: no answer to zookeeper.auth within 5 s"));
                            }
                        }
                        break;
                    }
                    Err(Trouble::Code(code::SESSION_EXPIRED)) if taken => before = None,
                    Err(e) => {
                        hostile &= matches!(e, Trouble::Hostile(_) | Trouble::Code(_));
                        let why = match e {
                            Trouble::Code(code::SESSION_EXPIRED) => {
                                "the session that it gives has ended already".into()
                            }
                            e => e.to_string(),
                        };
                        found.push(format!("{host}: {why}"));
                        break;
                    }
                }
            }
        }
        found.sort();
        let why = all(format!("no session ({})", found.join("; ")));
        Err(if hostile { Trouble::Hostile(why) } else { Trouble::Away(why) })
    }

    async fn with(
        host: &Host,
        tls: Option<&TlsConnector>,
        config: &ZooKeeper,
        before: Option<Ticket>,
    ) -> Result<Self, Trouble> {
        let stream = match timeout(REACH, stream::open(host, tls)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(why)) => return Err(Trouble::Away(why)),
            Err(_) => return Err(Trouble::Away("no answer within 3 s".into())),
        };
        let now = Instant::now();
        let resumed = before.is_some();
        let ticket = before.unwrap_or(Ticket { id: 0, password: Bytes::from_static(&[0; 16]), zxid: 0, ends: now });
        let millis = i32::try_from(config.session_timeout.as_millis()).unwrap_or(i32::MAX);
        let request = Writer::default().int(0).long(ticket.zxid).int(millis).long(ticket.id);
        let request = request.buffer(&ticket.password).flag(false).done();
        let mut session = Self {
            stream,
            input: BytesMut::new(),
            chroot: String::new(),
            place: host.to_string(),
            xid: 0,
            timeout: OPERATION,
            sent: now,
            heard: now,
            pinged: false,
            fired: false,
            ticket,
            resumed,
        };
        let greeting = async {
            session.send(&request).await?;
            session.frame().await
        };
        let no_answer = Trouble::Away("accepts connections but gave no session within 5 s".into());
        let mut answer = Reader(timeout(OPERATION, greeting).await.map_err(|_| no_answer)?.map_err(|e| match e {
            Trouble::Away(why) => Trouble::Away(format!("accepts connections but gave no session: {why}")),
            e => e,
        })?);
        let odd = |_| Trouble::Hostile("its greeting is not ZooKeeper's".into());
        let welcome = Welcome::read(&mut answer).map_err(odd)?;
        if welcome.session == 0 || welcome.timeout == 0 {
            return Err(Trouble::Code(code::SESSION_EXPIRED));
        }
        let given = Duration::from_millis(welcome.timeout.unsigned_abs().into());
        session.timeout = given.min(config.session_timeout).max(Duration::from_secs(1));
        session.ticket.id = welcome.session;
        session.ticket.password = welcome.password;
        session.ticket.ends = Instant::now() + given;
        Ok(session)
    }

    /// SASL first, then what `addauth` would send.
    async fn prove(&mut self, proofs: &[(&str, String)]) -> Result<(), Trouble> {
        let refused = |e| match e {
            Trouble::Code(code::AUTH_FAILED | code::SASL_NEEDED | code::NO_AUTH) => {
                Trouble::Away("it refuses our credentials; check zookeeper.auth".into())
            }
            e => e,
        };
        for (_, secret) in proofs.iter().filter(|(scheme, _)| *scheme == "sasl") {
            let (user, password) = secret
                .split_once(':')
                .ok_or_else(|| Trouble::Away("zookeeper.auth: the credential of sasl is user:password".into()))?;
            let token = |token: &[u8]| Writer::default().buffer(token);
            let challenge = self.call(Op::Sasl, token(b"")).await.map_err(refused)?.buffer()?;
            let response =
                sasl::respond(&challenge, user, password).map_err(|why| Trouble::Hostile(format!("SASL: {why}")))?;
            let answer = self.call(Op::Sasl, token(response.text.as_bytes())).await.map_err(refused)?.buffer()?;
            if answer != response.proof.as_bytes() {
                return Err(Trouble::Hostile("SASL: it does not know the password itself".into()));
            }
        }
        for (scheme, secret) in proofs.iter().filter(|(scheme, _)| *scheme != "sasl") {
            let request = Writer::default().int(0).text(scheme).text(secret);
            self.exchange(xid::AUTH, Op::Auth, request).await.map_err(refused)?;
        }
        Ok(())
    }

    /// The session, as far as another connection may take it up.
    pub(super) fn ticket(&self) -> Ticket {
        self.ticket.clone()
    }

    /// A path as the server has it.
    pub(super) fn full(&self, path: &str) -> String {
        match (self.chroot.as_str(), path) {
            ("", path) => path.to_owned(),
            (chroot, "/") => chroot.to_owned(),
            (chroot, path) => format!("{chroot}{path}"),
        }
    }

    /// One request and its reply.
    pub(super) async fn call(&mut self, op: Op, body: Writer) -> Result<Reader, Trouble> {
        self.xid = if self.xid == i32::MAX { 1 } else { self.xid + 1 };
        let ended = timeout(OPERATION, self.exchange(self.xid, op, body)).await;
        ended.unwrap_or_else(|_| Err(Trouble::Away(format!("{} gave no answer within 5 s", self.place))))
    }

    async fn exchange(&mut self, number: i32, op: Op, body: Writer) -> Result<Reader, Trouble> {
        let head = Writer::default().int(number).int(op as i32).done();
        self.send(&[head, body.done()].concat()).await?;
        for _ in 0..NOTIFICATIONS {
            let frame = self.frame().await?;
            let (from, zxid, error, body) = self.taken(frame)?;
            if from != number {
                self.aside(from, body)?;
                continue;
            }
            self.ticket.zxid = self.ticket.zxid.max(zxid);
            return match error {
                0 => Ok(body),
                code::SESSION_EXPIRED => Err(Trouble::Away(format!("{} ended the session", self.place))),
                code => Err(Trouble::Code(code)),
            };
        }
        Err(Trouble::Hostile(format!("{} sends notifications without end", self.place)))
    }

    /// Waits for the watch, for so long at most; pings meanwhile. Dropping it loses nothing that was read.
    pub(super) async fn wait(&mut self, most: Duration) -> Result<Wake, Trouble> {
        let until = Instant::now() + most;
        while !std::mem::take(&mut self.fired) {
            let ping = if self.pinged { until } else { self.sent.max(self.heard) + self.timeout / 3 };
            let lost = self.sent + self.timeout / 2;
            let next = if self.pinged { until.min(lost) } else { until.min(ping) };
            let frame = tokio::select! {
                biased;
                frame = self.frame() => Some(frame?),
                () = tokio::time::sleep_until(next) => None,
            };
            let now = Instant::now();
            match frame {
                Some(frame) => {
                    let (from, _, _, body) = self.taken(frame)?;
                    self.aside(from, body)?;
                }
                None if self.pinged && now >= lost => {
                    return Err(Trouble::Away(format!("{} does not answer to pings", self.place)));
                }
                None if now >= until => return Ok(Wake::Time),
                None => {
                    let ping = Writer::default().int(xid::PING).int(Op::Ping as i32).done();
                    let sent = timeout(OPERATION, self.send(&ping)).await;
                    sent.unwrap_or_else(|_| Err(Trouble::Away(format!("{} takes nothing", self.place))))?;
                    self.pinged = true;
                }
            }
        }
        Ok(Wake::Fired)
    }

    /// Ends the session, so that the server need not keep it.
    pub(super) async fn close(mut self) {
        let farewell = self.exchange(self.xid.saturating_add(1), Op::Close, Writer::default());
        let _ = timeout(FAREWELL, farewell).await;
    }

    /// The head of a reply.
    fn taken(&mut self, frame: Bytes) -> Result<(i32, i64, i32, Reader), Trouble> {
        self.heard = Instant::now();
        self.ticket.ends = self.ticket.ends.max(self.heard + self.timeout);
        let mut body = Reader(frame);
        Ok((body.int()?, body.long()?, body.int()?, body))
    }

    /// What comes beside replies.
    fn aside(&mut self, from: i32, mut body: Reader) -> Result<(), Trouble> {
        match from {
            xid::NOTIFICATION => {
                let (_kind, _state, _path) = (body.int()?, body.int()?, body.text()?);
                self.fired = true;
                Ok(())
            }
            xid::PING if std::mem::take(&mut self.pinged) => Ok(()),
            _ => Err(Trouble::Hostile(format!("{} answers what was not asked", self.place))),
        }
    }

    async fn send(&mut self, body: &[u8]) -> Result<(), Trouble> {
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
        let lost = |e: std::io::Error| Trouble::Away(format!("connection lost: {e}"));
        self.stream.write_all(&[&length, body].concat()).await.map_err(lost)?;
        self.stream.flush().await.map_err(lost)?;
        self.sent = Instant::now();
        Ok(())
    }

    /// The next frame. Cancel-safe. Memory is taken as bytes come, not as they are announced.
    async fn frame(&mut self) -> Result<Bytes, Trouble> {
        loop {
            if let Some((head, rest)) = self.input.split_first_chunk::<4>() {
                let length = i32::from_be_bytes(*head);
                let length = usize::try_from(length).ok().filter(|n| *n <= MAX_FRAME).ok_or_else(|| {
                    Trouble::Hostile(format!(
                        "{} announces an answer of {length} bytes; at most {MAX_FRAME} are read, and a document has at most 1 MiB",
                        self.place
                    ))
                })?;
                if rest.len() >= length {
                    self.input.advance(4);
                    return Ok(self.input.split_to(length).freeze());
                }
            }
            self.input.reserve(CHUNK);
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) => return Err(Trouble::Away(format!("connection lost: {} closed it", self.place))),
                Ok(_) => {}
                Err(e) => return Err(Trouble::Away(format!("connection lost: {}: {e}", self.place))),
            }
        }
    }
}
