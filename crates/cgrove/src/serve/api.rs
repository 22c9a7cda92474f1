//! `/api/v1/`: the WebSocket's questions as plain GETs, for curl.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use cgrove_config::Roles;
use cgrove_core::request::{Asked, Request};
use http_body_util::{Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::sync::mpsc;

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
    let (status, body) = match request::answer(&library, roles, Asked { id: None, request }).await {
        Answer::Whole(pieces) => {
            let body = Bytes::from(pieces.concat());
            // Errors are the only replies that begin so.
            let status = match (bad, body.starts_with(b"{\"error\":")) {
                (true, _) => StatusCode::BAD_REQUEST,
                (false, true) => StatusCode::SERVICE_UNAVAILABLE,
                (false, false) => StatusCode::OK,
            };
            (status, Body::Left(Full::new(body)))
        }
        Answer::Slots(mut range) => {
            let (chunks, stream) = mpsc::channel(AHEAD);
            tokio::spawn(async move {
                let gone = library.gone.clone();
                let send = async {
                    while let Some(pieces) = range.next(&library).await {
                        for piece in pieces {
                            if chunks.send(piece).await.is_err() {
                                return;
                            }
                        }
                    }
                };
                tokio::select! {
                    () = gone.cancelled() => {}
                    () = send => {}
                }
            });
            (StatusCode::OK, Body::Right(StreamBody::new(Stream(stream))))
        }
        Answer::Subscribe(_) | Answer::Unsubscribe(_) => (StatusCode::BAD_REQUEST, Body::Left(Full::default())),
    };
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

/// What comes through a channel, as a body.
pub(super) struct Stream(mpsc::Receiver<Bytes>);

impl futures_util::Stream for Stream {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|chunk| chunk.map(|bytes| Ok(Frame::data(bytes))))
    }
}
