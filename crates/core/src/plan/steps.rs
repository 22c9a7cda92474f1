//! The order of actions within one hierarchy.

use super::{Action, Op};
use crate::actual::Hierarchy;
use crate::ids::GroupPath;

/// Steps by phase. Parents widen before children, children narrow before parents; a group is made before its
/// knobs are written; within a phase the order given is kept.
#[derive(Default)]
pub(super) struct Steps {
    pub(super) creates: Vec<Action>,
    pub(super) widens: Vec<Action>,
    /// One list a group, so that reversing them keeps the order within a group.
    pub(super) narrows: Vec<Vec<Action>>,
}

impl Steps {
    /// Is the group adopted already? Its own actions are the last ones before `end`.
    pub(super) fn adopts(&self, end: usize, path: &GroupPath) -> bool {
        self.creates[..end]
            .iter()
            .rev()
            .take_while(|a| a.group == *path)
            .any(|a| a.group == *path && matches!(a.op, Op::Adopt { .. }))
    }

    pub(super) fn in_order(self) -> impl Iterator<Item = Action> {
        self.creates.into_iter().chain(self.widens).chain(self.narrows.into_iter().rev().flatten())
    }
}

impl Action {
    pub(super) fn new(hierarchy: &Hierarchy, group: &GroupPath, op: Op) -> Self {
        Self { hierarchy: hierarchy.label.clone(), group: group.clone(), op, held: None }
    }
}
