//! A document of what the kernel has: groups, and the knobs that are not as in a new group.

use std::collections::{BTreeMap, BTreeSet};

use indexmap::IndexMap;

use crate::actual::Version;
use crate::desired::{Desired, Form, Group};
use crate::ids::{Controller, ControllerSet, GroupPath, MAX_DEPTH, check_name};
use crate::knobs::{DeviceRule, Side, Value, find, parse_value};
use crate::plan::is_others;

/// One hierarchy as it is found: each group's files with their text, the parent as `/`.
#[derive(Debug)]
pub struct Surveyed {
    pub label: String,
    /// The parent is the hierarchy's root, where other managers' groups are too.
    pub at_root: bool,
    pub version: Version,
    pub controllers: ControllerSet,
    pub groups: BTreeMap<GroupPath, BTreeMap<String, String>>,
}

/// The desired tree that is there already, and what of it a document cannot say.
pub fn from_host(found: &[Surveyed], page: u64) -> (Desired, Vec<String>) {
    let mut notes = Vec::new();
    let mut groups: BTreeMap<GroupPath, Group> = BTreeMap::new();
    let mut others = BTreeSet::new();
    let mut left_out: Vec<GroupPath> = Vec::new();
    for hierarchy in found {
        for (path, files) in hierarchy.groups.iter().filter(|(p, _)| !p.is_root() && !p.is_leaf()) {
            if left_out.iter().any(|out| path.is_below(out) || path == out) {
                continue;
            }
            if hierarchy.at_root && path.depth() == 1 && is_others(path.name()) {
                others.insert(path.to_string());
                left_out.push(path.clone());
                continue;
            }
            if let Err(e) = check_name(path.name()) {
                notes.push(format!("{path}: left out with everything below: {e}"));
                left_out.push(path.clone());
                continue;
            }
            if path.depth() > MAX_DEPTH {
                notes.push(format!("{path}: left out: documents are at most {MAX_DEPTH} deep"));
                left_out.push(path.clone());
                continue;
            }
            let group = groups.entry(path.clone()).or_default();
            group.controllers = group.controllers.union(hierarchy.controllers);
            let above = path.up().and_then(|up| hierarchy.groups.get(&up));
            for (file, text) in files {
                if let Err(note) = settle(group, hierarchy.version, file, text, above, page) {
                    notes.push(format!("{path}: {note}"));
                }
            }
        }
    }
    if !others.is_empty() {
        let list = others.into_iter().collect::<Vec<_>>().join(", ");
        notes.push(format!("left out, because other managers make them: {list}"));
    }
    let held: Vec<_> = found.iter().filter(|h| h.groups.keys().any(|p| groups.contains_key(p))).collect();
    let controllers: ControllerSet = held
        .iter()
        .flat_map(|h| h.controllers.iter().map(|c| (h.version, c)))
        .filter(|(version, c)| useful(*version, *c, &groups))
        .map(|(_, c)| c)
        .collect();
    for (path, group) in &mut groups {
        let missing: Vec<_> =
            controllers.iter().filter(|c| !group.controllers.contains(*c)).map(Controller::name).collect();
        if !missing.is_empty() {
            notes.push(format!("{path}: is not in {} now; the document would make it there", missing.join(", ")));
        }
        group.controllers = controllers;
    }
    let groups: IndexMap<_, _> = groups.into_iter().collect();
    let desired = Desired {
        form: Form::ByGroup,
        groups,
        controllers,
        usage_keys: Vec::new(),
        ignore: Vec::new(),
        allow_removals: None,
        digest: String::new(),
        warnings: Vec::new(),
    };
    (desired, notes)
}

/// A v1 hierarchy that has the groups holds them on purpose. v2 has every controller: those with a knob set count, and
/// those that every document measures.
fn useful(version: Version, controller: Controller, groups: &BTreeMap<GroupPath, Group>) -> bool {
    let set =
        || groups.values().flat_map(|g| g.knobs.keys()).any(|k| find(k).is_some_and(|k| k.controller == controller));
    let measured = crate::usage::Gauge::of(controller).is_some();
    version == Version::V1 || measured || set()
}

