//! The directory, and the files in it.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use data_encoding::HEXLOWER;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::lock::{self, StateLock};
use crate::{StateError, check};

const FORMAT: u32 = 1;
/// What a file is called until it is whole.
const UNFINISHED: &str = ".new";
/// Tells the temporary files of one process apart.
static TURN: AtomicU64 = AtomicU64::new(0);

/// First line of a file; the content follows.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: u32,
    sha256: String,
}

/// One directory, mode 0700, root's or the process's own user's. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StateDir {
    path: Arc<Path>,
    /// Files that are known to be on the disk, and not only in the kernel's memory.
    durable: Arc<Mutex<HashSet<String>>>,
    /// The directory as it was first opened, or last written.
    home: Arc<Mutex<Option<Identity>>>,
}

impl StateDir {
    /// Names it; nothing is read or made.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        // Component by component: a slash at the end would have a link followed.
        let path: PathBuf = path.into().components().collect();
        Self { path: path.into(), durable: Arc::default(), home: Arc::default() }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A directory inside, with the same rules.
    #[must_use]
    pub fn inside(&self, name: &str) -> Self {
        Self::new(self.path.join(name))
    }

    /// Makes the directory where it is missing, and refuses one that somebody else could write or replace.
    pub fn prepare(&self) -> Result<(), StateError> {
        self.open_or_make().map_err(|e| self.explained(e))?;
        check::above(&self.path)
    }

    /// Refuses a directory that somebody else may write; one that is missing is nobody's.
    pub fn check(&self) -> Result<(), StateError> {
        self.open().map(drop)
    }

    /// Takes the directory for this process, and clears away what an earlier one left unfinished.
    pub fn lock(&self) -> Result<StateLock, StateError> {
        let dir = self.open_or_make().map_err(|e| self.explained(e))?;
        let lock = lock::lock(&dir, &self.path).map_err(|e| self.explained(e))?;
        self.settle(&dir);
        for name in self.names().unwrap_or_default().iter().filter(|n| n.ends_with(UNFINISHED)) {
            let _ = self.remove(name);
        }
        Ok(lock)
    }

