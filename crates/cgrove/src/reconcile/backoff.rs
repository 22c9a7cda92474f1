//! How long to wait before what failed is tried again.

use std::time::Duration;

use super::Event;

/// Seconds until the next try, the last one for good.
const RETRY: [u64; 6] = [1, 2, 5, 10, 30, 60];

/// Rounds that failed one after the other, for no reason that we have been told of.
#[derive(Debug, Default)]
pub(super) struct Backoff(usize);

impl Backoff {
    /// News make earlier failures void: whatever stood in the way may be gone, and what is wrong now is wrong since just now.
    pub(super) fn hear(&mut self, event: Event) {
        match event {
            Event::Document | Event::Drift | Event::Approval | Event::State => self.0 = 0,
            Event::Resync | Event::Tasks | Event::Stop => {}
        }
    }

    /// The pause after a round, where one without failures is followed by `resync`.
    pub(super) fn pause(&mut self, failed: bool, resync: Duration) -> Duration {
        if !failed {
            self.0 = 0;
            return resync;
        }
        let seconds = RETRY[self.0.min(RETRY.len() - 1)];
        self.0 += 1;
        resync.min(Duration::from_secs(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESYNC: Duration = Duration::from_secs(45);

    fn after(backoff: &mut Backoff, events: &[Event]) -> Vec<u64> {
        let mut pause = |event: &Event| {
            backoff.hear(*event);
            backoff.pause(true, RESYNC).as_secs()
        };
        events.iter().map(&mut pause).collect()
    }

    #[test]
    fn pauses_grow_up_to_the_resync() {
        let mut backoff = Backoff::default();
        assert_eq!(after(&mut backoff, &[Event::Resync; 7]), [1, 2, 5, 10, 30, 45, 45]);
        assert_eq!(backoff.pause(false, RESYNC), RESYNC);
        assert_eq!(after(&mut backoff, &[Event::Resync]), [1]);
    }

    #[test]
    fn news_begin_anew() {
        let mut backoff = Backoff::default();
        for event in [Event::Drift, Event::Document, Event::Approval] {
            assert_eq!(
                after(&mut backoff, &[Event::Resync, Event::Resync, Event::Resync, event, Event::Resync])[3..],
                [1, 2]
            );
        }
    }
}
