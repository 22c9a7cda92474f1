//! Puts processes into their groups: only what is misplaced moves, and never the wrong process.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap, HashSet};

use cgrove_core::actual::{Marked, Version};
use cgrove_core::desired::Desired;
use cgrove_core::ids::GroupPath;
use cgrove_core::placement::{Placement, Process, Target};
use cgrove_core::plan::{Protected, is_container, unit_of};
use nix::errno::Errno;
use serde::Serialize;

use crate::file::{Standing, proc_dir, put, text, trusted};
use crate::host::{Host, Mount, Parents, V2_LABEL};
use crate::mark::Identity;
use crate::paths::{Tree, cgroup_of};
use crate::{Fault, doing, procs};

/// Where the kernel shows everybody who is on the way out, in every v1 hierarchy.
const ROOT: &str = "/";

/// A process that is not where it belongs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Move {
    pub hierarchy: String,
    pub group: GroupPath,
    pub pid: i32,
    /// Start time, which tells it from a later process of the same pid.
    #[serde(skip)]
    pub start: u64,
    /// Where it is now, from the hierarchy's root.
    pub from: String,
    /// The systemd unit that it leaves, whose `systemctl stop` will not reach it there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

/// Where named processes came from, so that their children can still be told from a container's after the move.
#[derive(Debug, Default)]
pub struct Origins {
    shelters: HashMap<(i32, String), (u64, Option<GroupPath>)>,
    /// The systemd units that moved processes left, and for which group.
    units: BTreeMap<(i32, u64), (String, GroupPath)>,
}

impl Origins {
    /// Remembers what units a batch of moves took processes from.
    pub fn left(&mut self, moves: &[Move], done: &[(i32, u64)]) {
        let done: HashSet<&(i32, u64)> = done.iter().collect();
        for step in moves.iter().filter(|m| done.contains(&(m.pid, m.start))) {
            if let Some(unit) = &step.unit {
                self.units.insert((step.pid, step.start), (unit.clone(), step.group.clone()));
            }
        }
    }

    /// One line for each unit whose processes were moved and still run.
    pub fn units(&self) -> Vec<String> {
        let mut by_unit: BTreeMap<(&String, &GroupPath), Vec<i32>> = BTreeMap::new();
        for ((pid, _), (unit, group)) in &self.units {
            by_unit.entry((unit, group)).or_default().push(*pid);
        }
        let line = |((unit, group), pids): ((&String, &GroupPath), Vec<i32>)| left_unit(unit, group, &pids);
        by_unit.into_iter().map(line).collect()
    }

    /// Drops processes that no longer run.
    pub fn retain(&mut self, processes: &cgrove_core::placement::Processes) {
        let runs = |pid: &i32, start: &u64| processes.get(pid).is_some_and(|p| p.start == *start);
        self.shelters.retain(|(pid, _), (start, _)| runs(pid, start));
        self.units.retain(|(pid, start), _| runs(pid, start));
    }
}

/// What it means that processes leave a systemd unit.
pub fn left_unit(unit: &str, group: &GroupPath, pids: &[i32]) -> String {
    let some: Vec<_> = pids.iter().take(5).map(ToString::to_string).collect();
    let more = if pids.len() > 5 { format!(" and {} more", pids.len() - 5) } else { String::new() };
    let what = if unit.ends_with(".scope") {
        "a scope without processes ends for systemd"
    } else {
        "`systemctl stop` will reach it only if it is the unit's main process"
    };
    format!("{unit}: pid {}{more} moved to {group}: {what}", some.join(", "))
}

/// What there is to move, and what is left alone with the reason.
#[derive(Debug, Default)]
pub struct Misplaced {
    pub moves: Vec<Move>,
    pub left_alone: Vec<String>,
}

/// What a placement is compared with.
pub struct Scene<'a> {
    pub host: &'a Host,
    pub identity: &'a Identity,
    pub desired: &'a Desired,
    pub protected: &'a Protected,
    /// Tells, by hierarchy, which declared groups belong to others: nothing is put there.
    pub refused: &'a dyn Fn(&str, &GroupPath) -> bool,
}

impl Scene<'_> {
    /// Compares a placement with the kernel, hierarchy by hierarchy.
    pub fn misplaced(&self, placement: &Placement, origins: &mut Origins) -> Misplaced {
        let mut out = Misplaced::default();
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own_unit = cgroup_of(&own, V2_LABEL).and_then(|place| unit_of(&place).map(str::to_owned));
        let mut seen = Seen::default();
        for mount in self.host.with(self.desired.controllers) {
            let tree = Tree::new(mount, &self.identity.parents);
            seen.shelters.clear();
            for (path, targets) in &placement.groups {
                let here = self.desired.groups.get(path).is_some_and(|g| g.controllers.intersects(mount.controllers));
                if here && !(self.refused)(&mount.label, path) {
                    Check { scene: self, mount, tree: &tree, path, own_unit: &own_unit }
                        .run(targets, origins, &mut seen, &mut out);
                }
            }
        }
        out
    }
}

