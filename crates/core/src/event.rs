//! What happened to groups: kinds, their words, and who wants to hear of which.

use serde::{Serialize, Serializer};

use crate::ids::GroupPath;

/// Each kind with its name, which is part of `get_events`, of the stream in Redis, and of `cgrove events`.
macro_rules! kinds {
    ($($(#[$about:meta])* $kind:ident = $name:literal,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Kind {
            $($(#[$about])* $kind,)*
        }

        impl Kind {
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$kind),*];

            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// The daemon started.
    Started = "started",
    /// It goes on with another configuration.
    Reloaded = "reloaded",
    /// Another document counts from now on.
    DocumentInForce = "document_in_force",
    /// A document was refused.
    DocumentRefused = "document_refused",
    /// Where documents come from does not answer, or has none.
    SourceAway = "source_away",
    SourceBack = "source_back",
    /// Redis does not take slots.
    StoreAway = "store_away",
    StoreBack = "store_back",
    /// The state directory cannot be read or written.
    StateAway = "state_away",
    StateBack = "state_back",
    /// A document was applied.
    PlanApplied = "plan_applied",
    /// An action of the plan failed for the first time.
    ActionFailed = "action_failed",
    /// A knob would hurt the group as it is, and waits.
    ActionHeld = "action_held",
    /// Removals wait for an operator.
    RemovalsHeld = "removals_held",
    /// Somebody changed the tree, and it was put right.
    DriftRepaired = "drift_repaired",
    GroupAppeared = "group_appeared",
    GroupDisappeared = "group_disappeared",
    /// The kernel killed processes of the group for lack of memory.
    OomKill = "oom_kill",
    /// The group was throttled because it reached memory.high.
    MemoryHigh = "memory_high",
    /// The group reached memory.max.
    MemoryMax = "memory_max",
    /// The first process came into the group or below it.
    Populated = "populated",
    /// The last one left.
    Empty = "empty",
    /// The group waited longer than the threshold.
    Pressure = "pressure",
}

impl Kind {
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.name() == name)
    }

    /// Is it caused as often as a group's own processes and owner like? All others are ours to cause, or rare.
    pub fn is_frequent(self) -> bool {
        matches!(
            self,
            Self::GroupAppeared
                | Self::GroupDisappeared
                | Self::Populated
                | Self::Empty
                | Self::MemoryHigh
                | Self::MemoryMax
                | Self::Pressure
                | Self::DriftRepaired
        )
    }

    /// Does an event's `count` say how many times it happened?
    pub fn counts_times(self) -> bool {
        !matches!(self, Self::PlanApplied | Self::RemovalsHeld)
    }

    pub fn weight(self) -> Weight {
        match self {
            Self::OomKill | Self::ActionFailed | Self::RemovalsHeld | Self::DocumentRefused => Weight::Bad,
            Self::SourceAway | Self::StateAway => Weight::Bad,
            Self::MemoryHigh | Self::MemoryMax | Self::Pressure | Self::DriftRepaired => Weight::Warning,
            Self::ActionHeld | Self::StoreAway => Weight::Warning,
            _ => Weight::Plain,
        }
    }
}

/// How much an operator should care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    Plain,
    Warning,
    Bad,
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
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
    fn names_are_written_and_read() {
        for (number, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            assert_eq!(Kind::parse(kind.name()), Some(kind));
            assert_eq!(kind as usize, number);
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
