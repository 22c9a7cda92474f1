//! A model of the kernel's rules for groups, as far as plans meet them, and of what apply does with a plan.

use super::*;
use crate::knobs::IdSet;

/// Errors by their kernel names.
pub(super) type Refusal = &'static str;

/// One hierarchy.
#[derive(Debug, Clone)]
pub(super) struct Kernel {
    pub(super) version: Version,
    label: &'static str,
    controllers: Vec<Controller>,
    pub(super) groups: BTreeMap<GroupPath, Node>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Node {
    pub(super) files: BTreeMap<String, String>,
    pub(super) mark: Marked,
    pub(super) processes: u32,
}

const CPUS: &str = "0-3";
const PAGE: u64 = 4096;

impl Kernel {
    /// cgroup v1: one controller, the parent is the root.
    pub(super) fn v1(label: &'static str) -> Self {
        let controllers = label.split(',').filter_map(Controller::parse).collect();
        let mut kernel = Self { version: Version::V1, label, controllers, groups: BTreeMap::new() };
        let mut root = kernel.newborn();
        root.files.extend([("cpuset.cpus".into(), "0-3".into()), ("cpuset.mems".into(), "0".into())]);
        kernel.groups.insert(GroupPath::root(), root);
        kernel
    }

    /// cgroup v2: the parent is there, and hands nothing down yet.
    pub(super) fn v2() -> Self {
        let controllers = [Controller::Cpu, Controller::Cpuset, Controller::Memory, Controller::Pids].into();
        let mut kernel = Self { version: Version::V2, label: "unified", controllers, groups: BTreeMap::new() };
        kernel.groups.insert(GroupPath::root(), kernel.newborn());
        kernel.groups.get_mut(&GroupPath::root()).unwrap().files.insert("cgroup.subtree_control".into(), String::new());
        kernel
    }

    fn v2_files(controller: &str) -> &'static [(&'static str, &'static str)] {
        match controller {
            "cpu" => &[("cpu.weight", "100"), ("cpu.max", "max 100000"), ("cpu.idle", "0")],
            "cpuset" => &[("cpuset.cpus", ""), ("cpuset.mems", "")],
            "memory" => &[("memory.max", "max"), ("memory.high", "max"), ("memory.current", "0")],
            "pids" => &[("pids.max", "max")],
            _ => &[],
        }
    }

    fn newborn(&self) -> Node {
        let mut files: Vec<(&str, &str)> = Vec::new();
        if self.version == Version::V2 {
            files.push(("cgroup.subtree_control", ""));
        }
        for c in self.controllers.iter().filter(|_| self.version == Version::V1) {
            files.extend(match c {
                Controller::Cpu => {
                    [("cpu.shares", "1024"), ("cpu.cfs_quota_us", "-1"), ("cpu.cfs_period_us", "100000")].as_slice()
                }
                Controller::Cpuset => &[("cpuset.cpus", ""), ("cpuset.mems", "")],
                Controller::Memory => {
                    &[("memory.limit_in_bytes", "9223372036854771712"), ("memory.usage_in_bytes", "0")]
                }
                Controller::Pids => &[("pids.max", "max")],
                _ => &[],
            });
        }
        Node { files: files.into_iter().map(|(k, v)| (k.into(), v.into())).collect(), ..Node::default() }
    }

    fn children(&self, path: &GroupPath) -> Vec<GroupPath> {
        self.groups.keys().filter(|p| p.up().as_ref() == Some(path)).cloned().collect()
    }

    pub(super) fn mkdir(&mut self, path: &GroupPath) -> Result<(), Refusal> {
        let up = path.up().ok_or("EEXIST")?;
        if self.groups.contains_key(path) {
            return Err("EEXIST");
        }
        let parent = self.groups.get(&up).ok_or("ENOENT")?;
        let mut node = self.newborn();
        for c in parent.files.get("cgroup.subtree_control").into_iter().flat_map(|s| s.split_whitespace()) {
            node.files.extend(Self::v2_files(c).iter().map(|(k, v)| ((*k).into(), (*v).into())));
        }
        self.groups.insert(path.clone(), node);
        Ok(())
    }

