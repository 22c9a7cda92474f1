//! The kernel's tree as it is now, for the plan to compare.

mod unified;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;
use std::path::Path;

use cgrove_core::actual::{Actual, Group, Hierarchy, Marked, Set, Version};
use cgrove_core::desired::{Desired, Form};
use cgrove_core::ids::{Controller, ControllerSet, GroupPath};
use cgrove_core::knobs::{Unset, find, knobs, witness};
use cgrove_core::plan::{Prune, files_to_read};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;

use crate::file::{Standing, proc_dir, text, text_at};
use crate::host::{Host, Mount, Parents};
use crate::mark::{Found, Identity, Marks};
use crate::paths::{Tree, cgroup_of};
use crate::{Fault, doing, procs};

/// What to look at.
pub struct Scope<'a> {
    pub host: &'a Host,
    pub identity: &'a Identity,
    pub desired: &'a Desired,
    /// Decides for which undeclared groups it is worth knowing who lives there.
    pub prune: Prune,
}

impl Scope<'_> {
    /// Reads every hierarchy that the document concerns. A vanished group is no error.
    pub fn observe(&self) -> Result<Actual, Fault> {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut hierarchies = Vec::new();
        for mount in &self.host.mounts {
            if mount.controllers.intersects(self.desired.controllers) {
                hierarchies.push(self.hierarchy(mount, &own)?);
            }
        }
        Ok(Actual { machine: self.host.machine.clone(), hierarchies })
    }

    fn hierarchy(&self, mount: &Mount, own: &str) -> Result<Hierarchy, Fault> {
        let tree = Tree::new(mount, &self.identity.parents);
        let root = GroupPath::root();
        let mut out = Hierarchy {
            label: mount.label.clone(),
            version: mount.version,
            controllers: mount.controllers,
            at_root: tree.parent.is_root(),
            present: tree.dir(&root).is_dir(),
            complete: true,
            files: BTreeSet::new(),
            above: BTreeMap::new(),
            closed_above: ControllerSet::EMPTY,
            groups: BTreeMap::new(),
        };
        if mount.version == Version::V2 {
            out.closed_above = unified::closed_above(mount, &tree);
            (out.files, out.complete) = unified::files(mount, &tree);
        } else {
            (out.files, out.complete) = self.files(mount, &tree)?;
        }
        if mount.version == Version::V1 && mount.controllers.contains(Controller::Cpuset) {
            out.above = above(&tree);
        }
        if !out.present {
            return Ok(out);
        }
        let read = files_to_read(self.desired, &self.host.machine, &out);
        let home = cgroup_of(own, &mount.label).and_then(|p| tree.group_of(&p));
        let mut walk = Walk {
            scope: self,
            mount,
            tree: &tree,
            read: &read,
            home,
            marks: self.identity.marks(mount),
            groups: &mut out.groups,
        };
        // A top that is gone is seen by what comes next.
        walk.group(
            &root,
            &tree.dir(&root),
            Way { above: CWD, name: &tree.dir(&root).to_string_lossy(), owner: None, exposed: false },
        );
        parents_values(&tree, &mut out.groups);
        Ok(out)
    }

    /// Knob files that groups have: those of the mount's root, the parent, and one child; plus what the root
    /// lacks but shows by a witness.
    fn files(&self, mount: &Mount, tree: &Tree) -> Result<(BTreeSet<String>, bool), Fault> {
        let mut files = BTreeSet::new();
        let mut complete = !tree.parent.is_root() && tree.dir(&GroupPath::root()).is_dir();
        let parent = tree.dir(&GroupPath::root());
        for dir in [&mount.dir, &parent] {
            let mut child = None;
            match std::fs::read_dir(dir) {
                Ok(entries) => {
                    for entry in entries.flatten() {
                        if entry.file_type().is_ok_and(|t| t.is_dir()) {
                            child.get_or_insert(entry.path());
                        } else if let Ok(name) = entry.file_name().into_string() {
                            files.insert(name);
                        }
                    }
                }
                Err(e) if *dir == mount.dir => return Err(Fault::new("list", dir, &e)),
                Err(_) => {}
            }
            complete |= child.is_some();
            let names = child.and_then(|c| std::fs::read_dir(c).ok()).into_iter().flatten().flatten();
            files.extend(names.filter_map(|e| e.file_name().into_string().ok()).filter(|n| n.contains('.')));
        }
        for knob in knobs().filter(|k| mount.controllers.contains(k.controller)) {
            if witness(knob.name).is_some_and(|w| w.is_empty() || files.contains(w)) {
                files.insert(knob.name.into());
            }
        }
        Ok((files, complete))
    }
}

