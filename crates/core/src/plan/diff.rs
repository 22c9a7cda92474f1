//! The comparison, hierarchy by hierarchy, and the order of what comes out.

use std::collections::{BTreeMap, BTreeSet};

use super::group::{GroupPlan, INHERITED, Parents, knobs_of};
use super::guard::guard;
use super::protect::is_built_in;
use super::prune::prune;
use super::steps::Steps;
use super::{Approval, Note, Plan, Policy};
use crate::actual::{Actual, Hierarchy, Marked, Version};
use crate::desired::Desired;
use crate::ids::{Controller, GroupPath};
use crate::knobs::resolve_v1;

/// What would turn `actual` into `desired` under `policy`.
pub fn plan(desired: &Desired, actual: &Actual, policy: &Policy, approval: &Approval) -> Plan {
    let mut plan = Plan::default();
    let mut removals = Vec::new();
    let concerned: Vec<&Hierarchy> = actual
        .hierarchies
        .iter()
        .filter(|h| h.version == Version::V1 && h.controllers.intersects(desired.controllers))
        .collect();
    for controller in desired.controllers.iter() {
        if !concerned.iter().any(|h| h.controllers.contains(controller)) {
            plan.notes.push(not_mounted(actual, controller));
        }
    }
    for hierarchy in &concerned {
        let mut steps = Steps::default();
        let refused = tune(desired, actual, hierarchy, policy, &mut steps, &mut plan.notes);
        plan.actions.extend(steps.in_order());
        let declared: BTreeSet<&GroupPath> = desired.groups_in(hierarchy.controllers).map(|(p, _)| p).collect();
        let mut gone = prune(hierarchy, &declared, policy, &mut plan.notes);
        plan.refused.extend(refused.into_iter().map(|path| (hierarchy.label.clone(), path)));
        gone.retain(|a| !plan.refuses(&a.hierarchy, &a.group));
        removals.extend(gone);
    }
    plan.guard = guard(desired, &concerned, approval, &mut removals);
    plan.actions.extend(removals);
    plan
}

/// The knob files of each hierarchy that [`plan`] will look at: for a group by its path, else (new, or to be
/// unset) by its mark, which the observer adds itself.
pub fn files_to_read(desired: &Desired, hierarchy: &Hierarchy) -> BTreeMap<GroupPath, BTreeSet<String>> {
    let machine = crate::actual::Machine { memory: 1, cpus: 1, page: 1 };
    let mut out: BTreeMap<GroupPath, BTreeSet<String>> = BTreeMap::new();
    for (path, group) in desired.groups_in(hierarchy.controllers) {
        let knobs = knobs_of(group, hierarchy);
        let resolved = resolve_v1(&knobs, &machine, Default::default(), &|f| hierarchy.files.contains(f));
        let files = out.entry(path.clone()).or_default();
        files.extend(resolved.files.into_iter().map(|f| f.file));
        files.extend(group.files.keys().cloned());
        if files.iter().any(|f| f.starts_with("memory.")) {
            files.insert("memory.usage_in_bytes".into());
            files.insert("memory.memsw.usage_in_bytes".into());
        }
        if hierarchy.controllers.contains(Controller::Cpuset) {
            files.extend(INHERITED.map(str::to_owned));
        }
    }
    if hierarchy.controllers.contains(Controller::Cpuset) {
        out.entry(GroupPath::root()).or_default().extend(INHERITED.map(str::to_owned));
    }
    out
}

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
            note(path, None, format!("refused: the group belongs to another cgrove ({who})"));
            refused.push(path.clone());
            continue;
        }
        GroupPlan { hierarchy, machine: &actual.machine, policy, path, desired: group }.run(
            &mut parents,
            steps,
            &mut note,
        );
    }
    refused
}

fn not_mounted(actual: &Actual, controller: Controller) -> Note {
    let on_v2 = actual.hierarchies.iter().any(|h| h.version == Version::V2 && h.controllers.contains(controller));
    let text = if on_v2 {
        format!(
            "{controller} is on cgroup v2 here, which this version of cgrove does not drive yet; what concerns it is left out"
        )
    } else {
        format!("no hierarchy with {} is mounted; what concerns it is left out", controller.v1_name())
    };
    Note { hierarchy: controller.v1_name().into(), group: GroupPath::root(), knob: None, text }
}
