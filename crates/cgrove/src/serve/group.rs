//! One group for people: what is declared, what the kernel has, and who is in it.

use std::sync::Arc;

use cgrove_cgroupfs::paths::Tree;
use cgrove_core::ids::GroupPath;
use cgrove_core::plan::compare;
use serde_json::{Value, json};

use super::peer::Peer;
use super::problem::Problem;
use super::{BUSY, Library};
use crate::engine::{self, Scenery};

/// Longest list of processes.
const MOST_PIDS: usize = 1000;

/// Reads the kernel, so that what is shown is what is there now.
pub(super) async fn get_group(library: &Library, whose: Peer, path: &GroupPath) -> Result<Value, Problem> {
    let document = library.document.borrow().clone();
    let document = document.ok_or_else(|| Problem::Away("no document is in force".into()))?;
    if !path.is_root() && !document.desired.groups.contains_key(path) {
        return Err(Problem::Unknown(format!("the document has no group {path}; list_groups has them all")));
    }
    let Some(_turn) = library.wide.take(whose, 1).await else { return Err(Problem::Away(BUSY.into())) };
    let config = Arc::clone(&library.config);
    tokio::task::block_in_place(|| {
        // Only this group and those above it: a look at one costs the same in a large tree.
        let narrow = document.desired.on_the_way_to(path);
        let Scenery { host, actual, desired, .. } =
            engine::observe(&config, &narrow).map_err(|e| Problem::Away(e.to_string()))?;
        let knobs = compare(&desired, &actual, &config.cgroup.policy, path);
        let mut pids: Vec<i32> = Vec::new();
        let mut places = Vec::new();
        for hierarchy in &actual.hierarchies {
            let Some(mount) = host.mount(&hierarchy.label) else { continue };
            let Some(there) = hierarchy.groups.get(path) else { continue };
            let tree = Tree::new(mount, config.parents());
            let listed = std::fs::read_to_string(tree.procs(&tree.seat(path))).unwrap_or_default();
            pids.extend(listed.lines().filter_map(|l| l.parse::<i32>().ok()));
            places.push(json!({
                "hierarchy": hierarchy.label,
                "directory": tree.dir(path),
                "owned": there.ours().is_some(),
                "frozen": there.frozen,
            }));
        }
        pids.sort_unstable();
        pids.dedup();
        let processes = pids.len();
        pids.truncate(MOST_PIDS);
        Ok(json!({ "group": path, "places": places, "knobs": knobs, "processes": processes, "pids": pids }))
    })
}
