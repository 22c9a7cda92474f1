//! The plan: what turns actual into desired, as data. Printed, compared, serialised; executed elsewhere.

mod compare;
mod diff;
mod group;
mod guard;
mod inner;
mod protect;
mod prune;
mod steps;
#[cfg(test)]
mod tests;
mod within;

use std::collections::BTreeSet;

use serde::Serialize;

pub use compare::{Compared, compare};
pub use diff::{files_to_read, plan};
pub use guard::Guard;
pub use protect::{Protected, is_container, is_others, unit_of};

use crate::ids::GroupPath;
use crate::knobs::{CpuConversion, Want};

/// What pruning may remove.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Prune {
    /// Groups that carry our mark.
    #[default]
    Owned,
    /// Everything below the parent that the document does not name (cgrouparch's way).
    All,
    /// Nothing.
    None,
}

/// The node's own rules, from its configuration.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    pub prune: Prune,
    pub protected: Protected,
    pub conversion: CpuConversion,
}

/// What lets held removals go.
#[derive(Debug, Clone, Default)]
pub struct Approval {
    /// Digest of the document that was in force before this one.
    pub previous: Option<String>,
    /// Guard digests that an operator approved.
    pub digests: BTreeSet<String>,
    /// Removals approved earlier and not finished yet.
    pub removals: BTreeSet<Removal>,
    /// Removals held earlier: the tree has changed since, but they still wait.
    pub held: BTreeSet<Removal>,
}

/// One group of one hierarchy to be removed.
pub type Removal = (String, GroupPath);

/// The ordered list of actions, and what there is to say about the rest.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Plan {
    pub actions: Vec<Action>,
    pub notes: Vec<Note>,
    /// Present when removals were large enough to ask; says whether they were approved.
    pub guard: Option<Guard>,
    /// Declared subtrees, by hierarchy, that belong to others: no process may be put there either.
    #[serde(skip)]
    pub refused: Vec<Removal>,
}

/// One step on one group of one hierarchy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Action {
    pub hierarchy: String,
    pub group: GroupPath,
    #[serde(flatten)]
    pub op: Op,
    /// Why it waits; `None` is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Op {
    /// v2: in every directory above the parent, from the root, hand these controllers down.
    EnableAbove { controllers: Vec<String> },
    /// mkdir, then mark.
    Create,
    /// v2: the group's own processes move into its leaf.
    Settle,
    /// Mark a group that exists, with files that are already as wanted.
    Adopt { files: Vec<(String, String)> },
    /// Write a file.
    Write(Box<Write>),
    /// Take a file off the mark; nothing is written.
    Forget { file: String },
    /// Drain, then rmdir.
    Remove,
}

/// A write and its reason.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Write {
    pub file: String,
    /// The knob as the document names it; the file itself for raw files and inherited cpusets.
    pub knob: String,
    /// What the file says now; `None` for a group yet to be made.
    pub from: Option<String>,
    /// One system call each.
    pub to: Vec<String>,
    /// Where the value comes from, if not literally from the document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// What the mark shall say; `None` takes the file off the mark.
    #[serde(skip)]
    pub record: Option<String>,
    /// For the comparison after the write; `None` for a step on the way.
    #[serde(skip)]
    pub want: Option<Want>,
}

/// Something that is no action.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Note {
    pub hierarchy: String,
    pub group: GroupPath,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub knob: Option<String>,
    pub text: String,
}

/// Is the group of that hierarchy in the list, or below one that is?
pub fn covers(list: &[Removal], hierarchy: &str, group: &GroupPath) -> bool {
    list.iter().any(|(h, p)| h == hierarchy && (p == group || group.is_below(p)))
}

impl Plan {
    /// The actions that are to be done now.
    pub fn due(&self) -> impl Iterator<Item = &Action> {
        self.actions.iter().filter(|a| a.held.is_none())
    }

    /// Nothing to do and nothing waiting.
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }

    /// Is the group of that hierarchy refused, or below a refused one?
    pub fn refuses(&self, hierarchy: &str, group: &GroupPath) -> bool {
        covers(&self.refused, hierarchy, group)
    }

    /// Names the plan: 16 hex digits over its serialised actions.
    pub fn digest(&self) -> String {
        crate::document::digest(&serde_json::to_vec(&self.actions).unwrap_or_default())
    }
}
