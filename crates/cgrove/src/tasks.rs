//! Processes: which ones the pid files name, where they belong, and moving the misplaced. One pass over /proc
//! serves all pid files and hierarchies. Blocking; the reconciler calls it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cgrove_cgroupfs::attach::{self, Misplaced, Move, Origins, Scene};
use cgrove_cgroupfs::host::Host;
use cgrove_cgroupfs::{Fault, pidfile, procs};
use cgrove_core::desired::Desired;
use cgrove_core::ids::GroupPath;
use cgrove_core::placement::{Claim, Placement, place};

use crate::config::Config;

/// A process that forks while we move its children is followed this often in one go.
const PASSES: usize = 20;

/// What a look at all pid files and processes gave.
pub(crate) struct Look {
    pub(crate) placement: Placement,
    pub(crate) misplaced: Misplaced,
    /// Pid files that named a process.
    pub(crate) named: usize,
    /// Pid files and claims that were not believed, each with its reason.
    pub(crate) problems: Vec<String>,
}

/// What a whole synchronisation came to.
pub(crate) struct Synced {
    pub(crate) look: Look,
    pub(crate) moved: usize,
    pub(crate) faults: Vec<(Move, Fault)>,
    /// What it means for systemd, one line a unit.
    pub(crate) left_units: Vec<String>,
}

/// What a look, and what comes of it, is about.
pub(crate) struct Subject<'a> {
    pub(crate) config: &'a Config,
    pub(crate) host: &'a Host,
    pub(crate) desired: &'a Desired,
    /// Declared groups that belong to others, as the plan found them.
    pub(crate) refused: &'a dyn Fn(&str, &GroupPath) -> bool,
}

impl Subject<'_> {
    /// Looks, changes nothing.
    pub(crate) fn look(&self, origins: &mut Origins) -> Look {
        let (claims, mut problems) = claims(self.config, self.desired);
        let processes = procs::scan();
        origins.retain(&processes);
        let daemon = i32::try_from(std::process::id()).unwrap_or(0);
        let mut placement = place(&claims, &processes, daemon);
        problems.append(&mut placement.problems);
        let scene = Scene {
            host: self.host,
            identity: &self.config.cgroup.identity,
            desired: self.desired,
            protected: &self.config.cgroup.policy.protected,
            refused: self.refused,
        };
        let misplaced = scene.misplaced(&placement, origins);
        Look { placement, misplaced, named: claims.len(), problems }
    }

    /// Moves what is misplaced, until a pass finds nothing new.
    pub(crate) fn sync(&self, origins: &mut Origins) -> Synced {
        let mut moved = BTreeSet::new();
        let mut faults: Vec<(Move, Fault)> = Vec::new();
        let mut pass = 0;
        loop {
            let look = self.look(origins);
            let same = |f: &Move, m: &Move| (f.pid, f.start, &f.hierarchy) == (m.pid, m.start, &m.hierarchy);
            let refused = |m: &Move| faults.iter().any(|(f, _)| same(f, m));
            let moves: Vec<Move> = look.misplaced.moves.iter().filter(|m| !refused(m)).cloned().collect();
            pass += 1;
            if moves.is_empty() || pass > PASSES {
                return Synced { look, moved: moved.len(), faults, left_units: origins.units() };
            }
            let result = attach::run(self.host, self.config.parents(), &moves);
            origins.left(&moves, &result.done);
            moved.extend(result.done);
            faults.extend(result.faults);
        }
    }
}

/// Every pid that a source names, in document order.
fn claims(config: &Config, desired: &Desired) -> (Vec<Claim>, Vec<String>) {
    let (mut configured, mut problems) = config.pid_files(&desired.groups.keys().collect::<Vec<_>>());
    let mut claims = Vec::new();
    for (path, group) in &desired.groups {
        let more = configured.remove(path).unwrap_or_default();
        for pattern in group.pid_files.iter().chain(&more) {
            for file in expand(pattern) {
                match pidfile::read(&file, config.tasks.follow_symlinks) {
                    Ok((pid, start)) => {
                        claims.push(Claim { group: path.clone(), pid, start, source: file.display().to_string() });
                    }
                    Err(why) => problems.push(format!("{}: {why} ({path})", file.display())),
                }
            }
        }
    }
    (claims, problems)
}

/// A glob's files in name order; a plain path as it is.
fn expand(pattern: &str) -> Vec<PathBuf> {
    if !is_glob(pattern) {
        return vec![pattern.into()];
    }
    glob::glob(pattern).into_iter().flatten().flatten().collect()
}

fn is_glob(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// The directories in which pid files may appear, to be watched.
pub(crate) fn directories(config: &Config, desired: &Desired) -> BTreeSet<PathBuf> {
    let (configured, _) = config.pid_files(&desired.groups.keys().collect::<Vec<_>>());
    let patterns = desired.groups.values().flat_map(|g| &g.pid_files).chain(configured.values().flatten());
    let mut out = BTreeSet::new();
    for pattern in patterns {
        let mut fixed = Path::new(pattern);
        while let Some(up) = fixed.parent() {
            fixed = up;
            if !is_glob(&fixed.to_string_lossy()) {
                break;
            }
        }
        out.insert(fixed.to_owned());
        if is_glob(pattern) {
            out.extend(expand(pattern).iter().filter_map(|f| f.parent()).map(Path::to_owned));
        }
    }
    out
}

/// How many processes each group has.
pub(crate) fn counts(placement: &Placement) -> impl Iterator<Item = (&GroupPath, usize)> {
    placement.groups.iter().map(|(path, targets)| (path, targets.len()))
}
