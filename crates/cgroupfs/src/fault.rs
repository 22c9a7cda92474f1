//! A kernel operation that failed: what, where, with which value, and what to do about it.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use serde::Serialize;

/// Displays as one line: `write 5 to /sys/fs/cgroup/cpu/a/cpu.shares: EINVAL: Invalid argument; ...`.
#[derive(Debug, Clone, PartialEq, Serialize, thiserror::Error)]
#[error("{op}{} {}: {errno}: {}; {mend}", value.as_ref().map(|v| format!(" {v:?} to")).unwrap_or_default(), path.display(), Errno::from_raw(*code).desc())]
pub struct Fault {
    pub op: &'static str,
    pub path: PathBuf,
    pub value: Option<String>,
    /// The symbol, `EINVAL`.
    pub errno: String,
    /// The errno's number.
    pub code: i32,
    pub mend: &'static str,
}

impl Fault {
    pub fn new(op: &'static str, path: &Path, error: &std::io::Error) -> Self {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
        Self {
            op,
            path: path.into(),
            value: None,
            errno: format!("{errno:?}"),
            code: errno as i32,
            mend: mend(op, errno),
        }
    }

    #[must_use]
    pub fn with_value(mut self, value: &str) -> Self {
        self.value = Some(value.trim().chars().take(80).collect());
        self
    }

    /// The group went away between looking and doing: normal life.
    pub fn vanished(&self) -> bool {
        matches!(Errno::from_raw(self.code), Errno::ENOENT | Errno::ENODEV)
    }
}

fn mend(op: &str, errno: Errno) -> &'static str {
    match (op, errno) {
        (_, Errno::EACCES | Errno::EPERM | Errno::EROFS) => "run cgrove as root with a writable cgroup file system",
        (_, Errno::ENOENT | Errno::ENODEV) => "the group vanished meanwhile; it is looked at again",
        ("write", Errno::EINVAL | Errno::ERANGE) => {
            "the kernel refuses this value here: compare it with the parent's and the children's, and with what the hardware has"
        }
        ("write", Errno::EBUSY) => "in use: a child still has more, or processes hold more than the new limit",
        ("write" | "move", Errno::ENOSPC) => "the cpuset has no CPUs or memory nodes, or the realtime budget is spent",
        ("move", Errno::EINVAL) => {
            "the kernel does not let this process move (a bound kernel thread, or realtime without a budget)"
        }
        ("mkdir", Errno::EAGAIN | Errno::ENOSPC | Errno::ENOMEM) => "the kernel allows no more groups here",
        ("mark", Errno::EOPNOTSUPP) => "set cgroup.marks = \"state_dir\"",
        ("rmdir", Errno::EBUSY) => {
            "processes keep appearing or the kernel is still releasing the group; it is tried again"
        }
        (_, Errno::EMFILE | Errno::ENFILE) => "raise the limit of open files",
        _ => "it is tried again",
    }
}
