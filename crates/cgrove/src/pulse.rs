//! Whether every loop still makes progress: each beats as it goes round, and one that is silent for too long is
//! stalled. The watchdog is fed, and `/healthz` is well, only while none is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cgrove_cgroupfs::doing::Doing;

/// No single operation of the worker thread takes longer: what may, is done in threads of its own.
const OPERATION: Duration = Duration::from_secs(20);

/// Every loop of the daemon.
#[derive(Debug)]
pub(crate) struct Pulses {
    start: Instant,
    loops: Mutex<Vec<Arc<Loop>>>,
    /// What the worker thread is at.
    worker: Mutex<Option<Doing>>,
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
        Self { start: Instant::now(), loops: Mutex::default(), worker: Mutex::default() }
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

    /// The worker thread is watched, too, operation by operation.
    pub(crate) fn watch_worker(&self, doing: Doing) {
        *self.worker.lock().unwrap_or_else(PoisonError::into_inner) = Some(doing);
    }

    fn worker(&self, limit: Duration) -> Option<String> {
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        let (operation, silent) = worker.as_ref()?.longer_than(limit)?;
        Some(format!("worker ({} s) in {operation}", silent.as_secs()))
    }

    /// The loops that are silent for too long, as `name (seconds)`, and the operation that the worker thread hangs in.
    pub(crate) fn stalled(&self) -> Vec<String> {
        let loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        let silent =
            |l: &Loop| self.start.elapsed().saturating_sub(Duration::from_millis(l.last.load(Ordering::Relaxed)));
        let stalled = loops.iter().map(|l| (l, silent(l))).filter(|(l, silent)| *silent > l.limit);
        let stalled = stalled.map(|(l, silent)| format!("{} ({} s)", l.name, silent.as_secs()));
        self.worker(OPERATION).into_iter().chain(stalled).collect()
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

    #[test]
    fn the_worker_says_which_file_it_hangs_in() {
        let (pulses, doing) = (Pulses::default(), Doing::default());
        assert!(pulses.worker(Duration::ZERO).is_none());
        pulses.watch_worker(doing.clone());
        doing.note_here();
        cgrove_cgroupfs::doing::at("write", "/sys/fs/cgroup/a/cpu.max".as_ref());
        std::thread::park_timeout(Duration::from_millis(2));
        assert_eq!(pulses.worker(Duration::ZERO).unwrap(), "worker (0 s) in write /sys/fs/cgroup/a/cpu.max");
        assert!(pulses.stalled().is_empty());
    }
}
