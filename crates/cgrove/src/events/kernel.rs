//! What the kernel announces becomes events. The hands ask the kernel to tell (that is a write); this task listens.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cgrove_cgroupfs::notices::{Asked, Notice, Notices, Place, Threshold as Asking, What};
use cgrove_config::Config;
use cgrove_core::event::Kind;
use cgrove_core::ids::GroupPath;
use tokio::sync::watch;
use tracing::warn;

use super::{Journal, News};
use crate::hands::Hands;
use crate::hints::Ready;

/// Announcements within this time are told together: a group comes in several hierarchies.
const TOGETHER: Duration = Duration::from_millis(100);
/// The kernel announces lack of memory before it kills; the counters are read again after these times.
const KILLS: [u64; 3] = [100, 300, 500];
/// Groups with triggers. Each trigger keeps whoever closes it waiting for the kernel, about 10 ms.
const MOST_TRIGGERED: usize = 64;

/// Where the groups are, told by the reconciler after each round.
pub(crate) type Ears = watch::Sender<Arc<Vec<Place>>>;

/// Listens until dropped.
pub(crate) async fn run(
    config: Arc<Config>,
    journal: Arc<Journal>,
    hands: Hands,
    mut places: watch::Receiver<Arc<Vec<Place>>>,
) {
    let listening = Notices::new().map_err(std::io::Error::from).and_then(|n| {
        let ready = Ready::new(&n)?;
        let counter = Arc::new(n.oom_counter()?);
        Ok((n, ready, counter))
    });
    let (mut notices, ready, counter) = match listening {
        Ok((notices, ready, counter)) => (Closing(Some(notices)), ready, counter),
        Err(e) => {
            warn!("events: the kernel cannot be listened to: {e}");
            return std::future::pending().await;
        }
    };
    let asked = Arc::new(Mutex::new(Asked::default()));
    while let Some(notices) = notices.get() {
        tokio::select! {
            changed = places.changed() => {
                if changed.is_err() {
                    return std::future::pending().await;
                }
                let now = places.borrow_and_update().clone();
                let triggers = ask(&hands, &config, &asked, now.clone(), counter.clone()).await;
                notices.listen(triggers);
                journal.tell(news(&config, notices.set(&now)));
            }
            () = ready.take(|| ()) => {
                tokio::time::sleep(TOGETHER).await;
                let (mut told, again) = notices.drain();
                if again {
                    for pause in KILLS {
                        told.extend(notices.look_for_kills());
                        journal.tell(news(&config, std::mem::take(&mut told)));
                        tokio::time::sleep(Duration::from_millis(pause)).await;
                    }
                    told.extend(notices.look_for_kills());
                }
                journal.tell(news(&config, told));
            }
        }
    }
}

/// Closed elsewhere: that takes longer than other tasks want to wait.
struct Closing(Option<Notices>);

impl Closing {
    fn get(&mut self) -> Option<&mut Notices> {
        self.0.as_mut()
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        let notices = self.0.take();
        let _ = std::thread::Builder::new().name("closing".into()).spawn(move || drop(notices));
    }
}

/// The hands ask the kernel to tell of new groups.
async fn ask(
    hands: &Hands,
    config: &Config,
    asked: &Arc<Mutex<Asked>>,
    places: Arc<Vec<Place>>,
    counter: Arc<OwnedFd>,
) -> Vec<cgrove_cgroupfs::notices::Trigger> {
    let (window, thresholds) = (window(config), &config.events.pressure);
    let thresholds: Vec<Asking> = thresholds
        .iter()
        .map(|t| Asking {
            file: match t.resource {
                cgrove_config::Resource::Cpu => "cpu.pressure",
                cgrove_config::Resource::Memory => "memory.pressure",
                cgrove_config::Resource::Io => "io.pressure",
            },
            text: format!("{} {} {window}", if t.full { "full" } else { "some" }, window / 100 * u64::from(t.percent)),
        })
        .collect();
    let asked = asked.clone();
    let work = move || {
        let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.ask(&places, &thresholds, MOST_TRIGGERED, counter.as_fd())
    };
    hands.run(work).await
}

/// Microseconds. Without CAP_SYS_RESOURCE the kernel takes only multiples of two seconds.
fn window(config: &Config) -> u64 {
    let may = config.keep_capabilities.contains(rustix::thread::CapabilitySet::SYS_RESOURCE);
    if may { 1_000_000 } else { 2_000_000 }
}

/// In words. A group that came or went in several hierarchies is one event.
fn news(config: &Config, notices: Vec<Notice>) -> Vec<News> {
    let mut moves: BTreeMap<(GroupPath, bool), Vec<String>> = BTreeMap::new();
    let mut out = Vec::new();
    for Notice { hierarchy, group, what } in notices {
        let (kind, count, text) = match what {
            What::Appeared | What::Disappeared => {
                moves.entry((group, what == What::Appeared)).or_default().push(hierarchy);
                continue;
            }
            What::Populated => (Kind::Populated, None, "the first process came".to_owned()),
            What::Empty => (Kind::Empty, None, "the last process left".to_owned()),
            What::Memory { key: "high", count } => {
                (Kind::MemoryHigh, Some(count), "slowed down at memory.high".to_owned())
            }
            What::Memory { key: "max", count } => (Kind::MemoryMax, Some(count), "reached memory.max".to_owned()),
            What::Memory { count, .. } => {
                let text = if count == 1 { "a process was killed" } else { "processes were killed" };
                (Kind::OomKill, Some(count), format!("{text} for lack of memory"))
            }
            What::Pressure { threshold } => {
                let threshold = config.events.pressure.get(threshold).map(ToString::to_string).unwrap_or_default();
                (Kind::Pressure, None, format!("waits more than {threshold} of the time"))
            }
        };
        out.push(News { group: Some(group), hierarchy: Some(hierarchy), count, ..News::new(kind, text) });
    }
    for ((group, appeared), mut hierarchies) in moves {
        hierarchies.dedup();
        let (kind, text) = if appeared {
            (Kind::GroupAppeared, "the group appeared")
        } else {
            (Kind::GroupDisappeared, "the group disappeared")
        };
        out.push(News { group: Some(group), hierarchy: Some(hierarchies.join(" ")), ..News::new(kind, text) });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_comes_in_several_hierarchies_is_one_event() {
        let config = {
            let text = "[tree]\nsource = \"file\"\npath = \"/t\"\n";
            cgrove_config::parse(text, "x.toml", "/".as_ref(), std::iter::empty()).unwrap()
        };
        let group = GroupPath::parse("/a").unwrap();
        let notice = |hierarchy: &str, what| Notice { hierarchy: hierarchy.into(), group: group.clone(), what };
        let told = news(
            &config,
            vec![
                notice("cpu", What::Appeared),
                notice("memory", What::Appeared),
                notice("memory", What::Memory { key: "oom_kill", count: 2 }),
                notice("v2", What::Pressure { threshold: 0 }),
            ],
        );
        let lines: Vec<_> = told.iter().map(|n| (n.kind, n.hierarchy.as_deref().unwrap(), n.text.as_str())).collect();
        assert_eq!(
            lines,
            [
                (Kind::OomKill, "memory", "processes were killed for lack of memory"),
                (Kind::Pressure, "v2", "waits more than memory full 10% of the time"),
                (Kind::GroupAppeared, "cpu memory", "the group appeared"),
            ]
        );
    }
}
