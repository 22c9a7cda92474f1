//! One WebSocket client: a request, a reply, until it leaves. A slow reader is dropped, a large reply is streamed. Who is
//! quiet is pinged, and dropped when nothing comes back for long.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cgrove_core::request::Asked;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use tracing::debug;

use super::Library;
use super::crowd::{Member, Stage};
use super::dropped::Why;
use super::patient::{self, SLOW};
use super::peer::Peer;
use super::pieces::{self, FRAME, Frames};
use super::port::Ends;
use super::request::{self, Reply};
use super::subscriptions::{Due, Subscriptions};
use cgrove_config::Roles;

/// Longest request.
const LARGEST: usize = 64 << 10;
/// Whoever is quiet is pinged this often, or four times within `server.idle_timeout`.
const PING: Duration = Duration::from_secs(30);
/// Who has to go has this long to read why.
const HURRY: Duration = Duration::from_millis(250);

pub(super) async fn run(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    library: Arc<Library>,
    ends: Ends,
    roles: Roles,
    member: &Member,
) {
    let config = WebSocketConfig::default()
        .read_buffer_size(8 << 10)
        .write_buffer_size(0)
        .max_write_buffer_size(2 * FRAME + (64 << 10))
        .max_message_size(Some(LARGEST))
        .max_frame_size(Some(LARGEST));
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    let mut subscriptions = Subscriptions::new(library.clone());
    let mut quiet = Quiet::new(library.config.server.idle_timeout);
    let pushed_out = member.pushed_out();
    loop {
        member.is(Stage::Idle);
        let message = tokio::select! {
            () = library.gone.cancelled() => {
                return goodbye(&mut socket, CloseCode::Away, "the daemon stops or reloads: connect again").await;
            }
            () = pushed_out.cancelled() => {
                let reason = "others need its place (server.max_connections): connect again later";
                let close = goodbye(&mut socket, CloseCode::Again, reason);
                let _ = tokio::time::timeout(HURRY, close).await;
                return;
            }
            message = socket.next() => message,
            due = subscriptions.due() => {
                member.is(Stage::Busy);
                let told = tokio::select! {
                    () = pushed_out.cancelled() => break,
                    told = tell(&mut socket, &mut subscriptions, due, &library, ends.whose) => told,
                };
                if let Err(why) = told {
                    debug!(peer = %ends, "websocket: {why}");
                    break;
                }
                // Who takes news is there.
                quiet.heard();
                continue;
            }
            todo = quiet.next() => {
                let sent = match todo {
                    Quietly::Ping => tokio::time::timeout(SLOW, socket.send(Message::Ping(Bytes::new()))).await,
                    Quietly::GiveUp => {
                        library.dropped(ends.whose, Why::Silent);
                        break;
                    }
                };
                if !matches!(sent, Ok(Ok(()))) {
                    break;
                }
                continue;
            }
        };
        let Some(message) = message else { break };
        quiet.heard();
        member.is(Stage::Busy);
        let reply = match message {
            Ok(Message::Text(text)) => {
                library.board.update(|s| s.server.requests_total += 1);
                let asked = Asked::parse(&text);
                let id = asked.id.clone();
                match request::answer(&library, ends.whose, roles, asked).await {
                    Ok(Reply::Subscribe(topic)) => Reply::Whole(subscriptions.add(topic, id)),
                    Ok(Reply::Unsubscribe(topic)) => Reply::Whole(subscriptions.remove(topic, id.as_ref())),
                    Ok(reply) => reply,
                    Err(problem) => request::sorry(&problem, id.as_ref()),
                }
            }
            Ok(Message::Binary(_)) => {
                Reply::Whole(vec![Bytes::from_static(br#"{"error":"requests are text messages, not binary ones"}"#)])
            }
            Ok(Message::Close(_)) => {
                // The answer to it is queued by the library; without a flush the client sees an abnormal end.
                let _ = tokio::time::timeout(SLOW, socket.flush()).await;
                break;
            }
            Ok(_) => continue,
            Err(Error::Capacity(_)) => {
                return goodbye(&mut socket, CloseCode::Size, "a request has at most 64 KiB").await;
            }
            Err(e) => {
                debug!(peer = %ends, "websocket: {e}");
                break;
            }
        };
        let sent = tokio::select! {
            () = pushed_out.cancelled() => break,
            sent = send(&mut socket, reply, &library, ends.whose) => sent,
        };
        if let Err(why) = sent {
            debug!(peer = %ends, "websocket: {why}");
            break;
        }
    }
}

/// Says why it ends.
async fn goodbye<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    code: CloseCode,
    reason: &'static str,
) {
    let close = CloseFrame { code, reason: reason.into() };
    let _ = tokio::time::timeout(SLOW, socket.close(Some(close))).await;
}

async fn tell<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    subscriptions: &mut Subscriptions,
    due: Due,
    library: &Library,
    whose: Peer,
) -> Result<(), String> {
    for pieces in subscriptions.tell(due).await {
        send(socket, Reply::Whole(pieces), library, whose).await?;
    }
    Ok(())
}

/// Sends a reply as one text message, in parts: together, all clients' replies under way stay within a bound.
async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    reply: Reply,
    library: &Library,
    whose: Peer,
) -> Result<(), String> {
    let (pieces, mut more) = match reply {
        Reply::Whole(pieces) => (pieces, None),
        Reply::Slots(mut range) => (range.next(library).await.unwrap_or_default(), Some(range)),
        Reply::Subscribe(_) | Reply::Unsubscribe(_) => return Ok(()),
    };
    let mut frames = Frames::of(pieces);
    let mut first = true;
    while let Some(payload) = frames.next() {
        if frames.is_empty()
            && let Some(range) = &mut more
            && let Some(pieces) = range.next(library).await
        {
            frames.extend(pieces);
        }
        let last = frames.is_empty();
        let payload = tokio::select! {
            () = library.gone.cancelled() => return Err("the daemon stops or reloads".into()),
            held = pieces::held(payload, &library.in_flight, whose) => held,
        };
        let Some(payload) = payload else {
            library.dropped(whose, Why::Slow);
            return Err("too many replies under way".into());
        };
        // It counts until it is sent, not only until it was copied.
        let _kept = payload.clone();
        let opcode = OpCode::Data(if first { Data::Text } else { Data::Continue });
        let message = Message::Frame(Frame::message(payload, opcode, last));
        match tokio::time::timeout(SLOW, socket.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) if !patient::was_slow(&e) => return Err(e.to_string()),
            _ => {
                library.dropped(whose, Why::Slow);
                return Err("too slow a reader".into());
            }
        }
        first = false;
    }
    Ok(())
}

