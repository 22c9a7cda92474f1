//! `cgrove cgexec` and `cgrove exec`: running something in a group by hand.

use std::os::unix::process::CommandExt;
use std::process::Command;

use cgrove_cgroupfs::apply::{Apply, Outcome};
use cgrove_cgroupfs::host::{Host, Mount};
use cgrove_cgroupfs::lock::daemon;
use cgrove_cgroupfs::paths::Tree;
use cgrove_core::actual::Version;
use cgrove_core::desired::Desired;
use cgrove_core::document::nearest;
use cgrove_core::ids::{Controller, ControllerSet, GroupPath};
use cgrove_core::plan::{Action, Approval, Op, plan};

use super::args::Args;
use super::document;
use crate::engine;
use crate::exit::Exit;
use crate::term;
use cgrove_config::Config;

/// Prints cgexec's arguments. Reads only; `--create` makes missing groups.
pub(super) fn lookup(args: &Args, names: &[String], create: bool, all: bool) -> Result<u8, Exit> {
    let config = document::load(args)?;
    let desired = document::in_force(&config)?;
    let mut found = Vec::new();
    for name in names {
        found.push((name, paths_of(&desired, name, all)?));
    }
    if create {
        make(&config, &desired, found.iter().flat_map(|(_, paths)| paths))?;
    }
    let host = Host::discover(&config.cgroup.dir)?;
    let mut json = serde_json::Map::new();
    for (name, paths) in found {
        let text: Result<Vec<_>, Exit> = paths.iter().map(|path| arguments(&config, &host, &desired, path)).collect();
        let text = text?.join(" ");
        if args.global.json() {
            json.insert(name.clone(), text.into());
        } else {
            term::out(&text);
        }
    }
    if args.global.json() {
        term::json(&json);
    }
    Ok(0)
}

/// The one group that a name or path means.
pub(super) fn path_of(desired: &Desired, name: &str) -> Result<GroupPath, Exit> {
    Ok(paths_of(desired, name, false)?.remove(0))
}

/// The groups that a name or path means: exactly one, unless all are asked for.
fn paths_of(desired: &Desired, name: &str, all: bool) -> Result<Vec<GroupPath>, Exit> {
    let paths: Vec<GroupPath> = desired.lookup(name).into_iter().cloned().collect();
    match &paths[..] {
        [] => {
            let known = desired.groups.keys().map(|p| if name.starts_with('/') { p.as_str() } else { p.name() });
            let hint = nearest(name, known).map(|n| format!("; did you mean {n}?")).unwrap_or_default();
            Err(Exit::usage(format!("the document has no group {name:?}{hint}")))
        }
        [_] => Ok(paths),
        _ if all => Ok(paths),
        _ => {
            let list: Vec<_> = paths.iter().map(GroupPath::as_str).collect();
            Err(Exit::usage(format!("{name:?} stands at {}; use the path, or --all", list.join(", "))))
        }
    }
}

/// The hierarchies that should have the group.
fn mounts<'a>(host: &'a Host, desired: &Desired, path: &GroupPath) -> Vec<&'a Mount> {
    let mut mounts: Vec<_> = desired.groups.get(path).map(|g| host.with(g.controllers).collect()).unwrap_or_default();
    // In the order in which controllers are listed everywhere, not that of the mounts.
    mounts.sort_by_key(|m| m.controllers.iter().next());
    mounts
}

/// `-g cpu:/b/b1`, one for each hierarchy; cpuacct mounted apart is named together with cpu.
fn arguments(config: &Config, host: &Host, desired: &Desired, path: &GroupPath) -> Result<String, Exit> {
    let mut out = Vec::new();
    let mounts = mounts(host, desired, path);
    let has_cpu = mounts.iter().any(|m| m.controllers.contains(Controller::Cpu));
    for mount in &mounts {
        let tree = Tree::new(mount, config.parents());
        if !tree.dir(path).is_dir() {
            term::err(&format!(
                "cgrove: warning: {path} does not exist in {} yet; the daemon, `cgrove apply` or --create makes it",
                mount.label
            ));
        }
        let apart = !mount.controllers.contains(Controller::Cpuacct);
        let first = mount.label.split(',').next().unwrap_or_default();
        let names = match first {
            _ if mount.controllers.contains(Controller::Cpu)
                && apart
                && mounts.iter().any(|m| m.controllers.contains(Controller::Cpuacct)) =>
            {
                "cpu,cpuacct"
            }
            _ if mount.controllers.contains(Controller::Cpu) => "cpu",
            "cpuacct" if has_cpu => continue,
            other => other,
        };
        let seat = seat(&tree, desired, mount, path);
        let names = match mount.version {
            Version::V1 => Some(names),
            Version::V2 => name_on_v2(&tree, desired, mount, path, &seat),
        };
        match names {
            Some(names) => out.push(format!("-g {names}:{}", plain(&tree.from_root(&seat).to_string())?)),
            None => term::err(&format!(
                "cgrove: warning: libcgroup cannot name {path} on cgroup v2, where no controller is handed down to it; \
                 `cgrove exec {path} -- COMMAND` joins it there too"
            )),
        }
    }
    Ok(out.join(" "))
}

