//! Between the client library and the servers. The library connects to a port of loopback, and again whenever it likes; the
//! relay reaches the servers, one after the other and with pauses, speaks TLS to them, and passes on what [`Guard`] lets pass.
//! The port takes connections of this process only, and is held until the library is done with it: who had it then would
//! be given the credentials.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use zookeeper_client::StateWatcher;

use super::Trouble;
use super::backoff::{Backoff, spread};
use super::guard::{Guard, LONGEST, MAX_FRAME};
use super::hosts::Host;
use super::own;
use crate::client_tls::Stream;

/// To reach one server, TLS included.
const REACH: Duration = Duration::from_secs(3);
/// A frame that has begun comes to its end, or what was written is taken.
const FRAME: Duration = Duration::from_secs(4);
/// For the library to come, once a server is there; it pauses between its attempts itself.
const LATE: Duration = Duration::from_secs(5);
/// For its first request then.
const SPEAKS: Duration = Duration::from_secs(1);
/// For the farewell to a server.
const FAREWELL: Duration = Duration::from_millis(500);
/// A long list of servers that hang is tried in several rounds.
pub(super) const ROUND: Duration = Duration::from_secs(20);
/// Between looks at who connects, while strangers do.
const STRANGERS: Duration = Duration::from_millis(50);
/// More than the library goes on by itself, which is 7/5 of the session's time.
const ALONE: u32 = 2;
const CHUNK: usize = 16 << 10;

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

/// How a connection ended; the reasons stand behind the server's name.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The library closed its end.
    Left,
    Away(String),
    Hostile(String),
}

/// Passes frames both ways until one side ends, or breaks the protocol.
async fn pass(client: impl AsyncRead + AsyncWrite, server: impl AsyncRead + AsyncWrite, guard: &mut Guard) -> End {
    let ((from_client, mut to_client), (from_server, mut to_server)) =
        (tokio::io::split(client), tokio::io::split(server));
    let guard = Mutex::new(guard);
    let guard = || guard.lock().unwrap_or_else(PoisonError::into_inner);
    let up = async {
        let mut frames = Frames::new(from_client);
        loop {
            let Ok(frame) = frames.next().await else { return End::Left };
            guard().request(frame.get(4..).unwrap_or_default());
            if let Err(why) = written(&mut to_server, &frame).await {
                return End::Away(why);
            }
        }
    };
    let down = async {
        let mut frames = Frames::new(from_server);
        loop {
            let frame = match frames.next().await {
                Ok(frame) => frame,
                Err(end) => return end,
            };
            let passes = guard().reply(frame.get(4..).unwrap_or_default());
            if let Err(why) = passes {
                return End::Hostile(why);
            }
            if written(&mut to_client, &frame).await.is_err() {
                return End::Left;
            }
        }
    };
    // Who asks too much is heard before who has left because of it.
    tokio::select! {
        biased;
        end = down => end,
        end = up => end,
    }
}

