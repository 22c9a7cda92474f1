//! The sampler's thread: wakes at each full second, measures, hands the slot to the ring. It waits for nobody.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use cgrove_cgroupfs::host::Host;
use cgrove_cgroupfs::sample::{Sampler, descriptor_budget};
use cgrove_core::actual::Version;
use cgrove_core::usage::{Choice, Collect, Template};
use tracing::{info, warn};

use crate::source::Document;
use crate::status::Board;
use crate::store::ring::Ring;
use cgrove_config::Config;

/// A clock that was set back by no more than this is waited for; beyond it slots count on by themselves.
const SMALL_STEP: u64 = 5;

enum Order {
    Tree(Arc<Document>),
    Stop,
}

/// The running thread.
pub(crate) struct Handle {
    orders: Sender<Order>,
    thread: Option<JoinHandle<()>>,
}

impl Handle {
    /// The thread ended by itself: a bug.
    pub(crate) fn is_dead(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Measures this document's groups from the next second on.
    pub(crate) fn measure(&self, document: Arc<Document>) {
        let _ = self.orders.send(Order::Tree(document));
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts the thread.
pub(crate) fn start(config: Arc<Config>, board: Arc<Board>, ring: Arc<Ring>) -> std::io::Result<Handle> {
    let (orders, inbox) = channel();
    let thread = std::thread::Builder::new()
        .name("sampler".into())
        .spawn(move || Loop { config, board, ring, budget: descriptor_budget() }.run(&inbox))?;
    Ok(Handle { orders, thread: Some(thread) })
}

struct Loop {
    config: Arc<Config>,
    board: Arc<Board>,
    ring: Arc<Ring>,
    budget: usize,
}

impl Loop {
    fn run(self, inbox: &Receiver<Order>) {
        let mut sampler: Option<Sampler> = None;
        let mut wanted: Option<(Arc<Template>, Collect)> = None;
        let mut last = self.ring.newest();
        let mut size = 0;
        let mut target = unix_time().as_secs() + 1;
        let pulse = self.board.pulses.of("sampler", Duration::from_secs(10));
        loop {
            pulse.beat();
            // A clock that was set back must not make us sleep until it catches up.
            let wait = Duration::from_secs(target).saturating_sub(unix_time()).min(Duration::from_secs(1));
            match inbox.recv_timeout(wait) {
                Ok(Order::Tree(document)) => {
                    let collect = self.config.usage.collect(document.desired.form);
                    let new = Some((Arc::new(Template::new(&document.desired)), collect));
                    if wanted != new {
                        wanted = new;
                        sampler = wanted.clone().and_then(|w| self.prepare(w));
                    }
                    continue;
                }
                Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = unix_time().as_secs();
            target = now + 1;
            if sampler.is_none() {
                sampler = wanted.clone().and_then(|w| self.prepare(w));
            }
            let Some(sampler) = &mut sampler else { continue };
            let Some(slot) = next_slot(last, now) else { continue };
            let mut out = Vec::with_capacity(size + size / 16 + 256);
            let began = Instant::now();
            let gaps = sampler.sample(&mut out);
            self.board.timings.tick.observe(began.elapsed().as_secs_f64());
            size = out.len();
            let held = self.ring.push(slot, Bytes::from(out), gaps.remade);
            let missed = last.map_or(0, |last| slot - last - 1);
            last = Some(slot);
            self.board.usage(|u| {
                u.newest_slot = Some(slot);
                u.slots_total += 1;
                u.gaps_total += missed;
                u.missing = gaps.missing;
                (u.held, u.held_bytes, u.dropped_total) = (held.slots, held.bytes, held.dropped);
            });
        }
    }

    fn prepare(&self, (template, collect): (Arc<Template>, Collect)) -> Option<Sampler> {
        match Host::discover(&self.config.cgroup.dir) {
            Ok(host) => {
                let sampler = Sampler::new(template, &host, self.config.parents(), collect, self.budget);
                info!(io_source = sampler.io_source, "sampling");
                if collect.has(Choice::Pressure)
                    && host.mounts.iter().all(|m| m.version == Version::V1 || m.controllers.is_empty())
                {
                    info!("usage.collect: pressure is not measured, the groups are on cgroup v1");
                }
                self.board.usage(|u| u.io_source = sampler.io_source);
                Some(sampler)
            }
            Err(e) => {
                warn!("sampler: {e}");
                None
            }
        }
    }
}

fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The slot for this wake-up: the clock's second, but never one that was or lies before. A timer that fires a hair
/// early, or a clock set back a little, gets no slot; a clock set back far makes slots count on.
fn next_slot(last: Option<u64>, now: u64) -> Option<u64> {
    match last {
        None => Some(now),
        Some(last) if now > last => Some(now),
        Some(last) if last - now < SMALL_STEP => None,
        Some(last) => Some(last + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::next_slot;

    #[test]
    fn slots_are_unique_and_monotone_whatever_the_clock_does() {
        assert_eq!(next_slot(None, 100), Some(100));
        assert_eq!(next_slot(Some(100), 101), Some(101));
        assert_eq!(next_slot(Some(100), 3700), Some(3700));
        assert_eq!(next_slot(Some(100), 100), None);
        assert_eq!(next_slot(Some(100), 97), None);
        assert_eq!(next_slot(Some(5000), 1400), Some(5001));
    }
}
