//! Which groups go: undeclared, unprotected, and within what `cgroup.prune` allows.

use std::collections::BTreeSet;

use super::{Action, Note, Op, Policy, Prune};
use crate::actual::{Hierarchy, Marked, Version};
use crate::ids::GroupPath;

/// Removals of one hierarchy, children first.
pub(super) fn prune(
    hierarchy: &Hierarchy,
    declared: &BTreeSet<GroupPath>,
    policy: &Policy,
    notes: &mut Vec<Note>,
) -> Vec<Action> {
    if policy.prune == Prune::None {
        return Vec::new();
    }
    let kept = policy.protected.kept(hierarchy);
    // On v1 the name means nothing.
    let is_leaf = |path: &GroupPath| hierarchy.version == Version::V2 && path.is_leaf();
    let mut blocked: BTreeSet<GroupPath> = BTreeSet::new();
    let mut out = Vec::new();
    // Children come after their parents in the map, so walking backwards sees them first.
    for (path, group) in hierarchy.groups.iter().rev().filter(|(p, _)| !p.is_root() && !is_leaf(p)) {
        if declared.contains(path) {
            continue;
        }
        let ours = group.ours().is_some();
        let wanted = policy.prune == Prune::All || ours;
        if !wanted || kept.contains(path) {
            blocked.insert(path.clone());
            if ours && kept.contains(path) {
                notes.push(note(hierarchy, path, "no longer in the document, but protected: left as it is"));
            }
            continue;
        }
        let blocking = hierarchy
            .groups
            .range(path.clone()..)
            .skip(1)
            .take_while(|(p, _)| p.is_below(path))
            .find(|(p, _)| blocked.contains(*p));
        if let Some((child, _)) = blocking {
            notes.push(note(
                hierarchy,
                path,
                &format!("no longer in the document, but {child} below it is not ours: left as it is"),
            ));
            blocked.insert(path.clone());
            continue;
        }
        let frozen_below =
            hierarchy.groups.range(path.clone()..).skip(1).take_while(|(p, _)| p.is_below(path)).any(|(_, g)| g.frozen);
        // On v2 a group does not show that one above it is frozen.
        let frozen_above = path
            .ancestors()
            .any(|p| !declared.contains(&p) && hierarchy.groups.get(&p).is_some_and(|above| above.frozen));
        let frozen = group.frozen || frozen_below || frozen_above;
        let held = frozen.then(|| "frozen: its processes would be thawed; thaw it first".to_owned());
        // Its leaf goes with it, after everything else below.
        let leaf = path.leaf();
        // By its name it is ours, also when we died between making and marking it.
        if is_leaf(&leaf) && hierarchy.groups.get(&leaf).is_some_and(|l| !matches!(l.mark, Marked::Foreign(_))) {
            let held = held.clone();
            out.push(Action { hierarchy: hierarchy.label.clone(), group: leaf, op: Op::Remove, held });
        }
        out.push(Action { hierarchy: hierarchy.label.clone(), group: path.clone(), op: Op::Remove, held });
    }
    out
}

fn note(hierarchy: &Hierarchy, path: &GroupPath, text: &str) -> Note {
    Note { hierarchy: hierarchy.label.clone(), group: path.clone(), knob: None, text: text.into() }
}
