//! One reconcile, blocking: observe, plan, apply, move processes, remove. Used by the daemon and by `cgrove apply`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cgrove_cgroupfs::apply::{Apply, Outcome};
use cgrove_cgroupfs::attach::Origins;
use cgrove_cgroupfs::host::Host;
use cgrove_cgroupfs::lock::{Lock, LockError};
use cgrove_cgroupfs::observe::Scope;
use cgrove_cgroupfs::paths::Tree;
use cgrove_cgroupfs::{Fault, lock};
use cgrove_core::actual::Actual;
use cgrove_core::desired::Desired;
use cgrove_core::ids::GroupPath;
use cgrove_core::plan::{Action, Approval, Op, Plan, Removal, plan};

use crate::config::Config;
use crate::source::last_good;
use crate::tasks::{self, Synced};

/// What holds between rounds.
pub(crate) struct Engine {
    pub(crate) config: Arc<Config>,
    lock: Lock,
    origins: Origins,
    /// Removals that were approved and are not finished.
    approved: BTreeSet<Removal>,
}

/// What a round did.
pub(crate) struct Round {
    pub(crate) plan: Plan,
    pub(crate) outcomes: Vec<(Action, Outcome)>,
    pub(crate) tasks: Synced,
    pub(crate) faults: Vec<Fault>,
    /// Directories of the managed tree, for inotify.
    pub(crate) directories: Vec<PathBuf>,
}

/// Why a round did not happen at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Engine {
    /// Locks the parent: one daemon each.
    pub(crate) fn new(config: Arc<Config>) -> Result<Self, EngineError> {
        let host = Host::discover(&config.cgroup.dir)?;
        let mut lock = lock::Lock::default();
        lock.acquire(&host, config.parent())?;
        Ok(Self { config, lock, origins: Origins::default(), approved: BTreeSet::new() })
    }

    /// Goes on with another configuration, keeping the lock where the parent is the same.
    pub(crate) fn reconfigure(self, config: Arc<Config>) -> Result<Self, EngineError> {
        if self.config.parent() != config.parent() || self.config.cgroup.dir != config.cgroup.dir {
            drop(self);
            return Self::new(config);
        }
        Ok(Self { config, ..self })
    }

    /// Makes the kernel's tree equal to `desired`, as far as the guard allows. `previous` is the digest of the
    /// document that was in force before, the first time this one is applied.
    pub(crate) fn reconcile(&mut self, desired: &Desired, previous: Option<String>) -> Result<Round, EngineError> {
        let config = self.config.clone();
        let (host, actual) = observe(&config, desired)?;
        let approval =
            Approval { previous, digests: approvals(&config.tree.state_dir), removals: self.approved.clone() };
        let plan = plan(desired, &actual, &config.cgroup.policy, &approval);
        self.remember_approval(&plan);
        let mut apply = Apply::new(&host, &config.cgroup.identity, &actual, &plan.actions);
        let mut outcomes = Vec::new();
        let is_removal = |a: &&Action| a.op == Op::Remove;
        for action in plan.due().filter(|a| !is_removal(a)) {
            outcomes.push((action.clone(), apply.run(action)));
        }
        // A parent that was just made is ours from now on.
        self.lock.acquire(&host, config.parent())?;
        let tasks = tasks::sync(&config, &host, desired, &mut self.origins);
        for action in plan.due().filter(is_removal) {
            let outcome = apply.run(action);
            if !matches!(outcome, Outcome::Failed { .. }) {
                self.approved.remove(&(action.hierarchy.clone(), action.group.clone()));
            }
            outcomes.push((action.clone(), outcome));
        }
        let faults = apply.finish();
        let directories = directories(&config, &host, desired);
        Ok(Round { plan, outcomes, tasks, faults, directories })
    }

    /// Only the processes.
    pub(crate) fn sync_tasks(&mut self, desired: &Desired) -> Result<Synced, EngineError> {
        let host = Host::discover(&self.config.cgroup.dir)?;
        Ok(tasks::sync(&self.config, &host, desired, &mut self.origins))
    }

    /// An approval counts for the removals that it named, until they are done, and for no others.
    fn remember_approval(&mut self, plan: &Plan) {
        let Some(guard) = &plan.guard else {
            self.approved.clear();
            return;
        };
        if guard.approved {
            let removals = plan.due().filter(|a| a.op == Op::Remove);
            self.approved = removals.map(|a| (a.hierarchy.clone(), a.group.clone())).collect();
            let _ = fs::remove_file(approvals_dir(&self.config.tree.state_dir).join(&guard.digest));
        }
    }
}

/// The kernel's tree as the document concerns it.
pub(crate) fn observe(config: &Config, desired: &Desired) -> Result<(Host, Actual), Fault> {
    let host = Host::discover(&config.cgroup.dir)?;
    let scope = Scope { host: &host, identity: &config.cgroup.identity, desired, prune: config.prune() };
    let actual = scope.observe()?;
    Ok((host, actual))
}

fn directories(config: &Config, host: &Host, desired: &Desired) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for mount in host.with(desired.controllers) {
        let tree = Tree::new(mount, config.parent());
        out.push(tree.dir(&GroupPath::root()));
        out.extend(desired.groups_in(mount.controllers).map(|(path, _)| tree.dir(path)));
    }
    out
}

const BEGUN: &str = "begun";

/// The digest of the document whose first round is over: its `allow_removals` has counted, across restarts.
pub(crate) fn begun(state_dir: &Path) -> Option<String> {
    fs::read_to_string(state_dir.join(BEGUN)).ok()
}

/// Notes that a document's first round is over.
pub(crate) fn begin(state_dir: &Path, digest: &str) -> io::Result<()> {
    last_good::make_dir(state_dir)?;
    fs::write(state_dir.join(BEGUN), digest)
}

/// Where approvals lie, one empty file for each digest.
pub(crate) fn approvals_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("approved")
}

/// The digests that an operator approved.
pub(crate) fn approvals(state_dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(approvals_dir(state_dir)).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).collect()
}

/// Lets held removals go; the daemon sees the file appear.
pub(crate) fn approve(state_dir: &Path, digest: &str) -> io::Result<()> {
    last_good::make_dir(state_dir)?;
    let dir = approvals_dir(state_dir);
    last_good::make_dir(&dir)?;
    fs::File::create(dir.join(digest)).map(|_| ())
}
