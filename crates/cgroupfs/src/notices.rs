//! What the kernel announces of groups: that they come and go, fill and empty, run out of memory, wait for resources.
//! inotify on their directories; on v1 one eventfd for all; on v2 a trigger for each group and threshold.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cgrove_core::actual::Version;
use cgrove_core::ids::GroupPath;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

mod ask;

use crate::watch::tree_flags;
pub use ask::{Asked, Threshold, Trigger};

/// A group's directory in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub hierarchy: String,
    pub version: Version,
    pub group: GroupPath,
    pub dir: PathBuf,
}

/// What was announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub hierarchy: String,
    pub group: GroupPath,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Appeared,
    Disappeared,
    Populated,
    Empty,
    /// A counter of memory's events grew by so much.
    Memory {
        key: &'static str,
        count: u64,
    },
    /// The threshold with this number was crossed.
    Pressure {
        threshold: usize,
    },
}

/// Counters of memory.events that are worth a word; a group's own, not what is below it.
const MEMORY: [&str; 3] = ["high", "max", "oom_kill"];

/// The same threshold is told anew when it was not crossed for so long.
const QUIET: Duration = Duration::from_secs(10);

const INOTIFY: u64 = 0;
const OOM: u64 = 1;
/// Triggers are numbered from here.
const TRIGGERS: u64 = 2;

/// Non-blocking; poll its descriptor, then [`Notices::drain`].
pub struct Notices {
    epoll: Epoll,
    inotify: Inotify,
    /// v1: the kernel counts here whenever a group is out of memory.
    oom: EventFd,
    watched: HashMap<PathBuf, WatchDescriptor>,
    places: HashMap<WatchDescriptor, Watched>,
    /// Groups that are there, by hierarchy and path.
    present: HashSet<(String, GroupPath)>,
    triggers: BTreeMap<u64, Trigger>,
    next_trigger: u64,
    /// The first look is no news.
    begun: bool,
}

struct Watched {
    place: Place,
    populated: Option<bool>,
    memory: [u64; 3],
}

