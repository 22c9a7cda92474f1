//! The form that we recommend: `{"groups": {name: {"knobs": {...}, "groups": {...}}}}`; strict.

use indexmap::IndexMap;
use litemap::LiteMap;

use super::error::{DocumentError, Place};
use super::{check_twins, child_path, is_raw_file, known_knob, read_knob};
use crate::desired::{Desired, Form, Group};
use crate::ids::{Controller, ControllerSet, GroupPath};
use crate::json::Json;
use crate::knobs::knobs;
use crate::rules::Criteria;

const TOP: [&str; 4] = ["groups", "controllers", "ignore", "allow_removals"];
const GROUP: [&str; 6] = ["knobs", "files", "pid_files", "processes", "allow_reclaim", "groups"];
/// Held so that every group has usage, whatever its knobs.
const MEASURED: [Controller; 4] = [Controller::Cpu, Controller::Memory, Controller::Io, Controller::Pids];

pub(super) fn parse(top: &[(String, Json)]) -> Result<Desired, DocumentError> {
    let root = Place::default();
    let mut groups = IndexMap::new();
    let mut named: Option<ControllerSet> = None;
    let mut allow_removals = None;
    let mut ignore = Vec::new();
    for (key, value) in top {
        let here = root.down(key);
        match key.as_str() {
            "groups" => read_groups(&here, &GroupPath::root(), value, &mut groups)?,
            "controllers" => named = Some(read_controllers(&here, value)?),
            "ignore" => ignore = read_rules(&here, value)?,
            "allow_removals" => allow_removals = Some(removal_digest(&root, value)?),
            _ => return Err(root.unknown(key, "key", TOP.into_iter())),
        }
    }
    let needed = groups.values().flat_map(needed_by).collect::<ControllerSet>();
    let mut controllers = named.unwrap_or_else(|| MEASURED.into_iter().collect::<ControllerSet>().union(needed));
    if controllers.contains(Controller::Cpu) {
        controllers.insert(Controller::Cpuacct);
    }
    // No list names the files that every v2 group has.
    if needed.contains(Controller::Core) {
        controllers.insert(Controller::Core);
    }
    for group in groups.values_mut() {
        group.controllers = controllers;
    }
    let usage_keys =
        MEASURED.into_iter().filter(|c| controllers.contains(*c)).map(|c| (c.name().to_owned(), c)).collect();
    let mut warnings = Vec::new();
    for c in needed.iter().filter(|c| !controllers.contains(*c)) {
        warnings.push(format!("$.controllers: does not name {c}, so the knobs of {c} are not applied"));
    }
    Ok(Desired {
        form: Form::ByGroup,
        groups,
        controllers,
        usage_keys,
        ignore,
        allow_removals,
        digest: String::new(),
        warnings,
    })
}

fn needed_by(group: &Group) -> impl Iterator<Item = Controller> {
    let typed = group.knobs.keys().filter_map(|k| known_knob(k)).map(|k| k.controller);
    let raw = group.files.keys().filter_map(|f| Controller::parse(f.split('.').next()?));
    typed.chain(raw)
}

pub(super) fn removal_digest(root: &Place, value: &Json) -> Result<String, DocumentError> {
    match value {
        Json::String(s) if s.len() == 16 && s.bytes().all(|b| b.is_ascii_hexdigit()) => Ok(s.to_lowercase()),
        _ => Err(root.down("allow_removals").refuse(
            value.shown(),
            "the digest (16 hex digits) of the document that this one replaces, as `cgrove status` shows it; `cgrove push --approve` fills it in".into(),
        )),
    }
}

fn read_controllers(at: &Place, value: &Json) -> Result<ControllerSet, DocumentError> {
    let Json::Array(items) = value else {
        return Err(at.refuse(value.shown(), "a list of controller names, as in [\"cpu\", \"memory\"]".into()));
    };
    let mut set = ControllerSet::EMPTY;
    for (i, item) in items.iter().enumerate() {
        let controller = match item {
            Json::String(name) => Controller::parse(name),
            _ => None,
        };
        let names = || Controller::ALL.iter().map(|c| c.name()).collect::<Vec<_>>().join(", ");
        let controller = controller.ok_or_else(|| {
            at.down(&i.to_string()).refuse(item.shown(), format!("unknown controller; allowed: {}", names()))
        })?;
        set.insert(controller);
    }
    Ok(set)
}

