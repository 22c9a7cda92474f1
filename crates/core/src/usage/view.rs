//! What a client wants to see of a stored slot: a subtree, some controllers, some levels, and rates instead of counters.

use std::collections::HashSet;
use std::fmt;
use std::io::Write as _;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::ids::{Controller, GroupPath};

/// Numbers that say how much there is now; every other one counts up, and has a rate.
const LEVELS: [&str; 6] = ["current", "peak", "anon", "file", "swap", "avg10"];

/// What is wanted of each slot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct View {
    /// Only this group and what is below it.
    pub group: Option<GroupPath>,
    /// Levels below `group`; 0 is the group alone.
    pub depth: Option<u64>,
    /// Only these controllers, whatever the document calls them.
    pub controllers: Option<Vec<Controller>>,
    /// Counters become what they grew by in a second.
    pub rates: bool,
}

/// An earlier slot, which rates need.
#[derive(Debug, Clone, Copy)]
pub struct Before<'a> {
    pub slot: &'a [u8],
    /// How much earlier.
    pub seconds: u64,
    /// Groups that were made anew since then: their counters began again.
    pub remade: &'a HashSet<GroupPath>,
}

impl View {
    /// Every byte of a stored slot is wanted as it is.
    pub fn is_whole(&self) -> bool {
        *self == Self::default()
    }

    /// What is wanted of a stored slot, as JSON; `None` where the slot has nothing of it. A counter without a rate (no
    /// earlier slot, a group made anew, a number that fell) is left out.
    pub fn of(&self, slot: &[u8], before: Option<Before<'_>>) -> Option<Vec<u8>> {
        let now: Roots = serde_json::from_slice(slot).ok()?;
        let then: Option<Roots> = before.and_then(|b| serde_json::from_slice(b.slot).ok());
        let root = GroupPath::root();
        let top = self.group.as_ref().unwrap_or(&root);
        let mut writer = Writer {
            out: Vec::with_capacity(slot.len() / 2),
            rates: self.rates,
            seconds: before.map_or(1, |b| b.seconds).max(1),
            remade: before.map(|b| b.remade).filter(|r| !r.is_empty()),
            path: top.clone(),
        };
        writer.out.push(b'{');
        for (key, node) in &now.0 {
            if !self.controllers.as_ref().is_none_or(|c| Controller::parse(key).is_some_and(|k| c.contains(&k))) {
                continue;
            }
            let Some(node) = node.below(top) else { continue };
            let then = then.as_ref().and_then(|t| find(&t.0, key)?.below(top));
            writer.key(key);
            writer.node(node, then, self.depth.unwrap_or(u64::MAX));
        }
        writer.out.push(b'}');
        (writer.out.len() > 2).then_some(writer.out)
    }
}

/// A slot: nodes by controller.
struct Roots<'a>(Vec<(&'a str, Node<'a>)>);

/// A stored node; its numbers are parsed only when rates are wanted.
struct Node<'a> {
    /// `value` and what stands beside it.
    told: Vec<(&'a str, &'a RawValue)>,
    children: Vec<(&'a str, Node<'a>)>,
}

impl<'a> Node<'a> {
    fn below(&self, group: &GroupPath) -> Option<&Self> {
        group.components().try_fold(self, |node, name| find(&node.children, name))
    }
}

fn find<'n, T>(pairs: &'n [(&str, T)], key: &str) -> Option<&'n T> {
    pairs.iter().find(|(k, _)| *k == key).map(|(_, value)| value)
}

/// The same key at the same place: trees of two slots are mostly alike.
fn find_at<'n, T>(pairs: &'n [(&str, T)], at: usize, key: &str) -> Option<&'n T> {
    pairs.get(at).filter(|(k, _)| *k == key).map(|(_, value)| value).or_else(|| find(pairs, key))
}

/// Pairs of an object, in order.
fn pairs<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<(&'de str, T)>, D::Error> {
    struct Pairs<T>(std::marker::PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Pairs<T> {
        type Value = Vec<(&'de str, T)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut out = Vec::new();
            while let Some(pair) = map.next_entry()? {
                out.push(pair);
            }
            Ok(out)
        }
    }
    from.deserialize_map(Pairs(std::marker::PhantomData))
}

impl<'de: 'a, 'a> Deserialize<'de> for Roots<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        pairs(from).map(Self)
    }
}

