//! A session with one server: one request at a time, pings in between, and the watch's notification. Everything that
//! arrives is bounded in size, number and time; a server that breaks the protocol loses the session.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::wire::{MAX_FRAME, Malformed, Op, Reader, Welcome, Writer, code, xid};
use crate::client_tls::Stream;

/// No request may hang.
pub(super) const OPERATION: Duration = Duration::from_secs(5);
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
    /// About when the servers forget it.
    pub(super) ends: Instant,
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
    /// Over a connection to `place`: a new one, or the one before. What it is not greeted to is an error.
    pub(super) async fn greet(
        stream: Box<dyn Stream>,
        place: String,
        chroot: String,
        most: Duration,
        before: Option<Ticket>,
    ) -> Result<Self, Trouble> {
        let now = Instant::now();
        let resumed = before.is_some();
        let ticket = before.unwrap_or(Ticket { id: 0, password: Bytes::from_static(&[0; 16]), zxid: 0, ends: now });
        let millis = i32::try_from(most.as_millis()).unwrap_or(i32::MAX);
        let request = Writer::default().int(0).long(ticket.zxid).int(millis).long(ticket.id);
        let request = request.buffer(&ticket.password).flag(false).done();
        let mut session = Self {
            stream,
            input: BytesMut::new(),
            chroot,
            place,
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
        session.timeout = given.min(most).max(Duration::from_secs(1));
        session.ticket.id = welcome.session;
        session.ticket.password = welcome.password;
        session.ticket.ends = Instant::now() + given;
        Ok(session)
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

    pub(super) async fn exchange(&mut self, number: i32, op: Op, body: Writer) -> Result<Reader, Trouble> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::DuplexStream;

    fn reply(number: i32, body: Writer) -> Vec<u8> {
        let frame = [Writer::default().int(number).long(9).int(0).done(), body.done()].concat();
        [&u32::try_from(frame.len()).unwrap().to_be_bytes()[..], &frame].concat()
    }

    async fn request(server: &mut DuplexStream) -> Vec<u8> {
        let mut frame = vec![0; server.read_u32().await.unwrap() as usize];
        server.read_exact(&mut frame).await.unwrap();
        frame
    }

    /// A session of 6 s, and its server's end.
    async fn session() -> (Session, DuplexStream) {
        let (client, mut server) = tokio::io::duplex(1 << 20);
        let welcome = Writer::default().int(0).int(6000).long(7).buffer(&[0; 16]).flag(false).done();
        server.write_u32(u32::try_from(welcome.len()).unwrap()).await.unwrap();
        server.write_all(&welcome).await.unwrap();
        let chroot = "/chroot".to_owned();
        let session = Session::greet(Box::new(client), "h:1".into(), chroot, Duration::from_secs(10), None).await;
        request(&mut server).await;
        (session.unwrap(), server)
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_pinged_and_then_left() {
        let (mut session, mut server) = session().await;
        assert_eq!(session.full("/a"), "/chroot/a");
        let began = Instant::now();
        let (end, ping) = tokio::join!(session.wait(Duration::from_secs(60)), request(&mut server));
        assert_eq!(end, Err(Trouble::Away("h:1 does not answer to pings".into())));
        assert_eq!(ping, [-2_i32, 11].map(i32::to_be_bytes).concat());
        assert_eq!(began.elapsed().as_secs(), 5);
        assert_eq!(session.ticket().id, 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_goes_on_where_it_was_cut_and_a_watch_ends_it() {
        let (mut session, mut server) = session().await;
        let event = reply(xid::NOTIFICATION, Writer::default().int(3).int(3).text("/chroot/a"));
        let (head, rest) = event.split_at(7);
        server.write_all(head).await.unwrap();
        assert!(timeout(Duration::from_millis(10), session.wait(Duration::from_secs(9))).await.is_err());
        server.write_all(rest).await.unwrap();
        assert_eq!(session.wait(Duration::from_secs(9)).await, Ok(Wake::Fired));
        server.write_all(&reply(xid::PING, Writer::default())).await.unwrap();
        assert!(matches!(session.wait(Duration::from_secs(9)).await, Err(Trouble::Hostile(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_bounded_in_size_number_and_time() {
        for (sent, hostile) in [
            (i32::MAX.to_be_bytes().to_vec(), true),
            ((-1_i32).to_be_bytes().to_vec(), true),
            (reply(2, Writer::default()), true),
            (reply(xid::NOTIFICATION, Writer::default().int(3).int(3).text("/x")).repeat(NOTIFICATIONS), true),
            (reply(1, Writer::default()), false),
            (vec![0, 0], false),
        ] {
            let (mut session, mut server) = session().await;
            server.write_all(&sent).await.unwrap();
            let began = Instant::now();
            let answer = session.call(Op::GetData, Writer::default()).await.map(drop);
            assert_eq!(matches!(answer, Err(Trouble::Hostile(_))), hostile, "{sent:?}: {answer:?}");
            assert!(began.elapsed() <= OPERATION);
            assert!(session.input.capacity() < 1 << 20);
        }
    }
}
