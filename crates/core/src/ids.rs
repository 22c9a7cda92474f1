//! Names that cannot be wrong: controllers, and group paths that hold neither `..` nor a slash too many.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest group name that a document may use.
pub const MAX_NAME: usize = 128;
/// Deepest group that a document may declare.
pub const MAX_DEPTH: usize = 16;
/// The leaf that holds an inner group's processes on cgroup v2 (no-internal-processes rule).
pub const TASKS_LEAF: &str = "_tasks";

/// A kernel resource controller, under its v2 name; v1's `blkio` is [`Controller::Io`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Controller {
    Cpu,
    Cpuacct,
    Cpuset,
    Memory,
    Io,
    Pids,
    Hugetlb,
    Devices,
    Freezer,
    NetCls,
    NetPrio,
    PerfEvent,
    Rdma,
    Misc,
    /// Not a controller: the `cgroup.*` files that every v2 group has. No document names it.
    Core,
}

impl Controller {
    /// Every controller, in the order in which they are shown.
    pub const ALL: [Self; 14] = [
        Self::Cpu,
        Self::Cpuacct,
        Self::Cpuset,
        Self::Memory,
        Self::Io,
        Self::Pids,
        Self::Hugetlb,
        Self::Devices,
        Self::Freezer,
        Self::NetCls,
        Self::NetPrio,
        Self::PerfEvent,
        Self::Rdma,
        Self::Misc,
    ];