fn read_groups(
    at: &Place,
    parent: &GroupPath,
    value: &Json,
    out: &mut IndexMap<GroupPath, Group>,
) -> Result<(), DocumentError> {
    let Json::Object(entries) = value else {
        return Err(at.refuse(value.shown(), "must be an object: group names with what they hold".into()));
    };
    for (name, body) in entries {
        let here = at.down(name);
        let path = child_path(&here, parent, name, out.len())?;
        read_group(&here, &path, body, out)?;
    }
    Ok(())
}

fn read_group(
    at: &Place,
    path: &GroupPath,
    body: &Json,
    out: &mut IndexMap<GroupPath, Group>,
) -> Result<(), DocumentError> {
    let Json::Object(entries) = body else {
        return Err(at.refuse(body.shown(), format!("a group is an object with {}", GROUP.join(", "))));
    };
    let mut group = Group::default();
    let mut children = None;
    for (key, value) in entries {
        let here = at.down(key);
        match (key.as_str(), value) {
            ("knobs", Json::Object(settings)) => {
                group.knobs = LiteMap::with_capacity(settings.len());
                for (name, json) in settings {
                    let knob = known_knob(name).ok_or_else(|| here.unknown(name, "knob", knobs().map(|k| k.name)))?;
                    let (name, value) = read_knob(&here.down(name), knob, json)?;
                    group.knobs.insert(name, value);
                }
            }
            ("files", Json::Object(files)) => {
                for (name, json) in files {
                    let (name, text) = read_file(&here.down(name), name, json)?;
                    group.files.insert(name, text);
                }
            }
            ("pid_files", Json::Array(files)) => group.pid_files = read_pid_files(&here, files)?,
            ("processes", value) => group.processes = read_rules(&here, value)?,
            ("allow_reclaim", Json::Bool(b)) => group.allow_reclaim = *b,
            ("groups", value) => children = Some((here, value)),
            ("knobs" | "files", _) => return Err(here.refuse(value.shown(), "must be an object".into())),
            ("pid_files", _) => return Err(here.refuse(value.shown(), "a list of absolute paths or globs".into())),
            ("allow_reclaim", _) => return Err(here.refuse(value.shown(), "true or false".into())),
            _ => return Err(at.unknown(key, "key", GROUP.into_iter())),
        }
    }
    check_twins(at, &group)?;
    out.insert(path.clone(), group);
    match children {
        Some((here, value)) => read_groups(&here, path, value, out),
        None => Ok(()),
    }
}

/// A raw file: any tunable's name, but none that moves processes or changes the tree.
fn read_file(at: &Place, name: &str, json: &Json) -> Result<(String, String), DocumentError> {
    if !is_raw_file(name) {
        return Err(at.refuse(
            format!("{name:?}"),
            "a controller's file, as in \"memory.high\"; `cgroup.*`, `tasks` and paths are not taken".into(),
        ));
    }
    match json {
        Json::String(text) if !text.is_empty() && text.len() <= 4096 => Ok((name.into(), text.clone())),
        Json::Number(n) => Ok((name.into(), n.to_string())),
        _ => Err(at.refuse(json.shown(), "the text to write, 1 to 4096 bytes, or a number".into())),
    }
}

fn read_rules(at: &Place, value: &Json) -> Result<Vec<Criteria>, DocumentError> {
    let Json::Array(items) = value else {
        return Err(at.refuse(value.shown(), "a list of rules, as in [{\"user\": \"www-data\"}]".into()));
    };
    let rule = |(i, item): (usize, &Json)| {
        Criteria::from_json(item)
            .map_err(|allowed| at.down(&i.to_string()).refuse(item.shown(), format!("allowed is {allowed}")))
    };
    items.iter().enumerate().map(rule).collect()
}

