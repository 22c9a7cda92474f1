//! The model: groups, processes and settings of one hierarchy, and what the kernel answers to each call
//! (Documentation/admin-guide/cgroup-v1, cgroup-v2.rst; kernel/cgroup/cgroup.c).

mod cpu;
mod cpuset;
mod memory;
mod small;
mod unified;

use std::collections::{BTreeMap, BTreeSet};

use cgrove_core::actual::{Marked, Version};
use cgrove_core::ids::GroupPath;

use crate::{Cgroups, Errno, Process};

/// The machine, and the hierarchy's place on it.
#[derive(Debug, Clone)]
pub struct Ground {
    pub version: Version,
    /// The controllers, by the names of their files: `cpu`, `cpuset`, `memory`, `pids`, `freezer`.
    pub controllers: Vec<&'static str>,
    /// The top is the hierarchy's root, where other rules hold.
    pub at_root: bool,
    /// One bit for each CPU and memory node.
    pub cpus: u64,
    pub mems: u64,
    /// How many CPUs the kernel has numbers for.
    pub cpu_ids: u32,
    pub page: u64,
    /// What cpu.weight says of an idle group: 0, and since Linux 6.10 or so 1.
    pub idle_weight: u64,
    /// Tracked files that this kernel's groups lack: an older kernel, or one configured without.
    pub lacks: BTreeSet<&'static str>,
}

/// One hierarchy.
#[derive(Debug, Clone)]
pub struct Model {
    pub ground: Ground,
    nodes: BTreeMap<GroupPath, Node>,
    /// Where each process is; ones outside are not here.
    places: BTreeMap<Process, GroupPath>,
    born: Process,
}

/// One group.
#[derive(Debug, Clone, Default, PartialEq)]
struct Node {
    mark: Marked,
    /// v2: what it hands down.
    handed: BTreeSet<&'static str>,
    limits: small::Limits,
    cpu: cpu::Cpu,
    cpuset: cpuset::Cpuset,
    memory: memory::Memory,
    small: small::Small,
}

impl Model {
    /// A hierarchy with nothing but its top, which is as the kernel makes it; a v1 cpuset has all that there is.
    pub fn new(ground: Ground) -> Self {
        let mut top = Node::default();
        if ground.version == Version::V1 {
            top.cpuset = cpuset::Cpuset::whole(&ground);
        }
        let nodes = BTreeMap::from([(GroupPath::root(), top)]);
        Self { ground, nodes, places: BTreeMap::new(), born: 0 }
    }

    pub fn exists(&self, group: &GroupPath) -> bool {
        self.nodes.contains_key(group)
    }

    fn v1(&self) -> bool {
        self.ground.version == Version::V1
    }

    fn node(&self, group: &GroupPath) -> Result<&Node, Errno> {
        self.nodes.get(group).ok_or(Errno::ENOENT)
    }

    fn change(&mut self, group: &GroupPath) -> &mut Node {
        self.nodes.entry(group.clone()).or_default()
    }

    fn children(&self, group: &GroupPath) -> Vec<GroupPath> {
        self.nodes.keys().filter(|p| p.up().as_ref() == Some(group)).cloned().collect()
    }

    /// Processes of the group itself.
    pub fn members(&self, group: &GroupPath) -> Vec<Process> {
        self.places.iter().filter(|(_, p)| *p == group).map(|(process, _)| *process).collect()
    }

    /// Is anybody in the group or below?
    fn populated(&self, group: &GroupPath) -> bool {
        self.places.values().any(|p| p == group || p.is_below(group))
    }

    /// A process that was outside, or that nobody has seen before.
    pub fn arrives(&mut self, group: &GroupPath) -> Result<Process, Errno> {
        let process = self.born;
        self.attach(process, group)?;
        self.born += 1;
        Ok(process)
    }

    /// That many processes exist outside.
    pub fn begin_with(&mut self, processes: usize) {
        self.born = processes;
    }

    /// Whose the group is. It has to exist.
    pub fn mark(&self, group: &GroupPath) -> &Marked {
        &self.nodes[group].mark
    }

    pub fn mark_mut(&mut self, group: &GroupPath) -> &mut Marked {
        &mut self.change(group).mark
    }

    /// Every file of a group that exists, with what it says.
    pub fn everything(&self, group: &GroupPath) -> impl Iterator<Item = (&'static str, String)> {
        self.files(group).into_iter().map(|file| (file, self.text(group, file)))
    }

    fn text(&self, group: &GroupPath, file: &str) -> String {
        match file.split('.').next().unwrap_or_default() {
            "cpu" => self.read_cpu(group, file),
            "cpuset" => self.read_cpuset(group, file),
            "memory" => self.read_memory(group, file),
            _ => self.read_small(group, file),
        }
    }

