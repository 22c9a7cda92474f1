//! What a group's event files say, beside what they said before.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cgrove_core::actual::Version;
use cgrove_core::ids::GroupPath;

use super::noise::Noise;
use super::{Notice, Place, What};
use crate::file::text;

/// A group that lives at its limit is told so often.
const QUIET: Duration = Duration::from_secs(10);

/// A group that is watched, as it was last seen.
pub(super) struct Watched {
    pub(super) place: Place,
    populated: Option<bool>,
    /// `None` where the hierarchy does not count, or could not be read.
    kills: Option<u64>,
    /// v2 alone counts them.
    limits: Option<Box<[Limit; 2]>>,
    pub(super) noise: Noise,
}

/// How often a limit was in the way.
#[derive(Default)]
struct Limit {
    seen: Option<u64>,
    /// Not told yet.
    owed: u64,
    told: Option<Instant>,
}

const LIMITS: [&str; 2] = ["high", "max"];

impl Watched {
    /// Somebody else's, or from before we listened: what it says now is no news.
    pub(super) fn found(place: &Place) -> Self {
        let text = limits_text(place);
        let seen = |key| Limit { seen: number(&text, key), ..Limit::default() };
        let limits = (place.version() == Version::V2).then(|| Box::new(LIMITS.map(seen)));
        Self { populated: populated(place), kills: kills(place), limits, noise: Noise::default(), place: place.clone() }
    }

    /// Made while we listened: it was empty, and all that it counts is news.
    pub(super) fn made(place: &Place) -> Self {
        let mut made = Self::found(place);
        made.populated = made.populated.map(|_| false);
        made.kills = made.kills.map(|_| 0);
        for limit in made.limits.iter_mut().flat_map(|l| &mut **l) {
            limit.seen = limit.seen.map(|_| 0);
        }
        made
    }

    pub(super) fn key(&self) -> (Arc<str>, GroupPath) {
        (self.place.hierarchy().clone(), self.place.group.clone())
    }

    /// Only memory's hierarchy does on v1.
    pub(super) fn counts_kills(&self) -> bool {
        self.place.version() == Version::V1 && self.kills.is_some()
    }

    fn notice(&self, what: What) -> Notice {
        Notice { hierarchy: self.place.hierarchy().clone(), group: self.place.group.clone(), what }
    }

    fn look(&mut self, out: &mut Vec<Notice>) {
        let now = populated(&self.place);
        if now.is_some() && now != self.populated {
            out.push(self.notice(if now == Some(true) { What::Populated } else { What::Empty }));
            self.populated = now;
        }
        let Some(limits) = &mut self.limits else { return };
        let text = limits_text(&self.place);
        let mut told = Vec::new();
        for (limit, key) in limits.iter_mut().zip(LIMITS) {
            let Some(now) = number(&text, key) else { continue };
            limit.owed += now.saturating_sub(limit.seen.replace(now).unwrap_or(now));
            if limit.owed > 0 && limit.told.is_none_or(|at| at.elapsed() > QUIET) {
                told.push(What::Memory { key, count: std::mem::take(&mut limit.owed) });
                limit.told = Some(Instant::now());
            }
        }
        out.extend(told.into_iter().map(|what| self.notice(what)));
    }

    /// Kills since the last look: on v2 those below the group as well.
    fn killed(&mut self) -> u64 {
        let Some(now) = kills(&self.place) else { return 0 };
        now.saturating_sub(self.kills.replace(now).unwrap_or(now))
    }
}

