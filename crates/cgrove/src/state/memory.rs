//! What is known about removals between rounds. Memory leads, the disk follows: a disk that fails later makes nothing
//! forgotten, and what must be on the disk before a removal holds the removal until it is there.

use std::collections::BTreeSet;
use std::time::Duration;

use cgrove_cgroupfs::host::Parents;
use cgrove_core::plan::{Approval, Guard, Removal};
use tracing::warn;

use super::known::Names;
use super::{Change, Keeper, Key, Known};

/// Removals wait so long for a disk before they are held; nothing else waits.
const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) struct Memory {
    keeper: Keeper,
    parents: Parents,
    names: Names,
    known: Known,
    /// The files were read; until then everything is held.
    read: bool,
    /// Removals that were approved and are not finished.
    approved: BTreeSet<Removal>,
    /// What must be on the disk before the next removal.
    needed: BTreeSet<Key>,
}

impl Memory {
    pub(crate) fn new(keeper: Keeper, parents: Parents) -> Self {
        let names = Names::of(&parents);
        let (known, approved, needed) = Default::default();
        let mut memory = Self { keeper, parents, names, known, read: false, approved, needed };
        memory.read();
        memory
    }

    /// Goes on in another directory, or with other parents. What was known of the same parents stays known.
    pub(crate) fn moved(self, keeper: Keeper, parents: Parents) -> Self {
        if self.parents != parents {
            return Self::new(keeper, parents);
        }
        if self.keeper.dir().path() == keeper.dir().path() {
            return Self { keeper, ..self };
        }
        let mut memory = Self::new(keeper, parents);
        memory.approved = self.approved;
        memory.known.held.extend(self.known.held);
        memory.known.held_lost = memory.known.held_lost.or(self.known.held_lost);
        memory.known.begun = self.known.begun.or(memory.known.begun);
        memory.known.begun_lost = memory.known.begun_lost.or(self.known.begun_lost);
        memory.read &= self.read;
        memory.write_held();
        memory.write_begun();
        memory
    }

    pub(crate) fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// Reads what could not be read before.
    pub(crate) fn read(&mut self) {
        self.keeper.look();
        if self.read {
            return;
        }
        match Known::read(self.keeper.dir(), &self.parents) {
            Ok(known) => {
                self.read = true;
                self.keeper.set_unread(None);
                for lost in known.held_lost.iter().chain(&known.begun_lost) {
                    warn!(
                        "{lost}; every removal waits for `cgrove approve`, and no document's allow_removals counts until another document comes"
                    );
                }
                let held = std::mem::take(&mut self.known.held);
                self.known = known;
                // What was held meanwhile, or by an earlier version, is written as ours. What is lost stays where it is.
                if self.known.held_lost.is_none() && (self.known.old.is_some() || !held.is_empty()) {
                    self.known.held.extend(held);
                    self.write_held();
                    self.forget_old();
                }
            }
            Err(e) => self.keeper.set_unread(Some(e.to_string())),
        }
    }

    /// May the permission that the document itself gives count? Only in its first round.
    pub(crate) fn is_first(&self, digest: &str) -> bool {
        self.read && self.known.begun_lost.is_none() && self.known.begun.as_deref() != Some(digest)
    }

    /// What lets held removals go. `previous` is the digest of the document that this one replaced.
    pub(crate) fn approval(&self, previous: Option<String>) -> Approval {
        Approval {
            previous,
            digests: self.keeper.approvals(),
            removals: self.approved.clone(),
            held: self.known.held.clone(),
        }
    }

    /// What was held cannot be known any more: whatever would be removed now counts as held.
    pub(crate) fn held_lost(&self) -> bool {
        self.known.held_lost.is_some()
    }

    /// The document's first round: its permission does not count again, in this process or another.
    pub(crate) fn begin(&mut self, digest: &str) {
        if self.read && (self.known.begun.as_deref() != Some(digest) || self.known.begun_lost.is_some()) {
            self.known.begun = Some(digest.into());
            self.known.begun_lost = None;
            self.write_begun();
        }
    }

    /// An approval counts for the removals that it named, until they are done, and for no others. What is held stays
    /// held, also after a restart, until it is approved or no longer asked for.
    pub(crate) fn remember(&mut self, guard: Option<&Guard>, removals: BTreeSet<Removal>, given: &Approval) {
        match guard {
            None => {
                self.approved.clear();
                self.set_held(BTreeSet::new());
            }
            Some(guard) if guard.approved => {
                if given.digests.contains(&guard.digest) {
                    self.needed.insert(self.keeper.spend(&guard.digest));
                } else if !removals.is_subset(&self.approved) {
                    // By the document: that it has counted is recorded before it counts.
                    self.needed.insert(Key::File(self.names.begun.clone()));
                }
                self.approved = removals;
                self.set_held(BTreeSet::new());
            }
            Some(_) => self.set_held(removals),
        }
        self.keeper.removals_wait(guard.map(|guard| guard.digest.as_str()));
    }

    pub(crate) fn removed(&mut self, removal: &Removal) {
        self.approved.remove(removal);
    }

    /// Why nothing may be removed now. Waits a little for the disk.
    pub(crate) fn holds(&mut self) -> Option<String> {
        let settled = self.keeper.settle(PATIENCE);
        if let Some(error) = settled.error {
            return Some(format!("state: {error}"));
        }
        self.needed.retain(|key| settled.pending.contains(key));
        if self.needed.is_empty() {
            return None;
        }
        let dir = self.keeper.dir().path().display();
        Some(format!("state: waits until {dir} has recorded what lets it go; the disk is slow"))
    }

    fn set_held(&mut self, held: BTreeSet<Removal>) {
        if !self.read {
            self.known.held = held;
        } else if self.known.held != held || self.known.held_lost.is_some() {
            (self.known.held, self.known.held_lost) = (held, None);
            self.write_held();
            self.forget_old();
        }
    }

    fn forget_old(&mut self) {
        if let Some(old) = self.known.old.take() {
            self.keeper.change(Key::File(old), Change::Remove);
        }
    }

    fn write_held(&self) {
        let change = match serde_json::to_vec(&self.known.held) {
            Ok(bytes) if !self.known.held.is_empty() => Change::Put(bytes),
            _ => Change::Remove,
        };
        self.keeper.change(Key::File(self.names.held.clone()), change);
    }

    fn write_begun(&self) {
        if let Some(digest) = &self.known.begun {
            self.keeper.change(Key::File(self.names.begun.clone()), Change::Put(digest.clone().into_bytes()));
        }
    }
}

#[cfg(test)]
mod tests;
