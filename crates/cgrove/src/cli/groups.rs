//! Groups as users name them: by path, or by a name that stands once in the document of the daemon that is asked.

use cgrove_core::document::nearest;
use serde_json::json;

use super::client::Client;
use crate::exit::Exit;
use crate::term;

/// What becomes of a path that the document does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    /// Nothing is known of it.
    Refused,
    /// Things may have happened to it all the same.
    Told,
}

/// The path of the group that is meant.
pub(super) async fn path(client: &mut Client, name: &str, unknown: Unknown) -> Result<String, Exit> {
    let reply = client.ask(&json!({ "cmd": "list_groups" })).await?;
    let groups = reply["groups"].as_array().into_iter().flatten();
    let paths: Vec<&str> = groups.filter_map(|g| g["path"].as_str()).collect();
    match meant(&paths, name) {
        Err(why) if unknown == Unknown::Told && name.starts_with('/') => {
            term::err(&format!("cgrove: warning: {why}"));
            Ok(name.to_owned())
        }
        found => found.map_err(Exit::usage),
    }
}

fn meant(paths: &[&str], name: &str) -> Result<String, String> {
    let rooted = name.starts_with('/');
    let end = format!("/{name}");
    let found: Vec<&&str> =
        paths.iter().filter(|p| if rooted { **p == name.trim_end_matches('/') } else { p.ends_with(&end) }).collect();
    match &found[..] {
        [path] => Ok((**path).to_owned()),
        [] if name == "/" => Ok(name.to_owned()),
        [] => {
            let known = paths.iter().map(|p| if rooted { p } else { p.rsplit('/').next().unwrap_or(p) });
            let hint = nearest(name, known).map(|n| format!("; did you mean {n}?")).unwrap_or_default();
            Err(format!("the document has no group {name}{hint}"))
        }
        several => {
            let list: Vec<&str> = several.iter().take(5).map(|p| **p).collect();
            Err(format!("{name} stands at {}; use the path", list.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_or_a_name_that_stands_once() {
        let meant = |name| meant(&["/web", "/web/a", "/db", "/db/a"], name);
        assert_eq!(meant("/web").unwrap(), "/web");
        assert_eq!((meant("db").unwrap(), meant("web/a").unwrap()), ("/db".into(), "/web/a".into()));
        assert_eq!((meant("/").unwrap(), meant("/web/").unwrap()), ("/".into(), "/web".into()));
        assert_eq!(meant("a").unwrap_err(), "a stands at /web/a, /db/a; use the path");
        assert_eq!(meant("/wbe").unwrap_err(), "the document has no group /wbe; did you mean /web?");
        assert_eq!(meant("xyz").unwrap_err(), "the document has no group xyz");
    }
}
