//! Whose document it is: for which parent, and where it came from. What one daemon kept is not another's, even where
//! they share a state directory.

use std::collections::BTreeSet;
use std::fmt;

use cgrove_config::{Config, SourceKind};
use serde::{Deserialize, Serialize};

use super::zookeeper;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// The managed parent of cgroup v1 and of v2.
    parents: (String, String),
    /// The file, or the znode with its chroot.
    place: String,
    /// ZooKeeper's servers; none for a file.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    hosts: BTreeSet<String>,
}

impl Origin {
    pub(crate) fn of(config: &Config) -> Self {
        let parents = config.parents();
        let parents = (parents.v1.to_string(), parents.v2.to_string());
        match config.tree.source {
            SourceKind::File => {
                Self { parents, place: format!("file {}", config.tree.path.display()), hosts: BTreeSet::new() }
            }
            SourceKind::ZooKeeper => {
                let hosts = &config.zookeeper.hosts;
                let (hosts, chroot) = hosts.find('/').map_or((hosts.as_str(), ""), |at| hosts.split_at(at));
                Self {
                    parents,
                    place: format!("znode {chroot}{}", zookeeper::path(&config.zookeeper)),
                    hosts: hosts.split(',').map(str::to_owned).collect(),
                }
            }
        }
    }

    pub(crate) fn has_parents_of(&self, other: &Self) -> bool {
        self.parents == other.parents
    }

    /// Is it the same document's place, whatever servers keep it and whatever parent it is for?
    pub(crate) fn is_at_place_of(&self, other: &Self) -> bool {
        self.place == other.place
    }

    /// An ensemble stays itself while servers come and go: one that is named in both is enough.
    pub(crate) fn is(&self, other: &Self) -> bool {
        let ensemble = self.hosts.is_empty() && other.hosts.is_empty() || !self.hosts.is_disjoint(&other.hosts);
        self.has_parents_of(other) && self.is_at_place_of(other) && ensemble
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (v1, v2) = &self.parents;
        write!(f, "parent {v1}")?;
        if v1 != v2 {
            write!(f, " and {v2}")?;
        }
        write!(f, ", {}", self.place)?;
        if !self.hosts.is_empty() {
            let hosts: Vec<&str> = self.hosts.iter().map(String::as_str).collect();
            write!(f, " at {}", hosts.join(","))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn origin(hosts: &str, prefix: &str, parent: &str) -> Origin {
        let text = format!(
            "[cgroup]\nparent = {parent:?}\n[tree]\nsource = \"zookeeper\"\n[zookeeper]\nhosts = {hosts:?}\nprefix = {prefix:?}\n"
        );
        Origin::of(&cgrove_config::parse(&text, "test", Path::new("/"), std::iter::empty()).unwrap())
    }

    #[test]
    fn a_document_belongs_to_its_parent_its_znode_and_its_ensemble() {
        let one = origin("a:1,b:2", "/x", "/p");
        let cases = [
            (origin("b:2,c:3", "/x", "/p"), true),
            (origin("c:3", "/x", "/p"), false),
            (origin("a:1,b:2", "/y", "/p"), false),
            (origin("a:1,b:2", "/x", "/q"), false),
        ];
        for (other, same) in cases {
            assert_eq!(one.is(&other), same, "{other}");
        }
        let file = |path: &str| {
            let text = format!("[tree]\nsource = \"file\"\npath = {path:?}\n");
            Origin::of(&cgrove_config::parse(&text, "test", Path::new("/"), std::iter::empty()).unwrap())
        };
        assert!(file("/a").is(&file("/a")) && !file("/a").is(&file("/b")) && !file("/a").is(&one));
        let back: Origin = serde_json::from_str(&serde_json::to_string(&one).unwrap()).unwrap();
        assert_eq!(back, one);
    }
}
