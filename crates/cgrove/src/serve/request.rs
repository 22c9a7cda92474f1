//! Requests and replies. Stored bytes are spliced into replies, never parsed, unless a subtree is asked for.

use std::collections::BTreeMap;

use bytes::Bytes;
use cgrove_core::document::nearest;
use cgrove_core::ids::GroupPath;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::Library;
use crate::config::Roles;

const COMMANDS: [&str; 4] = ["show_account", "get_conf", "get_status", "list_groups"];

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
    const SHAPE: &str = r#"a request is {"cmd": "show_account", "args": {"nr_slot": 2}}"#;
    let request: Value = serde_json::from_str(message).map_err(|e| format!("not JSON: {e}; {SHAPE}"))?;
    let cmd = match request.get("cmd") {
        Some(Value::String(cmd)) => cmd,
        _ => return Err(format!("no \"cmd\"; {SHAPE}")),
    };
    let empty = Map::new();
    let args = match request.get("args") {
        None | Some(Value::Null) => &empty,
        Some(Value::Object(args)) => args,
        Some(_) => return Err(format!("\"args\" is not an object; {SHAPE}")),
    };
    match cmd.as_str() {
        "show_account" | "list_groups" if !roles.usage => Err(lacks("usage")),
        "get_conf" | "get_status" if !roles.conf => Err(lacks("conf")),
        "show_account" => show_account(library, args).await,
        "get_conf" => get_conf(library),
        "get_status" => {
            Ok(vec![Bytes::from(serde_json::to_vec(&library.board.snapshot()).map_err(|e| e.to_string())?)])
        }
        "list_groups" => list_groups(library, args),
        _ => {
            let hint = nearest(cmd, COMMANDS.into_iter()).map(|n| format!("; did you mean {n}")).unwrap_or_default();
            Err(format!("unknown cmd {cmd:?}{hint}. Known: {}", COMMANDS.join(", ")))
        }
    }
}

/// What a client is told whose token or certificate does not open this.
pub(super) fn lacks(role: &str) -> String {
    format!("this needs the role {role:?}, which the token or certificate of this client does not have")
}

/// Slots of a range, both ends included; slots without data are left out.
async fn show_account(library: &Library, args: &Map<String, Value>) -> Result<Pieces, String> {
    let keep = library.config.usage.keep.as_secs();
    let newest = library.ring.newest();
    let end = match number(args, "end_slot")? {
        Some(end) => end,
        None => newest.unwrap_or_else(crate::status::now),
    };
    let start = match (number(args, "start_slot")?, number(args, "nr_slot")?) {
        (Some(start), _) => start,
        (None, nr) => (end + 1).saturating_sub(nr.unwrap_or(10)),
    };
    // Nothing older than usage.keep, nor newer than now, is stored anywhere: a wide range costs nothing.
    let now = newest.unwrap_or_else(crate::status::now).max(crate::status::now());
    let (start, end) = (start.max((now + 1).saturating_sub(keep)), end.min(now));
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
    if let Some(group) = group_arg(args)? {
        let _turn = library.wide.acquire().await;
        let cut = |(slot, bytes): (u64, Bytes)| Some((slot, narrow(&bytes, &group)?));
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

/// A slot number or count: a whole number that is not negative.
fn number(args: &Map<String, Value>, name: &str) -> Result<Option<u64>, String> {
    match args.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().filter(|n| *n < 1 << 53) {
            Some(n) => Ok(Some(n)),
            None => Err(format!("args.{name} is {value}: must be a whole number, 0 or more")),
        },
    }
}

fn group_arg(args: &Map<String, Value>) -> Result<Option<GroupPath>, String> {
    match args.get("group") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(path)) => GroupPath::parse(path).map(Some).map_err(|e| format!("args.group: {e}")),
        Some(value) => Err(format!("args.group is {value}: must be a path such as \"/clients/vm-1\"")),
    }
}

/// The subtree of one group under each controller that has it.
fn narrow(bytes: &[u8], group: &GroupPath) -> Option<Bytes> {
    type Node<'a> = BTreeMap<&'a str, &'a RawValue>;
    let slot: Node = serde_json::from_slice(bytes).ok()?;
    let mut out: BTreeMap<&str, &RawValue> = BTreeMap::new();
    for (controller, mut raw) in slot {
        let found = group.components().try_for_each(|name| {
            let node: Node = serde_json::from_str(raw.get()).ok()?;
            let children: Node = serde_json::from_str(node.get("sub_cgroup")?.get()).ok()?;
            raw = children.get(name)?;
            Some(())
        });
        if found.is_some() {
            out.insert(controller, raw);
        }
    }
    if out.is_empty() {
        return None;
    }
    serde_json::to_vec(&out).ok().map(Bytes::from)
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

fn list_groups(library: &Library, args: &Map<String, Value>) -> Result<Pieces, String> {
    let below = group_arg(args)?;
    let document = library.document.borrow().clone();
    let counts = library.board.snapshot().tasks.groups;
    let groups: Vec<Value> = document
        .iter()
        .flat_map(|d| &d.desired.groups)
        .filter(|(path, _)| below.as_ref().is_none_or(|b| *path == b || path.is_below(b)))
        .map(|(path, group)| {
            let controllers: Vec<_> = group.controllers.iter().map(|c| c.name()).collect();
            let processes = counts.get(path.as_str()).copied().unwrap_or(0);
            json!({ "path": path.as_str(), "controllers": controllers, "processes": processes })
        })
        .collect();
    Ok(vec![Bytes::from(json!({ "groups": groups }).to_string())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subtree_is_cut_out_of_stored_bytes() {
        let slot = br#"{"cpu":{"value":{},"sub_cgroup":{"a":{"value":{"usage":1},"sub_cgroup":{"b":{"value":{"usage":2}}}}}},"blkio":{"value":{}}}"#;
        let cut =
            |path: &str| String::from_utf8(narrow(slot, &GroupPath::parse(path).unwrap()).unwrap().to_vec()).unwrap();
        assert_eq!(cut("/a/b"), r#"{"cpu":{"value":{"usage":2}}}"#);
        assert!(narrow(slot, &GroupPath::parse("/x").unwrap()).is_none());
        assert!(narrow(b"poison", &GroupPath::root()).is_none());
    }

    #[test]
    fn numbers_are_strict() {
        let Value::Object(args) = json!({"a": 5, "b": -1, "c": "5", "d": 1.5, "e": null, "f": 1e300}) else { panic!() };
        assert_eq!((number(&args, "a"), number(&args, "e"), number(&args, "z")), (Ok(Some(5)), Ok(None), Ok(None)));
        for bad in ["b", "c", "d", "f"] {
            assert!(number(&args, bad).unwrap_err().contains("whole number"), "{bad}");
        }
    }
}
