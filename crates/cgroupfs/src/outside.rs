//! Looks at what may never answer: files outside the cgroup file systems, a name service, a process that holds its own
//! memory locked. They are done in threads that are left behind when they hang: what hangs costs its patience once, and
//! is not asked again before its thread has returned. Threads inherit what their creator may see: under Landlock nobody
//! may look at /proc of others, so lanes that do so belong to the worker thread.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::host::mount_kinds;

/// How often the threads' progress is looked at.
const TICK: Duration = Duration::from_millis(20);
/// What was silent rests so long after the first time, twice as long after the second, and so on.
const REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(60);
/// So long after its rest what was silent is forgotten.
const FORGET: Duration = Duration::from_secs(120);

/// Pid files; only the worker thread asks.
pub static PID_FILES: Lane = Lane::new(Duration::from_millis(300), Duration::from_secs(2), 16, 16);
/// Directories that globs look into.
pub static GLOBS: Lane = Lane::new(Duration::from_millis(800), Duration::from_secs(2), 8, 8);
/// Directories to be watched.
pub static WATCHES: Lane = Lane::new(Duration::from_millis(300), Duration::from_secs(1), 16, 16);
/// Where programs stand; only the worker thread asks. No user takes more than his share of it.
pub static PROGRAMS: Lane = Lane::new(Duration::from_millis(300), Duration::from_secs(1), 16, 4);
/// Command lines; only the worker thread asks.
pub static COMMAND_LINES: Lane = Lane::new(Duration::from_millis(300), Duration::from_secs(1), 16, 4);
/// The user database and systemd.
pub static NAMES: Lane = Lane::new(Duration::from_secs(2), Duration::from_secs(3), 4, 4);
/// Disks that a document names by path.
pub static DISKS: Lane = Lane::new(Duration::from_millis(300), Duration::from_secs(1), 8, 8);
/// The document, where it is a file.
pub static DOCUMENTS: Lane = Lane::new(Duration::from_secs(5), Duration::from_secs(5), 4, 4);

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    #[error("it does not answer (is its file system dead?); it is looked at again when it does")]
    Silent,
    #[error("it was not looked at, because what is looked at before it took too long; its turn comes")]
    Late,
    #[error("it was not looked at, because too much else does not answer")]
    Crowded,
}

/// What is asked: what hangs together, and who is behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub what: String,
    /// A user; 0 for what the administrator named.
    pub owner: u32,
}

/// Questions of one kind, so that what hangs in one keeps no other from its answers.
pub struct Lane {
    /// Without any progress for so long, the thread is left behind.
    one: Duration,
    /// All questions of one call.
    whole: Duration,
    /// Threads that may hang at a time, in all and for one owner.
    most: usize,
    share: usize,
    state: Mutex<State>,
}

struct State {
    silent: Vec<Silent>,
    rests: BTreeMap<String, Rest>,
}

/// A thread that was left behind.
struct Silent {
    key: Key,
    ended: Arc<AtomicBool>,
}

struct Rest {
    until: Instant,
    times: u32,
}

impl Lane {
    pub const fn new(one: Duration, whole: Duration, most: usize, share: usize) -> Self {
        let state = Mutex::new(State { silent: Vec::new(), rests: BTreeMap::new() });
        Self { one, whole, most, share, state }
    }

