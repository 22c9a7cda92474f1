//! The way to a file in directories of others, walked part by part: who owns a directory on it decides what is found.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, fstat, openat, readlinkat};
use rustix::io::Errno;

use crate::file::trusted;
use crate::view;

/// As many links as the kernel follows.
const MOST_LINKS: usize = 40;
const STICKY: u32 = 0o1000;

/// Where a path leads.
#[derive(Debug)]
pub struct Found {
    /// The directory in which it ends, and the name there.
    pub above: OwnedFd,
    pub name: OsString,
    /// Users other than root and ourselves who may put something else at the path: owners of directories on it.
    pub writers: BTreeSet<u32>,
    /// A directory of root's on it that others may write, and who.
    pub shared: Option<String>,
}

/// Walks to an absolute path of the node, here or, where only init sees it, from init's root. Links are followed if they
/// are root's or ours; a link at the end is followed if `last`.
pub fn to(path: &Path, last: bool) -> io::Result<Found> {
    let here = openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let stands = |found: &Found| {
        rustix::fs::statat(&found.above, &*found.name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from)
    };
    match from(here.as_fd(), path, last).and_then(|found| stands(&found).map(|_| found)) {
        // Missing, or kept from us (ProtectHome=).
        Err(e) => {
            let inits = view::root().map(|root| from(root.as_fd(), path, last).and_then(|f| stands(&f).map(|_| f)));
            inits.and_then(Result::ok).ok_or(e)
        }
        result => result,
    }
}

/// A directory of others to be listed, below `root`, on the same way.
pub fn directory(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if path == Path::new("/") {
        return Ok(openat(root, ".", flags, Mode::empty())?);
    }
    let found = from(root, path, true)?;
    Ok(openat(&found.above, &*found.name, flags, Mode::empty())?)
}

/// Below a directory that stands for `/`. Whether something stands at the end is not looked at.
pub fn from(root: BorrowedFd<'_>, path: &Path, last: bool) -> io::Result<Found> {
    let top = || -> io::Result<Vec<(OwnedFd, PathBuf)>> { Ok(vec![(root.try_clone_to_owned()?, "/".into())]) };
    // The directories from the top to where we are.
    let mut trail = top()?;
    let mut out = Seen::default();
    let mut left = parts(path);
    let mut links = 0;
    while let Some(name) = left.pop() {
        let is_last = left.is_empty();
        if name == ".." {
            if trail.len() > 1 {
                trail.pop();
            }
            continue;
        }
        let Some((above, shown)) = trail.last() else { break };
        out.directory(above, shown)?;
        if is_last && !last {
            return Ok(out.found(above.try_clone()?, name));
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // As a directory first: what is mounted on demand is mounted then.
        match openat(above, &*name, flags | OFlags::DIRECTORY, Mode::empty()) {
            Ok(_) if is_last => return Ok(out.found(above.try_clone()?, name)),
            Ok(dir) => {
                let place = shown.join(&name);
                trail.push((dir, place));
                continue;
            }
            Err(Errno::NOTDIR | Errno::LOOP) => {}
            Err(Errno::NOENT) if is_last => return Ok(out.found(above.try_clone()?, name)),
            Err(e) => return Err(e.into()),
        }
        let link = openat(above, &*name, flags, Mode::empty())?;
        let stat = fstat(&link)?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Symlink {
            return if is_last { Ok(out.found(above.try_clone()?, name)) } else { Err(Errno::NOTDIR.into()) };
        }
        let place = shown.join(&name);
        if !trusted(stat.st_uid) {
            let (place, uid) = (place.display(), stat.st_uid);
            return Err(io::Error::other(format!(
                "{place} is a symbolic link of user {uid}: only root's are followed"
            )));
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(Errno::LOOP.into());
        }
        let target = PathBuf::from(OsString::from_vec(readlinkat(&link, "", Vec::new())?.into_bytes()));
        if target.is_absolute() {
            trail = top()?;
        }
        left.extend(parts(&target));
    }
    Err(Errno::ISDIR.into())
}

/// The parts that have a name or mean the directory above, the last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let named = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsStr::from_bytes(b"..").to_owned()),
        _ => None,
    };
    path.components().rev().filter_map(named).collect()
}

#[derive(Default)]
struct Seen {
    writers: BTreeSet<u32>,
    shared: Option<String>,
}

