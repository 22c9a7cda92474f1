//! `cgrove why PID`: which pid file or rule decides where a process belongs, and where it is.

use std::collections::BTreeSet;

use cgrove_cgroupfs::attach::Origins;
use cgrove_cgroupfs::host::Host;
use cgrove_cgroupfs::paths;
use cgrove_core::desired::Desired;
use cgrove_core::ids::GroupPath;
use cgrove_core::plan::{Approval, plan};
use serde_json::json;

use super::args::Args;
use super::document;
use crate::claims::Answers;
use crate::engine;
use crate::exit::Exit;
use crate::tasks::Subject;
use crate::term;
use cgrove_config::Config;

pub(super) fn run(args: &Args, pids: &[i32]) -> Result<u8, Exit> {
    let config = document::load(args)?;
    let desired = document::in_force(&config)?;
    let engine::Scenery { host, actual, desired, .. } = engine::observe(&config, &desired)?;
    let plan = plan(&desired, &actual, &config.cgroup.policy, &Approval::default());
    let refused = |hierarchy: &str, group: &GroupPath| plan.refuses(hierarchy, group);
    let subject =
        Subject { config: &config, host: &host, desired: &desired, refused: &refused, answers: &Answers::default() };
    let sources = subject.sources();
    let (look, reasons) = subject.look_for(&sources, &mut Origins::default(), pids);
    document::warn_unless_root();
    for problem in &look.problems {
        term::err(&format!("cgrove: not followed: {problem}"));
    }
    let mut report = Vec::new();
    for (pid, (group, why)) in pids.iter().zip(reasons) {
        let text = std::fs::read_to_string(cgrove_cgroupfs::proc_dir(*pid).join("cgroup")).unwrap_or_default();
        let places: Vec<_> =
            host.mounts.iter().filter_map(|m| Some((m.label.clone(), paths::cgroup_of(&text, &m.label)?))).collect();
        let moves: BTreeSet<_> = look.misplaced.moves.iter().filter(|m| m.pid == *pid).map(|m| &m.hierarchy).collect();
        let alone: Vec<_> =
            look.misplaced.left_alone.iter().filter(|l| l.starts_with(&format!("pid {pid} "))).collect();
        let state = match &group {
            None if text.is_empty() => "nothing is moved".to_owned(),
            None => "it stays where it is".to_owned(),
            Some(_) if !alone.is_empty() => "it is left alone".to_owned(),
            Some(_) if !moves.is_empty() => {
                format!("it is to be moved in {}", moves.iter().map(|h| h.as_str()).collect::<Vec<_>>().join(", "))
            }
            Some(group) => settled(&config, &host, &desired, group, &text, &refused),
        };
        let name = std::fs::read_to_string(cgrove_cgroupfs::proc_dir(*pid).join("comm")).unwrap_or_default();
        if args.global.json() {
            let places: serde_json::Map<_, _> = places.into_iter().map(|(h, p)| (h, p.into())).collect();
            report.push(json!({"pid": pid, "name": name.trim(), "group": group, "why": why, "state": state, "left_alone": alone, "places": places}));
            continue;
        }
        let to = group.as_ref().map_or_else(|| "no group".to_owned(), ToString::to_string);
        term::out(&format!("{pid} {}: {to}; {why}; {state}", name.trim()));
        for line in alone {
            term::out(&format!("    {line}"));
        }
        for (hierarchy, place) in places {
            term::out(&format!("    {hierarchy:<16} {place}"));
        }
    }
    if args.global.json() {
        term::json(&report);
    }
    Ok(0)
}

/// Nothing is to be moved: because it is there, or because it cannot be.
fn settled(
    config: &Config,
    host: &Host,
    desired: &Desired,
    group: &GroupPath,
    cgroups: &str,
    refused: &dyn Fn(&str, &GroupPath) -> bool,
) -> String {
    let controllers = desired.groups.get(group).map(|g| g.controllers).unwrap_or_default();
    for mount in host.with(controllers) {
        let tree = paths::Tree::new(mount, config.parents());
        if refused(&mount.label, group) {
            return format!("that group is refused in {}; `cgrove plan` says why", mount.label);
        }
        if !tree.dir(group).is_dir() {
            return format!("that group is not there yet in {}", mount.label);
        }
        let place = paths::cgroup_of(cgroups, &mount.label).and_then(|p| tree.group_of(&p));
        if !place.is_some_and(|p| p == *group || p.is_below(group)) {
            return format!("it is not in its group in {}", mount.label);
        }
    }
    "it is in place".into()
}