    /// One question.
    pub fn ask<O: Send + 'static>(
        &self,
        key: &Key,
        work: impl Fn() -> O + Send + Sync + 'static,
    ) -> Result<O, Unknown> {
        let mut answers = self.each(vec![()], |()| key.clone(), move |()| work());
        answers.pop().unwrap_or(Err(Unknown::Late))
    }

    /// The answers, in the order of the questions.
    pub fn each<I: Send + Sync + 'static, O: Send + 'static>(
        &self,
        items: Vec<I>,
        key: impl Fn(&I) -> Key,
        work: impl Fn(&I) -> O + Send + Sync + 'static,
    ) -> Vec<Result<O, Unknown>> {
        let ends = Instant::now() + self.whole;
        let mut out: Vec<Result<O, Unknown>> = items.iter().map(|_| Err(Unknown::Late)).collect();
        let (items, work) = (Arc::new(items), Arc::new(work));
        let mut todo: Vec<usize> = (0..items.len()).collect();
        while Instant::now() < ends {
            todo.retain(|i| match items.get(*i).map(|item| self.refusal(|| key(item))) {
                Some(Some(why)) => {
                    out[*i] = Err(why);
                    false
                }
                _ => true,
            });
            if todo.is_empty() {
                break;
            }
            let ended = Arc::new(AtomicBool::new(false));
            let Some((results, alive)) = begin(items.clone(), work.clone(), todo.clone(), ended.clone()) else { break };
            let (mut moved, mut done) = (Instant::now(), 0);
            let gone = loop {
                let gone = alive.recv_timeout(TICK.min(self.one)) == Err(RecvTimeoutError::Disconnected);
                for (i, answer) in results.try_iter() {
                    out[i] = Ok(answer);
                    (moved, done) = (Instant::now(), done + 1);
                }
                if gone || moved.elapsed() >= self.one || Instant::now() >= ends {
                    break gone;
                }
            };
            let mut rest = todo.split_off(done.min(todo.len()));
            self.answered(todo.iter().filter_map(|i| items.get(*i)).map(&key));
            if let Some(stuck) = rest.first().copied() {
                // A thread that died of a bug in there has no answer either.
                out[stuck] = Err(Unknown::Silent);
                if let Some(item) = items.get(stuck).filter(|_| !gone) {
                    self.silent(key(item), ended);
                }
                rest.remove(0);
            }
            todo = rest;
        }
        out
    }

    /// May it be asked now? Nobody's name is needed as long as everything answers.
    fn refusal(&self, key: impl Fn() -> Key) -> Option<Unknown> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.silent.retain(|s| !s.ended.load(Ordering::Acquire));
        if state.silent.is_empty() && state.rests.is_empty() {
            return None;
        }
        let key = key();
        let rests = state.rests.get(&key.what).is_some_and(|rest| Instant::now() < rest.until);
        if rests || state.silent.iter().any(|s| s.key.what == key.what) {
            return Some(Unknown::Silent);
        }
        let of_owner = state.silent.iter().filter(|s| s.key.owner == key.owner).count();
        (state.silent.len() >= self.most || of_owner >= self.share).then_some(Unknown::Crowded)
    }

    fn silent(&self, key: Key, ended: Arc<AtomicBool>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        state.rests.retain(|_, rest| now < rest.until + FORGET);
        let times = state.rests.get(&key.what).map_or(0, |rest| rest.times);
        let pause = (REST * 2_u32.saturating_pow(times.min(8))).min(LONGEST_REST);
        state.rests.insert(key.what.clone(), Rest { until: now + pause, times: times + 1 });
        state.silent.push(Silent { key, ended });
    }

    fn answered(&self, keys: impl Iterator<Item = Key>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.rests.is_empty() {
            for key in keys {
                state.rests.remove(&key.what);
            }
        }
    }
}

type Answers<O> = (std::sync::mpsc::Receiver<(usize, O)>, std::sync::mpsc::Receiver<()>);

