//! The mark: an extended attribute on a group's directory that says whose it is and what we set. It dies with the
//! group. Kernels before 5.7 have no such attributes on cgroups; there the ledger keeps the marks instead.

use std::path::Path;
use std::sync::Arc;

use cgrove_core::actual::{MARK_FORMAT, Mark, Marked, Version};
use rustix::fs::{XattrFlags, getxattr, setxattr};
use rustix::io::Errno;

use crate::Fault;
use crate::host::Parents;
use crate::ledger::Ledger;

const NAME: &str = "user.cgrove";
/// Kernels limit a value to 64 KiB, and get as much memory as we offer space; ours are far smaller.
const LONGEST: usize = 64 << 10;
const USUAL: usize = 2 << 10;

/// Who writes marks here, and where they are kept.
#[derive(Debug, Clone)]
pub struct Identity {
    pub instance: String,
    pub parents: Parents,
    /// Takes the marks that the kernel does not.
    pub ledger: Arc<Ledger>,
    /// Do not even try extended attributes.
    pub ledger_only: bool,
}

impl Identity {
    pub fn fresh(&self, version: Version) -> Mark {
        Mark {
            format: MARK_FORMAT,
            instance: self.instance.clone(),
            parent: self.parents.of(version).to_string(),
            files: Default::default(),
        }
    }

    /// Reads a directory's mark. What cannot be read or understood is foreign.
    pub fn read(&self, version: Version, dir: &Path, inode: u64, buffer: &mut Vec<u8>) -> Marked {
        buffer.resize(USUAL, 0);
        let mut got = getxattr(dir, NAME, buffer.as_mut_slice());
        if got == Err(Errno::RANGE) {
            buffer.resize(LONGEST, 0);
            got = getxattr(dir, NAME, buffer.as_mut_slice());
        }
        let on_kernel = match got {
            Ok(length) => self.judge(version, serde_json::from_slice::<Mark>(&buffer[..length]).ok()),
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOENT) => Marked::No,
            Err(e) => Marked::Foreign(format!("its mark cannot be read: {e}")),
        };
        match on_kernel {
            Marked::Foreign(_) => on_kernel,
            Marked::Ours(_) if !self.ledger_only => on_kernel,
            _ => match self.ledger.get(dir, inode) {
                None => on_kernel,
                mark => self.judge(version, mark),
            },
        }
    }

    fn judge(&self, version: Version, mark: Option<Mark>) -> Marked {
        match mark {
            Some(mark) if mark.format > MARK_FORMAT => {
                Marked::Foreign(format!("mark of a newer cgrove, format {}", mark.format))
            }
            Some(mark) if mark.instance == self.instance && mark.parent == self.parents.of(version).as_str() => {
                Marked::Ours(mark)
            }
            Some(mark) => Marked::Foreign(format!("instance {:?}, parent {}", mark.instance, mark.parent)),
            None => Marked::Foreign("an unreadable mark".into()),
        }
    }

    /// Replaces a directory's mark.
    pub fn write(&self, dir: &Path, mark: &Mark) -> Result<(), Fault> {
        let text = serde_json::to_vec(mark).unwrap_or_default();
        if !self.ledger_only {
            match setxattr(dir, NAME, &text, XattrFlags::empty()) {
                Err(Errno::OPNOTSUPP) => {}
                result => return result.map_err(|e| Fault::new("mark", dir, &e.into())),
            }
        }
        self.ledger.set(dir, mark)
    }
}
