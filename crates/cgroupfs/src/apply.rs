//! Runs a plan's actions. One that fails never stops the others; every write is read back.

mod above;
mod places;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cgrove_core::actual::{Actual, Group, Hierarchy, Mark, Marked, Set};
use cgrove_core::ids::GroupPath;
use cgrove_core::plan::{Action, Op};
use nix::libc;
use serde::Serialize;

use crate::file::{Standing, text_at};
use crate::host::Host;
use crate::mark::{Identity, Marks};
use crate::paths::Tree;
use crate::slow;
use crate::{Fault, doing, drain};
use above::{create_above, enable_above};
use places::Places;

/// What became of one action.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    Done {
        /// What the kernel made of the value, where that differs.
        #[serde(skip_serializing_if = "Option::is_none")]
        kept: Option<String>,
    },
    /// Someone else did it first, or the group is gone as wanted.
    AlreadySo,
    Failed {
        #[serde(flatten)]
        fault: Fault,
    },
    /// The kernel is still at it, and has the time that it needs; it is looked at again.
    Pending { why: String },
    /// Its group, or one above, could not be made; that was told.
    Skipped,
}

/// A mount of the host by number, and a group in it.
pub(crate) type Key = (usize, GroupPath);

/// Groups that keep forking must not keep the next document waiting; they are tried again later.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes that may take long are waited for so long, each and all together; then they go on by themselves.
const MOMENT: Duration = Duration::from_millis(200);
const MOMENTS: Duration = Duration::from_secs(1);

/// Hands controllers to the groups below (v2).
const SUBTREE: &str = "cgroup.subtree_control";

/// Executes actions against the tree that they were planned for.
pub struct Apply<'a> {
    host: &'a Host,
    identity: &'a Identity,
    /// Of each mount.
    trees: Arc<[Tree]>,
    /// Directories that somebody may rename meanwhile.
    places: Places,
    /// Where marks lie, of each mount.
    attributes: Vec<Marks<'a>>,
    page: u64,
    /// Marks, as they should be, of groups that something is done to; written before the knobs, so that a crash in between forgets nothing.
    marks: HashMap<Key, Mark>,
    dirty: BTreeSet<Key>,
    /// What each group is about to get.
    pending: BTreeMap<Key, Vec<(String, String)>>,
    going: BTreeSet<Key>,
    /// Groups whose CPU limit was refused in one of its files.
    bandwidth: HashMap<Key, Fault>,
    /// The mount whose groups' marks say what is about to be written.
    announced: Option<usize>,
    /// All removals together have this long.
    deadline: Instant,
    /// Groups that were made by these actions, and that could not be.
    made: BTreeSet<Key>,
    unmade: BTreeSet<Key>,
    /// The file of a group whose write has not ended.
    waiting: BTreeMap<Key, String>,
    /// How long one slow write is waited for, and what is left for all of them.
    moment: Duration,
    moments: Duration,
}

impl<'a> Apply<'a> {
    pub fn new(host: &'a Host, identity: &'a Identity, actual: &Actual, actions: &[Action]) -> Self {
        let hierarchies: HashMap<&str, &Hierarchy> = actual.hierarchies.iter().map(|h| (h.label.as_str(), h)).collect();
        let trees = host.mounts.iter().map(|mount| Tree::new(mount, &identity.parents)).collect();
        let mut marks = HashMap::new();
        let mut pending: BTreeMap<Key, Vec<(String, String)>> = BTreeMap::new();
        let mut going = BTreeSet::new();
        for action in actions.iter().filter(|a| a.held.is_none()) {
            let Some(key) = key(host, action) else { continue };
            let existing = hierarchies.get(action.hierarchy.as_str()).and_then(|h| h.groups.get(&key.1));
            if let Some(mark) = existing.and_then(Group::ours).filter(|_| !marks.contains_key(&key)) {
                marks.insert(key.clone(), mark.clone());
            }
            match &action.op {
                Op::Write(write) => {
                    let entry = write.record.iter().map(|record| (write.file.clone(), record.clone()));
                    pending.entry(key).or_default().extend(entry);
                }
                Op::Adopt { files } => pending.entry(key).or_default().extend(files.iter().cloned()),
                Op::Remove => {
                    going.insert(key);
                }
                _ => {}
            }
        }
        Self {
            host,
            identity,
            attributes: host.mounts.iter().map(|mount| identity.marks(mount)).collect(),
            trees,
            places: Places::new(host, actual),
            page: host.machine.page,
            marks,
            dirty: BTreeSet::new(),
            pending,
            going,
            bandwidth: HashMap::new(),
            announced: None,
            deadline: Instant::now() + PATIENCE,
            made: BTreeSet::new(),
            unmade: BTreeSet::new(),
            waiting: BTreeMap::new(),
            moment: MOMENT,
            moments: MOMENTS,
        }
    }

