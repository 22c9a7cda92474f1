//! The thread that writes the state directory: the newest value of each file, again and again until the disk has
//! taken it. Whoever must know that something is on the disk waits, for as long as he can.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cgrove_state::{StateDir, StateError, StateLock};
use tokio::sync::watch;
use tracing::warn;

use super::known::{self, approvals};

/// What the disk refused is tried again after this.
const RETRY: Duration = Duration::from_secs(2);
/// The document in force, in the format that operators know.
pub(crate) const LAST_GOOD: &str = "last-good.json";

/// One file of the state directory, in the order of urgency.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// An approval that was used: it goes.
    Approval(String),
    /// What removals wait for.
    File(String),
    LastGood,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Put(Vec<u8>),
    Remove,
}

/// How the state directory does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Why it cannot be read or written; removals are held.
    pub(crate) error: Option<String>,
    /// Since when the oldest change waits for the disk.
    pub(crate) waiting: Option<Instant>,
    /// The document in force is not on the disk yet.
    pub(crate) document: bool,
    /// Why approvals do not count.
    pub(crate) approvals: Option<String>,
}

impl Report {
    /// Everything is on the disk.
    pub(crate) fn is_clean(&self) -> bool {
        self.error.is_none() && self.waiting.is_none()
    }
}

/// A handle; the thread ends with the last of them, when it has written or failed to write what waits.
#[derive(Clone)]
pub(crate) struct Keeper(Arc<Owner>);

struct Owner {
    inner: Arc<Inner>,
}

struct Inner {
    dir: StateDir,
    approvals: StateDir,
    shared: Mutex<Shared>,
    /// Something is to be done.
    work: Condvar,
    /// Something was done, or failed.
    done: Condvar,
    report: watch::Sender<Report>,
}

#[derive(Default)]
struct Shared {
    pending: BTreeMap<Key, Pending>,
    /// Why the directory is not locked.
    lock: Option<String>,
    /// Why something in it could not be read.
    unread: Option<String>,
    approvals: Option<String>,
    turn: u64,
    ended: bool,
    /// The directory is to be looked at, though nothing is to be written.
    look: bool,
    waiting: Waiting,
}

/// What approvals can be for: each waits for one digest, or for none. Unknown until it was said once.
#[derive(Default)]
struct Waiting {
    /// The removals of the last round.
    removals: Option<Option<String>>,
    /// A document that the source does not take by itself.
    document: Option<Option<String>>,
}

struct Pending {
    change: Change,
    turn: u64,
    since: Instant,
    next: Instant,
    /// The newest value was tried.
    tried: bool,
    /// The last attempt, of this value or the one before.
    error: Option<String>,
}

/// What is not on the disk after a wait.
pub(crate) struct Settled {
    pub(crate) error: Option<String>,
    pub(crate) pending: BTreeSet<Key>,
}

impl Keeper {
    /// Takes the directory for this process. Refused are a directory that others may write, and another process's. One
    /// that cannot be made or written now is asked again and again: everything is held meanwhile.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        let dir = StateDir::new(path);
        let (lock, error) = match dir.prepare().and_then(|()| dir.lock()) {
            Ok(lock) => (Some(lock), None),
            Err(e @ StateError::Io { .. }) => (None, Some(e.to_string())),
            Err(e) => return Err(e),
        };
        let approvals = approvals(&dir);
        let unmade = approvals.prepare().err().map(|e| e.to_string());
        let shared = Shared { lock: error, approvals: unmade, ..Shared::default() };
        let report = watch::Sender::new(shared.report());
        let (work, done) = Default::default();
        let inner = Arc::new(Inner { dir, approvals, shared: Mutex::new(shared), work, done, report });
        let thread = inner.clone();
        std::thread::Builder::new().name("state".into()).spawn(move || thread.write(lock)).map_err(|source| {
            StateError::Io { operation: "start the thread that writes", path: path.into(), source }
        })?;
        Ok(Self(Arc::new(Owner { inner })))
    }

    pub(crate) fn dir(&self) -> &StateDir {
        &self.0.inner.dir
    }

    /// Where approvals appear.
    pub(crate) fn approvals_dir(&self) -> &Path {
        self.0.inner.approvals.path()
    }

    /// Writes it as soon as the disk allows; an older change of the same file that waits is dropped.
    pub(crate) fn change(&self, key: Key, change: Change) {
        let inner = &self.0.inner;
        let mut shared = inner.lock();
        let now = Instant::now();
        shared.turn += 1;
        let turn = shared.turn;
        let (since, error) = shared.pending.remove(&key).map_or((now, None), |p| (p.since, p.error));
        shared.pending.insert(key, Pending { change, turn, since, next: now, tried: false, error });
        inner.tell(&shared);
        inner.work.notify_one();
    }

    /// Waits until the disk has taken or refused everything, but no longer than `within`.
    pub(crate) fn settle(&self, within: Duration) -> Settled {
        let inner = &self.0.inner;
        let untried = |shared: &mut Shared| shared.pending.values().any(|p| !p.tried);
        let waited = inner.done.wait_timeout_while(inner.lock(), within, untried);
        let (shared, _) = waited.unwrap_or_else(PoisonError::into_inner);
        Settled { error: shared.error(), pending: shared.pending.keys().cloned().collect() }
    }

    /// The approvals that an operator gave and that have not counted yet. What cannot be read is not given.
    pub(crate) fn approvals(&self) -> BTreeSet<String> {
        let inner = &self.0.inner;
        let (mut given, error) = known::given(&inner.dir);
        let mut shared = inner.lock();
        given.retain(|digest| !shared.pending.contains_key(&Key::Approval(digest.clone())));
        shared.approvals = error.map(|e| e.to_string());
        inner.tell(&shared);
        given
    }

    /// An approval counts once: from now on it does not, whether or not its file can be removed.
    pub(crate) fn spend(&self, digest: &str) -> Key {
        let key = Key::Approval(digest.into());
        self.change(key.clone(), Change::Remove);
        key
    }

    /// The removals that wait since the last round. An approval counts for the hold that it was given for: once another
    /// set is held, or none, it is dropped.
    pub(crate) fn removals_wait(&self, digest: Option<&str>) {
        self.0.inner.lock().waiting.removals = Some(digest.map(Into::into));
        self.drop_others();
    }

    /// The same for a document that waits for an approval.
    pub(crate) fn document_waits(&self, digest: Option<&str>) {
        self.0.inner.lock().waiting.document = Some(digest.map(Into::into));
        self.drop_others();
    }

    /// Not before both are known: an approval that was given while nobody ran may be for either.
    fn drop_others(&self) {
        let waiting = {
            let shared = self.0.inner.lock();
            let Waiting { removals: Some(removals), document: Some(document) } = &shared.waiting else { return };
            [removals.clone(), document.clone()]
        };
        for digest in self.approvals().into_iter().filter(|d| !waiting.iter().flatten().any(|w| w == d)) {
            warn!("approval {digest} is dropped: nothing with this digest waits any more; it does not count later");
            self.spend(&digest);
        }
    }

    /// Finds out soon whether the directory is still there and ours, also while nothing is to be written.
    pub(crate) fn look(&self) {
        self.0.inner.lock().look = true;
        self.0.inner.work.notify_one();
    }

    /// Something in the directory cannot be read, or can be again.
    pub(crate) fn set_unread(&self, error: Option<String>) {
        let mut shared = self.0.inner.lock();
        shared.unread = error;
        self.0.inner.tell(&shared);
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Report> {
        self.0.inner.report.subscribe()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.inner.lock().ended = true;
        self.inner.work.notify_one();
    }
}

