//! The guard: removals that look like a mistake wait for a second opinion.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Action, Approval, Op, Removal};
use crate::actual::Hierarchy;
use crate::desired::Desired;
use crate::ids::GroupPath;

/// A set of removals that asked for approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Guard {
    /// What `cgrove approve` takes: 16 hex digits over the document and the removals.
    pub digest: String,
    /// Why it asked.
    pub why: String,
    /// How many groups (paths) would go.
    pub groups: usize,
    pub approved: bool,
}

/// Decides on the removals, and holds them unless they are few or approved.
pub(super) fn guard(
    desired: &Desired,
    hierarchies: &[&Hierarchy],
    approval: &Approval,
    removals: &mut [Action],
) -> Option<Guard> {
    let due: BTreeSet<Removal> = removals
        .iter()
        .filter(|a| a.op == Op::Remove && a.held.is_none())
        .map(|a| (a.hierarchy.clone(), a.group.clone()))
        .collect();
    // Leaves come and go with their groups.
    let going: BTreeSet<&GroupPath> = due.iter().map(|(_, path)| path).filter(|p| !p.is_leaf()).collect();
    let waiting = || (!due.is_disjoint(&approval.held)).then(|| "held earlier and not approved since".to_owned());
    let why = reason(desired, hierarchies, &going).or_else(waiting)?;
    let listing: String = due.iter().map(|(h, p)| format!("{h} {p}\n")).collect();
    let digest = crate::document::digest(format!("{}\n{listing}", desired.digest).as_bytes());
    let by_document = desired.allow_removals.is_some() && desired.allow_removals == approval.previous;
    let approved = by_document || approval.digests.contains(&digest) || due.is_subset(&approval.removals);
    if !approved {
        for action in removals.iter_mut().filter(|a| a.held.is_none()) {
            action.held = Some(format!("guard: {why}; `cgrove approve {digest}` lets it go"));
        }
    }
    Some(Guard { digest, why, groups: going.len(), approved })
}

fn reason(desired: &Desired, hierarchies: &[&Hierarchy], going: &BTreeSet<&GroupPath>) -> Option<String> {
    if going.is_empty() {
        return None;
    }
    if desired.groups.is_empty() {
        return Some("the document is empty".into());
    }
    let existing = || hierarchies.iter().flat_map(|h| &h.groups).filter(|(path, _)| !path.is_root() && !path.is_leaf());
    let owned: BTreeSet<&GroupPath> = existing().filter(|(_, g)| g.ours().is_some()).map(|(path, _)| path).collect();
    // What stays for other reasons (protected, frozen) does not make it a smaller change.
    if !owned.is_empty() && !owned.iter().any(|path| desired.groups.contains_key(*path)) {
        return Some(format!("every managed group would go ({} of them)", owned.len()));
    }
    // Anybody to whom a group was given can make others below it: they never make a change look smaller.
    let declared = existing().map(|(path, _)| path).filter(|path| desired.groups.contains_key(*path));
    let managed = owned.iter().copied().chain(declared).collect::<BTreeSet<_>>().len();
    let most = 3.max(managed / 2);
    (going.len() > most)
        .then(|| format!("{} groups would go, more than {most}: {managed} groups are managed", going.len()))
}
