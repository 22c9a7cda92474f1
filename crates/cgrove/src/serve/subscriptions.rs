//! What one client wants to be told as it comes. Nothing is queued for it: memory's ring and the journal are the queue,
//! so that a slow reader misses the oldest, and is told how many.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cgrove_core::event::Filter;
use cgrove_core::request::{Topic, TopicName};
use cgrove_core::text::shown_json;
use cgrove_core::usage::View;
use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::{Library, Pieces};

/// A reader that is this many slots behind misses older ones.
const BEHIND: usize = 8;
/// Events in one message.
const EVENTS: usize = 500;
/// The status is looked at this often, and sent when it changed.
const STATUS: Duration = Duration::from_secs(1);

/// One client's.
pub(super) struct Subscriptions {
    slots: Option<Slots>,
    events: Option<Events>,
    status: Option<Status>,
    ring: watch::Receiver<Option<u64>>,
    journal: watch::Receiver<u64>,
    tick: Interval,
    library: Arc<Library>,
    /// As they stand in the status.
    counted: usize,
}

struct Slots {
    id: Option<Value>,
    view: View,
    last: u64,
}

struct Events {
    id: Option<Value>,
    filter: Filter,
    last: u64,
}

struct Status {
    id: Option<Value>,
    essence: u64,
}

/// Something to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Slots,
    Events,
    Status,
}

impl Subscriptions {
    pub(super) fn new(library: Arc<Library>) -> Self {
        let mut tick = interval(STATUS);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (ring, journal) = (library.ring.follow(), library.board.journal.follow());
        Self { slots: None, events: None, status: None, ring, journal, tick, library, counted: 0 }
    }

    /// From now on. A second one to the same topic takes the place of the first.
    pub(super) fn add(&mut self, topic: Topic, id: Option<Value>) -> Pieces {
        let reply = json!({ "id": id, "subscribed": topic.name().as_str() });
        match topic {
            Topic::Slots(view) => {
                // The newest slot is sent at once: whoever just came has something to show.
                self.ring.mark_changed();
                let last = self.ring.borrow().unwrap_or(1).saturating_sub(1);
                self.slots = Some(Slots { id, view, last });
            }
            Topic::Status => {
                self.tick.reset_immediately();
                self.status = Some(Status { id, essence: 0 });
            }
            Topic::Events(filter) => {
                self.events = Some(Events { id, filter, last: *self.journal.borrow_and_update() });
            }
        }
        self.count();
        text(&reply)
    }

    pub(super) fn remove(&mut self, topic: TopicName, id: Option<&Value>) -> Pieces {
        match topic {
            TopicName::Slots => self.slots = None,
            TopicName::Status => self.status = None,
            TopicName::Events => self.events = None,
        }
        self.count();
        text(&json!({ "id": id, "unsubscribed": topic.as_str() }))
    }

    fn count(&mut self) {
        let now = [self.slots.is_some(), self.events.is_some(), self.status.is_some()];
        let now = now.into_iter().filter(|there| *there).count();
        let before = std::mem::replace(&mut self.counted, now);
        self.library.board.update(|s| s.server.subscriptions = s.server.subscriptions + now - before);
    }

    /// Waits for the next thing to tell. Cancel-safe.
    pub(super) async fn due(&mut self) -> Due {
        tokio::select! {
            Ok(()) = self.ring.changed(), if self.slots.is_some() => Due::Slots,
            Ok(()) = self.journal.changed(), if self.events.is_some() => Due::Events,
            _ = self.tick.tick(), if self.status.is_some() => Due::Status,
            else => std::future::pending().await,
        }
    }

    /// The messages to send.
    pub(super) async fn tell(&mut self, due: Due) -> Vec<Pieces> {
        let library = &*self.library;
        match due {
            Due::Slots => match &mut self.slots {
                Some(slots) => slots.tell(library).await,
                None => Vec::new(),
            },
            Due::Events => self.events.as_mut().map(|e| e.tell(library)).unwrap_or_default(),
            Due::Status => match &mut self.status {
                Some(status) => status.tell(library).await.into_iter().collect(),
                None => Vec::new(),
            },
        }
    }
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        (self.slots, self.events, self.status) = (None, None, None);
        self.count();
    }
}

