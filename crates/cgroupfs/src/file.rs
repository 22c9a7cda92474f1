//! Kernel files: one value, one system call, and never through a link or into another file system.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, fstatfs};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Stat, StatxFlags, fstat, openat, openat2, statat, statx};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use crate::doing;

/// `/proc/PID`, and what is in it.
pub fn proc_dir(pid: i32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}

/// Root's, or ours.
pub(crate) fn trusted(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

/// What a directory is, and who may write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub inode: u64,
    pub uid: u32,
    /// Somebody other than root and ourselves may make, remove and rename what is in it, and set its attributes.
    pub others: bool,
}

impl Standing {
    /// Links are not followed.
    pub fn of(dir: &Path) -> io::Result<Self> {
        Ok(statat(CWD, dir, AtFlags::SYMLINK_NOFOLLOW).map(|stat| Self::from(&stat))?)
    }
}

impl TryFrom<&File> for Standing {
    type Error = io::Error;

    fn try_from(file: &File) -> io::Result<Self> {
        Ok(Self::from(&fstat(file)?))
    }
}

impl From<&Stat> for Standing {
    fn from(stat: &Stat) -> Self {
        // Root's own need no further question.
        let owner = !trusted(stat.st_uid);
        let members = stat.st_mode & 0o020 != 0 && stat.st_gid != 0 && stat.st_gid != getegid().as_raw();
        let others = owner || members || stat.st_mode & 0o002 != 0;
        Self { inode: stat.st_ino, uid: stat.st_uid, others }
    }
}

/// No kernel file that we read is longer, not even the list of a million processes.
const LONGEST: usize = 16 << 20;

/// A kernel file's text. Without asking first how long it is: the kernel does not know. Never through a link, never
/// waiting for a writer, and only as much as a kernel file may hold.
pub(crate) fn text(path: &Path) -> io::Result<String> {
    text_of(&reading(CWD, path, NO_LINKS)?)
}

/// The same, below an open directory and in its mount.
pub(crate) fn text_at(above: BorrowedFd<'_>, path: &Path) -> io::Result<String> {
    // The top of a walk has a whole path.
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV;
    let resolve = if above.as_raw_fd() == CWD.as_raw_fd() { NO_LINKS } else { NO_LINKS.union(inside) };
    text_of(&reading(above, path, resolve)?)
}

const NO_LINKS: ResolveFlags = ResolveFlags::NO_SYMLINKS.union(ResolveFlags::NO_MAGICLINKS);

fn reading(above: BorrowedFd<'_>, path: &Path, resolve: ResolveFlags) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match openat2(above, path, flags, Mode::empty(), resolve) {
        // Before Linux 5.6, or forbidden by a sandbox that does not know it.
        Err(Errno::NOSYS | Errno::PERM) => {
            Ok(File::from(openat(above, path, flags | OFlags::NOFOLLOW, Mode::empty())?))
        }
        result => Ok(File::from(result?)),
    }
}

/// The text of an open file, from its beginning.
pub(crate) fn text_of(file: &File) -> io::Result<String> {
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    // As long as something comes: a list of many lines comes in parts.
    while text.len() < LONGEST {
        match file.read_at(&mut buffer, text.len() as u64)? {
            0 => return String::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData.into()),
            length => text.extend_from_slice(buffer.get(..length).unwrap_or_default()),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EFBIG))
}

/// One write(2): cgroup files take a whole value in one call.
pub(crate) fn put(path: &Path, value: &str) -> io::Result<()> {
    put_at(CWD, path, value)
}

/// The same, below an open directory if the path is not a whole one.
pub(crate) fn put_at(above: BorrowedFd<'_>, path: &Path, value: &str) -> io::Result<()> {
    open_for(above, path, OFlags::WRONLY)?.write_all(value.as_bytes())
}

/// The same, below an open directory if the path is not a whole one; the file stays open, so that what the kernel made
/// of the value is read without finding it again. A new memory limit does not wait for memory to be taken back (since
/// Linux 6.16).
pub(crate) fn put_to_read(above: BorrowedFd<'_>, path: &Path, value: &str) -> io::Result<File> {
    let mut file = match open_for(above, path, OFlags::RDWR | OFlags::NONBLOCK) {
        // Some files can only be written (devices.allow).
        Err(e) if e.raw_os_error() == Some(libc::EACCES) => open_for(above, path, OFlags::WRONLY | OFlags::NONBLOCK)?,
        result => result?,
    };
    file.write_all(value.as_bytes())?;
    Ok(file)
}

