//! Where things are: the only file that knows the places of the kernel's own files.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cgrove_core::actual::Version;
use cgrove_core::ids::GroupPath;

use crate::file::trusted;
use crate::host::{Mount, Parents, V2_LABEL};

/// One hierarchy from the managed parent downwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    pub version: Version,
    /// The mount point.
    pub mount: PathBuf,
    /// The managed parent, from the hierarchy's root: `/` or `/cgrove`.
    pub parent: GroupPath,
}

impl Tree {
    pub fn new(mount: &Mount, parents: &Parents) -> Self {
        Self { version: mount.version, mount: mount.dir.clone(), parent: parents.of(mount.version).clone() }
    }

    /// A group's directory.
    pub fn dir(&self, group: &GroupPath) -> PathBuf {
        let [parent, group] = [&self.parent, group].map(|path| if path.is_root() { "" } else { path.as_str() });
        let mut dir = OsString::with_capacity(self.mount.as_os_str().len() + parent.len() + group.len());
        dir.push(&self.mount);
        dir.push(parent);
        dir.push(group);
        dir.into()
    }

    /// The directories above the parent, from the mount point downwards.
    pub fn above(&self) -> Vec<PathBuf> {
        let parent = self.dir(&GroupPath::root());
        let mut dirs: Vec<PathBuf> =
            parent.ancestors().skip(1).take_while(|d| d.starts_with(&self.mount)).map(Path::to_owned).collect();
        dirs.reverse();
        dirs
    }

    pub fn file(&self, group: &GroupPath, name: &str) -> PathBuf {
        self.dir(group).join(name)
    }

    /// Processes of a group, by pid; writing one moves the whole process.
    pub fn procs(&self, group: &GroupPath) -> PathBuf {
        self.file(group, "cgroup.procs")
    }

    /// What is moved one by one when a group is emptied: on v1 threads, so that a process spread over several groups
    /// is left so; on v2 whole processes, which cannot be spread.
    pub fn members(&self, group: &GroupPath) -> PathBuf {
        self.file(group, if self.version == Version::V1 { "tasks" } else { "cgroup.procs" })
    }

    /// Where the group's processes are kept: on v2 its leaf, if it has one that is not somebody else's.
    pub fn seat(&self, group: &GroupPath) -> GroupPath {
        let leaf = group.leaf();
        let is_seat = self.version == Version::V2 && self.dir(&leaf).is_dir() && !self.leaf_is_theirs(group);
        if is_seat { leaf } else { group.clone() }
    }

    /// The user, other than root and ourselves, who owns what controls a group, because he made it or was given
    /// everything in it: whom it holds he may freeze and kill.
    pub fn master(&self, group: &GroupPath) -> Option<u32> {
        // Delegation gives away the directory and the lists of members; these are there in every group.
        let control = if self.version == Version::V1 { "notify_on_release" } else { "cgroup.freeze" };
        let found = std::fs::symlink_metadata(self.file(group, control));
        let found = found.or_else(|_| std::fs::symlink_metadata(self.dir(group)));
        found.ok().map(|meta| meta.uid()).filter(|uid| !trusted(*uid))
    }

    /// v2: a user who does not control the group itself made its leaf.
    pub fn leaf_is_theirs(&self, group: &GroupPath) -> bool {
        let master = || self.master(&group.leaf());
        self.version == Version::V2 && master().is_some_and(|leaf_s| self.master(group) != Some(leaf_s))
    }

    /// The group below the parent that a path from the hierarchy's root means; `None` when it lies outside.
    pub fn group_of(&self, from_root: &str) -> Option<GroupPath> {
        let path = GroupPath::parse(from_root).ok()?;
        if self.parent.is_root() {
            return Some(path);
        }
        let rest = path.as_str().strip_prefix(self.parent.as_str())?;
        GroupPath::parse(if rest.is_empty() { "/" } else { rest }).ok()
    }

    /// A group's path from the hierarchy's root, as /proc/PID/cgroup and cgexec write it.
    pub fn from_root(&self, group: &GroupPath) -> String {
        match (self.parent.is_root(), group.is_root()) {
            (true, _) => group.as_str().into(),
            (false, true) => self.parent.as_str().into(),
            (false, false) => format!("{}{group}", self.parent),
        }
    }
}

/// Which file of a group takes a value, and what is written to it. v1's list of device rules is read as one file and
/// written through two.
pub(crate) fn target<'a>(file: &'a str, value: &'a str) -> (&'a str, &'a str) {
    match (file, value.split_once(' ')) {
        ("devices.list", Some(("allow", rule))) => ("devices.allow", rule),
        ("devices.list", Some(("deny", rule))) => ("devices.deny", rule),
        _ => (file, value),
    }
}

/// A process's path in the hierarchy of that label.
pub fn cgroup_of(cgroup_file: &str, label: &str) -> Option<String> {
    if label == V2_LABEL {
        return cgroup_file.lines().find_map(|l| l.strip_prefix("0::")).map(str::to_owned);
    }
    let wanted = label.split(',').next()?;
    cgroup_file.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        controllers.split(',').any(|c| c == wanted).then(|| path.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_paths_from_the_root_translate_both_ways() {
        let tree =
            |parent| Tree { version: Version::V1, mount: "/m".into(), parent: GroupPath::parse(parent).unwrap() };
        let group = |s| GroupPath::parse(s).unwrap();
        assert_eq!(tree("/p").dir(&group("/a/b")), Path::new("/m/p/a/b"));
        assert_eq!(tree("/").procs(&group("/")), Path::new("/m/cgroup.procs"));
        assert_eq!(tree("/p").group_of("/p/a"), Some(group("/a")));
        assert_eq!(tree("/p").group_of("/p"), Some(group("/")));
        assert_eq!(tree("/p").group_of("/px"), None);
        assert_eq!(
            (tree("/p").from_root(&group("/a")), tree("/").from_root(&group("/a"))),
            ("/p/a".into(), "/a".into())
        );
    }

    #[test]
    fn a_process_is_found_by_controller() {
        let text = "9:name=systemd:/\n4:memory:/x/y\n2:cpu,cpuacct:/a:b\n0::/\n";
        assert_eq!(cgroup_of(text, "cpu,cpuacct").as_deref(), Some("/a:b"));
        assert_eq!(cgroup_of(text, "memory").as_deref(), Some("/x/y"));
        assert_eq!(cgroup_of(text, "unified").as_deref(), Some("/"));
        assert_eq!(cgroup_of(text, "pids"), None);
    }
}
