//! Desired tree back to a document, in either form, saying what the other form cannot say.

use std::collections::HashMap;

use crate::desired::{Desired, Form, Group};
use crate::ids::{Controller, GroupPath};
use crate::json::Json;
use crate::knobs::find;
use crate::rules::Criteria;

type Entries = Vec<(String, Json)>;

/// The by-group form, and what changes its meaning on the way.
pub fn to_by_group(desired: &Desired) -> (Json, Vec<String>) {
    let mut changes = Vec::new();
    let names = desired.controllers.iter().filter(|c| !matches!(c, Controller::Cpuacct | Controller::Core));
    let controllers = names.map(|c| Json::String(c.name().into())).collect();
    if desired.form == Form::ByController {
        for (path, group) in &desired.groups {
            let missing: Vec<_> =
                desired.controllers.iter().filter(|c| !group.controllers.contains(*c)).map(Controller::name).collect();
            if !missing.is_empty() {
                changes.push(format!("{path}: will also be made in {}", missing.join(", ")));
            }
        }
        if desired.usage_keys.iter().any(|(key, _)| key == "blkio") {
            changes.push("usage replies name blkio as io".into());
        }
    }
    let tree = Tree::new(desired);
    let groups = children(&tree, &GroupPath::root(), &|path, group| by_group_entries(&tree, path, group));
    let mut top = vec![("controllers".into(), Json::Array(controllers)), ("groups".into(), Json::Object(groups))];
    if !desired.ignore.is_empty() {
        top.push(("ignore".into(), Json::Array(desired.ignore.iter().map(Criteria::to_json).collect())));
    }
    if let Some(digest) = &desired.allow_removals {
        top.push(("allow_removals".into(), Json::String(digest.clone())));
    }
    (Json::Object(top), changes)
}

fn by_group_entries(tree: &Tree, path: &GroupPath, group: &Group) -> Json {
    let mut entries: Entries = Vec::new();
    let knobs: Entries = group
        .knobs
        .iter()
        .filter_map(|(name, value)| Some(((*name).to_owned(), value.to_json(find(name)?.kind))))
        .collect();
    if !knobs.is_empty() {
        entries.push(("knobs".into(), Json::Object(knobs)));
    }
    if !group.files.is_empty() {
        let files = group.files.iter().map(|(name, text)| (name.clone(), Json::String(text.clone())));
        entries.push(("files".into(), Json::Object(files.collect())));
    }
    if !group.pid_files.is_empty() {
        entries.push(("pid_files".into(), Json::Array(group.pid_files.iter().cloned().map(Json::String).collect())));
    }
    if !group.processes.is_empty() {
        entries.push(("processes".into(), Json::Array(group.processes.iter().map(Criteria::to_json).collect())));
    }
    if group.allow_reclaim {
        entries.push(("allow_reclaim".into(), Json::Bool(true)));
    }
    let below = children(tree, path, &|path, group| by_group_entries(tree, path, group));
    if !below.is_empty() {
        entries.push(("groups".into(), Json::Object(below)));
    }
    Json::Object(entries)
}

/// cgrouparch's form, and what it cannot say.
pub fn to_by_controller(desired: &Desired) -> (Json, Vec<String>) {
    let mut changes = Vec::new();
    if desired.form == Form::ByGroup && desired.controllers.contains(Controller::Io) {
        changes.push("usage replies name io as blkio".into());
    }
    for (path, group) in &desired.groups {
        if !group.pid_files.is_empty() {
            changes.push(format!("{path}: pid_files are left out; put them under [tasks.pid_files] in cgrove.toml"));
        }
        if !group.processes.is_empty() {
            changes.push(format!("{path}: processes are left out; put them under [[tasks.rules]] in cgrove.toml"));
        }
        if !group.files.is_empty() {
            changes.push(format!("{path}: files are left out; this form has typed knobs only"));
        }
        if group.allow_reclaim {
            changes.push(format!("{path}: allow_reclaim is left out"));
        }
        for name in group.knobs.keys().filter(|k| find(k).is_some_and(|k| k.controller == Controller::Core)) {
            changes.push(format!("{path}: {name} is left out; this form has controllers' knobs only"));
        }
        let cpu = group.knobs.keys().filter(|k| find(k).is_some_and(|k| k.controller == Controller::Cpu));
        let mut cpu = cpu.peekable();
        if cpu.peek().is_some() && !cpu.any(|k| super::by_controller::WEIGHTS.contains(k)) {
            changes.push(format!("{path}: cpu.shares becomes 1024, which this form implies"));
        }
    }
    if !desired.ignore.is_empty() {
        changes.push("ignore is left out; put it under [[tasks.rules]] in cgrove.toml".into());
    }
    let mut top: Entries = Vec::new();
    let tree = Tree::new(desired);
    for controller in desired.controllers.iter() {
        let implied = controller == Controller::Cpuacct && desired.controllers.contains(Controller::Cpu);
        if !implied && controller != Controller::Core {
            let groups = conf_children(&tree, controller, &GroupPath::root());
            top.push((controller.v1_name().into(), Json::Object(vec![("sub_cgroup".into(), Json::Object(groups))])));
        }
    }
    if let Some(digest) = &desired.allow_removals {
        top.push(("allow_removals".into(), Json::String(digest.clone())));
    }
    (Json::Object(top), changes)
}

