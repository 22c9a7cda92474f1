//! One daemon per parent: an exclusive flock on the parent directory, shared ones on every directory above it, so
//! that a parent inside or above another daemon's is noticed as well.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use cgrove_core::ids::GroupPath;

use crate::Fault;
use crate::host::{Host, Parents};
use crate::paths::Tree;

/// Held until dropped.
#[derive(Default)]
pub struct Lock {
    /// With the directory's inode: one made anew at the same path needs a lock of its own.
    held: BTreeMap<PathBuf, (u64, Flock<File>)>,
}

/// Why the lock is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("another cgrove manages {}{}; stop it, or give this one a `cgroup.parent` of its own beside it", dir.display(), pid.map(|p| format!(" (pid {p})")).unwrap_or_default())]
    Taken { dir: PathBuf, pid: Option<i32> },
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Lock {
    /// Locks the parent in every hierarchy where it exists. Call it again after creating directories.
    pub fn acquire(&mut self, host: &Host, parents: &Parents) -> Result<(), LockError> {
        for mount in &host.mounts {
            let dir = Tree::new(mount, parents).dir(&GroupPath::root());
            for (i, dir) in dir.ancestors().take_while(|d| d.starts_with(&mount.dir)).enumerate() {
                let inode = std::fs::metadata(dir).ok().filter(std::fs::Metadata::is_dir).map(|m| m.ino());
                let known = self.held.get(dir).map(|(inode, _)| *inode);
                if inode.is_some() && inode != known {
                    self.held.remove(dir);
                    let kind = if i == 0 { FlockArg::LockExclusiveNonblock } else { FlockArg::LockSharedNonblock };
                    let (inode, lock) = take(dir, kind)?;
                    self.held.insert(dir.into(), (inode, lock));
                }
            }
        }
        Ok(())
    }
}

/// The daemon that holds the parent, if another process does.
pub fn daemon(host: &Host, parents: &Parents) -> Option<i32> {
    host.mounts.iter().find_map(|mount| {
        let dir = Tree::new(mount, parents).dir(&GroupPath::root());
        holder(&dir, std::fs::metadata(&dir).ok()?.ino())
    })
}

fn take(dir: &Path, kind: FlockArg) -> Result<(u64, Flock<File>), LockError> {
    let file = File::open(dir).map_err(|e| Fault::new("open", dir, &e))?;
    let inode = file.metadata().map_err(|e| Fault::new("stat", dir, &e))?.ino();
    let lock = Flock::lock(file, kind).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => LockError::Taken { dir: dir.into(), pid: holder(dir, inode) },
        errno => LockError::from(Fault::new("lock", dir, &errno.into())),
    })?;
    Ok((inode, lock))
}

/// Who holds a flock on the directory: /proc/locks names device, inode and pid.
fn holder(dir: &Path, inode: u64) -> Option<i32> {
    let device = std::fs::metadata(dir).ok()?.dev();
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
