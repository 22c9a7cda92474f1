//! Where is listened, and what is heard there.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use cgrove_core::actual::Version;
use cgrove_core::ids::GroupPath;

use crate::paths::Tree;

/// A hierarchy from the managed parent downwards: what all its places share.
#[derive(Debug, PartialEq, Eq)]
pub struct Ground {
    pub hierarchy: Arc<str>,
    pub tree: Tree,
}

/// A group's directory in one hierarchy. There are as many as groups, so none has a path of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub ground: Arc<Ground>,
    pub group: GroupPath,
    /// Its directory's inode, if somebody has just looked.
    pub inode: Option<u64>,
    /// Just made by whoever tells of it: it was empty, and what it counts is news.
    pub made: bool,
}

impl Place {
    pub fn version(&self) -> Version {
        self.ground.tree.version
    }

    pub(super) fn hierarchy(&self) -> &Arc<str> {
        &self.ground.hierarchy
    }

    pub(super) fn dir(&self) -> PathBuf {
        self.ground.tree.dir(&self.group)
    }

    /// Which place it is, whatever stands there.
    pub(super) fn key(&self) -> (&str, &GroupPath) {
        (self.hierarchy(), &self.group)
    }

    /// The directory's inode, which tells a group from another that was made in its place; `None` without one.
    pub(super) fn look(&self) -> Option<u64> {
        self.inode.or_else(|| fs::metadata(self.dir()).map(|m| m.ino()).ok())
    }
}

/// What was announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub hierarchy: Arc<str>,
    pub group: GroupPath,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Appeared,
    Disappeared,
    Populated,
    Empty,
    /// A counter of memory's events grew by so much.
    Memory {
        key: &'static str,
        count: u64,
    },
    /// The threshold with this number was crossed.
    Pressure {
        threshold: usize,
    },
}

/// What a look at the announcements came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    pub notices: Vec<Notice>,
    /// A group or knob changed, or announcements were lost: the tree has to be read again.
    pub tree: bool,
}
