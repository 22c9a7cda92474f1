//! Slots in Redis: `{prefix}/account/{slot}`, each with its expiry in the same command. After an outage every slot
//! that is still held and missing there is written with what is left of its time.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{
    Client, ClientTlsConfig, ExistenceCheck, IntoConnectionInfo, RedisError, SetExpiry, SetOptions, TlsCertificates,
};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::{info, warn};

use super::ring::Ring;
use crate::config::{ClientTls, Config};
use crate::pulse::Pulse;
use crate::status::{Board, now};

/// Redis is tried again this often; the design promises at most 2 s.
const RETRY: Duration = Duration::from_secs(1);
/// A hung Redis answers nothing; nobody waits longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Slots in one pipeline.
const BATCH: usize = 16;
/// Bytes in one pipeline: a slow link must get it through in time.
const BATCH_BYTES: usize = 2 << 20;
/// A node's claim on its prefix.
const CLAIM: Duration = Duration::from_secs(15);

/// A lazily connected Redis, rebuilt with fresh credentials when it answers with anything but slots.
#[derive(Clone)]
pub(crate) struct Redis {
    config: Arc<Config>,
    /// The present connection and its number.
    manager: Arc<Mutex<(u64, Option<ConnectionManager>)>>,
    /// The prefix is ours: what is stored there is what this node measured.
    claimed: Arc<AtomicBool>,
}

impl Redis {
    pub(crate) fn new(config: Arc<Config>) -> Self {
        Self { config, manager: Arc::default(), claimed: Arc::default() }
    }

    /// The same store over a connection of its own, so that large answers do not stand in the writer's way.
    pub(crate) fn reader(&self) -> Self {
        Self { manager: Arc::default(), ..self.clone() }
    }

    fn key(&self, slot: u64) -> String {
        format!("{}/account/{slot}", self.config.redis.prefix)
    }

    fn owner_key(&self) -> String {
        format!("{}/owner", self.config.redis.prefix)
    }

    async fn connection(&self) -> Result<(u64, ConnectionManager), RedisError> {
        let mut manager = self.manager.lock().await;
        if let (number, Some(manager)) = &*manager {
            return Ok((*number, manager.clone()));
        }
        let mut info = self.config.redis.url.as_str().into_connection_info()?;
        if let Some(secret) = &self.config.redis.password {
            let password = secret.read()?;
            info = info.clone().set_redis_settings(info.redis_settings().clone().set_password(password));
        }
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let info = info.set_tcp_settings(tcp);
        let client = match &self.config.redis.tls {
            Some(tls) => Client::build_with_tls(info, certificates(tls)?)?,
            None => Client::open(info)?,
        };
        let settings = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_response_timeout(Some(PATIENCE))
            .set_connection_timeout(Some(PATIENCE));
        let fresh = ConnectionManager::new_lazy_with_config(client, settings)?;
        *manager = (manager.0 + 1, Some(fresh.clone()));
        Ok((manager.0, fresh))
    }

    async fn query<T: redis::FromRedisValue>(&self, pipe: &redis::Pipeline) -> Result<T, RedisError> {
        let (number, mut connection) = self.connection().await?;
        let result = match tokio::time::timeout(PATIENCE * 2, pipe.query_async(&mut connection)).await {
            Ok(result) => result,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        };
        if result.is_err() {
            // The manager does not heal from a refused password; a new one reads the credentials again.
            let mut manager = self.manager.lock().await;
            if manager.0 == number {
                manager.1 = None;
            }
        }
        result
    }

    /// The stored bytes of these slots, where they exist and are this node's; within `budget` bytes, or `None`.
    /// Redis being away costs what only it has, not the answer.
    pub(crate) async fn fetch(&self, slots: &[u64], mut budget: usize) -> Option<Vec<(u64, Bytes)>> {
        let mut out = Vec::new();
        if !self.claimed.load(Ordering::Relaxed) {
            return Some(out);
        }
        for chunk in slots.chunks(BATCH) {
            let mut pipe = redis::pipe();
            for slot in chunk {
                pipe.get(self.key(*slot));
            }
            let Ok(values) = self.query::<Vec<Option<Vec<u8>>>>(&pipe).await else { break };
            for (slot, value) in chunk.iter().zip(values) {
                let Some(value) = value else { continue };
                budget = budget.checked_sub(value.len())?;
                out.push((*slot, Bytes::from(value)));
            }
        }
        Some(out)
    }

