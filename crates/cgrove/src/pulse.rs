//! Whether every loop still makes progress: each beats as it goes round, and one that is silent for too long is
//! stalled. The watchdog is fed, and `/healthz` is well, only while none is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Every loop of the daemon.
#[derive(Debug)]
pub(crate) struct Pulses {
    start: Instant,
    loops: Mutex<Vec<Arc<Loop>>>,
}

#[derive(Debug)]
struct Loop {
    name: &'static str,
    /// The longest that a round may take.
    limit: Duration,
    /// Milliseconds after the start.
    last: AtomicU64,
}

/// One loop's own end.
#[derive(Debug, Clone)]
pub(crate) struct Pulse {
    start: Instant,
    of: Arc<Loop>,
}

impl Default for Pulses {
    fn default() -> Self {
        Self { start: Instant::now(), loops: Mutex::default() }
    }
}

impl Pulses {
    /// A loop that shall beat at least once in `limit`, beginning now.
    pub(crate) fn of(&self, name: &'static str, limit: Duration) -> Pulse {
        let pulse = Pulse { start: self.start, of: Arc::new(Loop { name, limit, last: AtomicU64::new(0) }) };
        pulse.beat();
        self.loops.lock().unwrap_or_else(PoisonError::into_inner).push(pulse.of.clone());
        pulse
    }

    /// The loops that are silent for too long, as `name (seconds)`.
    pub(crate) fn stalled(&self) -> Vec<String> {
        let loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        let silent =
            |l: &Loop| self.start.elapsed().saturating_sub(Duration::from_millis(l.last.load(Ordering::Relaxed)));
        let stalled = loops.iter().map(|l| (l, silent(l))).filter(|(l, silent)| *silent > l.limit);
        stalled.map(|(l, silent)| format!("{} ({} s)", l.name, silent.as_secs())).collect()
    }
}

impl Pulse {
    pub(crate) fn beat(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.of.last.store(now, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_loop_is_stalled_until_it_beats() {
        let pulses = Pulses::default();
        let slow = pulses.of("slow", Duration::ZERO);
        let quick = pulses.of("quick", Duration::from_secs(60));
        std::thread::park_timeout(Duration::from_millis(5));
        quick.beat();
        assert_eq!(pulses.stalled(), ["slow (0 s)"]);
        slow.beat();
        assert!(pulses.stalled().len() <= 1);
    }
}
