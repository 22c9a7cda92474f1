//! How often we say no. Beyond a rate a stranger gets no more than a closed connection, and the log one line for many.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use super::peer::network;

/// Refusals with an answer, for each address: so many at once, and so many each second after that.
const BURST: f64 = 20.0;
const EACH_SECOND: f64 = 2.0;
/// Addresses that are remembered.
const MOST: usize = 4096;
/// Between two lines in the log.
const LINE: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Refusals(Mutex<State>);

#[derive(Default)]
struct State {
    /// What is left of an address's answers, and when that was.
    left: HashMap<IpAddr, (f64, Instant)>,
    unsaid: u64,
    said: Option<Instant>,
}

impl Refusals {
    /// Counts one more; is it worth an answer?
    pub(super) fn one_more(&self, peer: IpAddr, why: &str) -> bool {
        self.at(peer, why, Instant::now())
    }

    fn at(&self, peer: IpAddr, why: &str, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.unsaid += 1;
        if state.said.is_none_or(|said| now - said >= LINE) {
            warn!(%peer, refused = state.unsaid, "client refused: {why}");
            state.unsaid = 0;
            state.said = Some(now);
        }
        let refill = |(left, since): &(f64, Instant)| (left + (now - *since).as_secs_f64() * EACH_SECOND).min(BURST);
        if state.left.len() >= MOST {
            state.left.retain(|_, entry| refill(entry) < BURST);
            if state.left.len() >= MOST {
                state.left.clear();
            }
        }
        let entry = state.left.entry(network(peer)).or_insert((BURST, now));
        *entry = (refill(entry), now);
        let answered = entry.0 >= 1.0;
        entry.0 -= f64::from(u8::from(answered));
        answered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_run_out_and_come_back() {
        let refusals = Refusals::default();
        let (start, peer) = (Instant::now(), IpAddr::from([10, 0, 0, 1]));
        let answered = |n: usize, at: Instant| (0..n).filter(|_| refusals.at(peer, "x", at)).count();
        assert_eq!(answered(100, start), 20);
        assert_eq!(answered(100, start + Duration::from_secs(5)), 10);
        assert!(refusals.at(IpAddr::from([10, 0, 0, 2]), "x", start));
        for n in 0..10_000u32 {
            refusals.at(IpAddr::from(n.to_be_bytes()), "x", start);
        }
        assert!(refusals.0.lock().unwrap().left.len() <= MOST);
    }
}
