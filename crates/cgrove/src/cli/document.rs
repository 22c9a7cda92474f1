//! Where a command's document comes from: a file, standard input, the configured source, or the last good one.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cgrove_core::desired::Desired;

use super::args::Args;
use super::runtime::in_runtime;
use crate::exit::Exit;
use crate::source::last_good::{self, Kept};
use crate::source::{Demands, Document, Fetched, Origin, zookeeper};
use crate::term;
use cgrove_config::{self as config, Config, SourceKind, files};
use cgrove_state::StateDir;

/// A document and where it was found.
pub(super) struct Found {
    pub(super) bytes: Bytes,
    pub(super) place: String,
}

/// Validates; the error names the place, line and JSON path.
pub(super) fn parse(found: &Found) -> Result<Desired, Exit> {
    cgrove_core::document::parse(&found.bytes).map_err(|e| Exit::document(format!("{}: {e}", found.place)))
}

/// The named file or `-`; without a name the configured source.
pub(super) fn find(args: &Args, tree: Option<&str>) -> Result<Found, Exit> {
    match tree {
        Some("-") => {
            let bytes = files::bounded(std::io::stdin(), files::DOCUMENT).map_err(|e| unread("standard input", &e))?;
            Ok(Found { bytes: bytes.into(), place: "standard input".into() })
        }
        Some(path) => {
            let path = Path::new(path);
            found(path, files::named(path, files::DOCUMENT))
        }
        None => from_source(&*load(args)?),
    }
}

/// The configuration, read once by each command.
pub(super) fn load(args: &Args) -> Result<Arc<Config>, Exit> {
    if let Some(config) = args.global.loaded.get() {
        return Ok(config.clone());
    }
    let config = Arc::new(config::load(&args.global.config(), config::environment())?);
    Ok(args.global.loaded.get_or_init(|| config).clone())
}

fn found(path: &Path, bytes: io::Result<Vec<u8>>) -> Result<Found, Exit> {
    let bytes = bytes.map_err(|e| unread(&path.display().to_string(), &e))?;
    Ok(Found { bytes: bytes.into(), place: path.display().to_string() })
}

fn unread(place: &str, e: &io::Error) -> Exit {
    match e.kind() {
        io::ErrorKind::FileTooLarge => Exit::document(format!("{place}: {e}; a document has at most 1 MiB")),
        io::ErrorKind::InvalidInput => Exit::no_input(format!("{place}: {e}; `-` reads standard input")),
        _ => Exit::no_input(format!("{place}: {e}")),
    }
}

/// What the daemon would not take, no command does.
fn from_source(config: &Config) -> Result<Found, Exit> {
    let found = read_source(config)?;
    fits(config, &found)?.map_err(|why| Exit::document(format!("{}: {why}", found.place)))?;
    Ok(found)
}

/// Would the daemon here take it, by its signature? The outer error is the configuration's.
fn fits(config: &Config, found: &Found) -> Result<Result<(), String>, Exit> {
    let demands = Demands::read(config).map_err(Exit::config)?;
    // Others than root may not read what is in force; then the daemon alone knows whether it is older.
    let kept = load_kept(config).ok().flatten().filter(|kept| kept.comparable);
    let current = kept.map(|kept| kept.document);
    let fetched = Fetched { bytes: found.bytes.clone(), ..Fetched::default() };
    Ok(demands.met(&fetched, current.as_ref(), false).map_err(|(why, _)| why))
}

/// A draft may still lack its signature, or be signed anew later: that is said, not refused.
pub(super) fn warn_unless_fit(config: &Config, found: &Found) -> Option<String> {
    let why = fits(config, found).ok()?.err()?;
    term::err(&format!("cgrove: warning: {}: nodes with this configuration refuse it: {why}", found.place));
    Some(why)
}

/// What the daemon with this configuration would start with while its source is away.
pub(super) fn last_good(config: &Config) -> Result<Option<Document>, String> {
    match load_kept(config)? {
        Some(Kept { foreign: Some(why), .. }) => Err(why),
        kept => Ok(kept.map(|kept| kept.document)),
    }
}

fn load_kept(config: &Config) -> Result<Option<Kept>, String> {
    last_good::load(&StateDir::new(&config.tree.state_dir), &Origin::of(config))
}

fn read_source(config: &Config) -> Result<Found, Exit> {
    match config.tree.source {
        SourceKind::File => found(&config.tree.path, files::read(&config.tree.path, files::DOCUMENT)),
        SourceKind::ZooKeeper => {
            let place = zookeeper::place(&config.zookeeper);
            match in_runtime(zookeeper::read_once(&config.zookeeper))? {
                Ok(Some((bytes, version))) => Ok(Found { bytes, place: format!("{place} version {version}") }),
                Ok(None) => Err(Exit::unavailable(format!("{place} does not exist; `cgrove push TREE` makes it"))),
                Err(e) => Err(Exit::unavailable(e)),
            }
        }
    }
}

/// The source's document; while the source is away, the last good one that the daemon kept.
pub(super) fn in_force(config: &Config) -> Result<Desired, Exit> {
    let away = match from_source(config) {
        Ok(found) => match parse(&found) {
            Ok(desired) => return Ok(desired),
            Err(e) => e,
        },
        Err(e) => e,
    };
    match last_good(config) {
        Ok(Some(last)) => {
            term::err(&format!("cgrove: {}; using the last good document, version {}", away.message, last.version));
            Ok(Arc::unwrap_or_clone(last.desired))
        }
        _ => Err(away),
    }
}

/// Others cannot read everybody's pid files and programs.
pub(super) fn warn_unless_root() {
    if !nix::unistd::geteuid().is_root() {
        term::err(
            "cgrove: warning: not root, so pid files and programs of others may be unreadable: processes may be missing here",
        );
    }
}
