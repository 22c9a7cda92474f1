//! What stands above the managed parent.

use cgrove_core::actual::Version;
use nix::libc;

use super::{Outcome, SUBTREE};
use crate::Fault;
use crate::file::{put, text};
use crate::paths::Tree;

/// v2: hands controllers down in every directory above the parent. One that is refused stops no other.
pub(super) fn enable_above(tree: &Tree, controllers: &[String]) -> Result<Outcome, Fault> {
    create_above(tree)?;
    let mut first_fault = None;
    for dir in tree.above() {
        let path = dir.join(SUBTREE);
        let now = text(&path).unwrap_or_default();
        for name in controllers.iter().filter(|c| !now.split_whitespace().any(|n| n == c.as_str())) {
            let value = format!("+{name}");
            let result = put(&path, &value).map_err(|e| Fault::new("write", &path, &e).with_value(&value));
            if let Err(fault) = &result
                && fault.code == libc::EBUSY
            {
                // Processes of others sit there: a threaded controller would be taken, and make the group threaded.
                return Err(fault.clone());
            }
            first_fault = first_fault.or(result.err());
        }
    }
    first_fault.map_or(Ok(Outcome::Done { kept: None }), Err)
}

/// The directories above the managed parent; on v1 cpusets on the way are filled, else nothing below could run.
pub(super) fn create_above(tree: &Tree) -> Result<(), Fault> {
    for dir in tree.above().iter().filter(|d| !d.exists()) {
        match std::fs::create_dir(dir) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(Fault::new("mkdir", dir, &e)),
            _ => {}
        }
        if tree.version == Version::V2 {
            continue;
        }
        for name in ["cpuset.cpus", "cpuset.mems"] {
            let above = dir.parent().and_then(|up| text(&up.join(name)).ok());
            if let Some(value) = above {
                let path = dir.join(name);
                put(&path, value.trim()).map_err(|e| Fault::new("write", &path, &e).with_value(&value))?;
            }
        }
    }
    Ok(())
}
