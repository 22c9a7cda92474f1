//! The node's files as init sees them. A service has mounts of its own (PrivateTmp=, ProtectHome=): what those hide is
//! reached through init's root directory, which is opened once.

use std::fs::Metadata;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::paths::proc_dir;

/// Kept for the life of the process: later, Landlock may forbid to look at init.
static ROOT: OnceLock<Option<OwnedFd>> = OnceLock::new();

fn root() -> Option<PathBuf> {
    let fd = ROOT.get_or_init(open).as_ref()?;
    Some(PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())))
}

/// Opens init's root if our mounts are not init's. Call it before the process is confined.
pub fn prepare() {
    let _ = root();
}

fn open() -> Option<OwnedFd> {
    let mounts = |proc: &Path| std::fs::read_link(proc.join("ns/mnt")).ok();
    let init = proc_dir(1);
    if mounts(&init)? == mounts(Path::new("/proc/self"))? {
        return None;
    }
    openat(CWD, init.join("root"), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Where one of the node's paths is found from here: the path itself, or, when only init sees it, a way there.
pub fn from_here(path: &Path) -> PathBuf {
    let hidden = || {
        let there = below(&root()?, path);
        there.symlink_metadata().is_ok().then_some(there)
    };
    if path.symlink_metadata().is_ok() { path.to_owned() } else { hidden().unwrap_or_else(|| path.to_owned()) }
}

/// What init finds at a path.
pub(crate) fn metadata(path: &Path) -> std::io::Result<Metadata> {
    match root() {
        Some(root) => std::fs::metadata(below(&root, path)),
        None => std::fs::metadata(path),
    }
}

/// A glob to be read beside `pattern`, and what its paths begin with that is not the node's; `None` where there is one
/// view only.
pub fn hidden_glob(pattern: &str) -> Option<(String, PathBuf)> {
    let root = root()?;
    Some((below(&root, Path::new(pattern)).to_str()?.to_owned(), root))
}
