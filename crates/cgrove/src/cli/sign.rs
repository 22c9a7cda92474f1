//! `cgrove sign`: a signed document on standard output, for whoever brings it to the nodes by other ways than `push`.

use std::path::Path;

use super::args::Args;
use super::document;
use crate::exit::Exit;
use crate::source::trust;
use crate::term;

pub(super) fn run(args: &Args, key: &Path, tree: &str) -> Result<u8, Exit> {
    let found = document::find(args, Some(tree))?;
    document::parse(&found)?;
    let signed = trust::sign(&found.bytes, key, trust::serial_after(&found.bytes)).map_err(Exit::no_input)?;
    term::json_text(&String::from_utf8_lossy(&signed));
    Ok(0)
}