    pub(super) fn rmdir(&mut self, path: &GroupPath) -> Result<(), Refusal> {
        let node = self.groups.get(path).ok_or("ENOENT")?;
        if node.processes > 0 || !self.children(path).is_empty() || path.is_root() {
            return Err("EBUSY");
        }
        self.groups.remove(path);
        Ok(())
    }

    /// A process, or several, into a group.
    pub(super) fn attach(&mut self, path: &GroupPath, processes: u32) -> Result<(), Refusal> {
        let node = self.groups.get_mut(path).ok_or("ENOENT")?;
        let inner = node.files.get("cgroup.subtree_control").is_some_and(|s| !s.is_empty());
        if inner && !path.is_root() {
            return Err("EBUSY");
        }
        let v1_cpuset = self.version == Version::V1 && self.controllers.contains(&Controller::Cpuset);
        if v1_cpuset && ["cpuset.cpus", "cpuset.mems"].iter().any(|f| node.files[*f].is_empty()) {
            return Err("ENOSPC");
        }
        node.processes += processes;
        Ok(())
    }

    pub(super) fn write(&mut self, path: &GroupPath, file: &str, value: &str) -> Result<(), Refusal> {
        let value = value.trim();
        let old = self.groups.get(path).ok_or("ENOENT")?.files.get(file).ok_or("ENOENT")?.clone();
        let new = match file {
            "cgroup.subtree_control" => return self.hand_down(path, value),
            "cpu.shares" => number(value)?.clamp(2, 262_144).to_string(),
            "cpu.weight" => in_range(value, 1, 10_000)?,
            "cpu.idle" => in_range(value, 0, 1)?,
            "cpu.cfs_period_us" => in_range(value, 1000, 1_000_000)?,
            "cpu.cfs_quota_us" => match value {
                "-1" => "-1".into(),
                value => in_range(value, 1000, i64::MAX)?,
            },
            "cpu.max" => bandwidth(value)?,
            "pids.max" if value == "max" => "max".into(),
            "pids.max" => in_range(value, 0, 4_194_304)?,
            "memory.max" | "memory.high" if value == "max" => "max".into(),
            "memory.limit_in_bytes" if value == "-1" => "9223372036854771712".into(),
            "memory.max" | "memory.high" | "memory.limit_in_bytes" => {
                (u64::try_from(number(value)?).map_err(|_| "EINVAL")? / PAGE * PAGE).to_string()
            }
            "cpuset.cpus" | "cpuset.mems" => self.cpuset(path, file, value)?,
            _ => return Err("EACCES"),
        };
        self.groups.get_mut(path).unwrap().files.insert(file.into(), new);
        if file.starts_with("cpu.cfs_")
            && let Err(refusal) = self.ratios(path)
        {
            self.groups.get_mut(path).unwrap().files.insert(file.into(), old);
            return Err(refusal);
        }
        Ok(())
    }

    /// v1: no child has a larger share of CPU time than its parent (sched/core.c, tg_cfs_schedulable_down).
    fn ratios(&self, path: &GroupPath) -> Result<(), Refusal> {
        let ratio = |p: &GroupPath| {
            let n = |f: &str| self.groups.get(p)?.files.get(f)?.parse::<f64>().ok();
            n("cpu.cfs_quota_us").filter(|q| *q >= 0.0).zip(n("cpu.cfs_period_us")).map(|(q, p)| q / p)
        };
        // The nearest limit above counts, for this group and for all below it.
        for p in self.groups.keys().filter(|p| *p == path || p.is_below(path)) {
            let above = std::iter::successors(p.up(), GroupPath::up).find_map(|a| ratio(&a));
            if let Some((own, above)) = ratio(p).zip(above)
                && own > above
            {
                return Err("EINVAL");
            }
        }
        Ok(())
    }

    /// v1: within the parent's, around the children's, and never empty below processes (cgroup/cpuset-v1.c).
    fn cpuset(&self, path: &GroupPath, file: &str, value: &str) -> Result<String, Refusal> {
        let set = |text: &str| text.parse::<IdSet>().map_err(|_| "EINVAL");
        let new = set(value)?;
        if !set(if file == "cpuset.cpus" { CPUS } else { "0" })?.is_superset(&new) {
            return Err("ERANGE");
        }
        if self.version == Version::V1 {
            let of = |p: &GroupPath| set(&self.groups[p].files[file]);
            if new.is_empty() && self.groups[path].processes > 0 {
                return Err("ENOSPC");
            }
            if !of(&path.up().ok_or("EACCES")?)?.is_superset(&new) {
                return Err("EACCES");
            }
            for child in self.children(path) {
                if !new.is_superset(&of(&child)?) {
                    return Err("EBUSY");
                }
            }
        }
        Ok(value.to_owned())
    }

