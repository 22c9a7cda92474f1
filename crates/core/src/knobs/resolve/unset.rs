//! What undoes a file that the document no longer sets.

use crate::actual::Version;
use crate::knobs::lists::{DeviceRule, IdSet};
use crate::knobs::table::{Kind, Knob, Unset, huge_page};
use crate::knobs::want::{Lines, Want};

impl Knob {
    /// The wanted content that undoes this knob's own file: `ours` is what the mark says we wrote, `parents` the
    /// parent's value. `None` when that is unknown.
    pub fn undo(&self, version: Version, ours: &str, parents: Option<&str>) -> Option<Want> {
        let unlimited = if version == Version::V1 { "-1" } else { "max" };
        let Unset::Const(text) = self.unset else { return self.undo_by_look(version, ours, parents) };
        Some(match self.kind {
            Kind::Bytes => Want::Bytes { bytes: text.parse().ok(), unlimited, page: huge_page(self.name) },
            Kind::Bandwidth => Want::Bandwidth { quota: None, period: 100_000 },
            Kind::Quota => Want::Limit { value: None, unlimited: "-1" },
            Kind::IntOrMax { .. } => Want::Limit { value: None, unlimited: "max" },
            Kind::State => Want::State(false),
            Kind::Ids => Want::Ids(IdSet::default()),
            Kind::Flag if self.name == "memory.oom_control" => Want::FirstLine(text.into()),
            _ => Want::Text(text.into()),
        })
    }

    fn undo_by_look(&self, version: Version, ours: &str, parents: Option<&str>) -> Option<Want> {
        match (self.unset, self.kind) {
            (Unset::PerKey, Kind::Weight { .. }) if version == Version::V1 => Some(Want::Text(self.default.into())),
            (Unset::PerKey, _) => {
                let mut lines = Lines::new(self.reset());
                lines.release(ours, self.default);
                Some(Want::Lines(lines))
            }
            (_, Kind::Ids) if version == Version::V2 => Some(Want::Ids(IdSet::default())),
            (_, Kind::Ids) => Some(Want::Ids(parents?.parse().ok()?)),
            // All that the group above has; more than that the kernel refuses.
            (_, Kind::Rules) => {
                let rules: Vec<DeviceRule> = parents.unwrap_or("a").lines().filter_map(|l| l.parse().ok()).collect();
                Some(Want::Devices { allow: true, rules })
            }
            _ => Some(Want::Text(parents?.trim().into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knobs::find;

    #[test]
    fn unsetting_restores_defaults() {
        let v1 = |file: &str, ours: &str, parent: Option<&str>| {
            find(file).unwrap().undo(Version::V1, ours, parent).unwrap().writes(ours)
        };
        assert_eq!(v1("cpu.shares", "5", None), ["1024"]);
        assert_eq!(v1("memory.limit_in_bytes", "5", None), ["-1"]);
        assert_eq!(v1("hugetlb.2MB.limit_in_bytes", "5", None), ["-1"]);
        assert_eq!(v1("cpuset.cpus", "0", Some("0-1\n")), ["0-1"]);
        assert_eq!(v1("blkio.throttle.read_bps_device", "8:0 5", None), ["8:0 0"]);
        assert_eq!(v1("blkio.bfq.weight", "5", None), ["100"]);
        assert_eq!(v1("pids.max", "5", None), ["max"]);
        assert_eq!(v1("net_prio.ifpriomap", "lo 5", None), ["lo 0"]);
        assert_eq!(v1("devices.list", "deny a", None), ["allow a"]);
        let v2 = |file: &str, ours: &str| find(file).unwrap().undo(Version::V2, ours, None).unwrap().writes(ours);
        assert_eq!(v2("memory.max", "5"), ["max"]);
        assert_eq!(v2("memory.low", "5"), ["0"]);
        assert_eq!(v2("cpu.max", "5 5"), ["max 100000"]);
        assert_eq!(v2("cpuset.cpus", "0"), ["\n"]);
        assert_eq!(v2("io.max", "8:0 rbps=5"), ["8:0 rbps=max"]);
        assert_eq!(v2("io.weight", "8:0 200\ndefault 50"), ["default 100", "8:0 default"]);
        assert_eq!(v2("cpuset.cpus.partition", "root"), ["member"]);
        assert_eq!(v2("cgroup.freeze", "1"), ["0"]);
    }
}
