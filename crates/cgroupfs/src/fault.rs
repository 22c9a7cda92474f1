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
    /// The group itself went away between looking and doing.
    #[serde(skip)]
    gone: bool,
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
            mend: mend(op, errno, path),
            // The same errno tells that a file, or a disk named in it, does not exist.
            gone: matches!(errno, Errno::ENOENT | Errno::ENODEV)
                && (!matches!(op, "write" | "read" | "move" | "open") || path.parent().is_some_and(|g| !g.exists())),
        }
    }

    #[must_use]
    pub fn with_value(mut self, value: &str) -> Self {
        self.value = Some(value.trim().chars().take(80).collect());
        self
    }

    /// The group went away between looking and doing: normal life.
    pub fn vanished(&self) -> bool {
        self.gone
    }
}

fn mend(op: &str, errno: Errno, path: &Path) -> &'static str {
    let file = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    match (op, errno, file) {
        (_, Errno::EXDEV | Errno::ELOOP, _) => {
            "this is no cgroup file: something else is mounted or linked here, see findmnt"
        }
        ("find", Errno::ESTALE, _) => {
            "another group has this name by now: whoever may write the directory above renames groups; it is looked at again"
        }
        ("lock", Errno::EPERM, _) => "others than root may write it: chown it to root and chmod go-w, or remove it",
        ("settle", Errno::EPERM, _) => "a user made this leaf: remove it, so that it is made anew",
        ("keep", Errno::EPERM, _) => {
            "whoever may write this file may have been faster than our look at it, so that what it says is not remembered as \
             what the kernel makes of the value; chown the file to root, or give the value as the kernel shows it"
        }
        (_, Errno::EPERM, "devices.allow" | "devices.deny") => {
            "the group above does not allow this device, or cgrove runs without CAP_SYS_ADMIN (docs/service.md)"
        }
        (_, Errno::EINVAL, "devices.allow" | "devices.deny") => {
            "the kernel changes the device rules of a group only while it has no groups below"
        }
        ("write", Errno::EINVAL, "cgroup.subtree_control") => {
            "the cpu controller cannot be enabled while realtime processes run outside the root group \
             (CONFIG_RT_GROUP_SCHED): find them with `ps -eo pid,cls,cgroup | grep -E ' (FF|RR) '`, \
             set them back with `chrt -o -p 0 PID`; it is tried again"
        }
        ("write", Errno::ENOENT, "cgroup.subtree_control") => "the group above does not hand this controller down",
        ("write", Errno::EBUSY, "cgroup.subtree_control") => {
            "the group itself holds processes, which it may not while it has controllers for groups below: others' above the \
             parent have to be moved by hand, or cgroup.parent chosen below a group without processes; ours are tried again"
        }
        ("write", Errno::EOPNOTSUPP, "cgroup.subtree_control") => {
            "the group is threaded (cgroup.type): leave it to its owner"
        }
        ("write", Errno::ENODEV, file) if file.starts_with("io.") || file.starts_with("blkio.") => {
            "no such disk here, or a partition: limits are for whole disks, as lsblk shows them"
        }
        ("write", Errno::EACCES, "cpuset.cpus" | "cpuset.mems") => "outside what the group above has",
        ("write", Errno::EACCES, file) if file.starts_with("cpuset.") => "the group above does not have this flag",
        ("write", Errno::EOPNOTSUPP, "io.weight") => {
            "a weight for one disk needs the io.cost controller there: write its line to io.cost.qos in the hierarchy's root"
        }
        ("write", Errno::EOPNOTSUPP, file) if file.contains("weight") => {
            "a weight for one disk needs the bfq scheduler there: echo bfq > /sys/block/DISK/queue/scheduler"
        }
        ("write", Errno::ENODEV, _) if path.parent().is_some_and(Path::exists) => "no such device or resource here",
        ("write", Errno::ENOENT, _) if path.parent().is_some_and(Path::exists) => {
            "the group has no such file: its controller is not enabled above, or this kernel lacks it"
        }
        (_, Errno::EACCES | Errno::EPERM | Errno::EROFS, _) => "run cgrove as root with a writable cgroup file system",
        (_, Errno::ENOENT | Errno::ENODEV, _) => "the group vanished meanwhile; it is looked at again",
        ("write", Errno::EINVAL | Errno::ERANGE, _) => {
            "the kernel refuses this value here: compare it with the parent's and the children's, and with what the hardware has"
        }
        ("write", Errno::EBUSY, _) => "in use: a child still has more, or processes hold more than the new limit",
        ("write" | "move", Errno::ENOSPC, _) => {
            "the cpuset has no CPUs or memory nodes, or the realtime budget is spent"
        }
        ("move", Errno::EINVAL, _) => {
            "the kernel does not let this process move (a bound kernel thread, or realtime without a budget)"
        }
        ("move", Errno::EBUSY, _) => {
            "the group has controllers enabled for groups below, so it may hold no process itself"
        }
        ("move", Errno::EOPNOTSUPP, _) => "the group is threaded, or below a threaded one (cgroup.type)",
        ("mkdir", Errno::EAGAIN, _) => {
            "cgroup.max.descendants or cgroup.max.depth of a group above is reached: raise it there, or declare fewer groups"
        }
        ("mkdir", Errno::ENOSPC | Errno::ENOMEM, _) => "the kernel allows no more groups here",
        ("mark", Errno::EOPNOTSUPP, _) => "set cgroup.marks = \"state_dir\"",
        ("rmdir", Errno::EBUSY, _) => {
            "processes keep appearing or the kernel is still releasing the group; it is tried again"
        }
        (_, Errno::EMFILE | Errno::ENFILE, _) => "raise the limit of open files",
        _ => "it is tried again",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(op: &'static str, errno: Errno, path: &str, part: &str) {
        let fault = Fault::new(op, Path::new(path), &errno.into());
        assert!(fault.to_string().contains(part), "{fault}");
    }

    #[test]
    fn refusals_are_explained() {
        says("write", Errno::EINVAL, "/sys/fs/cgroup/cgrove/cgroup.subtree_control", "realtime");
        says("mkdir", Errno::EAGAIN, "/sys/fs/cgroup/cgrove/a", "cgroup.max.descendants");
        says("write", Errno::ENODEV, "/sys/fs/cgroup/cgrove/a/io.max", "whole disks");
        says("move", Errno::EOPNOTSUPP, "/sys/fs/cgroup/cgrove/a/cgroup.procs", "threaded");
        says("write", Errno::EACCES, "/sys/fs/cgroup/cgrove/a/cpu.max", "root");
    }

    #[test]
    fn only_a_group_vanishes() {
        let fault = |op, errno: Errno, path: &str| Fault::new(op, Path::new(path), &errno.into());
        assert!(fault("write", Errno::ENODEV, "/nowhere/a/cpu.weight").vanished());
        assert!(!fault("write", Errno::ENODEV, "/proc/io.max").vanished());
        assert!(!fault("write", Errno::ENOENT, "/proc/cpu.weight").vanished());
        assert!(fault("rmdir", Errno::ENOENT, "/nowhere/a").vanished());
        assert!(!fault("write", Errno::EINVAL, "/nowhere/a/cpu.weight").vanished());
    }
}
