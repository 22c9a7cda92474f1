//! Ranges of slots, taken from memory and from Redis a few at a time, so that the longest range needs little memory.
//! Stored bytes are spliced into replies unparsed, unless a client wants to see only a part, or rates.

use std::collections::{HashMap, HashSet, VecDeque};

use bytes::Bytes;
use cgrove_core::ids::GroupPath;
use cgrove_core::request::Slots;
use cgrove_core::usage::{Before, View};
use tokio::sync::Mutex;

use super::fair::Share;
use super::peer::Peer;
use super::{BUSY, Library, Pieces};

/// Slots taken at a time.
const CHUNK: usize = 16;
/// Most bytes that one chunk may bring in from Redis.
const LARGEST: usize = 128 << 20;

/// What is asked for, and by whom.
pub(super) struct Asks {
    pub(super) slots: Slots,
    pub(super) view: View,
    /// Another node's, out of Redis.
    pub(super) node: Option<String>,
    pub(super) whose: Peer,
}

/// What is left of a range.
pub(super) struct Range {
    whose: Peer,
    ahead: VecDeque<u64>,
    view: View,
    /// Another node's, out of Redis.
    node: Option<String>,
    /// The slot before, which rates need, if it was there.
    before: Option<(u64, Bytes)>,
    step: u64,
    /// What the reply begins with, until it is written.
    head: Option<Bytes>,
    ended: bool,
    /// Redis did not answer: the rest of the range does not wait for it again.
    away: bool,
}

impl Range {
    /// `head` is what the reply begins with, `{` included.
    pub(super) async fn new(library: &Library, asks: Asks, head: String) -> Result<Self, String> {
        let Asks { slots, view, node, whose } = asks;
        let keep = library.config.usage.keep.as_secs();
        let newest =
            match (&node, &library.redis) {
                (None, _) => library.ring.newest(),
                (Some(node), Some(redis)) => {
                    let _turn = turn(library, whose).await?;
                    redis.newest_of(node, keep).await?
                }
                (Some(_), None) => return Err(
                    "args.node: other nodes' slots are in the Redis that they share; this node uses none (redis.url)"
                        .into(),
                ),
            };
        let (first, last) = slots.within(newest, crate::clock::now(), keep);
        let ahead: VecDeque<u64> = slots.wanted(first, last).collect();
        let step = slots.step.unwrap_or(1);
        let (mut before, mut away) = (None, false);
        if view.rates
            && let Some(seed) = ahead.front().and_then(|first| first.checked_sub(step))
        {
            before = take(library, whose, node.as_deref(), &[seed], &mut away).await?.pop_front();
        }
        Ok(Self { whose, ahead, view, node, before, step, head: Some(Bytes::from(head)), ended: false, away })
    }

    /// The next pieces of the reply, at least one, which together are one JSON object; `None` after the last.
    pub(super) async fn next(&mut self, library: &Library) -> Option<Pieces> {
        while !self.ended {
            let pieces = self.chunk(library).await;
            if !pieces.is_empty() {
                return Some(pieces);
            }
        }
        None
    }

    async fn chunk(&mut self, library: &Library) -> Pieces {
        let wanted: Vec<u64> = self.ahead.drain(..self.ahead.len().min(CHUNK)).collect();
        let mut pieces = Vec::with_capacity(wanted.len() * 2 + 1);
        let found = take(library, self.whose, self.node.as_deref(), &wanted, &mut self.away).await;
        let turn = match &found {
            Ok(_) if !self.view.is_whole() => turn(library, self.whose).await.map(Some),
            _ => Ok(None),
        };
        match found.and_then(|found| Ok((found, turn?))) {
            Ok((found, None)) => {
                for (slot, bytes) in found {
                    self.put(&mut pieces, slot, bytes);
                }
            }
            Ok((found, Some(_turn))) => tokio::task::block_in_place(|| {
                for (slot, bytes) in found {
                    if let Some(seen) = self.see(library, slot, &bytes) {
                        self.put(&mut pieces, slot, seen);
                    }
                    self.before = Some((slot, bytes));
                }
            }),
            Err(error) => {
                self.separate(&mut pieces);
                pieces.push(Bytes::from(format!("\"error\":{}", serde_json::Value::from(error))));
                self.ahead.clear();
            }
        }
        if self.ahead.is_empty() {
            self.ended = true;
            pieces.extend(self.head.take());
            pieces.push(Bytes::from_static(b"}"));
        }
        pieces
    }