/// The cpuset lists of the nearest existing directory above a parent that has yet to be made.
fn above(tree: &Tree) -> BTreeMap<String, String> {
    let dir = tree.dir(&GroupPath::root());
    let start = dir.parent().filter(|_| !tree.parent.is_root()).unwrap_or(&dir);
    let mut out = BTreeMap::new();
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let dirs = start.ancestors().take_while(|d| d.starts_with(&tree.mount));
        let text = dirs.filter_map(|d| text(&d.join(name)).ok()).find(|t| !t.trim().is_empty());
        out.extend(text.map(|t| (name.to_owned(), t)));
    }
    out
}

/// What a knob that follows its parent is compared with: the parent's value, where a group's mark names such a knob.
fn parents_values(tree: &Tree, groups: &mut BTreeMap<GroupPath, Group>) {
    let mut wanted = Vec::new();
    for (path, group) in groups.iter() {
        let files = group.ours().into_iter().flat_map(|m| m.files.keys());
        let follows = files.filter(|f| find(f).is_some_and(|k| k.unset == Unset::Parent));
        wanted.extend(follows.filter_map(|file| Some((path.up()?, file.clone()))));
    }
    for (path, file) in wanted {
        if let Some(group) = groups.get_mut(&path).filter(|g| !g.values.contains_key(&file))
            && let Ok(text) = text(&tree.file(&path, &file))
        {
            group.values.insert(file, text);
        }
    }
}

/// Does the parent stand, with every controller, in each v2 hierarchy that the document concerns?
pub fn parents_stand(host: &Host, parents: &Parents, desired: &Desired) -> bool {
    host.with(desired.controllers).filter(|m| m.version == Version::V2).all(|mount| {
        let tree = Tree::new(mount, parents);
        unified::closed_above(mount, &tree).is_empty() && unified::files(mount, &tree).1
    })
}

/// Hierarchies that the document does not name, but that hold groups of ours: a by-group document whose last knob of
/// a controller left. They stay concerned, so that the knob is undone and removed groups go there too.
pub fn lingering(host: &Host, identity: &Identity, desired: &Desired) -> ControllerSet {
    if desired.form == Form::ByController {
        return ControllerSet::EMPTY;
    }
    let others = host.mounts.iter().filter(|m| !m.controllers.intersects(desired.controllers));
    let holds = |mount: &&Mount| {
        let top = Tree::new(mount, &identity.parents).dir(&GroupPath::root());
        let mut marks = identity.marks(mount);
        let mut todo = vec![(top, GroupPath::root())];
        while let Some((dir, path)) = todo.pop() {
            for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                if host.covered.contains(&entry.path()) {
                    continue;
                }
                let Some(group) = entry.file_name().to_str().and_then(|name| path.child(name)) else { continue };
                let dir = entry.path();
                let Ok(stat) = statat(CWD, &dir, AtFlags::SYMLINK_NOFOLLOW) else { continue };
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory || group.depth() > DEEPEST {
                    continue;
                }
                if matches!(marks.read(&group, &dir, Standing::from(&stat)).here(false, false), Marked::Ours(_)) {
                    return true;
                }
                if stat.st_nlink > 2 {
                    todo.push((dir, group));
                }
            }
        }
        false
    };
    others.filter(holds).flat_map(|m| m.controllers.iter()).collect()
}

