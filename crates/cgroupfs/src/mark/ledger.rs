//! Marks in the state directory, which only root writes: of groups whose directory others may write, and for kernels
//! that keep no attributes. By hierarchy and inode, for one boot: groups do not outlive it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use cgrove_core::actual::Mark;
use cgrove_core::ids::GroupPath;
use cgrove_state::{StateDir, StateError};
use serde::{Deserialize, Serialize};

use super::fault;
use super::seal::{Body, is_file};
use super::slow::{Slow, Written};
use crate::Fault;
use crate::file::Standing;

const FILE: &str = "ledger";
/// As the version before this one kept it.
const EARLIER: &str = "marks.json";

#[derive(Debug)]
pub(super) struct Ledger {
    state: StateDir,
    pages: Mutex<Option<Pages>>,
    boot: OnceLock<String>,
    read_only: bool,
}

#[derive(Debug, Default)]
struct Pages {
    marks: HashMap<String, HashMap<u64, Entry>>,
    /// By directory, with the inode.
    earlier: HashMap<PathBuf, (u64, Mark)>,
    dirty: bool,
    /// A write that a slow disk has not finished.
    slow: Slow,
    /// What is on the disk could not be read: it is not replaced before it was.
    unread: bool,
    trouble: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    dir: PathBuf,
    mark: Body,
    /// Somebody asked for it since it was last written.
    #[serde(skip)]
    seen: bool,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    boot: String,
    marks: BTreeMap<String, BTreeMap<u64, Entry>>,
}

#[derive(Deserialize)]
struct Earlier {
    boot: String,
    marks: HashMap<PathBuf, EarlierEntry>,
}

#[derive(Deserialize)]
struct EarlierEntry {
    inode: u64,
    mark: Mark,
}

impl Ledger {
    pub(super) fn new(state: StateDir) -> Self {
        Self { state, pages: Mutex::default(), boot: OnceLock::new(), read_only: false }
    }

    /// The same, for somebody who must not write it.
    pub(super) fn read_only(&self) -> Self {
        Self { read_only: true, ..Self::new(self.state.clone()) }
    }

    /// This boot's name.
    pub(super) fn boot(&self) -> &str {
        let read = || std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        self.boot.get_or_init(read)
    }

    /// A directory's mark, and whether it was another group's when it was marked.
    pub(super) fn get(&self, hierarchy: &str, dir: &Path, inode: u64, group: &GroupPath) -> Option<(Body, bool)> {
        let mut pages = self.pages();
        let pages = pages.as_mut()?;
        if let Some(entry) = pages.marks.get_mut(hierarchy).and_then(|marks| marks.get_mut(&inode)) {
            entry.seen = true;
            return Some((entry.mark.clone(), entry.mark.group != group.as_str()));
        }
        let (_, mark) = pages.earlier.get(dir).filter(|(known, _)| *known == inode)?.clone();
        let files = mark.files.into_iter().filter(|(name, _)| is_file(name)).collect();
        let (group, parent_inode) = (group.to_string(), 0);
        Some((Body { format: 1, instance: mark.instance, parent: mark.parent, parent_inode, group, files }, false))
    }

    pub(super) fn has(&self, hierarchy: &str, inode: u64) -> bool {
        self.pages().as_ref().is_some_and(|p| p.marks.get(hierarchy).is_some_and(|marks| marks.contains_key(&inode)))
    }

    pub(super) fn set(&self, hierarchy: &str, dir: &Path, inode: u64, mark: Body) {
        if let Some(pages) = self.pages().as_mut() {
            let marks = pages.marks.entry(hierarchy.to_owned()).or_default();
            let same = marks.get(&inode).is_some_and(|e| e.mark == mark && e.dir == dir);
            if !same {
                marks.insert(inode, Entry { dir: dir.into(), mark, seen: true });
                pages.dirty = true;
            }
        }
    }

    /// Writes what changed, without the groups that are gone.
    pub(super) fn save(&self) -> Result<(), Fault> {
        let mut pages = self.pages();
        let Some(pages) = pages.as_mut().filter(|p| !self.read_only && !p.unread) else { return Ok(()) };
        match pages.slow.earlier() {
            Some(Written::Waiting) => return Ok(()),
            Some(Written::Done) => pages.trouble = None,
            Some(Written::Failed(_)) => pages.dirty = true,
            None => {}
        }
        if !pages.dirty {
            return Ok(());
        }
        let stands = |entry: &Entry, inode: u64| Standing::of(&entry.dir).is_ok_and(|s| s.inode == inode);
        for marks in pages.marks.values_mut() {
            // A renamed group is not where it was, but somebody has seen it.
            marks.retain(|inode, entry| std::mem::take(&mut entry.seen) || stands(entry, *inode));
        }
        let sorted =
            pages.marks.iter().map(|(h, marks)| (h.clone(), marks.iter().map(|(i, e)| (*i, e.clone())).collect()));
        let kept = Kept { boot: self.boot().to_owned(), marks: sorted.collect() };
        let text = serde_json::to_vec(&kept).unwrap_or_default();
        let state = self.state.clone();
        let path = self.state.path().join(FILE);
        pages.dirty = false;
        match pages.slow.write(move || state.put(FILE, &text).and_then(|()| state.remove(EARLIER))) {
            Written::Done => {
                pages.trouble = None;
                Ok(())
            }
            Written::Waiting => {
                pages.trouble = Some(format!("{}: marks are not on the disk yet: it is slow", path.display()));
                Ok(())
            }
            Written::Failed(e) => {
                pages.dirty = true;
                pages.trouble =
                    Some(format!("marks are not kept: {e}; after a restart their groups count as unmarked"));
                Err(fault(&path, &e))
            }
        }
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.pages().as_ref()?.trouble.clone()
    }

