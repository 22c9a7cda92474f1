//! Kernel files: one value, one system call, and never through a link or into another file system.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, fstatfs};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, openat, openat2, statx};
use rustix::io::Errno;
use rustix::path::Arg;

use crate::doing;

/// `/proc/PID`, and what is in it.
pub fn proc_dir(pid: i32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}

/// A kernel file's text. Without asking first how long it is: the kernel does not know.
pub(crate) fn text(path: &Path) -> io::Result<String> {
    doing::at("read", path);
    text_at(CWD, path)
}

/// The same, below an open directory.
pub(crate) fn text_at(above: BorrowedFd<'_>, path: impl Arg) -> io::Result<String> {
    text_of(&File::from(openat(above, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?))
}

/// The text of an open file, from its beginning.
pub(crate) fn text_of(file: &File) -> io::Result<String> {
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    // As long as something comes: a list of many lines comes in parts.
    loop {
        match file.read_at(&mut buffer, text.len() as u64)? {
            0 => break,
            length => text.extend_from_slice(buffer.get(..length).unwrap_or_default()),
        }
    }
    String::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// One write(2): cgroup files take a whole value in one call.
pub(crate) fn put(path: &Path, value: &str) -> io::Result<()> {
    open(path)?.write_all(value.as_bytes())
}

/// The same; the file stays open, so that what the kernel made of the value is read without finding it again. A new
/// memory limit does not wait for memory to be taken back (since Linux 6.16).
pub(crate) fn put_to_read(path: &Path, value: &str) -> io::Result<File> {
    let mut file = match open_for(path, OFlags::RDWR | OFlags::NONBLOCK) {
        // Some files can only be written (devices.allow).
        Err(e) if e.raw_os_error() == Some(libc::EACCES) => open_for(path, OFlags::WRONLY | OFlags::NONBLOCK)?,
        result => result?,
    };
    file.write_all(value.as_bytes())?;
    Ok(file)
}

/// A kernel file to be read, below its hierarchy's root and in no other mount: what someone mounted over a group is not
/// measured for it, and not kept busy by us.
pub(crate) fn look(root: &File, path: &Path) -> io::Result<File> {
    let inside =
        ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    match openat2(root, path, flags, Mode::empty(), inside) {
        Ok(fd) => Ok(File::from(fd)),
        // systemd's RestrictSUIDSGID= forbids openat2.
        Err(Errno::NOSYS | Errno::PERM) => look_and_compare(root, path),
        Err(e) => Err(e.into()),
    }
}

/// The same without openat2: the mount is compared afterwards.
fn look_and_compare(root: &File, path: &Path) -> io::Result<File> {
    let file = File::from(openat(root, path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?);
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
    open_for(path, OFlags::WRONLY)
}

fn open_for(path: &Path, access: OFlags) -> io::Result<File> {
    doing::at("write", path);
    let flags = access | OFlags::CLOEXEC;
    let file = match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS) {
        Ok(fd) => File::from(fd),
        // Before Linux 5.6, or forbidden by a sandbox that does not know it.
        Err(Errno::NOSYS | Errno::PERM) => File::from(openat(CWD, path, flags | OFlags::NOFOLLOW, Mode::empty())?),
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
    use super::*;

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
