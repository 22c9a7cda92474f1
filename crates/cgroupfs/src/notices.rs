//! What the kernel announces of groups: that they come and go, fill and empty, run out of memory, wait for resources;
//! and that somebody touched the tree, which is then read again whatever was announced: what is lost costs time, not truth.
//! inotify on their directories; on v1 one eventfd for all; on v2 a trigger for each group and threshold.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use cgrove_core::ids::GroupPath;
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

mod ask;
mod known;
mod look;
mod muted;
mod noise;
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
    /// Each group that comes or goes matters to the tree, also those that nobody declared.
    all_matter: bool,
    /// Places that announce too much: they are not watched for a while.
    muted: HashMap<(Arc<str>, GroupPath), Box<Watched>>,
    loud: Vec<(Arc<str>, GroupPath)>,
    next_look: Instant,
    /// How much was announced in the last turn.
    announced: usize,
}

/// Announcements taken at a time. What there is more waits, or the kernel drops it and says so.
const MOST_AT_A_TIME: usize = 20_000;
/// Entries of a directory that are looked at to find groups.
const MOST_CHILDREN: usize = 2 * known::MOST_BELOW as usize;

impl Notices {
    /// `all_matter`: groups that nobody declared are removed, so that each one that comes is news to the tree.
    pub fn new(all_matter: bool) -> Result<Self, Errno> {
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
            all_matter,
            muted: HashMap::new(),
            loud: Vec::new(),
            next_look: Instant::now(),
            announced: 0,
        })
    }

    /// Announcements were lost since places were set; the next time all of them are looked at.
    pub fn lost(&self) -> bool {
        self.lost
    }

    /// How much was announced when it was last listened to.
    pub fn announced(&self) -> usize {
        self.announced
    }

    /// How many places are not watched for a while, because they announce too much.
    pub fn muted(&self) -> usize {
        self.muted.len()
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
            } else if !self.muted.is_empty() {
                let key = (place.hierarchy().clone(), group.clone());
                if inode.is_some() && self.muted.get(&key).is_some_and(|w| w.place.inode == inode) {
                    continue;
                }
                self.muted.remove(&key);
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
            self.look_below(place, &mut out);
        }
        let stale: Vec<_> = self.places.keys().filter(|wd| !kept.contains(wd)).copied().collect();
        let mut left: HashSet<_> = stale.iter().filter_map(|wd| self.places.get(wd)).map(|w| w.key()).collect();
        for wd in stale {
            self.unwatch(wd);
        }
        if !self.muted.is_empty() {
            let listed: HashSet<_> = places.iter().map(Place::key).collect();
            let gone = self.muted.keys().filter(|(h, g)| !listed.contains(&(&**h, g))).cloned();
            left.extend(gone);
            self.muted.retain(|key, _| !left.contains(key));
        }
        if !left.is_empty() {
            self.known.forget_below(&left);
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

    /// Groups that are in a place.
    fn look_below(&mut self, place: &Place, out: &mut Vec<Notice>) {
        for name in children(&place.dir()) {
            if let Some(group) = place.group.child(&name) {
                self.known.appear(place.hierarchy(), group, out);
            }
        }
    }

    /// Every place anew, and what is different from before.
    fn look_at_all(&mut self, places: &[Place], mut out: Vec<Notice>) -> (Vec<Notice>, bool) {
        look::look(self.places.values_mut().chain(self.muted.values_mut()).map(|w| &mut **w), &mut out);
        let before: HashSet<WatchDescriptor> = self.places.keys().copied().collect();
        let (mut out, _) = self.watch(places, out);
        let kept: Vec<Place> =
            self.places.iter().filter(|(wd, _)| before.contains(wd)).map(|(_, w)| w.place.clone()).collect();
        for place in kept {
            self.look_below(&place, &mut out);
        }
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
        (out, true)
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

    /// Does the tree have to be read when this group comes or goes? What somebody makes in his own group is his affair.
    fn matters(&self, hierarchy: &Arc<str>, group: &GroupPath) -> bool {
        self.all_matter
            || self.unwatched > 0
            || group.is_leaf()
            || self.known.watch(hierarchy, group).is_some()
            || (!self.muted.is_empty() && self.muted.contains_key(&(hierarchy.clone(), group.clone())))
    }

    /// What was announced, up to so much at a time. Where announcements were lost, see [`Notices::lost`].
    pub fn drain(&mut self) -> Heard {
        let mut out = Vec::new();
        let mut tree = false;
        let mut touched: HashSet<WatchDescriptor> = HashSet::new();
        let now = Instant::now();
        self.announced = 0;
        while self.announced < MOST_AT_A_TIME
            && let Ok(events) = self.inotify.read_events()
        {
            self.announced += events.len();
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    self.lost = true;
                    continue;
                }
                if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    // The directory is gone; one of the same name is a new one to watch.
                    tree |= self.forget(event.wd);
                    continue;
                }
                let name = event.name.as_ref().and_then(|n| n.to_str()).unwrap_or_default();
                let Some(watched) = self.places.get_mut(&event.wd) else { continue };
                if watched.noise.hear(now) {
                    self.mute(event.wd, now);
                    continue;
                }
                let place = &watched.place;
                let directory = event.mask.contains(AddWatchFlags::IN_ISDIR);
                if directory && let Some(group) = place.group.child(name) {
                    let hierarchy = &place.hierarchy().clone();
                    tree |= event.mask.intersects(AddWatchFlags::IN_MOVED_FROM | AddWatchFlags::IN_MOVED_TO)
                        || self.matters(hierarchy, &group);
                    if event.mask.intersects(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO) {
                        self.known.appear(hierarchy, group, &mut out);
                    } else {
                        self.known.disappear(hierarchy, group, &mut out);
                    }
                }
                if matches!(name, "cgroup.events" | "memory.events" | "memory.events.local") {
                    touched.insert(event.wd);
                }
                tree |= !directory && changes_tree(name);
            }
        }
        let muted = self.muted.values_mut().filter(|_| !touched.is_empty());
        let touched = self.places.iter_mut().filter(|(wd, _)| touched.contains(wd)).map(|(_, watched)| watched);
        // A kill is told of the deepest group that is looked at.
        look::look(touched.chain(muted).map(|watched| &mut **watched), &mut out);
        Heard { notices: out, tree }
    }

    /// Reads the counters of v1 groups again.
    pub fn look_for_kills(&mut self) -> Vec<Notice> {
        let mut out = Vec::new();
        let all = self.places.values_mut().chain(self.muted.values_mut());
        look::look(all.map(|w| &mut **w).filter(|w| w.counts_kills()), &mut out);
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
        .take(MOST_CHILDREN)
        .collect()
}