    /// Nothing else waits: slow writes have this long, all together.
    #[must_use]
    pub fn patient(mut self, patience: Duration) -> Self {
        (self.moment, self.moments) = (patience, patience);
        self
    }

    /// Runs one action.
    pub fn run(&mut self, action: &Action) -> Outcome {
        let trees = self.trees.clone();
        let Some(key) = key(self.host, action) else { return Outcome::AlreadySo };
        let Some(tree) = trees.get(key.0) else { return Outcome::AlreadySo };
        if self.is_unmade(&key) && !matches!(action.op, Op::EnableAbove { .. } | Op::Remove) {
            return Outcome::Skipped;
        }
        if let Err(fault) = self.places.hold(tree, &key, &action.op) {
            return Outcome::Failed { fault };
        }
        let result = match &action.op {
            Op::EnableAbove { controllers } => enable_above(tree, controllers),
            Op::Settle => drain::settle(tree, &key.1, self.deadline).map(|()| Outcome::Done { kept: None }),
            Op::Create => self.create(tree, &key).inspect_err(|_| {
                self.unmade.insert(key.clone());
            }),
            Op::Adopt { .. } => {
                self.marks.entry(key.clone()).or_insert_with(|| self.identity.fresh(tree.version));
                self.announce(tree, &key).map(|()| Outcome::Done { kept: None })
            }
            Op::Write(write) => {
                self.before_writes(tree, key.0);
                self.write(tree, &key, write)
            }
            Op::Forget { file } => {
                self.forget(&key, file);
                Ok(Outcome::Done { kept: None })
            }
            Op::Remove => self.remove(tree, &key),
        };
        result.unwrap_or_else(|fault| Outcome::Failed { fault })
    }

    /// Runs a write that failed once more, after what was in its way has gone.
    pub fn again(&mut self, action: &Action) -> Outcome {
        if let Some(key) = key(self.host, action) {
            self.bandwidth.remove(&key);
        }
        self.run(action)
    }

    /// Writes the marks that changed along the way. Call it when all actions ran.
    pub fn finish(mut self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let trees = self.trees.clone();
        for key in std::mem::take(&mut self.dirty) {
            let Some(tree) = trees.get(key.0) else { continue };
            if let Err(fault) = self.write_mark(tree, &key)
                && !fault.vanished()
            {
                faults.push(fault);
            }
        }
        faults.extend(self.identity.save().err());
        faults
    }

    fn is_unmade(&self, (mount, group): &Key) -> bool {
        let failed = |path: &GroupPath| self.unmade.contains(&(*mount, path.clone()));
        !self.unmade.is_empty() && (failed(group) || group.ancestors().any(|up| failed(&up)))
    }

    /// Marks that the ledger keeps are on the disk before a knob is written: those of all groups of the hierarchy that
    /// are about to be, so that the disk is waited for once. That they cannot be kept is told at the end; it only means
    /// that later less is undone.
    fn before_writes(&mut self, tree: &Tree, mount: usize) {
        if self.announced != Some(mount) {
            self.announced = Some(mount);
            let due = |key: &&Key| key.0 == mount && self.marks.contains_key(*key);
            let waiting: Vec<Key> = self.pending.keys().filter(due).cloned().collect();
            for key in &waiting {
                // Whoever is gone by now is found out by the write itself.
                let _ = self.announce(tree, key);
            }
        }
        let _ = self.identity.save();
    }

