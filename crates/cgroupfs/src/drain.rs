//! Empties a group that goes: its threads move up, again and again while they fork, and then rmdir.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use cgrove_core::ids::GroupPath;

use crate::file::{put, text};
use crate::paths::Tree;
use crate::{Fault, doing};

/// How long a group may keep forking or the kernel keep it busy before we try again later.
const PATIENCE: Duration = Duration::from_secs(2);

/// Reads who is in a group.
type Members<'a> = dyn Fn() -> std::io::Result<String> + 'a;

/// Removes `dir`. `refuge` lists the files of the ancestors that stay, nearest first: the first one that takes a
/// member is used. On v1 members are threads, so that a process spread over several groups is left so.
/// Gives up at `latest`. Returns false when the group was gone already.
pub(crate) fn remove(dir: &Path, members: &Members<'_>, refuge: &[PathBuf], latest: Instant) -> Result<bool, Fault> {
    let deadline = latest.min(Instant::now() + PATIENCE);
    let mut stuck: Option<Fault> = None;
    let mut pause = Duration::from_micros(200);
    loop {
        doing::at("rmdir", dir);
        match std::fs::remove_dir(dir) {
            Ok(()) => return Ok(true),
            Err(e) if e.raw_os_error() == Some(Errno::ENOENT as i32) => return Ok(false),
            Err(e) if e.raw_os_error() == Some(Errno::EBUSY as i32) => {
                if Instant::now() > deadline {
                    return Err(stuck.unwrap_or_else(|| Fault::new("rmdir", dir, &e)));
                }
            }
            Err(e) => return Err(Fault::new("rmdir", dir, &e)),
        }
        let (moved, fault) = evacuate(members, refuge);
        stuck = fault;
        if moved == 0 {
            // Empty but busy: the kernel is still releasing it, or its last process is exiting.
            #[allow(clippy::disallowed_methods, reason = "bounded by PATIENCE")]
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

/// v2: moves a group's own processes into its leaf until none is left.
pub(crate) fn settle(tree: &Tree, group: &GroupPath, latest: Instant) -> Result<(), Fault> {
    let deadline = latest.min(Instant::now() + PATIENCE);
    let (procs, leaf) = (tree.procs(group), [tree.procs(&group.leaf())]);
    if tree.leaf_is_theirs(group) {
        return Err(Fault::new("settle", &tree.procs(&group.leaf()), &Errno::EPERM.into()));
    }
    loop {
        let (moved, fault) = evacuate(&|| text(&procs), &leaf);
        match fault {
            _ if moved > 0 && Instant::now() < deadline => {}
            Some(fault) => return Err(fault),
            None => return Ok(()),
        }
    }
}

/// Moves every thread listed now; returns how many went, and the last refusal.
fn evacuate(members: &Members<'_>, refuge: &[PathBuf]) -> (usize, Option<Fault>) {
    let mut moved = 0;
    let mut fault = None;
    for tid in members().unwrap_or_default().lines() {
        for target in refuge {
            match put(target, tid) {
                Ok(()) => {
                    moved += 1;
                    break;
                }
                Err(e) if e.raw_os_error() == Some(Errno::ESRCH as i32) => break,
                Err(e) => fault = Some(Fault::new("move", target, &e).with_value(tid)),
            }
        }
    }
    (moved, fault)
}
