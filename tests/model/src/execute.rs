//! What an observer sees of the model, and what apply does to it with a plan: see cgroupfs/observe.rs and apply.rs.

use std::collections::{BTreeMap, BTreeSet};

use cgrove_core::actual::{Group, Hierarchy, MARK_FORMAT, Mark, Marked, Set, Version};
use cgrove_core::ids::{Controller, ControllerSet, GroupPath};
use cgrove_core::plan::{Action, Op, Plan, Write};

use crate::model::{Model, tracked};
use crate::{Cgroups, Errno};

const SUBTREE: &str = "cgroup.subtree_control";

/// What observing gives.
pub fn observe(model: &Model) -> Hierarchy {
    let ground = &model.ground;
    let observed = |group: &GroupPath| {
        let mut values: BTreeMap<String, String> = model.everything(group).map(|(f, v)| (f.to_owned(), v)).collect();
        if ground.version == Version::V2 {
            values.insert("cgroup.procs".into(), "7\n".repeat(model.members(group).len()));
        }
        let seen = Group {
            mark: model.mark(group).clone(),
            values: values.into_iter().collect(),
            // v1's state tells of groups above; v2's file is the group's own.
            frozen: match ground.version {
                Version::V1 => model.frozen(group),
                Version::V2 => model.read(group, "cgroup.freeze").is_ok_and(|f| f == "1"),
            },
            threaded: ground.version == Version::V2 && model.read(group, "cgroup.type").is_ok_and(|t| t != "domain"),
            ..Group::default()
        };
        (group.clone(), seen)
    };
    Hierarchy {
        label: label(model),
        version: ground.version,
        controllers: ground.controllers.iter().filter_map(|c| Controller::parse(c)).chain([Controller::Core]).collect(),
        at_root: ground.at_root,
        present: true,
        complete: true,
        files: tracked(ground).into_iter().map(Into::into).collect(),
        above: BTreeMap::new(),
        closed_above: ControllerSet::EMPTY,
        groups: model.groups().iter().map(|(group, _)| observed(group)).collect(),
    }
}

/// The hierarchy's name in plans.
pub fn label(model: &Model) -> String {
    match model.ground.version {
        Version::V1 => model.ground.controllers.join(","),
        Version::V2 => "unified".into(),
    }
}

/// One plan's way through the model.
pub struct Round<'a> {
    plan: &'a Plan,
    label: String,
    going: BTreeSet<GroupPath>,
    /// Groups whose CPU limit was refused in one of its files.
    bandwidth: BTreeMap<GroupPath, Errno>,
}

impl<'a> Round<'a> {
    pub fn new(model: &Model, plan: &'a Plan) -> Self {
        let going = plan.due().filter(|a| a.op == Op::Remove).map(|a| a.group.clone()).collect();
        Self { plan, label: label(model), going, bandwidth: BTreeMap::new() }
    }

    /// One action, marks included.
    pub fn run(&mut self, model: &mut Model, action: &Action) -> Result<(), Errno> {
        let group = &action.group;
        match &action.op {
            Op::EnableAbove { .. } => Ok(()),
            Op::Settle => settle(model, group),
            Op::Create => {
                match model.mkdir(group) {
                    Ok(()) => {}
                    Err(Errno::EEXIST) if matches!(model.mark(group), Marked::Foreign(_)) => return Err(Errno::EEXIST),
                    Err(Errno::EEXIST) => {}
                    Err(e) => return Err(e),
                }
                self.announce(model, group);
                Ok(())
            }
            Op::Adopt { files } => {
                self.announce(model, group);
                if !model.exists(group) {
                    return Err(Errno::ENOENT);
                }
                if let Marked::Ours(mark) = model.mark_mut(group) {
                    for (file, want) in files {
                        mark.files.insert(file.clone(), Set { want: want.clone(), ..Set::default() });
                    }
                }
                Ok(())
            }
            Op::Write(write) => self.write(model, group, write),
            Op::Forget { file } => {
                if model.exists(group)
                    && let Marked::Ours(mark) = model.mark_mut(group)
                {
                    mark.files.remove(file);
                }
                Ok(())
            }
            Op::Remove => self.remove(model, group),
        }
    }

