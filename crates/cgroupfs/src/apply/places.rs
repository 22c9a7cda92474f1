//! On v1 whoever may write a directory may rename the groups in it, whosesoever they are, at any moment. There we work below
//! the very directory that was looked at, and not below whatever has its name by then.

use std::collections::{HashMap, HashSet};
use std::fs::{DirBuilder, File, Permissions};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use cgrove_core::actual::{Actual, Hierarchy};
use cgrove_core::ids::GroupPath;
use cgrove_core::plan::Op;
use nix::libc;
use rustix::fs::{CWD, Stat, fstat};

use super::Key;
use crate::Fault;
use crate::file::open_directory;
use crate::host::Host;
use crate::paths::Tree;

/// The mode of a group's directory, and the bit that tells one which was just made: no group has a sticky one.
const USUAL: u32 = 0o755;
const OURS: u32 = 0o1000;

pub(super) struct Places {
    /// Of each mount.
    mounts: Vec<Exposed>,
    open: HashMap<Key, File>,
}

/// What was looked at in a hierarchy where somebody may rename groups; empty elsewhere.
#[derive(Default)]
struct Exposed {
    /// The groups below which somebody may.
    above: HashSet<GroupPath>,
    inodes: HashMap<GroupPath, u64>,
}

impl Exposed {
    fn of(hierarchy: &Hierarchy) -> Self {
        let above: HashSet<_> = hierarchy.groups.iter().filter(|(_, g)| g.exposed).map(|(p, _)| p.clone()).collect();
        if above.is_empty() {
            return Self::default();
        }
        let inodes = hierarchy.groups.iter().filter_map(|(path, g)| Some((path.clone(), g.inode?)));
        Self { above, inodes: inodes.collect() }
    }

    fn covers(&self, group: &GroupPath) -> bool {
        !self.above.is_empty() && group.ancestors().any(|path| self.above.contains(&path))
    }
}

impl Places {
    pub(super) fn new(host: &Host, actual: &Actual) -> Self {
        let of = |label: &str| actual.hierarchies.iter().find(|h| h.label == label);
        let mounts = host.mounts.iter().map(|m| of(&m.label).map(Exposed::of).unwrap_or_default());
        Self { mounts: mounts.collect(), open: HashMap::new() }
    }

    /// Opens the directory of a group that something is done to, where somebody may have renamed it. An error: it is
    /// another one by now.
    pub(super) fn hold(&mut self, tree: &Tree, key: &Key, op: &Op) -> Result<(), Fault> {
        let Some(exposed) = self.mounts.get(key.0).filter(|e| e.covers(&key.1)) else { return Ok(()) };
        if *op == Op::Create || self.open.contains_key(key) {
            return Ok(());
        }
        // One that was not there and that we did not make is nobody we know.
        let looked_at = exposed.inodes.get(&key.1).copied();
        let open = open_if(&tree.dir(&key.1), |stat| Some(stat.st_ino) == looked_at)?;
        self.open.insert(key.clone(), open);
        Ok(())
    }

    /// Makes a group's directory. Below one where somebody may rename groups it is made with a mode that no other has, so
    /// that what is opened is what was made.
    pub(super) fn make(&mut self, tree: &Tree, key: &Key) -> Result<(), Fault> {
        let dir = tree.dir(&key.1);
        let exposed = self.covers(key);
        let mode = if exposed { OURS | USUAL } else { USUAL };
        DirBuilder::new().mode(mode).create(&dir).map_err(|e| Fault::new("mkdir", &dir, &e))?;
        if exposed {
            let open = open_if(&dir, |stat| stat.st_mode & OURS != 0)?;
            let mended = open.set_permissions(Permissions::from_mode(USUAL));
            mended.map_err(|e| Fault::new("chmod", &dir, &e))?;
            self.open.insert(key.clone(), open);
        }
        Ok(())
    }

    /// May somebody rename the group?
    pub(super) fn covers(&self, key: &Key) -> bool {
        self.mounts.get(key.0).is_some_and(|exposed| exposed.covers(&key.1))
    }

    pub(super) fn directory(&self, key: &Key) -> Option<&File> {
        self.open.get(key)
    }

    /// A group's file: below its open directory, or by its whole path.
    pub(super) fn file<'a>(&'a self, key: &Key, name: &'a str, whole: &'a Path) -> (BorrowedFd<'a>, &'a Path) {
        match self.open.get(key) {
            Some(open) => (open.as_fd(), Path::new(name)),
            None => (CWD, whole),
        }
    }
}

fn open_if(dir: &Path, right: impl FnOnce(&Stat) -> bool) -> Result<File, Fault> {
    let open = open_directory(dir).map_err(|e| Fault::new("open", dir, &e))?;
    let stat = fstat(&open).map_err(|e| Fault::new("open", dir, &e.into()))?;
    if right(&stat) { Ok(open) } else { Err(Fault::new("find", dir, &std::io::Error::from_raw_os_error(libc::ESTALE))) }
}
