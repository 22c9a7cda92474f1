//! `/api/v1/`: the WebSocket's questions as plain GETs, for curl.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use cgrove_config::Roles;
use cgrove_core::request::{Asked, Request};
use http_body_util::{Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::sync::mpsc;

use super::patient::SLOW;
use super::request::{self, Reply as Answer};
use super::{Body, Library, Reply};

/// Chunks of a long answer that wait for the client.
const AHEAD: usize = 1;

/// `question` is the path's last part.
pub(super) async fn answer(library: Arc<Library>, roles: Roles, question: &str, query: Option<&str>) -> Reply {
    library.board.update(|s| s.server.requests_total += 1);
    let pairs: Vec<_> = form_urlencoded::parse(query.unwrap_or_default().as_bytes()).collect();
    let request = Request::of_query(question, pairs.iter().map(|(key, value)| (key.as_ref(), value.as_ref())));
    let bad = request.is_err();
    let forbidden = request.as_ref().is_ok_and(|r| request::permitted(r, roles).is_err());
    let (status, body) = match request::answer(&library, roles, Asked { id: None, request }).await {
        Answer::Whole(pieces) => {
            let body = Bytes::from(pieces.concat());
            // Errors are the only replies that begin so.
            let status = match (bad, body.starts_with(b"{\"error\":")) {
                _ if forbidden => StatusCode::FORBIDDEN,
                (true, _) => StatusCode::BAD_REQUEST,
                (false, true) => StatusCode::SERVICE_UNAVAILABLE,
                (false, false) => StatusCode::OK,
            };
            (status, Body::Left(Full::new(body)))
        }
        Answer::Slots(mut range) => {
            let (chunks, stream) = mpsc::channel(AHEAD);
            let whole = Arc::new(AtomicBool::new(false));
            let ended = whole.clone();
            tokio::spawn(async move {
                let gone = library.gone.clone();
                let send = async {
                    while let Some(pieces) = range.next(&library).await {
                        for piece in pieces {
                            if !matches!(tokio::time::timeout(SLOW, chunks.send(piece)).await, Ok(Ok(()))) {
                                return;
                            }
                        }
                    }
                    ended.store(true, Ordering::Release);
                };
                tokio::select! {
                    () = gone.cancelled() => {}
                    () = send => {}
                }
            });
            (StatusCode::OK, Body::Right(StreamBody::new(Stream { chunks: stream, whole })))
        }
        Answer::Subscribe(_) | Answer::Unsubscribe(_) => (StatusCode::BAD_REQUEST, Body::Left(Full::default())),
    };
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

/// What comes through a channel, as a body. One that was cut short ends as an error, so that nobody takes it for whole.
pub(super) struct Stream {
    chunks: mpsc::Receiver<Bytes>,
    whole: Arc<AtomicBool>,
}

impl futures_util::Stream for Stream {
    type Item = io::Result<Frame<Bytes>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.chunks.poll_recv(context).map(|chunk| match chunk {
            Some(bytes) => Some(Ok(Frame::data(bytes))),
            None if self.whole.load(Ordering::Acquire) => None,
            None => Some(Err(io::ErrorKind::TimedOut.into())),
        })
    }
}
