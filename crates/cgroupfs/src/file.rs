//! Kernel files: one value, one system call.

use std::io::Write;
use std::path::Path;

/// One write(2): cgroup files take a whole value in one call.
pub(crate) fn put(path: &Path, value: &str) -> std::io::Result<()> {
    std::fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}
