//! Lists of the status: what others cause makes them long, so they are cut; every client gets a copy, so it is shared.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use cgrove_core::ids::GroupPath;
use cgrove_core::text::shortened;
use serde::{Serialize, Serializer};

/// Longest list. Thousands of lines help nobody.
pub(crate) const MOST_LISTED: usize = 100;
/// Most groups whose processes are counted in the status; `list_groups` has all.
const MOST_GROUPS: usize = 1000;
/// Longest line of a list, in characters.
const LONGEST: usize = 1000;

/// The first entries of a list.
#[derive(Debug, Clone)]
pub(crate) struct Listed<T>(Arc<[T]>);

impl<T> Listed<T> {
    pub(crate) fn of(all: impl IntoIterator<Item = T>) -> Self {
        Self(all.into_iter().take(MOST_LISTED).collect())
    }
}

impl Listed<String> {
    /// Lines for people; the last says how many more there are.
    pub(crate) fn lines<'a>(all: impl ExactSizeIterator<Item = &'a String>) -> Self {
        let more = all.len().saturating_sub(MOST_LISTED);
        let mut lines: Vec<String> = all.take(MOST_LISTED).map(|line| shortened(line, LONGEST).into_owned()).collect();
        if more > 0 {
            lines.push(format!("and {more} more"));
        }
        Self(lines.into())
    }
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self(Arc::new([]))
    }
}

impl<T> Deref for Listed<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Serialize> Serialize for Listed<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter())
    }
}

/// How many processes each group has. There may be as many groups as a document has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts(Arc<BTreeMap<GroupPath, usize>>);

impl FromIterator<(GroupPath, usize)> for Counts {
    fn from_iter<I: IntoIterator<Item = (GroupPath, usize)>>(all: I) -> Self {
        Self(Arc::new(all.into_iter().collect()))
    }
}

impl Deref for Counts {
    type Target = BTreeMap<GroupPath, usize>;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Serialize for Counts {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().take(MOST_GROUPS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_cut_and_keep_their_shape() {
        let all: Vec<String> = (0..250).map(|n| format!("{n}{}", "x".repeat(2000))).collect();
        let lines = Listed::lines(all.iter());
        assert_eq!((lines.len(), lines[100].as_str()), (101, "and 150 more"));
        assert!(lines.iter().all(|l| l.len() < 1100));
        assert_eq!(serde_json::to_value(Listed::of(0..250)).unwrap(), serde_json::json!((0..100).collect::<Vec<_>>()));
        let counts: Counts = (0..5000).map(|n| (GroupPath::parse(&format!("/g{n}")).unwrap(), n)).collect();
        assert_eq!((counts.len(), serde_json::to_value(&counts).unwrap().as_object().unwrap().len()), (5000, 1000));
        assert_eq!(serde_json::to_value(&counts).unwrap()["/g7"], serde_json::Value::Null, "by path");
        assert_eq!(serde_json::to_value(&counts).unwrap()["/g0"], 0);
    }
}