impl Shared {
    fn error(&self) -> Option<String> {
        let refused = self.pending.values().find_map(|p| p.error.clone());
        self.unread.clone().or_else(|| self.lock.clone()).or(refused)
    }

    fn report(&self) -> Report {
        Report {
            error: self.error(),
            waiting: self.pending.values().map(|p| p.since).min(),
            document: self.pending.contains_key(&Key::LastGood),
            approvals: self.approvals.clone(),
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, shared: &Shared) {
        let new = shared.report();
        self.report.send_if_modified(|old| if *old == new { false } else { (*old = new, true).1 });
    }

    fn write(&self, mut lock: Option<StateLock>) {
        while let Some(job) = self.next(lock.is_some()) {
            let held = self.hold(&mut lock);
            let result = held.as_ref().err().map(ToString::to_string);
            let attempt = job.map(|(key, change, turn)| {
                let written = held.and_then(|()| self.apply(&key, &change));
                (key, turn, written.err().map(|e| e.to_string()))
            });
            let mut shared = self.lock();
            shared.lock = result;
            if let Some((key, turn, error)) = attempt {
                shared.finish(&key, turn, error);
            }
            self.tell(&shared);
            self.done.notify_all();
        }
    }

    /// Waits for the next thing to do: a change, or only the lock. `None` at the end.
    fn next(&self, locked: bool) -> Option<Option<(Key, Change, u64)>> {
        let mut shared = self.lock();
        let again = Instant::now() + RETRY;
        loop {
            let now = Instant::now();
            let due = shared.pending.iter().find(|(_, p)| p.next <= now);
            if let Some((key, p)) = due {
                return Some(Some((key.clone(), p.change.clone(), p.turn)));
            }
            if shared.ended {
                return None;
            }
            if std::mem::take(&mut shared.look) || !locked && again <= now {
                return Some(None);
            }
            let next = shared.pending.values().map(|p| p.next).chain((!locked).then_some(again)).min();
            shared = match next {
                Some(at) => {
                    self.work.wait_timeout(shared, at - now).map(|(s, _)| s).unwrap_or_else(|e| e.into_inner().0)
                }
                None => self.work.wait(shared).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// The lock may be lost with its file, when somebody clears the directory away or mounts another one over it.
    fn hold(&self, lock: &mut Option<StateLock>) -> Result<(), StateError> {
        if !lock.as_ref().is_some_and(|lock| lock.is_of(self.dir.path())) {
            *lock = None;
            self.dir.prepare()?;
            *lock = Some(self.dir.lock()?);
            let _ = self.approvals.prepare();
        }
        Ok(())
    }

    fn apply(&self, key: &Key, change: &Change) -> Result<(), StateError> {
        match (key, change) {
            (Key::Approval(digest), _) => self.approvals.remove(digest),
            (Key::File(name), Change::Put(bytes)) => self.dir.put(name, bytes),
            (Key::File(name), Change::Remove) => self.dir.remove(name),
            (Key::LastGood, Change::Put(bytes)) => self.dir.put_raw(LAST_GOOD, bytes),
            (Key::LastGood, Change::Remove) => self.dir.remove(LAST_GOOD),
        }
    }
}

impl Shared {
    fn finish(&mut self, key: &Key, turn: u64, error: Option<String>) {
        match self.pending.get_mut(key) {
            // A newer value came meanwhile.
            Some(p) if p.turn != turn => {}
            Some(p) if error.is_some() => (p.tried, p.error, p.next) = (true, error, Instant::now() + RETRY),
            _ => drop(self.pending.remove(key)),
        }
    }
}

#[cfg(test)]
mod tests;
