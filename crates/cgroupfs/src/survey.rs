//! Everything that groups say: for a document of what is there already.

use std::collections::BTreeMap;

use cgrove_core::document::Surveyed;
use cgrove_core::ids::GroupPath;
use cgrove_core::knobs::find;

use crate::file::text;
use crate::host::{Host, Parents};
use crate::paths::Tree;

/// Reads every group below the parents, in every hierarchy. What vanishes meanwhile is left out.
pub fn survey(host: &Host, parents: &Parents) -> Vec<Surveyed> {
    let mut out = Vec::new();
    for mount in &host.mounts {
        let tree = Tree::new(mount, parents);
        let mut groups = BTreeMap::new();
        let mut todo = vec![GroupPath::root()];
        while let Some(path) = todo.pop() {
            let Ok(entries) = std::fs::read_dir(tree.dir(&path)) else { continue };
            let mut files = BTreeMap::new();
            for entry in entries.flatten() {
                let name = entry.file_name();
                let Some(name) = name.to_str() else { continue };
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    todo.extend(path.child(name));
                } else if find(name).is_some()
                    && let Ok(text) = text(&entry.path())
                {
                    files.insert(name.to_owned(), text);
                }
            }
            groups.insert(path, files);
        }
        out.push(Surveyed {
            label: mount.label.clone(),
            at_root: tree.parent.is_root(),
            version: mount.version,
            controllers: mount.controllers,
            groups,
        });
    }
    out
}
