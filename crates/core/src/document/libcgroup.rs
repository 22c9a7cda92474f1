//! libcgroup's files: cgconfig.conf(5) for groups, cgrules.conf(5) for processes.

mod config;
mod rules;

use indexmap::IndexMap;

use super::error::Place;
use super::{check_twins, is_raw_file};
use crate::desired::{Desired, Form, Group};
use crate::ids::{Controller, ControllerSet, GroupPath, MAX_DEPTH, check_name};
use crate::json::Json;
use crate::knobs::{Kind, Value, find, parse_value};
use crate::rules::Criteria;

/// A file and its name, for messages.
pub struct File<'a> {
    pub name: &'a str,
    pub text: &'a str,
}

/// A mistake in a file: `/etc/cgconfig.conf: line 3: ...`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: line {line}: {what}")]
pub struct SyntaxError {
    pub file: String,
    pub line: usize,
    pub what: String,
}

/// The tree that the files describe, and what of them a document cannot say. A file with braces is a cgconfig.conf.
pub fn from_libcgroup(files: &[File]) -> Result<(Desired, Vec<String>), SyntaxError> {
    let mut import = Import::default();
    // Groups first: rules may name groups of a later file.
    let (configs, rules): (Vec<&File>, Vec<&File>) = files.iter().partition(|f| f.text.contains('{'));
    for file in configs {
        config::read(file, &mut import)?;
    }
    for file in rules {
        rules::read(file, &mut import)?;
    }
    Ok(import.finish())
}

#[derive(Default)]
struct Import {
    groups: IndexMap<GroupPath, Group>,
    controllers: ControllerSet,
    notes: Vec<String>,
    /// Rules that leave processes where they are.
    ignore: Vec<Criteria>,
    /// The groups of the rules, in the order in which libcgroup tries them.
    order: Vec<GroupPath>,
}

impl Import {
    fn note(&mut self, file: &File, line: usize, text: String) {
        self.notes.push(format!("{} line {line}: {text}", file.name));
    }

    /// A group by libcgroup's name for it, made with everything above; or why it cannot be one of ours.
    fn group(&mut self, name: &str) -> Result<GroupPath, String> {
        let mut path = GroupPath::root();
        for part in name.split('/').filter(|p| !p.is_empty() && *p != ".") {
            check_name(part).map_err(|e| format!("group {name:?} is left out: {e}"))?;
            path = path.child(part).ok_or_else(|| format!("group {name:?} is left out"))?;
            if path.depth() > MAX_DEPTH {
                return Err(format!("group {name:?} is left out: documents are at most {MAX_DEPTH} deep"));
            }
            self.groups.entry(path.clone()).or_default();
        }
        if path.is_root() {
            return Err(format!("group {name:?} is the root, which cgrove does not tune"));
        }
        Ok(path)
    }

    /// A parameter of a group, as the kernel's file takes it.
    fn parameter(&mut self, path: &GroupPath, name: &str, text: &str) -> Result<(), String> {
        let group = self.groups.entry(path.clone()).or_default();
        let prefix = name.split('.').next().and_then(Controller::parse);
        if let Some(controller) = prefix {
            self.controllers.insert(controller);
        }
        match find(name) {
            Some(knob) => {
                let lines = matches!(knob.kind, Kind::PerDisk(_) | Kind::PerName(_) | Kind::Weight { .. });
                let value = match knob.kind {
                    Kind::Rules => device_rules(text),
                    _ if lines => knob.read(text).ok_or_else(|| "lines as in the kernel's file".into()),
                    kind => parse_value(kind, &Json::String(text.into())),
                };
                // What a document would refuse, such as no line at all, is none either.
                let value = value.and_then(|v| parse_value(knob.kind, &v.to_json(knob.kind)));
                let value = value.map_err(|how| format!("{path}: {name} = {text:?} is left out; allowed is {how}"))?;
                let before = group.knobs.insert(knob.name, value);
                if check_twins(&Place::default(), group).is_err() {
                    match before {
                        Some(value) => group.knobs.insert(knob.name, value),
                        None => group.knobs.remove(knob.name),
                    };
                    return Err(format!("{path}: {name} is left out: it sets what another line of the group sets"));
                }
            }
            None if text.trim().is_empty() => return Err(format!("{path}: {name} is left out: it has no value")),
            None if is_raw_file(name) && text.len() <= 4096 => {
                let before = group.files.insert(name.into(), text.into());
                if check_twins(&Place::default(), group).is_err() {
                    match before {
                        Some(text) => group.files.insert(name.into(), text),
                        None => group.files.shift_remove(name),
                    };
                    return Err(format!("{path}: {name} is left out: it sets what another line of the group sets"));
                }
                return Err(format!("{path}: {name} is no knob that cgrove knows; it becomes a raw file"));
            }
            None => return Err(format!("{path}: {name} = {text:?} is left out: not a controller's file")),
        }
        Ok(())
    }

