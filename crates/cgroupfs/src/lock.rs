//! One daemon for each parent: an exclusive lock for the parent, shared ones for everything above it, so that a parent
//! inside or above another daemon's is noticed as well. The locks lie on files of root's own: on a directory of a
//! hierarchy anybody may take one.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc::{O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK};
use nix::unistd::geteuid;
use sha2::{Digest, Sha256};

use cgrove_core::ids::GroupPath;

use crate::host::{Host, Parents};
use crate::paths::Tree;
use crate::{Fault, Standing};

/// Not what a service may remove at its end, or a user may make before us.
const RUN: &str = "/run/cgrove/locks";
/// A file's name has at most 255 bytes.
const LONGEST: usize = 200;

/// Held until dropped. What happens to the groups, or to the files, meanwhile does not matter.
#[derive(Default)]
pub struct Lock {
    held: BTreeMap<String, Flock<File>>,
    /// Those that are ours alone: removed with the lock.
    own: Vec<PathBuf>,
}

/// Why the lock is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("another cgrove manages {}{}; stop it, or give this one a `cgroup.parent` and a `tree.state_dir` of its own", dir.display(), pid.map(|p| format!(" (pid {p})")).unwrap_or_default())]
    Taken { dir: PathBuf, pid: Option<i32> },
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Lock {
    /// Locks the parent in every hierarchy, whether it exists there or not.
    pub fn acquire(&mut self, host: &Host, parents: &Parents) -> Result<(), LockError> {
        let run = made(run_directory())?;
        for mount in &host.mounts {
            let tree = Tree::new(mount, parents);
            let above = tree.parent.ancestors().map(|path| (path, FlockArg::LockSharedNonblock));
            for (path, kind) in std::iter::once((tree.parent.clone(), FlockArg::LockExclusiveNonblock)).chain(above) {
                let name = name(&mount.label, &path);
                if self.held.contains_key(&name) {
                    continue;
                }
                let file = run.join(&name);
                let lock = take(&file, kind).map_err(|refusal| match refusal {
                    Refusal::Taken(pid) => {
                        LockError::Taken { dir: mount.dir.join(path.as_str().trim_start_matches('/')), pid }
                    }
                    Refusal::Fault(fault) => fault.into(),
                })?;
                if kind == FlockArg::LockExclusiveNonblock {
                    self.own.push(file);
                }
                self.held.insert(name, lock);
            }
        }
        Ok(())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Whoever waits for it looks whether it is still the file of that name.
        for file in &self.own {
            let held = self.held.values().any(|lock| is_it(lock, file));
            if held {
                let _ = std::fs::remove_file(file);
            }
        }
    }
}

/// The daemon that holds the parent, if another process does and we may see it.
pub fn daemon(host: &Host, parents: &Parents) -> Option<i32> {
    let run = run_directory();
    host.mounts.iter().find_map(|mount| {
        let file = run.join(name(&mount.label, parents.of(mount.version)));
        let known = std::fs::metadata(file).ok()?;
        holder(known.dev(), known.ino())
    })
}

/// `cpu,cpuacct%2Fcgrove`; a long path by its digest.
fn name(label: &str, path: &GroupPath) -> String {
    let text = format!("{label}{path}").replace('%', "%25").replace('/', "%2F");
    if text.len() <= LONGEST {
        return text;
    }
    let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(&text));
    format!("{label}%{digest}")
}

/// Root's alone; for another user one of his own.
fn run_directory() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|_| !geteuid().is_root()) {
        Some(own) => Path::new(&own).join("cgrove/locks"),
        None => RUN.into(),
    }
}

/// Made where it is missing, and refused where others may write it.
fn made(dir: PathBuf) -> Result<PathBuf, Fault> {
    DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|e| Fault::new("mkdir", &dir, &e))?;
    for dir in [Some(dir.as_path()), dir.parent()].into_iter().flatten() {
        let standing = Standing::of(dir).map_err(|e| Fault::new("stat", dir, &e))?;
        if standing.others {
            return Err(Fault::new("lock", dir, &std::io::Error::from_raw_os_error(Errno::EPERM as i32)));
        }
    }
    Ok(dir)
}

enum Refusal {
    Taken(Option<i32>),
    Fault(Fault),
}

fn take(path: &Path, kind: FlockArg) -> Result<Flock<File>, Refusal> {
    let fault = |op, e: &std::io::Error| Refusal::Fault(Fault::new(op, path, e));
    loop {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file =
            options.custom_flags(O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK).open(path).map_err(|e| fault("open", &e))?;
        let lock = match Flock::lock(file, kind) {
            Ok(lock) => lock,
            Err((file, Errno::EWOULDBLOCK)) => {
                let known = file.metadata().map_err(|e| fault("stat", &e))?;
                return Err(Refusal::Taken(holder(known.dev(), known.ino())));
            }
            Err((_, errno)) => return Err(fault("lock", &errno.into())),
        };
        // Whoever held it may have removed it with his end.
        if is_it(&lock, path) {
            return Ok(lock);
        }
    }
}

fn is_it(file: &File, path: &Path) -> bool {
    let same = |theirs: std::fs::Metadata| {
        file.metadata().is_ok_and(|ours| (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()))
    };
    match std::fs::symlink_metadata(path) {
        Ok(there) => same(there),
        Err(e) => e.kind() != ErrorKind::NotFound,
    }
}

/// Who holds a flock on the file: /proc/locks names device, inode and pid.
fn holder(device: u64, inode: u64) -> Option<i32> {
    let id = format!("{:02x}:{:02x}:{inode}", nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let me = i32::try_from(std::process::id()).ok();
    locks
        .lines()
        .filter(|l| l.contains("FLOCK"))
        .filter_map(|l| {
            let words: Vec<&str> = l.split_whitespace().collect();
            let at = words.iter().position(|w| *w == id)?;
            words.get(at.checked_sub(1)?)?.parse().ok()
        })
        .find(|pid| Some(*pid) != me)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_different_parents_differ() {
        let at = |label: &str, path: &str| name(label, &GroupPath::parse(path).unwrap());
        assert_eq!(at("cpu,cpuacct", "/cgrove"), "cpu,cpuacct%2Fcgrove");
        assert_eq!(at("cpu", "/"), "cpu%2F");
        assert_ne!(at("cpu", "/a/b"), at("cpu", "/a%2Fb"));
        let long = |end: &str| at("cpu", &format!("/{}{end}", "x".repeat(200)));
        assert!(long("a") != long("b") && long("a").len() < 255);
    }

    #[test]
    fn a_file_is_locked_once_shared_by_many_and_looked_for_again() {
        let path = std::env::temp_dir().join(format!("cgrove-lock-{}", std::process::id()));
        let first = take(&path, FlockArg::LockSharedNonblock).ok().unwrap();
        assert!(take(&path, FlockArg::LockSharedNonblock).is_ok());
        assert!(matches!(take(&path, FlockArg::LockExclusiveNonblock), Err(Refusal::Taken(_))));
        std::fs::remove_file(&path).unwrap();
        assert!(!is_it(&first, &path));
        assert!(take(&path, FlockArg::LockExclusiveNonblock).is_ok());
        std::fs::remove_file(&path).unwrap();
    }
}