/// A shell splits and expands what `$(cgrove cgexec NAME)` prints, quoted or not: only what it leaves alone is printed.
fn plain(path: &str) -> Result<&str, Exit> {
    if path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_.@:,+=-".contains(&b)) {
        return Ok(path);
    }
    Err(Exit::config(format!(
        "{path:?} cannot be given to a shell: cgroup.parent has other characters than letters, digits and / _ . @ : , + = -; \
         choose another parent, or use `cgrove exec GROUP -- COMMAND`"
    )))
}

/// A v2 hierarchy by a name that libcgroup takes: it asks for a controller that is handed down to the very group.
/// cpu, else the first other one; for a group that is not there yet, one that it will have.
fn name_on_v2(
    tree: &Tree,
    desired: &Desired,
    mount: &Mount,
    path: &GroupPath,
    seat: &GroupPath,
) -> Option<&'static str> {
    let above = seat.up().unwrap_or_else(GroupPath::root);
    let listed = std::fs::read_to_string(tree.file(&above, "cgroup.subtree_control"));
    let handed_down: ControllerSet = match &listed {
        Ok(text) if !text.trim().is_empty() => text.split_whitespace().filter_map(Controller::parse).collect(),
        _ => desired.groups.get(path).map(|g| g.controllers).unwrap_or_default(),
    };
    handed_down.switchable().iter().find(|c| mount.controllers.contains(*c)).map(Controller::name)
}

/// Where the group's processes are kept, or will be once it is made.
fn seat(tree: &Tree, desired: &Desired, mount: &Mount, path: &GroupPath) -> GroupPath {
    let inner = desired.groups_in(mount.controllers).any(|(p, _)| p.is_below(path));
    if mount.version == Version::V2 && inner && !tree.leaf_is_theirs(path) { path.leaf() } else { tree.seat(path) }
}

/// Creates these groups and what is above them, nothing else.
fn make<'a>(config: &Config, desired: &Desired, paths: impl Iterator<Item = &'a GroupPath>) -> Result<(), Exit> {
    let wanted: Vec<GroupPath> =
        paths.flat_map(|p| std::iter::once(p.clone()).chain(p.ancestors())).flat_map(|p| [p.leaf(), p]).collect();
    engine::make_parent(config, desired)?;
    let engine::Scenery { host, actual, .. } = engine::observe(config, desired)?;
    let plan = plan(desired, &actual, &config.cgroup.policy, &Approval::default());
    // A group comes with its knobs: without them a process could run unlimited for a moment.
    let fresh =
        |g: &GroupPath, h: &str| plan.actions.iter().any(|a| a.op == Op::Create && a.group == *g && a.hierarchy == h);
    let hands_down =
        |op: &Op| matches!(op, Op::Settle) || matches!(op, Op::Write(w) if w.file == "cgroup.subtree_control");
    let needed = |a: &&Action| wanted.contains(&a.group) && (fresh(&a.group, &a.hierarchy) || hands_down(&a.op));
    let actions: Vec<_> = plan.due().filter(needed).cloned().collect();
    // What a running daemon keeps is not this command's to write: it marks such groups itself when it sees them.
    let identity = match daemon(&host, config.parents()) {
        Some(_) => config.cgroup.identity.beside_a_daemon(),
        None => config.cgroup.identity.clone(),
    };
    let mut apply = Apply::new(&host, &identity, &actual, &actions);
    for action in &actions {
        if let Outcome::Failed { fault } = apply.run(action) {
            match action.op {
                Op::Create => return Err(fault.into()),
                _ => term::err(&format!("cgrove: warning: {fault}")),
            }
        }
    }
    apply.finish();
    Ok(())
}

/// Joins the group and becomes the command.
pub(super) fn exec(args: &Args, group: &str, command: &[String]) -> Result<u8, Exit> {
    let own = |e: Exit| e.with_code(125);
    let config = document::load(args).map_err(own)?;
    let desired = document::in_force(&config).map_err(own)?;
    let path = paths_of(&desired, group, false).map_err(own)?.remove(0);
    let host = Host::discover(&config.cgroup.dir).map_err(|e| own(e.into()))?;
    for mount in mounts(&host, &desired, &path) {
        let tree = Tree::new(mount, config.parents());
        let seat = seat(&tree, &desired, mount, &path);
        let file = tree.procs(&seat);
        if let Some(master) = tree.master(&seat).filter(|master| *master != nix::unistd::geteuid().as_raw()) {
            let why = "who could freeze and kill the command: remove the group, so that it is made anew, or chown what is in it to root";
            return Err(own(Exit::unavailable(format!("{}: user {master} controls the group, {why}", file.display()))));
        }
        // 0 means the writer itself.
        std::fs::write(&file, "0").map_err(|e| {
            let mend = match e.kind() {
                std::io::ErrorKind::NotFound => "; the daemon, `cgrove apply` or `cgrove cgexec --create` makes it",
                std::io::ErrorKind::PermissionDenied => "; run as root",
                _ => "",
            };
            own(Exit::unavailable(format!("{}: {e}{mend}", file.display())))
        })?;
    }
    let error = Command::new(&command[0]).args(&command[1..]).exec();
    let code = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
    Err(Exit::unavailable(format!("{}: {error}", command[0])).with_code(code))
}
