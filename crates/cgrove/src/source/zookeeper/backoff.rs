//! How long a node waits before it asks a ZooKeeper again: whatever a server does, neither of the two is kept busy.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
/// Between attempts at servers that are away, or close.
const AWAY: Duration = Duration::from_secs(2);
/// Between attempts at one that breaks the protocol.
const HOSTILE: Duration = Duration::from_secs(30);
/// A session that answered and lasted so long was a good one.
const USEFUL: Duration = Duration::from_secs(10);

/// Half to one and a half of it: what happens to a whole cluster at once must not be answered by all nodes at once, nor
/// again and again.
pub(super) fn spread(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64())
}

/// Pauses between sessions, which double.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempt: u32,
}

impl Backoff {
    /// A session ended: did it answer, and how long did it last?
    pub(super) fn ended(&mut self, answered: bool, lasted: Duration) {
        if answered && lasted >= USEFUL {
            self.attempt = 0;
        }
    }

    /// The next pause, before it is spread.
    pub(super) fn next(&mut self, hostile: bool) -> Duration {
        let pause = FIRST * 2_u32.saturating_pow(self.attempt.min(20));
        self.attempt = self.attempt.saturating_add(1);
        pause.min(if hostile { HOSTILE } else { AWAY })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_bound_and_only_a_good_session_ends_that() {
        let mut backoff = Backoff::default();
        let mut pauses =
            |hostile| std::iter::repeat_with(|| backoff.next(hostile).as_millis()).take(10).collect::<Vec<_>>();
        assert_eq!(pauses(true), [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000]);
        assert_eq!(pauses(false), [2000; 10]);
        for (answered, lasted) in [(true, 9), (false, 1000)] {
            backoff.ended(answered, Duration::from_secs(lasted));
            assert_eq!(backoff.next(true).as_millis(), 30_000);
        }
        backoff.ended(true, USEFUL);
        assert_eq!(backoff.next(false).as_millis(), 100);
        for _ in 0..1000 {
            let pause = spread(Duration::from_secs(2));
            assert!((1..=3).contains(&pause.as_millis().div_ceil(1000)));
        }
    }
}
