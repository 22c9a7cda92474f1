//! Slots in Redis: `{prefix}/account/{slot}`, each with its expiry in the same command. After an outage every slot
//! that is still held and missing there is written with what is left of its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cgrove_core::event::Event;
use redis::streams::StreamMaxlen;
use redis::{
    Cmd, ErrorKind, ExistenceCheck, RedisError, RedisResult, ServerError, ServerErrorKind, SetExpiry, SetOptions, Value,
};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::limited::{LARGEST, SMALL};
use super::link::{Link, PATIENCE};
use super::packing::{Unpacked, pack, unpack};
use crate::clock::now;
use cgrove_config::Config;

/// Redis is tried again this often; the design promises at most 2 s.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// Slots in one pipeline.
pub(super) const BATCH: usize = 16;
/// Slots whose lengths are asked for at once, or whether they are there.
const MANY: usize = 256;
/// In a cluster each is a question of its own.
const MANY_IN_A_CLUSTER: usize = 64;
/// The longest name of a node that is told whole.
const NAME: usize = 256;
/// Bytes in one pipeline: a slow link must get it through in time.
pub(super) const BATCH_BYTES: usize = 2 << 20;
/// A node's claim on its prefix.
pub(super) const CLAIM: Duration = Duration::from_secs(15);

/// A lazily connected Redis, rebuilt with fresh credentials when it answers with anything but slots.
#[derive(Clone)]
pub(crate) struct Redis {
    pub(super) config: Arc<Config>,
    link: Arc<Mutex<Present>>,
    /// The prefix is ours: what is stored there is what this node measured.
    claimed: Arc<AtomicBool>,
}

/// The present connection and its number.
#[derive(Default)]
struct Present {
    number: u64,
    link: Option<Link>,
    /// When the last one failed, and why.
    failed: Option<(Instant, String)>,
}

/// Bytes in one pipeline's answer, unless one value has more.
fn batches(mut wanted: &[(u64, usize)]) -> impl Iterator<Item = (&[(u64, usize)], usize)> {
    std::iter::from_fn(move || {
        let mut total = 0;
        let fits = |(i, (_, length)): &(usize, &(u64, usize))| {
            total += length;
            *i == 0 || (*i < BATCH && total <= BATCH_BYTES * 4)
        };
        let many = wanted.iter().enumerate().take_while(fits).count();
        let (batch, rest) = wanted.split_at(many);
        wanted = rest;
        (!batch.is_empty()).then(|| (batch, batch.iter().map(|(_, length)| length).sum()))
    })
}

impl Redis {
    pub(crate) fn new(config: Arc<Config>) -> Self {
        Self { config, link: Arc::default(), claimed: Arc::default() }
    }

    /// The same store over a connection of its own, so that large answers do not stand in the writer's way.
    pub(crate) fn reader(&self) -> Self {
        Self { link: Arc::default(), ..self.clone() }
    }

    fn key(&self, slot: u64) -> String {
        format!("{}/account/{slot}", self.config.redis.prefix)
    }

    fn events_key(&self) -> String {
        format!("{}/events", self.config.redis.prefix)
    }

    fn owner_key(&self) -> String {
        format!("{}/owner", self.config.redis.prefix)
    }

    async fn connection(&self) -> RedisResult<(u64, Link)> {
        let mut present = self.link.lock().await;
        if let Some(link) = &present.link {
            return Ok((present.number, link.clone()));
        }
        // Neither many clients nor a server that breaks each connection make us connect again and again.
        if let Some((_, why)) = present.failed.as_ref().filter(|(at, _)| at.elapsed() < RETRY * 9 / 10) {
            return Err(RedisError::from((ErrorKind::Io, "not connected", why.clone())));
        }
        match Link::new(&self.config.redis).await {
            Ok(fresh) => {
                present.number += 1;
                present.link = Some(fresh.clone());
                Ok((present.number, fresh))
            }
            Err(e) => {
                present.failed = Some((Instant::now(), said(&e)));
                Err(e)
            }
        }
    }

