//! A rule, made ready for one pass over all processes.

use super::{Process, Processes, Rule, parent};
use crate::rules::{Known, Traits};

/// A rule made ready for one pass.
pub(super) struct Matcher<'a> {
    pub(super) rule: &'a Rule,
    uid: Option<Option<u32>>,
    exe: Option<glob::Pattern>,
    cmdline: Option<glob::Pattern>,
    pids: Option<Vec<(i32, u64)>>,
    /// The process below which it looks; `Some(None)` when its pid file names none.
    below: Option<Option<(i32, u64)>>,
}

impl<'a> Matcher<'a> {
    pub(super) fn new(rule: &'a Rule, known: &Known) -> Self {
        let c = &rule.criteria;
        let glob = |text: &Option<String>| text.as_ref().and_then(|t| glob::Pattern::new(t).ok());
        let units = glob(&c.unit_glob());
        let of_units = |pattern: glob::Pattern| {
            let hits = known.units.iter().filter(|(unit, _)| pattern.matches(unit));
            hits.flat_map(|(_, pids)| pids.iter().copied()).collect()
        };
        Self {
            rule,
            uid: c.user.as_ref().map(|user| user.parse().ok().or_else(|| known.users.get(user).copied())),
            exe: glob(&c.exe),
            cmdline: glob(&c.cmdline),
            pids: units.map(of_units),
            below: c.ancestor_pid_file.as_ref().map(|file| known.pid_files.get(file).copied()),
        }
    }

    /// `None`: it depends on what could not be read of the process.
    pub(super) fn matches(&self, process: &Process, traits: &Traits, processes: &Processes) -> Option<bool> {
        let holds = self.uid.is_none_or(|uid| uid == Some(traits.uid))
            && self.pids.as_ref().is_none_or(|pids| pids.contains(&(process.pid, process.start)))
            && self.exe.as_ref().is_none_or(|exe| traits.unknown.exe || exe.matches(&traits.exe))
            && self.cmdline.as_ref().is_none_or(|line| traits.unknown.cmdline || line.matches(&traits.cmdline))
            && self.below.is_none_or(|top| top.is_some_and(|top| descends(process, top, processes)));
        let depends = self.exe.is_some() && traits.unknown.exe || self.cmdline.is_some() && traits.unknown.cmdline;
        if holds && depends { None } else { Some(holds) }
    }
}

/// Is `top` above the process? Bounded, because a torn pass may have circles.
fn descends(process: &Process, top: (i32, u64), processes: &Processes) -> bool {
    let up = std::iter::successors(Some(process), |p| parent(p, processes));
    up.skip(1).take(256).any(|p| (p.pid, p.start) == top)
}
