//! What a kernel file says, as the value that a document would have.

use std::collections::BTreeMap;

use super::{DEFAULT, Value, sizes};
use crate::actual::Version;
use crate::json::Json;
use crate::knobs::lists::IdSet;
use crate::knobs::table::{Kind, Knob};
use crate::knobs::want::{Lines, MEMORY_MAX};

impl Knob {
    /// The value of the knob's own file. `None` when it says nothing that a document could say.
    pub fn read(&self, text: &str) -> Option<Value> {
        let text = text.trim();
        let first = || text.split_whitespace().next().unwrap_or_default();
        Some(match self.kind {
            Kind::Int { .. } | Kind::Quota | Kind::ClassId => Value::Int(text.parse().ok()?),
            Kind::IntOrMax { .. } if text == "max" => Value::Max,
            Kind::IntOrMax { .. } => Value::Int(text.parse().ok()?),
            Kind::Bytes => match text.parse::<u64>() {
                Ok(n) if n < MEMORY_MAX - (1 << 31) => Value::Bytes(n),
                Ok(_) => Value::Max,
                Err(_) if text == "max" => Value::Max,
                Err(_) => return None,
            },
            Kind::Bandwidth | Kind::Clamp => {
                let json = Json::String(text.into());
                let read = if self.kind == Kind::Clamp { sizes::clamp } else { sizes::bandwidth };
                read(&json, text).ok()?
            }
            Kind::Flag => Value::Flag(text.lines().next()?.split_whitespace().last()? == "1"),
            // A partition that is not valid says why, after the word.
            Kind::Word(words) => Value::Word(words.iter().find(|w| **w == first())?),
            Kind::Ids => Value::Ids(text.parse::<IdSet>().ok().filter(|ids| !ids.is_empty())?),
            Kind::State => Value::Flag(text != "THAWED"),
            Kind::Weight { .. } if text.parse::<u64>().is_ok() => {
                Value::Keyed([(DEFAULT.to_owned(), [("", text.parse().ok())].into())].into())
            }
            Kind::Weight { .. } => keyed(text, &[""], false)?,
            Kind::PerDisk(fields) | Kind::PerName(fields) => {
                // 0 handles is a limit; 0 bytes, or priority 0, is none.
                let zero = matches!(self.name, "rdma.max" | "misc.max");
                let mut lines = keyed(text, &fields.iter().map(|f| f.name).collect::<Vec<_>>(), zero)?;
                // The weight for all disks, shown among those of single ones, has a knob of its own.
                if let Value::Keyed(lines) = &mut lines {
                    lines.remove(DEFAULT);
                }
                lines
            }
            Kind::Rules => {
                let rules: Vec<_> = text.lines().filter_map(|l| l.parse().ok()).collect();
                Value::Rules(rules)
            }
        })
    }

    /// Does the file say what a new group's says? `parents` is the same file of the group above.
    pub fn is_default(&self, version: Version, text: &str, parents: Option<&str>, page: u64) -> bool {
        match (self.kind, self.read(text)) {
            (_, None) => true,
            (Kind::Weight { .. }, Some(Value::Keyed(keys))) => {
                keys.len() == 1 && keys.get(DEFAULT).and_then(|l| *l.get("")?) == self.default.parse().ok()
            }
            (Kind::PerDisk(_) | Kind::PerName(_), Some(Value::Keyed(keys))) => keys.is_empty(),
            // v1's cpusets are filled from above; the kernel hands swappiness down.
            _ => self.undo(version, "", parents).is_none_or(|want| want.matches(text, page)),
        }
    }
}