/// A thread that takes these questions one after the other, until nobody waits for it any more.
fn begin<I: Send + Sync + 'static, O: Send + 'static>(
    items: Arc<Vec<I>>,
    work: Arc<impl Fn(&I) -> O + Send + Sync + 'static>,
    todo: Vec<usize>,
    ended: Arc<AtomicBool>,
) -> Option<Answers<O>> {
    let ((answer, answers), (living, alive)) = (channel(), channel::<()>());
    let run = move || {
        let _end = End { ended, _living: living };
        for i in todo {
            let Some(item) = items.get(i) else { continue };
            if answer.send((i, work(item))).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("outside".into()).spawn(run).ok()?;
    Some((answers, alive))
}

/// Said however the thread ends.
struct End {
    ended: Arc<AtomicBool>,
    _living: Sender<()>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
    }
}

/// Where paths hang together: a whole mount, if it can die by itself; else a directory, which a link may lead elsewhere.
pub struct Mounts(Vec<(PathBuf, String)>);

impl Mounts {
    pub fn now() -> Self {
        let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self(mount_kinds(&text).collect())
    }

    pub fn key(&self, path: &Path, owner: u32) -> Key {
        let above = self.0.iter().filter(|(point, _)| path.starts_with(point));
        // The last one covers those before.
        let mount = above.max_by_key(|(point, _)| point.components().count());
        let place = match mount {
            Some((point, kind)) if !is_local(kind) => point.as_path(),
            _ => path.parent().unwrap_or(path),
        };
        Key { what: place.display().to_string(), owner }
    }
}

/// File systems that no server is behind.
fn is_local(kind: &str) -> bool {
    const LOCAL: [&str; 17] = [
        "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "tmpfs", "ramfs", "devtmpfs", "overlay", "squashfs", "vfat",
        "proc", "sysfs", "cgroup", "cgroup2", "zfs",
    ];
    LOCAL.contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_millis(60);

    fn key(what: &str, owner: u32) -> Key {
        Key { what: what.into(), owner }
    }

    /// Waits as long as its gate stands.
    fn gate() -> (Sender<()>, Arc<Mutex<std::sync::mpsc::Receiver<()>>>) {
        let (open, closed) = channel();
        (open, Arc::new(Mutex::new(closed)))
    }

    #[test]
    fn what_never_returns_costs_its_patience_once_and_keeps_no_other_from_its_answer() {
        static LANE: Lane = Lane::new(QUICK, Duration::from_secs(5), 2, 2);
        let (open, closed) = gate();
        let ask = || {
            let closed = closed.clone();
            let work = move |name: &&'static str| {
                if *name == "dead" {
                    let _ = closed.lock().unwrap().recv();
                }
                *name
            };
            let began = Instant::now();
            (LANE.each(vec!["a", "dead", "b", "dead"], |name| key(name, 0), work), began.elapsed())
        };
        let expected = [Ok("a"), Err(Unknown::Silent), Ok("b"), Err(Unknown::Silent)];
        let (answers, took) = ask();
        assert_eq!(answers, expected);
        assert!(took >= QUICK && took < Duration::from_secs(4), "{took:?}");
        for _ in 0..3 {
            assert_eq!(ask().0, expected);
        }
        assert_eq!(LANE.state.lock().unwrap().silent.len(), 1, "one thread hangs, however often it is asked");
        drop(open);
        let until = Instant::now() + Duration::from_secs(20);
        while ask().0[1].is_err() {
            assert!(Instant::now() < until, "it is asked again after its thread returned and it rested");
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let state = LANE.state.lock().unwrap();
        assert!(state.silent.is_empty() && state.rests.is_empty());
    }

    #[test]
    fn threads_that_hang_are_few_and_shared_out() {
        static LANE: Lane = Lane::new(Duration::from_millis(20), Duration::from_secs(5), 3, 2);
        let (open, closed) = gate();
        let wait = move |_: &(String, u32)| drop(closed.lock().map(|gate| gate.recv()));
        let items = |owner: u32| (0..6).map(|n| (format!("{owner}/{n}"), owner)).collect::<Vec<_>>();
        let of = |(name, owner): &(String, u32)| key(name, *owner);
        let silent = |answers: Vec<Result<(), Unknown>>| {
            let of = |why| answers.iter().filter(|a| **a == Err(why)).count();
            (of(Unknown::Silent), of(Unknown::Crowded))
        };
        assert_eq!(silent(LANE.each(items(1), of, wait.clone())), (2, 4));
        assert_eq!(silent(LANE.each(items(2), of, wait)), (1, 5));
        drop(open);
    }

    #[test]
    fn a_whole_look_has_a_deadline_and_a_panic_is_no_answer() {
        static LANE: Lane = Lane::new(Duration::from_secs(10), Duration::from_millis(100), 4, 4);
        let began = Instant::now();
        let slow = |n: &u32| {
            std::thread::park_timeout(Duration::from_millis(10));
            *n
        };
        let answers = LANE.each((0..1000).collect(), |n| key(&n.to_string(), 0), slow);
        assert!(began.elapsed() < Duration::from_secs(3) && answers[0] == Ok(0) && answers[999] == Err(Unknown::Late));
        static OTHER: Lane = Lane::new(QUICK, Duration::from_secs(5), 4, 4);
        let buggy = |n: &u32| if *n == 2 { std::panic::resume_unwind(Box::new("a bug")) } else { *n };
        let answers = OTHER.each(vec![1, 2, 3], |n| key(&n.to_string(), 0), buggy);
        assert_eq!(answers, [Ok(1), Err(Unknown::Silent), Ok(3)]);
        assert!(OTHER.state.lock().unwrap().silent.is_empty());
    }

    #[test]
    fn a_mount_that_has_a_server_hangs_as_a_whole() {
        let mounts =
            Mounts(vec![("/".into(), "ext4".into()), ("/mnt".into(), "nfs4".into()), ("/run".into(), "tmpfs".into())]);
        let what = |path: &str| mounts.key(Path::new(path), 0).what;
        assert_eq!(
            (what("/mnt/a/b/c"), what("/run/x/y.pid"), what("/etc/x")),
            ("/mnt".into(), "/run/x".into(), "/etc".into())
        );
    }
}