/// A group's directory, to work below it whatever its name is by then.
pub(crate) fn open_directory(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(File::from(openat(CWD, path, flags, Mode::empty())?))
}

/// A kernel file to be read, below its hierarchy's root and in no other mount: what someone mounted over a group is not
/// measured for it, and not kept busy by us.
pub(crate) fn look(root: &File, path: &Path) -> io::Result<File> {
    let inside =
        ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match openat2(root, path, flags, Mode::empty(), inside) {
        Ok(fd) => Ok(File::from(fd)),
        // systemd's RestrictSUIDSGID= forbids openat2.
        Err(Errno::NOSYS | Errno::PERM) => look_and_compare(root, path),
        Err(e) => Err(e.into()),
    }
}

/// The same without openat2: the mount is compared afterwards.
fn look_and_compare(root: &File, path: &Path) -> io::Result<File> {
    let file = File::from(openat(
        root,
        path,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW,
        Mode::empty(),
    )?);
    if mount_of(&file) == mount_of(root) { Ok(file) } else { Err(io::Error::from_raw_os_error(libc::EXDEV)) }
}

/// The mount that an open file is in; `None` before Linux 5.8.
fn mount_of(file: &File) -> Option<u64> {
    let told = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    (told.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(told.stx_mnt_id)
}

/// A kernel file to be written. What only looks like one, because someone mounted or linked something else there
/// between our look and now, is refused.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    open_for(CWD, path, OFlags::WRONLY)
}

fn open_for(above: BorrowedFd<'_>, path: &Path, access: OFlags) -> io::Result<File> {
    doing::at("write", path);
    let flags = access | OFlags::CLOEXEC;
    let file = match openat2(above, path, flags, Mode::empty(), NO_LINKS) {
        Ok(fd) => File::from(fd),
        // Before Linux 5.6, or forbidden by a sandbox that does not know it.
        Err(Errno::NOSYS | Errno::PERM) => File::from(openat(above, path, flags | OFlags::NOFOLLOW, Mode::empty())?),
        Err(e) => return Err(e.into()),
    };
    let kind = fstatfs(&file).map_err(io::Error::from)?.filesystem_type();
    if kind != CGROUP_SUPER_MAGIC && kind != CGROUP2_SUPER_MAGIC {
        return Err(io::Error::from_raw_os_error(libc::EXDEV));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn nothing_that_only_looks_like_a_kernel_file_is_read_whole_or_waited_for() {
        let dir = std::env::temp_dir().join(format!("cgrove-text-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("inner")).unwrap();
        std::fs::write(dir.join("file"), "x\n").unwrap();
        std::fs::File::create(dir.join("large")).unwrap().set_len(1 << 40).unwrap();
        std::os::unix::fs::symlink("file", dir.join("link")).unwrap();
        nix::unistd::mkfifo(&dir.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(text(&dir.join("file")).unwrap(), "x\n");
        let error = |name: &str| text(&dir.join(name)).map_err(|e| e.raw_os_error()).unwrap_err();
        assert_eq!(error("large"), Some(libc::EFBIG));
        assert_eq!(error("link"), Some(libc::ELOOP));
        // A FIFO without a writer is at its end, and does not block.
        assert!(text(&dir.join("fifo")).is_err());
        let inner = File::open(dir.join("inner")).unwrap();
        assert!(text_at(inner.as_fd(), Path::new("../file")).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_lies_in_another_mount_is_not_looked_at() {
        let dir = std::env::temp_dir().join(format!("cgrove-look-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("file"), "x").unwrap();
        std::os::unix::fs::symlink("file", dir.join("link")).unwrap();
        let (own, top) = (File::open(&dir).unwrap(), File::open("/").unwrap());
        for way in [look, look_and_compare] {
            assert!(way(&own, Path::new("file")).is_ok());
            assert!(way(&own, Path::new("link")).is_err());
            // /proc is mounted on the way.
            let error = way(&top, Path::new("proc/version")).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EXDEV));
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
