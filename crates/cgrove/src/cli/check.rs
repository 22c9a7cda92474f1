//! `cgrove check`

use serde_json::json;

use super::args::Args;
use super::document;
use crate::exit::Exit;
use crate::term;

pub(super) fn run(args: &Args, tree: Option<&str>) -> Result<u8, Exit> {
    let found = document::find(args, tree)?;
    let result = cgrove_core::document::parse(&found.bytes);
    // A document can be checked where no node is configured, or where the configuration is broken.
    let config = args.global.has_config().then(|| document::load(args)).transpose().unwrap_or_else(|e| {
        term::err(&format!("cgrove: warning: whether this node would take it is not known: {}", e.message));
        None
    });
    let unfit = config.and_then(|config| document::warn_unless_fit(&config, &found));
    if args.global.json() {
        let report = match &result {
            Ok(d) => {
                json!({ "ok": true, "digest": d.digest, "groups": d.groups.len(), "warnings": d.warnings, "refused": unfit })
            }
            Err(e) => json!({ "ok": false, "path": e.path, "line": e.line, "value": e.value, "error": e.to_string() }),
        };
        term::json(&report);
        return result.map(|_| 0).map_err(|_| Exit::document(String::new()));
    }
    let desired = document::parse(&found)?;
    for warning in &desired.warnings {
        term::err(&format!("warning: {warning}"));
    }
    let controllers: Vec<_> = desired.controllers.iter().map(|c| c.name()).collect();
    term::out(&format!(
        "{}: good; {} groups, controllers {}, digest {}",
        found.place,
        desired.groups.len(),
        controllers.join(" "),
        desired.digest
    ));
    Ok(0)
}
