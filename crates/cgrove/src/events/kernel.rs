//! What the kernel announces becomes events. The hands ask the kernel to tell (that is a write); this task listens.

mod asking;
mod pace;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cgrove_cgroupfs::notices::{Heard, Notice, Notices, Place, Pressure, What};
use cgrove_config::Config;
use cgrove_core::actual::Version;
use cgrove_core::event::Kind;
use cgrove_core::ids::GroupPath;
use cgrove_core::plan::Prune;
use nix::sys::epoll::EpollFlags;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use self::asking::Asking;
use self::pace::{Kills, Relook};
use super::{Journal, News};
use crate::hands::Hands;
use crate::hints::{Drift, Ready, Unhurried};

/// Announcements within this time are told together: a group comes in several hierarchies.
const TOGETHER: Duration = Duration::from_millis(100);
/// So many announcements at once are a flood: while it goes on, it is listened to less often.
const MANY: usize = 4000;
const SELDOM: Duration = Duration::from_secs(2);

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
        let (places, drift) = (self.places.subscribe(), self.drift.clone());
        async move {
            tokio::join!(run(config, journal.clone(), hands, places, drift), journal.sum_up());
        }
    }
}

async fn run(
    config: Arc<Config>,
    journal: Arc<Journal>,
    hands: Hands,
    places: watch::Receiver<Arc<Vec<Place>>>,
    drift: Arc<Drift>,
) {
    let all_matter = config.prune() == Prune::All;
    let listening = Notices::new(all_matter).map_err(std::io::Error::from).and_then(|n| {
        let counter = n.oom_counter()?;
        Ok((Ready::new(&n)?, Ready::new(&counter)?, counter, n))
    });
    let listening = match listening {
        Ok((ready, dying, counter, notices)) => {
            let crossings = wait_for_pressure(notices.pressure());
            let deaf = !config.events.pressure.is_empty();
            let asking = Asking::new(hands, Arc::new(counter));
            let (kills, relook) = (Kills::default(), Relook::default());
            Listening {
                config,
                journal,
                places,
                drift: drift.clone(),
                ready: Unhurried::Awake(ready),
                dying,
                notices,
                crossings,
                asking,
                kills,
                relook,
                deaf,
            }
            .run()
            .await
        }
        Err(e) => Err(e),
    };
    if let Err(e) = listening {
        deaf_from_now_on(&drift, &e).await;
    }
}

/// What the loop works with.
struct Listening {
    config: Arc<Config>,
    journal: Arc<Journal>,
    places: watch::Receiver<Arc<Vec<Place>>>,
    drift: Arc<Drift>,
    ready: Unhurried,
    dying: Ready,
    notices: Notices,
    crossings: mpsc::Receiver<(u64, EpollFlags)>,
    asking: Asking,
    kills: Kills,
    relook: Relook,
    /// Whether there is pressure to be told of is not known yet.
    deaf: bool,
}

impl Listening {
    /// Nothing here waits for the hands: what happens during a long reconcile is told while it happens.
    async fn run(mut self) -> Result<(), std::io::Error> {
        let mut pause = TOGETHER;
        loop {
            let muted = self.notices.due().map(Instant::from_std);
            tokio::select! {
                changed = self.places.changed() => {
                    if changed.is_err() {
                        return std::future::pending().await;
                    }
                    self.begin();
                }
                triggers = self.asking.done() => {
                    self.notices.listen(triggers);
                    self.asking.go_on(&self.config, &self.places);
                }
                announced = self.ready.wait(pause) => {
                    announced?;
                    let heard = tokio::task::block_in_place(|| self.notices.drain());
                    pause = if self.notices.announced() > MANY { (pause * 2).min(SELDOM) } else { TOGETHER };
                    self.lost();
                    for (hierarchy, group) in self.notices.loud() {
                        info!(
                            hierarchy = &*hierarchy,
                            group = group.as_str(),
                            "so much is changed in this group that it is looked at every few seconds only"
                        );
                    }
                    self.tell(heard);
                }
                () = at(muted) => {
                    let before = self.notices.muted();
                    let heard = tokio::task::block_in_place(|| self.notices.look_at_muted());
                    if heard.tree {
                        debug!("{} of {before} groups where too much happened are watched again", before - self.notices.muted());
                    }
                    self.tell(heard);
                }
                () = at(self.relook.due()) => {
                    let now = self.places.borrow().clone();
                    self.look(&now);
                }
                () = self.dying.take(|| ()) => if self.notices.out_of_memory() {
                    self.kills.expect(Instant::now());
                },
                () = at(self.kills.due()) => {
                    self.kills.looked(Instant::now());
                    let told = tokio::task::block_in_place(|| self.notices.look_for_kills());
                    self.journal.tell(news(&self.config, told));
                }
                Some((number, flags)) = self.crossings.recv() => {
                    let told = self.notices.crossed(number, flags);
                    self.journal.tell(news(&self.config, told.into_iter().collect()));
                }
            }
        }
    }

