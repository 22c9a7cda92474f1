//! What the state directory remembers about removals: those that were held, approvals given by an operator, and
//! which document's own permission has counted.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cgrove_core::plan::Removal;
use tracing::warn;

use crate::source::last_good;
use cgrove_config::Config;

const BEGUN: &str = "begun";

/// The digest of the document whose first round is over: its `allow_removals` has counted, across restarts.
pub(crate) fn begun(state_dir: &Path) -> Option<String> {
    fs::read_to_string(state_dir.join(BEGUN)).ok()
}

/// Notes that a document's first round is over.
pub(crate) fn begin(state_dir: &Path, digest: &str) -> io::Result<()> {
    last_good::make_dir(state_dir)?;
    fs::write(state_dir.join(BEGUN), digest)
}

/// Where approvals lie, one empty file for each digest.
pub(crate) fn dir(state_dir: &Path) -> PathBuf {
    state_dir.join("approved")
}

/// The digests that an operator approved.
pub(crate) fn given(state_dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir(state_dir)).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).collect()
}

/// Lets held removals go; the daemon sees the file appear.
pub(crate) fn approve(state_dir: &Path, digest: &str) -> io::Result<()> {
    last_good::make_dir(state_dir)?;
    let dir = dir(state_dir);
    last_good::make_dir(&dir)?;
    fs::File::create(dir.join(digest)).map(|_| ())
}

/// An approval counts once.
pub(crate) fn used(state_dir: &Path, digest: &str) {
    let _ = fs::remove_file(dir(state_dir).join(digest));
}

/// One file for each parent: another parent's plan says nothing about what is held here.
fn held_file(config: &Config) -> PathBuf {
    let parents = config.parents();
    let name = format!("held{}{}.json", parents.v1, parents.v2).replace('/', "-");
    config.tree.state_dir.join(name)
}

/// The removals that were held by the last plan.
pub(crate) fn held(config: &Config) -> BTreeSet<Removal> {
    let text = fs::read(held_file(config)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Keeps them; an empty set forgets.
pub(crate) fn keep_held(config: &Config, removals: &BTreeSet<Removal>) {
    let path = held_file(config);
    let result = if removals.is_empty() {
        fs::remove_file(&path).or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
    } else if held(config) == *removals {
        Ok(())
    } else {
        let text = serde_json::to_vec(removals).unwrap_or_default();
        last_good::make_dir(&config.tree.state_dir).and_then(|()| fs::write(&path, text))
    };
    if let Err(e) = result {
        warn!("{}: {e}", path.display());
    }
}
