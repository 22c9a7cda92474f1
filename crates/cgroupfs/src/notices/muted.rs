//! Places that announce too much (`noise`): they are looked at each second, and watched again when their time is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cgrove_core::ids::GroupPath;
use nix::sys::inotify::WatchDescriptor;

use super::{Heard, Notices, TREE, look};

/// Muted places are looked at this often.
const LOOK: Duration = Duration::from_secs(1);

impl Notices {
    /// Places that have announced too much for a while, each once.
    pub fn loud(&mut self) -> Vec<(Arc<str>, GroupPath)> {
        std::mem::take(&mut self.loud)
    }

    /// When muted places are to be looked at, with [`Notices::look_at_muted`].
    pub fn due(&self) -> Option<Instant> {
        (!self.muted.is_empty()).then_some(self.next_look)
    }

    /// Too much is announced of this place: for a while it is looked at instead.
    pub(super) fn mute(&mut self, wd: WatchDescriptor, now: Instant) {
        let Some(mut watched) = self.places.remove(&wd) else { return };
        let (hierarchy, group) = watched.key();
        self.known.unwatch(&hierarchy, &group);
        let _ = self.inotify.rm_watch(wd);
        watched.noise.mute(now);
        if watched.noise.lasts() {
            self.loud.push((hierarchy.clone(), group.clone()));
        }
        if self.muted.is_empty() {
            self.next_look = now + LOOK;
        }
        self.muted.insert((hierarchy, group), watched);
    }

    /// What muted places say of themselves; those whose time is over are watched again. What somebody changed there
    /// meanwhile is seen by reading the tree.
    pub fn look_at_muted(&mut self) -> Heard {
        let now = Instant::now();
        self.next_look = now + LOOK;
        let mut out = Vec::new();
        look::look(self.muted.values_mut().map(|w| &mut **w), &mut out);
        let over: Vec<_> =
            self.muted.iter().filter(|(_, w)| w.noise.until().is_none_or(|until| until <= now)).collect();
        let over: Vec<_> = over.into_iter().map(|(key, _)| key.clone()).collect();
        let tree = !over.is_empty();
        for key in over {
            let Some(watched) = self.muted.remove(&key) else { continue };
            let (hierarchy, group) = &key;
            let place = watched.place.clone();
            match self.inotify.add_watch(&place.dir(), TREE) {
                Ok(wd) => {
                    self.known.set_watch(hierarchy, group, wd);
                    self.places.insert(wd, watched);
                    let below = self.known.present().filter(|(h, g)| *h == hierarchy && g.up().as_ref() == Some(group));
                    let below: Vec<_> = below.map(|(_, g)| g.clone()).collect();
                    for child in below.into_iter().filter(|g| !place.ground.tree.dir(g).is_dir()) {
                        self.known.disappear(hierarchy, child, &mut out);
                    }
                    self.look_below(&place, &mut out);
                }
                // It is gone, which is told where it stood; or the kernel has no watch left.
                Err(_) => self.unwatched += usize::from(place.dir().is_dir()),
            }
        }
        Heard { notices: out, tree }
    }
}
