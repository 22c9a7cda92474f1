//! The same random actions on the model and on the kernel. Each answer and, after it, everything that can be read has to
//! be the same.

use std::time::Instant;

use cgrove_cgroupfs::host::Mount;
use cgrove_core::actual::Version;
use cgrove_core::ids::GroupPath;

use crate::dice::Dice;
use crate::model::{Model, tracked};
use crate::real::{Real, SOON, pause};
use crate::{Cgroups, Errno, Process};

/// Processes that exist from the start, and how many there may be.
const PROCESSES: usize = 5;
const MOST: usize = 9;
/// Everything is compared this often; else the group of the action and its neighbours.
const WHOLE: u64 = 20;

/// One call.
#[derive(Debug, Clone)]
enum Action {
    Mkdir(GroupPath),
    Rmdir(GroupPath),
    Write(GroupPath, &'static str, &'static str),
    Attach(Process, GroupPath),
    Leave(Process),
    Fork(Process),
    Kill(Process),
}

/// What a run came to.
pub struct Run {
    pub actions: u64,
    /// Calls that both refused.
    pub refused: u64,
    /// Refusals that did not last: the kernel was late.
    pub late: u64,
    /// Files that are followed here.
    pub files: usize,
    /// The first difference, with what led to it.
    pub difference: Option<String>,
}

/// Plays on one hierarchy, below a group of that name.
pub fn run(mount: &Mount, name: &str, actions: u64, seed: u64) -> Result<Run, String> {
    let (mut real, ground) = Real::set(mount, name, PROCESSES)?;
    let mut model = Model::new(ground);
    model.begin_with(PROCESSES);
    let mut game = Game { dice: Dice::new(seed), files: tracked(&model.ground), alive: (0..PROCESSES).collect() };
    let mut out =
        Run { actions: 0, refused: 0, late: 0, files: game.files.len() - model.ground.lacks.len(), difference: None };
    let mut told: Vec<String> = Vec::new();
    while out.actions < actions {
        let action = game.choose(&model);
        let expected = perform(&mut model, &action);
        let mut found = perform(&mut real, &action);
        if expected.is_ok() && found.is_err_and(|errno| may_be_late(&action, errno)) {
            out.late += 1;
            found = patiently(&mut real, &action);
        }
        out.actions += 1;
        out.refused += u64::from(expected.is_err());
        told.push(format!("{action:?}: {found:?}"));
        game.note(&action, &found);
        let whole = out.actions.is_multiple_of(WHOLE) || out.actions == actions;
        let why = if expected == found {
            compare(&model, &real, &action, whole)
        } else {
            Some(format!("the model says {expected:?}"))
        };
        if let Some(why) = why {
            let last = told.split_off(told.len().saturating_sub(12)).join("\n    ");
            let tree = tree(&model).join("\n    ");
            out.difference =
                Some(format!("action {} (seed {seed}): {why}, after\n    {last}\n  in\n    {tree}", out.actions));
            break;
        }
    }
    Ok(out)
}

/// The kernel lets go of what was removed or has died after the call has returned: until then it may refuse what it
/// takes later. So its refusal of what the model allows has to last.
fn patiently(real: &mut Real, action: &Action) -> Result<Option<Process>, Errno> {
    let until = Instant::now() + SOON;
    loop {
        match perform(real, action) {
            Err(_) if Instant::now() < until => pause(),
            result => return result,
        }
    }
}

/// Groups that are busy with the dead, numbers of processes that still count them, CPU limits of groups that are gone.
fn may_be_late(action: &Action, errno: Errno) -> bool {
    match action {
        Action::Rmdir(_) => errno == Errno::EBUSY,
        Action::Fork(_) | Action::Mkdir(_) => errno == Errno::EAGAIN,
        Action::Write(_, file, _) => errno == Errno::EINVAL && file.starts_with("cpu.cfs_"),
        _ => false,
    }
}

