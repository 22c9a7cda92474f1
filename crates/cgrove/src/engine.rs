//! One reconcile, blocking: observe, plan, apply, move processes, remove. Used by the daemon and by `cgrove apply`.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cgrove_cgroupfs::Fault;
use cgrove_cgroupfs::apply::{Apply, Outcome};
use cgrove_cgroupfs::attach::Origins;
use cgrove_cgroupfs::doing;
use cgrove_cgroupfs::host::Host;
use cgrove_cgroupfs::lock::{Lock, LockError};
use cgrove_cgroupfs::mark::take_over;
use cgrove_cgroupfs::notices::{Ground, Place};
use cgrove_cgroupfs::observe::{Scope, lingering, parents_stand};
use cgrove_cgroupfs::paths::Tree;
use cgrove_core::actual::{Actual, Version};
use cgrove_core::desired::Desired;
use cgrove_core::ids::GroupPath;
use cgrove_core::plan::{Action, Approval, Note, Op, Plan, Removal, covers, plan};
use tracing::field::Empty;

use crate::claims::{Answers, Files};
use crate::exit::Exit;
use crate::progress::Progress;
use crate::pulse::Pulse;
use crate::state::{Keeper, Memory};
use crate::tasks::{Sources, Subject, Synced};
use crate::traces::step;
use cgrove_config::Config;

/// How long `cgrove apply` waits for writes that take long.
const ONCE: Duration = Duration::from_secs(60);

/// What holds between rounds.
pub(crate) struct Engine {
    pub(crate) config: Arc<Config>,
    #[allow(dead_code, reason = "held for its drop")]
    lock: Lock,
    origins: Origins,
    /// What is held and what was approved.
    memory: Memory,
    /// Declared groups that belong to others, as the last plan found them.
    refused: Vec<Removal>,
    /// The rules as they were last looked up.
    pub(crate) sources: Option<Sources>,
    /// What was wrong with marks at the last look.
    trouble: Vec<String>,
    /// What pid files and globs answered.
    answers: Arc<Answers>,
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
    /// Removals wait for the state directory.
    pub(crate) waits_for_state: bool,
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
    pub(crate) fn new(config: Arc<Config>, keeper: Keeper) -> Result<Self, EngineError> {
        let host = Host::discover(&config.cgroup.dir)?;
        let mut lock = Lock::default();
        lock.acquire(&host, config.parents())?;
        let parents = config.parents().clone();
        Ok(Self::with(config, lock, Memory::new(keeper, parents)))
    }

