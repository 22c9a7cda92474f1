//! The comparison, hierarchy by hierarchy, and the order of what comes out.

use std::collections::{BTreeMap, BTreeSet};

use super::group::{GroupPlan, INHERITED, Parents, knobs_of};
use super::guard::guard;
use super::inner;
use super::protect::is_built_in;
use super::prune::prune;
use super::steps::Steps;
use super::{Action, Approval, Note, Op, Plan, Policy};
use crate::actual::{Actual, Group, Hierarchy, Machine, Marked, Version};
use crate::desired::Desired;
use crate::ids::{Controller, GroupPath};
use crate::knobs::Site;

/// What would turn `actual` into `desired` under `policy`.
pub fn plan(desired: &Desired, actual: &Actual, policy: &Policy, approval: &Approval) -> Plan {
    let mut plan = Plan::default();
    let mut removals = Vec::new();
    let concerned: Vec<&Hierarchy> =
        actual.hierarchies.iter().filter(|h| h.controllers.intersects(desired.controllers)).collect();
    for controller in desired.controllers.iter() {
        if !concerned.iter().any(|h| h.controllers.contains(controller)) {
            plan.notes.push(not_mounted(controller));
        }
    }
    for hierarchy in &concerned {
        let mut steps = Steps::default();
        let refused = tune(desired, actual, hierarchy, policy, &mut steps, &mut plan.notes);
        plan.actions.extend(steps.in_order());
        let declared: BTreeSet<GroupPath> = desired.groups_in(hierarchy.controllers).map(|(p, _)| p.clone()).collect();
        let mut gone = prune(hierarchy, &declared, policy, &mut plan.notes);
        plan.refused.extend(refused.into_iter().map(|path| (hierarchy.label.clone(), path)));
        gone.retain(|a| !plan.refuses(&a.hierarchy, &a.group));
        removals.extend(gone);
    }
    plan.guard = guard(desired, &concerned, approval, &mut removals);
    for hierarchy in &concerned {
        plan.actions.extend(inner::refuge(hierarchy, &removals, &plan.actions));
    }
    plan.actions.extend(removals);
    plan
}

/// The knob files of each hierarchy that [`plan`] will look at: for a group by its path, else (new, or to be
/// unset) by its mark, which the observer adds itself.
pub fn files_to_read(
    desired: &Desired,
    machine: &Machine,
    hierarchy: &Hierarchy,
) -> BTreeMap<GroupPath, BTreeSet<String>> {
    let mut out: BTreeMap<GroupPath, BTreeSet<String>> = BTreeMap::new();
    for (path, group) in desired.groups_in(hierarchy.controllers) {
        let knobs = knobs_of(group, hierarchy);
        let has = |f: &str| hierarchy.files.contains(f);
        let site = Site { version: hierarchy.version, machine, conversion: Default::default(), has: &has };
        let resolved = site.resolve(&knobs);
        let files = out.entry(path.clone()).or_default();
        files.extend(resolved.files.into_iter().map(|f| f.file));
        files.extend(group.files.keys().cloned());
        if files.iter().any(|f| f.starts_with("memory.")) {
            files.extend(IN_USE.map(str::to_owned));
        }
        files.extend(inner::files_of(desired, hierarchy, path).into_iter().map(str::to_owned));
        if hierarchy.fills_cpusets() {
            files.extend(INHERITED.map(str::to_owned));
        }
    }
    let root = GroupPath::root();
    let files = inner::files_of(desired, hierarchy, &root);
    out.entry(root.clone()).or_default().extend(files.into_iter().map(str::to_owned));
    if hierarchy.fills_cpusets() {
        out.entry(root).or_default().extend(INHERITED.map(str::to_owned));
    }
    out
}

/// What memory limits are compared with, on v1 and v2.
const IN_USE: [&str; 3] = ["memory.usage_in_bytes", "memory.memsw.usage_in_bytes", "memory.current"];

/// Creates and writes of one hierarchy; returns the declared subtrees that are not ours to touch.
fn tune(
    desired: &Desired,
    actual: &Actual,
    hierarchy: &Hierarchy,
    policy: &Policy,
    steps: &mut Steps,
    notes: &mut Vec<Note>,
) -> Vec<GroupPath> {
    let mut refused: Vec<GroupPath> = Vec::new();
    let mut parents = Parents::default();
    let root = GroupPath::root();
    let mut note = |group: &GroupPath, knob: Option<&str>, text: String| {
        notes.push(Note { hierarchy: hierarchy.label.clone(), group: group.clone(), knob: knob.map(Into::into), text });
    };
    let nothing = crate::desired::Group::default();
    if desired.groups_in(hierarchy.controllers).next().is_some() {
        GroupPlan { hierarchy, machine: &actual.machine, policy, path: &root, desired: &nothing }.run(
            &mut parents,
            steps,
            &mut note,
        );
        inner::prepare(desired, hierarchy, &root, steps);
        mark_leaf_again(hierarchy, &root, steps);
    }
    for (path, group) in desired.groups_in(hierarchy.controllers) {
        if refused.iter().any(|r| path.is_below(r)) {
            continue;
        }
        if is_built_in(hierarchy, path) {
            note(path, None, "refused: this name belongs to another manager (systemd, a container runtime, ...) and the group exists; choose another name".into());
            refused.push(path.clone());
            continue;
        }
        if let Some(Marked::Foreign(who)) = hierarchy.groups.get(path).map(|g| &g.mark) {
            note(path, None, format!("refused: {who}"));
            refused.push(path.clone());
            continue;
        }
        if hierarchy.groups.get(path).is_some_and(|g| g.threaded) {
            note(path, None, "refused: the group is threaded (cgroup.type), so someone spreads threads over it; it and what is below is left alone".into());
            refused.push(path.clone());
            continue;
        }
        let foreign_leaf =
            || hierarchy.groups.get(&path.leaf()).is_some_and(|leaf| matches!(leaf.mark, Marked::Foreign(_)));
        if hierarchy.version == Version::V2 && foreign_leaf() {
            note(path, None, "a user made the group _tasks in it, so nobody is put there: remove it, and it is made anew where a leaf is needed".into());
        }
        GroupPlan { hierarchy, machine: &actual.machine, policy, path, desired: group }.run(
            &mut parents,
            steps,
            &mut note,
        );
        let foreign = hierarchy.groups.get(path).is_some_and(|g| g.mark == Marked::No);
        let before = steps.creates.len();
        if inner::prepare(desired, hierarchy, path, steps) && foreign && !steps.adopts(before, path) {
            steps.creates.push(Action::new(hierarchy, path, Op::Adopt { files: Vec::new() }));
        }
        mark_leaf_again(hierarchy, path, steps);
    }
    refused
}

/// A leaf is declared with its group.
fn mark_leaf_again(hierarchy: &Hierarchy, path: &GroupPath, steps: &mut Steps) {
    if hierarchy.version != Version::V2 {
        return;
    }
    let leaf = path.leaf();
    if hierarchy.groups.get(&leaf).is_some_and(Group::is_stale) {
        steps.creates.push(Action::new(hierarchy, &leaf, Op::Adopt { files: Vec::new() }));
    }
}

fn not_mounted(controller: Controller) -> Note {
    let text = match controller {
        Controller::Core => "only cgroup v2 has cgroup.* limits; what concerns them is left out".into(),
        _ => format!("no hierarchy with {} is mounted; what concerns it is left out", controller.v1_name()),
    };
    Note { hierarchy: controller.v1_name().into(), group: GroupPath::root(), knob: None, text }
}
