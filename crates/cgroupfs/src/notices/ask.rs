//! Asking the kernel to announce what it does not by itself. These are writes; who listens needs none.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use cgrove_core::actual::Version;
use nix::libc;

use super::Place;
use crate::file::put;

/// A threshold of one group, as the kernel watches it; opened by whoever may write there.
pub struct Trigger {
    pub(super) place: Place,
    pub(super) threshold: usize,
    pub(super) file: File,
    pub(super) last: Option<Instant>,
}

/// What was asked of the kernel for each group, so that it is asked once. Belongs to whoever may write cgroup files.
#[derive(Default)]
pub struct Asked {
    done: HashMap<PathBuf, u64>,
}

/// One threshold: the file, `some` or `full`, and microseconds of waiting in a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Threshold {
    pub file: &'static str,
    pub text: String,
}

impl Asked {
    /// Asks the kernel to tell of groups that were not asked for yet: v1's of lack of memory, on `oom`; of v2's the `most`
    /// nearest the top, of waiting, on a descriptor for each threshold. A group's waiting holds that of groups below.
    pub fn ask(
        &mut self,
        places: &[Place],
        thresholds: &[Threshold],
        most: usize,
        oom: BorrowedFd<'_>,
    ) -> Vec<Trigger> {
        let mut v2: Vec<&Place> = places.iter().filter(|p| p.version == Version::V2).collect();
        v2.sort_by_key(|p| p.group.depth());
        v2.truncate(if thresholds.is_empty() { 0 } else { most });
        let v1 = places.iter().filter(|p| p.version == Version::V1);
        let mut out = Vec::new();
        let mut done = HashMap::new();
        for place in v1.chain(v2) {
            let Ok(inode) = fs::metadata(&place.dir).map(|m| m.ino()) else { continue };
            let known = self.done.get(&place.dir) == Some(&inode);
            done.insert(place.dir.clone(), inode);
            if known {
                continue;
            }
            if place.version == Version::V1 {
                // Only memory's hierarchy has the files.
                let _ = ask_for_oom(&place.dir, oom);
                continue;
            }
            for (threshold, t) in thresholds.iter().enumerate() {
                let file = open_trigger(&place.dir, t).ok();
                out.extend(file.map(|file| Trigger { place: place.clone(), threshold, file, last: None }));
            }
        }
        self.done = done;
        out
    }
}

/// `cgroup.event_control` takes the counter's number and that of the file which it is about.
fn ask_for_oom(dir: &Path, counter: BorrowedFd<'_>) -> std::io::Result<()> {
    let about = File::open(dir.join("memory.oom_control"))?;
    put(&dir.join("cgroup.event_control"), &format!("{} {}", counter.as_raw_fd(), about.as_raw_fd()))
}

fn open_trigger(dir: &Path, threshold: &Threshold) -> std::io::Result<File> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
        .open(dir.join(threshold.file))?;
    file.write_all(threshold.text.as_bytes())?;
    Ok(file)
}