    fn with(config: Arc<Config>, lock: Lock, memory: Memory) -> Self {
        Self {
            memory,
            config,
            lock,
            origins: Origins::default(),
            refused: Vec::new(),
            sources: None,
            trouble: Vec::new(),
            answers: Arc::default(),
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
    pub(crate) fn reconfigure(self, config: Arc<Config>, keeper: Keeper, claim: Claim) -> Self {
        let parents = config.parents().clone();
        match claim.0 {
            Some(lock) => Self::with(config, lock, Memory::new(keeper, parents)),
            None => {
                let memory = self.memory.moved(keeper, parents);
                Self { config, memory, ..self }
            }
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
        let Scenery { host, actual, desired, trouble } = {
            let _step = step!("observe");
            observe(&config, desired)?
        };
        let identity = &config.cgroup.identity;
        let taken_over = if identity.is_taken_over() { Ok(()) } else { take_over(&host, identity, &actual) };
        for why in trouble.iter().filter(|why| !self.trouble.contains(why)) {
            tracing::error!("{why}");
        }
        let desired = &*desired;
        self.memory.read();
        let digest = desired.digest.as_str();
        let mut approval = self.memory.approval(previous.filter(|_| self.memory.is_first(digest)));
        let mut plan = {
            let _step = step!("plan");
            doing::at("plan", "".as_ref());
            let plan_with = |approval: &Approval| plan(desired, &actual, &config.cgroup.policy, approval);
            let plan = plan_with(&approval);
            if self.memory.held_lost() {
                approval.held = removals(&plan);
                plan_with(&approval)
            } else {
                plan
            }
        };
        self.memory.begin(digest);
        self.memory.remember(plan.guard.as_ref(), removals(&plan), &approval);
        plan.notes.extend(trouble.iter().map(|why| about_marks(why)));
        self.trouble = trouble;
        let mut apply = Apply::new(&host, identity, &actual, &plan.actions);
        if self.pulse.is_none() {
            // A command ends with its round: there is no later.
            apply = apply.patient(ONCE);
        }
        let prepared: Vec<Action> = made.iter().map(|(action, _)| action.clone()).collect();
        let mut outcomes = made;
        let is_removal = |a: &&Action| a.op == Op::Remove;
        let total = plan.due().count();
        let applying = step!("apply");
        for action in plan.due().filter(|a| !is_removal(a)) {
            self.beat(outcomes.len(), total);
            outcomes.push((action.clone(), apply.run(action)));
        }
        drop(applying);
        self.refused.clone_from(&plan.refused);
        let refused = |hierarchy: &str, group: &GroupPath| plan.refuses(hierarchy, group);
        let subject = Subject { config: &config, host: &host, desired, refused: &refused, answers: &self.answers };
        let (sources, tasks) = {
            let _step = step!("place processes");
            let sources = subject.sources();
            let tasks = subject.sync(&sources, &mut self.origins);
            (sources, tasks)
        };
        self.sources = Some(sources);
        let removing = step!("remove");
        let mut removed = false;
        let wait = if plan.due().any(|a| is_removal(&a)) { self.memory.holds() } else { None };
        for action in plan.due().filter(is_removal).filter(|_| wait.is_none()) {
            self.beat(outcomes.len(), total);
            let outcome = apply.run(action);
            if matches!(outcome, Outcome::Done { .. } | Outcome::AlreadySo) {
                self.memory.removed(&(action.hierarchy.clone(), action.group.clone()));
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
        let mut faults = apply.finish();
        faults.extend(taken_over.err());
        drop(removing);
        whole.record("actions", outcomes.len());
        whole.record("failed", told_failures(&outcomes));
        if let Some(why) = &wait {
            for action in plan.actions.iter_mut().filter(|a| a.op == Op::Remove && a.held.is_none()) {
                action.held = Some(why.clone());
            }
        }
        // What the parent needed beforehand is part of what was planned and done.
        plan.actions.splice(0..0, prepared);
        let places = places(&config, &host, desired, &actual, &outcomes);
        Ok(Round { plan, outcomes, tasks, faults, places, waits_for_state: wait.is_some() })
    }

    fn beat(&mut self, done: usize, total: usize) {
        if let Some(pulse) = &self.pulse {
            pulse.beat();
        }
        if let Some(progress) = &mut self.progress {
            progress.at(done, total);
        }
    }

    /// The directories in which pid files may appear.
    pub(crate) fn pid_directories(&self, desired: &Desired) -> BTreeSet<PathBuf> {
        doing::at("look for pid files", "".as_ref());
        Files { config: &self.config, answers: &self.answers }.directories(desired)
    }

    /// Only the processes. `prompted` by an event, the names in rules mean what they meant at the last look.
    pub(crate) fn sync_tasks(&mut self, desired: &Desired, prompted: bool) -> Result<Synced, EngineError> {
        let host = Host::discover(&self.config.cgroup.dir)?;
        let desired = &*with_lingering(&self.config, &host, desired);
        let refused = |hierarchy: &str, group: &GroupPath| covers(&self.refused, hierarchy, group);
        let subject = Subject { config: &self.config, host: &host, desired, refused: &refused, answers: &self.answers };
        let sources = self.sources.take().filter(|_| prompted).unwrap_or_else(|| subject.sources());
        let synced = subject.sync(&sources, &mut self.origins);
        self.sources = Some(sources);
        Ok(synced)
    }

    /// Who keeps what outlives the process.
    pub(crate) fn keeper(&self) -> &Keeper {
        self.memory.keeper()
    }
}

/// What a plan would remove, held or not.
pub(crate) fn removals(plan: &Plan) -> BTreeSet<Removal> {
    let removals = plan.actions.iter().filter(|a| a.op == Op::Remove);
    removals.map(|a| (a.hierarchy.clone(), a.group.clone())).collect()
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
    /// What is wrong with marks.
    pub(crate) trouble: Vec<String>,
}

/// For people who read a plan or the status.
pub(crate) fn about_marks(why: &str) -> Note {
    Note { hierarchy: "marks".into(), group: GroupPath::root(), knob: None, text: why.into() }
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
    let trouble = config.cgroup.identity.trouble();
    Ok(Scenery { host, actual, desired, trouble })
}

/// v2: the parent with its controllers, before anything is planned below it: only then a group shows which files
/// groups have here. Nothing to do on v1, or once it stands. Returns what was done; what failed is planned again.
pub(crate) fn make_parent(config: &Config, desired: &Desired) -> Result<Vec<(Action, Outcome)>, Fault> {
    let host = Host::discover(&config.cgroup.dir)?;
    if parents_stand(&host, &config.cgroup.identity.parents, desired) {
        return Ok(Vec::new());
    }
    let Scenery { host, actual, desired, .. } = observe(config, desired)?;
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
    let done = outcomes.into_iter().filter(|(outcome, _)| matches!(outcome, Outcome::Done { .. } | Outcome::AlreadySo));
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
    // Who makes them after all is heard in the group above.
    let failed = |action: &Action, outcome: &Outcome| match outcome {
        Outcome::Skipped => true,
        Outcome::Failed { .. } => action.op == Op::Create,
        _ => false,
    };
    let unmade: HashSet<(&str, &GroupPath)> =
        outcomes.iter().filter(|(a, o)| failed(a, o)).map(|(a, _)| (a.hierarchy.as_str(), &a.group)).collect();
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
        let groups = desired.groups_in(mount.controllers).map(|(path, _)| path);
        out.extend(groups.filter(|path| !unmade.contains(&(mount.label.as_str(), path))).map(place));
    }
    out
}
