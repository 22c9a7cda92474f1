//! Where is listened, and what is heard there.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use cgrove_core::actual::Version;
use cgrove_core::ids::GroupPath;

/// A group's directory in one hierarchy. Copies share their text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub hierarchy: Arc<str>,
    pub version: Version,
    pub group: GroupPath,
    pub dir: Arc<Path>,
    /// Its directory's inode, if somebody has just looked.
    pub inode: Option<u64>,
    /// Just made by whoever tells of it: it was empty, and what it counts is news.
    pub made: bool,
}

impl Place {
    /// The directory's inode, which tells a group from another that was made in its place; `None` without one.
    pub(super) fn look(&self) -> Option<u64> {
        self.inode.or_else(|| fs::metadata(&self.dir).map(|m| m.ino()).ok())
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
