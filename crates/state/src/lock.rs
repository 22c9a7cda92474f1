//! One writer: an exclusive flock on a file in the state directory that only its owner may open.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::Errno;

use crate::{StateError, check};

const FILE: &str = "lock";

/// The directory is ours until this is dropped.
#[derive(Debug)]
pub struct StateLock {
    file: File,
}

impl StateLock {
    /// Is it the lock of the directory as it is there now? Somebody may have cleared it away, or mounted another.
    #[must_use]
    pub fn is_of(&self, dir: &Path) -> bool {
        let there = std::fs::symlink_metadata(dir.join(FILE));
        let ours = self.file.metadata();
        matches!((there, ours), (Ok(there), Ok(ours)) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()))
    }
}

/// `dir` is open, and was looked at; `at` is where it is.
pub(crate) fn lock(dir: &File, at: &Path) -> Result<StateLock, StateError> {
    let path = at.join(FILE);
    let open = |flags| {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        openat(dir, FILE, flags, Mode::RUSR | Mode::WUSR).map(File::from)
    };
    // Held by a descriptor that cannot write: its file system may be made read-only, and one that is read-only now may
    // have the file of an earlier time.
    let file = open(OFlags::RDONLY).or_else(|e| match e {
        Errno::NOENT => open(OFlags::RDWR | OFlags::CREATE).and_then(|_| open(OFlags::RDONLY)),
        e => Err(e),
    });
    let mut file = file.map_err(|e| match e {
        Errno::LOOP => not_ours(&path),
        e => StateError::io("open", &path, e),
    })?;
    check::file(&path, &file.metadata().map_err(|e| StateError::io("look at", &path, e))?)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            return Err(StateError::Taken { path: at.into(), pid: holder(&mut file) });
        }
        Err(e) => return Err(StateError::io("lock", &path, e)),
    }
    // For the message of whoever comes second; without it the message lacks the number.
    let _ = open(OFlags::RDWR).map_err(io::Error::from).and_then(|mut file| note(&mut file));
    Ok(StateLock { file })
}

fn note(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{}", std::process::id())
}

fn holder(file: &mut File) -> Option<i32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.parse().ok()
}

fn not_ours(path: &Path) -> StateError {
    StateError::Unsafe {
        path: path.into(),
        why: "is a symbolic link, which cgrove did not make".into(),
        mend: "find out who did that, then remove it".into(),
    }
}