    fn pages(&self) -> MutexGuard<'_, Option<Pages>> {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        if pages.is_none() {
            *pages = Some(self.load());
        }
        pages
    }

    fn load(&self) -> Pages {
        let mut pages = Pages::default();
        match self.state.get(FILE) {
            Ok(Some(text)) => match serde_json::from_slice::<Kept>(&text) {
                Ok(kept) if kept.boot == self.boot() => {
                    pages.marks = kept.marks.into_iter().map(|(h, marks)| (h, marks.into_iter().collect())).collect();
                }
                Ok(_) => {}
                Err(e) => pages.trouble = Some(lost(&self.state.path().join(FILE), &e)),
            },
            Ok(None) => pages.earlier = self.earlier(),
            Err(StateError::Io { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {}
            Err(e) => {
                pages.unread = matches!(e, StateError::Io { .. });
                pages.trouble = Some(lost(&self.state.path().join(FILE), &e));
            }
        }
        pages
    }

    /// What could not be read may be readable again.
    pub(super) fn look_again(&self) {
        let mut held = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pages) = held.as_mut().filter(|p| p.unread) else { return };
        let read = self.load();
        if read.unread {
            return;
        }
        for (hierarchy, marks) in read.marks {
            let known = pages.marks.entry(hierarchy).or_default();
            for (inode, entry) in marks {
                known.entry(inode).or_insert(entry);
            }
        }
        (pages.unread, pages.trouble, pages.earlier) = (false, read.trouble, read.earlier);
    }

    fn earlier(&self) -> HashMap<PathBuf, (u64, Mark)> {
        let text = self.state.get_raw(EARLIER).ok().flatten().unwrap_or_default();
        let kept = serde_json::from_slice::<Earlier>(&text).ok().filter(|kept| kept.boot.trim() == self.boot());
        kept.into_iter().flat_map(|kept| kept.marks).map(|(dir, e)| (dir, (e.inode, e.mark))).collect()
    }
}

fn lost(path: &Path, why: &impl std::fmt::Display) -> String {
    format!("{}: {why}; groups whose marks it had count as unmarked: none is removed, no knob undone", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(group: &str) -> Body {
        let (instance, parent) = ("x".into(), "/".into());
        Body { format: 2, instance, parent, parent_inode: 1, group: group.into(), files: Default::default() }
    }

    #[test]
    fn marks_survive_a_restart_but_not_their_group() {
        let dir = std::env::temp_dir().join(format!("cgrove-ledger-{}", std::process::id()));
        let (state, group) = (StateDir::new(dir.join("state")), dir.join("group"));
        std::fs::create_dir_all(&group).unwrap();
        let inode = Standing::of(&group).unwrap().inode;
        let path = |p: &str| GroupPath::parse(p).unwrap();
        let ledger = Ledger::new(state.clone());
        ledger.set("cpu", &group, inode, body("/a"));
        ledger.save().unwrap();
        let again = Ledger::new(state.clone());
        assert_eq!(again.get("cpu", &group, inode, &path("/a")), Some((body("/a"), false)));
        assert_eq!(again.get("cpu", &group, inode, &path("/b")), Some((body("/a"), true)), "renamed");
        assert_eq!(again.get("memory", &group, inode, &path("/a")), None);
        assert_eq!(again.get("cpu", &group, inode + 1, &path("/a")), None);
        // A command beside a daemon keeps nothing.
        let beside = again.read_only();
        beside.set("cpu", &dir, 1, body("/z"));
        beside.save().unwrap();
        assert!(Ledger::new(state.clone()).get("cpu", &dir, 1, &path("/z")).is_none());
        // What is gone, and was not seen since, is forgotten.
        std::fs::remove_dir(&group).unwrap();
        let last = Ledger::new(state.clone());
        last.set("cpu", &dir, Standing::of(&dir).unwrap().inode, body("/b"));
        last.save().unwrap();
        assert_eq!(Ledger::new(state.clone()).get("cpu", &group, inode, &path("/a")), None);
        std::fs::write(dir.join("state").join(FILE), "torn").unwrap();
        assert!(Ledger::new(state).trouble_after_load().contains("unmarked"));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_the_version_before_kept_is_taken_over() {
        let dir = std::env::temp_dir().join(format!("cgrove-earlier-{}", std::process::id()));
        let state = StateDir::new(&dir);
        state.prepare().unwrap();
        let inode = Standing::of(&dir).unwrap().inode;
        let boot = Ledger::new(state.clone()).boot().to_owned();
        let text = format!(
            r#"{{"boot": "{boot}\n", "marks": {{{dir:?}: {{"inode": {inode}, "mark": {{"format": 1, "instance": "x", "parent": "/", "files": {{"../x": {{"want": "1"}}, "cpu.shares": {{"want": "5"}}}}}}}}}}}}"#
        );
        state.put_raw(EARLIER, text.as_bytes()).unwrap();
        let ledger = Ledger::new(state.clone());
        let group = GroupPath::parse("/a").unwrap();
        let (body, renamed) = ledger.get("cpu", &dir, inode, &group).unwrap();
        assert!(!renamed && body.format == 1 && body.files.keys().collect::<Vec<_>>() == ["cpu.shares"]);
        ledger.set("cpu", &dir, inode, body);
        ledger.save().unwrap();
        assert!(!dir.join(EARLIER).exists() && Ledger::new(state).has("cpu", inode));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    impl Ledger {
        fn trouble_after_load(&self) -> String {
            self.trouble().unwrap_or_default()
        }
    }
}
