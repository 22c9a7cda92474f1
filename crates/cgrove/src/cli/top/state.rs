//! What `cgrove top` knows and how it is looked at; no terminal, no network.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Instant;

use cgrove_core::text::shown;
use serde_json::Value;

use crate::cli::args::Column;
use crate::cli::figures::{Figures, collect};

/// Slots that can be looked back through.
const KEPT: usize = 300;
const MOST_EVENTS: usize = 500;

/// The columns as they stand, and as `s` goes through them.
const COLUMNS: [Column; 6] = [Column::Name, Column::Cpu, Column::Memory, Column::Io, Column::Tasks, Column::Pressure];

fn value(column: Column, f: &Figures) -> Option<f64> {
    match column {
        Column::Name => None,
        Column::Cpu => f.cores,
        Column::Memory => f.memory,
        Column::Io => Some(f.read? + f.written?),
        Column::Tasks => f.tasks.map(|n| n as f64),
        Column::Pressure => f.pressure,
    }
}

/// One line of the list.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) path: String,
    pub(super) depth: usize,
    /// `Some(open)` where groups are below.
    pub(super) inner: Option<bool>,
    pub(super) figures: Figures,
}

pub(super) struct State {
    slots: VecDeque<(u64, BTreeMap<String, Figures>)>,
    /// How many slots back; 0 is the newest.
    pub(super) back: usize,
    pub(super) paused: bool,
    received: Option<Instant>,
    pub(super) dropped: u64,
    pub(super) away: Option<String>,
    pub(super) status: Value,
    pub(super) events: VecDeque<Value>,
    pub(super) sort: Column,
    pub(super) rising: bool,
    pub(super) flat: bool,
    pub(super) filter: String,
    /// Keys go to the filter.
    pub(super) typing: bool,
    pub(super) help: bool,
    closed: HashSet<String>,
    pub(super) selected: String,
    /// The group whose details are open, and what is known of it.
    pub(super) detail: Option<(String, Value)>,
}

impl State {
    pub(super) fn new(sort: Column, flat: bool) -> Self {
        Self {
            slots: VecDeque::new(),
            back: 0,
            paused: false,
            received: None,
            dropped: 0,
            away: None,
            status: Value::Null,
            events: VecDeque::new(),
            sort,
            rising: sort == Column::Name,
            flat,
            filter: String::new(),
            typing: false,
            help: false,
            closed: HashSet::new(),
            selected: "/".into(),
            detail: None,
        }
    }

    /// A message of the daemon. Whatever it says only shows.
    pub(super) fn take(&mut self, message: Value) {
        let message = &only_shown(message);
        match (message["subscription"].as_str(), message["id"].as_str()) {
            (Some("slots"), _) => {
                self.received = Some(Instant::now());
                self.dropped += message["dropped"].as_u64().unwrap_or(0);
                self.put(message["slot"].as_u64().unwrap_or(0), &message["value"]);
            }
            (Some("status"), _) => self.status = message["value"].clone(),
            (Some("events"), _) => self.happened(&message["events"]),
            (None, Some("past")) => {
                for (slot, value) in message.as_object().into_iter().flatten() {
                    if let Ok(slot) = slot.parse() {
                        self.put(slot, value);
                    }
                }
            }
            (None, Some("past events")) => {
                self.events.clear();
                self.happened(&message["events"]);
            }
            (None, Some("group")) => {
                if let Some((path, known)) = &mut self.detail
                    && (message["group"] == **path || message.get("error").is_some())
                {
                    *known = message.clone();
                }
            }
            _ => {}
        }
    }

    fn put(&mut self, slot: u64, value: &Value) {
        let at = self.slots.partition_point(|(known, _)| *known < slot);
        if self.slots.get(at).is_some_and(|(known, _)| *known == slot) {
            return;
        }
        self.slots.insert(at, (slot, collect(value, "/")));
        // Who looks back, or paused, goes on looking at the same slot.
        if at + 1 == self.slots.len() && self.paused {
            self.back += 1;
        }
        if self.slots.len() > KEPT {
            self.slots.pop_front();
        }
        self.back = self.back.min(self.slots.len().saturating_sub(1));
    }

    fn happened(&mut self, events: &Value) {
        self.events.extend(events.as_array().into_iter().flatten().cloned());
        let over = self.events.len().saturating_sub(MOST_EVENTS);
        self.events.drain(..over);
    }

    pub(super) fn lost(&mut self, why: &str) {
        self.away = Some(shown(why).into_owned());
    }

    pub(super) fn found(&mut self) {
        self.away = None;
    }

    /// The slot that is looked at, and what groups used then.
    pub(super) fn shown(&self) -> Option<&(u64, BTreeMap<String, Figures>)> {
        self.slots.get(self.slots.len().checked_sub(1 + self.back)?)
    }

    /// Seconds since the newest slot came.
    pub(super) fn age(&self) -> Option<f64> {
        self.received.map(|at| at.elapsed().as_secs_f64())
    }

    /// CPU of a group over the kept slots, oldest first, up to the one that is looked at.
    pub(super) fn history(&self, path: &str, column: Column) -> Vec<u64> {
        let scale = if column == Column::Cpu { 1000.0 } else { 1.0 };
        let until = self.slots.len().saturating_sub(self.back);
        let then = |(_, groups): &(u64, BTreeMap<String, Figures>)| groups.get(path).and_then(|f| value(column, f));
        self.slots.iter().take(until).map(|slot| (then(slot).unwrap_or(0.0) * scale) as u64).collect()
    }

