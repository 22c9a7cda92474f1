//! cgroup v2's own rules: controllers are enabled from the top, and a group that enables any for groups below may
//! hold no process itself, so those sit in a leaf.

use super::steps::Steps;
use super::{Action, Op, Write};
use crate::actual::{Group, Hierarchy, Marked, Version};
use crate::desired::Desired;
use crate::ids::{Controller, ControllerSet, GroupPath};
use crate::knobs::Want;

/// The file that hands controllers to the groups below.
const SUBTREE: &str = "cgroup.subtree_control";

/// Does the group have declared groups below it in the hierarchy?
fn has_children(desired: &Desired, hierarchy: &Hierarchy, path: &GroupPath) -> bool {
    below(desired, hierarchy, path).next().is_some()
}

fn below<'a>(
    desired: &'a Desired,
    hierarchy: &'a Hierarchy,
    path: &'a GroupPath,
) -> impl Iterator<Item = &'a crate::desired::Group> {
    // Documents list a group before its descendants, and these directly after it.
    let start = desired.groups.get_index_of(path).map_or(0, |i| i + 1);
    let inside = desired.groups.iter().skip(start).take_while(move |(p, _)| path.is_root() || p.is_below(path));
    inside
        .filter(move |(p, g)| g.controllers.intersects(hierarchy.controllers) && p.up().as_ref() == Some(path))
        .map(|(_, g)| g)
}

/// What an inner group needs before anything is made below it. Returns whether there was anything to do.
pub(super) fn prepare(desired: &Desired, hierarchy: &Hierarchy, path: &GroupPath, steps: &mut Steps) -> bool {
    if hierarchy.version != Version::V2 || !has_children(desired, hierarchy, path) {
        return false;
    }
    let before = steps.creates.len();
    let act = |group: &GroupPath, op| Action::new(hierarchy, group, op);
    if path.is_root() && !hierarchy.closed_above.is_empty() {
        let controllers = in_order(hierarchy.closed_above, ControllerSet::EMPTY);
        let controllers = controllers.into_iter().map(str::to_owned).collect();
        steps.creates.push(act(path, Op::EnableAbove { controllers }));
    }
    let leaf = path.leaf();
    let there = hierarchy.groups.get(&leaf);
    // A user's own: nobody is put there.
    let theirs = there.is_some_and(|l| matches!(l.mark, Marked::Foreign(_)));
    if there.is_none() {
        steps.creates.push(act(&leaf, Op::Create));
    }
    // The parent hands down everything, so that no one above can take it away; others what their groups need.
    let wanted = if path.is_root() {
        hierarchy.controllers
    } else {
        below(desired, hierarchy, path).fold(ControllerSet::EMPTY, |all, g| all.union(g.controllers))
    };
    let wanted: ControllerSet = wanted.switchable().iter().filter(|c| hierarchy.controllers.contains(*c)).collect();
    let want = Want::Enabled(in_order(wanted, hierarchy.controllers));
    let existing = hierarchy.groups.get(path);
    let now = existing.and_then(|g| g.values.get(SUBTREE)).map_or("", String::as_str);
    if !want.matches(now, 0) {
        // The hierarchy's own root may hold processes, and holds the kernel's threads.
        if existing.is_some_and(occupied) && !theirs && !(path.is_root() && hierarchy.at_root) {
            steps.creates.push(act(path, Op::Settle));
        }
        steps.creates.push(act(
            path,
            Op::Write(Box::new(Write {
                file: SUBTREE.into(),
                knob: SUBTREE.into(),
                from: existing.map(|_| now.trim().to_owned()),
                to: want.writes(now),
                because: None,
                record: None,
                want: Some(want),
            })),
        ));
    }
    steps.creates.len() > before
}

/// Domain controllers first: with them the kernel refuses a group that holds processes, instead of making it the root
/// of a threaded subtree. Where none is wanted, the cheapest there is keeps processes out of the group from now on.
fn in_order(wanted: ControllerSet, available: ControllerSet) -> Vec<&'static str> {
    const CHEAPEST: [Controller; 5] =
        [Controller::Misc, Controller::Rdma, Controller::Hugetlb, Controller::Io, Controller::Memory];
    let mut wanted = wanted;
    if !wanted.is_empty() && !wanted.iter().any(Controller::is_domain) {
        wanted.extend(CHEAPEST.into_iter().find(|c| available.contains(*c)));
    }
    let (domain, threaded): (Vec<_>, Vec<_>) = wanted.iter().partition(|c| c.is_domain());
    domain.into_iter().chain(threaded).map(Controller::name).collect()
}

fn occupied(group: &Group) -> bool {
    group.values.get("cgroup.procs").is_some_and(|pids| !pids.trim().is_empty())
}

/// Where the processes of groups that go end up at last: the parent's leaf. It is made again if someone removed it,
/// unless `actions` make it anyway.
pub(super) fn refuge(hierarchy: &Hierarchy, removals: &[Action], actions: &[Action]) -> Option<Action> {
    let leaf = GroupPath::root().leaf();
    let goes = |a: &Action| a.hierarchy == hierarchy.label && a.held.is_none();
    let needed = hierarchy.version == Version::V2 && !hierarchy.at_root && removals.iter().any(goes);
    let made = |a: &Action| a.hierarchy == hierarchy.label && a.group == leaf && a.op == Op::Create;
    let there = hierarchy.groups.contains_key(&leaf) || actions.iter().any(made);
    (needed && !there).then(|| Action::new(hierarchy, &leaf, Op::Create))
}

/// The files beside knobs that a group's plan looks at.
pub(super) fn files_of(desired: &Desired, hierarchy: &Hierarchy, path: &GroupPath) -> Vec<&'static str> {
    if hierarchy.version == Version::V2 && has_children(desired, hierarchy, path) {
        vec![SUBTREE, "cgroup.procs"]
    } else {
        Vec::new()
    }
}
