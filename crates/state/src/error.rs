//! Why the state directory, or a file in it, cannot be used, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The kernel refused an operation.
    #[error("{operation} {}: {source}{}", path.display(), mend(source))]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    /// Somebody else could have written it, or could replace it.
    #[error("{}: {why}; {mend}", path.display())]
    Unsafe { path: PathBuf, why: String, mend: String },
    /// The content is not what was written.
    #[error("{}: {why}", path.display())]
    Damaged { path: PathBuf, why: String },
    /// The directory is another one than it was, and this process may not write the new one.
    #[error("{operation} {}: Permission denied; {} is not the directory that was opened at the start: it was removed or replaced under the daemon, which may write only that one (Landlock); `systemctl restart cgrove` opens what is there now", file.display(), dir.display())]
    Replaced { operation: &'static str, file: PathBuf, dir: PathBuf },
    /// Another process holds the directory.
    #[error("the state directory {} belongs to another cgrove that runs{}; stop it, or give this one a `tree.state_dir`, a `cgroup.parent` and a `server.listen` of its own", path.display(), pid.map(|p| format!(" (pid {p})")).unwrap_or_default())]
    Taken { path: PathBuf, pid: Option<i32> },
}

impl StateError {
    pub(crate) fn io(operation: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { operation, path: path.into(), source: source.into() }
    }

    pub(crate) fn damaged(path: &Path, why: impl Into<String>) -> Self {
        Self::Damaged { path: path.into(), why: why.into() }
    }

    /// The kernel's error number, where the kernel refused.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } => source.raw_os_error(),
            Self::Replaced { .. } => Some(Errno::ACCESS.raw_os_error()),
            _ => None,
        }
    }
}

fn mend(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room in the file system of tree.state_dir",
        io::ErrorKind::ReadOnlyFilesystem => "; mount it writable, or set tree.state_dir to a directory that is",
        io::ErrorKind::PermissionDenied => "; tree.state_dir needs a directory that cgrove's user may write",
        _ => "",
    }
}