fn conf(tree: &Tree, controller: Controller, path: &GroupPath, group: &Group) -> Json {
    let mut entries: Entries = Vec::new();
    let knobs: Entries = group
        .knobs
        .iter()
        .filter_map(|(name, value)| {
            let knob = find(name).filter(|k| k.controller == controller)?;
            let short = match *name {
                "cpu.shares" => "share",
                "blkio.weight" => "weight",
                other => other,
            };
            Some((short.to_owned(), value.to_json(knob.kind)))
        })
        .collect();
    if !knobs.is_empty() {
        entries.push(("conf".into(), Json::Object(knobs)));
    }
    let below = conf_children(tree, controller, path);
    if !below.is_empty() {
        entries.push(("sub_cgroup".into(), Json::Object(below)));
    }
    Json::Object(entries)
}

fn conf_children(tree: &Tree, controller: Controller, parent: &GroupPath) -> Entries {
    let below = tree.below.get(parent).into_iter().flatten().filter(|(_, g)| g.controllers.contains(controller));
    below.map(|(path, group)| (path.name().to_owned(), conf(tree, controller, path, group))).collect()
}

/// The groups directly below `parent`, written; found by the map, since documents may have 50,000 of them.
fn children(tree: &Tree, parent: &GroupPath, write: &dyn Fn(&GroupPath, &Group) -> Json) -> Entries {
    let below = tree.below.get(parent).into_iter().flatten();
    below.map(|(path, group)| (path.name().to_owned(), write(path, group))).collect()
}

/// A desired tree with its groups by parent, in document order.
struct Tree<'a> {
    below: HashMap<GroupPath, Vec<(&'a GroupPath, &'a Group)>>,
}

impl<'a> Tree<'a> {
    fn new(desired: &'a Desired) -> Self {
        let mut below: HashMap<GroupPath, Vec<_>> = HashMap::new();
        for (path, group) in &desired.groups {
            below.entry(path.up().unwrap_or_else(GroupPath::root)).or_default().push((path, group));
        }
        Self { below }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::document::parse;

    fn text(json: &Json) -> String {
        serde_json::to_string_pretty(json).unwrap()
    }

    const RICH: &str = r#"{"controllers": ["cpu", "cpuset", "memory", "io", "pids", "freezer"], "groups": {
        "b": {"knobs": {"cpu.weight": 800, "cpu.max": "50000 100000", "memory.max": "12.5%", "memory.low": "1G", "pids.max": "max",
              "io.max": {"8:0": {"rbps": 104857600, "wiops": "max"}}, "cpuset.cpus": "0-3,8", "freezer.state": "FROZEN"},
              "files": {"memory.high": "5"}, "pid_files": ["/run/x.pid"], "processes": [{"user": "www", "exe": "/usr/*"}], "allow_reclaim": true,
              "groups": {"c": {"knobs": {"cpu.idle": 1, "blkio.throttle.read_bps_device": {"8:0": "max"}}}}},
        "a": {}}, "ignore": [{"unit": "x.service"}], "allow_removals": "0123456789abcdef"}"#;

    #[test]
    fn the_by_group_form_survives_writing() {
        let desired = parse(RICH.as_bytes()).unwrap();
        let (json, changes) = to_by_group(&desired);
        assert!(changes.is_empty());
        let again = parse(text(&json).as_bytes()).unwrap();
        assert_eq!(
            (again.groups, again.controllers, again.ignore),
            (desired.groups, desired.controllers, desired.ignore)
        );
    }

    #[test]
    fn the_forms_convert_and_say_what_is_lost() {
        let desired = parse(RICH.as_bytes()).unwrap();
        let (json, changes) = to_by_controller(&desired);
        assert_eq!(changes.len(), 6, "{changes:?}");
        let again = parse(text(&json).as_bytes()).unwrap();
        for (path, group) in &desired.groups {
            assert_eq!(again.groups[path].knobs, group.knobs, "{path}");
        }
        let legacy =
            parse(br#"{"cpu": {"sub_cgroup": {"a": {"conf": {"share": 5}}}}, "blkio": {"sub_cgroup": {"b": {}}}}"#)
                .unwrap();
        let (json, changes) = to_by_group(&legacy);
        assert_eq!(changes.len(), 3, "{changes:?}");
        assert_eq!(parse(text(&json).as_bytes()).unwrap().groups[0].knobs, legacy.groups[0].knobs);
        // A group is written only under the controllers that hold it.
        assert_eq!(parse(text(&to_by_controller(&legacy).0).as_bytes()).unwrap().groups, legacy.groups);
    }

    proptest! {
        #[test]
        fn legacy_documents_survive_there_and_back(shares in proptest::collection::vec(2i64..=262_144, 1..8)) {
            let groups: Vec<_> = shares.iter().enumerate().map(|(i, s)| format!("\"g{i}\":{{\"conf\":{{\"share\":{s}}}}}")).collect();
            let desired = parse(format!("{{\"cpu\":{{\"sub_cgroup\":{{{}}}}}}}", groups.join(",")).as_bytes()).unwrap();
            let by_group = parse(text(&to_by_group(&desired).0).as_bytes()).unwrap();
            let back = parse(text(&to_by_controller(&by_group).0).as_bytes()).unwrap();
            prop_assert_eq!(&back.groups, &desired.groups);
            let same = parse(text(&to_by_controller(&desired).0).as_bytes()).unwrap();
            prop_assert_eq!(&same.groups, &desired.groups);
        }
    }
}
