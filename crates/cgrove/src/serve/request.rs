//! Requests and replies. Stored bytes are spliced into replies, never parsed, unless a subtree is asked for.

use bytes::Bytes;
use cgrove_core::ids::GroupPath;
use cgrove_core::request::{Request, Slots};
use cgrove_core::usage::narrow;
use serde_json::{Value, json};

use super::Library;
use cgrove_config::Roles;

/// Most bytes that one request may bring in from Redis.
const LARGEST: usize = 128 << 20;

/// A reply in pieces, sent one after the other as one JSON text.
pub(super) type Pieces = Vec<Bytes>;

/// Answers one request. Whatever is wrong becomes `{"error": ...}`.
pub(super) async fn answer(library: &Library, roles: Roles, message: &str) -> Pieces {
    match dispatch(library, roles, message).await {
        Ok(pieces) => pieces,
        Err(error) => vec![Bytes::from(json!({ "error": error }).to_string())],
    }
}

async fn dispatch(library: &Library, roles: Roles, message: &str) -> Result<Pieces, String> {
    match Request::parse(message)? {
        Request::ShowAccount { .. } | Request::ListGroups { .. } if !roles.usage => Err(lacks("usage")),
        Request::GetConf | Request::GetStatus if !roles.conf => Err(lacks("conf")),
        Request::ShowAccount { slots, group } => show_account(library, slots, group).await,
        Request::GetConf => get_conf(library),
        Request::GetStatus => {
            Ok(vec![Bytes::from(serde_json::to_vec(&library.board.snapshot()).map_err(|e| e.to_string())?)])
        }
        Request::ListGroups { group } => Ok(list_groups(library, group.as_ref())),
    }
}

/// What a client is told whose token or certificate does not open this.
pub(super) fn lacks(role: &str) -> String {
    format!("this needs the role {role:?}, which the token or certificate of this client does not have")
}

/// Slots of a range, both ends included; slots without data are left out.
async fn show_account(library: &Library, slots: Slots, group: Option<GroupPath>) -> Result<Pieces, String> {
    let keep = library.config.usage.keep.as_secs();
    let (start, end) = slots.within(library.ring.newest(), crate::status::now(), keep);
    let mut slots = library.ring.range(start, end);
    if let Some(redis) = &library.redis {
        let missing: Vec<u64> = (start..=end).filter(|slot| !slots.contains_key(slot)).collect();
        if !missing.is_empty() {
            let _turn = library.wide.acquire().await;
            let found = redis.fetch(&missing, LARGEST).await;
            slots.extend(
                found.ok_or_else(|| {
                    format!("more than {} MiB from Redis: ask for fewer slots at a time", LARGEST >> 20)
                })?,
            );
        }
    }
    if let Some(group) = group {
        let _turn = library.wide.acquire().await;
        let cut = |(slot, bytes): (u64, Bytes)| Some((slot, Bytes::from(narrow(&bytes, &group)?)));
        slots = tokio::task::block_in_place(|| slots.into_iter().filter_map(cut).collect());
    }
    let mut pieces = Vec::with_capacity(slots.len() * 2 + 1);
    let mut head = String::from("{");
    for (slot, bytes) in slots {
        head.push_str(&format!("\"{slot}\":"));
        pieces.push(Bytes::from(std::mem::take(&mut head)));
        pieces.push(bytes);
        head.push(',');
    }
    pieces.push(Bytes::from_static(if pieces.is_empty() { b"{}" } else { b"}" }));
    Ok(pieces)
}

/// The document in force with its own version; its text is spliced in.
fn get_conf(library: &Library) -> Result<Pieces, String> {
    let document = library.document.borrow().clone();
    let document = document.ok_or_else(|| {
        let status = library.board.snapshot();
        let why = status
            .refused
            .map(|r| r.error)
            .or(status.source.error)
            .unwrap_or_else(|| "the source has not answered yet".into());
        format!("no document is in force: {why}")
    })?;
    let head = Bytes::from(format!("{{\"version\":{},\"value\":", document.version));
    Ok(vec![head, document.bytes.clone(), Bytes::from_static(b"}")])
}

fn list_groups(library: &Library, below: Option<&GroupPath>) -> Pieces {
    let document = library.document.borrow().clone();
    let counts = library.board.snapshot().tasks.groups;
    let groups: Vec<Value> = document
        .iter()
        .flat_map(|d| &d.desired.groups)
        .filter(|(path, _)| below.is_none_or(|b| *path == b || path.is_below(b)))
        .map(|(path, group)| {
            let controllers: Vec<_> = group.controllers.iter().map(|c| c.name()).collect();
            let processes = counts.get(path.as_str()).copied().unwrap_or(0);
            json!({ "path": path.as_str(), "controllers": controllers, "processes": processes })
        })
        .collect();
    vec![Bytes::from(json!({ "groups": groups }).to_string())]
}
