//! Who is never removed and never drained.

use std::collections::BTreeSet;

use crate::actual::{Hierarchy, Marked};
use crate::ids::GroupPath;

/// Names of other managers' groups. They protect unmarked groups directly below a hierarchy's root.
const BUILT_IN: [&str; 17] = [
    "init.scope",
    "*.slice",
    "*.scope",
    "*.service",
    "docker*",
    "kubepods*",
    "libpod*",
    "crio*",
    "lxc*",
    "machine*",
    "libvirt*",
    "*.partition",
    "slurm*",
    "nomad*",
    "system",
    "user",
    "_tasks",
];

/// The operator's list: names, globs, or paths below the parent.
#[derive(Debug, Clone, Default)]
pub struct Protected {
    names: Vec<glob::Pattern>,
    paths: Vec<glob::Pattern>,
}

impl Protected {
    /// Entries with a leading `/` are paths (globs allowed, `*` stays within a component); others are names at any depth.
    pub fn new<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut out = Self::default();
        for entry in entries {
            let pattern = glob::Pattern::new(entry.trim_end_matches('/')).map_err(|e| format!("{entry:?}: {e}"))?;
            match entry {
                "" | "/" => {
                    return Err(format!("{entry:?}: name a group, as in \"system\", \"docker*\" or \"/clients/vm-1\""));
                }
                _ if entry.starts_with('/') => out.paths.push(pattern),
                _ if entry.contains('/') => return Err(format!("{entry:?}: a path starts with `/`")),
                _ => out.names.push(pattern),
            }
        }
        Ok(out)
    }

    /// Does the list name this very group?
    pub fn names(&self, path: &GroupPath) -> bool {
        let options = glob::MatchOptions { require_literal_separator: true, ..Default::default() };
        self.names.iter().any(|p| p.matches(path.name()))
            || self.paths.iter().any(|p| p.matches_with(path.as_str(), options))
    }

    /// The protected group that `path` is or lies in.
    pub fn covers(&self, path: &GroupPath) -> Option<GroupPath> {
        std::iter::once(path.clone()).chain(path.ancestors()).find(|p| !p.is_root() && self.names(p))
    }

    /// Every group of the hierarchy that pruning must leave: protected ones, their ancestors and all below them.
    pub(super) fn kept(&self, hierarchy: &Hierarchy) -> BTreeSet<GroupPath> {
        let mut kept = BTreeSet::new();
        for (path, group) in hierarchy.groups.iter().filter(|(p, _)| !p.is_root()) {
            let foreign = matches!(group.mark, Marked::Foreign(_));
            let seed =
                foreign || group.pinned.is_some() || group.threaded || self.names(path) || is_built_in(hierarchy, path);
            let below_seed = path.up().is_some_and(|up| kept.contains(&up) && self.below_protected(hierarchy, path));
            if seed || below_seed {
                kept.extend(path.ancestors().filter(|p| !p.is_root()));
                kept.insert(path.clone());
            }
        }
        kept
    }

    /// Below a seed (not merely beside one, under a common ancestor).
    fn below_protected(&self, hierarchy: &Hierarchy, path: &GroupPath) -> bool {
        path.ancestors().filter(|p| !p.is_root()).any(|p| {
            let foreign = hierarchy
                .groups
                .get(&p)
                .is_some_and(|g| matches!(g.mark, Marked::Foreign(_)) || g.pinned.is_some() || g.threaded);
            foreign || self.names(&p) || is_built_in(hierarchy, &p)
        })
    }
}

/// An unmarked group directly below a hierarchy's root whose name belongs to another manager.
pub(super) fn is_built_in(hierarchy: &Hierarchy, path: &GroupPath) -> bool {
    let unmarked = hierarchy.groups.get(path).is_some_and(|g| g.mark == Marked::No);
    hierarchy.at_root && path.depth() == 1 && unmarked && matches_built_in(path.name())
}

fn matches_built_in(name: &str) -> bool {
    matches_any(&BUILT_IN, name)
}

fn matches_any(patterns: &[&str], name: &str) -> bool {
    patterns.iter().any(|p| glob::Pattern::new(p).is_ok_and(|p| p.matches(name)))
}

/// Of [`BUILT_IN`], those that are not containers or jobs: a service's children belong to the service.
const SERVICES: [&str; 7] = ["*.slice", "*.scope", "*.service", "init.scope", "system", "user", "_tasks"];
/// Containers under systemd's own tree.
const IN_SLICES: [&str; 5] = ["docker-*", "crio-*", "libpod-*", "cri-containerd-*", "kubepods*"];

/// Is this the name of a group that another manager makes directly below a hierarchy's root?
pub fn is_others(name: &str) -> bool {
    matches_built_in(name)
}

/// Does a path from a hierarchy's root look like a container's, or a job's?
pub fn is_container(place: &str) -> bool {
    let mut names = place.split('/').filter(|n| !n.is_empty());
    let top = names.next().unwrap_or_default();
    BUILT_IN.iter().any(|p| !SERVICES.contains(p) && matches_any(&[p], top))
        || (top.ends_with(".slice") && names.any(|name| matches_any(&IN_SLICES, name)))
}

/// The systemd unit that a path from the hierarchy's root lies in.
pub fn unit_of(place: &str) -> Option<&str> {
    place.rsplit('/').find(|name| name.ends_with(".service") || name.ends_with(".scope"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_at_any_depth_and_paths_where_they_stand() {
        let p = |s| GroupPath::parse(s).unwrap();
        let protected = Protected::new(["safe", "vm-*", "/x/*/keep"]).unwrap();
        for yes in ["/safe", "/a/b/safe", "/vm-7", "/x/y/keep"] {
            assert!(protected.names(&p(yes)), "{yes}");
        }
        for no in ["/safer", "/x/keep", "/x/y/z/keep", "/keep"] {
            assert!(!protected.names(&p(no)), "{no}");
        }
        assert_eq!(protected.covers(&p("/a/safe/c")), Some(p("/a/safe")));
        assert!(Protected::new(["/"]).is_err() && Protected::new(["a/b"]).is_err() && Protected::new(["["]).is_err());
    }

    #[test]
    fn units() {
        assert_eq!(unit_of("/system.slice/nginx.service"), Some("nginx.service"));
        assert_eq!(unit_of("/user.slice/session-1.scope/x"), Some("session-1.scope"));
        assert_eq!(unit_of("/cgrove/a"), None);
    }

    #[test]
    fn containers_and_jobs_but_not_services() {
        let yes = [
            "/docker/abc",
            "/kubepods.slice/x",
            "/slurm/uid_0/job_1",
            "/system.slice/docker-1a2b.scope",
            "/x.partition/y",
        ];
        assert!(yes.iter().all(|place| is_container(place)));
        let no = ["/", "/system.slice/nginx.service", "/user.slice/user-0.slice", "/web", "/system/x", "/init.scope"];
        assert!(!no.iter().any(|place| is_container(place)));
    }
}
