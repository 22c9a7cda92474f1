//! Places where more is announced than is worth listening to: whoever owns a group can make and remove groups in it, and
//! write its files, as fast as he likes. Such a place is not watched for a while, and looked at each second instead.

use std::time::{Duration, Instant};

/// Announcements of one place in a second, beyond which it is not watched.
const MOST: u32 = 500;
const SECOND: Duration = Duration::from_secs(1);
/// How long it is not watched; where it goes on, twice as long each time, up to the longest.
const SHORTEST: Duration = SECOND;
const LONGEST: Duration = Duration::from_secs(16);
/// Worth a line in the log.
const LASTS: Duration = Duration::from_secs(4);

/// What one place announces.
#[derive(Debug, Default)]
pub(super) struct Noise {
    since: Option<Instant>,
    heard: u32,
    pause: Duration,
    until: Option<Instant>,
}

impl Noise {
    /// One more announcement. True: there are too many.
    pub(super) fn hear(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= SECOND) {
            (self.since, self.heard) = (Some(now), 0);
        }
        self.heard += 1;
        self.heard > MOST
    }

    /// From now on it is not watched, until the time that this says.
    pub(super) fn mute(&mut self, now: Instant) -> Instant {
        let goes_on = self.until.is_some_and(|until| now.saturating_duration_since(until) < self.pause + SECOND);
        self.pause = if goes_on { (self.pause * 2).min(LONGEST) } else { SHORTEST };
        (self.since, self.heard) = (None, 0);
        *self.until.insert(now + self.pause)
    }

    /// It has just gone on for so long that somebody should know. True once, until it was quiet.
    pub(super) fn lasts(&self) -> bool {
        self.pause == LASTS
    }

    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_goes_on_is_heard_less_and_less_and_who_stops_is_forgiven() {
        let mut noise = Noise::default();
        let mut now = Instant::now();
        assert!((0..MOST).all(|_| !noise.hear(now)) && noise.hear(now));
        assert!(!noise.hear(now + SECOND), "each second counts by itself");
        let mut pauses = Vec::new();
        for _ in 0..7 {
            let until = noise.mute(now);
            pauses.push((until - now).as_secs());
            now = until + Duration::from_millis(100);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 16, 16]);
        now += Duration::from_secs(60);
        assert_eq!(noise.mute(now) - now, SHORTEST);
    }
}
