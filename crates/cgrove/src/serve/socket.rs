//! One WebSocket client: a request, a reply, until it leaves. A slow reader is dropped, a large reply is streamed.

use std::sync::Arc;

use bytes::Bytes;
use cgrove_core::request::Asked;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use tracing::debug;

use super::Library;
use super::patient::SLOW;
use super::pieces::{self, FRAME, Frames};
use super::port::Ends;
use super::request::{self, Reply};
use super::subscriptions::{Due, Subscriptions};
use cgrove_config::Roles;

/// Longest request.
const LARGEST: usize = 64 << 10;

pub(super) async fn run(stream: impl AsyncRead + AsyncWrite + Unpin, library: Arc<Library>, ends: Ends, roles: Roles) {
    let config = WebSocketConfig::default()
        .read_buffer_size(8 << 10)
        .write_buffer_size(0)
        .max_write_buffer_size(2 * FRAME + (64 << 10))
        .max_message_size(Some(LARGEST))
        .max_frame_size(Some(LARGEST));
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    let mut subscriptions = Subscriptions::new(library.clone());
    loop {
        let message = tokio::select! {
            () = library.gone.cancelled() => {
                return goodbye(&mut socket, CloseCode::Away, "the daemon stops or reloads: connect again").await;
            }
            message = socket.next() => message,
            due = subscriptions.due() => {
                if let Err(why) = tell(&mut socket, &mut subscriptions, due, &library).await {
                    debug!(peer = %ends, "websocket: {why}");
                    break;
                }
                continue;
            }
        };
        let Some(message) = message else { break };
        let reply = match message {
            Ok(Message::Text(text)) => {
                library.board.update(|s| s.server.requests_total += 1);
                let asked = Asked::parse(&text);
                let id = asked.id.clone();
                match request::answer(&library, roles, asked).await {
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
        if let Err(why) = send(&mut socket, reply, &library).await {
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
) -> Result<(), String> {
    for pieces in subscriptions.tell(due).await {
        send(socket, Reply::Whole(pieces), library).await?;
    }
    Ok(())
}

/// Sends a reply as one text message, in parts: together, all clients' replies under way stay within a bound.
async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    reply: Reply,
    library: &Library,
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
            held = pieces::held(payload, &library.in_flight) => held.ok_or("too many replies under way")?,
        };
        // It counts until it is sent, not only until it was copied.
        let _kept = payload.clone();
        let opcode = OpCode::Data(if first { Data::Text } else { Data::Continue });
        let message = Message::Frame(Frame::message(payload, opcode, last));
        tokio::time::timeout(SLOW, socket.send(message))
            .await
            .map_err(|_| "too slow a reader".to_owned())?
            .map_err(|e| e.to_string())?;
        first = false;
    }
    Ok(())
}
