//! One port for everything, plain or TLS, and a unix socket: the live page and the WebSocket on `/`, `/api/v1/`, `/healthz`,
//! `/readyz`, `/metrics`. Read-only.

mod access;
mod api;
mod connection;
mod crowd;
mod dropped;
mod fair;
mod group;
mod metrics;
mod page;
mod patient;
mod peer;
mod pieces;
mod port;
mod problem;
mod refusals;
mod request;
mod slots;
mod socket;
mod subscriptions;
mod tls;
mod tokens;

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{Either, Full, StreamBody};
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
    WWW_AUTHENTICATE,
};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use access::Refusal;
use connection::Count;
pub(crate) use connection::run;
use crowd::Crowd;
use dropped::{Dropped, Why};
use fair::Fair;
use peer::Peer;
use port::Ends;
pub(crate) use port::{For, GROUP as SOCKET_GROUP, Listener, Port, Short};
pub(crate) use tls::Certificates;
pub(crate) use tokens::Tokens;

use crate::source::Document;
use crate::status::Board;
use crate::store::redis::Redis;
use crate::store::ring::Ring;
use cgrove_config::{Config, Roles};

/// Replies under way to all clients together, in KiB.
const IN_FLIGHT: usize = 64 << 10;
/// Wide questions at a time; one peer's are one fewer.
const WIDE: usize = 3;
/// Wide questions, or pages of metrics, of one peer that wait.
const MOST_WAITING: usize = 256;
/// Questions at a time that memory answers; one peer's are half of them. Each client has one.
const BRIEF: usize = 4;
/// Pages of metrics at a time; one peer's are one fewer.
const METRICS: usize = 2;

/// A reply in pieces, sent one after the other as one JSON text.
type Pieces = Vec<Bytes>;

/// What requests are answered from.
pub(crate) struct Library {
    pub(crate) config: Arc<Config>,
    pub(crate) board: Arc<Board>,
    pub(crate) ring: Arc<Ring>,
    pub(crate) redis: Option<Redis>,
    pub(crate) document: watch::Receiver<Option<Arc<Document>>>,
    /// KiB of replies under way.
    in_flight: Arc<Fair>,
    /// Wide questions, asked of Redis or cut to a subtree, wait for each other.
    wide: Arc<Fair>,
    /// What memory answers does not wait for them,
    brief: Arc<Fair>,
    /// nor do metrics.
    metrics: Arc<Fair>,
    /// Who is connected.
    pub(crate) crowd: Arc<Crowd>,
    dropped: Dropped,
    /// What subscribers see, made once for all of them.
    newest: slots::Newest,
    now: subscriptions::StatusNow,
    /// Ends every client when the daemon stops or starts anew.
    pub(crate) gone: CancellationToken,
    proof: Proof,
    refusals: refusals::Refusals,
}

/// What tells clients from strangers, read from files before anything starts.
#[derive(Clone, Default)]
pub(crate) struct Proof {
    tokens: Arc<Tokens>,
    certificates: Option<Arc<Certificates>>,
}

impl Proof {
    pub(crate) fn read(config: &Config) -> Result<Self, String> {
        let certificates = config.server.tls.as_ref().map(Certificates::read).transpose()?;
        Ok(Self { tokens: Arc::new(Tokens::read(config)?), certificates: certificates.map(Arc::new) })
    }
}

impl Library {
    pub(crate) fn new(
        config: Arc<Config>,
        board: Arc<Board>,
        ring: Arc<Ring>,
        redis: Option<Redis>,
        document: watch::Receiver<Option<Arc<Document>>>,
        proof: Proof,
    ) -> Self {
        let crowd = Crowd::new(config.server.max_connections);
        Self {
            config,
            board,
            ring,
            redis,
            document,
            in_flight: Fair::new(IN_FLIGHT, usize::MAX),
            wide: Fair::new(WIDE, MOST_WAITING),
            brief: Fair::new(BRIEF, usize::MAX),
            metrics: Fair::new(METRICS, MOST_WAITING),
            crowd,
            dropped: Dropped::default(),
            newest: slots::Newest::default(),
            now: subscriptions::StatusNow::default(),
            gone: CancellationToken::new(),
            proof,
            refusals: refusals::Refusals::default(),
        }
    }

    fn dropped(&self, peer: Peer, why: Why) {
        self.dropped.one_more(&self.board, peer, why);
    }
}

/// What a peer is told that asks too much at a time.
const BUSY: &str = "too many questions of this client wait already: ask again later";

/// What they are told who come when all places are taken.
const FULL: &str = "all places are taken (server.max_connections): only /healthz, /readyz and /metrics are answered\n";

type Body = Either<Full<Bytes>, StreamBody<api::Stream>>;
type Reply = Response<Body>;

