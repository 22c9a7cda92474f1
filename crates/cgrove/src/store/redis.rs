//! Slots in Redis: `{prefix}/account/{slot}`, each with its expiry in the same command. After an outage every slot
//! that is still held and missing there is written with what is left of its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cgrove_core::event::{Event, Kind};
use redis::streams::StreamMaxlen;
use redis::{Cmd, ExistenceCheck, RedisError, RedisResult, SetExpiry, SetOptions, Value};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::{info, warn};

use super::link::{Link, PATIENCE};
use super::packing::{Unpacked, pack, unpack};
use super::ring::Ring;
use crate::clock::now;
use crate::events::News;
use crate::progress::Progress;
use crate::pulse::Pulse;
use crate::status::Board;
use cgrove_config::Config;

/// Redis is tried again this often; the design promises at most 2 s.
const RETRY: Duration = Duration::from_secs(1);
/// Slots in one pipeline.
const BATCH: usize = 16;
/// Bytes in one pipeline: a slow link must get it through in time.
const BATCH_BYTES: usize = 2 << 20;
/// Events in one pipeline.
const EVENTS: usize = 200;
/// After Redis refused events.
const EVENTS_AGAIN: Duration = Duration::from_secs(60);
/// A node's claim on its prefix.
const CLAIM: Duration = Duration::from_secs(15);