/// What to do about a client that says nothing.
#[derive(Debug, PartialEq, Eq)]
enum Quietly {
    Ping,
    GiveUp,
}

struct Quiet {
    limit: Duration,
    heard: Instant,
    ping: Interval,
}

impl Quiet {
    fn new(limit: Duration) -> Self {
        let every = PING.min(limit / 4);
        let mut ping = interval_at(Instant::now() + every, every);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { limit, heard: Instant::now(), ping }
    }

    fn heard(&mut self) {
        self.heard = Instant::now();
        self.ping.reset();
    }

    /// Cancel-safe.
    async fn next(&mut self) -> Quietly {
        self.ping.tick().await;
        if self.heard.elapsed() < self.limit { Quietly::Ping } else { Quietly::GiveUp }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_answers_stays_and_who_never_does_goes_after_long() {
        let start = Instant::now();
        let mut quiet = Quiet::new(Duration::from_secs(900));
        for _ in 0..1000 {
            assert_eq!(quiet.next().await, Quietly::Ping);
            quiet.heard();
        }
        assert_eq!(start.elapsed(), 1000 * PING);
        let silent = Instant::now();
        while quiet.next().await == Quietly::Ping {}
        assert_eq!(silent.elapsed(), Duration::from_secs(900));
        // A short limit is seen in time.
        let mut quiet = Quiet::new(Duration::from_secs(4));
        let silent = Instant::now();
        while quiet.next().await == Quietly::Ping {}
        assert_eq!(silent.elapsed(), Duration::from_secs(4));
    }
}