    fn write(&mut self, model: &mut Model, group: &GroupPath, write: &Write) -> Result<(), Errno> {
        if !model.exists(group) {
            return Err(Errno::ENOENT);
        }
        if matches!(model.mark(group), Marked::Ours(_)) {
            self.announce(model, group);
        }
        let is_bandwidth = write.file.starts_with("cpu.cfs_");
        if let Some(refusal) = self.bandwidth.get(group).filter(|_| is_bandwidth) {
            return Err(*refusal);
        }
        let mut first = None;
        for value in &write.to {
            if write.file == SUBTREE && !(group.is_root() && model.ground.at_root) {
                settle(model, group)?;
            }
            let result = match (write.file.as_str(), model.write(group, &write.file, value)) {
                // v2 takes no empty cpuset back while processes are inside: all that the parent has means the same.
                (file, Err(Errno::ENOSPC)) if value.trim().is_empty() => {
                    let above = group.up().unwrap_or_else(GroupPath::root);
                    let all = model.read(&above, &format!("{file}.effective")).unwrap_or_default();
                    model.write(group, file, &all)
                }
                (_, result) => result,
            };
            first = first.or(result.err());
        }
        if let Some(refusal) = first {
            if is_bandwidth {
                self.bandwidth.insert(group.clone(), refusal);
            }
            return Err(refusal);
        }
        let now = model.read(group, &write.file)?;
        let page = model.ground.page;
        let Marked::Ours(mark) = model.mark_mut(group) else { return Ok(()) };
        match (&write.want, &write.record) {
            (None, _) => {}
            (Some(_), None) => drop(mark.files.remove(&write.file)),
            (Some(want), Some(_)) => {
                if let Some(set) = mark.files.get_mut(&write.file) {
                    set.kept = (!want.matches(&now, page)).then(|| now.trim().to_owned());
                    set.before = None;
                }
            }
        }
        Ok(())
    }

    /// Everybody moves to the nearest group that stays and takes them.
    fn remove(&self, model: &mut Model, group: &GroupPath) -> Result<(), Errno> {
        if !model.exists(group) {
            return Ok(());
        }
        let stays = std::iter::successors(group.up(), GroupPath::up).filter(|p| !self.going.contains(p));
        let seats: Vec<GroupPath> = stays
            .map(|p| {
                let leaf = p.leaf();
                if model.ground.version == Version::V2 && model.exists(&leaf) { leaf } else { p }
            })
            .filter(|seat| seat != group)
            .collect();
        for process in model.members(group) {
            if !seats.iter().any(|seat| model.attach(process, seat).is_ok()) {
                return Err(Errno::EBUSY);
            }
        }
        model.rmdir(group)
    }

    /// The mark names what is about to be written, before it is.
    fn announce(&self, model: &mut Model, group: &GroupPath) {
        if !model.exists(group) {
            return;
        }
        let parent = if model.ground.at_root { "/" } else { "/cgrove" };
        let mark = model.mark_mut(group);
        if *mark == Marked::No {
            let (instance, parent) = ("cgrove".into(), parent.into());
            *mark = Marked::Ours(Mark { format: MARK_FORMAT, instance, parent, files: Default::default() });
        }
        let Marked::Ours(mark) = mark else { return };
        for action in self.plan.due().filter(|a| a.group == *group && a.hierarchy == self.label) {
            if let Op::Write(write) = &action.op
                && let Write { file, record: Some(want), .. } = &**write
            {
                let old = mark.files.get(file);
                if old.is_some_and(|o| o.want == *want) {
                    continue;
                }
                let before = old.and_then(|o| o.before.clone().or(Some(o.want.clone()))).filter(|b| b != want);
                mark.files.insert(file.clone(), Set { want: want.clone(), kept: None, before });
            }
        }
    }
}

/// v2: the group's own processes move into its leaf.
fn settle(model: &mut Model, group: &GroupPath) -> Result<(), Errno> {
    let leaf = group.leaf();
    model.members(group).into_iter().try_for_each(|process| model.attach(process, &leaf))
}
