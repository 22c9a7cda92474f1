//! `cgrove approve`

use super::args::Args;
use super::{document, status};
use crate::exit::Exit;
use crate::state;
use crate::term;
use cgrove_state::StateDir;

pub(super) fn run(args: &Args, digest: &str) -> Result<u8, Exit> {
    let config = document::load(args)?;
    let digest = digest.to_lowercase();
    if digest.len() != 16 || !digest.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Exit::usage("a digest has 16 hex digits, as `cgrove status` and `cgrove plan` show it".into()));
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(Exit::permission("only root may approve removals; use sudo".into()));
    }
    // A daemon that runs knows what it holds; a slip of the hand is caught here.
    if let Ok(status) = status::fetch(&config) {
        let older = status["refused"]["approve"].as_str();
        match status["plan"]["guard"]["digest"].as_str() {
            _ if older == Some(&digest) => {}
            Some(held) if held == digest => {}
            Some(held) => {
                return Err(Exit::usage(format!(
                    "the removals held now have digest {held}, not {digest}; look at `cgrove plan` again"
                )));
            }
            None => {
                let more = older.map(|d| format!("; a document waits with digest {d}")).unwrap_or_default();
                return Err(Exit::usage(format!("no removals are held now{more}")));
            }
        }
    }
    state::approve(&StateDir::new(&config.tree.state_dir), &digest)?;
    term::out(&format!("approved {digest}"));
    Ok(0)
}
