//! The mark: an extended attribute on a group's directory that says whose it is and what we set. It dies with the group.

use std::path::Path;

use cgrove_core::actual::{MARK_FORMAT, Mark, Marked};
use cgrove_core::ids::GroupPath;
use rustix::fs::{XattrFlags, getxattr, setxattr};

use crate::Fault;

const NAME: &str = "user.cgrove";
/// Kernels limit a value to 64 KiB; ours are far smaller.
const LONGEST: usize = 64 << 10;

/// Who writes marks here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub instance: String,
    pub parent: GroupPath,
}

impl Identity {
    pub fn fresh(&self) -> Mark {
        Mark {
            format: MARK_FORMAT,
            instance: self.instance.clone(),
            parent: self.parent.to_string(),
            files: Default::default(),
        }
    }

    /// Reads a directory's mark. What cannot be read counts as no mark; what cannot be understood is foreign.
    pub fn read(&self, dir: &Path, buffer: &mut Vec<u8>) -> Marked {
        buffer.resize(LONGEST, 0);
        let Ok(length) = getxattr(dir, NAME, buffer.as_mut_slice()) else { return Marked::No };
        match serde_json::from_slice::<Mark>(&buffer[..length]) {
            Ok(mark) if mark.format > MARK_FORMAT => {
                Marked::Foreign(format!("mark of a newer cgrove, format {}", mark.format))
            }
            Ok(mark) if mark.instance == self.instance && mark.parent == self.parent.as_str() => Marked::Ours(mark),
            Ok(mark) => Marked::Foreign(format!("instance {:?}, parent {}", mark.instance, mark.parent)),
            Err(_) => Marked::Foreign("an unreadable mark".into()),
        }
    }
}

/// Replaces a directory's mark.
pub fn write(dir: &Path, mark: &Mark) -> Result<(), Fault> {
    let text = serde_json::to_vec(mark).unwrap_or_default();
    setxattr(dir, NAME, &text, XattrFlags::empty()).map_err(|e| Fault::new("mark", dir, &e.into()))
}
