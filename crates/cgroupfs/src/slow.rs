//! Writes whose end nobody can foretell: a lowered memory limit makes the kernel take memory back until it fits, a
//! cpuset's nodes make it move pages. They are done by threads of their own. Whoever asks waits a moment, and asks again
//! later; a file has one such write at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::CWD;

use crate::file::{put_at, put_to_read, text_at};

/// Threads at a time. What is beyond waits for the next round.
const MOST: usize = 32;
/// Results that nobody came for.
const MOST_ENDED: usize = 64;

const FILES: [&str; 9] = [
    "memory.max",
    "memory.high",
    "memory.reclaim",
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.soft_limit_in_bytes",
    "memory.kmem.limit_in_bytes",
    "memory.force_empty",
    "cpuset.mems",
];

/// May a write to this file take longer than anybody can wait?
pub(crate) fn may_be(file: &str) -> bool {
    FILES.contains(&file)
}

pub(crate) enum Put {
    /// The file is open, as [`put_to_read`] leaves it.
    Ended(io::Result<File>),
    UnderWay,
}

static WRITES: Mutex<Writes> = Mutex::new(Writes { idle: None, files: BTreeMap::new() });

struct Writes {
    /// A thread that waits for its next write.
    idle: Option<Sender<Job>>,
    files: BTreeMap<PathBuf, Write>,
}

struct Write {
    value: String,
    /// The error's number; `None` while it is under way.
    ended: Option<Result<(), i32>>,
}

struct Job {
    path: PathBuf,
    /// The group's directory, where the path may be another's by now.
    open: Option<File>,
    value: String,
    reply: Sender<io::Result<File>>,
}

fn writes() -> MutexGuard<'static, Writes> {
    WRITES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes below the open directory, if there is one, and waits at most so long. What an earlier write of the same value came to is told first.
pub(crate) fn put_patiently(path: &Path, open: Option<File>, value: &str, patience: Duration) -> Put {
    let answer = {
        let mut writes = writes();
        match writes.files.get(path).map(|w| (w.ended, w.value == value)) {
            Some((None, _)) => return Put::UnderWay,
            Some((Some(Err(code)), true)) => {
                writes.files.remove(path);
                return Put::Ended(Err(io::Error::from_raw_os_error(code)));
            }
            _ => {}
        }
        if writes.files.len() >= MOST_ENDED {
            writes.files.retain(|_, w| w.ended.is_none());
        }
        if writes.files.values().filter(|w| w.ended.is_none()).count() >= MOST {
            return Put::UnderWay;
        }
        match begin(&mut writes, path, open, value) {
            Ok(answer) => answer,
            Err(e) => return Put::Ended(Err(e)),
        }
    };
    match answer.recv_timeout(patience) {
        Ok(result) => {
            writes().files.remove(path);
            Put::Ended(result)
        }
        Err(_) => Put::UnderWay,
    }
}

/// The file in this group, or below it, that is being written. Until that ends, the kernel would let nobody remove the group.
pub(crate) fn under_way(dir: &Path) -> Option<PathBuf> {
    writes().files.iter().find(|(path, w)| w.ended.is_none() && path.starts_with(dir)).map(|(path, _)| path.clone())
}

fn begin(writes: &mut Writes, path: &Path, open: Option<File>, value: &str) -> io::Result<Receiver<io::Result<File>>> {
    let (reply, answer) = channel();
    let mut job = Job { path: path.to_owned(), open, value: value.to_owned(), reply };
    if let Some(idle) = writes.idle.take() {
        match idle.send(job) {
            Ok(()) => return Ok(note(writes, path, value, answer)),
            Err(back) => job = back.0,
        }
    }
    let (next, jobs) = channel::<Job>();
    std::thread::Builder::new().name("slow write".into()).spawn(move || work(job, &next, &jobs))?;
    Ok(note(writes, path, value, answer))
}

fn note<T>(writes: &mut Writes, path: &Path, value: &str, answer: T) -> T {
    writes.files.insert(path.to_owned(), Write { value: value.to_owned(), ended: None });
    answer
}

/// One thread stays for the next write, so that many limits do not make a thread each.
fn work(first: Job, next: &Sender<Job>, jobs: &Receiver<Job>) {
    let mut job = first;
    loop {
        let Job { path, open, value, reply } = job;
        let result = write(&path, open.as_ref(), &value);
        let stays = {
            let mut writes = writes();
            if let Some(write) = writes.files.get_mut(&path) {
                write.ended = Some(result.as_ref().map(drop).map_err(|e| e.raw_os_error().unwrap_or(0)));
            }
            let stays = writes.idle.is_none();
            if stays {
                writes.idle = Some(next.clone());
            }
            stays
        };
        let _ = reply.send(result);
        match jobs.recv() {
            Ok(another) if stays => job = another,
            _ => return,
        }
    }
}

/// Where the kernel can (Linux 6.16), the limit holds at once and memory is taken back afterwards.
fn write(path: &Path, open: Option<&File>, value: &str) -> io::Result<File> {
    let name = |name: &str| match open {
        Some(open) => (open.as_fd(), PathBuf::from(name)),
        None => (CWD, path.with_file_name(name)),
    };
    let own = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let (above, at) = name(own);
    let file = put_to_read(above, &at, value)?;
    if let ("memory.max" | "memory.high", Ok(limit)) = (own, value.trim().parse::<u64>()) {
        let (above, current) = name("memory.current");
        let used = text_at(above, &current).ok().and_then(|t| t.trim().parse::<u64>().ok());
        if used.is_some_and(|used| used > limit) {
            // The limit is in force: that the kernel cannot get below it is no failure.
            let _ = put_at(above, &at, value);
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_one_write_at_a_time_and_its_end_is_told_once() {
        let path = Path::new("/nowhere/memory.max");
        let missing = |put| matches!(put, Put::Ended(Err(e)) if e.raw_os_error() == Some(nix::libc::ENOENT));
        assert!(missing(put_patiently(path, None, "5", Duration::from_secs(20))));
        writes().files.insert(path.into(), Write { value: "5".into(), ended: None });
        assert!(matches!(put_patiently(path, None, "7", Duration::from_secs(20)), Put::UnderWay));
        assert_eq!(under_way(Path::new("/nowhere")).as_deref(), Some(path));
        assert!(under_way(Path::new("/now")).is_none());
        writes().files.insert(path.into(), Write { value: "5".into(), ended: Some(Err(nix::libc::EBUSY)) });
        assert!(
            matches!(put_patiently(path, None, "5", Duration::from_secs(20)), Put::Ended(Err(e)) if e.raw_os_error() == Some(nix::libc::EBUSY))
        );
        // It was told: now it is written again. Another value has nothing to do with the first one's end.
        assert!(missing(put_patiently(path, None, "5", Duration::from_secs(20))));
        writes().files.insert(path.into(), Write { value: "5".into(), ended: Some(Err(nix::libc::EBUSY)) });
        assert!(missing(put_patiently(path, None, "7", Duration::from_secs(20))));
        assert!(under_way(Path::new("/nowhere")).is_none());
    }
}