    /// v2: `+cpu -io`; top-down, and only where no process is (cgroup-v2.rst, Enabling and Disabling).
    fn hand_down(&mut self, path: &GroupPath, value: &str) -> Result<(), Refusal> {
        for word in value.split_whitespace() {
            let (sign, name) = word.split_at(1);
            let given = match path.up() {
                None => self.controllers.iter().any(|c| c.name() == name),
                Some(up) => self.groups[&up].files["cgroup.subtree_control"].split_whitespace().any(|c| c == name),
            };
            if !given {
                return Err("ENOENT");
            }
            let node = self.groups.get_mut(path).unwrap();
            if node.processes > 0 && !path.is_root() && sign == "+" {
                return Err("EBUSY");
            }
            let enabled: BTreeSet<String> =
                node.files["cgroup.subtree_control"].split_whitespace().map(Into::into).collect();
            let children = self.children(path);
            let mut enabled_now = enabled;
            match sign {
                "+" if enabled_now.insert(name.into()) => {
                    for child in &children {
                        let files = Self::v2_files(name).iter().map(|(k, v)| ((*k).into(), (*v).into()));
                        self.groups.get_mut(child).unwrap().files.extend(files);
                    }
                }
                "-" => {
                    let used = |c: &GroupPath| {
                        self.groups[c].files["cgroup.subtree_control"].split_whitespace().any(|n| n == name)
                    };
                    if children.iter().any(used) {
                        return Err("EBUSY");
                    }
                    enabled_now.remove(name);
                    for child in &children {
                        let node = self.groups.get_mut(child).unwrap();
                        Self::v2_files(name).iter().for_each(|(k, _)| drop(node.files.remove(*k)));
                    }
                }
                _ => {}
            }
            let text = enabled_now.into_iter().collect::<Vec<_>>().join(" ");
            self.groups.get_mut(path).unwrap().files.insert("cgroup.subtree_control".into(), text);
        }
        Ok(())
    }

    /// What observing gives.
    pub(super) fn observe(&self) -> Hierarchy {
        let files = match self.version {
            Version::V1 => self.newborn().files.into_keys().collect(),
            Version::V2 => {
                let all = self.controllers.iter().flat_map(|c| Self::v2_files(c.name()));
                all.map(|(k, _)| (*k).to_owned()).chain(["cgroup.subtree_control".into()]).collect()
            }
        };
        let observed = |(path, node): (&GroupPath, &Node)| {
            let mut values = node.files.clone();
            if self.version == Version::V2 {
                values.insert("cgroup.procs".into(), "7\n".repeat(node.processes as usize));
            }
            (path.clone(), Group { mark: node.mark.clone(), values, ..Group::default() })
        };
        Hierarchy {
            label: self.label.into(),
            version: self.version,
            controllers: self.controllers.iter().copied().chain([Controller::Core]).collect(),
            at_root: self.version == Version::V1,
            present: true,
            complete: true,
            files,
            above: BTreeMap::new(),
            closed_above: ControllerSet::EMPTY,
            groups: self.groups.iter().map(observed).collect(),
        }
    }

