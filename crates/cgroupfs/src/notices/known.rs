//! Which groups are there, and by which watch the kernel tells of each.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cgrove_core::ids::GroupPath;
use nix::sys::inotify::WatchDescriptor;

use super::{Notice, What};

/// Groups in one directory that nobody declared and that are known all the same. Whoever owns the directory decides how
/// many there are; of more than these nothing is told.
pub(super) const MOST_BELOW: u32 = 1000;

/// By hierarchy. A watch may outlive its group: the kernel does not say that one goes.
#[derive(Default)]
pub(super) struct Known(HashMap<Arc<str>, Groups>);

#[derive(Default)]
struct Groups {
    all: HashMap<GroupPath, Group>,
    /// How many that are not watched are known in each directory.
    below: HashMap<GroupPath, u32>,
}

impl Groups {
    /// Room for one more in that directory, and takes it.
    fn enter(&mut self, directory: GroupPath) -> bool {
        let count = self.below.entry(directory).or_default();
        let fits = *count < MOST_BELOW;
        *count += u32::from(fits);
        fits
    }

    fn leave(&mut self, directory: &GroupPath) {
        if let Some(count) = self.below.get_mut(directory) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.below.remove(directory);
            }
        }
    }
}

#[derive(Default)]
struct Group {
    present: bool,
    /// It takes room in its directory.
    counted: bool,
    /// Nobody has looked into it yet.
    new: bool,
    watch: Option<WatchDescriptor>,
}

impl Known {
    pub(super) fn appear(&mut self, hierarchy: &Arc<str>, group: GroupPath, out: &mut Vec<Notice>) {
        if group.is_leaf() {
            return;
        }
        let groups = self.0.entry(hierarchy.clone()).or_default();
        let known = groups.all.get(&group);
        let counted = match known {
            Some(known) if known.present => return,
            Some(known) if known.watch.is_some() => false,
            _ => true,
        };
        if counted && group.up().is_some_and(|directory| !groups.enter(directory)) {
            return;
        }
        let known = groups.all.entry(group.clone()).or_default();
        (known.present, known.new, known.counted) = (true, true, counted);
        out.push(Notice { hierarchy: hierarchy.clone(), group, what: What::Appeared });
    }

    pub(super) fn disappear(&mut self, hierarchy: &Arc<str>, group: GroupPath, out: &mut Vec<Notice>) {
        let was = self.change(hierarchy, &group, |known| {
            (std::mem::take(&mut known.present), std::mem::take(&mut known.counted))
        });
        if was.is_some_and(|(_, counted)| counted)
            && let (Some(groups), Some(directory)) = (self.0.get_mut(&**hierarchy), group.up())
        {
            groups.leave(&directory);
        }
        if was.is_some_and(|(present, _)| present) {
            out.push(Notice { hierarchy: hierarchy.clone(), group, what: What::Disappeared });
        }
    }

    /// Is it new? From now on somebody has looked.
    pub(super) fn look_into(&mut self, hierarchy: &str, group: &GroupPath) -> bool {
        self.0.get_mut(hierarchy).and_then(|h| h.all.get_mut(group)).is_some_and(|known| std::mem::take(&mut known.new))
    }

    /// All that is there was there before.
    pub(super) fn nothing_is_new(&mut self) {
        self.0.values_mut().flat_map(|h| h.all.values_mut()).for_each(|known| known.new = false);
    }

    pub(super) fn watch(&self, hierarchy: &str, group: &GroupPath) -> Option<WatchDescriptor> {
        self.0.get(hierarchy)?.all.get(group)?.watch
    }

    pub(super) fn set_watch(&mut self, hierarchy: &Arc<str>, group: &GroupPath, watch: WatchDescriptor) {
        self.at(hierarchy, group).watch = Some(watch);
    }

    /// Nobody tells of it any more.
    pub(super) fn unwatch(&mut self, hierarchy: &str, group: &GroupPath) {
        self.change(hierarchy, group, |known| known.watch = None);
    }

    /// Nobody looks into these directories any more: what is in them is not known.
    pub(super) fn forget_below(&mut self, directories: &HashSet<(Arc<str>, GroupPath)>) {
        for (hierarchy, groups) in &mut self.0 {
            let gone = |group: &GroupPath| group.up().is_some_and(|up| directories.contains(&(hierarchy.clone(), up)));
            groups.all.retain(|group, known| known.watch.is_some() || !gone(group));
            groups.below.retain(|directory, _| !directories.contains(&(hierarchy.clone(), directory.clone())));
        }
    }

    pub(super) fn present(&self) -> impl Iterator<Item = (&Arc<str>, &GroupPath)> {
        let all = self
            .0
            .iter()
            .flat_map(|(hierarchy, groups)| groups.all.iter().map(move |(g, known)| (hierarchy, g, known)));
        all.filter(|(.., known)| known.present).map(|(hierarchy, group, _)| (hierarchy, group))
    }

    fn at(&mut self, hierarchy: &Arc<str>, group: &GroupPath) -> &mut Group {
        self.0.entry(hierarchy.clone()).or_default().all.entry(group.clone()).or_default()
    }

    /// What is neither there nor watched is forgotten.
    fn change<T>(&mut self, hierarchy: &str, group: &GroupPath, change: impl FnOnce(&mut Group) -> T) -> Option<T> {
        let groups = self.0.get_mut(hierarchy)?;
        let known = groups.all.get_mut(group)?;
        let result = change(known);
        if !known.present && known.watch.is_none() {
            groups.all.remove(group);
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
        assert!(known.0.values().all(|h| h.all.is_empty()));
    }

    #[test]
    fn whoever_makes_groups_without_end_costs_bounded_memory() {
        let (mut known, mut told) = (Known::default(), Vec::new());
        let cpu: Arc<str> = "cpu".into();
        let at = |path: String| GroupPath::parse(&path).unwrap();
        (0..20_000).for_each(|n| known.appear(&cpu, at(format!("/d/x{n}")), &mut told));
        assert_eq!((told.len(), known.present().count()), (1000, 1000));
        known.appear(&cpu, at("/e/x".into()), &mut told);
        assert_eq!(told.len(), 1001, "other directories have room");
        known.disappear(&cpu, at("/d/x7".into()), &mut told);
        known.disappear(&cpu, at("/d/x19999".into()), &mut told);
        known.appear(&cpu, at("/d/more".into()), &mut told);
        known.appear(&cpu, at("/d/and-more".into()), &mut told);
        assert_eq!(told.len(), 1003);
        known.forget_below(&[(cpu.clone(), at("/d".into()))].into());
        assert_eq!(known.present().count(), 1);
        known.appear(&cpu, at("/d/again".into()), &mut told);
        assert_eq!(told.len(), 1004);
    }
}
