//! pids, v1's freezer, and what every v2 group has.

use cgrove_core::ids::GroupPath;

use super::{Model, number};
use crate::Errno;

pub(super) const PIDS: &[&str] = &["pids.max", "pids.current"];
pub(super) const FREEZER: &[&str] = &["freezer.state", "freezer.self_freezing", "freezer.parent_freezing"];
pub(super) const CORE: &[&str] = &[
    "cgroup.type",
    "cgroup.controllers",
    "cgroup.subtree_control",
    "cgroup.max.depth",
    "cgroup.max.descendants",
    "cgroup.freeze",
    "cgroup.events",
];

/// More than any machine has (PID_MAX_LIMIT on 64 bits).
const MOST_PIDS: i128 = 4 << 20;

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Small {
    pids_max: Option<u64>,
    frozen: bool,
}

impl Small {
    pub(super) fn forget_pids(&mut self) {
        self.pids_max = None;
    }
}

/// cgroup.max.*: no limit unless set.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Limits {
    depth: Option<i32>,
    descendants: Option<i32>,
}

impl Model {
    fn frozen_above(&self, group: &GroupPath) -> bool {
        std::iter::successors(group.up(), GroupPath::up).any(|p| self.nodes[&p].small.frozen)
    }

    /// Would a process of this group not move at all?
    pub fn frozen(&self, group: &GroupPath) -> bool {
        self.nodes.get(group).is_some_and(|n| n.small.frozen) || self.frozen_above(group)
    }

    pub(super) fn read_small(&self, group: &GroupPath, file: &str) -> String {
        let node = &self.nodes[group];
        let flag = |b: bool| u8::from(b).to_string();
        let or_max = |n: Option<i64>| n.map_or("max".into(), |n| n.to_string());
        let names = |set: &mut dyn Iterator<Item = &'static str>| set.collect::<Vec<_>>().join(" ");
        match file {
            "pids.max" => or_max(node.small.pids_max.and_then(|n| i64::try_from(n).ok())),
            "pids.current" => self.processes_below(group).to_string(),
            "freezer.state" => if self.frozen(group) { "FROZEN" } else { "THAWED" }.into(),
            "freezer.self_freezing" | "cgroup.freeze" => flag(node.small.frozen),
            "freezer.parent_freezing" => flag(self.frozen_above(group)),
            "cgroup.max.depth" => or_max(node.limits.depth.map(i64::from)),
            "cgroup.max.descendants" => or_max(node.limits.descendants.map(i64::from)),
            "cgroup.events" => format!("populated {}", flag(self.populated(group))),
            "cgroup.controllers" => names(&mut self.has(group).into_iter()),
            "cgroup.subtree_control" => names(&mut node.handed.iter().copied()),
            _ => self.kind(group).into(),
        }
    }

    pub(super) fn write_small(&mut self, group: &GroupPath, file: &str, value: &str) -> Result<(), Errno> {
        let node = self.change(group);
        match (file, value) {
            ("pids.max", "max") => node.small.pids_max = None,
            ("pids.max", _) => match number(value)? {
                n @ 0..=MOST_PIDS => node.small.pids_max = u64::try_from(n).ok(),
                _ => return Err(Errno::EINVAL),
            },
            ("freezer.state", "FROZEN") => node.small.frozen = true,
            ("freezer.state", "THAWED") => node.small.frozen = false,
            ("cgroup.freeze", _) => match number(value)? {
                n @ 0..=1 => node.small.frozen = n == 1,
                _ => return Err(Errno::ERANGE),
            },
            ("cgroup.max.depth", _) => node.limits.depth = limit(value)?,
            ("cgroup.max.descendants", _) => node.limits.descendants = limit(value)?,
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    fn processes_below(&self, group: &GroupPath) -> u64 {
        self.nodes.keys().filter(|p| *p == group || p.is_below(group)).map(|p| self.members(p).len() as u64).sum()
    }

    /// pids: no group on the way up may have more processes than it says; moving is never refused.
    pub(super) fn room_for_a_process(&self, group: &GroupPath) -> Result<(), Errno> {
        let full = |p: &GroupPath| self.nodes[p].small.pids_max.is_some_and(|most| self.processes_below(p) >= most);
        let counts = |p: &GroupPath| self.has(p).contains("pids");
        let full = std::iter::successors(Some(group.clone()), GroupPath::up).any(|p| counts(&p) && full(&p));
        if full { Err(Errno::EAGAIN) } else { Ok(()) }
    }

    /// v2: cgroup.max.depth and cgroup.max.descendants of every group above.
    pub(super) fn room_for(&self, group: &GroupPath) -> Result<(), Errno> {
        let above = std::iter::successors(group.up(), GroupPath::up);
        for (level, p) in above.enumerate() {
            let limits = &self.nodes[&p].limits;
            let below = self.nodes.keys().filter(|g| g.is_below(&p)).count();
            let reaches = |limit: Option<i32>, n: usize| limit.is_some_and(|l| n >= usize::try_from(l).unwrap_or(0));
            if reaches(limits.descendants, below) || reaches(limits.depth, level) {
                return Err(Errno::EAGAIN);
            }
        }
        Ok(())
    }
}

fn limit(value: &str) -> Result<Option<i32>, Errno> {
    if value == "max" {
        return Ok(None);
    }
    match i32::try_from(number(value)?) {
        Ok(n) if n >= 0 => Ok(Some(n)),
        _ => Err(Errno::ERANGE),
    }
}
