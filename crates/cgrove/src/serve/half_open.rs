//! Connections that have not asked anything yet. There are only so many: a new one pushes the oldest out, so that a
//! crowd that connects and says nothing keeps nobody else out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// At one time at most; each is a socket and a few KiB.
const MOST: usize = 256;

pub(super) struct HalfOpen {
    most: usize,
    next: AtomicU64,
    waiting: Mutex<BTreeMap<u64, CancellationToken>>,
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
        waiting.insert(number, token.clone());
        if waiting.len() > all.most
            && let Some((_, oldest)) = waiting.pop_first()
        {
            oldest.cancel();
        }
        Waiting { all: all.clone(), number, token }
    }
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
        assert!(oldest.token.is_cancelled() && !asked.token.is_cancelled() && !crowd[0].token.is_cancelled());
        drop(crowd);
        assert!(all.waiting.lock().unwrap().is_empty());
    }
}
