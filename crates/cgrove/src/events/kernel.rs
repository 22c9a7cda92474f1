//! What the kernel announces becomes events. The hands ask the kernel to tell (that is a write); this task listens.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cgrove_cgroupfs::notices::{Asked, Heard, Notice, Notices, Place, Pressure, Threshold as Asking, What};
use cgrove_config::Config;
use cgrove_core::actual::Version;
use cgrove_core::event::Kind;
use nix::sys::epoll::EpollFlags;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::{Journal, News};
use crate::hands::Hands;
use crate::hints::{Drift, Ready, unheard};

/// Announcements within this time are told together: a group comes in several hierarchies.
const TOGETHER: Duration = Duration::from_millis(100);
/// The kernel announces lack of memory before it kills; the counters are read again after these times.
const KILLS: [u64; 3] = [100, 300, 500];
/// Groups with triggers. Each trigger keeps whoever closes it waiting for the kernel, about 10 ms.
const MOST_TRIGGERED: usize = 64;

/// The reconciler's end: it says after each round where the groups are, and is told when somebody touched them.
#[derive(Default)]
pub(crate) struct Ears {
    places: watch::Sender<Arc<Vec<Place>>>,
    pub(crate) drift: Arc<Drift>,
}

impl Ears {
    /// The same places are looked for again only if some could not be watched, or something was not heard.
    pub(crate) fn listen_to(&self, places: Vec<Place>) {
        let again = self.drift.is_blind();
        self.places.send_if_modified(|now| {
            // What was made twice in a row is another each time.
            let news = again || places.iter().any(|p| p.made) || **now != places;
            if news {
                *now = Arc::new(places);
            }
            news
        });
    }

    /// Listens until dropped.
    pub(crate) fn run(
        &self,
        config: Arc<Config>,
        journal: Arc<Journal>,
        hands: Hands,
    ) -> impl Future<Output = ()> + Send + use<> {
        run(config, journal, hands, self.places.subscribe(), self.drift.clone())
    }
}

async fn run(
    config: Arc<Config>,
    journal: Arc<Journal>,
    hands: Hands,
    mut places: watch::Receiver<Arc<Vec<Place>>>,
    drift: Arc<Drift>,
) {
    let listening = Notices::new().map_err(std::io::Error::from).and_then(|n| {
        let counter = n.oom_counter()?;
        Ok((Ready::new(&n)?, Ready::new(&counter)?, Arc::new(counter), n))
    });
    let (mut ready, dying, counter, mut notices) = match listening {
        Ok(listening) => listening,
        Err(e) => return deaf_from_now_on(&drift, &e).await,
    };
    let mut crossings = wait_for_pressure(notices.pressure());
    let asked = Arc::new(Mutex::new(Asked::default()));
    let mut deaf = !config.events.pressure.is_empty();
    loop {
        tokio::select! {
            changed = places.changed() => {
                if changed.is_err() {
                    return std::future::pending().await;
                }
                let now = places.borrow_and_update().clone();
                if deaf && !now.is_empty() && now.iter().all(|p| p.version() == Version::V1) {
                    info!("events.pressure: the groups are on cgroup v1, whose kernel tells nothing of waiting");
                }
                deaf &= now.is_empty();
                let triggers = ask(&hands, &config, &asked, now.clone(), counter.clone()).await;
                notices.listen(triggers);
                let heard = tokio::task::block_in_place(|| notices.set(&now));
                drift.set_blind(notices.unwatched() > 0);
                tell(&config, &journal, &drift, heard);
            }
            () = ready.take(|| ()) => {
                ready = match unheard(ready, TOGETHER).await {
                    Ok(ready) => ready,
                    Err(e) => return deaf_from_now_on(&drift, &e).await,
                };
                let heard = tokio::task::block_in_place(|| notices.drain());
                if notices.lost() {
                    drift.set_blind(true);
                }
                tell(&config, &journal, &drift, heard);
            }
            () = dying.take(|| ()) => if notices.out_of_memory() {
                for pause in KILLS {
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                    let told = tokio::task::block_in_place(|| notices.look_for_kills());
                    journal.tell(news(&config, told));
                }
            },
            Some((number, flags)) = crossings.recv() => {
                let told = notices.crossed(number, flags);
                journal.tell(news(&config, told.into_iter().collect()));
            }
        }
    }
}

async fn deaf_from_now_on(drift: &Drift, why: &std::io::Error) {
    warn!("the kernel cannot be listened to ({why}): no events, and drift is looked for every few seconds");
    drift.set_blind(true);
    std::future::pending().await
}

/// First what happened, then that something should be done about it.
fn tell(config: &Config, journal: &Journal, drift: &Drift, heard: Heard) {
    journal.tell(news(config, heard.notices));
    if heard.tree {
        drift.touched();
    }
}

/// Triggers are waited for by a thread, which ends when nobody listens any more.
fn wait_for_pressure(pressure: Arc<Pressure>) -> mpsc::Receiver<(u64, EpollFlags)> {
    let (sender, crossings) = mpsc::channel(64);
    let wait = move || {
        while let Some(crossings) = pressure.wait() {
            for crossing in crossings {
                let _ = sender.blocking_send(crossing);
            }
        }
    };
    if let Err(e) = std::thread::Builder::new().name("pressure".into()).spawn(wait) {
        warn!("events: nobody waits for pressure: {e}");
    }
    crossings
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

/// In words. A group that came or went in several hierarchies is one event, where the first of them stands.
fn news(config: &Config, notices: Vec<Notice>) -> Vec<News> {
    let mut out: Vec<News> = Vec::new();
    for Notice { hierarchy, group, what } in notices {
        let (kind, count, text) = match what {
            What::Appeared => (Kind::GroupAppeared, None, "the group appeared".to_owned()),
            What::Disappeared => (Kind::GroupDisappeared, None, "the group disappeared".to_owned()),
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
        let moves = |kind| matches!(kind, Kind::GroupAppeared | Kind::GroupDisappeared);
        if moves(kind) {
            // It may have come, gone and come again: only its last move is joined.
            let last = out.iter_mut().rev().find(|n| moves(n.kind) && n.group.as_ref() == Some(&group));
            let same = last.filter(|n| n.kind == kind).and_then(|n| n.hierarchy.as_mut());
            if let Some(all) = same.filter(|all| !all.split(' ').any(|h| h == &*hierarchy)) {
                all.push(' ');
                all.push_str(&hierarchy);
                continue;
            }
        }
        out.push(News { group: Some(group), hierarchy: Some(hierarchy.to_string()), count, ..News::new(kind, text) });
    }
    out
}

#[cfg(test)]
mod tests {
    use cgrove_core::ids::GroupPath;

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
                notice("cpu", What::Disappeared),
                notice("memory", What::Appeared),
                notice("cpu", What::Appeared),
                notice("memory", What::Memory { key: "oom_kill", count: 2 }),
                notice("v2", What::Pressure { threshold: 0 }),
            ],
        );
        let lines: Vec<_> = told.iter().map(|n| (n.kind, n.hierarchy.as_deref().unwrap(), n.text.as_str())).collect();
        assert_eq!(
            lines,
            [
                (Kind::GroupDisappeared, "cpu", "the group disappeared"),
                (Kind::GroupAppeared, "memory cpu", "the group appeared"),
                (Kind::OomKill, "memory", "processes were killed for lack of memory"),
                (Kind::Pressure, "v2", "waits more than memory full 10% of the time"),
            ]
        );
    }
}
