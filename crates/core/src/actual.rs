//! The kernel's side of a comparison, as `cgroupfs::observe` found it.

use std::collections::{BTreeMap, BTreeSet};

use litemap::LiteMap;
use serde::{Deserialize, Serialize};

use crate::ids::{Controller, ControllerSet, GroupPath};
use crate::knobs::DevId;

/// What percentages and rounding refer to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Total memory, bytes.
    pub memory: u64,
    /// CPUs online.
    pub cpus: u64,
    /// Page size, bytes: memory limits are rounded down to it.
    pub page: u64,
    /// Whole disks, for `"*"`.
    pub disks: Vec<DevId>,
    /// The block devices that the document names by path; ones that do not exist are missing.
    pub devices: BTreeMap<String, DevId>,
}

/// A kernel's cgroup interface version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// Everything that planning needs to know about the node.
#[derive(Debug, Clone)]
pub struct Actual {
    pub machine: Machine,
    pub hierarchies: Vec<Hierarchy>,
}

/// One mounted hierarchy, seen from the managed parent downwards.
#[derive(Debug, Clone)]
pub struct Hierarchy {
    /// Its controllers as mounted: `cpu,cpuacct`.
    pub label: String,
    pub version: Version,
    pub controllers: ControllerSet,
    /// The managed parent is this hierarchy's root.
    pub at_root: bool,
    /// The managed parent's directory exists.
    pub present: bool,
    /// A group was there to list `files` from; else some of a group's files may be unknown.
    pub complete: bool,
    /// Names of the knob files that groups here have.
    pub files: BTreeSet<String>,
    /// v1: what a parent directory yet to be made would inherit: cpuset files of the nearest directory that exists.
    pub above: BTreeMap<String, String>,
    /// v2: controllers that some directory above the parent does not hand down yet.
    pub closed_above: ControllerSet,
    /// Every group below the parent, and the parent itself as `/` when present.
    pub groups: BTreeMap<GroupPath, Group>,
}

/// One existing group.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// Whose it is.
    pub mark: Marked,
    /// Contents of the files that the plan may compare.
    pub values: LiteMap<String, String>,
    /// The daemon itself runs here, or it holds kernel threads or others that may not move.
    pub pinned: Option<&'static str>,
    /// Frozen: draining would thaw its processes.
    pub frozen: bool,
    /// Its directory's, while it was looked at: another one of the same name has another.
    pub inode: Option<u64>,
    /// v1: somebody who is not root may rename the groups below it at any moment, and put one in another's place.
    pub exposed: bool,
    /// v2: its type is not `domain`: someone spreads threads here, or below a group above.
    pub threaded: bool,
    /// Unmarked, but only for us: it carries a mark of ours that is not believed any more (the secret was lost, or a
    /// version wrote it that did not seal), where nobody but root can have written one, or put the group there.
    pub stale: bool,
}

/// What the mark says.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Marked {
    /// No mark: made by someone else, or by hand.
    #[default]
    No,
    /// Ours.
    Ours(Mark),
    /// Another instance's, or another parent's.
    Foreign(String),
}

impl Hierarchy {
    /// v1's cpusets start empty and take no process; v2's follow their parent by themselves.
    pub fn fills_cpusets(&self) -> bool {
        self.version == Version::V1 && self.controllers.contains(Controller::Cpuset)
    }
}

impl Group {
    /// It was ours, and is to be marked again where it is declared, whether or not there is a knob to write.
    pub fn is_stale(&self) -> bool {
        self.stale && self.mark == Marked::No
    }

    pub fn ours(&self) -> Option<&Mark> {
        match &self.mark {
            Marked::Ours(mark) => Some(mark),
            _ => None,
        }
    }
}

/// The extended attribute `user.cgrove` of a group's directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Format of this mark.
    pub format: u32,
    pub instance: String,
    /// The managed parent, absolute from the hierarchy's root.
    pub parent: String,
    /// The files that we set.
    pub files: LiteMap<String, Set>,
}

/// A file that we set: what for, and what the kernel made of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// What was written, for people and for comparison with the document.
    pub want: String,
    /// What the kernel said afterwards, where that differs (rounded, clamped).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// What was wanted before, until the present want is written: lines of it may still have to go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
}

impl Set {
    /// Everything of ours that may stand in the file.
    pub fn ours(&self) -> String {
        self.before.iter().chain([&self.want]).map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// The present mark format.
pub const MARK_FORMAT: u32 = 2;
