//! Requests and replies, the same over WebSocket and HTTP.

use bytes::Bytes;
use cgrove_core::event::Filter;
use cgrove_core::ids::GroupPath;
use cgrove_core::request::{Asked, Request, Topic};
use cgrove_core::text::shown_json;
use serde_json::{Value, json};
use tokio::task::block_in_place;

use super::group::get_group;
use super::peer::Peer;
use super::problem::Problem;
use super::slots::{Asks, Range};
use super::{Library, Pieces};
use cgrove_config::Roles;

/// Events in a reply, unless the client says how many.
const EVENTS: usize = 100;
/// And at most.
const MOST_EVENTS: usize = 10_000;

/// What a request comes to.
pub(super) enum Reply {
    Whole(Pieces),
    /// Too long to be had at once.
    Slots(Range),
    /// Only a WebSocket can do it.
    Subscribe(Topic),
    Unsubscribe(cgrove_core::request::TopicName),
}

/// A problem as a reply; the client's mark is part of it.
pub(super) fn sorry(problem: &Problem, id: Option<&Value>) -> Reply {
    object(id, &json!({ "error": problem.text() }))
}

/// Answers one message.
pub(super) async fn answer(library: &Library, whose: Peer, roles: Roles, asked: Asked) -> Result<Reply, Problem> {
    let request = asked.request.map_err(Problem::Asked)?;
    permitted(&request, roles)?;
    dispatch(library, whose, request, asked.id.as_ref()).await
}

/// `{`, or `{"id":7,`.
fn head(id: Option<&Value>) -> Bytes {
    Bytes::from(id.map_or("{".to_owned(), |id| format!("{{\"id\":{id},")))
}

/// A JSON object that begins with the client's mark.
fn object(id: Option<&Value>, body: &Value) -> Reply {
    let mut body = shown_json(&body.to_string()).into_owned();
    Reply::Whole(vec![head(id), Bytes::from(body.split_off(1))])
}

async fn dispatch(library: &Library, whose: Peer, request: Request, id: Option<&Value>) -> Result<Reply, Problem> {
    match request {
        Request::ShowAccount { slots, view, node } => {
            let head = id.map_or("{".to_owned(), |id| format!("{{\"id\":{id}"));
            let asks = Asks { slots, view, node, whose };
            Range::new(library, asks, head).await.map(Reply::Slots).map_err(Problem::Away)
        }
        Request::GetConf => get_conf(library, id).map(Reply::Whole).map_err(Problem::Away),
        Request::GetStatus => {
            let _turn = library.brief.take(whose, 1).await;
            let status = block_in_place(|| {
                let status = serde_json::to_string(&library.board.snapshot())?;
                Ok::<_, serde_json::Error>(shown_json(&status).into_owned())
            });
            let status = status.map_err(|e| Problem::Away(e.to_string()))?;
            Ok(Reply::Whole(vec![head(id), Bytes::from(status).slice(1..)]))
        }
        Request::ListGroups { group } => {
            let _turn = library.brief.take(whose, 1).await;
            Ok(block_in_place(|| object(id, &list_groups(library, group.as_ref()))))
        }
        Request::GetGroup { group } => Ok(object(id, &get_group(library, whose, &group).await?)),
        Request::GetEvents { filter, after, nr } => {
            let most = nr.map_or(EVENTS, |n| usize::try_from(n).unwrap_or(usize::MAX));
            let _turn = library.brief.take(whose, 1).await;
            Ok(block_in_place(|| object(id, &events(library, &filter, after, most.min(MOST_EVENTS)))))
        }
        Request::Subscribe(topic) => Ok(Reply::Subscribe(topic)),
        Request::Unsubscribe(topic) => Ok(Reply::Unsubscribe(topic)),
    }
}

/// What quotes the document needs one role, what was measured the other.
fn permitted(request: &Request, roles: Roles) -> Result<(), Problem> {
    let conf = match request {
        Request::GetConf | Request::GetStatus | Request::GetGroup { .. } => true,
        Request::Subscribe(topic) => *topic == Topic::Status,
        Request::ShowAccount { .. } | Request::ListGroups { .. } | Request::GetEvents { .. } => false,
        Request::Unsubscribe(_) => return Ok(()),
    };
    match (conf, roles) {
        (true, Roles { conf: false, .. }) => Err(Problem::Forbidden(lacks("conf"))),
        (false, Roles { usage: false, .. }) => Err(Problem::Forbidden(lacks("usage"))),
        _ => Ok(()),
    }
}

/// What a client is told whose token or certificate does not open this.
pub(super) fn lacks(role: &str) -> String {
    format!("this needs the role {role:?}, which the token or certificate of this client does not have")
}

/// The document in force with its own version; its text is spliced in.
fn get_conf(library: &Library, id: Option<&Value>) -> Result<Pieces, String> {
    let document = library.document.borrow().clone();
    let document = document.ok_or_else(|| {
        let known = |s: &mut crate::status::Status| {
            s.refused.as_ref().map(|r| r.error.clone()).or_else(|| s.source.error.clone())
        };
        let why = library.board.update(known).unwrap_or_else(|| "the source has not answered yet".into());
        format!("no document is in force: {why}")
    })?;
    let version = Bytes::from(format!("\"version\":{},\"value\":", document.version));
    Ok(vec![head(id), version, document.bytes.clone(), Bytes::from_static(b"}")])
}

fn list_groups(library: &Library, below: Option<&GroupPath>) -> Value {
    let document = library.document.borrow().clone();
    let counts = library.board.update(|s| s.tasks.groups.clone());
    let groups: Vec<Value> = document
        .iter()
        .flat_map(|d| &d.desired.groups)
        .filter(|(path, _)| below.is_none_or(|b| *path == b || path.is_below(b)))
        .map(|(path, group)| {
            let controllers: Vec<_> = group.controllers.iter().map(|c| c.name()).collect();
            let processes = counts.get(path).copied().unwrap_or(0);
            json!({ "path": path.as_str(), "controllers": controllers, "processes": processes })
        })
        .collect();
    json!({ "groups": groups })
}

/// The newest events, or the first after one that is known, oldest first; and the number of the newest of all.
fn events(library: &Library, filter: &Filter, after: Option<u64>, most: usize) -> Value {
    let (events, newest) = library.board.journal.select(filter, after, most);
    let events: Vec<&cgrove_core::event::Event> = events.iter().map(AsRef::as_ref).collect();
    json!({ "newest": newest, "events": events })
}
