//! The secret that marks are sealed with: a file of the state directory, made at the first write. A lost one costs
//! ownership, never a group: what it sealed counts as unmarked.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use cgrove_state::{StateDir, StateError};
use data_encoding::HEXLOWER;
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

use super::fault;
use super::seal::{Body, Key, Place};
use super::slow::{Slow, Written};
use crate::Fault;

const FILE: &str = "secret";

#[derive(Debug)]
pub(super) struct Secret {
    state: StateDir,
    held: RwLock<Held>,
    /// Marks that somebody with root's rights made, and this secret did not.
    missed: AtomicUsize,
    slow: Mutex<Slow>,
}

#[derive(Clone, Default)]
enum Held {
    /// Nobody has looked yet.
    #[default]
    Unknown,
    /// There is none: the version before this one kept none.
    None,
    /// We may not read it: a command of somebody who is not root, which changes nothing.
    Hidden,
    /// It is there and cannot be used; why. Marks stay as they are, so that they count again once it can be.
    Broken(String),
    Key {
        key: Key,
        taken_over: bool,
        secret: [u8; 32],
        /// Why the next start will not know it.
        trouble: Option<String>,
        /// It is to be written, when that can be done.
        unkept: bool,
    },
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

#[derive(Serialize, Deserialize)]
struct Kept {
    secret: String,
    /// No mark of the version before this one is believed any more.
    taken_over: bool,
}

impl Secret {
    pub(super) fn new(state: StateDir) -> Self {
        Self { state, held: RwLock::default(), missed: AtomicUsize::new(0), slow: Mutex::default() }
    }

    fn held(&self) -> Held {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner).clone();
        if !matches!(held, Held::Unknown) {
            return held;
        }
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        if matches!(*held, Held::Unknown) {
            *held = self.load();
        }
        held.clone()
    }

    /// Somebody may have made it meanwhile.
    pub(super) fn look_again(&self) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        if matches!(*held, Held::Unknown | Held::None | Held::Hidden | Held::Broken(_)) {
            *held = self.load();
        }
    }

    fn load(&self) -> Held {
        let broken = |why: &dyn std::fmt::Display| {
            let path = self.state.path().join(FILE);
            Held::Broken(format!(
                "the secret of marks cannot be used: {}: {why}; until it is mended or removed, groups that were marked before count as unmarked: none is removed, no knob undone, none marked anew",
                path.display()
            ))
        };
        match self.state.get(FILE) {
            Ok(Some(text)) => match read(&text) {
                Some((secret, taken_over)) => key(secret, taken_over, None, false),
                None => broken(&"it is no secret of this version"),
            },
            Ok(None) => Held::None,
            Err(StateError::Io { source, .. }) if source.kind() == ErrorKind::PermissionDenied => Held::Hidden,
            Err(e) => broken(&e),
        }
    }

    pub(super) fn open(&self, place: &Place<'_>, text: &[u8]) -> Option<Body> {
        match &*self.held.read().unwrap_or_else(PoisonError::into_inner) {
            Held::Key { key, .. } => key.open(place, text),
            _ => None,
        }
    }

    /// Made with the first mark, if there is none. `None`: nothing can be sealed now.
    pub(super) fn seal(&self, place: &Place<'_>, body: &Body) -> Option<Vec<u8>> {
        let held = match self.held() {
            held @ Held::Key { .. } => held,
            _ => self.make(),
        };
        match held {
            Held::Key { key, .. } => Some(key.seal(place, body)),
            _ => None,
        }
    }

    fn make(&self) -> Held {
        {
            let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
            if let (Held::Unknown | Held::None, Some(secret)) = (&*held, fresh()) {
                *held = key(secret, false, None, true);
            }
        }
        let _ = self.save();
        self.held()
    }

    /// Writes it, if that has still to be done.
    pub(super) fn save(&self) -> Result<(), Fault> {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        let Held::Key { taken_over, secret, trouble, unkept, .. } = &mut *held else { return Ok(()) };
        let mut slow = self.slow.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match slow.earlier() {
            Some(Written::Waiting) => return Ok(()),
            Some(Written::Done) if !*unkept => Written::Done,
            _ if !*unkept => return Ok(()),
            _ => {
                *unkept = false;
                let kept = Kept { secret: HEXLOWER.encode(&*secret), taken_over: *taken_over };
                let (state, text) = (self.state.clone(), serde_json::to_vec(&kept).unwrap_or_default());
                slow.write(move || state.put(FILE, &text))
            }
        };
        let late = |why: String| {
            format!(
                "the secret of marks is not kept: {why}; after a restart, groups made until then count as unmarked: none is removed"
            )
        };
        match written {
            Written::Done => *trouble = None,
            Written::Waiting => *trouble = Some(late("the disk is slow".into())),
            Written::Failed(e) => {
                (*trouble, *unkept) = (Some(late(e.to_string())), true);
                return Err(fault(&self.state.path().join(FILE), &e));
            }
        }
        Ok(())
    }

    /// Before there was a secret, marks were not sealed: they are believed until the first whole look at the tree.
    pub(super) fn is_taken_over(&self) -> bool {
        matches!(self.held(), Held::Key { taken_over: true, .. } | Held::Broken(_))
    }

    pub(super) fn taken_over(&self) -> Result<(), Fault> {
        self.make();
        if let Held::Key { taken_over, unkept, .. } = &mut *self.held.write().unwrap_or_else(PoisonError::into_inner) {
            (*taken_over, *unkept) = (true, true);
        }
        self.save()
    }

    /// Nothing can be sealed until somebody mends it.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self.held(), Held::Broken(_))
    }

    pub(super) fn is_hidden(&self) -> bool {
        matches!(self.held(), Held::Hidden)
    }

    /// A mark that root made, but not with this secret.
    pub(super) fn missed(&self) {
        self.missed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn trouble(&self) -> Option<String> {
        let missed = self.missed.swap(0, Ordering::Relaxed);
        match self.held() {
            Held::Key { trouble: Some(why), .. } | Held::Broken(why) => Some(why),
            _ if missed > 0 => Some(format!(
                "{missed} groups carry marks that the secret in {} did not make (was the state directory lost or exchanged?): they count as unmarked, and are not removed; those of the document are adopted",
                self.state.path().display()
            )),
            _ => None,
        }
    }
}

