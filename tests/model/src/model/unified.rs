//! v2: who hands controllers down, and who may hold processes (cgroup-v2.rst, "Enabling and Disabling", "Top-down
//! Constraint", "No Internal Process Constraint", "Threads").

use cgrove_core::ids::GroupPath;

use super::Model;
use crate::Errno;

/// Controllers that a group with processes of its own may hand down, turning itself into the root of threaded groups.
const THREADED: [&str; 3] = ["cpu", "cpuset", "pids"];

impl Model {
    fn real_root(&self, group: &GroupPath) -> bool {
        group.is_root() && self.ground.at_root
    }

    /// It has processes, and hands down a threaded controller: the groups below can only take threads.
    fn thread_root(&self, group: &GroupPath) -> bool {
        let handed = &self.nodes[group].handed;
        !self.real_root(group) && THREADED.iter().any(|c| handed.contains(c)) && !self.members(group).is_empty()
    }

    fn valid_domain(&self, group: &GroupPath) -> bool {
        std::iter::successors(group.up(), GroupPath::up).all(|p| !self.thread_root(&p))
    }

    /// Nobody below, and no controller handed down that threads cannot share.
    fn may_become_thread_root(&self, group: &GroupPath) -> bool {
        let domain = self.nodes[group].handed.iter().any(|c| !THREADED.contains(c));
        self.real_root(group) || (!domain && !self.children(group).iter().any(|c| self.populated(c)))
    }

    pub(super) fn kind(&self, group: &GroupPath) -> &'static str {
        if !self.valid_domain(group) {
            "domain invalid"
        } else if self.thread_root(group) {
            "domain threaded"
        } else {
            "domain"
        }
    }

    /// cgroup_migrate_vet_dst.
    pub(super) fn domain_takes(&self, group: &GroupPath) -> Result<(), Errno> {
        if !self.valid_domain(group) {
            return Err(Errno::EOPNOTSUPP);
        }
        if !self.may_become_thread_root(group) && !self.nodes[group].handed.is_empty() {
            return Err(Errno::EBUSY);
        }
        Ok(())
    }

    /// `+cpu -pids`: all of it or nothing.
    pub(super) fn hand_down(&mut self, group: &GroupPath, value: &str) -> Result<(), Errno> {
        const KNOWN: [&str; 8] = ["cpu", "cpuset", "memory", "pids", "io", "hugetlb", "rdma", "misc"];
        let (has, handed) = (self.has(group), self.nodes[group].handed.clone());
        let mut steps: Vec<(bool, &'static str)> = Vec::new();
        for word in value.split_whitespace() {
            let name = KNOWN.iter().find(|k| word[1..] == ***k).ok_or(Errno::EINVAL)?;
            let enable = match &word[..1] {
                "+" => true,
                "-" => false,
                _ => return Err(Errno::EINVAL),
            };
            // What is said last counts.
            steps.retain(|(_, n)| n != name);
            steps.push((enable, name));
        }
        let (mut on, mut off) = (Vec::new(), Vec::new());
        for (enable, name) in steps {
            if enable && !handed.contains(name) {
                if !has.contains(name) {
                    return Err(Errno::ENOENT);
                }
                on.push(name);
            } else if !enable && handed.contains(name) {
                if self.children(group).iter().any(|c| self.nodes[c].handed.contains(name)) {
                    return Err(Errno::EBUSY);
                }
                off.push(name);
            }
        }
        self.may_enable(group, &on)?;
        let node = self.change(group);
        node.handed.extend(&on);
        node.handed.retain(|c| !off.contains(c));
        for child in self.children(group) {
            // What comes, comes new; what goes is forgotten.
            for name in on.iter().chain(&off) {
                self.reset(&child, name);
            }
        }
        Ok(())
    }

    /// cgroup_vet_subtree_control_enable.
    fn may_enable(&self, group: &GroupPath, on: &[&str]) -> Result<(), Errno> {
        if on.is_empty() || self.real_root(group) {
            return Ok(());
        }
        if !self.valid_domain(group) {
            return Err(Errno::EOPNOTSUPP);
        }
        if on.iter().any(|c| !THREADED.contains(c)) {
            if self.thread_root(group) {
                return Err(Errno::EOPNOTSUPP);
            }
        } else if self.may_become_thread_root(group) {
            return Ok(());
        }
        if self.members(group).is_empty() { Ok(()) } else { Err(Errno::EBUSY) }
    }

    fn reset(&mut self, group: &GroupPath, controller: &str) {
        let above = group.up().map(|up| self.nodes[&up].memory.heir()).unwrap_or_default();
        let node = self.change(group);
        match controller {
            "cpu" => node.cpu = Default::default(),
            "cpuset" => node.cpuset = Default::default(),
            "memory" => node.memory = above,
            "pids" => node.small.forget_pids(),
            _ => {}
        }
    }
}
