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

use super::dropped::Why;
use super::patient::SLOW;
use super::peer::Peer;
use super::pieces::{self, Frames, SMALL};
use super::request::{self, Reply as Answer};
use super::slots::Range;
use super::{Body, Library, Pieces, Reply};

/// Chunks of a long answer that wait for the client.
const AHEAD: usize = 1;

/// `question` is the path's last part.
pub(super) async fn answer(
    library: Arc<Library>,
    whose: Peer,
    roles: Roles,
    question: &str,
    query: Option<&str>,
) -> Reply {
    library.board.update(|s| s.server.requests_total += 1);
    let pairs: Vec<_> = form_urlencoded::parse(query.unwrap_or_default().as_bytes()).collect();
    let request = Request::of_query(question, pairs.iter().map(|(key, value)| (key.as_ref(), value.as_ref())));
    let answered = request::answer(&library, whose, roles, Asked { id: None, request }).await;
    let (status, answer) = match answered {
        Ok(answer) => (StatusCode::OK, answer),
        Err(problem) => (problem.status(), request::sorry(&problem, None)),
    };
    let body = match answer {
        Answer::Whole(pieces) => whole(library, whose, pieces),
        Answer::Slots(range) => stream(library, whose, Vec::new(), Some(range)),
        Answer::Subscribe(_) | Answer::Unsubscribe(_) => Body::Left(Full::default()),
    };
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

/// A reply that is there already; a large one is sent in parts.
pub(super) fn whole(library: Arc<Library>, whose: Peer, pieces: Pieces) -> Body {
    if pieces.iter().map(Bytes::len).sum::<usize>() <= SMALL {
        return Body::Left(Full::new(Bytes::from(pieces.concat())));
    }
    stream(library, whose, pieces, None)
}

fn stream(library: Arc<Library>, whose: Peer, pieces: Pieces, mut more: Option<Range>) -> Body {
    let (chunks, stream) = mpsc::channel(AHEAD);
    let complete = Arc::new(AtomicBool::new(false));
    let ended = complete.clone();
    tokio::spawn(async move {
        let gone = library.gone.clone();
        let send = async {
            let mut parts = Frames::of(pieces);
            loop {
                for part in parts.by_ref() {
                    let Some(part) = pieces::held(part, &library.in_flight, whose).await else {
                        return library.dropped(whose, Why::Slow);
                    };
                    match tokio::time::timeout(SLOW, chunks.send(part)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) => return,
                        Err(_) => return library.dropped(whose, Why::Slow),
                    }
                }
                let next = match &mut more {
                    Some(range) => range.next(&library).await,
                    None => None,
                };
                let Some(pieces) = next else { break };
                parts.extend(pieces);
            }
            ended.store(true, Ordering::Release);
        };
        tokio::select! {
            () = gone.cancelled() => {}
            () = send => {}
        }
    });
    Body::Right(StreamBody::new(Stream { chunks: stream, whole: complete }))
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
