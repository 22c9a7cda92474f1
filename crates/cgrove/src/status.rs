//! What the daemon knows about itself: written by its tasks, read by `get_status`, `/readyz` and `/metrics`. Its lists
//! are cut at a length, and copies of the status share them (`listed`).

mod listed;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use cgrove_core::plan::{Guard, Note};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use serde::Serialize;

pub(crate) use self::listed::{Counts, Listed};
use crate::confine::Confinement;
use crate::events::Journal;
use crate::pulse::Pulses;

/// The status document. Field names are part of `get_status`.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Status {
    pub(crate) node: String,
    pub(crate) version: &'static str,
    pub(crate) pid: u32,
    /// Unix second.
    pub(crate) started: u64,
    pub(crate) ready: bool,
    /// What of root's power the daemon kept.
    pub(crate) capabilities: Vec<String>,
    /// What the threads that talk to others may still write.
    pub(crate) landlock: Confinement,
    pub(crate) document: Option<DocumentStatus>,
    /// The newest document, when it was refused.
    pub(crate) refused: Option<Refused>,
    pub(crate) source: SourceStatus,
    pub(crate) state: StateStatus,
    pub(crate) plan: PlanStatus,
    pub(crate) tasks: TasksStatus,
    pub(crate) usage: UsageStatus,
    pub(crate) store: StoreStatus,
    pub(crate) server: ServerStatus,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct DocumentStatus {
    pub(crate) version: i64,
    pub(crate) digest: String,
    pub(crate) groups: usize,
    /// Unix second at which it came into force here.
    pub(crate) since: u64,
    /// Taken from the state directory, because the source has not answered yet.
    pub(crate) last_good: bool,
    pub(crate) warnings: Listed<String>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Refused {
    pub(crate) version: i64,
    pub(crate) error: String,
    /// The digest with which an operator may take it all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) approve: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct SourceStatus {
    pub(crate) kind: &'static str,
    pub(crate) place: String,
    pub(crate) connected: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// Who may write the document that should not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exposed: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct StateStatus {
    pub(crate) dir: String,
    /// Why it cannot be read or written; removals are held meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// What is in force and not on the disk yet: `document`, or what `removals` wait for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) not_yet_kept: Vec<String>,
    /// Why approvals do not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) approvals_error: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct PlanStatus {
    /// Rounds so far: observe, plan, apply.
    pub(crate) rounds: u64,
    /// Actions done since the start.
    pub(crate) done_total: u64,
    /// Unix second of the last round.
    pub(crate) at: u64,
    /// The last plan that was not empty.
    pub(crate) digest: String,
    pub(crate) actions: usize,
    /// How far a long round is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) progress: Option<String>,
    /// The first of them; how many there are is said beside each list.
    pub(crate) failures: Listed<Failure>,
    pub(crate) failures_total: usize,
    /// All of them by the kernel's error.
    #[serde(skip)]
    pub(crate) failures_by_errno: BTreeMap<Option<i32>, usize>,
    /// First what waits for something else than an approval.
    pub(crate) held: Listed<Held>,
    pub(crate) held_total: usize,
    pub(crate) guard: Option<Guard>,
    pub(crate) notes: Listed<Note>,
    pub(crate) notes_total: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub(crate) struct Failure {
    pub(crate) hierarchy: String,
    pub(crate) group: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) knob: Option<String>,
    /// The kernel's error number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) errno: Option<i32>,
    pub(crate) error: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub(crate) struct Held {
    pub(crate) hierarchy: String,
    pub(crate) group: String,
    /// `None` where a group waits to be removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) knob: Option<String>,
    pub(crate) why: String,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct TasksStatus {
    /// Unix second of the last pass.
    pub(crate) at: u64,
    /// Pid files that named a process.
    pub(crate) named: usize,
    /// Processes that belong to groups, descendants included.
    pub(crate) processes: usize,
    /// Processes of each group, of the first groups by path.
    pub(crate) groups: Counts,
    pub(crate) groups_total: usize,
    pub(crate) moved_total: u64,
    pub(crate) problems: Listed<String>,
    pub(crate) problems_total: usize,
    pub(crate) left_alone: Listed<String>,
    pub(crate) left_alone_total: usize,
    /// systemd units whose processes were moved: their `systemctl stop` does not reach them all.
    pub(crate) left_units: Listed<String>,
    pub(crate) left_units_total: usize,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct UsageStatus {
    pub(crate) newest_slot: Option<u64>,
    pub(crate) slots_total: u64,
    /// Seconds without a slot since the start.
    pub(crate) gaps_total: u64,
    /// Slots dropped from memory before their time, for lack of `usage.memory`.
    pub(crate) dropped_total: u64,
    pub(crate) held: usize,
    pub(crate) held_bytes: usize,
    /// Values missing in the newest slot (groups that were not there).
    pub(crate) missing: usize,
    /// The kernel file that tells about disk traffic.
    pub(crate) io_source: Option<&'static str>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct StoreStatus {
    pub(crate) kind: &'static str,
    pub(crate) connected: bool,
    pub(crate) written_total: u64,
    /// Slots that it does not have yet.
    pub(crate) waiting: usize,
    /// Slots written again after the store had lost or missed them.
    pub(crate) replayed_total: u64,
    /// Another node that writes under the same prefix; our slots stay in memory meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) owner_conflict: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct ServerStatus {
    /// The addresses that are open.
    pub(crate) listen: Vec<String>,
    /// Root's own socket, while it is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) socket: Option<String>,
    /// Addresses that cannot be opened, each with the reason; they are tried again.
    pub(crate) errors: Vec<String>,
    pub(crate) connections: usize,
    pub(crate) refused_total: u64,
    pub(crate) requests_total: u64,
    pub(crate) subscriptions: usize,
    /// Slots that slow subscribers missed.
    pub(crate) dropped_total: u64,
    /// Clients that were let go, by reason: `room`, `slow`, `silent`, `full`.
    pub(crate) dropped_clients: std::collections::BTreeMap<&'static str, u64>,
}

/// How long things take, for /metrics.
#[derive(Debug)]
pub(crate) struct Timings {
    pub(crate) tick: Histogram,
    pub(crate) reconcile: Histogram,
    pub(crate) store: Histogram,
}

impl Default for Timings {
    fn default() -> Self {
        // From a tenth of a millisecond to half a minute.
        let histogram = || Histogram::new(exponential_buckets(0.0001, 3.0, 12));
        Self { tick: histogram(), reconcile: histogram(), store: histogram() }
    }
}

/// The one copy of the status. The sampler's part has a lock of its own, so that it waits for nobody's copying.
#[derive(Debug)]
pub(crate) struct Board {
    /// What happened; it outlives the daemon of one configuration.
    pub(crate) journal: Arc<Journal>,
    pub(crate) pulses: Pulses,
    pub(crate) timings: Timings,
    status: Mutex<Status>,
    usage: Mutex<UsageStatus>,
}

impl Board {
    pub(crate) fn new(journal: Arc<Journal>) -> Self {
        Self {
            journal,
            pulses: Pulses::default(),
            timings: Timings::default(),
            status: Mutex::default(),
            usage: Mutex::default(),
        }
    }

    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut Status) -> T) -> T {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let out = change(&mut status);
        status.ready = status.source.connected && status.document.is_some() && status.plan.rounds > 0;
        out
    }

    pub(crate) fn usage(&self, change: impl FnOnce(&mut UsageStatus)) {
        change(&mut self.usage.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn snapshot(&self) -> Status {
        let usage = self.usage.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Status { usage, ..self.update(|s| s.clone()) }
    }
}