    /// Where a process is.
    pub fn place(&self, process: Process) -> Option<&GroupPath> {
        self.places.get(&process)
    }

    /// The controllers that the group's files come from.
    fn has(&self, group: &GroupPath) -> BTreeSet<&'static str> {
        match group.up() {
            _ if self.v1() => self.ground.controllers.iter().copied().collect(),
            None => self.ground.controllers.iter().copied().collect(),
            Some(up) => self.nodes[&up].handed.clone(),
        }
    }
}

/// The files that the model follows on such a hierarchy.
pub fn tracked(ground: &Ground) -> Vec<&'static str> {
    ground.controllers.iter().copied().chain(["core"]).flat_map(|c| files_of(c, ground.version)).copied().collect()
}

fn files_of(controller: &str, version: Version) -> &'static [&'static str] {
    match (controller, version) {
        ("cpu", _) => cpu::files(version),
        ("cpuset", _) => cpuset::files(version),
        ("memory", _) => memory::files(version),
        ("pids", _) => small::PIDS,
        ("freezer", Version::V1) => small::FREEZER,
        ("core", Version::V2) => small::CORE,
        _ => &[],
    }
}

impl Cgroups for Model {
    fn mkdir(&mut self, group: &GroupPath) -> Result<(), Errno> {
        let up = group.up().ok_or(Errno::EEXIST)?;
        let above = self.node(&up)?;
        if self.exists(group) {
            return Err(Errno::EEXIST);
        }
        let born = Node { memory: above.memory.heir(), cpuset: above.cpuset.heir(), ..Node::default() };
        self.room_for(group)?;
        self.nodes.insert(group.clone(), born);
        Ok(())
    }

    fn rmdir(&mut self, group: &GroupPath) -> Result<(), Errno> {
        self.node(group)?;
        if group.is_root() || !self.children(group).is_empty() || !self.members(group).is_empty() {
            return Err(Errno::EBUSY);
        }
        self.nodes.remove(group);
        Ok(())
    }

    fn write(&mut self, group: &GroupPath, file: &str, value: &str) -> Result<(), Errno> {
        let value = value.trim();
        self.node(group)?;
        if !self.files(group).contains(&file) {
            // A file that does not exist cannot be made: cgroup file systems have no create.
            return Err(Errno::ENOENT);
        }
        match file.split('.').next().unwrap_or_default() {
            "cpu" => self.write_cpu(group, file, value),
            "cpuset" => self.write_cpuset(group, file, value),
            "memory" => self.write_memory(group, file, value),
            "cgroup" if file == "cgroup.subtree_control" => self.hand_down(group, value),
            _ => self.write_small(group, file, value),
        }
    }

    fn read(&self, group: &GroupPath, file: &str) -> Result<String, Errno> {
        self.node(group)?;
        if !self.files(group).contains(&file) {
            return Err(Errno::ENOENT);
        }
        Ok(self.text(group, file))
    }

    fn attach(&mut self, process: Process, group: &GroupPath) -> Result<(), Errno> {
        self.node(group)?;
        if self.v1() {
            self.cpuset_takes(group)?;
        } else {
            self.domain_takes(group)?;
        }
        self.places.insert(process, group.clone());
        Ok(())
    }

    fn leave(&mut self, process: Process) {
        self.places.remove(&process);
    }

    fn fork(&mut self, process: Process) -> Result<Process, Errno> {
        let place = self.places.get(&process).cloned();
        if let Some(place) = &place {
            self.room_for_a_process(place)?;
        }
        let child = self.born;
        self.born += 1;
        self.places.extend(place.map(|place| (child, place)));
        Ok(child)
    }

    fn kill(&mut self, process: Process) {
        self.places.remove(&process);
    }

    fn groups(&self) -> Vec<(GroupPath, Vec<Process>)> {
        self.nodes.keys().map(|p| (p.clone(), self.members(p))).collect()
    }

    fn files(&self, group: &GroupPath) -> Vec<&'static str> {
        let controllers = self.has(group);
        let names = controllers.iter().copied().chain(["core"]).flat_map(|c| files_of(c, self.ground.version)).copied();
        names.filter(|name| !self.ground.lacks.contains(name)).collect()
    }
}

/// A number as kstrtoull and its kin read it: decimal here; what is larger than the type is ERANGE.
fn number(text: &str) -> Result<i128, Errno> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Errno::EINVAL);
    }
    text.parse().map_err(|_| Errno::ERANGE)
}

/// A number that may not be negative.
fn unsigned(text: &str) -> Result<u64, Errno> {
    if text.starts_with('-') {
        return Err(Errno::EINVAL);
    }
    u64::try_from(number(text)?).map_err(|_| Errno::ERANGE)
}

fn signed(text: &str) -> Result<i64, Errno> {
    i64::try_from(number(text)?).map_err(|_| Errno::ERANGE)
}