    /// Which of these slots Redis lacks.
    async fn missing(&self, slots: &[u64]) -> Result<Vec<u64>, RedisError> {
        let mut pipe = redis::pipe();
        for slot in slots {
            pipe.exists(self.key(*slot));
        }
        let there: Vec<bool> = self.query(&pipe).await?;
        Ok(slots.iter().zip(there).filter(|(_, there)| !there).map(|(slot, _)| *slot).collect())
    }

    async fn store(&self, slots: &[(u64, Bytes)]) -> Result<(), RedisError> {
        let (mut pipe, keep, now) = (redis::pipe(), self.config.usage.keep.as_secs(), now());
        for (slot, bytes) in slots {
            let left = (slot + keep).saturating_sub(now).clamp(1, keep);
            pipe.set_ex(self.key(*slot), &bytes[..], left).ignore();
        }
        self.query(&pipe).await
    }

    /// Claims the prefix for this node, atomically. `Some` is the node that has it.
    async fn claim(&self) -> Result<Option<String>, RedisError> {
        let options = SetOptions::default()
            .conditional_set(ExistenceCheck::NX)
            .get(false)
            .with_expiration(SetExpiry::EX(CLAIM.as_secs()));
        let mut pipe = redis::pipe();
        pipe.set_options(self.owner_key(), &self.config.node, options).ignore().get(self.owner_key());
        let (owner,): (Option<String>,) = self.query(&pipe).await?;
        let other = owner.filter(|o| *o != self.config.node);
        if other.is_none() {
            let mut renew = redis::pipe();
            renew.expire(self.owner_key(), CLAIM.as_secs() as i64).ignore();
            self.query::<()>(&renew).await?;
        }
        self.claimed.store(other.is_none(), Ordering::Relaxed);
        Ok(other)
    }
}

/// Read at each connection: they may have been renewed.
fn certificates(tls: &ClientTls) -> std::io::Result<TlsCertificates> {
    let read = |path: &std::path::Path| {
        let named = |e: std::io::Error| std::io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        std::fs::read(path).map_err(named)
    };
    let identity = |(certificate, key): &(PathBuf, PathBuf)| {
        Ok::<_, std::io::Error>(ClientTlsConfig { client_cert: read(certificate)?, client_key: read(key)? })
    };
    let client_tls = tls.identity.as_ref().map(identity).transpose()?;
    Ok(TlsCertificates { client_tls, root_cert: Some(read(&tls.ca)?) })
}

impl Redis {
    /// Gives the prefix up, so that a successor under another name need not wait.
    pub(crate) async fn release(&self) {
        if self.claimed.swap(false, Ordering::Relaxed) {
            let mut pipe = redis::pipe();
            pipe.del(self.owner_key()).ignore();
            let _ = self.query::<()>(&pipe).await;
        }
    }
}

/// Writes every slot of the ring, for as long as the process runs.
pub(crate) async fn run(redis: Redis, ring: Arc<Ring>, board: Arc<Board>) {
    let mut follow = ring.follow();
    let pulse = board.pulses.of("redis", Duration::from_secs(60));
    let mut writer = Writer { redis, ring, board, connected: false, next_claim: Instant::now(), conflict: None, pulse };
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
    next_claim: Instant,
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
        loop {
            // After a long outage there is much to write; each batch is progress.
            self.pulse.beat();
            let batch = self.ring.unwritten(BATCH, BATCH_BYTES);
            if batch.is_empty() {
                break;
            }
            self.redis.store(&batch).await?;
            let slots: Vec<u64> = batch.iter().map(|(slot, _)| *slot).collect();
            self.ring.mark(&slots, true);
            self.board.update(|s| s.store.written_total += slots.len() as u64);
        }
        if !self.connected {
            info!("redis: connected");
        }
        self.connected = true;
        self.board.update(|s| (s.store.connected, s.store.error) = (true, None));
        Ok(())
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
        self.connected = false;
        self.next_claim = Instant::now();
        self.board.update(|s| (s.store.connected, s.store.error) = (false, Some(text)));
    }
}
