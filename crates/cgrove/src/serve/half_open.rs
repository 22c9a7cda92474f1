//! Connections that have not asked anything yet. A crowd that connects and says nothing keeps nobody else out: beyond a
//! number, those that have said nothing for a while make room, and when all places are taken the oldest of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// Beyond so many they make room; each is a socket and a few KiB.
const MOST: usize = 256;
/// An honest client has asked by then.
const A_WHILE: Duration = Duration::from_secs(1);

pub(super) struct HalfOpen {
    most: usize,
    next: AtomicU64,
    waiting: Mutex<BTreeMap<u64, (Instant, CancellationToken)>>,
}

/// One that waits; it leaves with its first request, or when dropped.
pub(super) struct Waiting {
    all: Arc<HalfOpen>,
    number: u64,
    token: CancellationToken,
}

impl HalfOpen {
    /// Most of the connections that may be open altogether are for those who ask.
    pub(super) fn new(connections: usize) -> Self {
        Self { most: MOST.min(connections / 4).max(1), next: AtomicU64::default(), waiting: Mutex::default() }
    }

    pub(super) fn enter(all: &Arc<Self>) -> Waiting {
        let number = all.next.fetch_add(1, Ordering::Relaxed);
        let token = CancellationToken::new();
        let mut waiting = all.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.insert(number, (Instant::now(), token.clone()));
        if waiting.len() > all.most
            && waiting.first_key_value().is_some_and(|(_, (since, _))| since.elapsed() > A_WHILE)
        {
            push_out(&mut waiting);
        }
        Waiting { all: all.clone(), number, token }
    }
}

impl HalfOpen {
    /// Makes room for one, if anybody waits.
    pub(super) fn make_room(&self) -> bool {
        push_out(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn push_out(waiting: &mut BTreeMap<u64, (Instant, CancellationToken)>) -> bool {
    waiting.pop_first().inspect(|(_, (_, oldest))| oldest.cancel()).is_some()
}

impl Waiting {
    pub(super) fn pushed_out(&self) -> CancellationToken {
        self.token.clone()
    }

    pub(super) fn leave(&self) {
        self.all.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_that_says_nothing_goes_first() {
        let all = Arc::new(HalfOpen::new(1024));
        let asked = HalfOpen::enter(&all);
        let oldest = HalfOpen::enter(&all);
        asked.leave();
        let crowd: Vec<_> = (0..MOST).map(|_| HalfOpen::enter(&all)).collect();
        // A crowd that has just come may be honest.
        assert!(!oldest.token.is_cancelled());
        assert!(all.make_room() && oldest.token.is_cancelled() && !asked.token.is_cancelled());
        all.waiting.lock().unwrap().first_entry().unwrap().get_mut().0 -= 2 * A_WHILE;
        let _late = HalfOpen::enter(&all);
        assert!(crowd[0].token.is_cancelled() && !crowd[1].token.is_cancelled());
        drop(crowd);
        assert_eq!(all.waiting.lock().unwrap().len(), 1);
    }
}