fn key(secret: [u8; 32], taken_over: bool, trouble: Option<String>, unkept: bool) -> Held {
    Key::new(&secret).map_or(Held::None, |key| Held::Key { key, taken_over, secret, trouble, unkept })
}

fn read(text: &[u8]) -> Option<([u8; 32], bool)> {
    let kept: Kept = serde_json::from_slice(text).ok()?;
    let bytes = HEXLOWER.decode(kept.secret.as_bytes()).ok()?;
    Some((bytes.try_into().ok()?, kept.taken_over))
}

fn fresh() -> Option<[u8; 32]> {
    let mut secret = [0; 32];
    let filled = getrandom(&mut secret, GetRandomFlags::empty()).ok()?;
    (filled == secret.len()).then_some(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'_> = Place { boot: "b", hierarchy: "cpu", inode: 7 };

    fn body() -> Body {
        let (instance, parent, group) = ("cgrove".into(), "/".into(), "/a".into());
        Body { format: 2, instance, parent, parent_inode: 1, group, files: Default::default() }
    }

    #[test]
    fn a_secret_is_made_once_kept_and_lost_with_its_file() {
        let dir = std::env::temp_dir().join(format!("cgrove-secret-{}", std::process::id()));
        let state = StateDir::new(&dir);
        let first = Secret::new(state.clone());
        assert!(!first.is_taken_over() && !dir.exists(), "looking makes nothing");
        let sealed = first.seal(&PLACE, &body()).unwrap();
        assert_eq!(first.open(&PLACE, &sealed), Some(body()));
        let again = || {
            let secret = Secret::new(state.clone());
            let _ = secret.held();
            secret
        };
        assert!(again().open(&PLACE, &sealed).is_some() && !again().is_taken_over());
        first.taken_over().unwrap();
        assert!(again().is_taken_over() && again().trouble().is_none());
        // Torn: nothing is believed, and it is said.
        let file = dir.join(FILE);
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
        let torn = again();
        assert!(torn.open(&PLACE, &sealed).is_none() && torn.trouble().unwrap().contains("unmarked"));
        assert!(torn.seal(&PLACE, &body()).is_none() && std::fs::read(&file).unwrap().len() == whole.len() / 2);
        // Mended: what was sealed before counts again.
        std::fs::write(&file, &whole).unwrap();
        torn.look_again();
        assert!(torn.open(&PLACE, &sealed).is_some() && torn.trouble().is_none());
        // Gone: another is made, which does not know the marks of before.
        std::fs::remove_file(&file).unwrap();
        let new = again();
        new.seal(&PLACE, &body()).unwrap();
        assert!(again().open(&PLACE, &sealed).is_none());
        new.missed();
        assert!(new.trouble().unwrap().contains("1 groups") && new.trouble().is_none());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
