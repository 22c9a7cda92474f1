//! Places that announce too much (`noise`): they are looked at each second, and watched again when their time is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cgrove_core::ids::GroupPath;
use nix::sys::inotify::WatchDescriptor;

use super::{Heard, Notice, Notices, TREE, look};

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

    /// Declared groups in muted places: is one of them gone? Whoever makes noise must not hide that he removed it.
    fn look_for_declared(&mut self, out: &mut Vec<Notice>) -> bool {
        let gone = self.known.present().filter_map(|(hierarchy, group)| {
            self.known.watch(hierarchy, group)?;
            let place = &self.muted.get(&(hierarchy.clone(), group.up()?))?.place;
            (!place.ground.tree.dir(group).is_dir()).then(|| (hierarchy.clone(), group.clone()))
        });
        let gone: Vec<_> = gone.collect();
        for (hierarchy, group) in &gone {
            self.known.disappear(hierarchy, group.clone(), out);
        }
        !gone.is_empty()
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
        let tree = self.look_for_declared(&mut out) || !over.is_empty();
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use cgrove_core::actual::Version;

    use super::super::{Ground, Place, What};
    use super::*;
    use crate::paths::Tree;

    struct Scene {
        root: PathBuf,
        places: Vec<Place>,
        notices: Notices,
    }

    impl Scene {
        fn new(name: &str) -> Self {
            // Thousands of directories are made, which is slow on a disk.
            let fast = PathBuf::from("/dev/shm");
            let dir = if fast.is_dir() { fast } else { std::env::temp_dir() };
            let root = dir.join(format!("cgrove-muted-{name}-{}", std::process::id()));
            let tree = Tree { version: Version::V1, mount: root.clone(), parent: GroupPath::root() };
            let ground = Arc::new(Ground { hierarchy: "cpu".into(), tree });
            let places: Vec<Place> = ["/", "/d", "/e"]
                .map(|path| Place {
                    ground: ground.clone(),
                    group: GroupPath::parse(path).unwrap(),
                    inode: None,
                    made: false,
                })
                .into();
            places.iter().for_each(|p| fs::create_dir_all(p.dir()).unwrap());
            let mut notices = Notices::new(false).unwrap();
            notices.set(&places);
            Self { root, places, notices }
        }

        fn flood(&self, times: usize) {
            for _ in 0..times {
                fs::create_dir(self.root.join("d/x")).unwrap();
                fs::remove_dir(self.root.join("d/x")).unwrap();
            }
        }

        fn appeared(heard: &Heard) -> Vec<&str> {
            let appeared = heard.notices.iter().filter(|n| n.what == What::Appeared);
            appeared.map(|n| n.group.as_str()).collect()
        }
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.root);
        }
    }

    #[test]
    fn a_place_that_announces_too_much_is_muted_and_others_are_heard() {
        let mut scene = Scene::new("flood");
        scene.flood(1000);
        let heard = scene.notices.drain();
        assert!(heard.notices.len() <= 500 && !heard.tree, "{}", heard.notices.len());
        assert_eq!((scene.notices.muted(), scene.notices.lost()), (1, false));
        // What happens there now is not announced; what happens elsewhere is.
        scene.flood(1000);
        fs::create_dir(scene.root.join("d/later")).unwrap();
        fs::write(scene.root.join("e/cpu.shares"), "7").unwrap();
        let heard = scene.notices.drain();
        assert!(heard.tree && heard.notices.is_empty() && scene.notices.announced() < 10);
        // Setting the same places does not wake it, another group in its place does not inherit it.
        scene.notices.set(&scene.places);
        assert_eq!(scene.notices.muted(), 1);
        let until = scene.notices.due().unwrap();
        std::thread::park_timeout(until.saturating_duration_since(Instant::now()) + Duration::from_millis(50));
        let heard = scene.notices.look_at_muted();
        assert_eq!((Scene::appeared(&heard), heard.tree, scene.notices.muted()), (vec!["/d/later"], true, 0));
        fs::remove_dir(scene.root.join("d/later")).unwrap();
        assert_eq!(scene.notices.drain().notices.len(), 1, "it is watched again");
    }

    #[test]
    fn groups_that_leave_the_document_are_forgotten_while_they_are_muted() {
        let mut scene = Scene::new("leave");
        scene.flood(1000);
        scene.notices.drain();
        scene.places.remove(1);
        scene.notices.set(&scene.places);
        assert_eq!((scene.notices.muted(), scene.notices.due()), (0, None));
    }

    #[test]
    fn noise_does_not_hide_that_a_declared_group_was_removed() {
        let mut scene = Scene::new("hide");
        let inner = Place { group: GroupPath::parse("/d/inner").unwrap(), ..scene.places[1].clone() };
        fs::create_dir(inner.dir()).unwrap();
        scene.places.push(inner);
        scene.notices.set(&scene.places);
        scene.flood(1000);
        scene.notices.drain();
        fs::remove_dir(scene.root.join("d/inner")).unwrap();
        let heard = scene.notices.look_at_muted();
        let gone: Vec<_> = heard.notices.iter().map(|n| (n.group.as_str(), &n.what)).collect();
        assert_eq!((gone, heard.tree, scene.notices.muted()), (vec![("/d/inner", &What::Disappeared)], true, 1));
        assert!(!scene.notices.look_at_muted().tree, "it is told once");
    }

    #[test]
    fn what_was_lost_is_looked_for() {
        let mut scene = Scene::new("lost");
        // More than the kernel queues.
        scene.flood(20_000);
        fs::create_dir(scene.root.join("e/unheard")).unwrap();
        let before = scene.notices.drain();
        assert!(scene.notices.lost() && !before.tree && !Scene::appeared(&before).contains(&"/e/unheard"));
        let heard = scene.notices.set(&scene.places);
        assert!(heard.tree && !scene.notices.lost());
        assert_eq!(Scene::appeared(&heard), ["/e/unheard"]);
        fs::remove_dir(scene.root.join("e/unheard")).unwrap();
        let gone = scene.notices.drain();
        assert_eq!(gone.notices.iter().map(|n| &n.what).collect::<Vec<_>>(), [&What::Disappeared]);
    }
}
