//! Pid files that a document may not ask for: looking for them would never end.

use super::error::{DocumentError, Place};
use crate::desired::Desired;

/// What is allowed instead.
pub const ENDLESS: &str =
    "`**` would look through whole file systems: write one `*` for each directory, as in \"/run/*/*.pid\"";

/// Does this glob go down into all directories below one?
pub fn is_endless(pattern: &str) -> bool {
    pattern.contains("**")
}

/// Refuses a document with such a glob.
pub(super) fn check(desired: &mut Desired) -> Result<(), DocumentError> {
    for (path, group) in &desired.groups {
        if let Some(i) = group.pid_files.iter().position(|p| is_endless(p)) {
            let names = path.as_str().split('/').filter(|name| !name.is_empty());
            let at = names.fold(Place::default(), |at, name| at.down("groups").down(name));
            return Err(at
                .down("pid_files")
                .down(&i.to_string())
                .refuse(format!("{:?}", group.pid_files[i]), ENDLESS.into()));
        }
    }
    Ok(())
}

/// Leaves such globs out, with a warning for each.
pub(super) fn leave_out(desired: &mut Desired) {
    for (path, group) in &mut desired.groups {
        for pattern in group.pid_files.iter().filter(|p| is_endless(p)) {
            desired.warnings.push(format!(
                "{path}: pid_files: {pattern:?} is ignored, and refused in the next document: {ENDLESS}"
            ));
        }
        group.pid_files.retain(|p| !is_endless(p));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{parse, parse_kept};

    const ENDLESS: &str =
        "{\"groups\": {\"a\": {\"groups\": {\"b\":\n {\"pid_files\": [\"/run/*.pid\", \"/**/*.pid\"]}}}}}";

    #[test]
    fn endless_globs_are_refused_with_their_place_and_left_out_of_what_was_in_force() {
        let error = parse(ENDLESS.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("line 2: $.groups.a.groups.b.pid_files.1: \"/**/*.pid\": `**`"), "{error}");
        let kept = parse_kept(ENDLESS.as_bytes()).unwrap();
        assert_eq!((kept.groups.len(), kept.warnings.len()), (2, 1));
        assert_eq!(kept.groups[1].pid_files, ["/run/*.pid"]);
        assert!(kept.warnings[0].contains("/**/*.pid") && kept.digest == super::super::digest(ENDLESS.as_bytes()));
        assert!(parse_kept(b"{\"groups\": 5}").is_err());
    }
}
