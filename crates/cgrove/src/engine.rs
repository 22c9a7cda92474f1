//! One reconcile, blocking: observe, plan, apply, move processes, remove. Used by the daemon and by `cgrove apply`.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use cgrove_cgroupfs::Fault;
use cgrove_cgroupfs::apply::{Apply, Outcome};
use cgrove_cgroupfs::attach::Origins;
use cgrove_cgroupfs::host::Host;
use cgrove_cgroupfs::lock::{Lock, LockError};
use cgrove_cgroupfs::notices::{Ground, Place};
use cgrove_cgroupfs::observe::{Scope, lingering, parents_stand};
use cgrove_cgroupfs::paths::Tree;
use cgrove_core::actual::{Actual, Version};
use cgrove_core::desired::Desired;
use cgrove_core::ids::GroupPath;
use cgrove_core::plan::{Action, Approval, Op, Plan, Removal, covers, plan};
use tracing::field::Empty;

use crate::approvals;
use crate::exit::Exit;
use crate::progress::Progress;
use crate::pulse::Pulse;
use crate::tasks::{Sources, Subject, Synced};
use crate::traces::step;
use cgrove_config::Config;

/// What holds between rounds.
pub(crate) struct Engine {
    pub(crate) config: Arc<Config>,
    lock: Lock,
    origins: Origins,
    /// Removals that were approved and are not finished.
    approved: BTreeSet<Removal>,
    /// Declared groups that belong to others, as the last plan found them.
    refused: Vec<Removal>,
    /// The rules as they were last looked up.
    pub(crate) sources: Option<Sources>,
    /// Beats with each action.
    pub(crate) pulse: Option<Pulse>,
    /// Hears of each action of a long round.
    pub(crate) progress: Option<Progress>,
}

/// What a round did.
pub(crate) struct Round {
    pub(crate) plan: Plan,
    pub(crate) outcomes: Vec<(Action, Outcome)>,
    pub(crate) tasks: Synced,
    pub(crate) faults: Vec<Fault>,
    /// The managed tree, for inotify.
    pub(crate) places: Vec<Place>,
}

/// Why a round did not happen at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Fault(#[from] Fault),
    /// It was lent to work that panicked.
    #[error("a bug ended the round before this one")]
    Lost,
}

/// What another configuration needs of the kernel: the lock of its parent, where that is another one.
pub(crate) struct Claim(Option<Lock>);

impl Engine {
    /// Locks the parent: one daemon each.
    pub(crate) fn new(config: Arc<Config>) -> Result<Self, EngineError> {
        let host = Host::discover(&config.cgroup.dir)?;
        let mut lock = Lock::default();
        lock.acquire(&host, config.parents())?;
        Ok(Self::with(config, lock))
    }

    fn with(config: Arc<Config>, lock: Lock) -> Self {
        Self {
            config,
            lock,
            origins: Origins::default(),
            approved: BTreeSet::new(),
            refused: Vec::new(),
            sources: None,
            pulse: None,
            progress: None,
        }
    }

    /// Claims another configuration's parent, while the present one stays ours.
    pub(crate) fn claim(old: &Config, new: &Config) -> Result<Claim, Exit> {
        if old.parents() == new.parents() && old.cgroup.dir == new.cgroup.dir {
            return Ok(Claim(None));
        }
        let (here, there) = (Host::discover(&old.cgroup.dir)?, Host::discover(&new.cgroup.dir)?);
        for mount in &there.mounts {
            let dir = |config: &Config| Tree::new(mount, config.parents()).dir(&GroupPath::root());
            let (before, after) = (dir(old), dir(new));
            if here.mounts.contains(mount) && (before.starts_with(&after) || after.starts_with(&before)) {
                let (before, after) = (before.display(), after.display());
                return Err(Exit::config(format!(
                    "cgroup.parent: {after} and the present parent {before} are one inside the other: restart the daemon for that"
                )));
            }
        }
        let mut lock = Lock::default();
        lock.acquire(&there, new.parents()).map_err(EngineError::from)?;
        Ok(Claim(Some(lock)))
    }

    /// Goes on with another configuration, for which everything was claimed before.
    pub(crate) fn reconfigure(self, config: Arc<Config>, claim: Claim) -> Self {
        match claim.0 {
            Some(lock) => Self::with(config, lock),
            None => Self { config, ..self },
        }
    }

