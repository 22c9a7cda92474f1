//! Asking the kernel to announce what it does not by itself. These are writes; who listens needs none.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cgrove_core::actual::Version;
use cgrove_core::ids::GroupPath;
use nix::libc;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};

use super::{Notice, Place, What};
use crate::file::put;

/// The same threshold is told anew when it was not crossed for so long.
const QUIET: Duration = Duration::from_secs(10);

/// A threshold of one group, as the kernel watches it; opened by whoever may write there.
pub struct Trigger {
    pub(super) place: Place,
    pub(super) threshold: usize,
    pub(super) file: File,
    pub(super) last: Option<Instant>,
}

impl Trigger {
    /// The threshold was crossed; told anew only after it was quiet for a while.
    pub(super) fn fired(&mut self) -> Option<Notice> {
        let now = Instant::now();
        let quiet = self.last.is_none_or(|last| now - last > QUIET);
        self.last = Some(now);
        let (hierarchy, group) = (self.place.hierarchy().clone(), self.place.group.clone());
        quiet.then_some(Notice { hierarchy, group, what: What::Pressure { threshold: self.threshold } })
    }
}

/// Lets triggers go, elsewhere: each takes the kernel about 10 ms.
pub(super) fn close(triggers: Vec<Trigger>) {
    if !triggers.is_empty() {
        let _ = std::thread::Builder::new().name("closing".into()).spawn(move || drop(triggers));
    }
}

/// What was asked of the kernel for each group, so that it is asked once. Belongs to whoever may write cgroup files.
#[derive(Default)]
pub struct Asked {
    /// By hierarchy and group, with the inode that it had.
    done: HashMap<(Arc<str>, GroupPath), u64>,
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
        let mut v2: Vec<&Place> = places.iter().filter(|p| p.version() == Version::V2).collect();
        v2.sort_by_key(|p| p.group.depth());
        v2.truncate(if thresholds.is_empty() { 0 } else { most });
        // Only memory's hierarchy has the files.
        let memory = |p: &&Place| p.hierarchy().split(',').any(|c| c == "memory");
        let v1 = places.iter().filter(|p| p.version() == Version::V1).filter(memory);
        let mut out = Vec::new();
        let mut done = HashMap::new();
        for place in v1.chain(v2) {
            let Some(inode) = place.look() else { continue };
            let key = (place.hierarchy().clone(), place.group.clone());
            if self.done.get(&key) == Some(&inode) {
                done.insert(key, inode);
                continue;
            }
            if place.version() == Version::V1 {
                let _ = ask_for_oom(&place.dir(), oom);
                done.insert(key, inode);
                continue;
            }
            for (threshold, t) in thresholds.iter().enumerate() {
                // What fails for lack of descriptors is tried again; where the kernel does not know pressure, it is cheap.
                if let Ok(file) = open_trigger(&place.dir(), t) {
                    done.insert(key.clone(), inode);
                    out.push(Trigger { place: place.clone(), threshold, file, last: None });
                }
            }
        }
        // A group that is no longer among the nearest keeps its triggers for as long as it stands.
        let stand: HashSet<_> = places.iter().map(Place::key).collect();
        self.done.retain(|(hierarchy, group), _| stand.contains(&(&**hierarchy, group)));
        self.done.extend(done);
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
    // What only looks like a cgroup file is not written.
    if fstatfs(&file).map_err(std::io::Error::from)?.filesystem_type() != CGROUP2_SUPER_MAGIC {
        return Err(std::io::Error::from_raw_os_error(libc::EXDEV));
    }
    file.write_all(threshold.text.as_bytes())?;
    Ok(file)
}