/// Lines by key; numbers that limit nothing are left out.
fn keyed(text: &str, fields: &[&'static str], zero: bool) -> Option<Value> {
    let mut out: BTreeMap<String, BTreeMap<&'static str, Option<u64>>> = BTreeMap::new();
    for (key, line) in Lines::parse(text) {
        for (name, number) in line {
            let field = fields.iter().find(|f| **f == name)?;
            if let Some(number) = number.parse::<u64>().ok().filter(|n| zero || *n > 0) {
                out.entry(key.clone()).or_default().insert(field, Some(number));
            }
        }
    }
    Some(Value::Keyed(out))
}

#[cfg(test)]
mod tests {
    use crate::actual::Version::{V1, V2};
    use crate::knobs::find;

    #[test]
    fn kernel_texts_become_document_values() {
        let json = |name: &str, text: &str| {
            let knob = find(name).unwrap();
            knob.read(text).map(|v| serde_json::to_string(&v.to_json(knob.kind)).unwrap())
        };
        for (name, text, expected) in [
            ("cpu.weight", "500\n", "500"),
            ("cpu.max", "50000 100000\n", "\"50000 100000\""),
            ("cpu.cfs_quota_us", "-1", "-1"),
            ("memory.max", "max", "\"max\""),
            ("memory.limit_in_bytes", "9223372036854771712", "\"max\""),
            ("memory.limit_in_bytes", "67108864", "\"64M\""),
            ("memory.oom_control", "oom_kill_disable 1\nunder_oom 0", "1"),
            ("cpuset.cpus", "0-3\n", "\"0-3\""),
            ("cpuset.cpus.partition", "root invalid (no CPUs)", "\"root\""),
            ("freezer.state", "FREEZING", "\"FROZEN\""),
            ("io.max", "8:0 rbps=5 wbps=max riops=max wiops=7", r#"{"8:0":{"rbps":5,"wiops":7}}"#),
            ("io.weight", "default 50\n8:0 200", r#"{"8:0":200,"default":50}"#),
            ("blkio.bfq.weight", "50", "50"),
            ("blkio.throttle.read_bps_device", "8:0 1048576", r#"{"8:0":1048576}"#),
            ("blkio.bfq.weight_device", "default 100\n8:0 200", r#"{"8:0":200}"#),
            ("net_prio.ifpriomap", "lo 0\neth0 5", r#"{"eth0":5}"#),
            ("misc.max", "sev 0\nsgx max", r#"{"sev":0}"#),
            ("devices.list", "c 1:3 rwm\nb 8:* r", r#"["c 1:3 rwm","b 8:* r"]"#),
            ("cpu.uclamp.max", "50.00", "\"50%\""),
        ] {
            assert_eq!(json(name, text).as_deref(), Some(expected), "{name}");
        }
        assert_eq!(json("cpuset.cpus", "\n"), None);
    }

    #[test]
    fn defaults_are_told_from_settings() {
        let default =
            |version, name: &str, text: &str, parents| find(name).unwrap().is_default(version, text, parents, 4096);
        for (name, text) in [
            ("cpu.weight", "100"),
            ("cpu.max", "max 100000"),
            ("memory.low", "0"),
            ("memory.max", "max"),
            ("io.max", ""),
            ("io.weight", "default 100"),
            ("cpuset.cpus", ""),
            ("pids.max", "max"),
            ("cgroup.freeze", "0"),
        ] {
            assert!(default(V2, name, text, None), "{name}");
        }
        for (name, text) in [
            ("cpu.weight", "99"),
            ("memory.low", "4096"),
            ("io.max", "8:0 rbps=5"),
            ("io.weight", "default 50"),
            ("cpuset.cpus", "0"),
            ("pids.max", "5"),
        ] {
            assert!(!default(V2, name, text, None), "{name}");
        }
        assert!(default(V1, "cpuset.cpus", "0-1", Some("0-1\n")) && !default(V1, "cpuset.cpus", "0", Some("0-1")));
        assert!(default(V1, "memory.swappiness", "60", Some("60")) && default(V1, "devices.list", "a *:* rwm", None));
        assert!(default(V1, "memory.limit_in_bytes", "9223372036854771712", None));
    }
}
