//! What happened to groups: a bounded journal that clients, Redis and `cgrove events` read, and who writes it. What
//! comes too fast is summed (`sums`), and what is frequent never pushes out what is rare.

mod kernel;
mod sums;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cgrove_core::event::{Event, Filter, Kind};
use cgrove_core::ids::GroupPath;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use self::sums::Sums;
use crate::clock::now_millis;

pub(crate) use kernel::Ears;

/// The newest events, numbered. Lives as long as the process.
#[derive(Debug)]
pub(crate) struct Journal {
    inner: Mutex<Inner>,
    newest: watch::Sender<u64>,
    /// A sum is owed.
    owes: Notify,
    /// The last event that is in Redis.
    stored: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    /// By number.
    events: BTreeMap<u64, Arc<Event>>,
    /// The numbers of each kind's, oldest first.
    by_kind: [VecDeque<u64>; Kind::ALL.len()],
    sums: Sums,
    keep: usize,
    newest: u64,
    /// By kind, since the start.
    totals: [u64; Kind::ALL.len()],
}

/// An event before it has its number and time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct News {
    pub(crate) kind: Kind,
    pub(crate) group: Option<GroupPath>,
    pub(crate) hierarchy: Option<String>,
    pub(crate) knob: Option<String>,
    pub(crate) count: Option<u64>,
    pub(crate) text: String,
    /// It stands for `count` events that were left out.
    pub(crate) is_sum: bool,
}

impl News {
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, group: None, hierarchy: None, knob: None, count: None, text: text.into(), is_sum: false }
    }
}

