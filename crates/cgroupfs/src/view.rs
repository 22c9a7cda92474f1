//! The node's files as init sees them. A service has mounts of its own (PrivateTmp=, ProtectHome=): what those hide is
//! reached through init's root directory, which is opened once. Links are followed as init follows them.

use std::fs::{File, Metadata};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, openat, openat2, statx};
use rustix::io::Errno;

use crate::file::proc_dir;

/// Kept for the life of the process: later, Landlock may forbid to look at init.
static ROOT: OnceLock<Option<OwnedFd>> = OnceLock::new();

pub(crate) fn root() -> Option<&'static OwnedFd> {
    ROOT.get_or_init(open).as_ref()
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

/// A way to a path of the node that holds for as long as this lives.
pub struct Way {
    pub path: PathBuf,
    _through: Option<OwnedFd>,
}

impl Way {
    fn here(path: &Path) -> Self {
        Self { path: path.to_owned(), _through: None }
    }

    /// Through the directory that init finds; what stands there at the end is not followed.
    fn hidden(path: &Path) -> Option<Self> {
        let (parent, name) = (path.parent()?, path.file_name()?);
        let through = inits(parent, OFlags::DIRECTORY)?;
        let path = by_number(&through).join(name);
        path.symlink_metadata().is_ok().then_some(Self { path, _through: Some(through) })
    }
}

fn by_number(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// What init finds at a path.
fn inits(path: &Path, flags: OFlags) -> Option<OwnedFd> {
    let (root, flags) = (root()?, OFlags::PATH | OFlags::CLOEXEC | flags);
    match openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
        // systemd's RestrictSUIDSGID= forbids openat2; then a link with an absolute target leads into our own root.
        Err(Errno::NOSYS | Errno::PERM) => {
            let relative = path.strip_prefix("/").ok().filter(|p| !p.as_os_str().is_empty());
            openat(root, relative.unwrap_or(Path::new(".")), flags, Mode::empty()).ok()
        }
        result => result.ok(),
    }
}

/// Where one of the node's paths is found from here: at the path itself, or, when only init sees it, by another way.
pub fn from_here(path: &Path) -> Way {
    if path.symlink_metadata().is_ok() { Way::here(path) } else { Way::hidden(path).unwrap_or_else(|| Way::here(path)) }
}

/// The directories that a path of the node may mean, ours first: one that our own mounts cover is two.
pub fn both(path: &Path) -> Vec<Way> {
    let id = |m: Metadata| (m.dev(), m.ino());
    let same = |way: &Way| match (std::fs::metadata(path), std::fs::metadata(&way.path)) {
        (Ok(ours), Ok(theirs)) => id(ours) == id(theirs),
        _ => false,
    };
    let theirs = inits(path, OFlags::DIRECTORY).map(|fd| Way { path: by_number(&fd), _through: Some(fd) });
    [Way::here(path)].into_iter().chain(theirs.filter(|way| !same(way))).collect()
}

/// What stands at a path of the node: here, and what init finds, where that may be something else.
pub(crate) fn metadata(path: &Path) -> impl Iterator<Item = Metadata> {
    let theirs = inits(path, OFlags::empty()).and_then(|fd| File::from(fd).metadata().ok());
    std::fs::metadata(path).ok().into_iter().chain(theirs)
}

/// Which file something is: its file system and number, asked of nobody but the kernel.
pub(crate) fn identity(above: impl AsFd, path: &Path) -> Option<(u32, u32, u64)> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let told = statx(above, path, flags, StatxFlags::INO).ok()?;
    Some((told.stx_dev_major, told.stx_dev_minor, told.stx_ino))
}

/// What stands at a path here, if the kernel knows it without asking the file system, which may never answer.
pub(crate) fn remembered(path: &Path) -> Option<(u32, u32, u64)> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED).ok()?;
    identity(&found, Path::new(""))
}

/// Where init's view of the node begins; `None` where there is one view only.
pub fn hidden_root() -> Option<PathBuf> {
    Some(by_number(root()?))
}
