//! Slots in Redis: `{prefix}/account/{slot}`, each with its expiry in the same command. After an outage every slot
//! that is still held and missing there is written with what is left of its time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, IntoConnectionInfo, RedisError};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::{info, warn};

use super::ring::Ring;
use crate::config::Config;
use crate::status::{Board, now};

/// Redis is tried again this often; the design promises at most 2 s.
const RETRY: Duration = Duration::from_secs(1);
/// A hung Redis answers nothing; nobody waits longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Slots in one pipeline.
const BATCH: usize = 16;
/// A node's claim on its prefix.
const CLAIM: Duration = Duration::from_secs(30);

/// A lazily connected Redis, rebuilt with fresh credentials when it answers with anything but slots.
#[derive(Clone)]
pub(crate) struct Redis {
    config: Arc<Config>,
    manager: Arc<Mutex<Option<ConnectionManager>>>,
}

impl Redis {
    pub(crate) fn new(config: Arc<Config>) -> Self {
        Self { config, manager: Arc::new(Mutex::new(None)) }
    }

    fn key(&self, slot: u64) -> String {
        format!("{}/account/{slot}", self.config.redis.prefix)
    }

    fn owner_key(&self) -> String {
        format!("{}/owner", self.config.redis.prefix)
    }

    async fn connection(&self) -> Result<ConnectionManager, RedisError> {
        let mut manager = self.manager.lock().await;
        if let Some(manager) = &*manager {
            return Ok(manager.clone());
        }
        let mut info = self.config.redis.url.as_str().into_connection_info()?;
        if let Some(secret) = &self.config.redis.password {
            let password = secret.read()?;
            info = info.clone().set_redis_settings(info.redis_settings().clone().set_password(password));
        }
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let client = Client::open(info.set_tcp_settings(tcp))?;
        let settings = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_response_timeout(Some(PATIENCE))
            .set_connection_timeout(Some(PATIENCE));
        let fresh = ConnectionManager::new_lazy_with_config(client, settings)?;
        *manager = Some(fresh.clone());
        Ok(fresh)
    }

    async fn query<T: redis::FromRedisValue>(&self, pipe: &redis::Pipeline) -> Result<T, RedisError> {
        let mut connection = self.connection().await?;
        let result = match tokio::time::timeout(PATIENCE * 2, pipe.query_async(&mut connection)).await {
            Ok(result) => result,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        };
        if result.is_err() {
            // The manager does not heal from a refused password; a new one reads the credentials again.
            *self.manager.lock().await = None;
        }
        result
    }

    /// The stored bytes of these slots, where they exist.
    pub(crate) async fn fetch(&self, slots: &[u64]) -> Result<Vec<(u64, Bytes)>, RedisError> {
        let mut out = Vec::new();
        for chunk in slots.chunks(BATCH) {
            let mut pipe = redis::pipe();
            for slot in chunk {
                pipe.get(self.key(*slot));
            }
            let values: Vec<Option<Vec<u8>>> = self.query(&pipe).await?;
            out.extend(chunk.iter().zip(values).filter_map(|(slot, value)| Some((*slot, Bytes::from(value?)))));
        }
        Ok(out)
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

    /// Claims the prefix for this node. `Some` is the node that has it.
    async fn claim(&self) -> Result<Option<String>, RedisError> {
        let mut get = redis::pipe();
        get.get(self.owner_key());
        let (owner,): (Option<String>,) = self.query(&get).await?;
        if let Some(other) = owner.filter(|o| *o != self.config.node) {
            return Ok(Some(other));
        }
        let mut set = redis::pipe();
        set.set_ex(self.owner_key(), &self.config.node, CLAIM.as_secs()).ignore();
        self.query::<()>(&set).await?;
        Ok(None)
    }
}

/// Writes every slot of the ring, for as long as the process runs.
pub(crate) async fn run(redis: Redis, ring: Arc<Ring>, board: Arc<Board>) {
    let mut follow = ring.follow();
    let mut writer = Writer { redis, ring, board, connected: false, next_claim: Instant::now(), claimed: false };
    loop {
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
    claimed: bool,
}

impl Writer {
    /// One turn: claim, notice losses, write what is not written.
    async fn turn(&mut self) -> Result<(), RedisError> {
        if Instant::now() >= self.next_claim {
            let other = self.redis.claim().await?;
            if other.is_some() && self.claimed {
                warn!(
                    "redis: {} is also written by node {other:?}; give each node its own redis.prefix",
                    self.redis.config.redis.prefix
                );
            }
            self.claimed = other.is_none();
            self.next_claim = Instant::now() + CLAIM / 3;
            self.board.update(|s| s.store.owner_conflict.clone_from(&other));
        }
        if !self.claimed {
            return Ok(());
        }
        self.notice_losses().await?;
        loop {
            let batch = self.ring.unwritten(BATCH);
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