    /// What apply does with one action, marks included; see cgroupfs/apply.rs.
    pub(super) fn run(&mut self, action: &Action, plan: &Plan) -> Result<(), Refusal> {
        let path = &action.group;
        match &action.op {
            Op::EnableAbove { .. } => Ok(()),
            Op::Settle => {
                let node = self.groups.get_mut(path).ok_or("ENOENT")?;
                let moving = std::mem::take(&mut node.processes);
                self.attach(&path.leaf(), moving)
            }
            Op::Create => {
                match self.mkdir(path) {
                    Ok(()) | Err("EEXIST") => {}
                    other => return other,
                }
                let node = self.groups.get_mut(path).unwrap();
                if matches!(node.mark, Marked::Foreign(_)) {
                    return Err("EEXIST");
                }
                self.announce(path, plan);
                Ok(())
            }
            Op::Adopt { files } => {
                self.announce(path, plan);
                let Marked::Ours(mark) = &mut self.groups.get_mut(path).ok_or("ENOENT")?.mark else { return Ok(()) };
                for (file, want) in files {
                    mark.files.insert(file.clone(), Set { want: want.clone(), ..Set::default() });
                }
                Ok(())
            }
            Op::Write(write) => {
                if self.groups.get(path).is_some_and(|n| matches!(n.mark, Marked::Ours(_))) {
                    self.announce(path, plan);
                }
                let mut first = None;
                for value in &write.to {
                    first = first.or(self.write(path, &write.file, value).err());
                }
                if let Some(refusal) = first {
                    return Err(refusal);
                }
                let node = self.groups.get_mut(path).unwrap();
                let now = node.files[&write.file].clone();
                let Marked::Ours(mark) = &mut node.mark else { return Ok(()) };
                match (&write.want, &write.record) {
                    (None, _) => {}
                    (Some(_), None) => drop(mark.files.remove(&write.file)),
                    (Some(want), Some(_)) => {
                        if let Some(set) = mark.files.get_mut(&write.file) {
                            set.kept = (!want.matches(&now, PAGE)).then(|| now.trim().to_owned());
                            set.before = None;
                        }
                    }
                }
                Ok(())
            }
            Op::Forget { file } => {
                if let Some(Node { mark: Marked::Ours(mark), .. }) = self.groups.get_mut(path) {
                    mark.files.remove(file);
                }
                Ok(())
            }
            Op::Remove => {
                let Some(node) = self.groups.get_mut(path) else { return Ok(()) };
                let moving = std::mem::take(&mut node.processes);
                let going = |p: &GroupPath| plan.due().any(|a| a.op == Op::Remove && a.group == *p);
                let mut above = std::iter::successors(path.up(), GroupPath::up).filter(|p| !going(p));
                let moved = moving == 0
                    || above.any(|p| {
                        let leaf = p.leaf();
                        let leafy = self.version == Version::V2 && self.groups.contains_key(&leaf) && leaf != *path;
                        self.attach(if leafy { &leaf } else { &p }, moving).is_ok()
                    });
                if !moved {
                    self.groups.get_mut(path).unwrap().processes = moving;
                    return Err("EBUSY");
                }
                self.rmdir(path)
            }
        }
    }

    /// The mark names what is about to be written, before it is.
    fn announce(&mut self, path: &GroupPath, plan: &Plan) {
        let parent = if self.version == Version::V1 { "/" } else { "/cgrove" };
        let Some(node) = self.groups.get_mut(path) else { return };
        if node.mark == Marked::No {
            node.mark = Marked::Ours(Mark {
                format: MARK_FORMAT,
                instance: "cgrove".into(),
                parent: parent.into(),
                files: BTreeMap::new(),
            });
        }
        let Marked::Ours(mark) = &mut node.mark else { return };
        for action in plan.due().filter(|a| a.group == *path && a.hierarchy == self.label) {
            if let Op::Write(Write { file, record: Some(want), .. }) = &action.op {
                let old = mark.files.get(file);
                if old.is_some_and(|o| o.want == *want) {
                    continue;
                }
                let before = old.and_then(|o| o.before.clone().or(Some(o.want.clone()))).filter(|b| b != want);
                mark.files.insert(file.clone(), Set { want: want.clone(), kept: None, before });
            }
        }
    }
}

fn number(text: &str) -> Result<i64, Refusal> {
    text.parse().map_err(|_| "EINVAL")
}

fn in_range(text: &str, least: i64, most: i64) -> Result<String, Refusal> {
    number(text).and_then(|n| if (least..=most).contains(&n) { Ok(n.to_string()) } else { Err("ERANGE") })
}

fn bandwidth(text: &str) -> Result<String, Refusal> {
    let (quota, period) = text.split_once(' ').unwrap_or((text, "100000"));
    let period = in_range(period, 1000, 1_000_000)?;
    let quota = if quota == "max" { "max".into() } else { in_range(quota, 1000, i64::MAX)? };
    Ok(format!("{quota} {period}"))
}
