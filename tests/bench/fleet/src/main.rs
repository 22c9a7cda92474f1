//! So many nodes' sessions with a ZooKeeper, without their nodes:   cgrove-bench-fleet HOSTS ZNODE SESSIONS SPREAD
//!
//! Each does what a node does: it connects, reads and watches the document and the two ACLs, reads again when told, every
//! 30 s, and after each reconnect, and begins a new session after the same pauses. SPREAD is 1 as in the program, or 0 for
//! pauses that are the same for all. Every 100 ms a line of JSON: sessions that there are, the newest version and how
//! many have it, sessions begun and reads done so far, and why there was no session, how often.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use zookeeper_client::{Client, Error, SessionState};

const REREAD: Duration = Duration::from_secs(30);
const BACKOFF: [u64; 4] = [100, 300, 700, 1500];
const OPERATION: Duration = Duration::from_secs(5);
const SESSION: Duration = Duration::from_secs(10);
/// New sessions a second while the fleet comes up: nodes do not boot in one instant.
const RAMP: u64 = 500;

struct Counts {
    connected: AtomicI64,
    /// Of each version, by its number modulo the array's length, how many have read it.
    have: [AtomicI64; 64],
    newest: AtomicI64,
    begun: AtomicU64,
    reads: AtomicU64,
    bytes: AtomicU64,
    /// Why there was no session, and how often.
    failures: Mutex<BTreeMap<String, u64>>,
}

impl Counts {
    fn fail(&self, why: &str) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        *failures.entry(why.to_owned()).or_default() += 1;
    }
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [hosts, znode, sessions, spread] = &arguments[..] else { panic!("HOSTS ZNODE SESSIONS SPREAD") };
    let (sessions, spread): (u64, f64) = (sessions.parse().unwrap_or(1), spread.parse().unwrap_or(1.0));
    let have = std::array::from_fn(|_| AtomicI64::new(0));
    let counts = Arc::new(Counts {
        connected: AtomicI64::new(0),
        have,
        newest: AtomicI64::new(-1),
        begun: AtomicU64::new(0),
        reads: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        failures: Mutex::default(),
    });
    for i in 0..sessions {
        let node = Node { hosts: hosts.clone(), znode: znode.clone(), spread, counts: counts.clone() };
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(i * 1000 / RAMP)).await;
            node.run().await;
        });
    }
    let began = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let newest = counts.newest.load(Relaxed);
        let line = json!({
            "at": began.elapsed().as_secs_f64(), "connected": counts.connected.load(Relaxed), "newest": newest,
            "have": counts.have[newest.max(0) as usize % 64].load(Relaxed), "begun": counts.begun.load(Relaxed),
            "reads": counts.reads.load(Relaxed), "bytes": counts.bytes.load(Relaxed),
            "failures": *counts.failures.lock().unwrap_or_else(PoisonError::into_inner),
        });
        println!("{line}");
    }
}

struct Node {
    hosts: String,
    znode: String,
    spread: f64,
    counts: Arc<Counts>,
}

impl Node {
    fn pause(&self, pause: Duration) -> Duration {
        pause.mul_f64(1.0 + self.spread * (fastrand::f64() - 0.5))
    }

    async fn run(self) {
        let mut attempt = 0;
        let mut version = -1;
        loop {
            self.counts.begun.fetch_add(1, Relaxed);
            let mut connector = Client::connector()
                .with_fail_eagerly()
                .with_session_timeout(SESSION)
                .with_connection_timeout(Duration::from_secs(3));
            connector = connector.with_auth("digest", b"user:password");
            match tokio::time::timeout(SESSION + OPERATION, connector.connect(&self.hosts)).await {
                Ok(Ok(client)) => {
                    self.counts.connected.fetch_add(1, Relaxed);
                    self.session(&client, &mut attempt, &mut version).await;
                    self.counts.connected.fetch_sub(1, Relaxed);
                }
                Ok(Err(e)) => self.counts.fail(&e.to_string()),
                Err(_) => self.counts.fail("no answer"),
            }
            let millis = BACKOFF[attempt.min(BACKOFF.len() - 1)];
            tokio::time::sleep(self.pause(Duration::from_millis(millis))).await;
            attempt += 1;
        }
    }

    /// Until the session is over.
    async fn session(&self, client: &Client, attempt: &mut usize, version: &mut i64) {
        let _ = within(client.sync(&self.znode)).await;
        let mut state = client.state_watcher();
        let above = self.znode.rsplit_once('/').map_or("/", |(above, _)| if above.is_empty() { "/" } else { above });
        loop {
            let mut watcher = None;
            let mut pause = self.pause(REREAD);
            match within(client.get_and_watch_data(&self.znode)).await {
                Ok((data, stat, armed)) => {
                    self.counts.reads.fetch_add(1, Relaxed);
                    self.counts.bytes.fetch_add(data.len() as u64, Relaxed);
                    self.read(i64::from(stat.version), version);
                    let _ = within(client.get_acl(&self.znode)).await;
                    let _ = within(client.get_acl(above)).await;
                    watcher = Some(armed);
                    *attempt = 0;
                }
                Err(Error::ConnectionLoss | Error::Timeout) => pause = Duration::from_millis(500),
                Err(_) => return,
            }
            let mut fired = match watcher {
                Some(watcher) => tokio::spawn(async move { watcher.changed().await.session_state }),
                None => tokio::spawn(std::future::pending()),
            };
            let over = tokio::select! {
                event = &mut fired => event.is_ok_and(|state| state.is_terminated()),
                over = self.lost(&mut state) => over,
                () = tokio::time::sleep(pause) => false,
            };
            fired.abort();
            if over {
                return;
            }
        }
    }

    fn read(&self, now: i64, version: &mut i64) {
        if now != *version {
            if *version >= 0 {
                self.counts.have[*version as usize % 64].fetch_sub(1, Relaxed);
            }
            self.counts.have[now as usize % 64].fetch_add(1, Relaxed);
            self.counts.newest.fetch_max(now, Relaxed);
            *version = now;
        }
    }

    /// False after a reconnect, true when the session is over.
    async fn lost(&self, state: &mut zookeeper_client::StateWatcher) -> bool {
        loop {
            match state.changed().await {
                SessionState::Disconnected => {
                    let next = state.changed().await;
                    if matches!(next, SessionState::SyncConnected | SessionState::ConnectedReadOnly) {
                        return false;
                    }
                    return next != SessionState::Disconnected;
                }
                SessionState::SyncConnected | SessionState::ConnectedReadOnly => return false,
                _ => return true,
            }
        }
    }
}

async fn within<T>(operation: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(OPERATION, operation).await.unwrap_or(Err(Error::Timeout))
}
