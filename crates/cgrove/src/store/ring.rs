//! The newest slots in memory, within a budget: answers first, and feeds Redis again after an outage.

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use cgrove_core::ids::GroupPath;
use tokio::sync::watch;

/// Slots by second. Shared by the sampler, the store and the server.
pub(crate) struct Ring {
    inner: Mutex<Inner>,
    newest: watch::Sender<Option<u64>>,
}

struct Inner {
    slots: BTreeMap<u64, Slot>,
    bytes: usize,
    dropped: u64,
    keep: u64,
    budget: usize,
}

struct Slot {
    bytes: Bytes,
    /// Groups that were made anew in this second: no rate reaches across it.
    remade: Vec<GroupPath>,
    /// It is in the outer store, as far as we know.
    written: bool,
}

/// What the ring holds after a push.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Holding {
    pub(crate) slots: usize,
    pub(crate) bytes: usize,
    /// Slots dropped before their time, since the start.
    pub(crate) dropped: u64,
}

impl Ring {
    pub(crate) fn new(keep: Duration, budget: usize) -> Self {
        let inner = Inner { slots: BTreeMap::new(), bytes: 0, dropped: 0, keep: keep.as_secs(), budget };
        Self { inner: Mutex::new(inner), newest: watch::Sender::new(None) }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// New limits after a reload.
    pub(crate) fn resize(&self, keep: Duration, budget: usize) {
        self.with(|i| (i.keep, i.budget) = (keep.as_secs(), budget));
    }

    pub(crate) fn push(&self, slot: u64, bytes: Bytes, remade: Vec<GroupPath>) -> Holding {
        let holding = self.with(|i| {
            i.bytes += bytes.len();
            if let Some(old) = i.slots.insert(slot, Slot { bytes, remade, written: false }) {
                i.bytes -= old.bytes.len();
            }
            while let Some(first) = i.slots.first_entry() {
                let expired = first.key() + i.keep <= slot;
                let over = i.bytes > i.budget && *first.key() != slot;
                if !expired && !over {
                    break;
                }
                i.bytes -= first.remove().bytes.len();
                i.dropped += u64::from(!expired);
            }
            Holding { slots: i.slots.len(), bytes: i.bytes, dropped: i.dropped }
        });
        self.newest.send_replace(Some(slot));
        holding
    }

    pub(crate) fn newest(&self) -> Option<u64> {
        *self.newest.borrow()
    }

    /// Changes with each new slot.
    pub(crate) fn follow(&self) -> watch::Receiver<Option<u64>> {
        self.newest.subscribe()
    }

    /// The slots of a range that are here.
    pub(crate) fn range(&self, first: u64, last: u64) -> BTreeMap<u64, Bytes> {
        if first > last {
            return BTreeMap::new();
        }
        self.with(|i| i.slots.range(first..=last).map(|(slot, s)| (*slot, s.bytes.clone())).collect())
    }

    /// Groups that were made anew in these slots.
    pub(crate) fn remade(&self, first: u64, last: u64) -> HashSet<GroupPath> {
        if first > last {
            return HashSet::new();
        }
        self.with(|i| i.slots.range(first..=last).flat_map(|(_, s)| s.remade.iter().cloned()).collect())
    }

    /// The oldest slots that the outer store lacks: at least one, then within both limits.
    pub(crate) fn unwritten(&self, most: usize, most_bytes: usize) -> Vec<(u64, Bytes)> {
        self.with(|i| {
            let (mut out, mut total) = (Vec::new(), 0);
            for (slot, s) in i.slots.iter().filter(|(_, s)| !s.written).take(most) {
                total += s.bytes.len();
                if !out.is_empty() && total > most_bytes {
                    break;
                }
                out.push((*slot, s.bytes.clone()));
            }
            out
        })
    }

    /// How many slots the outer store lacks.
    pub(crate) fn waiting(&self) -> usize {
        self.with(|i| i.slots.values().filter(|s| !s.written).count())
    }

    /// Every slot that the outer store should have.
    pub(crate) fn written(&self) -> Vec<u64> {
        self.with(|i| i.slots.iter().filter(|(_, s)| s.written).map(|(slot, _)| *slot).collect())
    }

    pub(crate) fn mark(&self, slots: &[u64], written: bool) {
        self.with(|i| {
            for slot in slots {
                if let Some(s) = i.slots.get_mut(slot) {
                    s.written = written;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(keep: u64, budget: usize) -> Ring {
        Ring::new(Duration::from_secs(keep), budget)
    }

    #[test]
    fn slots_expire_by_time_and_are_dropped_by_budget() {
        let r = ring(3, 1000);
        for slot in 10..20 {
            r.push(slot, Bytes::from_static(b"0123456789"), Vec::new());
        }
        assert_eq!(r.range(0, u64::MAX).into_keys().collect::<Vec<_>>(), [17, 18, 19]);
        let r = ring(300, 25);
        let holding = (10..15).map(|slot| r.push(slot, Bytes::from_static(b"0123456789"), Vec::new())).last().unwrap();
        assert_eq!(holding, Holding { slots: 2, bytes: 20, dropped: 3 });
        // One slot larger than the budget is still kept: the newest always answers.
        assert_eq!(r.push(15, Bytes::from(vec![0; 100]), Vec::new()).slots, 1);
    }

    #[test]
    fn what_the_store_lacks_is_known() {
        let r = ring(300, 1000);
        for slot in 1..=3 {
            r.push(slot, Bytes::new(), Vec::new());
        }
        r.mark(&[1, 2], true);
        assert_eq!(r.unwritten(10, 0).len(), 1);
        r.mark(&r.written(), false);
        assert_eq!(r.unwritten(2, 100).len(), 2);
        assert!(r.range(5, 4).is_empty());
    }
}