    /// The reconciler says where the groups are.
    fn begin(&mut self) {
        let now = self.places.borrow_and_update().clone();
        if self.deaf && !now.is_empty() && now.iter().all(|p| p.version() == Version::V1) {
            info!("events.pressure: the groups are on cgroup v1, whose kernel tells nothing of waiting");
        }
        self.deaf &= now.is_empty();
        self.asking.begin(&self.config, now.clone());
        self.look(&now);
    }

    /// Watches what is to be watched, and looks at everything again if something was lost.
    fn look(&mut self, now: &[Place]) {
        self.relook.looked(Instant::now());
        let heard = tokio::task::block_in_place(|| self.notices.set(now));
        self.drift.set_blind(self.notices.unwatched() > 0);
        self.lost();
        self.tell(heard);
    }

    fn lost(&mut self) {
        if self.notices.lost() {
            self.drift.set_blind(true);
            self.relook.expect(Instant::now());
        }
    }

    /// First what happened, then that something should be done about it.
    fn tell(&self, heard: Heard) {
        self.journal.tell(news(&self.config, heard.notices));
        if heard.tree {
            self.drift.touched();
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn deaf_from_now_on(drift: &Drift, why: &std::io::Error) {
    warn!("the kernel cannot be listened to ({why}): no events, and drift is looked for every few seconds");
    drift.set_blind(true);
    std::future::pending().await
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

/// In words. A group that came or went in several hierarchies is one event, where the first of them stands.
fn news(config: &Config, notices: Vec<Notice>) -> Vec<News> {
    let mut out: Vec<News> = Vec::new();
    // Where each group's last move stands.
    let mut moved: HashMap<GroupPath, usize> = HashMap::new();
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
            let last = moved.insert(group.clone(), out.len()).and_then(|at| Some((at, out.get_mut(at)?)));
            let (at, last) = last.unzip();
            let same = last.filter(|n| n.kind == kind).and_then(|n| n.hierarchy.as_mut());
            if let Some(all) = same.filter(|all| !all.split(' ').any(|h| h == &*hierarchy)) {
                all.push(' ');
                all.push_str(&hierarchy);
                moved.extend(at.map(|at| (group, at)));
                continue;
            }
        }
        out.push(News { group: Some(group), hierarchy: Some(hierarchy.to_string()), count, ..News::new(kind, text) });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_announcements_cost_no_more_than_reading_them() {
        let config = cgrove_config::parse(
            "[tree]\nsource = \"file\"\npath = \"/t\"\n",
            "x.toml",
            "/".as_ref(),
            std::iter::empty(),
        );
        let notices = ["cpu", "memory"].iter().flat_map(|hierarchy| {
            (0..100_000).map(|n| Notice {
                hierarchy: (*hierarchy).into(),
                group: GroupPath::parse(&format!("/g{n}")).unwrap(),
                what: What::Appeared,
            })
        });
        // Were each compared with all before it, this would take an hour.
        let told = news(&config.unwrap(), notices.collect());
        assert_eq!(told.len(), 100_000);
        assert!(told.iter().all(|n| n.hierarchy.as_deref() == Some("cpu memory")));
    }

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
