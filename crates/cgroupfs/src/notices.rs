//! What the kernel announces of groups: that they come and go, fill and empty, run out of memory, wait for resources;
//! and that somebody touched the tree, which is then read again whatever was announced: what is lost costs time, not truth.
//! inotify on their directories; on v1 one eventfd for all; on v2 a trigger for each group and threshold.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use cgrove_core::ids::GroupPath;
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

mod ask;
mod known;
mod look;
mod pressure;
mod told;

pub use ask::{Asked, Threshold, Trigger};
use known::Known;
use look::Watched;
pub use pressure::Pressure;
pub use told::{Ground, Heard, Notice, Place, What};

/// What happens to groups and their files.
const TREE: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_MODIFY)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);

/// inotify and v1's counter, non-blocking; poll both descriptors, then [`Notices::drain`]. Triggers have a poll of their
/// own, [`Pressure`].
pub struct Notices {
    inotify: Inotify,
    /// v1: the kernel counts here whenever a group is out of memory.
    oom: EventFd,
    known: Known,
    places: HashMap<WatchDescriptor, Box<Watched>>,
    pressure: Arc<Pressure>,
    triggers: BTreeMap<u64, Trigger>,
    next_trigger: u64,
    unwatched: usize,
    /// Announcements were lost: everything is looked at again.
    lost: bool,
    /// The first look is no news.
    begun: bool,
}

impl Notices {
    pub fn new() -> Result<Self, Errno> {
        Ok(Self {
            inotify: Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?,
            oom: EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?,
            known: Known::default(),
            places: HashMap::new(),
            pressure: Arc::new(Pressure::new()?),
            triggers: BTreeMap::new(),
            next_trigger: 0,
            unwatched: 0,
            lost: false,
            begun: false,
        })
    }

    /// Announcements were lost since places were set; the next time all of them are looked at.
    pub fn lost(&self) -> bool {
        self.lost
    }

    /// How many places could not be watched: the kernel's limit was reached, or they vanished.
    pub fn unwatched(&self) -> usize {
        self.unwatched
    }

    /// Watches exactly these places; what came or went since the last time is told. Places that are not there are tried
    /// again at the next call. What happened in a place before it was watched is seen by reading the tree again.
    pub fn set(&mut self, places: &[Place]) -> Heard {
        // What is announced already belongs to the watches of now.
        let Heard { notices, tree } = self.drain();
        let lost = std::mem::take(&mut self.lost);
        let (notices, added) = if lost { self.look_at_all(places, notices) } else { self.watch(places, notices) };
        Heard { notices, tree: tree || added }
    }

    /// Says whether any place is watched that was not before.
    fn watch(&mut self, places: &[Place], mut out: Vec<Notice>) -> (Vec<Notice>, bool) {
        let mut kept = HashSet::with_capacity(places.len());
        let mut made = HashSet::new();
        let mut added = false;
        self.unwatched = 0;
        for place in places {
            let inode = place.look();
            let (hierarchy, group) = place.key();
            if let Some(wd) = self.known.watch(hierarchy, group) {
                // Nothing tells that a group was made anew.
                if inode.is_some() && self.places.get(&wd).is_some_and(|w| w.place.inode == inode) {
                    kept.insert(wd);
                    continue;
                }
                self.unwatch(wd);
            }
            let Ok(wd) = self.inotify.add_watch(&place.dir(), TREE) else {
                self.unwatched += 1;
                continue;
            };
            added = true;
            kept.insert(wd);
            self.known.set_watch(place.hierarchy(), group, wd);
            self.known.appear(place.hierarchy(), group.clone(), &mut out);
            let appeared = self.known.look_into(hierarchy, group) && self.begun;
            let new = place.made || appeared;
            let mut watched = if new { Watched::made(place) } else { Watched::found(place) };
            watched.place.inode = inode;
            self.places.insert(wd, Box::new(watched));
            if new {
                made.insert(wd);
            }
            // What was there before it was watched.
            for name in children(&place.dir()) {
                if let Some(group) = group.child(&name) {
                    self.known.appear(place.hierarchy(), group, &mut out);
                }
            }
        }
        let stale: Vec<_> = self.places.keys().filter(|wd| !kept.contains(wd)).copied().collect();
        for wd in stale {
            self.unwatch(wd);
        }
        if !self.triggers.is_empty() {
            let listed: HashSet<_> = places.iter().map(Place::key).collect();
            let kept = std::mem::take(&mut self.triggers).into_iter();
            let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
                kept.partition(|(_, t)| listed.contains(&t.place.key()));
            self.triggers = kept;
            ask::close(gone.into_values().collect());
        }
        if !self.begun {
            self.begun = true;
            self.known.nothing_is_new();
            out.clear();
        }
        look::look(
            self.places.iter_mut().filter(|(wd, _)| made.contains(wd)).map(|(_, watched)| &mut **watched),
            &mut out,
        );
        (out, added)
    }