    /// The answers in order, together at most so large. An error of a single command is among them, unless Redis refuses us
    /// altogether. `one`: they concern one and the same key, in this order.
    async fn ask(&self, commands: &[Cmd], most: usize, one: bool) -> RedisResult<Vec<Value>> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let (number, mut link) = self.connection().await?;
        let asking = async { if one { link.run_on_one(commands, most).await } else { link.run(commands, most).await } };
        let result = match tokio::time::timeout(PATIENCE * 2, asking).await {
            Ok(Ok(values)) if values.len() != commands.len() => {
                Err(RedisError::from((ErrorKind::Parse, "its answer is not the one to our question")))
            }
            Ok(result) => result,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        };
        // What somebody else wrote under our keys, and what our user may not, is no fault of the link.
        let serious = |e: &ServerError| e.code() != "WRONGTYPE" && e.kind() != Some(ServerErrorKind::NoPerm);
        let refused = |values: &Vec<Value>| values.iter().any(|v| matches!(v, Value::ServerError(e) if serious(e)));
        if result.as_ref().map_or(true, refused) {
            // A link does not heal from a refused password or a master that became a replica; a new one reads the
            // credentials and asks the sentinels again.
            let mut present = self.link.lock().await;
            if present.number == number {
                present.link = None;
                if let Err(e) = &result {
                    present.failed = Some((Instant::now(), said(e)));
                }
            }
        }
        result
    }

    /// The same for small answers, where each command has to succeed.
    async fn query(&self, commands: &[Cmd]) -> RedisResult<Vec<Value>> {
        self.ask(commands, SMALL, false).await?.into_iter().map(Value::extract_error).collect()
    }

    async fn query_one(&self, commands: &[Cmd]) -> RedisResult<Vec<Value>> {
        self.ask(commands, SMALL, true).await?.into_iter().map(Value::extract_error).collect()
    }

    pub(super) fn many(&self) -> usize {
        if self.config.redis.cluster { MANY_IN_A_CLUSTER } else { MANY }
    }

    /// The prefix of another node's keys, where each node has its own.
    fn prefix_of(&self, node: &str) -> Option<String> {
        Some(self.config.redis.pattern.as_ref()?.replace("{node}", node))
    }

    /// The newest slot that another node stored, of the last `keep` seconds. An error is for the client.
    pub(crate) async fn newest_of(&self, node: &str, keep: u64) -> Result<Option<u64>, String> {
        let prefix = self.prefix_of(node).ok_or(
            "this node's redis.prefix has no {node} in it, so other nodes' keys are not known; see redis.prefix",
        )?;
        let now = now();
        let slots: Vec<u64> = ((now + 2).saturating_sub(keep)..=now + 1).rev().collect();
        for chunk in slots.chunks(self.many()) {
            let questions: Vec<Cmd> =
                chunk.iter().map(|slot| Cmd::exists(format!("{prefix}/account/{slot}"))).collect();
            let there = self.query(&questions).await.map_err(|e| format!("redis: {}", said(&e)))?;
            if let Some(at) = there.iter().position(|v| matches!(v, Value::Int(1))) {
                return Ok(chunk.get(at).copied());
            }
        }
        Ok(None)
    }

    /// The stored bytes of these slots, where they exist; within `budget` bytes, or `None`. They are this node's, unless
    /// another's were asked for. Redis being away costs what only it has, not the answer; the flag says that it is.
    pub(crate) async fn fetch(
        &self,
        node: Option<&str>,
        slots: &[u64],
        mut budget: usize,
    ) -> Option<(Vec<(u64, Bytes)>, bool)> {
        let mut out = Vec::new();
        let prefix = match node {
            Some(node) => self.prefix_of(node),
            None => self.claimed.load(Ordering::Relaxed).then(|| self.config.redis.prefix.clone()),
        };
        let Some(prefix) = prefix else { return Some((out, false)) };
        let key = |slot: &u64| format!("{prefix}/account/{slot}");
        for chunk in slots.chunks(self.many()) {
            let lengths: Vec<Cmd> = chunk.iter().map(|slot| Cmd::strlen(key(slot))).collect();
            let Ok(lengths) = self.ask(&lengths, SMALL, false).await else { return Some((out, true)) };
            let wanted: Vec<_> = chunk.iter().copied().zip(lengths.iter().map(readable)).collect();
            let wanted: Vec<_> = wanted.into_iter().filter_map(|(slot, length)| Some((slot, length?))).collect();
            for (batch, most) in batches(&wanted) {
                let gets: Vec<Cmd> = batch.iter().map(|(slot, _)| Cmd::get(key(slot))).collect();
                let Ok(values) = self.ask(&gets, most, false).await else { return Some((out, true)) };
                let values = values.into_iter().map(|v| redis::from_redis_value::<Option<Vec<u8>>>(v).ok().flatten());
                for ((slot, _), stored) in batch.iter().zip(values) {
                    // What little becomes in memory is bounded as what is long.
                    let bytes = match stored.map(|stored| unpack(stored, budget.min(LARGEST))) {
                        Some(Unpacked::Slot(bytes)) => bytes,
                        Some(Unpacked::TooLong) if budget <= LARGEST => return None,
                        Some(Unpacked::TooLong | Unpacked::Broken) | None => continue,
                    };
                    budget -= bytes.len();
                    out.push((*slot, Bytes::from(bytes)));
                }
            }
        }
        Some((out, false))
    }

    /// Which of these slots Redis lacks.
    pub(super) async fn missing(&self, slots: &[u64]) -> Result<Vec<u64>, RedisError> {
        let questions: Vec<Cmd> = slots.iter().map(|slot| Cmd::exists(self.key(*slot))).collect();
        let there = self.query(&questions).await?;
        let lacks = |v: &Value| !matches!(v, Value::Int(1));
        Ok(slots.iter().zip(&there).filter(|(_, v)| lacks(v)).map(|(slot, _)| *slot).collect())
    }

    pub(super) async fn store(&self, slots: &[(u64, Bytes)]) -> Result<(), RedisError> {
        let (keep, now) = (self.config.usage.keep.as_secs(), now());
        let set = |(slot, bytes): &(u64, Bytes)| {
            let left = (slot + keep).saturating_sub(now).clamp(1, keep);
            Cmd::set_ex(self.key(*slot), &*pack(bytes, self.config.redis.compression), left)
        };
        self.query(&slots.iter().map(set).collect::<Vec<_>>()).await.map(drop)
    }

    /// Adds events to the stream, which keeps about so many as the journal.
    pub(super) async fn tell(&self, events: &[Arc<Event>]) -> Result<(), RedisError> {
        let key = self.events_key();
        let add = |event: &Arc<Event>| {
            let json = serde_json::to_string(&**event).unwrap_or_default();
            let cap = StreamMaxlen::Approx(self.config.events.keep);
            Cmd::xadd_maxlen(&key, cap, "*", &[("event", json)])
        };
        self.query_one(&events.iter().map(add).collect::<Vec<_>>()).await.map(drop)
    }

    /// Claims the prefix for this node, atomically. `Some` is the node that has it.
    pub(super) async fn claim(&self) -> Result<Option<String>, RedisError> {
        let options = SetOptions::default()
            .conditional_set(ExistenceCheck::NX)
            .get(false)
            .with_expiration(SetExpiry::EX(CLAIM.as_secs()));
        let owner = self.owner_key();
        let claim = [Cmd::set_options(&owner, &self.config.node, options), Cmd::strlen(&owner)];
        let mut answers = self.ask(&claim, SMALL, true).await?.into_iter();
        answers.next().unwrap_or(Value::Nil).extract_error()?;
        let length = match answers.next() {
            Some(Value::ServerError(e)) if e.kind() == Some(ServerErrorKind::NoPerm) => None,
            Some(answer) => usize::try_from(redis::from_redis_value::<i64>(answer.extract_error()?)?).ok(),
            None => None,
        };
        let other = match length {
            Some(length) if length > NAME.max(self.config.node.len()) => Some(format!("with a name of {length} bytes")),
            _ => {
                let answer = self.query(&[Cmd::get(&owner)]).await?.pop().unwrap_or(Value::Nil);
                let owner_now: Option<Vec<u8>> = redis::from_redis_value(answer)?;
                owner_now.map(|o| String::from_utf8_lossy(&o).into_owned()).filter(|o| *o != self.config.node)
            }
        };
        if other.is_none() {
            self.query(&[Cmd::expire(&owner, CLAIM.as_secs() as i64)]).await?;
        }
        self.claimed.store(other.is_none(), Ordering::Relaxed);
        Ok(other)
    }
}

