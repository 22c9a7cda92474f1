//! The order that the kernel wants within one group.

use std::cmp::Ordering;

use super::{Action, Op};

/// CPU time per period as one number, so that two limits can be compared.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bandwidth {
    /// Microseconds; `None` is unlimited.
    pub(super) quota: Option<i64>,
    pub(super) period: i64,
}

impl Bandwidth {
    /// What new groups have.
    pub(super) const UNLIMITED: Self = Self { quota: None, period: 100_000 };

    /// `Greater` when `self` allows more than `other`.
    pub(super) fn cmp(self, other: Self) -> Ordering {
        match (self.quota, other.quota) {
            (None, None) => Ordering::Equal,
            (None, _) => Ordering::Greater,
            (_, None) => Ordering::Less,
            (Some(q), Some(r)) => {
                (i128::from(q) * i128::from(other.period)).cmp(&(i128::from(r) * i128::from(self.period)))
            }
        }
    }
}

/// Sorts one group's writes: `cpu.idle` before the weight, memory + swap above memory at all times, of quota and
/// period first the one that makes the ratio smaller on the way, and the burst when the quota leaves room for it.
pub(super) fn sort(actions: &mut [Action], narrowing: bool) {
    let period_first = period_grows(actions);
    let rank = |a: &Action| match &a.op {
        Op::Write(w) => match (w.file.as_str(), narrowing) {
            ("cpu.idle", _) => 0,
            ("cpu.cfs_period_us", _) if period_first => 2,
            ("cpu.cfs_period_us", _) => 4,
            ("cpu.cfs_burst_us" | "cpu.max.burst", _) if shrinks(w) => 1,
            ("cpu.cfs_burst_us" | "cpu.max.burst", _) => 6,
            // bfq's weight for all disks resets those of single ones.
            ("blkio.bfq.weight_device", _) => 4,
            // A partition needs its CPUs first, and gives them back last.
            ("cpuset.cpus.exclusive", _) => 4,
            ("cpuset.cpus.partition", _) => 5,
            ("memory.memsw.limit_in_bytes", true) => 4,
            ("memory.memsw.limit_in_bytes", false) => 1,
            _ => 3,
        },
        _ => 0,
    };
    actions.sort_by_key(rank);
}

fn shrinks(write: &super::Write) -> bool {
    let number = |text: Option<&String>| text.and_then(|t| t.parse::<u64>().ok()).unwrap_or(0);
    number(write.to.first()) < number(write.from.as_ref())
}

fn period_grows(actions: &[Action]) -> bool {
    actions.iter().any(|a| match &a.op {
        Op::Write(w) if w.file == "cpu.cfs_period_us" => {
            let now: u64 = w.from.as_deref().unwrap_or("100000").parse().unwrap_or(100_000);
            w.to.first().and_then(|t| t.parse::<u64>().ok()).is_some_and(|new| new >= now)
        }
        _ => false,
    })
}