impl Seen {
    fn directory(&mut self, dir: &OwnedFd, shown: &Path) -> io::Result<()> {
        let stat = fstat(dir)?;
        if !trusted(stat.st_uid) {
            self.writers.insert(stat.st_uid);
        }
        // Where it is sticky, nobody may rename or replace what is another's.
        if stat.st_mode & STICKY == 0 {
            let who = if stat.st_mode & 0o002 != 0 {
                "the world".to_owned()
            } else if stat.st_mode & 0o020 != 0 && stat.st_gid != 0 {
                format!("group {}", stat.st_gid)
            } else {
                return Ok(());
            };
            let chmod = if stat.st_mode & 0o002 != 0 { "o-w" } else { "g-w" };
            self.shared.get_or_insert(format!("{who} may write {}; chmod {chmod} or +t", shown.display()));
        }
        Ok(())
    }

    fn found(self, above: OwnedFd, name: OsString) -> Found {
        Found { above, name, writers: self.writers, shared: self.shared }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};

    use nix::unistd::geteuid;

    use super::*;

    /// A directory that stands for `/`, below the sticky one for temporary files.
    fn scene(name: &str) -> (PathBuf, OwnedFd) {
        let dir = std::env::temp_dir().join(format!("cgrove-walk-{name}-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("run/app/sub")).unwrap();
        std::fs::write(dir.join("run/app/sub/x.pid"), "1").unwrap();
        let root = openat(CWD, &dir, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        (dir, root)
    }

    #[test]
    fn links_of_root_are_followed_inside() {
        let (dir, root) = scene("links");
        symlink("/run", dir.join("var")).unwrap();
        symlink("../run/app", dir.join("run/back")).unwrap();
        symlink("loop", dir.join("loop")).unwrap();
        symlink("x.pid", dir.join("run/app/sub/l.pid")).unwrap();
        let name = |path: &str, last| {
            from(root.as_fd(), Path::new(path), last).map(|f| (f.name.into_string().unwrap(), f.writers.len()))
        };
        for path in ["/run/app/sub/x.pid", "/var/app/sub/x.pid", "/run/back/sub/x.pid", "/run/../../run/app/sub/x.pid"]
        {
            assert_eq!(name(path, false).unwrap(), ("x.pid".into(), 0), "{path}");
        }
        assert_eq!(name("/run/app/sub/l.pid", true).unwrap().0, "x.pid");
        assert_eq!(name("/run/app/sub/l.pid", false).unwrap().0, "l.pid");
        assert_eq!(name("/loop/x", false).unwrap_err().raw_os_error(), Some(Errno::LOOP.raw_os_error()));
        assert_eq!(name("/none/x", false).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(name("/run/app/sub/x.pid/y", false).unwrap_err().raw_os_error(), Some(20));
        assert!(directory(root.as_fd(), Path::new("/var/app")).is_ok());
        assert!(directory(root.as_fd(), Path::new("/")).is_ok());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn who_may_put_something_else_there_is_told() {
        if !geteuid().is_root() {
            return eprintln!("not run: directories of others can be made by root only");
        }
        let (dir, root) = scene("writers");
        let walk = || from(root.as_fd(), Path::new("/run/app/sub/x.pid"), false).unwrap();
        let mode = |mode| std::fs::set_permissions(dir.join("run/app"), PermissionsExt::from_mode(mode)).unwrap();
        assert!(walk().writers.is_empty() && walk().shared.is_none());
        chown(dir.join("run/app"), Some(1234), None).unwrap();
        assert_eq!(walk().writers, BTreeSet::from([1234]));
        chown(dir.join("run/app"), Some(0), Some(55)).unwrap();
        mode(0o775);
        assert!(walk().shared.unwrap().starts_with("group 55 may write /run/app; chmod g-w"));
        mode(0o777);
        assert!(walk().shared.unwrap().starts_with("the world may write /run/app; chmod o-w"));
        mode(0o1777);
        assert!(walk().shared.is_none());
        symlink("app", dir.join("run/evil")).unwrap();
        lchown(dir.join("run/evil"), Some(1234), None).unwrap();
        let refused = from(root.as_fd(), Path::new("/run/evil/sub/x.pid"), false).unwrap_err().to_string();
        assert_eq!(refused, "/run/evil is a symbolic link of user 1234: only root's are followed");
        assert!(directory(root.as_fd(), Path::new("/run/evil")).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
