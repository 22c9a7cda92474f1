//! Replies on their way: in parts of a bounded size, all of which together stay within a bound.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Pieces;
use super::fair::{Fair, Share};
use super::patient::SLOW;
use super::peer::Peer;

/// A reply is sent in parts of about this size, so that 300 slots of a large tree need no copy of their own.
pub(super) const FRAME: usize = 256 << 10;
/// Parts up to this size are sent whatever else is under way.
pub(super) const SMALL: usize = 16 << 10;

/// A part that counts as under way until nobody holds it any more. `None`: there was no room for it in time.
pub(super) async fn held(part: Bytes, in_flight: &Arc<Fair>, peer: Peer) -> Option<Bytes> {
    if part.len() <= SMALL {
        return Some(part);
    }
    let share = in_flight.take(peer, part.len() / 1024);
    let share = tokio::time::timeout(SLOW, share).await.ok()??;
    Some(Bytes::from_owner(Held { part, _share: share }))
}

struct Held {
    part: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.part
    }
}

/// Joins small pieces into parts and cuts large ones; a part never has more than [`FRAME`] bytes.
pub(super) struct Frames(VecDeque<Bytes>);

impl Frames {
    pub(super) fn of(pieces: Pieces) -> Self {
        Self(pieces.into())
    }

    pub(super) fn extend(&mut self, pieces: Pieces) {
        self.0.extend(pieces);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Iterator for Frames {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut first = self.0.pop_front()?;
        if first.len() > FRAME {
            let head = first.split_to(FRAME);
            self.0.push_front(first);
            return Some(head);
        }
        let fits = |joined: usize, next: Option<&Bytes>| next.is_some_and(|n| joined + n.len() <= FRAME);
        if !fits(first.len(), self.0.front()) {
            return Some(first);
        }
        let mut joined = BytesMut::from(first);
        while fits(joined.len(), self.0.front()) {
            joined.extend_from_slice(&self.0.pop_front()?);
        }
        Some(joined.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_under_way_counts_until_nobody_holds_it() {
        let room = Fair::new(600, 9);
        let large = || Bytes::from(vec![7; FRAME]);
        let one = Peer::User(1);
        let first = held(large(), &room, one).await.unwrap();
        let copy = first.slice(5..);
        drop(first);
        assert!(held(large(), &room, one).await.is_none());
        // Small ones wait for nobody, and others not for this one.
        assert!(held(Bytes::from(vec![7; SMALL]), &room, one).await.is_some());
        assert!(held(large(), &room, Peer::User(2)).await.is_some());
        drop(copy);
        assert_eq!(held(large(), &room, one).await.unwrap(), large());
    }

    #[test]
    fn frames_lose_nothing_and_stay_small() {
        for size in [1, 1000, 100_000, 300_000, 2_000_000] {
            let pieces: Vec<Bytes> = (0..20u8).map(|i| Bytes::from(vec![i; size])).collect();
            let whole: Vec<u8> = pieces.concat();
            let frames: Vec<Bytes> = Frames::of(pieces).collect();
            assert_eq!(frames.concat(), whole);
            assert!(frames.iter().all(|f| f.len() <= FRAME));
        }
    }
}
