//! cgrouparch's form: `{"cpu": {"sub_cgroup": {name: {"conf": {...}, "sub_cgroup": {...}}}}}`.

use std::collections::HashMap;

use indexmap::IndexMap;
use litemap::LiteMap;

use super::error::{DocumentError, Place};
use super::{check_twins, child_path, known_knob, nearest_knob, read_knob};
use crate::desired::{Desired, Form, Group};
use crate::ids::{Controller, ControllerSet, GroupPath};
use crate::json::Json;
use crate::knobs::{Knob, Value};

/// A document of nothing but mistakes has a hundred thousand.
const WARNINGS: usize = 100;

pub(super) fn parse(top: &[(String, Json)]) -> Result<Desired, DocumentError> {
    let mut desired = Desired {
        form: Form::ByController,
        groups: IndexMap::new(),
        controllers: ControllerSet::EMPTY,
        usage_keys: Vec::new(),
        ignore: Vec::new(),
        allow_removals: None,
        digest: String::new(),
        warnings: Vec::new(),
    };
    let root = Place::default();
    for (key, node) in top {
        if key == "allow_removals" {
            desired.allow_removals = Some(super::by_group::removal_digest(&root, node)?);
            continue;
        }
        let Some(controller) = Controller::parse(key) else {
            let names = Controller::ALL.iter().map(|c| c.v1_name()).chain(["groups"]);
            return Err(root.unknown(key, "controller", names.collect::<Vec<_>>().into_iter()));
        };
        if desired.usage_keys.iter().any(|(_, c)| *c == controller) {
            return Err(root.down(key).refuse(format!("{key:?}"), "io and blkio are one controller; keep one".into()));
        }
        desired.usage_keys.push((key.clone(), controller));
        desired.controllers.insert(controller);
        if controller == Controller::Cpu {
            desired.controllers.insert(Controller::Cpuacct);
        }
        Walk { controller, desired: &mut desired }.node(&root.down(key), &GroupPath::root(), node)?;
    }
    desired.groups = in_tree_order(desired.groups);
    for (path, group) in &desired.groups {
        check_twins(&root.down(path.as_str()), group)?;
    }
    Ok(desired)
}

/// Trees of several controllers, merged: each group directly before its descendants, siblings as they first came.
fn in_tree_order(mut groups: IndexMap<GroupPath, Group>) -> IndexMap<GroupPath, Group> {
    let mut below: HashMap<GroupPath, Vec<GroupPath>> = HashMap::new();
    for path in groups.keys() {
        below.entry(path.up().unwrap_or_else(GroupPath::root)).or_default().push(path.clone());
    }
    let mut out = IndexMap::with_capacity(groups.len());
    let mut todo = vec![GroupPath::root()];
    while let Some(path) = todo.pop() {
        if let Some(group) = groups.swap_remove(&path) {
            out.insert(path.clone(), group);
        }
        todo.extend(below.remove(&path).unwrap_or_default().into_iter().rev());
    }
    out
}

/// Who sets one of these needs no implied share.
pub(super) const WEIGHTS: [&str; 4] = ["cpu.shares", "cpu.weight", "cpu.weight.nice", "cpu.idle"];

struct Walk<'a> {
    controller: Controller,
    desired: &'a mut Desired,
}

