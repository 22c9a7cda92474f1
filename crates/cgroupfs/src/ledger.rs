//! Marks for kernels that cannot keep them: a file in the state directory, by directory and inode of one boot.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cgrove_core::actual::Mark;
use serde::{Deserialize, Serialize};

use crate::Fault;

/// The file, read when it is first needed.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    pages: Mutex<Option<Pages>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Pages {
    /// Groups do not outlive a boot, and inode numbers start anew.
    boot: String,
    marks: BTreeMap<PathBuf, Entry>,
    #[serde(skip)]
    dirty: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    /// A group made anew at the same path is another one.
    inode: u64,
    mark: Mark,
}

impl Ledger {
    /// A ledger in this directory.
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join("marks.json"), pages: Mutex::new(None) }
    }

    pub(crate) fn get(&self, dir: &Path, inode: u64) -> Option<Mark> {
        let pages = self.pages();
        let entry = pages.as_ref()?.marks.get(dir)?;
        (entry.inode == inode).then(|| entry.mark.clone())
    }

    pub(crate) fn set(&self, dir: &Path, mark: &Mark) -> Result<(), Fault> {
        let inode = std::fs::metadata(dir).map_err(|e| Fault::new("mark", dir, &e))?.ino();
        if let Some(pages) = self.pages().as_mut() {
            pages.marks.insert(dir.into(), Entry { inode, mark: mark.clone() });
            pages.dirty = true;
        }
        Ok(())
    }

    /// Writes what changed, without the groups that are gone. Temporary file, fsync, rename.
    pub fn save(&self) -> Result<(), Fault> {
        let mut pages = self.pages();
        let Some(pages) = pages.as_mut().filter(|p| p.dirty) else { return Ok(()) };
        pages.marks.retain(|dir, entry| std::fs::metadata(dir).is_ok_and(|m| m.ino() == entry.inode));
        let fault = |e: std::io::Error| Fault::new("mark", &self.path, &e);
        if let Some(dir) = self.path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fault)?;
        }
        let temporary = self.path.with_extension("new");
        let text = serde_json::to_vec(pages).unwrap_or_default();
        std::fs::write(&temporary, text).map_err(fault)?;
        std::fs::File::open(&temporary).and_then(|f| f.sync_all()).map_err(fault)?;
        std::fs::rename(&temporary, &self.path).map_err(fault)?;
        pages.dirty = false;
        Ok(())
    }

    fn pages(&self) -> MutexGuard<'_, Option<Pages>> {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        if pages.is_none() {
            let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
            let text = std::fs::read(&self.path).unwrap_or_default();
            let kept = serde_json::from_slice::<Pages>(&text).ok().filter(|p| p.boot == boot);
            *pages = Some(kept.unwrap_or(Pages { boot, ..Pages::default() }));
        }
        pages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_survive_a_restart_but_not_their_group() {
        let state = std::env::temp_dir().join(format!("cgrove-ledger-{}", std::process::id()));
        let group = state.join("group");
        std::fs::create_dir_all(&group).unwrap();
        let inode = std::fs::metadata(&group).unwrap().ino();
        let mark = Mark { instance: "x".into(), ..Mark::default() };
        let ledger = Ledger::new(&state);
        ledger.set(&group, &mark).unwrap();
        ledger.save().unwrap();
        let again = Ledger::new(&state);
        assert_eq!(again.get(&group, inode), Some(mark.clone()));
        assert_eq!(again.get(&group, inode + 1), None);
        again.set(&state, &mark).unwrap();
        std::fs::remove_dir(&group).unwrap();
        again.save().unwrap();
        assert_eq!(Ledger::new(&state).get(&group, inode), None);
        std::fs::write(state.join("marks.json"), "torn").unwrap();
        assert_eq!(Ledger::new(&state).get(&state, std::fs::metadata(&state).unwrap().ino()), None);
        std::fs::remove_dir_all(&state).unwrap();
    }
}
