//! Something of which there is only so much, shared fairly: turns for wide questions, bytes under way. A peer holds at most
//! as much as it leaves free, so that there is always something for the next one; of those who wait, the peer that holds
//! least is served first.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::peer::Peer;

pub(crate) struct Fair {
    state: Mutex<State>,
    /// So many requests of one peer wait; more are refused.
    most_waiting: usize,
}

struct State {
    all: usize,
    free: usize,
    held: HashMap<Peer, usize>,
    waiting: VecDeque<Waiter>,
}

struct Waiter {
    peer: Peer,
    amount: usize,
    granted: oneshot::Sender<Share>,
}

/// Given back when dropped.
pub(super) struct Share {
    of: Arc<Fair>,
    peer: Peer,
    amount: usize,
}

impl Fair {
    pub(super) fn new(all: usize, most_waiting: usize) -> Arc<Self> {
        let state = Mutex::new(State { all, free: all, held: HashMap::new(), waiting: VecDeque::new() });
        Arc::new(Self { state, most_waiting })
    }

    /// Waits until it is this peer's turn. `None`: too many of its requests wait already.
    pub(super) async fn take(self: &Arc<Self>, peer: Peer, amount: usize) -> Option<Share> {
        let (granted, share) = oneshot::channel();
        {
            let mut state = self.state();
            state.waiting.retain(|w| !w.granted.is_closed());
            if state.waiting.iter().filter(|w| w.peer == peer).count() >= self.most_waiting {
                return None;
            }
            let amount = amount.min(state.all);
            state.waiting.push_back(Waiter { peer, amount, granted });
        }
        self.serve();
        share.await.ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands out what can be handed out.
    fn serve(self: &Arc<Self>) {
        loop {
            // The lock is free again before anything is sent: a share that nobody takes is given back at once.
            let Some(waiter) = self.state().next() else { return };
            let share = Share { of: self.clone(), peer: waiter.peer, amount: waiter.amount };
            // Who has gone meanwhile drops it, and somebody else is served.
            let _ = waiter.granted.send(share);
        }
    }
}

impl State {
    fn next(&mut self) -> Option<Waiter> {
        self.waiting.retain(|w| !w.granted.is_closed());
        let held = |peer: &Peer| self.held.get(peer).copied().unwrap_or(0);
        let allowed = |w: &Waiter| match held(&w.peer) {
            0 => true,
            held => held + w.amount <= self.free,
        };
        let candidates = self.waiting.iter().enumerate().filter(|(_, w)| allowed(w));
        let (at, waiter) = candidates.min_by_key(|(at, w)| (held(&w.peer), *at))?;
        // Nobody who holds more overtakes the one that is next.
        if waiter.amount > self.free {
            return None;
        }
        let waiter = self.waiting.remove(at)?;
        self.free -= waiter.amount;
        *self.held.entry(waiter.peer).or_default() += waiter.amount;
        Some(waiter)
    }

    fn give_back(&mut self, peer: Peer, amount: usize) {
        self.free += amount;
        if let Some(held) = self.held.get_mut(&peer) {
            *held = held.saturating_sub(amount);
            if *held == 0 {
                self.held.remove(&peer);
            }
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.state().give_back(self.peer, self.amount);
        self.of.serve();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    fn now(fair: &Arc<Fair>, peer: u32, amount: usize) -> Option<Share> {
        fair.take(Peer::User(peer), amount).now_or_never().flatten()
    }

    #[test]
    fn a_peer_leaves_as_much_as_it_holds() {
        for all in [3, 64, 65_536] {
            let fair = Fair::new(all, 9);
            let crowd: Vec<Share> = std::iter::from_fn(|| now(&fair, 1, 1)).collect();
            assert_eq!(crowd.len(), all.div_ceil(2));
            // A second one finds something, and a third.
            let second: Vec<Share> = std::iter::from_fn(|| now(&fair, 2, 1)).collect();
            assert!(!second.is_empty() && second.len() <= all / 4 + 1);
            assert!(all == 3 || now(&fair, 3, 1).is_some());
            drop((crowd, second));
            assert_eq!(fair.state().free, all);
            assert!(fair.state().held.is_empty());
        }
    }

    #[test]
    fn who_holds_least_is_next_and_nobody_overtakes_it() {
        let fair = Fair::new(100, 9);
        let mut held: Vec<_> = (0..5).map(|_| now(&fair, 1, 10).unwrap()).collect();
        let mut crowd = pin!(fair.take(Peer::User(1), 10));
        assert!(crowd.as_mut().now_or_never().is_none());
        let mut large = pin!(fair.take(Peer::User(2), 60));
        assert!(large.as_mut().now_or_never().is_none());
        // It would fit, but the one before has nothing yet.
        let mut small = pin!(fair.take(Peer::User(3), 1));
        assert!(small.as_mut().now_or_never().is_none());
        held.pop();
        assert!(crowd.as_mut().now_or_never().is_none());
        let large = large.as_mut().now_or_never().flatten();
        assert!(large.is_some() && small.as_mut().now_or_never().is_none());
        drop(large);
        assert!(small.as_mut().now_or_never().flatten().is_some());
        assert!(crowd.as_mut().now_or_never().flatten().is_some());
    }

    #[test]
    fn who_left_the_queue_takes_nothing_with_him() {
        let fair = Fair::new(3, 9);
        let held = [now(&fair, 1, 1).unwrap(), now(&fair, 1, 1).unwrap(), now(&fair, 2, 1).unwrap()];
        for _ in 0..10_000 {
            assert!(now(&fair, 3, 1).is_none());
        }
        assert!(fair.state().waiting.len() <= 1);
        drop(held);
        assert_eq!(fair.state().free, 3);
    }

    #[test]
    fn a_queue_has_an_end() {
        const MOST: usize = 256;
        let fair = Fair::new(2, MOST);
        let _held = now(&fair, 1, 1).unwrap();
        let mut waiting: Vec<_> = (0..MOST).map(|_| Box::pin(fair.take(Peer::User(1), 1))).collect();
        for one in &mut waiting {
            assert!(one.as_mut().now_or_never().is_none());
        }
        assert!(matches!(fair.take(Peer::User(1), 1).now_or_never(), Some(None)));
        assert!(now(&fair, 2, 1).is_some());
    }
}