    fn finish(mut self) -> (Desired, Vec<String>) {
        if self.controllers.contains(Controller::Cpu) {
            self.controllers.insert(Controller::Cpuacct);
        }
        // Groups with rules first, in the rules' order: that is the order in which a document's rules count.
        let mut sorted: IndexMap<GroupPath, Group> = IndexMap::new();
        let tops = self.order.iter().filter_map(|p| p.ancestors().filter(|a| !a.is_root()).last().or(Some(p.clone())));
        let tops: Vec<GroupPath> = tops.chain(self.groups.keys().filter(|p| p.depth() == 1).cloned()).collect();
        for top in tops {
            let below: Vec<_> = self.groups.keys().filter(|p| **p == top || p.is_below(&top)).cloned().collect();
            for path in below {
                if let Some(group) = self.groups.shift_remove(&path) {
                    sorted.insert(path, group);
                }
            }
        }
        let position = |p: &GroupPath| sorted.get_index_of(p);
        if !self.order.is_sorted_by_key(position) {
            self.notes.push("rules count in the order of the document's groups, which is not the order of cgrules.conf: look at rules that overlap".into());
        }
        for group in sorted.values_mut() {
            group.controllers = self.controllers;
        }
        let names: Vec<_> = self.controllers.iter().map(Controller::name).collect();
        self.notes.push(format!(
            "every group is made in all of {}, and its rules put processes there in all of them; libcgroup made and used \
             only those that each group and rule named",
            names.join(", ")
        ));
        let desired = Desired {
            form: Form::ByGroup,
            groups: sorted,
            controllers: self.controllers,
            usage_keys: Vec::new(),
            ignore: self.ignore,
            allow_removals: None,
            digest: String::new(),
            warnings: Vec::new(),
        };
        (desired, self.notes)
    }
}

fn device_rules(text: &str) -> Result<Value, String> {
    let rules: Result<Vec<_>, ()> = text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::parse).collect();
    rules.map(Value::Rules).map_err(|()| "device rules such as \"c 1:3 rwm\"".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{parse, to_by_group};

    const CONFIG: &str = r#"
# A comment; and a mount that systemd does nowadays.
mount { cpu = /cgroup/cpu; }
group daemons/http {
    perm { task { uid = root; gid = webmaster; } admin { uid = root; gid = root; } }
    cpu { cpu.shares = "500"; cpu.cfs_quota_us = 50000; }
    memory { memory.limit_in_bytes = 64M; memory.odd = 5; }
    blkio { blkio.throttle.read_bps_device = "8:0 1048576
8:16 2097152"; }
    devices { devices.deny = a; devices.allow = "c 1:3 rwm"; }
}
group daemons/ftp { cpuacct {} cpu { cpu.shares = 1; } }
group . { cpu { cpu.shares = 5; } }
template users/%u { cpu { } }
"#;
    const RULES: &str = "# user rules
peter:/usr/bin/cc cpu,memory daemons/ftp
@students cpu limited
%  memory other
*:httpd  *  daemons/http/
john cpu users/%u
backup cpu daemons/http ignore
www-data * daemons/http
";

    #[test]
    fn both_files_become_one_document() {
        let files = [File { name: "cgrules.conf", text: RULES }, File { name: "cgconfig.conf", text: CONFIG }];
        let (desired, notes) = from_libcgroup(&files).unwrap();
        let text = serde_json::to_string_pretty(&to_by_group(&desired).0).unwrap();
        let again = parse(text.as_bytes()).unwrap();
        let http = &again.groups[&GroupPath::parse("/daemons/http").unwrap()];
        assert_eq!(http.knobs[&"cpu.shares"], Value::Int(500));
        assert_eq!(http.knobs[&"memory.limit_in_bytes"], Value::Bytes(64 << 20));
        assert!(http.knobs.contains_key("blkio.throttle.read_bps_device") && http.knobs.contains_key("devices.allow"));
        assert_eq!(http.files["memory.odd"], "5");
        assert_eq!(http.processes.len(), 2);
        assert_eq!(again.ignore[0].user.as_deref(), Some("backup"));
        assert_eq!(http.processes[0].exe.as_deref(), Some("*/httpd"));
        let ftp = &again.groups[&GroupPath::parse("/daemons/ftp").unwrap()];
        assert_eq!(
            (ftp.processes[0].user.as_deref(), ftp.processes[0].exe.as_deref()),
            (Some("peter"), Some("/usr/bin/cc"))
        );
        let all = notes.join("\n");
        for said in [
            "permissions",
            "mount",
            "template",
            "@students",
            "%u",
            "is the root",
            "memory.odd",
            "cpu.shares = \"1\"",
            "also in",
            "every group is made in all of",
            "a script of that name",
            "before all its rules",
        ] {
            assert!(all.contains(said), "{said}:\n{all}");
        }
    }

    #[test]
    fn mistakes_have_a_line() {
        for (text, line) in [
            ("group a {\n cpu {\n cpu.shares = 5\n }\n}", 4),
            ("group {", 1),
            ("nonsense a {}", 1),
            ("group a {\n", 1),
            ("group a { cpu { x = \"y; } }", 1),
        ] {
            let error = from_libcgroup(&[File { name: "f", text }]).err().unwrap();
            assert_eq!(error.line, line, "{error}");
        }
        assert_eq!(from_libcgroup(&[File { name: "r", text: "peter cpu\n" }]).err().unwrap().line, 1);
    }

    #[test]
    fn what_a_document_refuses_is_left_out() {
        let text = "group a { cpu { cpu.shares = 500; cpu.weight = 50; cpu.x\u{1} = 5; cpu.cfs_quota_us = 5000; } }";
        let (desired, notes) = from_libcgroup(&[File { name: "x", text }]).unwrap();
        assert_eq!(desired.groups[0].knobs.keys().collect::<Vec<_>>(), [&"cpu.cfs_quota_us", &"cpu.shares"]);
        assert!(notes.iter().any(|n| n.contains("cpu.weight is left out")), "{notes:?}");
        assert!(desired.groups[0].files.is_empty());
    }
}