/// Takes a file into the group's knobs if it is one, and is not as in a new group.
fn settle(
    group: &mut Group,
    version: Version,
    file: &str,
    text: &str,
    above: Option<&BTreeMap<String, String>>,
    page: u64,
) -> Result<(), String> {
    // Nothing is allowed: a list of nothing is written the other way round.
    if file == "devices.list" && text.trim().is_empty() {
        group.knobs.insert("devices.deny", Value::Rules(vec![DeviceRule::All]));
        return Ok(());
    }
    // Two of v1's device files are written only; the third shows what they made.
    let name = if file == "devices.list" { "devices.allow" } else { file };
    let Some(knob) = find(name) else { return Ok(()) };
    let native = match version {
        Version::V1 => knob.v1,
        Version::V2 => knob.v2,
    };
    let own = native == Side::Native || file == "devices.list";
    // The weight has two scales in two files, and none that counts while the group is idle.
    let alias = file == "cpu.weight.nice"
        || (matches!(file, "cpu.weight" | "cpu.shares") && group.knobs.contains_key("cpu.idle"));
    let parents = above.and_then(|files| files.get(file)).map(String::as_str);
    if !own || alias || knob.is_default(version, text, parents, page) {
        return Ok(());
    }
    let twin = match file {
        "io.weight" => "io.bfq.weight",
        "io.bfq.weight" => "io.weight",
        _ => "",
    };
    if group.knobs.contains_key(twin) {
        return Err(format!("{file} is left out: {twin} is set as well, and a document has one of them"));
    }
    if let Some(value) = knob.read(text) {
        // The kernel may show what a document may not say (a limit of 0, an odd weight).
        parse_value(knob.kind, &value.to_json(knob.kind))
            .map_err(|allowed| format!("{name} is {:?} now, which is left out; allowed is {allowed}", text.trim()))?;
        if file == "cpu.idle" {
            group.knobs.remove("cpu.weight");
            group.knobs.remove("cpu.shares");
        }
        group.knobs.insert(knob.name, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{parse, to_by_group};

    fn surveyed(label: &str, version: Version, groups: &[(&str, &[(&str, &str)])]) -> Surveyed {
        let controllers = label.split(',').filter_map(Controller::parse).collect();
        let files = |files: &[(&str, &str)]| files.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let groups = groups.iter().map(|(p, f)| (GroupPath::parse(p).unwrap(), files(f))).collect();
        Surveyed { label: label.into(), at_root: true, version, controllers, groups }
    }

    #[test]
    fn what_is_there_becomes_a_document_that_says_it_again() {
        let cpu: &[(&str, &[(&str, &str)])] = &[
            ("/", &[("cpu.shares", "1024")]),
            ("/a", &[("cpu.shares", "200\n"), ("cpu.idle", "0"), ("cpu.cfs_quota_us", "-1")]),
            ("/a/b", &[("cpu.shares", "2"), ("cpu.idle", "1")]),
            ("/system.slice", &[("cpu.shares", "7")]),
            ("/system.slice/x", &[("cpu.shares", "7")]),
            ("/odd name", &[]),
        ];
        let memory: &[(&str, &[(&str, &str)])] = &[
            ("/", &[("memory.swappiness", "60")]),
            ("/a", &[("memory.limit_in_bytes", "67108864"), ("memory.swappiness", "60")]),
        ];
        let (desired, notes) =
            from_host(&[surveyed("cpu", Version::V1, cpu), surveyed("memory", Version::V1, memory)], 4096);
        let text = serde_json::to_string(&to_by_group(&desired).0).unwrap();
        assert_eq!(
            text,
            r#"{"controllers":["cpu","memory"],"groups":{"a":{"knobs":{"cpu.shares":200,"memory.limit_in_bytes":"64M"},"groups":{"b":{"knobs":{"cpu.idle":1}}}}}}"#
        );
        assert!(parse(text.as_bytes()).is_ok());
        assert_eq!(notes.len(), 3, "{notes:?}");
        assert!(notes.iter().any(|n| n.contains("/system.slice")) && notes.iter().any(|n| n.starts_with("/odd name")));
        assert!(notes.iter().any(|n| n.starts_with("/a/b: is not in memory")));
    }
}
