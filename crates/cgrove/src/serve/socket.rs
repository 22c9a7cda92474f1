//! One WebSocket client: a request, a reply, until it leaves. A slow reader is dropped, a large reply is streamed.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cgrove_core::request::Asked;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::SemaphorePermit;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use tracing::debug;

use super::Library;
use super::patient::SLOW;
use super::port::Ends;
use super::request::{self, Reply};
use super::subscriptions::{Due, Subscriptions};
use cgrove_config::Roles;

/// Longest request.
const LARGEST: usize = 64 << 10;
/// A reply is sent in frames of about this size, so that 300 slots of a large tree need no copy of their own.
const FRAME: usize = 256 << 10;
/// Frames up to this size are sent whatever else is under way.
const SMALL: usize = 16 << 10;

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
                    Reply::Subscribe(topic) => Reply::Whole(subscriptions.add(topic, id)),
                    Reply::Unsubscribe(topic) => Reply::Whole(subscriptions.remove(topic, id.as_ref())),
                    reply => reply,
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
                let close = CloseFrame { code: CloseCode::Size, reason: "a request has at most 64 KiB".into() };
                let _ = tokio::time::timeout(SLOW, socket.close(Some(close))).await;
                break;
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

/// Sends a reply as one text message. Together, all clients' replies under way stay within a bound.
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
    let mut frames = Frames(pieces.into());
    let mut first = true;
    while let Some(payload) = frames.next() {
        if frames.0.is_empty()
            && let Some(range) = &mut more
            && let Some(pieces) = range.next(library).await
        {
            frames.0.extend(pieces);
        }
        let last = frames.0.is_empty();
        let permit = permit(&payload, library);
        let _permit = tokio::time::timeout(SLOW, permit).await.map_err(|_| "too many replies under way".to_owned())?;
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

/// Room for a large frame; small ones need none, so that nobody's status waits behind others' bulk.
async fn permit<'a>(payload: &Bytes, library: &'a Library) -> Option<SemaphorePermit<'a>> {
    if payload.len() <= SMALL {
        return None;
    }
    let kib = u32::try_from(payload.len() / 1024).unwrap_or(u32::MAX);
    library.in_flight.acquire_many(kib).await.ok()
}

/// Joins small pieces into frames and cuts large ones; a frame never has more than [`FRAME`] bytes.
struct Frames(VecDeque<Bytes>);

impl Iterator for Frames {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut first = self.0.pop_front()?;
        if first.len() > FRAME {
            let head = first.split_to(FRAME);
            self.0.push_front(first);
            return Some(head);
        }
        let fits = |joined: usize, next: Option<&Bytes>| next.is_some_and(|n| joined + n.len() <= FRAME);
        if !fits(first.len(), self.0.front()) {
            return Some(first);
        }
        let mut joined = BytesMut::from(first);
        while fits(joined.len(), self.0.front()) {
            joined.extend_from_slice(&self.0.pop_front()?);
        }
        Some(joined.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_lose_nothing_and_stay_small() {
        for size in [1, 1000, 100_000, 300_000, 2_000_000] {
            let pieces: Vec<Bytes> = (0..20u8).map(|i| Bytes::from(vec![i; size])).collect();
            let whole: Vec<u8> = pieces.concat();
            let frames: Vec<Bytes> = Frames(pieces.into()).collect();
            assert_eq!(frames.concat(), whole);
            assert!(frames.iter().all(|f| f.len() <= FRAME));
        }
    }
}