struct Check<'a> {
    scene: &'a Scene<'a>,
    mount: &'a Mount,
    tree: &'a Tree,
    path: &'a GroupPath,
    own_unit: &'a Option<String>,
}

/// What was found out on the way, so that it is asked once.
#[derive(Default)]
struct Seen {
    /// Of each place in this hierarchy that processes come from, the protected group that it lies in.
    shelters: HashMap<String, Option<GroupPath>>,
    /// What /proc/PID/cgroup says of processes with one thread, it has all hierarchies; and is it on its way out?
    cgroups: HashMap<i32, (Option<String>, OnceCell<bool>)>,
}

/// Why a process is not put into a group that a `master` controls, or does not follow whom it descends from.
fn whose(target: &Target, master: Option<u32>) -> Option<String> {
    let user = |pid: i32| procs::user(&proc_dir(pid));
    let own = || user(target.process.pid);
    if let Some(master) = master.filter(|master| own() != Some(*master)) {
        return Some(format!("the group is user {master}'s, who could freeze and kill it"));
    }
    // A set-user-ID program that a user's process began.
    let named = user(target.named).filter(|user| target.named != target.process.pid && !trusted(*user))?;
    (own() != Some(named)).then(|| format!("it descends from user {named}'s pid {}, but is not his", target.named))
}

impl Check<'_> {
    fn run(&self, targets: &[Target], origins: &mut Origins, seen: &mut Seen, out: &mut Misplaced) {
        let seat = self.tree.seat(self.path);
        let Ok(listed) = text(&self.tree.procs(&seat)) else {
            return; // The group is not there (yet); its creation is the plan's business.
        };
        let master = self.tree.master(&seat);
        let listed: HashSet<i32> = listed.lines().filter_map(|l| l.parse().ok()).collect();
        for target in targets {
            let process = target.process;
            // cgroup.procs names a process as soon as one thread is inside; with a single thread that is all.
            if process.threads == 1 && listed.contains(&process.pid) {
                continue;
            }
            let Some(from) = self.outside(process.pid, process.threads, &seat, seen) else {
                continue;
            };
            if let Some(why) = whose(target, master) {
                out.left_alone.push(format!("pid {} stays in {from} ({}): {why}", process.pid, self.mount.label));
                continue;
            }
            let key = |pid| (pid, self.mount.label.clone());
            let now = seen.shelters.entry(from.clone()).or_insert_with(|| self.shelter(&from)).clone();
            if target.by_pid {
                let known = origins.shelters.get(&key(process.pid)).is_some_and(|(start, _)| *start == process.start);
                if !known {
                    origins.shelters.insert(key(process.pid), (process.start, now));
                }
            } else if let Some(shelter) = now
                && origins.shelters.get(&key(target.named)).and_then(|(_, origin)| origin.as_ref()) != Some(&shelter)
            {
                out.left_alone.push(format!(
                    "pid {} stays in {from} ({}): {shelter} is protected",
                    process.pid, self.mount.label
                ));
                continue;
            }
            let (hierarchy, group) = (self.mount.label.clone(), self.path.clone());
            // On v1 systemd looks at a hierarchy of its own.
            let unit = unit_of(&from).filter(|_| self.mount.version == Version::V2).map(str::to_owned);
            let unit = unit.filter(|u| self.own_unit.as_ref() != Some(u));
            out.moves.push(Move { hierarchy, group, pid: process.pid, start: process.start, from, unit });
        }
    }

    /// The place of a thread that is neither in the group nor below it; `None` when all are, or the process is gone.
    fn outside(&self, pid: i32, threads: u32, seat: &GroupPath, seen: &mut Seen) -> Option<String> {
        let away = |text: &str| {
            let place = cgroup_of(text, &self.mount.label)?;
            let inside = self.tree.group_of(&place).is_some_and(|g| g == *seat || g.is_below(self.path));
            (!inside).then_some(place)
        };
        if threads == 1 {
            let dir = proc_dir(pid);
            let read = || (text(&dir.join("cgroup")).ok(), OnceCell::new());
            let (text, exiting) = seen.cgroups.entry(pid).or_insert_with(read);
            return away(text.as_deref()?).filter(|at| at != ROOT || !exiting.get_or_init(|| procs::exiting(&dir)));
        }
        let tasks = std::fs::read_dir(proc_dir(pid).join("task")).ok()?;
        tasks.flatten().find_map(|task| {
            away(&text(&task.path().join("cgroup")).ok()?).filter(|at| at != ROOT || !procs::exiting(&task.path()))
        })
    }

    /// Another cgrove's group that a place outside our parent lies in.
    fn others_mark(&self, place: &str) -> Option<GroupPath> {
        let mut path = GroupPath::root();
        let mut dir = self.tree.mount.clone();
        let mut marks = self.scene.identity.marks(self.mount);
        for name in place.split('/').filter(|n| !n.is_empty()) {
            (path, dir) = (path.child(name)?, dir.join(name));
            let mark = marks.read(&path, &dir, Standing::of(&dir).ok()?).here(false, false);
            if matches!(mark, Marked::Foreign(_)) {
                return Some(path);
            }
        }
        None
    }

    /// The protected group that a place lies in: the operator's, another cgrove's, or a container's.
    fn shelter(&self, place: &str) -> Option<GroupPath> {
        let group = self.tree.group_of(place);
        if let Some(group) = &group {
            if let Some(listed) = self.scene.protected.covers(group) {
                return Some(listed);
            }
            let chain = std::iter::once(group.clone()).chain(group.ancestors()).filter(|p| !p.is_root());
            let mut marks = self.scene.identity.marks(self.mount);
            for path in chain {
                let dir = self.tree.dir(&path);
                let declared = self.scene.desired.groups.contains_key(&path);
                let Ok(standing) = Standing::of(&dir) else { continue };
                match marks.read(&path, &dir, standing).here(declared, false) {
                    Marked::Ours(_) => return None,
                    Marked::Foreign(_) => return Some(path),
                    Marked::No => {}
                }
            }
        }
        if group.is_none()
            && let Some(other) = self.others_mark(place)
        {
            return Some(other);
        }
        is_container(place).then(|| GroupPath::parse(place).ok()).flatten()
    }
}