impl Walk<'_> {
    fn node(&mut self, at: &Place, path: &GroupPath, node: &Json) -> Result<(), DocumentError> {
        let Json::Object(entries) = node else {
            return Err(
                at.refuse(node.shown(), "a group is an object with optional \"conf\" and \"sub_cgroup\"".into())
            );
        };
        for (key, value) in entries {
            let here = at.down(key);
            match (key.as_str(), value) {
                ("conf", Json::Null) => {}
                ("conf", Json::Object(_)) if path.is_root() => {
                    self.warn(&here, || {
                        "ignored: the controller's own node is the parent, which cgrove does not tune".into()
                    });
                }
                ("conf", Json::Object(conf)) => self.conf(&here, path, conf)?,
                ("sub_cgroup", Json::Null) => {}
                ("sub_cgroup", Json::Object(children)) => {
                    for (name, child) in children {
                        let place = here.down(name);
                        let below = child_path(&place, path, name, self.desired.groups.len())?;
                        let group = self.desired.groups.entry(below.clone()).or_default();
                        group.controllers.insert(self.controller);
                        if self.controller == Controller::Cpu {
                            group.controllers.insert(Controller::Cpuacct);
                        }
                        self.node(&place, &below, child)?;
                    }
                }
                ("conf" | "sub_cgroup", _) => return Err(here.refuse(value.shown(), "must be an object".into())),
                _ => self.warn(&here, || "ignored: a group knows only \"conf\" and \"sub_cgroup\"".into()),
            }
        }
        Ok(())
    }

    fn conf(&mut self, at: &Place, path: &GroupPath, conf: &[(String, Json)]) -> Result<(), DocumentError> {
        let mut settings: Vec<(&'static str, Value)> = Vec::new();
        for (key, json) in conf {
            let here = at.down(key);
            match self.knob(key) {
                Some(knob) => settings.push(read_knob(&here, knob, json)?),
                None if key == "pids" => self.warn(&here, || "ignored: processes come from pid files".into()),
                None => {
                    let controller = self.controller.v1_name();
                    self.warn(&here, || {
                        let hint = nearest_knob(key).map(|n| format!("; did you mean {n}?")).unwrap_or_default();
                        format!("ignored: not a knob of {controller}{hint}")
                    });
                }
            }
        }
        let weighed = settings.iter().any(|(k, _)| WEIGHTS.contains(k));
        if self.controller == Controller::Cpu && !weighed {
            settings.push(("cpu.shares", Value::Int(1024)));
        }
        let group = self.desired.groups.entry(path.clone()).or_default();
        if group.knobs.is_empty() {
            // Most groups have one; growing would make room for four.
            group.knobs = LiteMap::with_capacity(settings.len());
        }
        for (name, value) in settings {
            if group.knobs.insert(name, value).is_some() {
                return Err(at.refuse(name.into(), "set twice; keep one".into()));
            }
        }
        Ok(())
    }

    /// `share` and `weight` are cgrouparch's short names; anything else is a file name.
    fn knob(&self, key: &str) -> Option<&'static Knob> {
        let name = match (self.controller, key) {
            (Controller::Cpu, "share") => "cpu.shares",
            (Controller::Io, "weight") => "blkio.weight",
            _ => key,
        };
        known_knob(name).filter(|k| k.controller == self.controller)
    }

    fn warn(&mut self, at: &Place, what: impl FnOnce() -> String) {
        match self.desired.warnings.len() {
            n if n < WARNINGS => self.desired.warnings.push(format!("{at}: {}", what())),
            WARNINGS => self.desired.warnings.push("more like these are not listed".into()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use crate::ids::{Controller, ControllerSet, GroupPath};
    use crate::knobs::Value;

    const README: &str = r#"{"cpu":   {"sub_cgroup": {"a": {"conf": {"share": 1024}},
                                 "b": {"conf": {"share": "100"}, "sub_cgroup": {"b1": {"conf": {"share": 200}}}}}},
         "blkio": {"sub_cgroup": {"a": {"conf": {"weight": 500}}}}}"#;

    #[test]
    fn trees_of_several_controllers_become_one() {
        let desired = parse(README.as_bytes()).unwrap();
        let paths: Vec<_> = desired.groups.keys().map(GroupPath::as_str).collect();
        assert_eq!(paths, ["/a", "/b", "/b/b1"]);
        let a = &desired.groups[&GroupPath::parse("/a").unwrap()];
        assert_eq!(a.controllers, ControllerSet::from_iter([Controller::Cpu, Controller::Cpuacct, Controller::Io]));
        assert_eq!(a.knobs[&"blkio.weight"], Value::Keyed([("default".into(), [("", Some(500))].into())].into()));
        assert_eq!(desired.groups[1].knobs[&"cpu.shares"], Value::Int(100));
        assert_eq!(desired.lookup("b1").len(), 1);
        assert!(desired.warnings.is_empty());
    }

    #[test]
    fn unknown_keys_warn_and_unknown_controllers_refuse() {
        let desired = parse(br#"{"cpu": {"x": 1, "conf": {}, "sub_cgroup": {"a": {"conf": {"pids": [1], "shares": 4, "cpu.cfs_quota_us": 5000}}}}}"#).unwrap();
        assert_eq!(desired.warnings.len(), 4, "{:?}", desired.warnings);
        assert_eq!(desired.groups[0].knobs[&"cpu.shares"], Value::Int(1024));
        let error = parse(br#"{"cpux": {}}"#).unwrap_err().to_string();
        assert!(error.contains("$.cpux") && error.contains("did you mean cpu"), "{error}");
    }

    #[test]
    fn a_nice_value_is_a_share_too() {
        let desired = parse(br#"{"cpu": {"sub_cgroup": {"a": {"conf": {"cpu.weight.nice": 5}}}}}"#).unwrap();
        assert_eq!(desired.groups[0].knobs.keys().collect::<Vec<_>>(), [&"cpu.weight.nice"]);
    }

    #[test]
    fn a_refusal_names_line_path_value_and_range() {
        let error =
            parse(b"{\"cpu\": {\"sub_cgroup\":\n {\"a\": {\"conf\": {\"share\": 1}}}}}").unwrap_err().to_string();
        assert_eq!(error, "line 2: $.cpu.sub_cgroup.a.conf.share: 1: allowed is a whole number from 2 to 262144");
        for bad in [
            r#"{"cpu": {"sub_cgroup": {"..": {}}}}"#,
            r#"{"cpu": {"sub_cgroup": {"cpu.shares": {}}}}"#,
            r#"{"cpu": {"sub_cgroup": []}}"#,
            r#"{"cpu": 5}"#,
            r#"{"blkio": {}, "io": {}}"#,
            r#"{"cpu": {"sub_cgroup": {"a": {"conf": {"share": 5, "cpu.shares": 6}}}}}"#,
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
