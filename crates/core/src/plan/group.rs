//! One group of one hierarchy: create or adopt, write what differs, undo what is no longer wanted.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::steps::Steps;
use super::within::{self, Bandwidth};
use super::{Action, Op, Policy, Write};
use crate::actual::{self, Hierarchy, Machine, Mark, Marked};
use crate::desired;
use crate::ids::{Controller, GroupPath};
use crate::knobs::{IdSet, Knob, Site, Want, find};

/// v1 cpusets start empty and accept no process until both are filled.
pub(super) const INHERITED: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];
/// How a mark tells a raw file, which is not undone, from a knob.
const RAW: &str = "=raw ";
/// What a mark says of a cpuset file that follows the parent.
const FOLLOWS: &str = "=parent";

/// The cpuset lists that each group will have in the end, for its children to follow.
#[derive(Default)]
pub(super) struct Parents(BTreeMap<(GroupPath, &'static str), IdSet>);

pub(super) struct GroupPlan<'a> {
    pub(super) hierarchy: &'a Hierarchy,
    pub(super) machine: &'a Machine,
    pub(super) policy: &'a Policy,
    pub(super) path: &'a GroupPath,
    pub(super) desired: &'a desired::Group,
}

/// A file's want, before it is compared.
struct FilePlan {
    file: String,
    knob: String,
    want: Want,
    /// What the mark shall say; `None` takes the file off the mark.
    record: Option<String>,
    because: Option<String>,
}

impl GroupPlan<'_> {
    pub(super) fn run(
        &self,
        parents: &mut Parents,
        steps: &mut Steps,
        note: &mut dyn FnMut(&GroupPath, Option<&str>, String),
    ) {
        let existing = self.hierarchy.groups.get(self.path);
        let mark = existing.and_then(actual::Group::ours);
        if existing.is_none() {
            steps.creates.push(Action::new(self.hierarchy, self.path, Op::Create));
        }
        let mut forget = Vec::new();
        let mut files = self.wanted(mark, &mut forget, note);
        files.extend(self.inherited(&files, existing, parents));
        for file in &files {
            if let (Want::Ids(ids), Some(name)) = (&file.want, INHERITED.into_iter().find(|n| *n == file.file)) {
                parents.0.insert((self.path.clone(), name), ids.clone());
            }
        }
        let mut adopt = Vec::new();
        let (mut widens, mut narrows) = (Vec::new(), Vec::new());
        let bandwidth = bandwidth(&files, existing);
        // Writing bfq's weight for all disks resets those of single ones.
        let resets = files.iter().any(|f| {
            let now = existing.and_then(|g| g.values.get(&f.file));
            f.file == "blkio.bfq.weight" && now.is_some_and(|now| !self.settled(f, now, mark))
        });
        for file in files {
            if resets && file.file == "blkio.bfq.weight_device" {
                self.write_all(file, existing, &mut widens);
                continue;
            }
            let now = existing.map(|g| g.values.get(&file.file).map_or("", String::as_str));
            if let Some(now) = now
                && self.settled(&file, now, mark)
            {
                self.take_over(file, mark, &mut adopt, &mut forget);
                continue;
            }
            self.write(file, existing, bandwidth, &mut widens, &mut narrows);
        }
        hold_memsw_with_memory(&mut narrows);
        within::sort(&mut widens, false);
        within::sort(&mut narrows, true);
        // Device rules are taken only while a group has no groups below; limits of the tree must be wide enough first.
        let early = |a: &Action| match &a.op {
            Op::Write(w) if w.file == "devices.list" => existing.is_none(),
            Op::Write(w) => w.file.starts_with("cgroup.max."),
            _ => false,
        };
        let (first, rest): (Vec<_>, Vec<_>) = widens.into_iter().partition(early);
        let mut widens = rest;
        let unmarked = existing.is_some_and(|g| g.mark == Marked::No);
        let stale = existing.is_some_and(actual::Group::is_stale);
        let tuned = !first.is_empty() || !adopt.is_empty() || !narrows.is_empty() || !widens.is_empty();
        if (unmarked && tuned && !self.path.is_root()) || stale || !adopt.is_empty() {
            steps.creates.push(Action::new(self.hierarchy, self.path, Op::Adopt { files: adopt }));
        }
        steps.creates.extend(first);
        steps.widens.append(&mut widens);
        for file in forget {
            steps.widens.push(Action::new(self.hierarchy, self.path, Op::Forget { file }));
        }
        steps.narrows.push(narrows);
    }

    /// What the document wants here, and what has to be undone because it no longer does.
    fn wanted(
        &self,
        mark: Option<&Mark>,
        forget: &mut Vec<String>,
        note: &mut dyn FnMut(&GroupPath, Option<&str>, String),
    ) -> Vec<FilePlan> {
        let has = |f: &str| self.hierarchy.files.contains(f);
        let (version, machine, conversion) = (self.hierarchy.version, self.machine, self.policy.conversion);
        let resolved =
            Site { version, machine, conversion, has: &has }.resolve(&knobs_of(self.desired, self.hierarchy));
        for (knob, why) in &resolved.unsupported {
            note(self.path, Some(knob), format!("not expressible here: {why}"));
        }
        // What the document still wants, and cannot have at the moment, is not undone.
        let pending: Vec<&str> =
            resolved.unsupported.iter().filter_map(|(k, _)| find(k)).flat_map(Knob::targets).collect();
        let mut files: Vec<FilePlan> = resolved
            .files
            .into_iter()
            .map(|f| FilePlan {
                record: Some(record(&f.want)),
                file: f.file,
                knob: f.knob.into(),
                want: f.want,
                because: f.conversion,
            })
            .collect();
        for (name, text) in &self.desired.files {
            let here = name
                .split('.')
                .next()
                .and_then(Controller::parse)
                .is_some_and(|c| self.hierarchy.controllers.contains(c) && self.desired.controllers.contains(c));
            if here && (has(name) || !self.hierarchy.complete) {
                let want = Want::Text(text.trim().into());
                files.push(FilePlan {
                    file: name.clone(),
                    knob: name.clone(),
                    record: Some(format!("{RAW}{}", record(&want))),
                    want,
                    because: Some("raw".into()),
                });
            } else if here {
                note(self.path, Some(name), "this kernel has no such file".into());
            }
        }
        for (file, set) in mark.map(|m| &m.files).into_iter().flatten() {
            if let Some(plan) = files.iter_mut().find(|f| f.file == *file) {
                // Disks that we had limited and the document no longer names.
                if let Want::Lines(lines) = &mut plan.want
                    && !pending.contains(&file.as_str())
                {
                    lines.release(&set.ours(), find(file).map_or("", |k| k.default));
                }
                continue;
            }
            let follows = self.hierarchy.fills_cpusets() && INHERITED.contains(&file.as_str());
            if resolved.suppressed.contains(&file.as_str()) || follows || pending.contains(&file.as_str()) {
                continue;
            }
            // Two names of one value: undoing the old one would undo the new one.
            let alias = match file.as_str() {
                "cpu.weight" => "cpu.weight.nice",
                "cpu.weight.nice" => "cpu.weight",
                _ => "",
            };
            if files.iter().any(|f| f.file == alias) {
                forget.push(file.clone());
                continue;
            }
            let raw = set.want.starts_with(RAW);
            let knob = find(file).filter(|_| !raw);
            match knob.and_then(|k| k.undo(version, &set.ours(), self.parents_value(file))) {
                Some(want) if has(file) => {
                    let because = Some("no longer in the document: default".into());
                    files.push(FilePlan { file: file.clone(), knob: file.clone(), want, record: None, because });
                }
                _ => forget.push(file.clone()),
            }
        }
        files
    }

    fn parents_value(&self, file: &str) -> Option<&str> {
        self.hierarchy.groups.get(&self.path.up()?)?.values.get(file).map(String::as_str)
    }

    /// Fills cpusets that the document leaves open from what the parent will have.
    fn inherited(&self, files: &[FilePlan], existing: Option<&actual::Group>, parents: &mut Parents) -> Vec<FilePlan> {
        let mut out = Vec::new();
        if !self.hierarchy.fills_cpusets() {
            return out;
        }
        for name in INHERITED {
            if files.iter().any(|f| f.file == name) {
                continue;
            }
            let now: IdSet = existing.and_then(|g| g.values.get(name)).and_then(|v| v.parse().ok()).unwrap_or_default();
            let set_by_us = existing.and_then(actual::Group::ours).is_some_and(|m| m.files.contains_key(name));
            let above = match self.path.up() {
                Some(up) => parents.0.get(&(up, name)).cloned(),
                None => self.hierarchy.above.get(name).and_then(|v| v.parse().ok()),
            };
            let keep = !now.is_empty() && !set_by_us || (self.path.is_root() && self.hierarchy.at_root);
            match above {
                Some(ids) if !keep && !ids.is_empty() => out.push(FilePlan {
                    file: name.into(),
                    knob: name.into(),
                    want: Want::Ids(ids),
                    record: Some(FOLLOWS.into()),
                    because: Some("as the parent".into()),
                }),
                _ => {
                    parents.0.insert((self.path.clone(), name), now);
                }
            }
        }
        out
    }

    /// The file says what is wanted, or what the kernel made of it when we last wrote just that.
    fn settled(&self, file: &FilePlan, now: &str, mark: Option<&Mark>) -> bool {
        let kept = || {
            let set = mark.and_then(|m| m.files.get(&file.file))?;
            Some(Some(&set.want) == file.record.as_ref() && set.kept.as_deref() == Some(now.trim()))
        };
        // v1's list of devices does not show what is denied: only the mark tells whether it is as written.
        let marked = mark.and_then(|m| m.files.get(&file.file));
        if file.file == "devices.list" && marked.is_some_and(|set| Some(&set.want) != file.record.as_ref()) {
            return false;
        }
        file.want.matches(now, self.machine.page) || kept() == Some(true)
    }

    /// A file that needs no write may still have to be put on the mark, or taken off.
    fn take_over(
        &self,
        file: FilePlan,
        mark: Option<&Mark>,
        adopt: &mut Vec<(String, String)>,
        forget: &mut Vec<String>,
    ) {
        let marked = mark.is_some_and(|m| m.files.contains_key(&file.file));
        match file.record {
            None if marked => forget.push(file.file),
            Some(record) if !(marked || self.path.is_root() && mark.is_none()) => adopt.push((file.file, record)),
            _ => {}
        }
    }

    /// Every line again, whatever the file says now.
    fn write_all(&self, file: FilePlan, existing: Option<&actual::Group>, widens: &mut Vec<Action>) {
        let from = existing.and_then(|g| g.values.get(&file.file)).map(|now| now.trim().to_owned());
        let write = Write {
            to: file.want.writes(""),
            from,
            file: file.file,
            knob: file.knob,
            because: file.because,
            record: file.record,
            want: Some(file.want),
        };
        widens.push(Action::new(self.hierarchy, self.path, Op::Write(write.into())));
    }

    fn write(
        &self,
        file: FilePlan,
        existing: Option<&actual::Group>,
        bandwidth: Option<Ordering>,
        widens: &mut Vec<Action>,
        narrows: &mut Vec<Action>,
    ) {
        let from = existing.map(|g| g.values.get(&file.file).map_or("", String::as_str).trim().to_owned());
        let default = find(&file.file).map_or("", |k| k.default);
        let now = from.as_deref().unwrap_or(if matches!(file.want, Want::Ids(_)) { "" } else { default });
        let is_bandwidth = matches!(file.file.as_str(), "cpu.cfs_quota_us" | "cpu.cfs_period_us");
        let width = if is_bandwidth { bandwidth } else { file.want.width(now) };
        let held = self.reclaims(&file, existing, width);
        let op = |to: Vec<String>, want: Option<Want>| {
            Op::Write(Box::new(Write {
                file: file.file.clone(),
                knob: file.knob.clone(),
                from: from.clone(),
                to,
                because: file.because.clone(),
                record: file.record.clone(),
                want,
            }))
        };
        let action = |op| Action { held: held.clone(), ..Action::new(self.hierarchy, self.path, op) };
        if let (None, Want::Ids(ids)) = (width, &file.want) {
            // Neither wider nor narrower: through the union, so that no child is ever outside its parent.
            let union = ids.union(&now.parse().unwrap_or_default());
            widens.push(action(op(vec![union.to_string()], None)));
        }
        let target = if matches!(width, Some(Ordering::Less) | None) { narrows } else { widens };
        let to = file.want.writes(now);
        target.push(action(op(to, Some(file.want.clone()))));
    }

    /// A memory limit below what is in use makes the kernel reclaim, or kill: held unless the document says so.
    fn reclaims(&self, file: &FilePlan, existing: Option<&actual::Group>, width: Option<Ordering>) -> Option<String> {
        let usage_file = match file.file.as_str() {
            "memory.limit_in_bytes" => "memory.usage_in_bytes",
            "memory.max" | "memory.high" => "memory.current",
            "memory.memsw.limit_in_bytes" => "memory.memsw.usage_in_bytes",
            _ => return None,
        };
        let Want::Bytes { bytes: Some(limit), .. } = file.want else { return None };
        let usage: u64 = existing?.values.get(usage_file)?.trim().parse().ok()?;
        (width == Some(Ordering::Less) && limit < usage && !self.desired.allow_reclaim)
            .then(|| format!("{usage} bytes are in use, more than the new limit; add \"allow_reclaim\": true to the group to reclaim them"))
    }
}

