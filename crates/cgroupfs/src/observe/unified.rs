//! What is particular to the v2 hierarchy: controllers have to be handed down, and files exist only where they are.

use std::collections::BTreeSet;
use std::path::Path;

use cgrove_core::ids::{Controller, ControllerSet, GroupPath};
use cgrove_core::knobs::{Side, knobs};

use crate::file::text;
use crate::host::Mount;
use crate::paths::Tree;

/// Controllers that the hierarchy has and that some directory above the parent does not hand down.
pub(super) fn closed_above(mount: &Mount, tree: &Tree) -> ControllerSet {
    let wanted = mount.controllers.switchable();
    let mut closed = ControllerSet::EMPTY;
    if !tree.parent.is_root() {
        for dir in tree.above() {
            closed = closed.union(wanted.without(handed_down(&dir)));
        }
    }
    closed
}

/// What a directory hands to those below it.
fn handed_down(dir: &Path) -> ControllerSet {
    let text = text(&dir.join("cgroup.subtree_control")).unwrap_or_default();
    text.split_whitespace().filter_map(Controller::parse).collect()
}

/// Knob files that groups have, and whether that is certain. A group shows it, the parent's leaf first; before
/// there is one with every controller, the files that kernels usually have are taken for granted.
pub(super) fn files(mount: &Mount, tree: &Tree) -> (BTreeSet<String>, bool) {
    let parent = tree.dir(&GroupPath::root());
    let leaf = tree.dir(&GroupPath::root().leaf());
    let child = || {
        let entries = std::fs::read_dir(&parent).ok()?.flatten();
        entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).next()
    };
    let witness = Some(leaf).filter(|l| l.is_dir()).or_else(child);
    let listed = witness.as_ref().and_then(|dir| std::fs::read_dir(dir).ok()).into_iter().flatten().flatten();
    let mut files: BTreeSet<String> = listed.filter_map(|e| e.file_name().into_string().ok()).collect();
    let missing = mount.controllers.switchable().without(handed_down(&parent));
    let complete = witness.is_some() && missing.is_empty();
    let unknown = if witness.is_some() { missing } else { mount.controllers };
    // bfq is a module that few load; pages of other sizes than the machine's have no files.
    let usual = |name: &str| name != "io.bfq.weight" && (!name.starts_with("hugetlb.") || has_page_size(name));
    let taken = knobs().filter(|k| k.v2 == Side::Native && unknown.contains(k.controller) && usual(k.name));
    files.extend(taken.map(|k| k.name.to_owned()));
    (files, complete)
}

fn has_page_size(file: &str) -> bool {
    let Some(size) = file.split('.').nth(1) else { return false };
    let shift = if size.ends_with("GB") {
        20
    } else if size.ends_with("MB") {
        10
    } else {
        0
    };
    let number: u64 = size.trim_end_matches(char::is_alphabetic).parse().unwrap_or(0);
    Path::new("/sys/kernel/mm/hugepages").join(format!("hugepages-{}kB", number << shift)).exists()
}
