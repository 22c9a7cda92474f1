//! One write: in time, below the right directory, and read back.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Instant;

use cgrove_core::ids::GroupPath;
use cgrove_core::plan::Write;
use nix::libc;

use super::{Apply, Key, Outcome, SUBTREE};
use crate::file::{Standing, put, put_to_read, text, text_at, text_of};
use crate::paths::{Tree, target};
use crate::slow::{self, Put};
use crate::{Fault, drain};

/// How often processes that are born in an inner group are moved out of the way before we try again later.
const TRIES: usize = 20;

impl Apply<'_> {
    pub(super) fn write(&mut self, tree: &Tree, key: &Key, write: &Write) -> Result<Outcome, Fault> {
        if self.pending.contains_key(key) && self.marks.contains_key(key) {
            self.announce(tree, key)?;
        }
        if let Some(fault) = self.bandwidth.get(key).filter(|_| write.file.starts_with("cpu.cfs_")) {
            // Half of a limit would be another limit.
            return Err(fault.clone());
        }
        if let Some(file) = self.waiting.get(key).filter(|f| f.split('.').next() == write.file.split('.').next()) {
            return Ok(Outcome::Pending { why: format!("{} waits: {file} is still being written", write.file) });
        }
        let path = tree.file(&key.1, &write.file);
        // Each value is a device of its own in the files that have several: one bad device blocks no other.
        let (mut first_fault, mut open) = (None, None);
        for value in &write.to {
            let result = match write.file.as_str() {
                SUBTREE => self.hand_down(tree, &key.1, value),
                file => {
                    let (file, value) = target(file, value);
                    let own = file == write.file;
                    let path = tree.file(&key.1, file);
                    let Put::Ended(put_to_read) = self.put(key, &path, file, value) else {
                        self.waiting.insert(key.clone(), file.to_owned());
                        return Ok(Outcome::Pending { why: still(file, value) });
                    };
                    match put_to_read.map(|file| open = Some(file).filter(|_| own)) {
                        // v2 takes no empty cpuset back while processes are in the group: all that the parent has
                        // means the same, until the parent changes.
                        Err(e) if e.raw_os_error() == Some(libc::ENOSPC) && value == "\n" => {
                            let above =
                                tree.file(&key.1.up().unwrap_or_else(GroupPath::root), &format!("{file}.effective"));
                            let all = text(&above).unwrap_or_default();
                            put(&path, all.trim())
                        }
                        result => result,
                    }
                    .map_err(|e| Fault::new("write", &path, &e).with_value(value))
                }
            };
            first_fault = first_fault.or(result.err());
        }
        if let Some(fault) = first_fault {
            if write.file.starts_with("cpu.cfs_") {
                self.bandwidth.insert(key.clone(), fault.clone());
            }
            return Err(fault);
        }
        let Some(want) = &write.want else { return Ok(Outcome::Done { kept: None }) };
        let own = open.is_some();
        let (above, at) = self.places.file(key, &write.file, &path);
        let read = match &open {
            Some(file) => text_of(file),
            None => text_at(above, at),
        };
        let now = match read {
            Ok(now) => now,
            // Some files can only be written (devices.allow).
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EACCES | libc::EBADF)) => String::new(),
            Err(e) => return Err(Fault::new("read", &path, &e)),
        };
        let kept = (!want.matches(&now, self.page)).then(|| now.trim().to_owned());
        if kept.is_some() && Standing::of(&path).is_ok_and(|s| s.others) {
            // What stands there may be somebody's, who wrote it after us.
            return Err(Fault::new("keep", &path, &std::io::Error::from_raw_os_error(libc::EPERM)).with_value(&now));
        }
        let kept = kept.filter(|first| !own || !is_changed_by_others(above, at, write, first));
        if write.record.is_none() {
            self.forget(key, &write.file);
        } else if let Some(set) = self.marks.get_mut(key).and_then(|m| m.files.get_mut(&write.file))
            && (set.kept != kept || set.before.is_some())
        {
            set.kept.clone_from(&kept);
            set.before = None;
            self.dirty.insert(key.clone());
        }
        Ok(Outcome::Done { kept })
    }

    /// Writes one value. Nobody is in a group that was just made: there nothing takes long.
    fn put(&mut self, key: &Key, path: &Path, file: &str, value: &str) -> Put {
        if !slow::may_be(file) || self.made.contains(key) {
            let (above, at) = self.places.file(key, file, path);
            return Put::Ended(put_to_read(above, at, value));
        }
        let began = Instant::now();
        let open = self.places.directory(key).and_then(|open| open.try_clone().ok());
        let result = slow::put_patiently(path, open, value, self.moment.min(self.moments));
        self.moments = self.moments.saturating_sub(began.elapsed());
        result
    }

    /// Enables one controller for the groups below. A process that was born in the group meanwhile is in the way.
    fn hand_down(&self, tree: &Tree, group: &GroupPath, value: &str) -> Result<(), Fault> {
        let path = tree.file(group, SUBTREE);
        if !(group.is_root() && tree.parent.is_root()) {
            // Where only threaded controllers come, the kernel would not refuse a group that holds processes.
            drain::settle(tree, group, self.deadline)?;
        }
        let enable = || put(&path, value).map_err(|e| Fault::new("write", &path, &e).with_value(value));
        for _ in 0..TRIES {
            match enable() {
                Err(fault) if fault.code == libc::EBUSY => drain::settle(tree, group, self.deadline)?,
                result => return result,
            }
        }
        enable()
    }
}

/// Somebody else may have written between our write and our look: only what becomes of a value twice is the kernel's doing.
fn is_changed_by_others(above: BorrowedFd<'_>, path: &Path, write: &Write, first: &str) -> bool {
    let [value] = &write.to[..] else { return false };
    if write.file == SUBTREE || slow::may_be(&write.file) {
        return false;
    }
    put_to_read(above, path, value).and_then(|file| text_of(&file)).is_ok_and(|again| again.trim() != first)
}

fn still(file: &str, value: &str) -> String {
    let why = if file.starts_with("memory.") { "still reclaiming" } else { "still moving pages" };
    format!("{why}: the kernel is at {file} = {}; the rest goes on, and it is looked at again", value.trim())
}
