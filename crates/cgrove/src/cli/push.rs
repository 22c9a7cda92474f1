//! `cgrove push`

use std::path::Path;

use cgrove_core::json::{self, Json};

use super::args::Args;
use super::document::{self, Found};
use super::plan;
use super::runtime::in_runtime;
use crate::exit::Exit;
use crate::source::{trust, zookeeper};
use crate::term;
use cgrove_config::SourceKind;

pub(super) fn run(args: &Args, tree: &str, approve: bool, sign: Option<&Path>) -> Result<u8, Exit> {
    let config = document::load(args)?;
    if config.tree.source != SourceKind::ZooKeeper {
        return Err(Exit::usage(
            "tree.source is \"file\": replace the file itself, by rename; `cgrove sign KEY TREE` signs".into(),
        ));
    }
    let mut found = document::find(args, Some(tree))?;
    document::parse(&found)?;
    let current = in_runtime(zookeeper::read_once(&config.zookeeper))?.map_err(Exit::unavailable)?;
    let previous = current.as_ref().map(|(bytes, _)| cgrove_core::document::digest(bytes));
    if approve {
        let Some(previous) = &previous else {
            return Err(Exit::usage("--approve: there is no document yet, so nothing can be removed".into()));
        };
        found = with_approval(&found, previous)?;
    }
    if let Some(key) = sign {
        let serial = trust::serial_after(current.as_ref().map_or(&[], |(bytes, _)| &bytes[..]));
        let bytes = trust::sign(&found.bytes, key, serial).map_err(Exit::no_input)?;
        found = Found { bytes: bytes.into(), place: found.place };
    }
    // What every node would refuse is not written.
    let trusted = trust::Trust::read(&config.tree.trusted_keys).map_err(Exit::config)?;
    trusted.check(&found.bytes).map_err(|why| Exit::document(format!("{}: {why}", found.place)))?;
    let desired = document::parse(&found)?;
    if !args.global.json() {
        plan::show_for_push(&config, &desired, previous);
    }
    let version = in_runtime(zookeeper::write(&config.zookeeper, &found.bytes, current.map(|(_, version)| version)))?;
    let version = version.map_err(Exit::unavailable)?;
    if args.global.json() {
        term::json(&serde_json::json!({ "version": version, "digest": desired.digest }));
    } else {
        term::out(&format!(
            "written to {} as version {version}, digest {}",
            zookeeper::place(&config.zookeeper),
            desired.digest
        ));
    }
    Ok(0)
}

/// The document with `"allow_removals"` set to the digest of the one that it replaces.
fn with_approval(found: &Found, previous: &str) -> Result<Found, Exit> {
    let text = std::str::from_utf8(&found.bytes).map_err(|e| Exit::document(e.to_string()))?;
    let Ok(Json::Object(mut entries)) = json::parse(text) else {
        return Err(Exit::document(format!("{}: not a JSON object", found.place)));
    };
    entries.retain(|(key, _)| key != "allow_removals");
    entries.push(("allow_removals".into(), Json::String(previous.into())));
    let bytes = serde_json::to_vec_pretty(&Json::Object(entries)).map_err(|e| Exit::document(e.to_string()))?;
    Ok(Found { bytes: bytes.into(), place: found.place.clone() })
}