/// A message of a subscription: its head, and what follows, which closes it.
fn message(id: Option<&Value>, topic: TopicName) -> String {
    let id = id.map(|id| format!("\"id\":{id},")).unwrap_or_default();
    format!("{{{id}\"subscription\":\"{}\"", topic.as_str())
}

fn text(value: &Value) -> Pieces {
    let mut value = value.clone();
    if let Some(object) = value.as_object_mut()
        && object.get("id").is_some_and(Value::is_null)
    {
        object.remove("id");
    }
    vec![Bytes::from(value.to_string())]
}

impl Slots {
    async fn tell(&mut self, library: &Library) -> Vec<Pieces> {
        let mut new = library.ring.range(self.last + 1, u64::MAX);
        let mut dropped = new.len().saturating_sub(BEHIND);
        if dropped > 0 {
            library.board.update(|s| s.server.dropped_total += dropped as u64);
        }
        let mut out = Vec::new();
        while new.len() > BEHIND {
            new.pop_first();
        }
        for (slot, bytes) in new {
            self.last = slot;
            let seen = library.newest.see(library, slot, bytes, &self.view).await;
            let missed = if dropped > 0 { format!(",\"dropped\":{dropped}") } else { String::new() };
            dropped = 0;
            let head = message(self.id.as_ref(), TopicName::Slots);
            let head = format!("{head},\"slot\":{slot}{missed},\"value\":");
            out.push(vec![Bytes::from(head), seen.unwrap_or(Bytes::from_static(b"{}")), Bytes::from_static(b"}")]);
        }
        out
    }
}

impl Events {
    fn tell(&mut self, library: &Library) -> Vec<Pieces> {
        let mut out = Vec::new();
        loop {
            let events = library.board.journal.after(self.last, EVENTS);
            let Some(last) = events.last() else { return out };
            // What was pushed out lies before the first, or between them.
            let dropped = (last.seq - self.last).saturating_sub(events.len() as u64);
            self.last = last.seq;
            let wanted: Vec<&cgrove_core::event::Event> =
                events.iter().map(Arc::as_ref).filter(|e| self.filter.wants(e)).collect();
            if wanted.is_empty() && dropped == 0 {
                continue;
            }
            let missed = if dropped > 0 { format!(",\"dropped\":{dropped}") } else { String::new() };
            let events = serde_json::to_string(&wanted).unwrap_or_else(|_| "[]".into());
            let events = shown_json(&events);
            let head = message(self.id.as_ref(), TopicName::Events);
            out.push(vec![Bytes::from(format!("{head}{missed},\"events\":{events}}}"))]);
        }
    }
}

impl Status {
    async fn tell(&mut self, library: &Library) -> Option<Pieces> {
        let (essence, status) = library.now.see(library).await?;
        if std::mem::replace(&mut self.essence, essence) == essence {
            return None;
        }
        let head = message(self.id.as_ref(), TopicName::Status);
        Some(vec![Bytes::from(format!("{head},\"value\":")), status, Bytes::from_static(b"}")])
    }
}

/// The status as text, made at most once in a while however many want it, and a number that changes with what matters.
#[derive(Default)]
pub(super) struct StatusNow(Mutex<Option<(Instant, u64, Bytes)>>);

impl StatusNow {
    async fn see(&self, library: &Library) -> Option<(u64, Bytes)> {
        let mut kept = self.0.lock().await;
        if let Some((when, essence, text)) = &*kept
            && when.elapsed() < STATUS / 2
        {
            return Some((*essence, text.clone()));
        }
        let (essence, text) = tokio::task::block_in_place(|| Self::made(library))?;
        *kept = Some((Instant::now(), essence, text.clone()));
        Some((essence, text))
    }

    fn made(library: &Library) -> Option<(u64, Bytes)> {
        let mut status = library.board.snapshot();
        let text = Bytes::from(shown_json(&serde_json::to_string(&status).ok()?).into_owned());
        // What changes each second says nothing new.
        status.usage = Default::default();
        status.server = Default::default();
        (status.store.written_total, status.store.waiting) = (0, 0);
        (status.plan.at, status.plan.rounds, status.tasks.at) = (0, status.plan.rounds.min(1), 0);
        let mut hasher = DefaultHasher::new();
        serde_json::to_vec(&status).ok()?.hash(&mut hasher);
        Some((hasher.finish().max(1), text))
    }
}