fn read_pid_files(at: &Place, files: &[Json]) -> Result<Vec<String>, DocumentError> {
    files
        .iter()
        .enumerate()
        .map(|(i, json)| match json {
            Json::String(s) if s.starts_with('/') && glob::Pattern::new(s).is_ok() => Ok(s.clone()),
            _ => Err(at
                .down(&i.to_string())
                .refuse(json.shown(), "an absolute path or glob, as in \"/run/qemu/*.pid\"".into())),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use crate::ids::Controller;
    use crate::knobs::Value;

    const EXAMPLE: &str = r#"{"groups": {"clients": {"knobs": {"cpu.weight": 800, "memory.max": "64G", "io.max": {"8:0": {"rbps": "100M"}}},
                                  "pid_files": ["/run/qemu/*.pid"],
                                  "groups": {"vm-1": {"knobs": {"cpuset.cpus": "0-3"}}}},
                      "grey": {"knobs": {"cpu.idle": 1}, "files": {"memory.high": "1G"}}}}"#;

    #[test]
    fn groups_are_written_once() {
        let desired = parse(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(desired.groups.len(), 3);
        assert_eq!(desired.groups[0].knobs[&"cpu.weight"], Value::Int(800));
        assert!(desired.controllers.contains(Controller::Cpuset) && desired.controllers.contains(Controller::Pids));
        assert_eq!(
            desired.usage_keys.iter().map(|(k, _)| k.as_str()).collect::<Vec<_>>(),
            ["cpu", "memory", "io", "pids"]
        );
    }

    #[test]
    fn strict_with_the_nearest_name() {
        let error = |text: &str| parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error(r#"{"groups": {"a": {"knobs": {"cpu.wieght": 1}}}}"#).contains("did you mean cpu.weight?"));
        assert!(error(r#"{"groups": {"a": {"knob": {}}}}"#).contains("$.groups.a.knob"));
        assert!(error(r#"{"groups": {}, "extra": 1}"#).contains("unknown key"));
        assert!(
            error(r#"{"groups": {"a": {"knobs": {"cpu.shares": 5, "cpu.weight": 5}}}}"#)
                .contains("two names of one knob")
        );
        assert!(
            error(r#"{"groups": {"a": {"knobs": {"cpu.weight": 5}, "files": {"cpu.shares": "5"}}}}"#)
                .contains("keep one")
        );
        assert!(
            error(r#"{"groups": {"a": {"knobs": {"io.max": {}, "blkio.throttle.read_iops_device": {}}}}}"#)
                .contains("keep one")
        );
        let both = r#"{"groups": {"a": {"knobs": {"blkio.throttle.read_bps_device": {}, "blkio.throttle.write_bps_device": {}}}}}"#;
        assert!(parse(both.as_bytes()).is_ok());
        assert!(error(r#"{"groups": {"a": {"pid_files": ["x"]}}}"#).contains("absolute"));
        assert!(
            error(r#"{"groups": {"a": {"processes": [{"user": 5}, {"exe": "x"}]}}}"#)
                .contains("$.groups.a.processes.1")
        );
        assert!(error(r#"{"groups": {}, "ignore": {}}"#).contains("list of rules"));
        assert!(error(r#"{"groups": {"a": {"files": {"cgroup.procs": "1"}}}}"#).contains("not taken"));
        assert!(error(r#"{"groups": {}, "allow_removals": true}"#).contains("16 hex digits"));
        assert!(error(r#"{"groups": {}, "controllers": [5]}"#).contains("$.controllers.0: 5: unknown controller"));
        assert!(
            error("{\"groups\": {}, \"controllers\": [\"cpu\",\n\"cpuu\"]}").starts_with("line 2: $.controllers.1")
        );
        assert!(error(r#"{"groups": {"a": {}, "a": {}}}"#).contains("duplicate key"));
    }

    #[test]
    fn depth_size_and_emptiness() {
        let nest = |n: usize| format!("{{\"groups\": {}{{}}{}}}", "{\"g\": {\"groups\": ".repeat(n), "}}".repeat(n));
        assert!(parse(nest(16).as_bytes()).is_ok());
        assert!(parse(nest(17).as_bytes()).unwrap_err().to_string().contains("at most 16 deep"));
        assert!(parse(&vec![b' '; super::super::MAX_BYTES + 1]).unwrap_err().to_string().contains("1 MiB"));
        for bad in [&b""[..], b" \n", b"[]", b"\xff", b"null"] {
            assert!(parse(bad).is_err());
        }
        assert!(parse(br#"{"groups": {}}"#).unwrap().groups.is_empty());
    }

    #[test]
    fn every_truncation_is_refused_without_a_crash() {
        for end in 0..EXAMPLE.len() {
            assert!(parse(&EXAMPLE.as_bytes()[..end]).is_err(), "{end}");
        }
    }
}