/// Quota and period are one limit: whether it widens, both together.
fn bandwidth(files: &[FilePlan], existing: Option<&actual::Group>) -> Option<Ordering> {
    let now = |name: &str| existing.and_then(|g| g.values.get(name)).and_then(|v| v.trim().parse::<i64>().ok());
    let wanted =
        |name: &str| files.iter().find(|f| f.file == name).map(|f| f.want.writes("").concat().parse::<i64>().ok());
    let (quota, period) = (now("cpu.cfs_quota_us"), now("cpu.cfs_period_us"));
    let old = Bandwidth {
        quota: quota.filter(|q| *q > 0),
        period: period.filter(|p| *p > 0).unwrap_or(Bandwidth::UNLIMITED.period),
    };
    let new = Bandwidth {
        quota: wanted("cpu.cfs_quota_us").map_or(old.quota, |q| q.filter(|q| *q > 0)),
        period: wanted("cpu.cfs_period_us").flatten().unwrap_or(old.period),
    };
    Some(new.cmp(old))
}

/// While the memory limit waits, memory + swap cannot go below it.
fn hold_memsw_with_memory(narrows: &mut [Action]) {
    let writes = |a: &Action, file: &str| matches!(&a.op, Op::Write(w) if w.file == file);
    if !narrows.iter().any(|a| writes(a, "memory.limit_in_bytes") && a.held.is_some()) {
        return;
    }
    for action in narrows.iter_mut().filter(|a| writes(a, "memory.memsw.limit_in_bytes") && a.held.is_none()) {
        action.held = Some("waits for memory.limit_in_bytes, which is held".into());
    }
}

/// The group's knobs that belong to this hierarchy.
pub(super) fn knobs_of(group: &crate::desired::Group, hierarchy: &Hierarchy) -> crate::knobs::Settings {
    let has = |c| hierarchy.controllers.contains(c) && group.controllers.contains(c);
    let here = |name: &str| find(name).is_some_and(|k| has(k.controller));
    group.knobs.iter().filter(|(name, _)| here(name)).map(|(name, value)| (*name, value.clone())).collect()
}

/// The text that a mark keeps for a want: parseable for device files, plain for the rest.
pub(super) fn record(want: &Want) -> String {
    want.writes("").join("\n")
}