    /// The v2 name (`io`), also used for controllers that only v1 has.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuacct => "cpuacct",
            Self::Cpuset => "cpuset",
            Self::Memory => "memory",
            Self::Io => "io",
            Self::Pids => "pids",
            Self::Hugetlb => "hugetlb",
            Self::Devices => "devices",
            Self::Freezer => "freezer",
            Self::NetCls => "net_cls",
            Self::NetPrio => "net_prio",
            Self::PerfEvent => "perf_event",
            Self::Rdma => "rdma",
            Self::Misc => "misc",
            Self::Core => "cgroup",
        }
    }

    /// The name in v1 mount options and file names (`blkio`).
    pub fn v1_name(self) -> &'static str {
        if self == Self::Io { "blkio" } else { self.name() }
    }

    /// Either name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.name() == name || c.v1_name() == name)
    }

    /// Threads of one process cannot be spread where one of these is enabled; where only others are, a group becomes the
    /// root of a threaded subtree as soon as it holds a process.
    pub fn is_domain(self) -> bool {
        matches!(self, Self::Memory | Self::Io | Self::Hugetlb | Self::Rdma | Self::Misc)
    }

    /// On v2 every group has it, whatever `cgroup.subtree_control` says: `cpu.stat` counts for all, freezing is the
    /// core's own, devices and perf_event work by attached programs and descriptors.
    pub fn implicit_on_v2(self) -> bool {
        matches!(self, Self::Cpuacct | Self::Devices | Self::Freezer | Self::PerfEvent | Self::Core)
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of controllers; iterates in [`Controller::ALL`] order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ControllerSet(u16);

impl ControllerSet {
    pub const EMPTY: Self = Self(0);

    pub fn insert(&mut self, c: Controller) {
        self.0 |= 1 << c as u16;
    }

    pub fn contains(self, c: Controller) -> bool {
        self.0 & (1 << c as u16) != 0
    }

    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What is in `self` and not in `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub fn iter(self) -> impl Iterator<Item = Controller> {
        Controller::ALL.into_iter().chain([Controller::Core]).filter(move |c| self.contains(*c))
    }

    /// Those that `cgroup.subtree_control` switches.
    #[must_use]
    pub fn switchable(self) -> Self {
        self.iter().filter(|c| !c.implicit_on_v2()).collect()
    }
}

impl Extend<Controller> for ControllerSet {
    fn extend<T: IntoIterator<Item = Controller>>(&mut self, iter: T) {
        iter.into_iter().for_each(|c| self.insert(c));
    }
}

impl FromIterator<Controller> for ControllerSet {
    fn from_iter<T: IntoIterator<Item = Controller>>(iter: T) -> Self {
        let mut set = Self::EMPTY;
        iter.into_iter().for_each(|c| set.insert(c));
        set
    }
}

/// A group's path below the managed parent: `/clients/vm-1`; the parent itself is `/`.
///
/// Orders like a tree walk: a parent sorts before everything below it, and siblings never interleave. Copies share its text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GroupPath(Arc<str>);

impl GroupPath {
    /// The managed parent.
    pub fn root() -> Self {
        Self("/".into())
    }

    pub fn is_root(&self) -> bool {
        &*self.0 == "/"
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A path with a leading slash; what is refused is said in the error.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let bad = |why: &str| NameError(format!("{text:?}: {why}"));
        let rest = text.strip_prefix('/').ok_or_else(|| bad("a group path starts with `/`, as in `/clients/vm-1`"))?;
        let mut path = Self::root();
        if rest.is_empty() {
            return Ok(path);
        }
        for name in rest.split('/') {
            path = path.child(name).ok_or_else(|| bad("has an empty, `.` or `..` component, or a NUL byte"))?;
        }
        Ok(path)
    }

    /// One level down; `None` when `name` cannot be a directory's name.
    pub fn child(&self, name: &str) -> Option<Self> {
        let bad = name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']);
        let base = if self.is_root() { "" } else { &self.0 };
        (!bad).then(|| Self(format!("{base}/{name}").into()))
    }

    /// One level up; `None` for the parent itself.
    pub fn up(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        match self.0.rfind('/') {
            Some(0) | None => Some(Self::root()),
            Some(i) => Some(Self(self.0[..i].into())),
        }
    }

    /// The last component; empty for the parent itself.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|c| !c.is_empty())
    }

    /// The leaf below a v2 group that holds its processes while it has groups below.
    #[must_use]
    pub fn leaf(&self) -> Self {
        let base = if self.is_root() { "" } else { &self.0 };
        Self(format!("{base}/{TASKS_LEAF}").into())
    }

    /// Is this such a leaf?
    pub fn is_leaf(&self) -> bool {
        self.name() == TASKS_LEAF
    }

    /// 0 for the parent itself.
    pub fn depth(&self) -> usize {
        self.components().count()
    }

    /// True when `self` lies strictly below `other`.
    pub fn is_below(&self, other: &Self) -> bool {
        if other.is_root() {
            return !self.is_root();
        }
        self.0.len() > other.0.len() && self.0.starts_with(&*other.0) && self.0.as_bytes()[other.0.len()] == b'/'
    }

    /// Everything above, nearest first, the parent itself last.
    pub fn ancestors(&self) -> impl Iterator<Item = Self> {
        std::iter::successors(self.up(), Self::up)
    }
}

impl Ord for GroupPath {
    /// By components: whatever is below a group follows it at once. Bytes are compared, and a slash is less than any other.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let (a, b) = (self.0.as_bytes(), other.0.as_bytes());
        let unlike = |(x, y): &(&u8, &u8)| x != y;
        match a.iter().zip(b).find(unlike) {
            Some((b'/', _)) => std::cmp::Ordering::Less,
            Some((_, b'/')) => std::cmp::Ordering::Greater,
            Some((x, y)) => x.cmp(y),
            None => a.len().cmp(&b.len()),
        }
    }
}

impl PartialOrd for GroupPath {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for GroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for GroupPath {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<GroupPath> for String {
    fn from(path: GroupPath) -> Self {
        path.as_str().into()
    }
}

/// A name or path that cannot be used; the text says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(pub String);

/// What a document may call a group. The kernel forbids `/` and NUL; the rest keeps names free of
/// shell and log surprises and apart from the kernel's own files.
pub fn check_name(name: &str) -> Result<(), NameError> {
    let err = |why: &str| Err(NameError(why.into()));
    if name.is_empty() || name.len() > MAX_NAME {
        return err("a group name has 1 to 128 characters");
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.@:-".contains(&b)) {
        return err("a group name is made of letters, digits and `_ . @ : -`");
    }
    if name.starts_with('.') {
        return err("a group name does not start with a dot");
    }
    let prefix = name.split('.').next().unwrap_or_default();
    let kernel_file = matches!(name, "tasks" | "notify_on_release" | "release_agent")
        || (name.contains('.') && (prefix == "cgroup" || Controller::parse(prefix).is_some()));
    if kernel_file {
        return err(
            "this is the name of a kernel interface file (`tasks`, `cgroup.*`, `<controller>.*` and the like); choose another",
        );
    }
    if name == TASKS_LEAF {
        return err("`_tasks` is kept for cgrove's own leaf groups");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_walk_and_order_like_a_tree() {
        let p = |s| GroupPath::parse(s).unwrap();
        assert_eq!(p("/a/b").up(), Some(p("/a")));
        assert_eq!(p("/a").up(), Some(GroupPath::root()));
        assert!(p("/a/b").is_below(&p("/a")) && !p("/ab").is_below(&p("/a")) && p("/a").is_below(&p("/")));
        let mut all = [p("/a-b"), p("/a/b"), p("/a")];
        all.sort();
        assert_eq!(all, [p("/a"), p("/a/b"), p("/a-b")]);
        for bad in ["a", "", "/a//b", "/../x", "/a/.", "/a\0"] {
            assert!(GroupPath::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_follow_the_rule() {
        for good in ["a", "vm-1", "web_2.x", "user@host:1", &"n".repeat(128), "cpu", "memory-x.y"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".a",
            "..",
            "a/b",
            "a b",
            "é",
            "_tasks",
            "tasks",
            "cgroup.procs",
            "cpu.weight",
            "blkio.x",
            "io.y",
            &"n".repeat(129),
        ] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