impl Notices {
    pub fn new() -> Result<Self, Errno> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let oom = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        epoll.add(&inotify, EpollEvent::new(EpollFlags::EPOLLIN, INOTIFY))?;
        epoll.add(&oom, EpollEvent::new(EpollFlags::EPOLLIN, OOM))?;
        Ok(Self {
            epoll,
            inotify,
            oom,
            watched: HashMap::new(),
            places: HashMap::new(),
            present: HashSet::new(),
            triggers: BTreeMap::new(),
            next_trigger: TRIGGERS,
            begun: false,
        })
    }

    /// Watches exactly these places; what came or went since the last time is told. Places that are not there are tried
    /// again at the next call.
    pub fn set(&mut self, places: &[Place]) -> Vec<Notice> {
        let mut out = Vec::new();
        let mut old = std::mem::take(&mut self.watched);
        for place in places {
            if let Some(wd) = old.remove(&place.dir) {
                self.watched.insert(place.dir.clone(), wd);
                continue;
            }
            let Ok(wd) = self.inotify.add_watch(&place.dir, tree_flags()) else { continue };
            let watched = Watched { populated: populated(place), memory: memory(place), place: place.clone() };
            self.watched.insert(place.dir.clone(), wd);
            self.places.insert(wd, watched);
            self.appear(place.hierarchy.clone(), place.group.clone(), &mut out);
            // What was there before it was watched.
            for name in children(&place.dir) {
                if let Some(group) = place.group.child(&name) {
                    self.appear(place.hierarchy.clone(), group, &mut out);
                }
            }
        }
        for wd in old.into_values() {
            self.places.remove(&wd);
            let _ = self.inotify.rm_watch(wd);
        }
        let dirs: HashSet<&Path> = places.iter().map(|p| p.dir.as_path()).collect();
        self.triggers.retain(|_, t| dirs.contains(t.place.dir.as_path()));
        if !self.begun {
            self.begun = true;
            out.clear();
        }
        out
    }

    fn appear(&mut self, hierarchy: String, group: GroupPath, out: &mut Vec<Notice>) {
        if !group.is_leaf() && self.present.insert((hierarchy.clone(), group.clone())) {
            out.push(Notice { hierarchy, group, what: What::Appeared });
        }
    }

    fn disappear(&mut self, hierarchy: String, group: GroupPath, out: &mut Vec<Notice>) {
        let key = (hierarchy, group);
        if self.present.remove(&key) {
            let (hierarchy, group) = key;
            out.push(Notice { hierarchy, group, what: What::Disappeared });
        }
    }

    /// For the kernel: v1 groups that are out of memory are counted here.
    pub fn oom_counter(&self) -> std::io::Result<std::os::fd::OwnedFd> {
        self.oom.as_fd().try_clone_to_owned()
    }

    /// Listens to triggers that were set up elsewhere.
    pub fn listen(&mut self, triggers: Vec<Trigger>) {
        for trigger in triggers {
            let number = self.next_trigger;
            self.next_trigger += 1;
            if self.epoll.add(&trigger.file, EpollEvent::new(EpollFlags::EPOLLPRI, number)).is_ok() {
                self.triggers.insert(number, trigger);
            }
        }
    }

    /// Everything that was announced. The flag: look again in a moment, a kill is under way.
    pub fn drain(&mut self) -> (Vec<Notice>, bool) {
        let mut out = Vec::new();
        let mut again = false;
        let mut events = [EpollEvent::empty(); 64];
        while let Ok(n) = self.epoll.wait(&mut events, EpollTimeout::ZERO) {
            for event in &events[..n] {
                match event.data() {
                    INOTIFY => self.read_inotify(&mut out),
                    OOM => again |= self.oom.read().is_ok(),
                    number => self.triggered(number, event.events(), &mut out),
                }
            }
            if n < events.len() {
                break;
            }
        }
        (out, again)
    }

    fn read_inotify(&mut self, out: &mut Vec<Notice>) {
        let mut touched: HashSet<WatchDescriptor> = HashSet::new();
        while let Ok(events) = self.inotify.read_events() {
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    // Which were lost is not known; what came and went is found when places are set next.
                    touched.extend(self.places.keys());
                    continue;
                }
                let Some(place) = self.places.get(&event.wd).map(|w| w.place.clone()) else { continue };
                if event.mask.intersects(AddWatchFlags::IN_IGNORED) {
                    self.places.remove(&event.wd);
                    self.watched.remove(&place.dir);
                    self.disappear(place.hierarchy, place.group, out);
                    continue;
                }
                let Some(name) = event.name.as_ref().and_then(|n| n.to_str()) else { continue };
                if event.mask.contains(AddWatchFlags::IN_ISDIR) {
                    let Some(group) = place.group.child(name) else { continue };
                    if event.mask.intersects(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO) {
                        self.appear(place.hierarchy, group, out);
                    } else {
                        self.disappear(place.hierarchy, group, out);
                    }
                } else if matches!(name, "cgroup.events" | "memory.events" | "memory.events.local") {
                    touched.insert(event.wd);
                }
            }
        }
        for wd in touched {
            if let Some(watched) = self.places.get_mut(&wd) {
                watched.look(out);
            }
        }
    }

    /// Reads the counters of every v1 group again.
    pub fn look_for_kills(&mut self) -> Vec<Notice> {
        let mut out = Vec::new();
        for watched in self.places.values_mut().filter(|w| w.place.version == Version::V1) {
            watched.look(&mut out);
        }
        out
    }

    fn triggered(&mut self, number: u64, flags: EpollFlags, out: &mut Vec<Notice>) {
        if flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) {
            // The group is gone.
            self.triggers.remove(&number);
            return;
        }
        let Some(trigger) = self.triggers.get_mut(&number) else { return };
        let now = Instant::now();
        let quiet = trigger.last.is_none_or(|last| now - last > QUIET);
        trigger.last = Some(now);
        if quiet {
            let (hierarchy, group) = (trigger.place.hierarchy.clone(), trigger.place.group.clone());
            out.push(Notice { hierarchy, group, what: What::Pressure { threshold: trigger.threshold } });
        }
    }
}

impl AsFd for Notices {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

impl Watched {
    fn look(&mut self, out: &mut Vec<Notice>) {
        let Place { hierarchy, group, .. } = &self.place;
        let mut tell = |what| out.push(Notice { hierarchy: hierarchy.clone(), group: group.clone(), what });
        let populated = populated(&self.place);
        if populated.is_some() && populated != self.populated {
            tell(if populated == Some(true) { What::Populated } else { What::Empty });
            self.populated = populated;
        }
        let memory = memory(&self.place);
        for (i, key) in MEMORY.into_iter().enumerate() {
            if memory[i] > self.memory[i] {
                tell(What::Memory { key, count: memory[i] - self.memory[i] });
            }
        }
        self.memory = memory;
    }
}

fn children(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .filter_map(|e| e.file_name().into_string().ok())
        .collect()
}

/// Has the group processes, itself or below? v1 does not say.
fn populated(place: &Place) -> Option<bool> {
    let text = fs::read_to_string(place.dir.join("cgroup.events")).ok()?;
    text.lines().find_map(|l| l.strip_prefix("populated ")).map(|n| n == "1")
}

fn memory(place: &Place) -> [u64; 3] {
    let file = |name| fs::read_to_string(place.dir.join(name));
    let text = match place.version {
        Version::V1 => file("memory.oom_control"),
        // Before Linux 5.2 there is only the one that counts what is below, too.
        Version::V2 => file("memory.events.local").or_else(|_| file("memory.events")),
    };
    let text = text.unwrap_or_default();
    MEMORY.map(|key| {
        let of = |line: &str| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok();
        text.lines().find_map(of).unwrap_or(0)
    })
}
