//! What happened to groups: kinds, their words, and who wants to hear of which.

use serde::{Deserialize, Serialize};

use crate::ids::GroupPath;

/// Names are part of `get_events`, of the stream in Redis, and of `cgrove events`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    GroupAppeared,
    GroupDisappeared,
    /// Somebody changed the tree, and it was put right.
    DriftRepaired,
    /// A document was applied.
    PlanApplied,
    /// An action of the plan failed for the first time.
    ActionFailed,
    /// Removals wait for an operator.
    RemovalsHeld,
    /// A document was refused.
    DocumentRefused,
    /// The kernel killed processes of the group for lack of memory.
    OomKill,
    /// The group was throttled because it reached memory.high.
    MemoryHigh,
    /// The group reached memory.max.
    MemoryMax,
    /// The first process came into the group or below it.
    Populated,
    /// The last one left.
    Empty,
    /// The group waited longer than the threshold.
    Pressure,
}

impl Kind {
    pub const ALL: [Self; 13] = [
        Self::GroupAppeared,
        Self::GroupDisappeared,
        Self::DriftRepaired,
        Self::PlanApplied,
        Self::ActionFailed,
        Self::RemovalsHeld,
        Self::DocumentRefused,
        Self::OomKill,
        Self::MemoryHigh,
        Self::MemoryMax,
        Self::Populated,
        Self::Empty,
        Self::Pressure,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::GroupAppeared => "group_appeared",
            Self::GroupDisappeared => "group_disappeared",
            Self::DriftRepaired => "drift_repaired",
            Self::PlanApplied => "plan_applied",
            Self::ActionFailed => "action_failed",
            Self::RemovalsHeld => "removals_held",
            Self::DocumentRefused => "document_refused",
            Self::OomKill => "oom_kill",
            Self::MemoryHigh => "memory_high",
            Self::MemoryMax => "memory_max",
            Self::Populated => "populated",
            Self::Empty => "empty",
            Self::Pressure => "pressure",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.name() == name)
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// Counts up from 1 for as long as the daemon runs.
    pub seq: u64,
    /// Unix time in milliseconds.
    pub time: u64,
    pub kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupPath>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hierarchy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub knob: Option<String>,
    /// How many times since it was last told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// In words.
    pub text: String,
}

/// Which events are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only of this group and what is below it.
    pub group: Option<GroupPath>,
    pub kinds: Option<Vec<Kind>>,
}

impl Filter {
    pub fn wants(&self, event: &Event) -> bool {
        let below = |group: &GroupPath| event.group.as_ref().is_some_and(|g| g == group || g.is_below(group));
        self.group.as_ref().is_none_or(below) && self.kinds.as_ref().is_none_or(|k| k.contains(&event.kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_serde_writes_and_reads() {
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            assert_eq!(Kind::parse(kind.name()), Some(kind));
        }
    }

    #[test]
    fn a_filter_takes_a_group_with_all_below() {
        let at = |path: Option<&str>| Event {
            seq: 1,
            time: 0,
            kind: Kind::Empty,
            group: path.map(|p| GroupPath::parse(p).unwrap()),
            hierarchy: None,
            knob: None,
            count: None,
            text: String::new(),
        };
        let filter = Filter { group: GroupPath::parse("/a").ok(), kinds: None };
        let heard = [Some("/a"), Some("/a/b"), Some("/ab"), None].map(|p| filter.wants(&at(p)));
        assert_eq!(heard, [true, true, false, false]);
        let kinds = Filter { group: None, kinds: Some(vec![Kind::OomKill]) };
        assert!(!kinds.wants(&at(None)) && Filter::default().wants(&at(None)));
    }
}