struct Children<'a>(Vec<(&'a str, Node<'a>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Children<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        pairs(from).map(Self)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Node<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Node<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a node of a slot")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut node = Node { told: Vec::new(), children: Vec::new() };
                while let Some(key) = map.next_key::<&str>()? {
                    if key == "sub_cgroup" {
                        node.children = map.next_value::<Children<'de>>()?.0;
                    } else {
                        node.told.push((key, map.next_value()?));
                    }
                }
                Ok(node)
            }
        }
        from.deserialize_map(Members)
    }
}

/// A number, or an object of numbers.
enum Leaf<'a> {
    Number(&'a RawValue),
    Object(Vec<(&'a str, Leaf<'a>)>),
}

impl<'de: 'a, 'a> Deserialize<'de> for Leaf<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let raw: &RawValue = Deserialize::deserialize(from)?;
        if !raw.get().starts_with('{') {
            return Ok(Self::Number(raw));
        }
        let mut inner = serde_json::Deserializer::from_str(raw.get());
        pairs(&mut inner).map(Self::Object).map_err(serde::de::Error::custom)
    }
}

/// Ours are three deep; what somebody else stored may be deep enough to exhaust the stack.
const DEEPEST: usize = 8;

fn leaf(raw: &RawValue) -> Option<Leaf<'_>> {
    let mut depth = 0_usize;
    for byte in raw.get().bytes() {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST {
            return None;
        }
    }
    serde_json::from_str(raw.get()).ok()
}

struct Writer<'a> {
    out: Vec<u8>,
    rates: bool,
    seconds: u64,
    remade: Option<&'a HashSet<GroupPath>>,
    path: GroupPath,
}

