//! Pid files under suspicion: whoever can write one decides which process root moves.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use cgrove_core::placement::parse_pid;
use nix::libc::{O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK};

use crate::file::proc_dir;
use crate::{procs, view};

/// Longest part of a pid file that is read; PostgreSQL's has several lines.
const MOST: u64 = 4096;

/// The pid that a file names with its start time, or why it is not believed.
///
/// It must be a regular file, owned by root, the daemon or the process's own user, and not writable by the world
/// nor by a group other than root's. A final symlink is refused unless `follow`, and then it must be root's.
pub fn read(path: &Path, follow: bool) -> Result<(i32, u64), String> {
    let io = |e: std::io::Error| match e.raw_os_error() {
        Some(nix::libc::ELOOP) => "it is a symbolic link; allow root's with tasks.follow_symlinks = true".to_owned(),
        _ => e.to_string(),
    };
    let daemon = nix::unistd::geteuid().as_raw();
    let way = view::from_here(path);
    let path = &way.path;
    let link = std::fs::symlink_metadata(path).map_err(io)?;
    let mut flags = O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW;
    if link.is_symlink() && follow {
        if link.uid() != 0 {
            return Err("it is a symbolic link that is not root's".into());
        }
        flags &= !O_NOFOLLOW;
    }
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(io)?;
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
    let mut content = Vec::new();
    file.take(MOST).read_to_end(&mut content).map_err(io)?;
    let pid = parse_pid(&content)?;
    // Before its owner is looked at: should the pid be reused afterwards, the start time gives it away.
    let start = procs::read(pid).ok_or_else(|| format!("pid {pid} does not run"))?.start;
    if meta.uid() != 0 && meta.uid() != daemon {
        let owner = std::fs::metadata(proc_dir(pid)).map_err(|_| format!("pid {pid} does not run"))?.uid();
        if owner != meta.uid() {
            return Err(format!("user {} owns it, but pid {pid} runs as user {owner}", meta.uid()));
        }
    }
    Ok((pid, start))
}
