//! The mark: what says whose a group is and what we set there. It lies in an extended attribute of the group's
//! directory and dies with the group. Whoever may write a directory may write its attributes, so the attribute is
//! sealed (`seal`), and where others than root may write the directory, the state directory has the mark instead
//! (`ledger`); so it does for kernels before 5.7, which keep no such attributes.

mod ledger;
mod seal;
mod secret;
mod slow;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cgrove_core::actual::{Actual, MARK_FORMAT, Mark, Marked, Version};
use cgrove_core::ids::GroupPath;
use cgrove_state::{StateDir, StateError};
use rustix::fs::{XattrFlags, fsetxattr, getxattr, setxattr};
use rustix::io::Errno;

use self::ledger::Ledger;
use self::seal::{Body, Place};
use self::secret::Secret;
use crate::Fault;
use crate::file::Standing;
use crate::host::{Host, Mount, Parents};
use crate::paths::Tree;

const NAME: &str = "user.cgrove";
/// Kernels limit a value to 64 KiB, and get as much memory as we offer space; ours are far smaller.
const LONGEST: usize = 64 << 10;
const USUAL: usize = 2 << 10;

/// Who writes marks here, and where they are kept. Copies share the ledger and the secret.
#[derive(Debug, Clone)]
pub struct Identity {
    pub instance: String,
    pub parents: Parents,
    /// Takes the marks that the kernel does not keep safely.
    ledger: Arc<Ledger>,
    /// Do not even try extended attributes.
    ledger_only: bool,
    secret: Arc<Secret>,
}

impl Identity {
    /// Nothing is read or written yet.
    pub fn new(instance: String, parents: Parents, state: &StateDir, ledger_only: bool) -> Self {
        let (ledger, secret) = (Arc::new(Ledger::new(state.clone())), Arc::new(Secret::new(state.clone())));
        Self { instance, parents, ledger, ledger_only, secret }
    }

    pub fn fresh(&self, version: Version) -> Mark {
        let parent = self.parents.of(version).to_string();
        Mark { format: MARK_FORMAT, instance: self.instance.clone(), parent, files: Default::default() }
    }

    /// The marks of one hierarchy.
    pub fn marks<'a>(&'a self, mount: &'a Mount) -> Marks<'a> {
        self.secret.look_again();
        self.ledger.look_again();
        let parent = Tree::new(mount, &self.parents).dir(&GroupPath::root());
        let mut marks = Marks {
            identity: self,
            label: &mount.label,
            version: mount.version,
            parent,
            parent_inode: 0,
            buffer: Vec::new(),
        };
        marks.look_at_parent();
        marks
    }

    /// Whatever the ledger has is on the disk when this returns, or the fault says why not.
    pub fn save(&self) -> Result<(), Fault> {
        let secret = self.secret.save();
        self.ledger.save().and(secret)
    }

    /// What is wrong with the secret or the ledger: marks that cannot be believed, or will not be. For people.
    pub fn trouble(&self) -> Vec<String> {
        self.secret.trouble().into_iter().chain(self.ledger.trouble()).collect()
    }

    /// Is nothing left of the version before this one?
    pub fn is_taken_over(&self) -> bool {
        self.secret.is_taken_over()
    }

    /// The ledger is somebody else's to write: a daemon runs beside this command.
    #[must_use]
    pub fn beside_a_daemon(&self) -> Self {
        Self { ledger: Arc::new(self.ledger.read_only()), ..self.clone() }
    }
}

/// Marks of the version before this one, which were not sealed, are written anew, once: afterwards none is believed.
pub fn take_over(host: &Host, identity: &Identity, actual: &Actual) -> Result<(), Fault> {
    for hierarchy in &actual.hierarchies {
        let Some(mount) = host.mount(&hierarchy.label) else { continue };
        let (tree, mut marks) = (Tree::new(mount, &identity.parents), identity.marks(mount));
        let earlier = hierarchy.groups.iter().filter_map(|(path, group)| Some((path, group.ours()?)));
        for (path, mark) in earlier.filter(|(_, mark)| mark.format < MARK_FORMAT) {
            marks.write(path, &tree.dir(path), mark).or_else(|e| if e.vanished() { Ok(()) } else { Err(e) })?;
        }
    }
    identity.ledger.save()?;
    identity.secret.taken_over()
}