    /// What `put` wrote. `None` only when there is no such file.
    pub fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        self.get_or_plain(name, |_| false)
    }

    /// Like `get`; a file without a header, as an earlier version wrote it, is taken as it is if `plain` says so.
    pub fn get_or_plain(&self, name: &str, plain: impl FnOnce(&[u8]) -> bool) -> Result<Option<Vec<u8>>, StateError> {
        let Some(bytes) = self.get_raw(name)? else { return Ok(None) };
        if plain(&bytes) {
            return Ok(Some(bytes));
        }
        unwrap(bytes).map(Some).map_err(|why| StateError::damaged(&self.path.join(name), why))
    }

    /// Replaces the file with a header and these bytes: on the disk when this returns, or left as it was.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let header = Header { format: FORMAT, sha256: HEXLOWER.encode(&Sha256::digest(bytes)) };
        let mut whole =
            serde_json::to_vec(&header).map_err(|e| StateError::damaged(&self.path.join(name), e.to_string()))?;
        whole.push(b'\n');
        whole.extend_from_slice(bytes);
        self.put_raw(name, &whole)
    }

    /// The bytes of a file that has a format of its own. `None` only when there is no such file.
    pub fn get_raw(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.file(name)?;
        let Some(dir) = self.open()? else { return Ok(None) };
        let Some(mut file) = open_checked(&dir, name, &path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        let read = (&mut file).take(check::MOST_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(|e| StateError::io("read", &path, e))?;
        if bytes.len() as u64 > check::MOST_BYTES {
            return Err(StateError::damaged(&path, format!("has more than {} bytes", check::MOST_BYTES)));
        }
        Ok(Some(bytes))
    }

    /// Like `put`, for a file that has a format of its own.
    pub fn put_raw(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        self.replace(name, bytes).map_err(|e| self.explained(e))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let path = self.file(name)?;
        if bytes.len() as u64 > check::MOST_BYTES {
            return Err(StateError::damaged(&path, format!("would have more than {} bytes", check::MOST_BYTES)));
        }
        let dir = self.open_or_make()?;
        let same = self.get_raw(name).is_ok_and(|there| there.as_deref() == Some(bytes));
        if same {
            if !self.is_durable(name) {
                // An earlier process, or an earlier attempt, may have got no further than the kernel's memory.
                if let Some(file) = open_checked(&dir, name, &path)? {
                    file.sync_all().map_err(|e| StateError::io("sync", &path, e))?;
                }
                self.sync(&dir)?;
                self.set_durable(name, true);
            }
            return Ok(());
        }
        self.set_durable(name, false);
        let temporary = format!("{name}.{}-{}{UNFINISHED}", std::process::id(), TURN.fetch_add(1, Ordering::Relaxed));
        let replaced = write_new(&dir, &temporary, &path, bytes)
            .and_then(|()| renameat(&dir, &temporary, &dir, name).map_err(|e| StateError::io("rename to", &path, e)));
        if let Err(e) = replaced {
            let _ = unlinkat(&dir, &temporary, AtFlags::empty());
            return Err(e);
        }
        self.sync(&dir)?;
        self.set_durable(name, true);
        self.settle(&dir);
        Ok(())
    }

    /// Removes the file, durably; it may be missing.
    pub fn remove(&self, name: &str) -> Result<(), StateError> {
        let path = self.file(name)?;
        let Some(dir) = self.open()? else { return Ok(()) };
        // An earlier attempt may have removed it without the disk's knowledge.
        match unlinkat(&dir, name, AtFlags::empty()) {
            Err(Errno::NOENT) if self.is_durable(name) => return Ok(()),
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(self.explained(StateError::io("remove", &path, e))),
        }
        self.set_durable(name, false);
        self.sync(&dir)?;
        self.set_durable(name, true);
        Ok(())
    }

    /// The names in it; none when there is no such directory.
    pub fn names(&self) -> Result<Vec<String>, StateError> {
        let list = |e| StateError::io("list", &self.path, e);
        if self.open()?.is_none() {
            return Ok(Vec::new());
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(list)? {
            names.extend(entry.map_err(list)?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    /// Is there a file that nobody else can have made?
    pub fn has(&self, name: &str) -> Result<bool, StateError> {
        let path = self.file(name)?;
        let Some(dir) = self.open()? else { return Ok(false) };
        Ok(open_checked(&dir, name, &path)?.is_some())
    }

    /// A name is one component; where it comes from is no matter.
    fn file(&self, name: &str) -> Result<PathBuf, StateError> {
        let path = self.path.join(name);
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            return Err(StateError::damaged(&path, "is no name of a file in the state directory"));
        }
        Ok(path)
    }

    fn open(&self) -> Result<Option<File>, StateError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = match openat(CWD, &*self.path, flags, Mode::empty()) {
            Ok(dir) => File::from(dir),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(self.no_directory()),
            Err(e) => return Err(StateError::io("open", &self.path, e)),
        };
        check::directory(&self.path, &dir.metadata().map_err(|e| StateError::io("look at", &self.path, e))?)?;
        let mut home = self.home.lock().unwrap_or_else(PoisonError::into_inner);
        if home.is_none() {
            *home = identity(dir.metadata());
        }
        drop(home);
        Ok(Some(dir))
    }

    /// From now on the directory is this one: it could be written.
    fn settle(&self, dir: &File) {
        *self.home.lock().unwrap_or_else(PoisonError::into_inner) = identity(dir.metadata());
    }

    /// A refusal is no matter of owner and mode where the directory is not the one that was opened before.
    fn explained(&self, e: StateError) -> StateError {
        let Some(before) = *self.home.lock().unwrap_or_else(PoisonError::into_inner) else { return e };
        match e {
            StateError::Io { operation, path, source }
                if source.kind() == ErrorKind::PermissionDenied
                    && identity(fs::symlink_metadata(&self.path)) != Some(before) =>
            {
                StateError::Replaced { operation, file: path, dir: self.path.to_path_buf() }
            }
            e => e,
        }
    }

    fn no_directory(&self) -> StateError {
        let link = fs::symlink_metadata(&self.path).is_ok_and(|m| m.is_symlink());
        let mend = match fs::read_link(&self.path) {
            Ok(target) => format!("set tree.state_dir to the directory itself ({})", target.display()),
            Err(_) => "move it away, or set tree.state_dir to a directory".into(),
        };
        let why = if link { "is a symbolic link, no directory" } else { "is no directory" };
        StateError::Unsafe { path: self.path.to_path_buf(), why: why.into(), mend }
    }

    fn open_or_make(&self) -> Result<File, StateError> {
        if let Some(dir) = self.open()? {
            return Ok(dir);
        }
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&self.path).map_err(|e| StateError::io("make", &self.path, e))?;
        if let Some(parent) = self.path.parent().and_then(|p| File::open(p).ok()) {
            let _ = parent.sync_all();
        }
        self.open()?.ok_or_else(|| StateError::io("open", &self.path, Errno::NOENT))
    }

    fn sync(&self, dir: &File) -> Result<(), StateError> {
        match dir.sync_all() {
            // Some file systems know no fsync of a directory, and need none.
            Err(e) if e.kind() != std::io::ErrorKind::InvalidInput => Err(StateError::io("sync", &self.path, e)),
            _ => Ok(()),
        }
    }

    fn is_durable(&self, name: &str) -> bool {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    fn set_durable(&self, name: &str, durable: bool) {
        let mut known = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if durable {
            known.insert(name.into());
        } else {
            known.remove(name);
        }
    }
}

/// Device, inode, and when it was made, where that is known: inode numbers are used again.
type Identity = (u64, u64, Option<SystemTime>);

/// Tells one directory from another in its place.
fn identity(found: std::io::Result<fs::Metadata>) -> Option<Identity> {
    found.ok().map(|found| (found.dev(), found.ino(), found.created().ok()))
}

/// Opens a file for reading, after a look at what it is: opening a FIFO or a device could block or do something.
fn open_checked(dir: &File, name: &str, path: &Path) -> Result<Option<File>, StateError> {
    match fs::symlink_metadata(path) {
        Ok(found) => check::file(path, &found)?,
        Err(e) if check::absent(&e) => return Ok(None),
        Err(e) => return Err(StateError::io("look at", path, e)),
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(dir, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(e) => return Err(StateError::io("open", path, e)),
    };
    check::file(path, &file.metadata().map_err(|e| StateError::io("look at", path, e))?)?;
    Ok(Some(file))
}

/// `path` is the file that it becomes, for messages.
fn write_new(dir: &File, name: &str, path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(dir, name, flags, Mode::RUSR | Mode::WUSR).map_err(|e| StateError::io("make", path, e))?;
    let mut file = File::from(file);
    file.write_all(bytes).map_err(|e| StateError::io("write", path, e))?;
    file.sync_all().map_err(|e| StateError::io("sync", path, e))
}

fn unwrap(mut bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    let end =
        bytes.iter().position(|b| *b == b'\n').ok_or("has no header: it was cut off, or something else wrote it")?;
    let header: Header =
        serde_json::from_slice(&bytes[..end]).map_err(|e| format!("its header is not readable: {e}"))?;
    if header.format != FORMAT {
        return Err(format!("has format {}, which this version does not know (it knows {FORMAT})", header.format));
    }
    bytes.drain(..=end);
    if HEXLOWER.encode(&Sha256::digest(&bytes)) != header.sha256 {
        return Err("its checksum is wrong: it was cut off or changed".into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