async fn route(mut request: Request<Incoming>, ends: Ends, library: Arc<Library>, count: Arc<Count>) -> Reply {
    let admitted =
        access::admit(&library.config, &library.proof.tokens, &ends, request.uri().path(), request.headers());
    let roles = match admitted {
        Ok(roles) => roles,
        Err(refusal) => return refuse(&library, &ends, &refusal),
    };
    if count.member.limited && !access::is_about_health(request.uri().path()) {
        library.board.update(|s| s.server.refused_total += 1);
        library.dropped(ends.whose, Why::Full);
        return text(StatusCode::SERVICE_UNAVAILABLE, FULL.into());
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET: no request changes anything\n".into());
    }
    match request.uri().path() {
        "/" | "/ws" if access::wants_websocket(request.headers()) => upgrade(&mut request, ends, library, count, roles),
        "/ws" => text(StatusCode::UPGRADE_REQUIRED, "this is for WebSocket clients; the page is /\n".into()),
        "/healthz" => match &library.board.pulses.stalled()[..] {
            [] => text(StatusCode::OK, "ok\n".into()),
            stalled => text(StatusCode::SERVICE_UNAVAILABLE, format!("no progress: {}\n", stalled.join(", "))),
        },
        "/readyz" => {
            let status = library.board.snapshot();
            let code = if status.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            text(code, readiness(&status, roles))
        }
        "/metrics" if !roles.usage => text(StatusCode::FORBIDDEN, format!("{}\n", request::lacks("usage"))),
        "/metrics" => {
            let Some(_turn) = library.metrics.take(ends.whose, 1).await else {
                return text(StatusCode::SERVICE_UNAVAILABLE, format!("{BUSY}\n"));
            };
            let page = tokio::task::block_in_place(|| metrics::render(&library));
            let (kind, page) = if access::wants_openmetrics(request.headers()) {
                ("application/openmetrics-text; version=1.0.0; charset=utf-8", page)
            } else {
                ("text/plain; version=0.0.4; charset=utf-8", metrics::classic(&page))
            };
            let mut reply = Response::new(api::whole(library.clone(), ends.whose, vec![Bytes::from(page)]));
            reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            reply
        }
        path => match path.strip_prefix("/api/v1/") {
            Some(question) => api::answer(library.clone(), ends.whose, roles, question, request.uri().query()).await,
            None => page::file(path).unwrap_or_else(|| {
                let here = "here are / (page and WebSocket), /api/v1/show_account and others, /healthz, /readyz and /metrics\n";
                text(StatusCode::NOT_FOUND, here.into())
            }),
        },
    }
}

/// A client of this node is told why; a stranger only that, and after too many times not even that.
fn refuse(library: &Library, ends: &Ends, refusal: &Refusal) -> Reply {
    library.board.update(|s| s.server.refused_total += 1);
    let answered = library.refusals.one_more(ends.ip(), refusal.why());
    let close = HeaderValue::from_static("close");
    if !answered {
        let mut reply = Response::new(Body::Left(Full::default()));
        *reply.status_mut() = StatusCode::TOO_MANY_REQUESTS;
        reply.headers_mut().insert(CONNECTION, close);
        return reply;
    }
    let (code, hint) = match refusal {
        Refusal::Unknown(_) => (StatusCode::UNAUTHORIZED, "authentication is needed"),
        Refusal::Never(_) => (StatusCode::FORBIDDEN, "forbidden"),
    };
    let why = if ends.is_local() { refusal.why() } else { hint };
    let mut reply = text(code, format!("{why}\n"));
    if code == StatusCode::UNAUTHORIZED {
        let ask = HeaderValue::from_static("Basic realm=\"cgrove: any name, and a token as the password\"");
        reply.headers_mut().insert(WWW_AUTHENTICATE, ask);
    }
    reply.headers_mut().insert(CONNECTION, close);
    reply
}

/// Why not is told to those who may read the status.
fn readiness(status: &crate::status::Status, roles: Roles) -> String {
    if status.ready {
        return "ready\n".into();
    }
    if !roles.conf {
        return "not ready\n".into();
    }
    let mut why = Vec::new();
    if !status.source.connected {
        why.push(format!("source not connected: {}", status.source.error.as_deref().unwrap_or("not yet")));
    }
    if status.document.is_none() {
        why.push("no document is in force".into());
    } else if status.plan.rounds == 0 {
        why.push("the tree is not applied yet".into());
    }
    format!("not ready: {}\n", cgrove_core::text::shown(&why.join("; ")))
}

/// RFC 6455's handshake; the socket's task starts when the client has read it.
fn upgrade(
    request: &mut Request<Incoming>,
    ends: Ends,
    library: Arc<Library>,
    count: Arc<Count>,
    roles: Roles,
) -> Reply {
    let headers = request.headers();
    let version = headers.get(SEC_WEBSOCKET_VERSION).is_some_and(|v| v == "13");
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY).filter(|_| version).cloned() else {
        return text(
            StatusCode::BAD_REQUEST,
            "a WebSocket handshake has Sec-WebSocket-Version: 13 and a Sec-WebSocket-Key\n".into(),
        );
    };
    let upgraded = hyper::upgrade::on(request);
    tokio::spawn(async move {
        match upgraded.await {
            Ok(stream) => socket::run(TokioIo::new(stream), library, ends, roles, &count.member).await,
            Err(e) => debug!(peer = %ends, "upgrade: {e}"),
        }
    });
    let accept = derive_accept_key(key.as_bytes());
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_ACCEPT, accept)
        .body(Body::Left(Full::default()));
    response.unwrap_or_else(|e| {
        warn!("handshake: {e}");
        Response::new(Body::Left(Full::default()))
    })
}

fn text(status: StatusCode, body: String) -> Reply {
    respond(status, "text/plain; charset=utf-8", body)
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Reply {
    let mut response = Response::new(Body::Left(Full::new(Bytes::from(body))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
