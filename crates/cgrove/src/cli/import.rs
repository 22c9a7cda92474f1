//! `cgrove import`: a document of what somebody else described, or of what the kernel has.

use std::path::PathBuf;

use cgrove_cgroupfs::host::{Host, Parents};
use cgrove_cgroupfs::survey::survey;
use cgrove_core::document::{LibcgroupFile, from_host, from_libcgroup, parse, to_by_group};
use cgrove_core::ids::GroupPath;

use super::args::{Args, Origin};
use crate::exit::Exit;
use crate::term;
use cgrove_config::{self as config, files as bounded};

/// Prints the document; what it cannot say goes to standard error.
pub(super) fn run(args: &Args, from: Origin, files: &[PathBuf], everywhere: bool) -> Result<u8, Exit> {
    let (desired, notes) = match from {
        Origin::Libcgroup => libcgroup(files)?,
        Origin::Host if !files.is_empty() => {
            return Err(Exit::usage("--from host reads the kernel, not files".into()));
        }
        Origin::Host => host(args, everywhere)?,
    };
    for note in &notes {
        term::err(&format!("note: {note}"));
    }
    let (json, changes) = to_by_group(&desired);
    for change in changes {
        term::err(&format!("note: {change}"));
    }
    let text = serde_json::to_string_pretty(&json).unwrap_or_default();
    // Whatever is printed can be pushed.
    parse(text.as_bytes()).map_err(|e| Exit::document(format!("what was found makes no valid document: {e}")))?;
    term::json_text(&text);
    Ok(0)
}

type Imported = (cgrove_core::desired::Desired, Vec<String>);

fn libcgroup(files: &[PathBuf]) -> Result<Imported, Exit> {
    if files.is_empty() {
        return Err(Exit::usage(
            "name the files: cgrove import --from libcgroup /etc/cgconfig.conf /etc/cgrules.conf".into(),
        ));
    }
    let mut texts = Vec::new();
    for file in files {
        let text = bounded::named_text(file, bounded::CONFIGURATION)
            .map_err(|e| Exit::no_input(format!("{}: {e}", file.display())))?;
        texts.push((file.display().to_string(), text));
    }
    let files: Vec<_> = texts.iter().map(|(name, text)| LibcgroupFile { name, text }).collect();
    from_libcgroup(&files).map_err(|e| Exit::document(e.to_string()))
}

fn host(args: &Args, everywhere: bool) -> Result<Imported, Exit> {
    let config = if args.global.has_config() {
        config::load(&args.global.config(), config::environment())?
    } else {
        config::standard(config::environment())?
    };
    let host = Host::discover(&config.cgroup.dir)?;
    let all = Parents { v1: GroupPath::root(), v2: GroupPath::root() };
    let found = survey(&host, if everywhere { &all } else { config.parents() });
    Ok(from_host(&found, host.machine.page))
}
