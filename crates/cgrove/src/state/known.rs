//! What the state directory says about removals, read once: which are held, and whose permission has counted.

use std::collections::BTreeSet;

use cgrove_cgroupfs::host::Parents;
use cgrove_core::document::digest;
use cgrove_core::plan::Removal;
use cgrove_state::{StateDir, StateError};

/// One file for each pair of parents: what is held below another parent says nothing about this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    pub(super) held: String,
    pub(super) begun: String,
    /// As versions before this one called them.
    old_held: String,
}

/// Likewise; every parent's.
const OLD_BEGUN: &str = "begun";

impl Names {
    pub(super) fn of(parents: &Parents) -> Self {
        let id = digest(format!("{}\n{}", parents.v1, parents.v2).as_bytes());
        Self {
            held: format!("held-{id}.json"),
            begun: format!("begun-{id}"),
            old_held: format!("held{}{}.json", parents.v1, parents.v2).replace('/', "-"),
        }
    }
}

/// What was read. Only a file that does not exist says that nothing is held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// Removals that wait for an operator.
    pub(crate) held: BTreeSet<Removal>,
    /// The file is there, but is not what was written: whatever would be removed now may have been held.
    pub(crate) held_lost: Option<String>,
    /// The digest of the document whose first round is over: its `allow_removals` has counted.
    pub(crate) begun: Option<String>,
    /// As with `held_lost`: any document's permission may have counted.
    pub(crate) begun_lost: Option<String>,
    /// A file of a version before this one, which is not written any more.
    pub(super) old: Option<String>,
}

impl Known {
    /// The error says that nothing is known for now: the disk, or somebody's rights.
    pub(crate) fn read(dir: &StateDir, parents: &Parents) -> Result<Self, StateError> {
        let names = Names::of(parents);
        let mut known = Self::default();
        match held(dir, &names.held) {
            Ok(Some(held)) => known.held = held,
            // Where an old file is not to be read, there may have been something in it.
            Ok(None) => match held(dir, &names.old_held) {
                Ok(Some(held)) => (known.held, known.old) = (held, Some(names.old_held.clone())),
                Ok(None) => {}
                Err(e) => (known.held_lost, known.old) = (Some(lost(e)?), Some(names.old_held.clone())),
            },
            Err(e) => known.held_lost = Some(lost(e)?),
        }
        let begun = begun(dir, &names.begun).and_then(|found| match found {
            Some(digest) => Ok(Some(digest)),
            None => begun(dir, OLD_BEGUN),
        });
        match begun {
            Ok(digest) => known.begun = digest,
            Err(e) => known.begun_lost = Some(lost(e)?),
        }
        Ok(known)
    }
}

/// Another file in its place is mended by writing ours; a disk that does not answer is asked again.
fn lost(e: StateError) -> Result<String, StateError> {
    match e {
        StateError::Damaged { .. } | StateError::Unsafe { .. } => Ok(e.to_string()),
        e => Err(e),
    }
}

fn held(dir: &StateDir, name: &str) -> Result<Option<BTreeSet<Removal>>, StateError> {
    let parsed = |bytes: &[u8]| serde_json::from_slice::<BTreeSet<Removal>>(bytes);
    let Some(bytes) = dir.get_or_plain(name, |bytes| parsed(bytes).is_ok())? else { return Ok(None) };
    let removals = parsed(&bytes);
    removals.map(Some).map_err(|e| StateError::Damaged { path: dir.path().join(name), why: e.to_string() })
}

fn begun(dir: &StateDir, name: &str) -> Result<Option<String>, StateError> {
    let Some(bytes) = dir.get_or_plain(name, is_digest)? else { return Ok(None) };
    let text = String::from_utf8(bytes).ok().filter(|text| is_digest(text.as_bytes()));
    text.map(Some).ok_or_else(|| StateError::Damaged { path: dir.path().join(name), why: "holds no digest".into() })
}

fn is_digest(bytes: &[u8]) -> bool {
    bytes.len() == 16 && bytes.iter().all(u8::is_ascii_hexdigit)
}

/// Where approvals lie, one empty file for each digest.
pub(super) fn approvals(dir: &StateDir) -> StateDir {
    dir.inside("approved")
}

/// The approvals that an operator gave, and why some do not count: what cannot be read is not given.
pub(crate) fn given(dir: &StateDir) -> (BTreeSet<String>, Option<StateError>) {
    let outer = dir;
    let dir = approvals(dir);
    let (names, mut error) = match outer.check().and_then(|()| dir.names()) {
        Ok(names) => (names, None),
        Err(e) => (Vec::new(), Some(e)),
    };
    let mut given = BTreeSet::new();
    for name in names.into_iter().filter(|n| is_digest(n.as_bytes())) {
        match dir.has(&name) {
            Ok(true) => drop(given.insert(name)),
            Ok(false) => {}
            Err(e) => error = Some(e),
        }
    }
    (given, error)
}

/// Lets held removals go; the daemon sees the file appear.
pub(crate) fn approve(dir: &StateDir, digest: &str) -> Result<(), StateError> {
    dir.prepare()?;
    approvals(dir).put_raw(digest, b"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgrove_core::ids::GroupPath;
    use std::fs;

    #[test]
    fn what_an_earlier_version_wrote_is_read_and_what_is_damaged_is_not_taken_for_nothing() {
        let path = std::env::temp_dir().join(format!("cgrove-known-{}", std::process::id()));
        let dir = StateDir::new(&path);
        let parent = GroupPath::parse("/a").unwrap();
        let parents = Parents { v1: parent.clone(), v2: parent };
        let read = || Known::read(&dir, &parents);
        assert_eq!(read().unwrap(), Known::default());
        dir.prepare().unwrap();
        fs::write(path.join("held-a-a.json"), r#"[["cpu","/x"]]"#).unwrap();
        fs::write(path.join("begun"), "0123456789abcdef").unwrap();
        let old = read().unwrap();
        assert_eq!((old.held.len(), old.old.as_deref()), (1, Some("held-a-a.json")));
        assert_eq!(old.begun.as_deref(), Some("0123456789abcdef"));
        let names = Names::of(&parents);
        dir.put(&names.held, b"[]").unwrap();
        assert!(read().unwrap().held.is_empty());
        for torn in ["", "[", "0123", "{\"format\":1,\"sha256\":\"00\"}\n[]"] {
            for name in [&names.held, &names.begun] {
                fs::write(path.join(name), torn).unwrap();
            }
            let known = read().unwrap();
            assert!(known.held_lost.is_some() && known.begun_lost.is_some(), "{torn}");
        }
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn parents_have_files_of_their_own() {
        let names = |v1: &str, v2: &str| {
            Names::of(&Parents { v1: GroupPath::parse(v1).unwrap(), v2: GroupPath::parse(v2).unwrap() })
        };
        assert_ne!(names("/a-b", "/c").held, names("/a/b", "/c").held);
        assert_ne!(names("/a", "/b/c").begun, names("/a/b", "/c").begun);
    }
}