    /// Makes the kernel's tree equal to `desired`, as far as the guard allows. `previous` is the digest of the
    /// document that was in force before, the first time this one is applied.
    pub(crate) fn reconcile(&mut self, desired: &Desired, previous: Option<String>) -> Result<Round, EngineError> {
        let whole =
            step!("reconcile", digest = desired.digest, groups = desired.groups.len(), actions = Empty, failed = Empty);
        let config = self.config.clone();
        if let Some(progress) = &mut self.progress {
            progress.begin();
        }
        let made = make_parent(&config, desired)?;
        let Scenery { host, actual, desired } = {
            let _step = step!("observe");
            observe(&config, desired)?
        };
        if !made.is_empty() {
            // A parent that was just made is ours from now on.
            self.lock.acquire(&host, config.parents())?;
        }
        let desired = &*desired;
        let approval = approval(&config, previous, self.approved.clone());
        let mut plan = {
            let _step = step!("plan");
            plan(desired, &actual, &config.cgroup.policy, &approval)
        };
        self.remember_approval(&plan);
        let mut apply = Apply::new(&host, &config.cgroup.identity, &actual, &plan.actions);
        let prepared: Vec<Action> = made.iter().map(|(action, _)| action.clone()).collect();
        let mut outcomes = made;
        let is_removal = |a: &&Action| a.op == Op::Remove;
        let total = plan.due().count();
        let applying = step!("apply");
        for action in plan.due().filter(|a| !is_removal(a)) {
            self.beat(outcomes.len(), total);
            outcomes.push((action.clone(), apply.run(action)));
            if action.op == Op::Create && action.group.is_root() {
                // A parent that was just made is ours from now on.
                self.lock.acquire(&host, config.parents())?;
            }
        }
        drop(applying);
        self.refused.clone_from(&plan.refused);
        let refused = |hierarchy: &str, group: &GroupPath| plan.refuses(hierarchy, group);
        let subject = Subject { config: &config, host: &host, desired, refused: &refused };
        let (sources, tasks) = {
            let _step = step!("place processes");
            let sources = subject.sources();
            let tasks = subject.sync(&sources, &mut self.origins);
            (sources, tasks)
        };
        self.sources = Some(sources);
        let removing = step!("remove");
        let mut removed = false;
        for action in plan.due().filter(is_removal) {
            self.beat(outcomes.len(), total);
            let outcome = apply.run(action);
            if !matches!(outcome, Outcome::Failed { .. }) {
                self.approved.remove(&(action.hierarchy.clone(), action.group.clone()));
                removed = true;
            }
            outcomes.push((action.clone(), outcome));
        }
        if removed {
            // A parent may have waited for a child that was in its way.
            for (action, outcome) in &mut outcomes {
                if matches!((&action.op, &outcome), (Op::Write(_), Outcome::Failed { .. })) {
                    *outcome = apply.again(action);
                }
            }
        }
        let faults = apply.finish();
        drop(removing);
        whole.record("actions", outcomes.len());
        whole.record("failed", told_failures(&outcomes));
        // What the parent needed beforehand is part of what was planned and done.
        plan.actions.splice(0..0, prepared);
        let places = places(&config, &host, desired, &actual, &outcomes);
        Ok(Round { plan, outcomes, tasks, faults, places })
    }

    fn beat(&mut self, done: usize, total: usize) {
        if let Some(pulse) = &self.pulse {
            pulse.beat();
        }
        if let Some(progress) = &mut self.progress {
            progress.at(done, total);
        }
    }

    /// Only the processes. `prompted` by an event, the names in rules mean what they meant at the last look.
    pub(crate) fn sync_tasks(&mut self, desired: &Desired, prompted: bool) -> Result<Synced, EngineError> {
        let host = Host::discover(&self.config.cgroup.dir)?;
        let desired = &*with_lingering(&self.config, &host, desired);
        let refused = |hierarchy: &str, group: &GroupPath| covers(&self.refused, hierarchy, group);
        let subject = Subject { config: &self.config, host: &host, desired, refused: &refused };
        let sources = self.sources.take().filter(|_| prompted).unwrap_or_else(|| subject.sources());
        let synced = subject.sync(&sources, &mut self.origins);
        self.sources = Some(sources);
        Ok(synced)
    }

    /// An approval counts for the removals that it named, until they are done, and for no others. What is held stays
    /// held, also after a restart, until it is approved or no longer asked for.
    fn remember_approval(&mut self, plan: &Plan) {
        let state_dir = &self.config.tree.state_dir;
        let Some(guard) = &plan.guard else {
            self.approved.clear();
            approvals::keep_held(&self.config, &BTreeSet::new());
            return;
        };
        let removals = plan.actions.iter().filter(|a| a.op == Op::Remove);
        let removals: BTreeSet<Removal> = removals.map(|a| (a.hierarchy.clone(), a.group.clone())).collect();
        if guard.approved {
            self.approved = removals;
            approvals::keep_held(&self.config, &BTreeSet::new());
            approvals::used(state_dir, &guard.digest);
        } else {
            approvals::keep_held(&self.config, &removals);
        }
    }
}

