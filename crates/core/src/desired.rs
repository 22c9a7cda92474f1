//! The desired tree: what both document forms come to.

use indexmap::IndexMap;
use litemap::LiteMap;

use crate::ids::{Controller, ControllerSet, GroupPath};
use crate::knobs::Value;
use crate::rules::Criteria;

/// Which form a document had; decides the shape of usage replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// cgrouparch's: top-level keys are controllers.
    ByController,
    /// A group is written once.
    ByGroup,
}

/// One desired group.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Group {
    /// The controllers whose hierarchies hold it.
    pub controllers: ControllerSet,
    /// Typed knobs by their name in the document.
    pub knobs: LiteMap<&'static str, Value>,
    /// Raw files: name and text, written as they are.
    pub files: IndexMap<String, String>,
    /// Where its processes come from: paths and globs of pid files.
    pub pid_files: Vec<String>,
    /// Which other processes belong to it.
    pub processes: Vec<Criteria>,
    /// Memory limits may go below what is in use.
    pub allow_reclaim: bool,
}

/// A whole document's meaning.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    pub form: Form,
    /// Every group directly before its descendants, siblings in document order; never the parent `/` itself.
    pub groups: IndexMap<GroupPath, Group>,
    /// The controllers whose hierarchies may be touched.
    pub controllers: ControllerSet,
    /// Usage is reported under these keys: the document's own, or v2 names.
    pub usage_keys: Vec<(String, Controller)>,
    /// Processes that are left where they are, whatever a group's rules say.
    pub ignore: Vec<Criteria>,
    /// The digest of the document whose groups may be removed freely.
    pub allow_removals: Option<String>,
    /// Names the document's exact text: 16 hex digits.
    pub digest: String,
    /// Things that were ignored, each with its JSON path.
    pub warnings: Vec<String>,
}

impl Desired {
    /// The groups that a hierarchy with `controllers` should have.
    pub fn groups_in(&self, controllers: ControllerSet) -> impl Iterator<Item = (&GroupPath, &Group)> {
        self.groups.iter().filter(move |(_, g)| g.controllers.intersects(controllers))
    }

    /// The disks that any knob names by path, for whoever can look them up.
    pub fn device_paths(&self) -> impl Iterator<Item = &str> {
        self.groups.values().flat_map(|g| g.knobs.values()).flat_map(Value::device_paths)
    }

    /// The same tree, held by the hierarchies of `more` as well.
    #[must_use]
    pub fn also_in(&self, more: ControllerSet) -> Self {
        let mut out = self.clone();
        out.controllers = out.controllers.union(more);
        for group in out.groups.values_mut() {
            group.controllers = group.controllers.union(more);
        }
        out
    }

    /// The same document with one group and those above it alone; costs what these cost, however large the tree is.
    #[must_use]
    pub fn on_the_way_to(&self, path: &GroupPath) -> Self {
        let above = std::iter::successors(Some(path.clone()), GroupPath::up);
        let mut groups: Vec<_> = above.filter_map(|p| Some((self.groups.get_index_of(&p)?, p))).collect();
        groups.sort_by_key(|(at, _)| *at);
        let groups = groups.into_iter().filter_map(|(at, path)| Some((path, self.groups.get_index(at)?.1.clone())));
        Self {
            form: self.form,
            groups: groups.collect(),
            controllers: self.controllers,
            usage_keys: self.usage_keys.clone(),
            ignore: self.ignore.clone(),
            allow_removals: self.allow_removals.clone(),
            digest: self.digest.clone(),
            warnings: Vec::new(),
        }
    }

    /// The paths that a bare name, or a path, means; document order.
    pub fn lookup(&self, name: &str) -> Vec<&GroupPath> {
        self.groups
            .keys()
            .filter(|p| if name.starts_with('/') { p.as_str() == name } else { p.name() == name })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_group_and_those_above_it_in_document_order() {
        let path = |text: &str| GroupPath::parse(text).unwrap();
        let names = ["/z", "/z/b", "/z/b/c", "/z/a", "/a", "/zz"];
        let groups = names.map(|n| (path(n), Group { allow_reclaim: n == "/z/b", ..Group::default() }));
        let whole = Desired {
            form: Form::ByGroup,
            groups: groups.into_iter().collect(),
            controllers: ControllerSet::EMPTY,
            usage_keys: Vec::new(),
            ignore: Vec::new(),
            allow_removals: None,
            digest: "d".into(),
            warnings: vec!["w".into()],
        };
        let narrow = whole.on_the_way_to(&path("/z/b/c"));
        assert_eq!(narrow.groups.keys().map(GroupPath::as_str).collect::<Vec<_>>(), ["/z", "/z/b", "/z/b/c"]);
        assert!(narrow.groups[&path("/z/b")].allow_reclaim && narrow.digest == "d");
        assert!(whole.on_the_way_to(&GroupPath::root()).groups.is_empty());
    }
}