/// What came of moving.
#[derive(Debug, Default)]
pub struct Moved {
    /// Processes that were moved, by pid and start time; once for each hierarchy.
    pub done: Vec<(i32, u64)>,
    pub faults: Vec<(Move, Fault)>,
}

/// Moves whole processes, in one batch: an isolated move waits milliseconds for the kernel, a run of them does not.
/// A process goes everywhere at once, so that it is made sure but once before and after that it is the one that was meant.
pub fn run(host: &Host, parents: &Parents, moves: &[Move]) -> Moved {
    let mut batch = Batch { host, parents, targets: BTreeMap::new(), out: Moved::default() };
    let mut by_process: BTreeMap<(i32, u64), Vec<&Move>> = BTreeMap::new();
    for step in moves {
        by_process.entry((step.pid, step.start)).or_default().push(step);
    }
    for (process, steps) in by_process {
        batch.process(process, &steps);
    }
    batch.out
}

struct Batch<'a> {
    host: &'a Host,
    parents: &'a Parents,
    /// The groups' files, opened once.
    targets: BTreeMap<(&'a str, &'a GroupPath), Result<std::fs::File, Fault>>,
    out: Moved,
}

impl<'a> Batch<'a> {
    fn process(&mut self, (pid, start): (i32, u64), steps: &[&'a Move]) {
        if procs::read(pid).is_none_or(|p| p.start != start) {
            return; // Gone, or another process by now.
        }
        let moved: Vec<&Move> = steps.iter().copied().filter(|step| self.step(step)).collect();
        let other = procs::read(pid).filter(|p| p.start != start);
        match other.filter(|_| !moved.is_empty()) {
            None => self.out.done.extend(moved.iter().map(|_| (pid, start))),
            Some(other) => self.undo(&other, &moved),
        }
    }

    /// One process into one group; says whether it went.
    fn step(&mut self, step: &'a Move) -> bool {
        let Some(mount) = self.host.mount(&step.hierarchy) else { return false };
        let tree = Tree::new(mount, self.parents);
        let key = (step.hierarchy.as_str(), &step.group);
        let path = || tree.procs(&tree.seat(&step.group));
        let target = self.targets.entry(key).or_insert_with(|| {
            let path = path();
            crate::file::open(&path).map_err(|e| Fault::new("open", &path, &e))
        });
        doing::at("move", &path());
        let fault = match target {
            Ok(file) => match nix::unistd::write(&*file, step.pid.to_string().as_bytes()) {
                Ok(_) => return true,
                Err(Errno::ESRCH) => return false,
                Err(errno) => Fault::new("move", &path(), &errno.into()).with_value(&step.pid.to_string()),
            },
            Err(fault) => fault.clone(),
        };
        self.out.faults.push((step.clone(), fault));
        false
    }

    /// Between the look and the writes the process died and its pid was given to another: that one goes back to where its
    /// parent is, which is where it was born.
    fn undo(&mut self, other: &Process, moved: &[&Move]) {
        let text = text(&proc_dir(other.parent).join("cgroup")).unwrap_or_default();
        for step in moved {
            let Some(mount) = self.host.mount(&step.hierarchy) else { continue };
            let Some(birthplace) = cgroup_of(&text, &mount.label) else { continue };
            let mut dir = mount.dir.clone();
            dir.extend(birthplace.split('/').filter(|c| !c.is_empty()));
            let path = dir.join("cgroup.procs");
            if let Err(e) = put(&path, &step.pid.to_string()) {
                let fault = Fault::new("move", &path, &e).with_value(&step.pid.to_string());
                self.out.faults.push(((*step).clone(), fault));
            }
        }
    }
}
