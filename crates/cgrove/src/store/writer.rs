//! Writes slots and events to Redis, and notices what it lost: for as long as the process runs.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use cgrove_core::event::Kind;
use redis::{ErrorKind, RedisError};
use tokio::time::Instant;
use tracing::{info, warn};

use super::redis::{BATCH, BATCH_BYTES, CLAIM, RETRY, Redis, said};
use super::ring::Ring;
use crate::events::News;
use crate::progress::Progress;
use crate::pulse::Pulse;
use crate::status::Board;

/// Events in one pipeline.
const EVENTS: usize = 200;
/// Between lines in the log about a Redis that stays away, if they differ.
const WARN_AGAIN: Duration = Duration::from_secs(10);
/// How many times smaller a question may become.
const SMALLEST: usize = 64;
/// After Redis refused events.
const EVENTS_AGAIN: Duration = Duration::from_secs(60);

/// Writes every slot of the ring, for as long as the process runs.
pub(crate) async fn run(redis: Redis, ring: Arc<Ring>, board: Arc<Board>) {
    let mut follow = ring.follow();
    let pulse = board.pulses.of("redis", Duration::from_secs(60));
    let mut writer = Writer {
        redis,
        ring,
        board,
        connected: false,
        doubtful: VecDeque::new(),
        share: 1,
        told_away: false,
        warned: None,
        next_claim: Instant::now(),
        next_events: Instant::now(),
        conflict: None,
        pulse,
    };
    loop {
        writer.pulse.beat();
        match writer.turn().await {
            // There is more to look for: at once.
            Ok(()) if writer.conflict.is_none() && !writer.doubtful.is_empty() => {}
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
    /// Slots that were written, and may be lost: what is looked for next comes first.
    doubtful: VecDeque<u64>,
    /// Questions are so many times smaller than usual: doubled after a failure, so that a part of them is answered in time,
    /// however slow Redis is.
    share: usize,
    /// That it is away was told.
    told_away: bool,
    /// When its being away was logged.
    warned: Option<Instant>,
    next_claim: Instant,
    next_events: Instant,
    /// The other node that has our prefix.
    conflict: Option<String>,
    pulse: Pulse,
}

impl Writer {
    /// One turn: claim, notice some losses, write what is not written.
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
            let batch = self.ring.unwritten((BATCH / self.share).max(1), BATCH_BYTES);
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
            // A connection that was lost meanwhile refuses nothing.
            if !matches!(e.kind(), ErrorKind::Server(_) | ErrorKind::Extension) {
                return Err(e);
            }
            // Slots matter more: a user who may not XADD, or a Redis before 5.0, is no outage.
            warn!("redis: events are not stored: {}; tried again in {} s", said(&e), EVENTS_AGAIN.as_secs());
            self.next_events = Instant::now() + EVENTS_AGAIN;
        }
        self.share = (self.share / 2).max(1);
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

    /// After an outage every slot is looked for, some in each turn; otherwise the newest one tells whether Redis was emptied.
    /// What was found is not looked for again, whatever comes between.
    async fn notice_losses(&mut self) -> Result<(), RedisError> {
        if self.doubtful.is_empty() {
            let written = self.ring.written();
            if self.connected {
                let newest = written.last().map(std::slice::from_ref).unwrap_or_default();
                if newest.is_empty() || self.redis.missing(newest).await?.is_empty() {
                    return Ok(());
                }
            }
            self.doubtful = written.into();
        }
        let chunk: Vec<u64> = self.doubtful.iter().copied().take((self.redis.many() / self.share).max(1)).collect();
        let lost = self.redis.missing(&chunk).await?;
        self.doubtful.drain(..chunk.len());
        if !lost.is_empty() {
            info!(slots = lost.len(), "redis: lost slots are written again");
            self.ring.mark(&lost, false);
            self.board.update(|s| s.store.replayed_total += lost.len() as u64);
        }
        Ok(())
    }

    fn away(&mut self, error: &RedisError) {
        // The text may quote the server, never the password.
        let text = format!("redis: {}; slots wait in memory", said(error));
        let other = self.board.update(|s| s.store.error.as_ref() != Some(&text));
        // A server that says something else each time is not repeated each time.
        if self.connected || other && self.warned.is_none_or(|at| at.elapsed() >= WARN_AGAIN) {
            warn!("{text}");
            self.warned = Some(Instant::now());
        }
        if !std::mem::replace(&mut self.told_away, true) {
            self.board.journal.tell([News::new(Kind::StoreAway, text.clone())]);
        }
        self.share = (self.share * 2).min(SMALLEST);
        if std::mem::take(&mut self.connected) || self.doubtful.is_empty() {
            // All may be lost; what was not looked for since the last time comes first.
            let ahead: HashSet<u64> = self.doubtful.iter().copied().collect();
            self.doubtful.extend(self.ring.written().into_iter().filter(|slot| !ahead.contains(slot)));
        }
        self.next_claim = Instant::now();
        let waiting = self.ring.waiting();
        self.board.update(|s| (s.store.connected, s.store.error, s.store.waiting) = (false, Some(text), waiting));
    }
}
