//! What is mounted: the cgroup hierarchies below one directory, read from mountinfo and the
//! file systems' magic numbers, never guessed from names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cgrove_core::actual::{Machine, Version};
use cgrove_core::ids::{Controller, ControllerSet, GroupPath};

use crate::{Fault, disks};

/// The label of the v2 hierarchy.
pub const V2_LABEL: &str = "unified";

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its controllers as the kernel lists them: `cpu,cpuacct`; `unified` for v2.
    pub label: String,
    pub version: Version,
    pub controllers: ControllerSet,
    pub dir: PathBuf,
}

/// The node as far as cgroups go.
#[derive(Debug, Clone)]
pub struct Host {
    pub mounts: Vec<Mount>,
    /// Directories of the hierarchies that something else is mounted over: nothing there is ours to see or change.
    pub covered: BTreeSet<PathBuf>,
    pub machine: Machine,
}

/// The managed parent in the hierarchies of each version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parents {
    pub v1: GroupPath,
    pub v2: GroupPath,
}

impl Parents {
    pub fn of(&self, version: Version) -> &GroupPath {
        match version {
            Version::V1 => &self.v1,
            Version::V2 => &self.v2,
        }
    }
}

impl Host {
    /// Looks at the mounts at or below `dir`.
    pub fn discover(dir: &Path) -> Result<Self, Fault> {
        let path = Path::new("/proc/self/mountinfo");
        let text = std::fs::read_to_string(path).map_err(|e| Fault::new("read", path, &e))?;
        let dir = std::fs::canonicalize(dir).map_err(|e| Fault::new("open", dir, &e))?;
        let mut mounts = parse_mountinfo(&text, &dir);
        // What mountinfo lists may be hidden below another mount.
        mounts.retain(|m| magic(&m.dir) == Some(m.version));
        let held = mounts.iter().fold(ControllerSet::EMPTY, |all, m| all.union(m.controllers));
        for mount in mounts.iter_mut().filter(|m| m.version == Version::V2) {
            let listed = std::fs::read_to_string(mount.dir.join("cgroup.controllers")).unwrap_or_default();
            let implicit = Controller::ALL.into_iter().chain([Controller::Core]).filter(|c| c.implicit_on_v2());
            // What has a v1 hierarchy is driven there.
            mount.controllers = listed
                .split_whitespace()
                .filter_map(Controller::parse)
                .chain(implicit)
                .collect::<ControllerSet>()
                .without(held);
        }
        let inside = |point: &PathBuf| mounts.iter().any(|m| point.starts_with(&m.dir) && *point != m.dir);
        let covered = mount_points(&text).filter(inside).collect();
        Ok(Self { mounts, covered, machine: machine() })
    }

    /// The same host, with the disks found that a document names by path.
    #[must_use]
    pub fn knowing<'a>(mut self, paths: impl Iterator<Item = &'a str>) -> Self {
        self.machine.devices.extend(disks::found(paths));
        self
    }

    /// The mount of that label.
    pub fn mount(&self, label: &str) -> Option<&Mount> {
        self.mounts.iter().find(|m| m.label == label)
    }

    /// The hierarchies that hold any of `controllers`.
    pub fn with(&self, controllers: ControllerSet) -> impl Iterator<Item = &Mount> {
        self.mounts.iter().filter(move |m| m.controllers.intersects(controllers))
    }
}

/// Which cgroup file system a directory is on; `None` when it is another one.
fn magic(dir: &Path) -> Option<Version> {
    use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};
    match statfs(dir).ok()?.filesystem_type() {
        CGROUP_SUPER_MAGIC => Some(Version::V1),
        CGROUP2_SUPER_MAGIC => Some(Version::V2),
        _ => None,
    }
}

fn machine() -> Machine {
    let sysconf = |name| nix::unistd::sysconf(name).ok().flatten().and_then(|n| u64::try_from(n).ok());
    let page = sysconf(nix::unistd::SysconfVar::PAGE_SIZE).unwrap_or(4096);
    Machine {
        memory: sysconf(nix::unistd::SysconfVar::_PHYS_PAGES).unwrap_or(0) * page,
        cpus: sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN).unwrap_or(1),
        page,
        disks: disks::whole(),
        devices: Default::default(),
    }
}

/// The cgroup mounts at or below `dir` that show a whole hierarchy, the first of each; see proc_pid_mountinfo(5).
pub fn parse_mountinfo(text: &str, dir: &Path) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = Vec::new();
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (mut left, mut right) = (left.split(' ').skip(3), right.split(' '));
        let (Some(root), Some(point)) = (left.next(), left.next()) else { continue };
        let (Some(kind), Some(options)) = (right.next(), right.nth(1)) else { continue };
        let point = PathBuf::from(unescape(point));
        if root != "/" || !point.starts_with(dir) {
            continue;
        }
        let mount = match kind {
            "cgroup2" => {
                Mount { label: V2_LABEL.into(), version: Version::V2, controllers: ControllerSet::EMPTY, dir: point }
            }
            "cgroup" => {
                let names: Vec<_> = options.split(',').filter(|o| Controller::parse(o).is_some()).collect();
                let controllers: ControllerSet = names.iter().filter_map(|n| Controller::parse(n)).collect();
                Mount { label: names.join(","), version: Version::V1, controllers, dir: point }
            }
            _ => continue,
        };
        let named_only = mount.version == Version::V1 && mount.controllers.is_empty();
        if !named_only && !mounts.iter().any(|m| m.label == mount.label) {
            mounts.push(mount);
        }
    }
    mounts
}

/// Every mount point.
fn mount_points(mountinfo: &str) -> impl Iterator<Item = PathBuf> {
    mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| PathBuf::from(unescape(point)))
}

/// Every mount point with its file system's type.
pub(crate) fn mount_kinds(mountinfo: &str) -> impl Iterator<Item = (PathBuf, String)> {
    mountinfo.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        Some((PathBuf::from(unescape(left.split(' ').nth(4)?)), right.split(' ').next()?.to_owned()))
    })
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let octal = bytes
            .get(i + 1..i + 4)
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        match (bytes[i], octal) {
            (b'\\', Some(byte)) => {
                out.push(byte);
                i += 4;
            }
            (byte, _) => {
                out.push(byte);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
33 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct
34 31 0:35 / /sys/fs/cgroup/odd\\040name rw - cgroup cgroup rw,blkio
35 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
36 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
37 31 0:39 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
38 31 0:40 / /elsewhere/pids rw - cgroup cgroup rw,pids
";

    #[test]
    fn hierarchies_come_from_options_not_from_directory_names() {
        let mounts = parse_mountinfo(HYBRID, Path::new("/sys/fs/cgroup"));
        let seen: Vec<_> = mounts.iter().map(|m| (m.label.as_str(), m.dir.to_str().unwrap(), m.version)).collect();
        assert_eq!(
            seen,
            [
                ("cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct", Version::V1),
                ("blkio", "/sys/fs/cgroup/odd name", Version::V1),
                ("unified", "/sys/fs/cgroup/unified", Version::V2),
            ]
        );
        assert!(mounts[0].controllers.contains(Controller::Cpuacct));
        assert!(parse_mountinfo("garbage\n- -\n", Path::new("/")).is_empty());
    }
}
