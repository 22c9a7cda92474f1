//! Clients that we let go, and why: counted in the status, and one line in the log for many.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use super::peer::Peer;
use crate::status::Board;

/// Between two lines about the same.
const LINE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Why {
    /// Others needed its place.
    Room,
    /// It took nothing.
    Slow,
    /// It did not answer pings.
    Silent,
    /// It came when all places were taken, and asked for more than health.
    Full,
}

impl Why {
    fn name(self) -> &'static str {
        match self {
            Self::Room => "room",
            Self::Slow => "slow",
            Self::Silent => "silent",
            Self::Full => "full",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Room => "others needed its place (server.max_connections)",
            Self::Slow => "it takes too long to read its replies",
            Self::Silent => "it answers no pings (server.idle_timeout)",
            Self::Full => "all places are taken (server.max_connections)",
        }
    }
}

/// How many were not said yet, and when the last line was.
type Lines = HashMap<(Why, Option<Peer>), (u64, Instant)>;

#[derive(Default)]
pub(super) struct Dropped(Mutex<Lines>);

/// Peers with a line of their own; others share one.
const MOST: usize = 64;

impl Dropped {
    pub(super) fn one_more(&self, board: &Board, peer: Peer, why: Why) {
        board.update(|s| *s.server.dropped_clients.entry(why.name()).or_default() += 1);
        if let Some(many) = self.at(peer, why, Instant::now()) {
            warn!(%peer, dropped = many, "client dropped: {}", why.words());
        }
    }

    /// How many to say now.
    fn at(&self, peer: Peer, why: Why, now: Instant) -> Option<u64> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lines.len() < MOST || lines.contains_key(&(why, Some(peer)));
        let key = (why, known.then_some(peer));
        let Some((unsaid, said)) = lines.get_mut(&key) else {
            lines.insert(key, (0, now));
            return Some(1);
        };
        *unsaid += 1;
        (now - *said >= LINE).then(|| {
            *said = now;
            std::mem::take(unsaid)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_for_many() {
        let (dropped, start) = (Dropped::default(), Instant::now());
        let said = |n: u32, peer: u32, at: Instant| {
            (0..n).filter_map(|_| dropped.at(Peer::User(peer), Why::Slow, at)).collect::<Vec<_>>()
        };
        assert_eq!(said(100, 1, start), [1]);
        assert_eq!(said(1, 2, start), [1]);
        assert_eq!(said(100, 1, start + LINE), [100]);
        let lines: usize = (0..10_000).map(|peer| said(1, peer, start + LINE).len()).sum();
        assert!(lines <= MOST + 3 && dropped.0.lock().unwrap().len() <= MOST + 1);
    }
}