    fn see(&self, library: &Library, slot: u64, bytes: &Bytes) -> Option<Bytes> {
        // A rate over more than a step would hide a gap.
        let before = self.before.as_ref().filter(|(earlier, _)| slot - earlier == self.step);
        let remade = match before {
            Some((earlier, _)) if self.node.is_none() => library.ring.remade(earlier + 1, slot),
            _ => HashSet::new(),
        };
        let before = before.map(|(_, bytes)| Before { slot: bytes, seconds: self.step, remade: &remade });
        self.view.of(bytes, before).map(Bytes::from)
    }

    fn put(&mut self, pieces: &mut Pieces, slot: u64, bytes: Bytes) {
        self.separate(pieces);
        pieces.push(Bytes::from(format!("\"{slot}\":")));
        pieces.push(bytes);
    }

    /// Writes what stands before a member: the head with its brace and mark, or a comma.
    fn separate(&mut self, pieces: &mut Pieces) {
        let head = self.head.take();
        let comma = head.as_ref().is_none_or(|head| head.len() > 1);
        pieces.extend(head);
        if comma {
            pieces.push(Bytes::from_static(b","));
        }
    }
}

/// Wide questions wait for each other.
async fn turn(library: &Library, whose: Peer) -> Result<Share, String> {
    library.wide.take(whose, 1).await.ok_or_else(|| BUSY.to_owned())
}

/// The slots that exist, oldest first.
async fn take(
    library: &Library,
    whose: Peer,
    node: Option<&str>,
    wanted: &[u64],
    away: &mut bool,
) -> Result<VecDeque<(u64, Bytes)>, String> {
    let (Some(first), Some(last)) = (wanted.first(), wanted.last()) else { return Ok(VecDeque::new()) };
    let mut found = if node.is_some() { Default::default() } else { library.ring.range(*first, *last) };
    found.retain(|slot, _| wanted.binary_search(slot).is_ok());
    if let Some(redis) = library.redis.as_ref().filter(|_| !*away) {
        let missing: Vec<u64> = wanted.iter().copied().filter(|slot| !found.contains_key(slot)).collect();
        if !missing.is_empty() {
            let _turn = turn(library, whose).await?;
            let (more, gone) = redis
                .fetch(node, &missing, LARGEST)
                .await
                .ok_or_else(|| format!("more than {} MiB from Redis: ask for fewer slots at a time", LARGEST >> 20))?;
            *away = gone;
            found.extend(more);
        }
    }
    Ok(found.into_iter().collect())
}

/// Views of the newest slot that are kept for others.
const VIEWS: usize = 32;

/// What subscribers see of the newest slot: each view is made once, however many want it.
#[derive(Default)]
pub(super) struct Newest(Mutex<(u64, HashMap<View, Option<Bytes>>)>);

impl Newest {
    /// A slot that is in memory, as a view shows it.
    pub(super) async fn see(&self, library: &Library, slot: u64, bytes: Bytes, view: &View) -> Option<Bytes> {
        if view.is_whole() {
            return Some(bytes);
        }
        let mut cache = self.0.lock().await;
        if cache.0 < slot {
            *cache = (slot, HashMap::new());
        }
        if cache.0 == slot
            && let Some(seen) = cache.1.get(view)
        {
            return seen.clone();
        }
        let seen = tokio::task::block_in_place(|| {
            let before = if view.rates { library.ring.range(slot - 1, slot - 1).pop_first() } else { None };
            let remade: HashSet<GroupPath> = library.ring.remade(slot, slot);
            let before = before.as_ref().map(|(_, bytes)| Before { slot: bytes, seconds: 1, remade: &remade });
            view.of(&bytes, before).map(Bytes::from)
        });
        if cache.0 == slot && cache.1.len() < VIEWS {
            cache.1.insert(view.clone(), seen.clone());
        }
        seen
    }
}
