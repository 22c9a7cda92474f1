//! Who else could have written a directory or a file, or could replace it.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::geteuid;

use crate::StateError;

/// Files of the state are far smaller; what is larger is not ours, and is not read.
pub(crate) const MOST_BYTES: u64 = 64 << 20;

const WRITABLE_BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;

fn trusted(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

fn refused(path: &Path, why: String, mend: String) -> StateError {
    StateError::Unsafe { path: path.into(), why, mend }
}

/// The directory itself, as it was opened.
pub(crate) fn directory(path: &Path, found: &Metadata) -> Result<(), StateError> {
    let shown = path.display();
    if !trusted(found.uid()) {
        return Err(refused(
            path,
            format!("the state directory belongs to user {}, who could forge what cgrove keeps there", found.uid()),
            format!(
                "set tree.state_dir to a directory of root's own, or look at its files and run: chown -R root: {shown}"
            ),
        ));
    }
    if found.mode() & WRITABLE_BY_OTHERS != 0 {
        return Err(refused(
            path,
            format!("the state directory may be written by group or others (mode {:04o})", found.mode() & 0o7777),
            format!("look at its files and run: chmod 0700 {shown}, or set tree.state_dir to another directory"),
        ));
    }
    Ok(())
}

/// The directories above: whoever may write one of them could put another directory in its place.
pub(crate) fn above(path: &Path) -> Result<(), StateError> {
    let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) else { return Ok(()) };
    let real = fs::canonicalize(parent).map_err(|e| StateError::io("look up", parent, e))?;
    for dir in parent.ancestors().chain(real.ancestors()).filter(|d| !d.as_os_str().is_empty()) {
        let found = fs::metadata(dir).map_err(|e| StateError::io("look at", dir, e))?;
        // In a directory with the sticky bit others may not rename what is not theirs.
        let open = found.mode() & WRITABLE_BY_OTHERS != 0 && found.mode() & STICKY == 0;
        if open || !trusted(found.uid()) {
            let who = if open { "group or others".into() } else { format!("user {}", found.uid()) };
            return Err(refused(
                path,
                format!("{} may be written by {who}, who could replace the state directory in it", dir.display()),
                "set tree.state_dir to a directory below directories of root's own, for instance /var/lib/cgrove"
                    .into(),
            ));
        }
    }
    Ok(())
}

/// A file in it.
pub(crate) fn file(path: &Path, found: &Metadata) -> Result<(), StateError> {
    let why = if !found.is_file() {
        let kind = if found.is_symlink() { "a symbolic link" } else { "not a regular file" };
        format!("is {kind}, which cgrove did not make")
    } else if found.nlink() != 1 {
        format!("has {} names (hard links), so that it could be changed from elsewhere", found.nlink())
    } else if !trusted(found.uid()) {
        format!("belongs to user {}", found.uid())
    } else if found.mode() & WRITABLE_BY_OTHERS != 0 {
        format!("may be written by group or others (mode {:04o})", found.mode() & 0o7777)
    } else if found.len() > MOST_BYTES {
        format!("has {} bytes, more than {MOST_BYTES}", found.len())
    } else {
        return Ok(());
    };
    Err(refused(path, why, "find out who did that, then remove it".into()))
}

/// Is it the kind of error that says "there is no such file", and nothing else?
pub(crate) fn absent(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::NotFound
}