impl Redis {
    /// Gives the prefix up, so that a successor under another name need not wait.
    pub(crate) async fn release(&self) {
        if self.claimed.swap(false, Ordering::Relaxed) {
            let _ = self.query(&[Cmd::del(self.owner_key())]).await;
        }
    }
}

/// An error for people; what a server says may be long.
pub(super) fn said(e: &RedisError) -> String {
    let text = e.to_string();
    match text.char_indices().nth(300) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// The length of a value that may be read; without the right to ask for it, any.
fn readable(answer: &Value) -> Option<usize> {
    match answer {
        Value::Int(length) => usize::try_from(*length).ok().filter(|length| (1..=LARGEST).contains(length)),
        Value::ServerError(e) if e.kind() == Some(ServerErrorKind::NoPerm) => Some(LARGEST / BATCH),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_asked_for_in_batches_of_a_bounded_size() {
        let wanted: Vec<(u64, usize)> = (0..100).map(|slot| (slot, 1000)).collect();
        assert_eq!(batches(&wanted).map(|(batch, most)| (batch.len(), most)).collect::<Vec<_>>().len(), 7);
        let wanted = [(1, LARGEST), (2, 1), (3, 5 << 20), (4, 5 << 20), (5, 1)];
        let found: Vec<Vec<u64>> =
            batches(&wanted).map(|(batch, _)| batch.iter().map(|(slot, _)| *slot).collect()).collect();
        assert_eq!(found, [vec![1], vec![2, 3], vec![4, 5]]);
        assert_eq!(batches(&[]).count(), 0);
    }

    #[test]
    fn only_strings_of_a_bounded_length_are_read() {
        assert_eq!(readable(&Value::Int(5)), Some(5));
        for other in [Value::Int(0), Value::Int(-1), Value::Int(LARGEST as i64 + 1), Value::Nil, Value::Okay] {
            assert_eq!(readable(&other), None);
        }
    }
}
