//! The hands ask the kernel to tell of groups. That may wait for a long reconcile, and nobody waits for it.

use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use cgrove_cgroupfs::notices::{Asked, Place, Threshold, Trigger};
use cgrove_config::Config;
use tokio::sync::watch;

use crate::hands::Hands;

/// Groups with triggers. Each trigger keeps whoever closes it waiting for the kernel, about 10 ms.
const MOST_TRIGGERED: usize = 64;

/// What is asked, and what was.
pub(super) struct Asking {
    hands: Hands,
    counter: Arc<OwnedFd>,
    asked: Arc<Mutex<Asked>>,
    under_way: Option<Pin<Box<dyn Future<Output = Vec<Trigger>> + Send>>>,
    /// There were other groups since.
    again: bool,
}

impl Asking {
    pub(super) fn new(hands: Hands, counter: Arc<OwnedFd>) -> Self {
        Self { hands, counter, asked: Arc::default(), under_way: None, again: false }
    }

    pub(super) fn begin(&mut self, config: &Config, places: Arc<Vec<Place>>) {
        if self.under_way.is_some() {
            self.again = true;
            return;
        }
        let thresholds = thresholds(config);
        let (asked, counter, hands) = (self.asked.clone(), self.counter.clone(), self.hands.clone());
        let work = move || {
            let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.ask(&places, &thresholds, MOST_TRIGGERED, counter.as_fd())
        };
        self.under_way = Some(Box::pin(async move { hands.run(work).await }));
    }

    /// Waits until it is asked. Cancel-safe.
    pub(super) async fn done(&mut self) -> Vec<Trigger> {
        let Some(under_way) = &mut self.under_way else { return std::future::pending().await };
        let triggers = under_way.await;
        self.under_way = None;
        triggers
    }

    pub(super) fn go_on(&mut self, config: &Config, places: &watch::Receiver<Arc<Vec<Place>>>) {
        if std::mem::take(&mut self.again) {
            self.begin(config, places.borrow().clone());
        }
    }
}

fn thresholds(config: &Config) -> Vec<Threshold> {
    let window = window(config);
    let text = |t: &cgrove_config::Threshold| {
        format!("{} {} {window}", if t.full { "full" } else { "some" }, window / 100 * u64::from(t.percent))
    };
    let file = |resource| match resource {
        cgrove_config::Resource::Cpu => "cpu.pressure",
        cgrove_config::Resource::Memory => "memory.pressure",
        cgrove_config::Resource::Io => "io.pressure",
    };
    config.events.pressure.iter().map(|t| Threshold { file: file(t.resource), text: text(t) }).collect()
}

/// Microseconds. Without CAP_SYS_RESOURCE the kernel takes only multiples of two seconds.
fn window(config: &Config) -> u64 {
    let may = config.keep_capabilities.contains(rustix::thread::CapabilitySet::SYS_RESOURCE);
    if may { 1_000_000 } else { 2_000_000 }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_question_waits_for_the_hands_and_nobody_for_it() {
        let hands = Hands::begin().unwrap();
        let config = cgrove_config::parse(
            "[tree]\nsource = \"file\"\npath = \"/t\"\n",
            "x.toml",
            "/".as_ref(),
            std::iter::empty(),
        );
        let config = config.unwrap();
        let (release, held) = std::sync::mpsc::channel::<()>();
        // A long reconcile.
        let busy = hands.clone();
        let busy = tokio::spawn(async move { busy.run(move || held.recv()).await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        let counter = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let (sender, places) = watch::channel(Arc::new(Vec::new()));
        let mut asking = Asking::new(hands, Arc::new(counter));
        asking.begin(&config, sender.borrow().clone());
        asking.begin(&config, sender.borrow().clone());
        // The loop goes on, however often it looks.
        for _ in 0..3 {
            assert!(tokio::time::timeout(Duration::from_millis(20), asking.done()).await.is_err());
        }
        release.send(()).unwrap();
        assert!(asking.done().await.is_empty() && busy.await.unwrap().is_ok());
        assert!(asking.again && asking.under_way.is_none());
        asking.go_on(&config, &places);
        assert!(asking.done().await.is_empty() && !asking.again);
    }
}