/// Looks at groups that were touched. The kernel counts a kill in every group above the victim's, declared or not; it is
/// told of the deepest group that we know.
pub(super) fn look<'a>(groups: impl Iterator<Item = &'a mut Watched>, out: &mut Vec<Notice>) {
    let mut killed: BTreeMap<(Arc<str>, GroupPath), (u64, Notice)> = BTreeMap::new();
    for group in groups {
        group.look(out);
        let count = group.killed();
        if count > 0 {
            let key = (group.place.hierarchy().clone(), group.place.group.clone());
            let v1 = group.place.version() == Version::V1;
            let notice = group.notice(What::Memory { key: "oom_kill", count });
            if v1 { out.push(notice) } else { drop(killed.insert(key, (count, notice))) }
        }
    }
    // Deepest first: what a group below has told, those above need not tell.
    let keys: Vec<_> = killed.keys().rev().cloned().collect();
    for key in keys {
        let Some((count, mut notice)) = killed.get(&key).cloned() else { continue };
        if count > 0 {
            notice.what = What::Memory { key: "oom_kill", count };
            out.push(notice);
        }
        let mut above = key.1.up();
        while let Some(path) = above {
            if let Some((left, _)) = killed.get_mut(&(key.0.clone(), path.clone())) {
                *left = left.saturating_sub(count);
            }
            above = path.up();
        }
    }
}

/// Has the group processes, itself or below? v1 does not say.
fn populated(place: &Place) -> Option<bool> {
    let text = text(&place.dir().join("cgroup.events")).ok()?;
    number(&text, "populated").map(|n| n == 1)
}

/// Before Linux 5.2 there is only the file that counts what is below, too.
fn limits_text(place: &Place) -> String {
    if place.version() == Version::V1 {
        return String::new();
    }
    let file = |name| text(&place.dir().join(name));
    file("memory.events.local").or_else(|_| file("memory.events")).unwrap_or_default()
}

fn kills(place: &Place) -> Option<u64> {
    let name = if place.version() == Version::V1 { "memory.oom_control" } else { "memory.events" };
    number(&text(&place.dir().join(name)).ok()?, "oom_kill")
}

/// The number behind a key, in a file of lines `key number`.
fn number(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::Ground;
    use super::*;
    use crate::paths::Tree;

    #[test]
    fn a_kill_is_told_of_the_deepest_group_and_a_limit_not_too_often() {
        let root = std::env::temp_dir().join(format!("cgrove-look-{}", std::process::id()));
        let tree = Tree { version: Version::V2, mount: root.clone(), parent: GroupPath::root() };
        let ground = Arc::new(Ground { hierarchy: "unified".into(), tree });
        let at = |path: &str, events: &str| {
            let group = GroupPath::parse(path).unwrap();
            let place = Place { ground: ground.clone(), group, inode: None, made: false };
            fs::create_dir_all(place.dir()).unwrap();
            fs::write(place.dir().join("memory.events"), events).unwrap();
            place
        };
        let paths = ["/", "/a", "/a/b", "/c"];
        let mut groups: Vec<Watched> = paths.iter().map(|p| Watched::found(&at(p, "high 5\noom_kill 1\n"))).collect();
        // Two in /a/b, one of /a's own (its leaf's, say), none in /c.
        for (path, kills) in [("/", 4), ("/a", 4), ("/a/b", 3), ("/c", 1)] {
            at(path, &format!("high 7\noom_kill {kills}\n"));
        }
        let mut told = Vec::new();
        look(groups.iter_mut(), &mut told);
        let kills = told.iter().filter_map(|n| match n.what {
            What::Memory { key: "oom_kill", count } => Some((n.group.as_str(), count)),
            _ => None,
        });
        assert_eq!(kills.collect::<Vec<_>>(), [("/a/b", 2), ("/a", 1)]);
        assert_eq!(told.iter().filter(|n| n.what == What::Memory { key: "high", count: 2 }).count(), 4);
        at("/c", "high 9\noom_kill 1\n");
        told.clear();
        look(groups.iter_mut(), &mut told);
        assert!(told.is_empty(), "{told:?}");
        // Somebody made a group and filled it before we came to look.
        fs::write(at("/new", "high 1\noom_kill 0\n").dir().join("cgroup.events"), "populated 1\n").unwrap();
        told.clear();
        look([Watched::made(&at("/new", "high 1\noom_kill 0\n"))].iter_mut(), &mut told);
        let whats: Vec<_> = told.iter().map(|n| &n.what).collect();
        assert_eq!(whats, [&What::Populated, &What::Memory { key: "high", count: 1 }]);
        fs::remove_dir_all(root).unwrap();
    }
}
