//! Hints that someone touched the tree: inotify on the directories of managed groups. The tree is read again
//! whatever the hint says, so a lost one costs time, never truth.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// What happens to groups and their files.
pub(crate) fn tree_flags() -> AddWatchFlags {
    AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MODIFY
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_ONLYDIR
}

/// Non-blocking; poll its descriptor, then [`Watch::drain`].
pub struct Watch {
    inotify: Inotify,
    /// With the inode that is watched: a group made anew is another one, and nothing tells that the old one went.
    dirs: HashMap<PathBuf, (WatchDescriptor, u64)>,
    names: HashMap<WatchDescriptor, PathBuf>,
}

/// What a batch of events came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// A group or knob changed.
    pub tree: bool,
    /// The queue overflowed: look at everything.
    pub overflow: bool,
}

/// What came of setting watches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Watched {
    /// Directories that were not watched before.
    pub added: usize,
    /// Directories that could not be watched: limit reached, or vanished.
    pub missed: usize,
}

impl Watch {
    pub fn new() -> Result<Self, Errno> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        Ok(Self { inotify, dirs: HashMap::new(), names: HashMap::new() })
    }

    /// Watches exactly these directories.
    pub fn set(&mut self, wanted: impl IntoIterator<Item = PathBuf>) -> Watched {
        let mut old = std::mem::take(&mut self.dirs);
        let mut out = Watched::default();
        for dir in wanted {
            let inode = std::fs::metadata(&dir).map_or(0, |m| m.ino());
            let mut known = old.remove(&dir);
            if let Some((stale, _)) = known.take_if(|(_, watched)| *watched != inode) {
                self.names.remove(&stale);
                let _ = self.inotify.rm_watch(stale);
            }
            out.added += usize::from(known.is_none());
            match known.map_or_else(|| self.inotify.add_watch(&dir, tree_flags()), |(wd, _)| Ok(wd)) {
                Ok(wd) => {
                    self.names.insert(wd, dir.clone());
                    self.dirs.insert(dir, (wd, inode));
                }
                Err(_) => out.missed += 1,
            }
        }
        for (_, (wd, _)) in old {
            self.names.remove(&wd);
            let _ = self.inotify.rm_watch(wd);
        }
        out
    }

    /// Reads all events that are there.
    pub fn drain(&mut self) -> Hints {
        let mut hints = Hints::default();
        while let Ok(events) = self.inotify.read_events() {
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    hints.overflow = true;
                } else if event.mask.intersects(AddWatchFlags::IN_IGNORED) {
                    // The directory is gone; one of the same name is a new one to watch.
                    if let Some(dir) = self.names.remove(&event.wd) {
                        self.dirs.remove(&dir);
                    }
                    hints.tree = true;
                } else {
                    // Processes come and go by these; membership is verified on its own schedule.
                    let name = event.name.as_ref().and_then(|n| n.to_str()).unwrap_or_default();
                    hints.tree |= !matches!(name, "cgroup.procs" | "cgroup.threads" | "tasks" | "cgroup.events")
                        // v2 announces here what happens in a group, not what someone changed.
                        && !name.ends_with(".events")
                        && !name.ends_with(".events.local")
                        && !name.ends_with(".pressure");
                }
            }
        }
        hints
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
