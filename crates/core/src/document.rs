//! Documents: text to desired tree, taken whole or refused whole.

mod by_controller;
mod by_group;
mod error;
mod schema;
mod write;

use sha2::{Digest as _, Sha256};

pub use error::{DocumentError, Place, nearest};
pub use schema::json_schema;
pub use write::{to_by_controller, to_by_group};

use crate::desired::Desired;
use crate::ids::{GroupPath, MAX_DEPTH, check_name};
use crate::json::{self, Json};
use crate::knobs::{KNOBS, Knob, Side, find, parse_value};

/// Longest document, bytes (ZooKeeper's own default limit).
pub const MAX_BYTES: usize = 1 << 20;
/// Most groups.
pub const MAX_GROUPS: usize = 50_000;

/// Parses either form. Nothing is half-taken: one error refuses the document.
pub fn parse(bytes: &[u8]) -> Result<Desired, DocumentError> {
    if bytes.len() > MAX_BYTES {
        return Err(DocumentError::whole(format!(
            "the document has {} bytes; at most {MAX_BYTES} (1 MiB) are taken",
            bytes.len()
        )));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| {
        DocumentError::whole(format!("not UTF-8: the bytes up to {} are fine, the next are not", e.valid_up_to()))
    })?;
    if text.trim().is_empty() {
        return Err(DocumentError::whole("the document is empty; an empty tree is written {\"groups\": {}}".into()));
    }
    let json = json::parse(text).map_err(|e| DocumentError::syntax(&e))?;
    let Json::Object(top) = json else {
        return Err(DocumentError::whole("the document is not a JSON object".into()));
    };
    let parsed =
        if top.iter().any(|(key, _)| key == "groups") { by_group::parse(&top) } else { by_controller::parse(&top) };
    let mut desired = parsed.map_err(|e| e.with_line(text))?;
    desired.digest = digest(bytes);
    Ok(desired)
}

/// Names a text: the first 16 hex digits of its SHA-256.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// The path of a child group, or why not.
fn child_path(at: &Place, parent: &GroupPath, name: &str, count: usize) -> Result<GroupPath, DocumentError> {
    check_name(name).map_err(|e| at.refuse(format!("{name:?}"), e.0))?;
    if parent.depth() >= MAX_DEPTH {
        return Err(at.refuse(name.into(), format!("groups may be at most {MAX_DEPTH} deep")));
    }
    if count >= MAX_GROUPS {
        return Err(at.refuse(name.into(), format!("a document may have at most {MAX_GROUPS} groups")));
    }
    parent.child(name).ok_or_else(|| at.refuse(name.into(), "not a group name".into()))
}

/// Reads one knob and its value.
fn read_knob(
    at: &Place,
    knob: &'static Knob,
    json: &Json,
) -> Result<(&'static str, crate::knobs::Value), DocumentError> {
    let value =
        parse_value(knob.kind, json).map_err(|allowed| at.refuse(json.shown(), format!("allowed is {allowed}")))?;
    Ok((knob.name, value))
}

/// Two spellings of one tunable on one group cannot both hold.
fn check_twins(at: &Place, group: &crate::desired::Group) -> Result<(), DocumentError> {
    const TWINS: [&[&str]; 12] = [
        &["cpu.weight", "cpu.shares"],
        &["cpu.max", "cpu.cfs_quota_us"],
        &["cpu.max", "cpu.cfs_period_us"],
        &["cpu.max.burst", "cpu.cfs_burst_us"],
        &["memory.max", "memory.limit_in_bytes"],
        &["memory.swap.max", "memory.memsw.limit_in_bytes"],
        &["io.weight", "io.bfq.weight", "blkio.weight", "blkio.bfq.weight"],
        &["cgroup.freeze", "freezer.state"],
        &["io.max", "blkio.throttle.read_bps_device"],
        &["io.max", "blkio.throttle.write_bps_device"],
        &["io.max", "blkio.throttle.read_iops_device"],
        &["io.max", "blkio.throttle.write_iops_device"],
    ];
    for twins in TWINS {
        let named: Vec<_> = twins.iter().filter(|k| group.knobs.contains_key(*k)).collect();
        if let [first, second, ..] = named[..] {
            return Err(at.refuse(format!("{first} and {second}"), "these are two names of one knob; keep one".into()));
        }
    }
    for file in group.files.keys() {
        let writes = |knob: &&Knob| {
            let targets = [knob.v1, knob.v2].into_iter().filter_map(|side| match side {
                Side::Files(files) => Some(files),
                _ => None,
            });
            let also = knob.name == "blkio.weight" && file == "blkio.bfq.weight";
            knob.name == file || also || targets.flatten().any(|target| target == file)
        };
        if let Some(knob) = group.knobs.keys().filter_map(|k| find(k)).find(writes) {
            return Err(at.refuse(file.clone(), format!("the knob {} sets this file as well; keep one", knob.name)));
        }
    }
    Ok(())
}

fn known_knob(name: &str) -> Option<&'static Knob> {
    find(name)
}

fn nearest_knob(name: &str) -> Option<&'static str> {
    nearest(name, KNOBS.iter().map(|k| k.name))
}