fn perform(on: &mut dyn Cgroups, action: &Action) -> Result<Option<Process>, Errno> {
    match action {
        Action::Mkdir(group) => on.mkdir(group).map(|()| None),
        Action::Rmdir(group) => on.rmdir(group).map(|()| None),
        Action::Write(group, file, value) => on.write(group, file, value).map(|()| None),
        Action::Attach(process, group) => on.attach(*process, group).map(|()| None),
        Action::Leave(process) => {
            on.leave(*process);
            Ok(None)
        }
        Action::Fork(process) => on.fork(*process).map(Some),
        Action::Kill(process) => {
            on.kill(*process);
            Ok(None)
        }
    }
}

/// The first thing that can be read and differs.
fn compare(model: &Model, real: &Real, action: &Action, whole: bool) -> Option<String> {
    let near = |group: &GroupPath| match action {
        Action::Write(g, ..) => group == g || group.up().as_ref() == Some(g),
        Action::Mkdir(g) | Action::Rmdir(g) | Action::Attach(_, g) => {
            group == g || group.up().as_ref() == Some(g) || g.up().as_ref() == Some(group)
        }
        _ => false,
    };
    let expected = model.groups();
    // A setting moves nobody.
    if whole || !matches!(action, Action::Write(..)) {
        let found = real.groups();
        if expected != found {
            return Some(format!("groups and processes are {found:?}, not {expected:?}"));
        }
    }
    for (group, _) in expected.iter().filter(|(g, _)| whole || near(g)) {
        let (expected, found) = (model.files(group), real.files(group));
        let lacking: Vec<_> = expected.iter().filter(|f| !found.contains(f)).collect();
        if !lacking.is_empty() || expected.len() != found.len() {
            return Some(format!("{group} has the files {found:?}, not {expected:?}"));
        }
        for file in expected {
            let (expected, found) = (model.read(group, file), real.read(group, file));
            if expected != found {
                return Some(format!("{file} of {group} is {found:?}, not {expected:?}"));
            }
        }
    }
    None
}

/// The model's groups, with what is not as in a new one.
fn tree(model: &Model) -> Vec<String> {
    let new: Vec<_> = Model::new(model.ground.clone()).everything(&GroupPath::root()).collect();
    let line = |(group, members): &(GroupPath, Vec<Process>)| {
        let set = model.everything(group).filter(|pair| !new.contains(pair)).map(|(f, v)| format!("{f}={v:?}"));
        format!("{group} {members:?} {}", set.collect::<Vec<_>>().join(" "))
    };
    model.groups().iter().map(line).collect()
}

struct Game {
    dice: Dice,
    files: Vec<&'static str>,
    alive: Vec<Process>,
}

impl Game {
    fn note(&mut self, action: &Action, result: &Result<Option<Process>, Errno>) {
        match (action, result) {
            (Action::Fork(_), Ok(Some(child))) => self.alive.push(*child),
            (Action::Kill(process), _) => self.alive.retain(|p| p != process),
            _ => {}
        }
    }

    /// A group that is there, or that could be.
    fn group(&mut self, model: &Model) -> GroupPath {
        let groups: Vec<GroupPath> = model.groups().into_iter().map(|(g, _)| g).collect();
        groups[self.dice.roll(groups.len() as u64) as usize].clone()
    }

    fn child(&mut self, model: &Model) -> GroupPath {
        let up = self.group(model);
        let name = self.dice.pick(&["a", "b", "c"]);
        if up.depth() < 4 { up.child(name).unwrap_or(up) } else { up }
    }

