//! `cgrove tree`: the kernel's tree below the parent, merged over hierarchies, with the knobs that we set.

use std::collections::{BTreeMap, BTreeSet};

use cgrove_core::actual::{Actual, Marked};
use cgrove_core::desired::Desired;
use cgrove_core::ids::GroupPath;
use serde_json::json;

use super::args::Args;
use super::document;
use crate::engine;
use crate::exit::Exit;
use crate::term::{self, Page, Paint};
use cgrove_config::Config;

/// One group, over all hierarchies.
#[derive(Default)]
struct Node {
    hierarchies: Vec<String>,
    ours: bool,
    foreign: bool,
    declared: bool,
    /// File and what it says now.
    knobs: BTreeMap<String, String>,
    processes: BTreeSet<i32>,
}

/// How often the kernel is looked at by `--follow`.
const LOOK: std::time::Duration = std::time::Duration::from_secs(1);

pub(super) fn run(args: &Args, follow: bool) -> Result<u8, Exit> {
    let config = document::load(args)?;
    let mut last = Shown::default();
    loop {
        let shown = show(args, &config)?;
        let written = match &shown {
            same if *same == last => true,
            Shown::Page(page) => term::page(page),
            Shown::Json(json) => term::json_text(json),
        };
        if !written {
            return Ok(0);
        }
        if !follow {
            return Ok(0);
        }
        last = shown;
        #[allow(clippy::disallowed_methods, reason = "a foreground command that only waits")]
        std::thread::sleep(LOOK);
    }
}

/// For people, or for programs.
#[derive(PartialEq)]
enum Shown {
    Page(Page),
    Json(String),
}

impl Default for Shown {
    fn default() -> Self {
        Self::Json(String::new())
    }
}

fn show(args: &Args, config: &Config) -> Result<Shown, Exit> {
    let desired = document::in_force(config)?;
    let engine::Scenery { host, actual, .. } = engine::observe(config, &desired)?;
    let nodes = merge(config, &host, &desired, &actual);
    if args.global.json() {
        let list: Vec<_> = nodes
            .iter()
            .map(|(path, n)| {
                json!({ "path": path, "hierarchies": n.hierarchies, "owned": n.ours, "foreign": n.foreign, "declared": n.declared,
                        "knobs": n.knobs, "processes": n.processes })
            })
            .collect();
        return Ok(Shown::Json(json!({ "parent": config.parent_shown(), "groups": list }).to_string()));
    }
    Ok(Shown::Page(render(&config.parent_shown(), &nodes, Paint::stdout())))
}

fn merge(
    config: &Config,
    host: &cgrove_cgroupfs::host::Host,
    desired: &Desired,
    actual: &Actual,
) -> BTreeMap<GroupPath, Node> {
    let mut nodes: BTreeMap<GroupPath, Node> = BTreeMap::new();
    for path in desired.groups.keys() {
        nodes.entry(path.clone()).or_default().declared = true;
    }
    for hierarchy in &actual.hierarchies {
        let Some(mount) = host.mount(&hierarchy.label) else { continue };
        let tree = cgrove_cgroupfs::paths::Tree::new(mount, config.parents());
        for (path, group) in hierarchy.groups.iter().filter(|(p, _)| !p.is_root() && !p.is_leaf()) {
            let node = nodes.entry(path.clone()).or_default();
            node.hierarchies.push(hierarchy.label.clone());
            node.foreign |= matches!(group.mark, Marked::Foreign(_));
            if let Some(mark) = group.ours() {
                node.ours = true;
                // What follows the parent by itself is no setting.
                let set = mark.files.iter().filter(|(_, set)| set.want != "=parent");
                let values = set
                    .filter_map(|(file, _)| Some((file.clone(), group.values.get(file)?.trim().replace('\n', ", "))));
                node.knobs.extend(values);
            }
            for seat in [path.clone(), tree.seat(path)] {
                let listed = std::fs::read_to_string(tree.procs(&seat)).unwrap_or_default();
                node.processes.extend(listed.lines().filter_map(|l| l.parse::<i32>().ok()));
            }
        }
    }
    nodes
}

fn render(parent: &str, nodes: &BTreeMap<GroupPath, Node>, paint: Paint) -> Page {
    let mut out = Page::default();
    out.line(paint.bold(parent));
    let paths: Vec<&GroupPath> = nodes.keys().collect();
    // For each open level, whether another sibling follows.
    let more = |path: &GroupPath, at: usize| {
        let rest = &paths[at + 1..];
        rest.iter().find(|p| p.depth() <= path.depth()).is_some_and(|p| p.up() == path.up())
    };
    let mut open: Vec<bool> = Vec::new();
    for (i, (path, node)) in nodes.iter().enumerate() {
        open.truncate(path.depth() - 1);
        let last = !more(path, i);
        let indent: String = open.iter().map(|follows| if *follows { "│  " } else { "   " }).collect();
        let name = if node.declared { path.name().to_owned() } else { paint.dim(path.name()) };
        let mut facts = Vec::new();
        if !node.processes.is_empty() {
            let n = node.processes.len();
            facts.push(paint.green(&if n == 1 { "1 process".to_owned() } else { format!("{n} processes") }));
        }
        facts.extend(node.knobs.iter().map(|(file, value)| format!("{file} {}", readable(file, value))));
        match (node.declared, node.hierarchies.is_empty()) {
            (true, true) => facts.push(paint.red("not made yet")),
            (false, _) if node.foreign => facts.push(paint.dim("another cgrove's")),
            (false, _) if node.ours => facts.push(paint.yellow("no longer in the document")),
            (false, _) => facts.push(paint.dim("not in the document")),
            _ => {}
        }
        let branch = if last { "└─ " } else { "├─ " };
        out.line(format!(
            "{}{name}{}{}",
            paint.dim(&format!("{indent}{branch}")),
            if facts.is_empty() { "" } else { "   " },
            facts.join("  ")
        ));
        open.push(!last);
    }
    out
}

/// Bytes as people write them.
fn readable(file: &str, value: &str) -> String {
    match value.parse::<u64>() {
        Ok(bytes) if file.ends_with("_in_bytes") || file.starts_with("memory.") || file.starts_with("hugetlb.") => {
            cgrove_core::knobs::Want::Bytes { bytes: Some(bytes), unlimited: "max", page: None }.shown()
        }
        _ => value.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_and_facts() {
        let mut nodes = BTreeMap::new();
        let mut add = |path: &str, declared, ours| {
            let hierarchies = vec!["cpu".to_owned()];
            let knobs = if ours {
                [("memory.limit_in_bytes".to_owned(), "1048576".to_owned())].into()
            } else {
                BTreeMap::new()
            };
            nodes.insert(
                GroupPath::parse(path).unwrap(),
                Node { hierarchies, declared, ours, knobs, ..Node::default() },
            );
        };
        add("/a", true, true);
        add("/a/x", true, false);
        add("/b", false, false);
        let expected = "/p\n├─ a   memory.limit_in_bytes 1M\n│  └─ x\n└─ b   not in the document";
        assert_eq!(render("/p", &nodes, Paint::none()).to_string(), expected);
    }
}