    fn write_mark(&mut self, tree: &Tree, key: &Key) -> Result<(), Fault> {
        let (Some(marks), Some(mark)) = (self.attributes.get_mut(key.0), self.marks.get(key)) else { return Ok(()) };
        let dir = tree.dir(&key.1);
        match self.places.directory(key) {
            Some(open) => marks.write_open(&key.1, &dir, open, mark),
            None => marks.write(&key.1, &dir, mark),
        }
    }

    fn create(&mut self, tree: &Tree, key: &Key) -> Result<Outcome, Fault> {
        let dir = tree.dir(&key.1);
        if key.1.is_root() {
            create_above(tree)?;
        }
        let mut mark = self.identity.fresh(tree.version);
        doing::at("mkdir", &dir);
        let outcome = match self.places.make(tree, key) {
            Ok(()) => {
                self.made.insert(key.clone());
                Outcome::Done { kept: None }
            }
            Err(e) if e.code == libc::EEXIST && !self.places.covers(key) => {
                // Somebody was faster; it may be somebody else's now.
                let standing = Standing::of(&dir).map_err(|e| Fault::new("mkdir", &dir, &e))?;
                let found = self.attributes.get_mut(key.0).map(|marks| marks.read(&key.1, &dir, standing));
                match found.map_or(Marked::No, |found| found.here(true, false)) {
                    Marked::Foreign(_) => return Err(e),
                    Marked::Ours(old) => mark = old,
                    Marked::No => {}
                }
                Outcome::AlreadySo
            }
            Err(e) => return Err(e),
        };
        self.marks.insert(key.clone(), mark);
        self.announce(tree, key)?;
        Ok(outcome)
    }

    /// Puts what is about to be written on the mark, once for all files of the group.
    fn announce(&mut self, tree: &Tree, key: &Key) -> Result<(), Fault> {
        let files = self.pending.remove(key);
        let Some(mark) = self.marks.get_mut(key) else { return Ok(()) };
        for (file, want) in files.into_iter().flatten() {
            // What was there before is still to be undone, should this write fail or never come.
            let before = mark.files.get(&file).and_then(|old| old.before.clone().or(Some(old.want.clone())));
            let before = before.filter(|b| *b != want);
            mark.files.insert(file, Set { want, kept: None, before });
        }
        self.write_mark(tree, key)
    }

    fn forget(&mut self, key: &Key, file: &str) {
        if let Some(mark) = self.marks.get_mut(key)
            && mark.files.remove(file).is_some()
        {
            self.dirty.insert(key.clone());
        }
    }

    fn remove(&mut self, tree: &Tree, key: &Key) -> Result<Outcome, Fault> {
        if let Some(file) = slow::under_way(&tree.dir(&key.1)) {
            // The kernel would keep us, and whoever else works on groups, waiting for it.
            return Ok(Outcome::Pending {
                why: format!("it is not removed yet: {} is still being written", file.display()),
            });
        }
        let stays = |p: &GroupPath| !self.going.contains(&(key.0, p.clone()));
        let seats = key.1.ancestors().filter(stays).map(|p| tree.seat(&p)).filter(|seat| *seat != key.1);
        let refuge: Vec<PathBuf> = seats.map(|seat| tree.members(&seat)).collect();
        let members = tree.members(&key.1);
        let name = members.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let (above, at) = self.places.file(key, name, &members);
        let gone = drain::remove(&tree.dir(&key.1), &|| text_at(above, at), &refuge, self.deadline)?;
        self.dirty.remove(key);
        Ok(if gone { Outcome::Done { kept: None } } else { Outcome::AlreadySo })
    }
}

/// `None`: its hierarchy is not mounted any more.
fn key(host: &Host, action: &Action) -> Option<Key> {
    Some((host.mounts.iter().position(|m| m.label == action.hierarchy)?, action.group.clone()))
}