async fn written(to: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> Result<(), String> {
    let writing = async {
        to.write_all(frame).await?;
        to.flush().await
    };
    match timeout(FRAME, writing).await {
        Ok(done) => done.map_err(|e| e.to_string()),
        Err(_) => Err("it takes nothing".into()),
    }
}

/// Reads frames, each with its length. Memory is taken as bytes come, not as they are announced.
struct Frames<R> {
    from: R,
    input: BytesMut,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    fn new(from: R) -> Self {
        Self { from, input: BytesMut::new() }
    }

    async fn next(&mut self) -> Result<Bytes, End> {
        let mut until = Instant::now() + FRAME;
        loop {
            if let Some(head) = self.input.first_chunk::<4>() {
                let length = i32::from_be_bytes(*head);
                let length = usize::try_from(length).ok().filter(|n| *n <= MAX_FRAME).ok_or_else(|| {
                    End::Hostile(format!("announces an answer of {length} bytes; at most {MAX_FRAME} are read, and a document has at most 1 MiB"))
                })?;
                if self.input.len() >= length + 4 {
                    return Ok(self.input.split_to(length + 4).freeze());
                }
            }
            self.input.reserve(CHUNK);
            let half = !self.input.is_empty();
            let reading = self.from.read_buf(&mut self.input);
            let read = match half {
                true => timeout_at(until, reading).await.map_err(|_| End::Away("sends half an answer".into()))?,
                false => {
                    let read = reading.await;
                    until = Instant::now() + FRAME;
                    read
                }
            };
            match read {
                Ok(0) => return Err(End::Away("it closed the connection".into())),
                Ok(_) => {}
                Err(e) => return Err(End::Away(e.to_string())),
            }
        }
    }
}

/// Where the library connects to: the newest connection counts, and none of strangers.
struct Port {
    listener: TcpListener,
    here: SocketAddrV4,
    /// Not looked at yet.
    came: Vec<(TcpStream, SocketAddr)>,
    waiting: Option<TcpStream>,
}

impl Port {
    async fn open() -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        match listener.local_addr()? {
            SocketAddr::V4(here) => Ok(Self { listener, here, came: Vec::new(), waiting: None }),
            SocketAddr::V6(_) => Err(std::io::ErrorKind::AddrNotAvailable.into()),
        }
    }

    /// Takes who comes while something else goes on.
    async fn beside<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = std::pin::pin!(other);
        loop {
            tokio::select! {
                done = &mut other => return done,
                () = self.take() => {}
            }
        }
    }

    /// The library's connection, one that it has not given up.
    async fn client(&mut self) -> TcpStream {
        loop {
            if let Some(client) = self.waiting.take() {
                // It speaks first.
                if timeout(SPEAKS, client.peek(&mut [0])).await.is_ok_and(|peeked| peeked.is_ok_and(|n| n > 0)) {
                    return client;
                }
            }
            self.take().await;
        }
    }

    /// Waits for connections, and keeps the newest of our own. Cancel-safe: who came is looked at the next time.
    async fn take(&mut self) {
        if self.came.is_empty() {
            match self.listener.accept().await {
                Ok(one) => self.came.push(one),
                Err(_) => return sleep(STRANGERS).await,
            }
        }
        while self.came.len() < 128
            && let Ok(Ok(one)) = timeout(Duration::ZERO, self.listener.accept()).await
        {
            self.came.push(one);
        }
        let peers: Vec<SocketAddr> = self.came.iter().map(|(_, peer)| *peer).collect();
        let here = self.here;
        let ours = match tokio::task::spawn_blocking(move || own::ours(here, &peers)).await {
            Ok(Ok(ours)) => ours,
            Ok(Err(e)) => {
                tracing::warn!("who connects to the relay to ZooKeeper cannot be told from /proc/self: {e}");
                Vec::new()
            }
            Err(_) => Vec::new(),
        };
        let strangers = ours.len() < self.came.len() || ours.contains(&false);
        let mine = self.came.drain(..).zip(ours).filter(|(_, ours)| *ours).map(|((client, _), _)| client);
        if let Some(client) = mine.last() {
            let _ = client.set_nodelay(true);
            self.waiting = Some(client);
        }
        if strangers {
            sleep(STRANGERS).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::DuplexStream;

    fn frame(body: &[u8]) -> Vec<u8> {
        [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat()
    }

    fn ints(numbers: &[i32]) -> Vec<u8> {
        numbers.iter().flat_map(|n| n.to_be_bytes()).collect()
    }

    fn greeting() -> Vec<u8> {
        frame(&[ints(&[0, 6000, 0, 7, 16]), vec![0; 17]].concat())
    }

    /// A library's end and a server's, with a relay in between that ends with its guard's opinion.
    fn between() -> (DuplexStream, DuplexStream, impl Future<Output = (End, bool)>) {
        let ((library, client), (server, far)) = (tokio::io::duplex(1 << 16), tokio::io::duplex(1 << 16));
        let passing = async move {
            let mut guard = Guard::new("/a");
            (pass(client, server, &mut guard).await, guard.answered)
        };
        (library, far, passing)
    }

    #[tokio::test(start_paused = true)]
    async fn frames_pass_whole_or_not_at_all() {
        let (mut library, mut server, passing) = between();
        let talk = async move {
            let asked = frame(&ints(&[1, 9, 0]));
            let connect = frame(&[0; 45]);
            library.write_all(&[connect.clone(), asked.clone()].concat()).await.unwrap();
            let mut heard = vec![0; connect.len() + asked.len()];
            server.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, [connect, asked].concat());
            let answer = frame(&ints(&[1, 0, 9, 0, 0]));
            for part in [greeting(), answer.clone()].concat().chunks(7) {
                server.write_all(part).await.unwrap();
            }
            let mut heard = vec![0; greeting().len() + answer.len()];
            library.read_exact(&mut heard).await.unwrap();
            // Half a frame.
            server.write_all(&answer[..9]).await.unwrap();
            let mut rest = Vec::new();
            library.read_to_end(&mut rest).await.unwrap();
            assert!(rest.is_empty());
            drop(server);
        };
        let began = Instant::now();
        let ((end, answered), ()) = tokio::join!(passing, talk);
        assert_eq!((end, answered), (End::Away("sends half an answer".into()), true));
        assert_eq!(began.elapsed().as_secs(), FRAME.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn what_breaks_the_protocol_ends_the_connection() {
        for bad in [
            i32::MAX.to_be_bytes().to_vec(),
            ints(&[-1]),
            ints(&[0]),
            frame(&[0; 36]),
            [greeting(), frame(&ints(&[5, 0, 9, 0]))].concat(),
            [greeting(), vec![0; 1 << 20]].concat(),
        ] {
            let (mut library, mut server, passing) = between();
            let talk = async {
                library.write_all(&frame(&[0; 44])).await.unwrap();
                let _ = server.write_all(&bad).await;
                let mut rest = Vec::new();
                library.read_to_end(&mut rest).await.unwrap();
                assert!(rest.len() <= greeting().len());
            };
            let ((end, answered), ()) = tokio::join!(passing, talk);
            assert!(matches!(end, End::Hostile(_)) && !answered, "{end:?}");
        }
    }

    #[tokio::test]
    async fn the_port_is_for_this_process() {
        let mut port = Port::open().await.unwrap();
        let at =
            format!("exec 3<>/dev/tcp/127.0.0.1/{}; echo x >&3; read -t 9 -u 3 word; echo $?$word", port.here.port());
        let stranger =
            tokio::task::spawn_blocking(move || std::process::Command::new("bash").args(["-c", &at]).output());
        let stranger = timeout(Duration::from_secs(20), port.beside(stranger)).await.unwrap().unwrap().unwrap();
        // The end of the connection, and not a word; or it was reset.
        assert_eq!(stranger.stdout, b"1\n");
        assert!(port.waiting.is_none());
        let mut mine = TcpStream::connect(port.here).await.unwrap();
        mine.write_all(b"x").await.unwrap();
        let client = timeout(Duration::from_secs(20), port.client()).await.unwrap();
        assert_eq!(client.peer_addr().unwrap(), mine.local_addr().unwrap());
    }

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
        let servers = Servers { hosts: vec![host], tls: None, watched: "/a".into(), session_timeout: FRAME };
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
                sleep(STRANGERS).await
            }
        })
        .await
        .unwrap();
    }
}