    pub(super) fn rows(&self) -> Vec<Row> {
        let Some((_, groups)) = self.shown() else { return Vec::new() };
        let words: Vec<String> = self.filter.to_lowercase().split_whitespace().map(str::to_owned).collect();
        let hit = |path: &str| words.iter().all(|w| path.to_lowercase().contains(w.as_str()));
        let row = |path: &str, depth, inner| {
            let figures = groups.get(path).cloned().unwrap_or_default();
            Row { path: path.to_owned(), depth, inner, figures }
        };
        if self.flat {
            let mut rows: Vec<Row> = groups.keys().filter(|p| hit(p)).map(|path| row(path, 0, None)).collect();
            rows.sort_by(|a, b| self.order((&a.path, &a.figures), (&b.path, &b.figures)));
            return rows;
        }
        // With a filter what leads to a hit is seen too, open.
        let wanted: Option<HashSet<&str>> = (!words.is_empty()).then(|| {
            let hits = groups.keys().filter(|p| hit(p));
            hits.flat_map(|path| ancestors(path)).collect()
        });
        let mut children: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for path in groups.keys().filter(|p| *p != "/") {
            children.entry(parent(path)).or_default().push(path);
        }
        let mut rows = Vec::new();
        let mut stack = vec![("/", 0)];
        while let Some((path, depth)) = stack.pop() {
            if wanted.as_ref().is_some_and(|w| !w.contains(path)) {
                continue;
            }
            let below = children.get(path);
            let open = wanted.is_some() || !self.closed.contains(path);
            rows.push(row(path, depth, below.map(|_| open)));
            let mut below: Vec<&str> = below.filter(|_| open).cloned().unwrap_or_default();
            below.sort_by(|a, b| self.order((a, &groups[*a]), (b, &groups[*b])));
            stack.extend(below.into_iter().rev().map(|child| (child, depth + 1)));
        }
        rows
    }

    fn order(&self, a: (&str, &Figures), b: (&str, &Figures)) -> std::cmp::Ordering {
        let by_name = || if self.sort == Column::Name && !self.rising { b.0.cmp(a.0) } else { a.0.cmp(b.0) };
        // What is not measured comes last, whichever way the rest is sorted.
        let by_value = match (value(self.sort, a.1), value(self.sort, b.1)) {
            (Some(x), Some(y)) if self.rising => x.total_cmp(&y),
            (Some(x), Some(y)) => y.total_cmp(&x),
            (x, y) => y.is_some().cmp(&x.is_some()),
        };
        by_value.then_with(by_name)
    }

    /// Moves the selection by so many rows.
    pub(super) fn go(&mut self, by: isize) {
        let rows = self.rows();
        let at = rows.iter().position(|r| r.path == self.selected).unwrap_or(0);
        let to = at.saturating_add_signed(by).min(rows.len().saturating_sub(1));
        if let Some(row) = rows.get(to) {
            self.selected.clone_from(&row.path);
        }
    }

    /// Opens or closes the selected group.
    pub(super) fn fold(&mut self, open: bool) {
        let inner = self.rows().into_iter().find(|r| r.path == self.selected).and_then(|r| r.inner);
        match (inner, open) {
            (Some(false), true) => drop(self.closed.remove(&self.selected)),
            (Some(true), false) => drop(self.closed.insert(self.selected.clone())),
            (_, false) if self.selected != "/" && !self.flat => self.selected = parent(&self.selected).to_owned(),
            _ => {}
        }
    }

    /// Goes back in time, or forward with a negative number; at the newest it goes on by itself.
    pub(super) fn travel(&mut self, by: isize) {
        self.back = self.back.saturating_add_signed(by).min(self.slots.len().saturating_sub(1));
        self.paused = self.back > 0;
    }

    pub(super) fn next_sort(&mut self) {
        let at = COLUMNS.iter().position(|c| *c == self.sort).unwrap_or(0);
        self.sort = COLUMNS[(at + 1) % COLUMNS.len()];
        self.rising = self.sort == Column::Name;
    }

    /// The group whose details are wanted.
    pub(super) fn asks(&self) -> Option<&str> {
        self.detail.as_ref().map(|(path, _)| path.as_str())
    }
}

/// The same with every text and key escaped.
fn only_shown(value: Value) -> Value {
    match value {
        Value::String(text) => shown(&text).into(),
        Value::Array(list) => list.into_iter().map(only_shown).collect(),
        Value::Object(object) => {
            object.into_iter().map(|(key, value)| (shown(&key).into_owned(), only_shown(value))).collect()
        }
        other => other,
    }
}

fn parent(path: &str) -> &str {
    match path.rfind('/') {
        None | Some(0) => "/",
        Some(at) => &path[..at],
    }
}

/// The path itself and everything above it.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    let mut next = Some(path);
    std::iter::from_fn(move || {
        let this = next?;
        next = (this != "/").then(|| parent(this));
        Some(this)
    })
}

#[cfg(test)]
pub(super) mod tests;