    /// Every place anew, and what is different from before.
    fn look_at_all(&mut self, places: &[Place], out: Vec<Notice>) -> (Vec<Notice>, bool) {
        for wd in self.places.keys().copied().collect::<Vec<_>>() {
            self.unwatch(wd);
        }
        let (mut out, added) = self.watch(places, out);
        let listed: HashMap<_, _> = places.iter().map(|p| (p.key(), &p.ground.tree)).collect();
        let stands = |hierarchy: &str, group: &GroupPath| {
            let at = |group: &GroupPath| listed.get(&(hierarchy, group)).copied();
            let tree = at(group).or_else(|| at(&group.up()?));
            tree.is_some_and(|tree| tree.dir(group).is_dir())
        };
        let gone = self.known.present().filter(|(hierarchy, group)| !stands(hierarchy, group));
        let gone: Vec<_> = gone.map(|(hierarchy, group)| (hierarchy.clone(), group.clone())).collect();
        for (hierarchy, group) in gone {
            self.known.disappear(&hierarchy, group, &mut out);
        }
        (out, added)
    }

    fn unwatch(&mut self, wd: WatchDescriptor) {
        self.forget(wd);
        let _ = self.inotify.rm_watch(wd);
    }

    /// Was it watched?
    fn forget(&mut self, wd: WatchDescriptor) -> bool {
        let gone = self.places.remove(&wd);
        if let Some((hierarchy, group)) = gone.as_ref().map(|watched| watched.place.key()) {
            self.known.unwatch(hierarchy, group);
        }
        gone.is_some()
    }

    /// For the kernel: v1 groups that are out of memory are counted here. To be polled as well.
    pub fn oom_counter(&self) -> std::io::Result<OwnedFd> {
        self.oom.as_fd().try_clone_to_owned()
    }

    /// Is a v1 group out of memory? The kernel says so before it kills.
    pub fn out_of_memory(&self) -> bool {
        self.oom.read().is_ok()
    }

    /// To be waited on by a thread of its own; what it says goes to [`Notices::crossed`].
    pub fn pressure(&self) -> Arc<Pressure> {
        self.pressure.clone()
    }

    /// Listens to triggers that were set up elsewhere.
    pub fn listen(&mut self, triggers: Vec<Trigger>) {
        for trigger in triggers {
            let number = self.next_trigger;
            self.next_trigger += 1;
            if self.pressure.add(&trigger, number).is_ok() {
                self.triggers.insert(number, trigger);
            }
        }
    }

    /// A trigger fired. It is told once until it was quiet for a while.
    pub fn crossed(&mut self, number: u64, flags: EpollFlags) -> Option<Notice> {
        if flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) {
            // The group is gone.
            ask::close(self.triggers.remove(&number).into_iter().collect());
            return None;
        }
        let trigger = self.triggers.get_mut(&number)?;
        let _ = self.pressure.again(trigger, number);
        trigger.fired()
    }

    /// Everything that was announced.
    pub fn drain(&mut self) -> Heard {
        let mut out = Vec::new();
        let mut tree = false;
        let mut touched: HashSet<WatchDescriptor> = HashSet::new();
        while let Ok(events) = self.inotify.read_events() {
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    (self.lost, tree) = (true, true);
                    continue;
                }
                if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    // The directory is gone; one of the same name is a new one to watch.
                    tree |= self.forget(event.wd);
                    continue;
                }
                let name = event.name.as_ref().and_then(|n| n.to_str()).unwrap_or_default();
                let Some(place) = self.places.get(&event.wd).map(|w| &w.place) else { continue };
                let directory = event.mask.contains(AddWatchFlags::IN_ISDIR);
                if directory && let Some(group) = place.group.child(name) {
                    let hierarchy = place.hierarchy();
                    if event.mask.intersects(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO) {
                        self.known.appear(hierarchy, group, &mut out);
                    } else {
                        self.known.disappear(hierarchy, group, &mut out);
                    }
                }
                if matches!(name, "cgroup.events" | "memory.events" | "memory.events.local") {
                    touched.insert(event.wd);
                }
                tree |= directory || changes_tree(name);
            }
        }
        let touched = self.places.iter_mut().filter(|(wd, _)| touched.contains(wd));
        look::look(touched.map(|(_, watched)| &mut **watched), &mut out);
        Heard { notices: out, tree }
    }

    /// Reads the counters of v1 groups again.
    pub fn look_for_kills(&mut self) -> Vec<Notice> {
        let mut out = Vec::new();
        look::look(self.places.values_mut().map(|w| &mut **w).filter(|w| w.counts_kills()), &mut out);
        out
    }
}

/// A reload lets all triggers go at once; whoever ends us does not wait for that.
impl Drop for Notices {
    fn drop(&mut self) {
        self.pressure.end();
        ask::close(std::mem::take(&mut self.triggers).into_values().collect());
    }
}

impl AsFd for Notices {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// By other files processes come and go, whose membership is verified on its own schedule, and v2 announces what happens
/// in a group, not what someone changed.
fn changes_tree(name: &str) -> bool {
    !matches!(name, "cgroup.procs" | "cgroup.threads" | "tasks")
        && ![".events", ".events.local", ".pressure"].iter().any(|end| name.ends_with(end))
}

fn children(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .filter_map(|e| e.file_name().into_string().ok())
        .collect()
}
