//! What happened to groups: a bounded journal that clients, Redis and `cgrove events` read, and who writes it.

mod kernel;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cgrove_core::event::{Event, Filter, Kind};
use cgrove_core::ids::GroupPath;
use tokio::sync::watch;

use crate::clock::now_millis;

pub(crate) use kernel::Ears;

/// The newest events, numbered. Lives as long as the process.
#[derive(Debug)]
pub(crate) struct Journal {
    inner: Mutex<Inner>,
    newest: watch::Sender<u64>,
    /// The last event that is in Redis.
    stored: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    events: VecDeque<Arc<Event>>,
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
}

impl News {
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, group: None, hierarchy: None, knob: None, count: None, text: text.into() }
    }
}

impl Journal {
    pub(crate) fn new(keep: usize) -> Self {
        let inner = Inner { events: VecDeque::new(), keep, newest: 0, totals: [0; Kind::ALL.len()] };
        Self { inner: Mutex::new(inner), newest: watch::Sender::new(0), stored: AtomicU64::new(0) }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A new limit after a reload.
    pub(crate) fn resize(&self, keep: usize) {
        self.with(|i| i.keep = keep);
    }

    pub(crate) fn tell(&self, news: impl IntoIterator<Item = News>) {
        let time = now_millis();
        let newest = self.with(|i| {
            for News { kind, group, hierarchy, knob, count, text } in news {
                i.newest += 1;
                i.totals[kind as usize] += 1;
                i.events.push_back(Arc::new(Event { seq: i.newest, time, kind, group, hierarchy, knob, count, text }));
            }
            let over = i.events.len().saturating_sub(i.keep);
            i.events.drain(..over);
            i.newest
        });
        self.newest.send_if_modified(|known| {
            let more = newest > *known;
            *known = newest.max(*known);
            more
        });
    }

    /// The oldest events after that number, at most so many.
    pub(crate) fn after(&self, seq: u64, most: usize) -> Vec<Arc<Event>> {
        self.with(|i| {
            let start = i.events.partition_point(|e| e.seq <= seq);
            i.events.range(start..).take(most).cloned().collect()
        })
    }

    /// Events that a filter wants, oldest first: the newest, or the first after one that is known. And the number of the
    /// newest of all.
    pub(crate) fn select(&self, filter: &Filter, after: Option<u64>, most: usize) -> (Vec<Arc<Event>>, u64) {
        self.with(|i| {
            let wanted = i.events.iter().filter(|e| e.seq > after.unwrap_or(0) && filter.wants(e));
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