impl Writer<'_> {
    /// Names of controllers, groups and members need no escapes: nothing with one is read.
    fn key(&mut self, key: &str) {
        if self.out.last().is_some_and(|b| *b != b'{') {
            self.out.push(b',');
        }
        for part in ["\"", key, "\":"] {
            self.out.extend_from_slice(part.as_bytes());
        }
    }

    fn node(&mut self, now: &Node<'_>, then: Option<&Node<'_>>, depth: u64) {
        let anew = self.remade.is_some_and(|r| r.contains(&self.path));
        let then = then.filter(|_| !anew);
        self.out.push(b'{');
        for (i, (key, raw)) in now.told.iter().enumerate() {
            self.key(key);
            if !self.rates {
                self.out.extend_from_slice(raw.get().as_bytes());
                continue;
            }
            let before = then.and_then(|t| find_at(&t.told, i, key));
            match leaf(raw) {
                Some(now) => self.rate(key, &now, before.and_then(|raw| leaf(raw)).as_ref()),
                None => self.out.extend_from_slice(b"{}"),
            }
        }
        if depth > 0 && !now.children.is_empty() {
            self.key("sub_cgroup");
            self.out.push(b'{');
            for (i, (name, child)) in now.children.iter().enumerate() {
                self.key(name);
                let before = then.and_then(|t| find_at(&t.children, i, name));
                let Some(path) = self.path.child(name) else {
                    self.out.extend_from_slice(b"{}");
                    continue;
                };
                let above = std::mem::replace(&mut self.path, path);
                self.node(child, before, depth - 1);
                self.path = above;
            }
            self.out.push(b'}');
        }
        self.out.push(b'}');
    }

    /// Writes a value whose key has been written: levels as they are, and what counters grew by in a second.
    fn rate(&mut self, key: &str, now: &Leaf<'_>, then: Option<&Leaf<'_>>) {
        match now {
            Leaf::Number(number) if LEVELS.contains(&key) => self.out.extend_from_slice(number.get().as_bytes()),
            Leaf::Number(number) => {
                let count = |raw: &RawValue| raw.get().parse::<u64>().ok();
                let before = match then {
                    Some(Leaf::Number(before)) => count(before),
                    _ => None,
                };
                match count(number).zip(before).and_then(|(now, before)| now.checked_sub(before)) {
                    Some(grown) => self.per_second(grown),
                    None => self.unwrite(key),
                }
            }
            Leaf::Object(members) => {
                let then = match then {
                    Some(Leaf::Object(then)) => then,
                    _ => &Vec::new(),
                };
                self.out.push(b'{');
                for (i, (key, now)) in members.iter().enumerate() {
                    self.key(key);
                    self.rate(key, now, find_at(then, i, key));
                }
                self.out.push(b'}');
            }
        }
    }

    fn per_second(&mut self, grown: u64) {
        let seconds = self.seconds;
        // Writing to memory does not fail.
        let _ = if grown.is_multiple_of(seconds) {
            write!(self.out, "{}", grown / seconds)
        } else {
            write!(self.out, "{:.3}", grown as f64 / seconds as f64)
        };
    }

    /// Takes a key back that turned out to have no value.
    fn unwrite(&mut self, key: &str) {
        self.out.truncate(self.out.len() - key.len() - 3);
        if self.out.last() == Some(&b',') {
            self.out.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: &[u8] = br#"{"cpu":{"value":{},"sub_cgroup":{"a":{"value":{"usage":1},"sub_cgroup":{"b":{"value":{"usage":2}}}}}},"blkio":{"value":{}}}"#;

    fn shown(view: &View, slot: &[u8]) -> String {
        view.of(slot, None).map_or("nothing".into(), |out| String::from_utf8(out).unwrap())
    }

    fn below(path: &str) -> View {
        View { group: Some(GroupPath::parse(path).unwrap()), ..View::default() }
    }

    #[test]
    fn a_subtree_some_levels_and_some_controllers_are_cut_out() {
        assert_eq!(shown(&below("/a/b"), SLOT), r#"{"cpu":{"value":{"usage":2}}}"#);
        assert_eq!(shown(&below("/x"), SLOT), "nothing");
        assert_eq!(shown(&View::default(), SLOT).as_bytes(), SLOT);
        let level = View { depth: Some(0), ..below("/a") };
        assert_eq!(shown(&level, SLOT), r#"{"cpu":{"value":{"usage":1}}}"#);
        let io = View { controllers: Some(vec![Controller::Io]), ..View::default() };
        assert_eq!(shown(&io, SLOT), r#"{"blkio":{"value":{}}}"#);
        for poison in [&b"poison"[..], b"[]", br#"{"cpu":5}"#, br#"{"c\u0070u":{}}"#] {
            assert_eq!(shown(&below("/"), poison), "nothing");
        }
    }

    fn rates(now: &str, then: &str, seconds: u64, remade: &[&str]) -> String {
        let remade = remade.iter().map(|p| GroupPath::parse(p).unwrap()).collect();
        let before = Before { slot: then.as_bytes(), seconds, remade: &remade };
        let view = View { rates: true, ..View::default() };
        String::from_utf8(view.of(now.as_bytes(), Some(before)).unwrap()).unwrap()
    }

    #[test]
    fn counters_become_rates_and_levels_stay() {
        let then = r#"{"memory":{"value":{"current":7,"refaults":1},"pressure":{"some":{"avg10":0.10,"total":5}}}}"#;
        let now = r#"{"memory":{"value":{"current":5,"refaults":8},"pressure":{"some":{"avg10":0.20,"total":9}}}}"#;
        let wanted =
            r#"{"memory":{"value":{"current":5,"refaults":3.500},"pressure":{"some":{"avg10":0.20,"total":2}}}}"#;
        assert_eq!(rates(now, then, 2, &[]), wanted);
        let io = |n: u32| format!(r#"{{"io":{{"value":{{"8:0":{{"Read":{n},"Write":0}}}}}}}}"#);
        assert_eq!(rates(&io(900), &io(100), 1, &[]), io(800));
    }

    #[test]
    fn there_is_no_rate_across_a_group_made_anew_or_a_number_that_fell() {
        let slot = |a: u32, b: u32| {
            format!(
                r#"{{"cpu":{{"value":{{"usage":{a},"user":{b}}},"sub_cgroup":{{"a":{{"value":{{"usage":{a}}}}}}}}}}}"#
            )
        };
        assert_eq!(
            rates(&slot(4, 9), &slot(5, 7), 1, &[]),
            r#"{"cpu":{"value":{"user":2},"sub_cgroup":{"a":{"value":{}}}}}"#
        );
        let wanted = r#"{"cpu":{"value":{"usage":1,"user":0},"sub_cgroup":{"a":{"value":{}}}}}"#;
        assert_eq!(rates(&slot(6, 7), &slot(5, 7), 1, &["/a"]), wanted);
        // A group that was not there before, or a first slot.
        assert_eq!(rates(&slot(6, 7), "{}", 1, &[]), r#"{"cpu":{"value":{},"sub_cgroup":{"a":{"value":{}}}}}"#);
        assert!(View { rates: true, ..View::default() }.of(slot(1, 2).as_bytes(), None).is_some());
        let deep = format!(r#"{{"cpu":{{"value":{}7{}}}}}"#, r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
        assert_eq!(rates(&deep, &deep, 1, &[]), r#"{"cpu":{"value":{}}}"#);
    }
}
