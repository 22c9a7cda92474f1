//! How often counters and groups are looked at, whatever is announced and however often.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The kernel announces lack of memory before it kills; the counters are read again after these times.
const AFTER: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(400), Duration::from_millis(900)];
/// They are not read more often than that.
const APART: Duration = Duration::from_millis(300);
/// Announcements were lost: everything is looked at after this time, or ever later.
const SOON: Duration = Duration::from_millis(500);
const LATE: Duration = Duration::from_secs(8);

/// When counters of kills are read: the kernel announces lack of memory before it kills. A group that is out of memory
/// all the time is read no more often than one that was once.
#[derive(Debug, Default)]
pub(super) struct Kills(VecDeque<Instant>);

impl Kills {
    /// A group is out of memory. What is due already is for this one, too.
    pub(super) fn expect(&mut self, now: Instant) {
        for after in AFTER {
            let time = now + after;
            if self.0.back().is_none_or(|last| time >= *last + APART) {
                self.0.push_back(time);
            }
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.0.front().copied()
    }

    pub(super) fn looked(&mut self, now: Instant) {
        while self.0.front().is_some_and(|time| *time <= now) {
            self.0.pop_front();
        }
    }
}

/// When all groups are looked at because announcements were lost: soon, and ever less often while it goes on.
#[derive(Debug, Default)]
pub(super) struct Relook {
    due: Option<Instant>,
    last: Option<Instant>,
    pause: Duration,
}

impl Relook {
    pub(super) fn expect(&mut self, now: Instant) {
        if self.due.is_some() {
            return;
        }
        let goes_on = self.last.is_some_and(|last| now - last < self.pause * 2 + SOON);
        self.pause = if goes_on { (self.pause * 2).min(LATE) } else { SOON };
        self.due = Some(now + self.pause);
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn looked(&mut self, now: Instant) {
        if self.due.take().is_some() {
            self.last = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn kills_are_looked_for_soon_and_not_too_often() {
        let start = Instant::now();
        let (mut kills, mut looks) = (Kills::default(), Vec::new());
        // Out of memory each 10 ms for ten seconds.
        for ms in 0..12_000 {
            let now = start + milliseconds(ms);
            if ms < 10_000 && ms % 10 == 0 {
                kills.expect(now);
            }
            if kills.due().is_some_and(|due| due <= now) {
                kills.looked(now);
                looks.push(ms);
            }
        }
        assert_eq!(looks[..3], [100, 400, 900]);
        assert!(looks.len() <= 40, "{looks:?}");
        assert!(looks.last().is_some_and(|last| *last >= 10_500), "the last kill is seen: {looks:?}");
    }

    #[test]
    fn whoever_goes_on_losing_announcements_costs_ever_less() {
        let start = Instant::now();
        let (mut relook, mut looks) = (Relook::default(), Vec::new());
        for ms in 0..120_000 {
            let now = start + milliseconds(ms);
            // Lost again and again for a minute, then once more.
            if ms < 60_000 || ms == 110_000 {
                relook.expect(now);
            }
            if relook.due().is_some_and(|due| due <= now) {
                relook.looked(now);
                looks.push(ms);
            }
        }
        assert_eq!(looks[0], 500);
        assert!(looks.iter().filter(|ms| **ms < 70_000).count() <= 12, "{looks:?}");
        assert_eq!(looks.last(), Some(&110_500));
    }
}