/// Failures become events of the span around; returns how many there were.
fn told_failures(outcomes: &[(Action, Outcome)]) -> usize {
    let mut failed = 0;
    for (action, outcome) in outcomes {
        if let Outcome::Failed { fault } = outcome {
            failed += 1;
            let (hierarchy, group) = (&action.hierarchy, action.group.as_str());
            tracing::error!(target: crate::traces::TARGET, hierarchy, group, errno = fault.code, "{fault}");
        }
    }
    failed
}

/// What a document is compared with.
pub(crate) struct Scenery<'a> {
    pub(crate) host: Host,
    pub(crate) actual: Actual,
    /// The document's tree, also in hierarchies that still hold it.
    pub(crate) desired: Cow<'a, Desired>,
}

/// What lets held removals go, and what is held.
pub(crate) fn approval(config: &Config, previous: Option<String>, removals: BTreeSet<Removal>) -> Approval {
    let state_dir = &config.tree.state_dir;
    Approval { previous, digests: approvals::given(state_dir), removals, held: approvals::held(config) }
}

fn with_lingering<'a>(config: &Config, host: &Host, desired: &'a Desired) -> Cow<'a, Desired> {
    let more = lingering(host, &config.cgroup.identity, desired);
    if more.is_empty() { Cow::Borrowed(desired) } else { Cow::Owned(desired.also_in(more)) }
}

/// The kernel's tree as the document concerns it.
pub(crate) fn observe<'a>(config: &Config, desired: &'a Desired) -> Result<Scenery<'a>, Fault> {
    let host = Host::discover(&config.cgroup.dir)?;
    let desired = with_lingering(config, &host, desired);
    let host = host.knowing(desired.device_paths());
    let scope = Scope { host: &host, identity: &config.cgroup.identity, desired: &desired, prune: config.prune() };
    let actual = scope.observe()?;
    Ok(Scenery { host, actual, desired })
}

/// v2: the parent with its controllers, before anything is planned below it: only then a group shows which files
/// groups have here. Nothing to do on v1, or once it stands. Returns what was done; what failed is planned again.
pub(crate) fn make_parent(config: &Config, desired: &Desired) -> Result<Vec<(Action, Outcome)>, Fault> {
    let host = Host::discover(&config.cgroup.dir)?;
    if parents_stand(&host, &config.cgroup.identity.parents, desired) {
        return Ok(Vec::new());
    }
    let Scenery { host, actual, desired } = observe(config, desired)?;
    let plan = plan(&desired, &actual, &config.cgroup.policy, &Approval::default());
    let unfinished =
        |label: &str| actual.hierarchies.iter().any(|h| h.label == label && !h.complete && h.version == Version::V2);
    let of_parent = |a: &&Action| {
        unfinished(&a.hierarchy) && (a.group.is_root() || a.group == GroupPath::root().leaf()) && a.op != Op::Remove
    };
    let actions: Vec<Action> = plan.due().filter(of_parent).cloned().collect();
    let mut apply = Apply::new(&host, &config.cgroup.identity, &actual, &actions);
    let outcomes: Vec<_> = actions.into_iter().map(|action| (apply.run(&action), action)).collect();
    apply.finish();
    let done = outcomes.into_iter().filter(|(outcome, _)| !matches!(outcome, Outcome::Failed { .. }));
    Ok(done.map(|(outcome, action)| (action, outcome)).collect())
}

/// Where groups should be, for whoever listens there. What was done to a group may have made another one of it.
fn places(
    config: &Config,
    host: &Host,
    desired: &Desired,
    actual: &Actual,
    outcomes: &[(Action, Outcome)],
) -> Vec<Place> {
    let mut out: Vec<Place> = Vec::new();
    let made = outcomes.iter().filter(|(a, o)| a.op == Op::Create && matches!(o, Outcome::Done { .. }));
    let made: HashSet<(&str, &GroupPath)> = made.map(|(a, _)| (a.hierarchy.as_str(), &a.group)).collect();
    for mount in host.with(desired.controllers) {
        let tree = Tree::new(mount, config.parents());
        let seen = actual.hierarchies.iter().find(|h| h.label == mount.label).filter(|_| outcomes.is_empty());
        let ground = Arc::new(Ground { hierarchy: mount.label.as_str().into(), tree });
        let place = |group: &GroupPath| Place {
            ground: ground.clone(),
            group: group.clone(),
            inode: seen.and_then(|h| h.groups.get(group)?.inode),
            made: made.contains(&(mount.label.as_str(), group)),
        };
        // As many as there are, and no more: they stay until the next change.
        out.reserve_exact(1 + desired.groups_in(mount.controllers).count());
        out.push(place(&GroupPath::root()));
        out.extend(desired.groups_in(mount.controllers).map(|(path, _)| place(path)));
    }
    out
}
