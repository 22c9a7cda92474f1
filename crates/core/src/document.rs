//! Documents: text to desired tree, taken whole or refused whole.

mod by_controller;
mod by_group;
mod error;
mod files;
mod from_host;
mod libcgroup;
mod schema;
pub mod signature;
mod write;

use sha2::{Digest as _, Sha256};

pub use error::{DocumentError, Place, nearest};
pub use files::{ENDLESS, is_endless};
pub use from_host::{Surveyed, from_host};
pub use libcgroup::{File as LibcgroupFile, SyntaxError, from_libcgroup};
pub use schema::json_schema;
pub use write::{to_by_controller, to_by_group};

use crate::desired::Desired;
use crate::ids::{Controller, GroupPath, MAX_DEPTH, check_name};
use crate::json::{self, Json};
use crate::knobs::{Knob, find, knobs, parse_value};

/// Longest document, bytes (ZooKeeper's own default limit).
pub const MAX_BYTES: usize = 1 << 20;
/// Most groups.
pub const MAX_GROUPS: usize = 50_000;

/// Parses either form. Nothing is half-taken: one error refuses the document.
pub fn parse(bytes: &[u8]) -> Result<Desired, DocumentError> {
    read(bytes, files::check)
}

/// Parses a document that was in force before. What this version refuses and an older one took is left out with a
/// warning: a node keeps its tree across an upgrade.
pub fn parse_kept(bytes: &[u8]) -> Result<Desired, DocumentError> {
    read(bytes, |desired| {
        files::leave_out(desired);
        Ok(())
    })
}

fn read(bytes: &[u8], check: impl Fn(&mut Desired) -> Result<(), DocumentError>) -> Result<Desired, DocumentError> {
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
    let Json::Object(mut top) = json else {
        return Err(DocumentError::whole("the document is not a JSON object".into()));
    };
    let parsed = signature::take(&mut top).and_then(|()| {
        if top.iter().any(|(key, _)| key == "groups") { by_group::parse(&top) } else { by_controller::parse(&top) }
    });
    let checked = parsed.and_then(|mut desired| check(&mut desired).map(|()| desired));
    let mut desired = checked.map_err(|e| e.with_line(text))?;
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

/// May `files` name it: a file of one controller, and no path?
fn is_raw_file(name: &str) -> bool {
    let prefix = name.split_once('.').and_then(|(prefix, _)| Controller::parse(prefix));
    prefix.is_some() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Two spellings of one tunable on one group cannot both hold.
fn check_twins(at: &Place, group: &crate::desired::Group) -> Result<(), DocumentError> {
    let set: Vec<&Knob> = group.knobs.keys().filter_map(|k| find(k)).collect();
    for (i, second) in set.iter().enumerate() {
        if let Some(first) = set[..i].iter().find(|first| are_twins(first, second)) {
            let both = format!("{} and {}", first.name, second.name);
            return Err(at.refuse(both, "these are two names of one knob; keep one".into()));
        }
    }
    for file in group.files.keys() {
        if let Some(knob) = set.iter().find(|k| k.name == file || k.targets().contains(&file.as_str())) {
            return Err(at.refuse(file.clone(), format!("the knob {} sets this file as well; keep one", knob.name)));
        }
    }
    Ok(())
}

/// Do both set the same thing? Halves of one limit, and different columns of one file, do not.
fn are_twins(a: &Knob, b: &Knob) -> bool {
    const PARTS: [&[&str]; 5] = [
        &["cpu.cfs_quota_us", "cpu.cfs_period_us"],
        &["devices.allow", "devices.deny"],
        &["blkio.weight", "blkio.weight_device"],
        &["blkio.bfq.weight", "blkio.bfq.weight_device"],
        &[
            "blkio.throttle.read_bps_device",
            "blkio.throttle.write_bps_device",
            "blkio.throttle.read_iops_device",
            "blkio.throttle.write_iops_device",
        ],
    ];
    a.controller == b.controller
        && !PARTS.iter().any(|parts| parts.contains(&a.name) && parts.contains(&b.name))
        && a.targets().iter().any(|file| b.targets().contains(file))
}

fn known_knob(name: &str) -> Option<&'static Knob> {
    find(name)
}

fn nearest_knob(name: &str) -> Option<&'static str> {
    nearest(name, knobs().map(|k| k.name))
}