    fn choose(&mut self, model: &Model) -> Action {
        let process = self.alive[self.dice.roll(self.alive.len() as u64) as usize];
        let at = model.place(process).cloned();
        // Nobody who is frozen answers, and v1 keeps the dead until they thaw.
        let asleep = at.as_ref().is_some_and(|g| model.frozen(g));
        match self.dice.roll(20) {
            0..=2 => Action::Mkdir(self.child(model)),
            3..=4 => Action::Rmdir(if self.dice.roll(2) == 0 { self.child(model) } else { self.group(model) }),
            5..=7 => Action::Attach(process, self.group(model)),
            8 => Action::Leave(process),
            9 if process < PROCESSES && !asleep && self.alive.len() < MOST => Action::Fork(process),
            10 if process >= PROCESSES && !asleep => Action::Kill(process),
            _ => {
                let group = if self.dice.roll(10) == 0 { self.child(model) } else { self.group(model) };
                let handing = model.ground.version == Version::V2 && self.dice.roll(3) == 0;
                let file = if handing {
                    "cgroup.subtree_control"
                } else {
                    self.files[self.dice.roll(self.files.len() as u64) as usize]
                };
                Action::Write(group, file, self.dice.pick(values(file)))
            }
        }
    }
}

/// Good values, borders, and what is beyond them.
fn values(file: &str) -> &'static [&'static str] {
    match file {
        "cpu.shares" => &["2", "1", "0", "100", "1024", "262144", "262145", "-1", "x", "99999999999999999999"],
        "cpu.weight" => &["1", "0", "100", "50", "10000", "10001", "-1", "", "33"],
        "cpu.weight.nice" => &["-20", "-21", "0", "19", "20", "5", "x"],
        "cpu.idle" => &["0", "1", "1", "2", "-1", "x"],
        "cpu.cfs_quota_us" => &["-1", "-1", "0", "999", "1000", "50000", "100000", "200000", "1000000", "x"],
        "cpu.cfs_period_us" => &["100000", "50000", "1000", "999", "1000000", "1000001", "-1", "x"],
        "cpu.cfs_burst_us" | "cpu.max.burst" => &["0", "1000", "50000", "100000", "-1", "x"],
        "cpu.max" => &[
            "max",
            "max 100000",
            "50000 100000",
            "1000",
            "999",
            "20000 1000001",
            "5000 1000",
            "max 999",
            "-1",
            "x",
            "50000 x",
            "200000 50000",
        ],
        "cpuset.cpus" => &["0", "1", "0-1", "", "0,1", "7", "1-0", "x", "900000", "0-"],
        "cpuset.mems" => &["0", "0", "", "1", "x", "99999"],
        "cpuset.sched_relax_domain_level" => &["-1", "0", "-2", "x"],
        file if file.starts_with("cpuset.") => &["0", "1", "1", "x", "-1", "2"],
        "memory.swappiness" => &["0", "60", "100", "200", "201", "-1", "x"],
        "memory.oom_control" => &["0", "1", "2", "x"],
        "memory.oom.group" => &["0", "1", "2", "-1", "x"],
        // Nothing that processes of ours would die of.
        file if file.starts_with("memory.") => {
            &["max", "-1", "64M", "16777217", "1G", "1T", "x", "64X", "-5", "9223372036854775807"]
        }
        "pids.max" => &["max", "0", "1", "2", "5", "4194304", "4194305", "-1", "x", ""],
        "freezer.state" => &["FROZEN", "THAWED", "THAWED", "FREEZING", "x", ""],
        "cgroup.freeze" => &["0", "0", "1", "2", "-1", "x"],
        "cgroup.max.depth" | "cgroup.max.descendants" => &["max", "max", "0", "1", "3", "-1", "x", "2147483648"],
        "cgroup.subtree_control" => &[
            "+cpu",
            "+cpu",
            "-cpu",
            "+cpuset",
            "-cpuset",
            "+memory",
            "+memory",
            "-memory",
            "+pids",
            "-pids",
            "+io",
            "-io",
            "+x",
            "cpu",
            "+cpu +memory",
            "+pids -cpu",
            "+memory -memory",
            "+cpu +cpuset +memory +pids",
            "-cpu -cpuset -memory -pids",
        ],
        _ => &["1", "x"],
    }
}
