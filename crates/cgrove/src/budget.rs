//! How often something is let through: so many times at once, then so many times a second, for each key. What is not
//! let through is for the caller to count.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// Keys that are remembered. Whoever names more of them than this, all of them used just now, is let through here:
/// callers have a second budget over all keys.
const MOST_KEYS: usize = 4096;

#[derive(Debug)]
pub(crate) struct Budget<K> {
    burst: u32,
    /// One more is let through after each of these.
    each: Duration,
    /// When each key's budget is whole again.
    whole_at: HashMap<K, Instant>,
}

impl<K: Hash + Eq> Budget<K> {
    pub(crate) fn new(burst: u32, in_a_second: u32) -> Self {
        Self { burst, each: Duration::from_secs(1) / in_a_second, whole_at: HashMap::new() }
    }

    /// May it go through now?
    pub(crate) fn take(&mut self, key: K, now: Instant) -> bool {
        if self.whole_at.len() >= MOST_KEYS && !self.whole_at.contains_key(&key) {
            self.whole_at.retain(|_, at| *at > now);
            if self.whole_at.len() >= MOST_KEYS {
                return true;
            }
        }
        let whole_at = self.whole_at.entry(key).or_insert(now);
        let then = (*whole_at).max(now) + self.each;
        let fits = then - now <= self.each * self.burst;
        if fits {
            *whole_at = then;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_at_once_then_some_a_second_for_each_key() {
        let mut budget = Budget::new(5, 2);
        let start = Instant::now();
        let mut through =
            |key, seconds: u64| (0..100).filter(|_| budget.take(key, start + Duration::from_secs(seconds))).count();
        assert_eq!((through("a", 0), through("a", 0), through("b", 0)), (5, 0, 5));
        assert_eq!((through("a", 1), through("a", 60), through("a", 60)), (2, 5, 0));
    }

    #[test]
    fn keys_without_end_cost_bounded_memory() {
        let mut budget = Budget::new(1, 1);
        let start = Instant::now();
        for n in 0..100_000_u64 {
            budget.take(n, start + Duration::from_millis(n));
        }
        assert!(budget.whole_at.len() <= MOST_KEYS);
    }
}