/// A lazily connected Redis, rebuilt with fresh credentials when it answers with anything but slots.
#[derive(Clone)]
pub(crate) struct Redis {
    config: Arc<Config>,
    /// The present connection and its number.
    link: Arc<Mutex<(u64, Option<Link>)>>,
    /// The prefix is ours: what is stored there is what this node measured.
    claimed: Arc<AtomicBool>,
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
        let mut link = self.link.lock().await;
        if let (number, Some(link)) = &*link {
            return Ok((*number, link.clone()));
        }
        let fresh = Link::new(&self.config.redis).await?;
        *link = (link.0 + 1, Some(fresh.clone()));
        Ok((link.0, fresh))
    }

    /// The answers in order. An error of a single command is among them, unless Redis refuses us altogether.
    async fn ask(&self, commands: &[Cmd]) -> RedisResult<Vec<Value>> {
        let (number, mut link) = self.connection().await?;
        let result = match tokio::time::timeout(PATIENCE * 2, link.run(commands)).await {
            Ok(result) => result,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        };
        let refused = |values: &Vec<Value>| values.iter().any(|v| matches!(v, Value::ServerError(_)));
        if result.as_ref().map_or(true, refused) {
            // A link does not heal from a refused password or a master that became a replica; a new one reads the
            // credentials and asks the sentinels again.
            let mut link = self.link.lock().await;
            if link.0 == number {
                link.1 = None;
            }
        }
        result
    }

    /// The same, where each command has to succeed.
    async fn query(&self, commands: &[Cmd]) -> RedisResult<Vec<Value>> {
        self.ask(commands).await?.into_iter().map(Value::extract_error).collect()
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
        for chunk in slots.chunks(BATCH) {
            let questions: Vec<Cmd> =
                chunk.iter().map(|slot| Cmd::exists(format!("{prefix}/account/{slot}"))).collect();
            let there = self.query(&questions).await.map_err(|e| format!("redis: {e}"))?;
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
        for chunk in slots.chunks(BATCH) {
            let gets: Vec<Cmd> = chunk.iter().map(|slot| Cmd::get(format!("{prefix}/account/{slot}"))).collect();
            let Ok(values) = self.ask(&gets).await else { return Some((out, true)) };
            let values = values.into_iter().map(|v| redis::from_redis_value::<Option<Vec<u8>>>(v).ok().flatten());
            for (slot, stored) in chunk.iter().zip(values) {
                let bytes = match stored.map(|stored| unpack(stored, budget)) {
                    Some(Unpacked::Slot(bytes)) => bytes,
                    Some(Unpacked::TooLong) => return None,
                    Some(Unpacked::Broken) | None => continue,
                };
                budget -= bytes.len();
                out.push((*slot, Bytes::from(bytes)));
            }
        }
        Some((out, false))
    }

    /// Which of these slots Redis lacks.
    async fn missing(&self, slots: &[u64]) -> Result<Vec<u64>, RedisError> {
        let questions: Vec<Cmd> = slots.iter().map(|slot| Cmd::exists(self.key(*slot))).collect();
        let there = self.query(&questions).await?;
        let lacks = |v: &Value| !matches!(v, Value::Int(1));
        Ok(slots.iter().zip(&there).filter(|(_, v)| lacks(v)).map(|(slot, _)| *slot).collect())
    }

    async fn store(&self, slots: &[(u64, Bytes)]) -> Result<(), RedisError> {
        let (keep, now) = (self.config.usage.keep.as_secs(), now());
        let set = |(slot, bytes): &(u64, Bytes)| {
            let left = (slot + keep).saturating_sub(now).clamp(1, keep);
            Cmd::set_ex(self.key(*slot), &*pack(bytes, self.config.redis.compression), left)
        };
        self.query(&slots.iter().map(set).collect::<Vec<_>>()).await.map(drop)
    }

    /// Adds events to the stream, which keeps about so many as the journal.
    async fn tell(&self, events: &[Arc<Event>]) -> Result<(), RedisError> {
        let key = self.events_key();
        let add = |event: &Arc<Event>| {
            let json = serde_json::to_string(&**event).unwrap_or_default();
            let cap = StreamMaxlen::Approx(self.config.events.keep);
            Cmd::xadd_maxlen(&key, cap, "*", &[("event", json)])
        };
        self.query(&events.iter().map(add).collect::<Vec<_>>()).await.map(drop)
    }

    /// Claims the prefix for this node, atomically. `Some` is the node that has it.
    async fn claim(&self) -> Result<Option<String>, RedisError> {
        let options = SetOptions::default()
            .conditional_set(ExistenceCheck::NX)
            .get(false)
            .with_expiration(SetExpiry::EX(CLAIM.as_secs()));
        let owner = self.owner_key();
        let claim = [Cmd::set_options(&owner, &self.config.node, options), Cmd::get(&owner)];
        let answer = self.query(&claim).await?.pop().unwrap_or(Value::Nil);
        let owner_now: Option<String> = redis::from_redis_value(answer)?;
        let other = owner_now.filter(|o| *o != self.config.node);
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

/// Writes every slot of the ring, for as long as the process runs.
pub(crate) async fn run(redis: Redis, ring: Arc<Ring>, board: Arc<Board>) {
    let mut follow = ring.follow();
    let pulse = board.pulses.of("redis", Duration::from_secs(60));
    let mut writer = Writer {
        redis,
        ring,
        board,
        connected: false,
        told_away: false,
        next_claim: Instant::now(),
        next_events: Instant::now(),
        conflict: None,
        pulse,
    };
    loop {
        writer.pulse.beat();
        match writer.turn().await {
            Ok(()) => {
                let _ = tokio::time::timeout(Duration::from_secs(5), follow.changed()).await;
            }
            Err(e) => {
                writer.away(&e);
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

struct Writer {
    redis: Redis,
    ring: Arc<Ring>,
    board: Arc<Board>,
    connected: bool,
    /// That it is away was told.
    told_away: bool,
    next_claim: Instant,
    next_events: Instant,
    /// The other node that has our prefix.
    conflict: Option<String>,
    pulse: Pulse,
}

impl Writer {
    /// One turn: claim, notice losses, write what is not written.
    async fn turn(&mut self) -> Result<(), RedisError> {
        if Instant::now() >= self.next_claim {
            let other = self.redis.claim().await?;
            self.next_claim = Instant::now() + CLAIM / 3;
            if let Some(name) = other.as_ref().filter(|_| other != self.conflict) {
                let prefix = &self.redis.config.redis.prefix;
                warn!(
                    "redis: node {name} writes under {prefix}; our slots stay in memory. Give each node its own redis.prefix"
                );
            }
            self.board.update(|s| s.store.owner_conflict.clone_from(&other));
            self.conflict = other;
        }
        if self.conflict.is_some() {
            self.board.update(|s| (s.store.connected, s.store.error) = (true, None));
            return Ok(());
        }
        self.notice_losses().await?;
        let mut replay = Progress::new(|written, left| info!("redis: {written} slots written, {left} to go"));
        let mut written = 0;
        loop {
            // After a long outage there is much to write; each batch is progress.
            self.pulse.beat();
            let batch = self.ring.unwritten(BATCH, BATCH_BYTES);
            let waiting = self.ring.waiting();
            self.board.update(|s| s.store.waiting = waiting);
            if batch.is_empty() {
                break;
            }
            let began = Instant::now();
            self.redis.store(&batch).await?;
            self.board.timings.store.observe(began.elapsed().as_secs_f64());
            let slots: Vec<u64> = batch.iter().map(|(slot, _)| *slot).collect();
            self.ring.mark(&slots, true);
            written += slots.len();
            replay.at(written, waiting.saturating_sub(slots.len()));
            self.board.update(|s| s.store.written_total += slots.len() as u64);
        }
        if Instant::now() >= self.next_events
            && let Err(e) = self.tell_events().await
        {
            // Slots matter more: a user who may not XADD, or a Redis before 5.0, is no outage.
            warn!("redis: events are not stored: {e}; tried again in {} s", EVENTS_AGAIN.as_secs());
            self.next_events = Instant::now() + EVENTS_AGAIN;
        }
        if !self.connected {
            info!("redis: connected");
        }
        if std::mem::take(&mut self.told_away) {
            let text = format!("Redis takes slots again; {written} that waited are written");
            self.board.journal.tell([News::new(Kind::StoreBack, text)]);
        }
        self.connected = true;
        self.board.update(|s| (s.store.connected, s.store.error) = (true, None));
        Ok(())
    }

    /// Events that came since the last turn, as far as the journal still has them.
    async fn tell_events(&mut self) -> Result<(), RedisError> {
        loop {
            self.pulse.beat();
            let events = self.board.journal.unwritten(EVENTS);
            let Some(last) = events.last() else { return Ok(()) };
            self.redis.tell(&events).await?;
            self.board.journal.written(last.seq);
        }
    }

    /// After an outage every slot is looked for; otherwise the newest one tells whether Redis was emptied.
    async fn notice_losses(&mut self) -> Result<(), RedisError> {
        let written = self.ring.written();
        let suspects =
            if self.connected { written.last().map(std::slice::from_ref).unwrap_or_default() } else { &written[..] };
        if suspects.is_empty() {
            return Ok(());
        }
        let mut lost = self.redis.missing(suspects).await?;
        if self.connected && !lost.is_empty() {
            lost = self.redis.missing(&written).await?;
        }
        if !lost.is_empty() {
            info!(slots = lost.len(), "redis: lost slots are written again");
            self.ring.mark(&lost, false);
            self.board.update(|s| s.store.replayed_total += lost.len() as u64);
        }
        Ok(())
    }

    fn away(&mut self, error: &RedisError) {
        // The text may quote the server, never the password.
        let text = format!("redis: {error}; slots wait in memory");
        if self.connected || self.board.update(|s| s.store.error.as_ref() != Some(&text)) {
            warn!("{text}");
        }
        if !std::mem::replace(&mut self.told_away, true) {
            self.board.journal.tell([News::new(Kind::StoreAway, text.clone())]);
        }
        self.connected = false;
        self.next_claim = Instant::now();
        let waiting = self.ring.waiting();
        self.board.update(|s| (s.store.connected, s.store.error, s.store.waiting) = (false, Some(text), waiting));
    }
}