impl Journal {
    pub(crate) fn new(keep: usize) -> Self {
        let inner = Inner {
            events: BTreeMap::new(),
            by_kind: Default::default(),
            sums: Sums::new(),
            keep,
            newest: 0,
            totals: [0; Kind::ALL.len()],
        };
        let (newest, owes) = (watch::Sender::new(0), Notify::new());
        Self { inner: Mutex::new(inner), newest, owes, stored: AtomicU64::new(0) }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A new limit after a reload.
    pub(crate) fn resize(&self, keep: usize) {
        self.with(|i| i.keep = keep);
    }

    pub(crate) fn tell(&self, news: impl IntoIterator<Item = News>) {
        let (time, now) = (now_millis(), Instant::now());
        let (newest, owes) = self.with(|i| {
            for news in news {
                i.totals[news.kind as usize] += news.count.filter(|_| news.is_sum).unwrap_or(1);
                if i.sums.passes(&news, now) {
                    i.put(news, time);
                }
            }
            i.shrink();
            (i.newest, i.sums.due().is_some())
        });
        if owes {
            self.owes.notify_one();
        }
        self.announce(newest);
    }

    /// Tells sums when their time has come, for as long as it is polled.
    pub(crate) async fn sum_up(&self) {
        loop {
            match self.with(|i| i.sums.due()) {
                Some(due) => tokio::time::sleep_until(due).await,
                None => self.owes.notified().await,
            }
            let time = now_millis();
            let newest = self.with(|i| {
                for sum in i.sums.take(Instant::now()) {
                    i.put(sum, time);
                }
                i.shrink();
                i.newest
            });
            self.announce(newest);
        }
    }

    fn announce(&self, newest: u64) {
        self.newest.send_if_modified(|known| {
            let more = newest > *known;
            *known = newest.max(*known);
            more
        });
    }

    /// The oldest events after that number, at most so many.
    pub(crate) fn after(&self, seq: u64, most: usize) -> Vec<Arc<Event>> {
        self.with(|i| i.events.range(seq.saturating_add(1)..).take(most).map(|(_, e)| e.clone()).collect())
    }

    /// Events that a filter wants, oldest first: the newest, or the first after one that is known. And the number of the
    /// newest of all.
    pub(crate) fn select(&self, filter: &Filter, after: Option<u64>, most: usize) -> (Vec<Arc<Event>>, u64) {
        self.with(|i| {
            let later = i.events.range(after.unwrap_or(0).saturating_add(1)..);
            let wanted = later.map(|(_, e)| e).filter(|e| filter.wants(e));
            let events = if after.is_some() {
                wanted.take(most).cloned().collect()
            } else {
                let mut newest: Vec<_> = wanted.rev().take(most).cloned().collect();
                newest.reverse();
                newest
            };
            (events, i.newest)
        })
    }

    /// The oldest events that Redis lacks.
    pub(crate) fn unwritten(&self, most: usize) -> Vec<Arc<Event>> {
        self.after(self.stored.load(Ordering::Relaxed), most)
    }

    pub(crate) fn written(&self, last: u64) {
        self.stored.store(last, Ordering::Relaxed);
    }

    /// Changes with each new event.
    pub(crate) fn follow(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// How many there were of each kind, and how many are kept.
    pub(crate) fn totals(&self) -> (Vec<(Kind, u64)>, usize) {
        self.with(|i| (Kind::ALL.into_iter().map(|k| (k, i.totals[k as usize])).collect(), i.events.len()))
    }
}

impl Inner {
    fn put(&mut self, news: News, time: u64) {
        let News { kind, group, hierarchy, knob, count, text, is_sum: _ } = news;
        self.newest += 1;
        let seq = self.newest;
        self.by_kind[kind as usize].push_back(seq);
        self.events.insert(seq, Arc::new(Event { seq, time, kind, group, hierarchy, knob, count, text }));
    }

    /// Makes room: frequent kinds have a quarter to themselves, and beyond it go first; among them, and among the
    /// rest, goes the oldest of the kind that there is most of.
    fn shrink(&mut self) {
        while self.events.len() > self.keep {
            let frequent: usize =
                Kind::ALL.iter().filter(|k| k.is_frequent()).map(|k| self.by_kind[*k as usize].len()).sum();
            let which = frequent > self.keep / 4 || frequent == self.events.len();
            let those = Kind::ALL.iter().filter(|k| k.is_frequent() == which);
            let most = those.max_by_key(|k| self.by_kind[**k as usize].len());
            let Some(seq) = most.and_then(|k| self.by_kind[*k as usize].pop_front()) else { return };
            self.events.remove(&seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_numbers_go_on() {
        let journal = Journal::new(3);
        let follow = journal.follow();
        journal.tell((0..5).map(|n| News::new(if n == 4 { Kind::Empty } else { Kind::Populated }, n.to_string())));
        let texts = |events: Vec<Arc<Event>>| events.iter().map(|e| e.text.clone()).collect::<Vec<_>>();
        assert_eq!(texts(journal.after(0, 10)), ["2", "3", "4"]);
        assert_eq!((texts(journal.after(3, 1)), journal.after(5, 1).len()), (vec!["3".to_owned()], 0));
        assert_eq!(*follow.borrow(), 5);
        let empty = Filter { group: None, kinds: Some(vec![Kind::Empty]) };
        assert_eq!(texts(journal.select(&empty, None, 10).0), ["4"]);
        assert_eq!(texts(journal.select(&Filter::default(), None, 2).0), ["3", "4"]);
        // Whoever goes on from what he knows misses nothing, however few he takes at a time.
        assert_eq!(texts(journal.select(&Filter::default(), Some(3), 1).0), ["3"]);
        assert_eq!(journal.select(&empty, Some(5), 1), (Vec::new(), 5));
        assert_eq!(journal.totals().0.iter().map(|(_, n)| n).sum::<u64>(), 5);
    }

    fn of(kind: Kind, group: &str) -> News {
        News { group: GroupPath::parse(group).ok(), ..News::new(kind, "x") }
    }

    #[test]
    fn frequent_kinds_push_out_no_rare_ones() {
        let journal = Journal::new(1000);
        journal.tell((0..15).map(|n| of(Kind::OomKill, &format!("/web{n}"))));
        journal.tell(
            [Kind::ActionFailed, Kind::RemovalsHeld, Kind::DocumentRefused, Kind::SourceAway].map(|k| of(k, "/")),
        );
        let old = |kind| journal.select(&Filter { group: None, kinds: Some(vec![kind]) }, None, 5000).0.len();
        // As if no budget held them back.
        journal.with(|i| {
            for n in 0..5000 {
                i.put(
                    of(if n % 2 == 0 { Kind::GroupAppeared } else { Kind::GroupDisappeared }, &format!("/d/x{n}")),
                    0,
                );
                i.put(of(Kind::DriftRepaired, "/d"), 0);
                i.shrink();
            }
        });
        assert_eq!(journal.totals().1, 1000);
        assert_eq!((old(Kind::OomKill), old(Kind::ActionFailed), old(Kind::RemovalsHeld)), (15, 1, 1));
        assert_eq!((old(Kind::DocumentRefused), old(Kind::SourceAway)), (1, 1));
        // Nor does one rare kind push out the others, and the frequent ones keep their quarter.
        journal.with(|i| {
            for _ in 0..5000 {
                i.put(of(Kind::OomKill, "/d"), 0);
                i.shrink();
            }
        });
        assert_eq!((old(Kind::ActionFailed), old(Kind::SourceAway)), (1, 1));
        let frequent = [Kind::GroupAppeared, Kind::GroupDisappeared, Kind::DriftRepaired].map(old);
        assert_eq!(frequent.iter().sum::<usize>(), 250);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_too_fast_is_summed_by_kind_and_place() {
        let journal = Arc::new(Journal::new(10_000));
        let summing = journal.clone();
        tokio::spawn(async move { summing.sum_up().await });
        let all = |kind| journal.select(&Filter { group: None, kinds: Some(vec![kind]) }, None, 10_000).0;
        for second in 0..10 {
            for n in 0..1000 {
                journal.tell([of(Kind::GroupAppeared, &format!("/d/{second}-{n}"))]);
            }
            journal.tell([News { count: Some(3), ..of(Kind::OomKill, "/web") }]);
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
        tokio::time::sleep(std::time::Duration::from_secs(20)).await;
        let told = all(Kind::GroupAppeared);
        assert!(told.len() < 90, "{}", told.len());
        let sums: Vec<_> = told.iter().filter(|e| e.count.is_some()).collect();
        assert!((2..8).contains(&sums.len()), "{}", sums.len());
        let counted: u64 = told.iter().map(|e| e.count.unwrap_or(1)).sum();
        assert_eq!(counted, 10_000, "nothing is lost in sums");
        assert_eq!(
            sums[0].text,
            format!("and {} more of this kind below it in the last second", sums[0].count.unwrap())
        );
        assert_eq!(sums[0].group.as_ref().unwrap().as_str(), "/d");
        // Who is not part of the flood is told at once, and one by one.
        assert_eq!(all(Kind::OomKill).len(), 10);
        assert_eq!(journal.totals().0[Kind::GroupAppeared as usize].1, 10_000);
        // When it is over, the next is told at once again.
        journal.tell([of(Kind::GroupAppeared, "/d/last")]);
        assert_eq!(all(Kind::GroupAppeared).last().unwrap().text, "x");
    }

    #[test]
    fn every_kind_is_in_the_docs() {
        let schema: serde_json::Value =
            serde_json::from_str(include_str!("../../../docs/websocket.schema.json")).unwrap();
        let names: Vec<_> = Kind::ALL.into_iter().map(Kind::name).collect();
        assert_eq!(schema["$defs"]["kind"]["enum"], serde_json::json!(names));
        let page = include_str!("../../../docs/websocket.md");
        assert!(
            names.iter().all(|name| page.lines().any(|l| l.starts_with("| `") && l.contains(&format!("`{name}`"))))
        );
    }
}
