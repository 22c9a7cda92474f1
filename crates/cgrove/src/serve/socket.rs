//! One WebSocket client: a request, a reply, until it leaves. A slow reader is dropped, a large reply is streamed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use tracing::debug;

use super::{Library, request};

/// Longest request.
const LARGEST: usize = 64 << 10;
/// A reply is sent in frames of about this size, so that 300 slots of a large tree need no copy of their own.
const FRAME: usize = 256 << 10;
/// A client that takes no frame for so long is dropped.
const SLOW: Duration = Duration::from_secs(10);

pub(super) async fn run(stream: impl AsyncRead + AsyncWrite + Unpin, library: Arc<Library>, peer: SocketAddr) {
    let config = WebSocketConfig::default()
        .read_buffer_size(8 << 10)
        .write_buffer_size(0)
        .max_write_buffer_size(2 * FRAME + (64 << 10))
        .max_message_size(Some(LARGEST))
        .max_frame_size(Some(LARGEST));
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    while let Some(message) = socket.next().await {
        let pieces = match message {
            Ok(Message::Text(text)) => {
                library.board.update(|s| s.server.requests_total += 1);
                request::answer(&library, &text).await
            }
            Ok(Message::Binary(_)) => {
                vec![Bytes::from_static(br#"{"error":"requests are text messages, not binary ones"}"#)]
            }
            Ok(Message::Close(_)) => break,
            Ok(_) => continue,
            Err(Error::Capacity(_)) => {
                let close = CloseFrame { code: CloseCode::Size, reason: "a request has at most 64 KiB".into() };
                let _ = tokio::time::timeout(SLOW, socket.close(Some(close))).await;
                break;
            }
            Err(e) => {
                debug!(%peer, "websocket: {e}");
                break;
            }
        };
        if let Err(why) = send(&mut socket, pieces, &library).await {
            debug!(%peer, "websocket: {why}");
            break;
        }
    }
}

/// Sends the pieces as one text message. Together, all clients' replies under way stay within a bound.
async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    pieces: Vec<Bytes>,
    library: &Library,
) -> Result<(), String> {
    let mut frames = Frames { pieces: pieces.into_iter().peekable() };
    let mut first = true;
    while let Some(payload) = frames.next() {
        let kib = u32::try_from(payload.len() / 1024 + 1).unwrap_or(u32::MAX);
        let _permit = library.in_flight.acquire_many(kib.min(1024)).await.map_err(|e| e.to_string())?;
        let last = frames.pieces.peek().is_none();
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

/// Joins small pieces into frames; a piece that is large already goes as it is.
struct Frames {
    pieces: std::iter::Peekable<std::vec::IntoIter<Bytes>>,
}

impl Iterator for Frames {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let first = self.pieces.next()?;
        if first.len() >= FRAME || self.pieces.peek().is_none() {
            return Some(first);
        }
        let mut joined = BytesMut::from(first);
        while let Some(more) = self.pieces.next_if(|p| joined.len() + p.len() <= FRAME) {
            joined.extend_from_slice(&more);
        }
        Some(joined.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_lose_nothing_and_stay_small() {
        for size in [1, 1000, 100_000, 300_000] {
            let pieces: Vec<Bytes> = (0..20u8).map(|i| Bytes::from(vec![i; size])).collect();
            let whole: Vec<u8> = pieces.concat();
            let frames: Vec<Bytes> = Frames { pieces: pieces.into_iter().peekable() }.collect();
            assert_eq!(frames.concat(), whole);
            assert!(frames.iter().all(|f| f.len() <= FRAME.max(size)));
        }
    }
}
