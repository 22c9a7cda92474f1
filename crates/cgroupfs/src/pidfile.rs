//! Pid files under suspicion: whoever can write one decides which process root moves.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cgrove_core::placement::parse_pid;
use rustix::fs::{Mode, OFlags, openat};

use crate::file::{proc_dir, trusted};
use crate::{procs, walk};

/// Longest part of a pid file that is read; PostgreSQL's has several lines.
const MOST: u64 = 4096;

/// The pid that a file names with its start time, or why it is not believed.
///
/// It must be a regular file, not writable by the world nor by a group other than root's. Whoever owns it, or a
/// directory on the way to it, may name his own processes only; root's and the daemon's name any. A final link is
/// refused unless `follow`; links must be root's or the daemon's.
pub fn read(path: &Path, follow: bool) -> Result<(i32, u64), String> {
    let io = |e: std::io::Error| match e.raw_os_error() {
        Some(nix::libc::ELOOP) => "it is a symbolic link; allow root's with tasks.follow_symlinks = true".to_owned(),
        _ => e.to_string(),
    };
    let found = walk::to(path, follow).map_err(io)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = std::fs::File::from(openat(&found.above, &*found.name, flags, Mode::empty()).map_err(|e| io(e.into()))?);
    let meta = file.metadata().map_err(io)?;
    if !meta.is_file() {
        return Err("it is not a regular file".into());
    }
    let mode = meta.mode();
    if mode & 0o002 != 0 {
        return Err("the world may write it; chmod o-w".into());
    }
    if mode & 0o020 != 0 && meta.gid() != 0 {
        return Err(format!("group {} may write it; chmod g-w", meta.gid()));
    }
    if let Some(who) = found.shared.filter(|_| trusted(meta.uid())) {
        return Err(who);
    }
    // Before its owner is looked at: should the pid be reused afterwards, the start time gives it away.
    let mut content = Vec::new();
    file.take(MOST).read_to_end(&mut content).map_err(io)?;
    let pid = parse_pid(&content)?;
    let start = procs::read(pid).ok_or_else(|| format!("pid {pid} does not run"))?.start;
    let mut writers = found.writers;
    writers.extend(Some(meta.uid()).filter(|uid| !trusted(*uid)));
    if !writers.is_empty() {
        let owner = std::fs::metadata(proc_dir(pid)).map_err(|_| format!("pid {pid} does not run"))?.uid();
        if let Some(writer) = writers.iter().find(|writer| **writer != owner) {
            let what = if *writer == meta.uid() { "it" } else { "a directory on the way to it" };
            return Err(format!("user {writer} owns {what}, but pid {pid} runs as user {owner}"));
        }
    }
    Ok((pid, start))
}