const LEAF_OF_OTHERS: &str = "a user made this leaf";
const PLANTED: &str = "it has no mark of ours, and lies in a directory whose owner may rename groups, but is not his: another \
    one may have been renamed to this name; to have it managed, remove it, so that it is made anew, or give the directory above back to root";

/// Deeper groups than this are not looked into, and nothing above them is removed.
const DEEPEST: usize = 64;

struct Walk<'a> {
    scope: &'a Scope<'a>,
    mount: &'a Mount,
    tree: &'a Tree,
    read: &'a BTreeMap<GroupPath, BTreeSet<String>>,
    /// Where the daemon itself runs.
    home: Option<GroupPath>,
    marks: Marks<'a>,
    groups: &'a mut BTreeMap<GroupPath, Group>,
}

/// How a directory is reached: by its name below an open one, which costs the kernel a fifth of a whole path; the top by
/// its path.
#[derive(Clone, Copy)]
struct Way<'a> {
    above: BorrowedFd<'a>,
    name: &'a str,
    /// Who may rename what is in the directory above, where somebody may.
    owner: Option<u32>,
    /// So somebody may, there or further up.
    exposed: bool,
}

impl Walk<'_> {
    /// One group and everything below. What vanishes is left out; what cannot be read is pinned, and the rest goes on.
    fn group(&mut self, path: &GroupPath, dir: &Path, way: Way<'_>) {
        doing::at("read", dir);
        // First: what is mounted there may never answer.
        if self.scope.host.covered.contains(dir) {
            let mark = Marked::Foreign("something else is mounted over it, see findmnt".into());
            self.groups.insert(path.clone(), Group { mark, ..Group::default() });
            return self.pin(path, "something else is mounted over it");
        }
        let (links, standing) = match statat(way.above, way.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => (stat.st_nlink, Standing::from(&stat)),
            Err(Errno::NOENT) => return,
            Err(_) => return self.pin(path, "it cannot be read"),
        };
        let at_root = path.is_root() && self.tree.parent.is_root();
        let declared = self.declares(path);
        let exposed = self.mount.version == Version::V1 && (way.exposed || standing.others);
        let found = if at_root { Found::NOTHING } else { self.marks.read(path, dir, standing) };
        let (loose, stale) = (found.loose, found.stale && !exposed);
        let mark = match found.here(declared, way.exposed) {
            Marked::No if declared && self.may_be_planted(standing, way) => Marked::Foreign(PLANTED.into()),
            _ if path.is_leaf() && path.up().is_some_and(|up| self.tree.leaf_is_theirs(&up)) => {
                Marked::Foreign(LEAF_OF_OTHERS.into())
            }
            mark => mark,
        };
        let mut group = Group { mark, inode: Some(standing.inode), exposed, stale, ..Group::default() };
        if self.mount.version == Version::V2 && !path.is_root() {
            // The root of a threaded subtree is a domain of its own, and anybody who may make a group below makes it one.
            let kind = text_at(way.above, Path::new(&format!("{}/cgroup.type", way.name)));
            group.threaded = kind.is_ok_and(|kind| !matches!(kind.trim(), "domain" | "domain threaded"));
        }
        self.values(path, way, &mut group);
        if loose {
            self.keep_what_holds(path, dir, standing, &mut group);
        }
        self.residents(path, dir, &mut group);
        self.groups.insert(path.clone(), group);
        // kernfs counts one link for each child directory, so most groups need no listing.
        if links <= 2 {
            return;
        }
        if path.depth() > DEEPEST {
            return self.pin(path, "it is too deep");
        }
        let opened = openat(way.above, way.name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let mut listing = match opened.and_then(Dir::new) {
            Ok(listing) => listing,
            Err(Errno::NOENT) => return,
            Err(_) => return self.pin(path, "it cannot be listed"),
        };
        let entries = listing.by_ref().flatten().filter(|e| e.file_type() == FileType::Directory);
        let children: Vec<_> = entries.map(|e| e.file_name().to_owned()).collect();
        let owner = standing.others.then_some(standing.uid);
        let Ok(above) = listing.fd() else { return self.pin(path, "it cannot be listed") };
        for name in children.iter().filter(|n| !matches!(n.to_bytes(), b"." | b"..")) {
            match name.to_str().ok().and_then(|name| Some((name, path.child(name)?))) {
                Some((name, child)) => self.group(&child, &dir.join(name), Way { above, name, owner, exposed }),
                None => self.pin(path, "a group below it has a name that is not UTF-8"),
            }
        }
    }

    fn declares(&self, path: &GroupPath) -> bool {
        let groups = &self.scope.desired.groups;
        path.is_root() || groups.get(path).is_some_and(|g| g.controllers.intersects(self.mount.controllers))
    }

    /// v1 lets the owner of a directory rename the groups in it, whosesoever they are: one without a mark that is not
    /// his may be another group than the one that is declared here.
    fn may_be_planted(&self, standing: Standing, way: Way<'_>) -> bool {
        self.mount.version == Version::V1 && way.owner.is_some_and(|owner| owner != standing.uid)
    }

    /// A mark where others may write counts once, and only as far as the files still say so: what was sealed earlier
    /// may have been put back. From then on the ledger has it.
    fn keep_what_holds(&mut self, path: &GroupPath, dir: &Path, standing: Standing, group: &mut Group) {
        let Marked::Ours(mark) = &mut group.mark else { return };
        let says = |file: &String| group.values.get(file).map(|text| text.trim());
        let holds = |file: &String, set: &Set| {
            says(file).is_some_and(|now| now == set.want.trim() || set.kept.as_deref().is_some_and(|k| k.trim() == now))
        };
        mark.files = std::mem::take(&mut mark.files).into_iter().filter(|(file, set)| holds(file, set)).collect();
        self.marks.keep(path, dir, standing.inode, mark);
    }

    fn pin(&mut self, path: &GroupPath, why: &'static str) {
        self.groups.entry(path.clone()).or_default().pinned = Some(why);
    }

    /// The files that the document concerns, and those that the mark says we set.
    fn values(&self, path: &GroupPath, way: Way<'_>, group: &mut Group) {
        let declared = self.read.get(path);
        let mut read = |file: &String| {
            if let Ok(text) = text_at(way.above, Path::new(&format!("{}/{file}", way.name))) {
                group.values.insert(file.clone(), text);
            }
        };
        declared.into_iter().flatten().for_each(&mut read);
        if let Marked::Ours(mark) = &group.mark {
            let more = mark.files.keys().filter(|file| !declared.is_some_and(|d| d.contains(*file)));
            more.for_each(&mut read);
        }
    }

    /// Who lives in a group that may have to go.
    fn residents(&self, path: &GroupPath, dir: &Path, group: &mut Group) {
        if self.declares(path) || (group.ours().is_none() && self.scope.prune != Prune::All) {
            return;
        }
        if self.home.as_ref().is_some_and(|h| h == path || h.is_below(path)) {
            group.pinned = Some("the daemon runs here");
            return;
        }
        if self.mount.version == Version::V1 && self.mount.controllers.contains(Controller::Freezer) {
            let state = text(&dir.join("freezer.state")).unwrap_or_default();
            group.frozen = !matches!(state.trim(), "" | "THAWED");
        }
        if self.mount.version == Version::V2 {
            group.frozen = text(&dir.join("cgroup.freeze")).is_ok_and(|f| f.trim() == "1");
        }
        let pids = text(&self.tree.procs(path)).unwrap_or_default();
        let mut pids = pids.lines().filter_map(|l| l.parse::<i32>().ok());
        if pids.any(|pid| proc_dir(pid).exists() && procs::read(pid).is_some_and(|p| p.kernel)) {
            group.pinned = Some("kernel threads live here");
        }
    }
}
