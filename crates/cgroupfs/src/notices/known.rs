//! Which groups are there, and by which watch the kernel tells of each.

use std::collections::HashMap;
use std::sync::Arc;

use cgrove_core::ids::GroupPath;
use nix::sys::inotify::WatchDescriptor;

use super::{Notice, What};

/// By hierarchy, then by path. A watch may outlive its group: the kernel does not say that one goes.
#[derive(Default)]
pub(super) struct Known(HashMap<Arc<str>, HashMap<GroupPath, Group>>);

#[derive(Default)]
struct Group {
    present: bool,
    /// Nobody has looked into it yet.
    new: bool,
    watch: Option<WatchDescriptor>,
}

impl Known {
    pub(super) fn appear(&mut self, hierarchy: &Arc<str>, group: GroupPath, out: &mut Vec<Notice>) {
        if group.is_leaf() {
            return;
        }
        let known = self.at(hierarchy, &group);
        if !known.present {
            (known.present, known.new) = (true, true);
            out.push(Notice { hierarchy: hierarchy.clone(), group, what: What::Appeared });
        }
    }

    pub(super) fn disappear(&mut self, hierarchy: &Arc<str>, group: GroupPath, out: &mut Vec<Notice>) {
        let was_there = self.change(hierarchy, &group, |known| std::mem::take(&mut known.present));
        if was_there == Some(true) {
            out.push(Notice { hierarchy: hierarchy.clone(), group, what: What::Disappeared });
        }
    }

    /// Is it new? From now on somebody has looked.
    pub(super) fn look_into(&mut self, hierarchy: &str, group: &GroupPath) -> bool {
        self.0.get_mut(hierarchy).and_then(|h| h.get_mut(group)).is_some_and(|known| std::mem::take(&mut known.new))
    }

    /// All that is there was there before.
    pub(super) fn nothing_is_new(&mut self) {
        self.0.values_mut().flat_map(HashMap::values_mut).for_each(|known| known.new = false);
    }

    pub(super) fn watch(&self, hierarchy: &str, group: &GroupPath) -> Option<WatchDescriptor> {
        self.0.get(hierarchy)?.get(group)?.watch
    }

    pub(super) fn set_watch(&mut self, hierarchy: &Arc<str>, group: &GroupPath, watch: WatchDescriptor) {
        self.at(hierarchy, group).watch = Some(watch);
    }

    /// Nobody tells of it any more.
    pub(super) fn unwatch(&mut self, hierarchy: &str, group: &GroupPath) {
        self.change(hierarchy, group, |known| known.watch = None);
    }

    pub(super) fn present(&self) -> impl Iterator<Item = (&Arc<str>, &GroupPath)> {
        let all =
            self.0.iter().flat_map(|(hierarchy, groups)| groups.iter().map(move |(g, known)| (hierarchy, g, known)));
        all.filter(|(.., known)| known.present).map(|(hierarchy, group, _)| (hierarchy, group))
    }

    fn at(&mut self, hierarchy: &Arc<str>, group: &GroupPath) -> &mut Group {
        self.0.entry(hierarchy.clone()).or_default().entry(group.clone()).or_default()
    }

    /// What is neither there nor watched is forgotten.
    fn change<T>(&mut self, hierarchy: &str, group: &GroupPath, change: impl FnOnce(&mut Group) -> T) -> Option<T> {
        let groups = self.0.get_mut(hierarchy)?;
        let known = groups.get_mut(group)?;
        let result = change(known);
        if !known.present && known.watch.is_none() {
            groups.remove(group);
        }
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

    use super::*;

    #[test]
    fn a_group_is_told_once_and_forgotten_when_neither_there_nor_watched() {
        let wd = Inotify::init(InitFlags::IN_CLOEXEC).unwrap().add_watch("/", AddWatchFlags::IN_CREATE).unwrap();
        let (mut known, mut told) = (Known::default(), Vec::new());
        let (cpu, group): (Arc<str>, _) = ("cpu".into(), GroupPath::parse("/a").unwrap());
        known.appear(&cpu, group.clone(), &mut told);
        known.appear(&cpu, group.clone(), &mut told);
        assert!(told.len() == 1 && known.look_into("cpu", &group) && !known.look_into("cpu", &group));
        known.set_watch(&cpu, &group, wd);
        known.disappear(&cpu, group.clone(), &mut told);
        known.disappear(&cpu, group.clone(), &mut told);
        assert!(told.len() == 2 && known.watch("cpu", &group) == Some(wd) && known.present().count() == 0);
        known.unwatch("cpu", &group);
        assert!(known.0.values().all(HashMap::is_empty));
    }
}