/// What a directory's mark says.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    pub marked: Marked,
    /// Ours, but somebody renamed the group: this is its name no longer.
    pub renamed: bool,
    /// It lies where others may write: an earlier one may have been put back, so that it is to be compared with what
    /// the files say, and then kept by [`Marks::keep`].
    pub loose: bool,
    /// Root wrote a mark of ours, which is not believed any more, and another could be written in its place.
    pub stale: bool,
}

impl Found {
    pub(crate) const NOTHING: Self = Self::of(Marked::No);

    const fn of(marked: Marked) -> Self {
        Self { marked, renamed: false, loose: false, stale: false }
    }

    /// Who has renamed a group in a directory that only root may write had root's rights: it is still ours. Where
    /// others may, it is nobody's, unless the document declares a group of its new name.
    pub fn here(self, declared: bool, exposed: bool) -> Marked {
        if self.renamed && exposed && !declared { Marked::No } else { self.marked }
    }
}

/// The marks of one hierarchy's groups.
pub struct Marks<'a> {
    identity: &'a Identity,
    label: &'a str,
    version: Version,
    parent: PathBuf,
    /// Tells this parent from another of the same name, as a container has; 0 until it is made.
    parent_inode: u64,
    buffer: Vec<u8>,
}

impl Marks<'_> {
    fn look_at_parent(&mut self) {
        self.parent_inode = Standing::of(&self.parent).map_or(0, |s| s.inode);
    }

    /// Reads a directory's mark. Where nobody but root may write, what cannot be understood is another's; elsewhere it
    /// is nothing.
    pub fn read(&mut self, group: &GroupPath, dir: &Path, standing: Standing) -> Found {
        if let Some((body, renamed)) = self.identity.ledger.get(self.label, dir, standing.inode, group) {
            return Found { renamed, ..self.judge(body) };
        }
        let length = match self.attribute(dir, standing.others) {
            Ok(length) => length,
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOENT) => return Found::NOTHING,
            Err(_) if standing.others => return Found::NOTHING,
            Err(e) => return Found::of(Marked::Foreign(format!("its mark cannot be read: {e}"))),
        };
        let text = self.buffer.get(..length).unwrap_or_default();
        let place = Place { boot: self.identity.ledger.boot(), hierarchy: self.label, inode: standing.inode };
        let secret = &self.identity.secret;
        match secret.open(&place, text) {
            Some(body) if !self.identity.ledger_only => {
                let renamed = body.group != group.as_str();
                Found { renamed, loose: standing.others, ..self.judge(body) }
            }
            _ if standing.others => Found::NOTHING,
            _ => self.unsealed(text),
        }
    }

    /// The attribute's length in the buffer. Ours are small; where others may write, no large one is even looked at.
    fn attribute(&mut self, dir: &Path, others: bool) -> Result<usize, Errno> {
        self.buffer.resize(USUAL, 0);
        match getxattr(dir, NAME, self.buffer.as_mut_slice()) {
            Err(Errno::RANGE) if !others => {
                self.buffer.resize(LONGEST, 0);
                getxattr(dir, NAME, self.buffer.as_mut_slice())
            }
            result => result,
        }
    }

    /// Only root can have written it, but not with our secret.
    fn unsealed(&self, text: &[u8]) -> Found {
        let secret = &self.identity.secret;
        let Some(body) = seal::body(text) else {
            return Found::of(Marked::Foreign("it has an unreadable mark".into()));
        };
        match self.judge(body.clone()) {
            Found { marked: Marked::Ours(mark), .. } => {
                // The version before this one did not seal; whoever may not read the secret only looks.
                let believed = if body.format < MARK_FORMAT { !secret.is_taken_over() } else { secret.is_hidden() };
                if believed {
                    return Found::of(Marked::Ours(mark));
                }
                secret.missed();
                Found { stale: !secret.is_broken(), ..Found::NOTHING }
            }
            foreign => foreign,
        }
    }

    fn judge(&self, body: Body) -> Found {
        let ours = self.identity;
        let (parent, same_parent) = (ours.parents.of(self.version), body.parent_inode == self.parent_inode);
        Found::of(if body.format > MARK_FORMAT {
            Marked::Foreign(format!("it has the mark of a newer cgrove, format {}", body.format))
        } else if body.instance != ours.instance || body.parent != parent.as_str() {
            Marked::Foreign(format!(
                "it belongs to another cgrove (instance {:?}, parent {})",
                body.instance, body.parent
            ))
        } else if !same_parent && body.format >= MARK_FORMAT {
            Marked::Foreign(format!(
                "it belongs to another cgrove (parent {} of a container or namespace of its own)",
                body.parent
            ))
        } else {
            Marked::Ours(Mark { format: body.format, instance: body.instance, parent: body.parent, files: body.files })
        })
    }

    /// Replaces a directory's mark.
    pub fn write(&mut self, group: &GroupPath, dir: &Path, mark: &Mark) -> Result<(), Fault> {
        let standing = Standing::of(dir).map_err(|e| Fault::new("mark", dir, &e))?;
        self.write_as(group, dir, standing, mark, |text| setxattr(dir, NAME, text, XattrFlags::empty()))
    }

    /// The same for an open directory, whatever is called so by now.
    pub(crate) fn write_open(&mut self, group: &GroupPath, dir: &Path, open: &File, mark: &Mark) -> Result<(), Fault> {
        let standing = Standing::try_from(open).map_err(|e| Fault::new("mark", dir, &e))?;
        self.write_as(group, dir, standing, mark, |text| fsetxattr(open, NAME, text, XattrFlags::empty()))
    }

    fn write_as(
        &mut self,
        group: &GroupPath,
        dir: &Path,
        standing: Standing,
        mark: &Mark,
        set: impl FnOnce(&[u8]) -> Result<(), Errno>,
    ) -> Result<(), Fault> {
        if group.is_root() || self.parent_inode == 0 {
            self.look_at_parent();
        }
        let body = self.body(group, mark);
        let Identity { ledger, ledger_only, secret, .. } = self.identity;
        if *ledger_only || standing.others || ledger.has(self.label, standing.inode) {
            ledger.set(self.label, dir, standing.inode, body);
            return Ok(());
        }
        let place = Place { boot: ledger.boot(), hierarchy: self.label, inode: standing.inode };
        // Without a secret nothing is marked: it is told, and what is declared is done all the same.
        let Some(sealed) = secret.seal(&place, &body) else { return Ok(()) };
        match set(&sealed) {
            Err(Errno::OPNOTSUPP) => {
                ledger.set(self.label, dir, standing.inode, body);
                Ok(())
            }
            result => result.map_err(|e| Fault::new("mark", dir, &e.into())),
        }
    }

    /// Keeps a mark that lay where others may write: from now on the ledger alone counts for this directory.
    pub fn keep(&self, group: &GroupPath, dir: &Path, inode: u64, mark: &Mark) {
        self.identity.ledger.set(self.label, dir, inode, self.body(group, mark));
    }

    fn body(&self, group: &GroupPath, mark: &Mark) -> Body {
        let Mark { instance, parent, files, .. } = mark.clone();
        let parent_inode = self.parent_inode;
        Body { format: MARK_FORMAT, instance, parent, parent_inode, group: group.to_string(), files }
    }
}

fn fault(path: &Path, error: &StateError) -> Fault {
    Fault::new("mark", path, &std::io::Error::from_raw_os_error(error.errno().unwrap_or(nix::libc::EIO)))
}
