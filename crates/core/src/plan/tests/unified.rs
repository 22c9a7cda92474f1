//! The same on cgroup v2.

use super::*;

fn unified(groups: &[(&str, Group)]) -> Hierarchy {
    let controllers: ControllerSet = Controller::ALL
        .into_iter()
        .filter(|c| !matches!(c, Controller::NetCls | Controller::NetPrio))
        .chain([Controller::Core])
        .collect();
    let files = knobs().filter(|k| k.v2 == crate::knobs::Side::Native).map(|k| k.name.to_owned()).collect();
    Hierarchy {
        label: "unified".into(),
        version: Version::V2,
        controllers,
        at_root: false,
        present: !groups.is_empty(),
        complete: true,
        files,
        above: BTreeMap::new(),
        closed_above: ControllerSet::EMPTY,
        groups: groups.iter().map(|(p, g)| (path(p), g.clone())).collect(),
    }
}

const EVERYTHING: &str = "cpu cpuset memory io pids hugetlb rdma misc";

/// A parent as cgrove leaves it, with these groups below.
fn standing(groups: &[(&str, Group)]) -> Actual {
    let parent = ours(&[("cgroup.subtree_control", EVERYTHING)], &[]);
    let mut all = vec![("/", parent), ("/_tasks", ours(&[], &[]))];
    all.extend(groups.iter().cloned());
    node(vec![unified(&all)])
}

fn plain(document: &str, actual: &Actual) -> Vec<String> {
    lines(&run(document, actual, &Policy::default())).into_iter().map(|l| l.replace("unified ", "")).collect()
}

#[test]
fn controllers_come_from_the_top_and_processes_sit_in_leaves() {
    let mut fresh = unified(&[]);
    fresh.closed_above = [Controller::Cpu, Controller::Io].into_iter().collect();
    assert_eq!(
        plain(CPU, &node(vec![fresh])),
        [
            "/ +",
            "/ above +cpu +io",
            "/_tasks +",
            "/ cgroup.subtree_control=+cpu;+cpuset;+memory;+io;+pids;+hugetlb;+rdma;+misc",
            "/a +",
            "/a/_tasks +",
            "/a cgroup.subtree_control=+cpu",
            "/a/b +",
            "/a cpu.weight=49",
        ]
    );
}

#[test]
fn a_settled_tree_plans_to_nothing() {
    let a = ours(&[("cpu.weight", "49\n"), ("cgroup.subtree_control", "cpu\n")], &[("cpu.weight", "49")]);
    let tree = standing(&[("/a", a), ("/a/_tasks", ours(&[], &[])), ("/a/b", ours(&[], &[]))]);
    assert!(plain(CPU, &tree).is_empty());
}

#[test]
fn a_group_that_gets_children_first_moves_its_processes_into_its_leaf() {
    let a = ours(&[("cpu.weight", "49"), ("cgroup.procs", "17\n18\n")], &[("cpu.weight", "49")]);
    assert_eq!(
        plain(CPU, &standing(&[("/a", a)])),
        ["/a/_tasks +", "/a settle", "/a cgroup.subtree_control=+cpu", "/a/b +"]
    );
}

#[test]
fn leaves_stay_and_go_with_their_groups() {
    let kept = ours(&[("cgroup.subtree_control", "cpu")], &[]);
    let groups = [
        ("/keep", kept.clone()),
        ("/keep/_tasks", ours(&[], &[])),
        ("/old", kept),
        ("/old/_tasks", ours(&[], &[])),
        ("/old/x", ours(&[], &[])),
    ];
    let tree = standing(&groups);
    assert_eq!(plain(KEEP, &tree), ["/old/x -", "/old/_tasks -", "/old -"]);
    // Four groups would be more than the guard lets go; leaves are not counted.
    let guard = run(r#"{"cpu": {"sub_cgroup": {"other": {}}}}"#, &tree, &Policy::default()).guard.unwrap();
    assert_eq!(guard.groups, 3);
}

#[test]
fn threaded_groups_are_left_alone_and_reported() {
    let threaded = Group { threaded: true, ..ours(&[], &[]) };
    let tree = standing(&[("/keep", threaded.clone()), ("/gone", threaded)]);
    let plan = run(KEEP, &tree, &Policy::default());
    assert!(plan.is_empty(), "{:?}", lines(&plan));
    assert!(plan.notes.iter().any(|n| n.text.contains("threaded")));
    assert!(plan.refuses("unified", &path("/keep")));
}

#[test]
fn trees_of_several_controllers_are_one_and_every_limit_finds_its_file() {
    let document = r#"{"cpu": {"sub_cgroup": {"a": {"conf": {"share": 2048}}}},
        "memory": {"sub_cgroup": {"a": {"conf": {"memory.limit_in_bytes": "64M"}}}},
        "blkio": {"sub_cgroup": {"a": {"conf": {"blkio.throttle.read_bps_device": {"8:0": 5}}}}}}"#;
    assert_eq!(
        plain(document, &standing(&[])),
        ["/a +", "/a io.max=8:0 rbps=5", "/a cpu.weight=200", "/a memory.max=67108864"]
    );
}

#[test]
fn what_left_the_document_is_undone_line_by_line() {
    let set = [("io.max", "8:0 rbps=5 wbps=6\n8:16 rbps=7"), ("memory.low", "4096"), ("cpuset.cpus", "0")];
    let now = [
        ("io.max", "8:0 rbps=5 wbps=6 riops=max wiops=max\n8:16 rbps=7 wbps=max riops=max wiops=max"),
        ("memory.low", "4096"),
        ("cpuset.cpus", "0"),
    ];
    let document = r#"{"groups": {"a": {"knobs": {"io.max": {"8:0": {"rbps": 5}}}}}}"#;
    let mut found = plain(document, &standing(&[("/a", ours(&now, &set))]));
    found.sort();
    assert_eq!(found, ["/a cpuset.cpus=\n", "/a io.max=8:0 rbps=5 wbps=max;8:16 rbps=max", "/a memory.low=0"]);
}

#[test]
fn memory_in_use_is_held() {
    let a = ours(&[("memory.max", "max"), ("memory.current", "9000000")], &[]);
    let document = r#"{"groups": {"a": {"knobs": {"memory.max": "1M"}}}}"#;
    assert_eq!(plain(document, &standing(&[("/a", a)])), ["[/a memory.max=1048576]"]);
}
