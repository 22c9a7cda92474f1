//! How often whoever announces changes may make us read.

use std::time::Duration;

use tokio::time::Instant;

/// At once as a rule, but not again and again.
#[derive(Debug)]
pub(super) struct Pace {
    left: f64,
    since: Instant,
}

impl Pace {
    const BURST: f64 = 20.0;
    const EACH_SECOND: f64 = 4.0;

    pub(super) fn new() -> Self {
        Self { left: Self::BURST, since: Instant::now() }
    }

    /// Takes one, and says how long to wait before.
    pub(super) fn take(&mut self) -> Duration {
        let now = Instant::now();
        let came = now.duration_since(self.since).as_secs_f64() * Self::EACH_SECOND;
        (self.left, self.since) = ((self.left + came).min(Self::BURST) - 1.0, now);
        Duration::from_secs_f64((-self.left).max(0.0) / Self::EACH_SECOND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_change_is_read_at_once_and_a_flood_four_times_a_second() {
        let mut pace = Pace::new();
        let start = Instant::now();
        for n in 0..100 {
            let pause = pace.take();
            assert_eq!(pause.is_zero(), n < 20, "{n}");
            tokio::time::sleep(pause).await;
        }
        assert!((19..=21).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(pace.take().is_zero());
    }
}
