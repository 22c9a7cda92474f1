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
            "/ above +io +cpu",
            "/_tasks +",
            "/ cgroup.subtree_control=+memory;+io;+hugetlb;+rdma;+misc;+cpu;+cpuset;+pids",
            "/a +",
            "/a/_tasks +",
            "/a cgroup.subtree_control=+misc;+cpu",
            "/a/b +",
            "/a cpu.weight=49",
        ]
    );
}

#[test]
fn a_settled_tree_plans_to_nothing() {
    let a = ours(&[("cpu.weight", "49\n"), ("cgroup.subtree_control", "cpu misc\n")], &[("cpu.weight", "49")]);
    let tree = standing(&[("/a", a), ("/a/_tasks", ours(&[], &[])), ("/a/b", ours(&[], &[]))]);
    assert!(plain(CPU, &tree).is_empty());
}

#[test]
fn a_group_that_gets_children_first_moves_its_processes_into_its_leaf() {
    let a = ours(&[("cpu.weight", "49"), ("cgroup.procs", "17\n18\n")], &[("cpu.weight", "49")]);
    assert_eq!(
        plain(CPU, &standing(&[("/a", a)])),
        ["/a/_tasks +", "/a settle", "/a cgroup.subtree_control=+misc;+cpu", "/a/b +"]
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
fn nobody_is_put_into_a_leaf_that_a_user_made() {
    let theirs = Group { mark: Marked::Foreign("theirs".into()), ..Group::default() };
    let a = ours(&[("cpu.weight", "49"), ("cgroup.procs", "17\n")], &[("cpu.weight", "49")]);
    let tree = standing(&[("/a", a), ("/a/_tasks", theirs)]);
    assert_eq!(plain(CPU, &tree), ["/a cgroup.subtree_control=+misc;+cpu", "/a/b +"]);
    let plan = run(CPU, &tree, &Policy::default());
    assert!(plan.notes.iter().any(|n| n.text.contains("_tasks")), "{:?}", plan.notes);
    // It keeps its group, as any group of others does.
    assert!(plain(r#"{"cpu": {"sub_cgroup": {"other": {}}}}"#, &tree).iter().all(|line| !line.starts_with("/a ")));
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

#[test]
fn a_leaf_stays_with_a_group_that_cannot_go() {
    let groups = [
        ("/keep", ours(&[], &[])),
        ("/old", ours(&[], &[])),
        ("/old/_tasks", ours(&[], &[])),
        ("/old/theirs", Group::default()),
    ];
    assert!(plain(KEEP, &standing(&groups)).is_empty());
}

#[test]
fn what_a_frozen_group_holds_is_held_with_it() {
    let frozen = Group { frozen: true, ..ours(&[], &[]) };
    let groups =
        [("/keep", ours(&[], &[])), ("/ice", frozen), ("/ice/VM", ours(&[], &[])), ("/ice/_tasks", ours(&[], &[]))];
    assert_eq!(plain(KEEP, &standing(&groups)), ["[/ice/VM -]", "[/ice/_tasks -]", "[/ice -]"]);
}

#[test]
fn another_name_of_a_knob_is_not_undone() {
    let a = ours(&[("cpu.weight", "305"), ("cpu.weight.nice", "-5")], &[("cpu.weight.nice", "-5")]);
    let document = r#"{"groups": {"a": {"knobs": {"cpu.weight": 50}}}}"#;
    assert_eq!(plain(document, &standing(&[("/a", a)])), ["/a cpu.weight=50", "/a forget cpu.weight.nice"]);
}

#[test]
fn a_missing_disk_lifts_no_other_limit() {
    let now = [("io.max", "8:0 rbps=5 wbps=max riops=max wiops=max\n8:16 rbps=7 wbps=max riops=max wiops=max")];
    let a = ours(&now, &[("io.max", "8:0 rbps=5\n8:16 rbps=7")]);
    let document = r#"{"groups": {"a": {"knobs": {"io.max": {"8:0": {"rbps": 5}, "/dev/gone": {"rbps": 7}}}}}}"#;
    let plan = run(document, &standing(&[("/a", a)]), &Policy::default());
    assert!(plan.is_empty(), "{:?}", lines(&plan));
    assert!(plan.notes.iter().any(|n| n.text.contains("/dev/gone")));
    // Nor when it was the only one: it may come back under another number.
    let a = ours(&now, &[("io.max", "8:16 rbps=7")]);
    let document = r#"{"groups": {"a": {"knobs": {"io.max": {"/dev/gone": {"rbps": 7}}}}}}"#;
    assert!(run(document, &standing(&[("/a", a)]), &Policy::default()).is_empty());
}

#[test]
fn a_group_that_another_controllers_tree_extends_is_still_an_inner_one() {
    let document =
        r#"{"cpu": {"sub_cgroup": {"a": {}, "b": {}}}, "memory": {"sub_cgroup": {"a": {"sub_cgroup": {"a1": {}}}}}}"#;
    assert_eq!(
        plain(document, &standing(&[])),
        ["/a +", "/a/_tasks +", "/a cgroup.subtree_control=+memory", "/a/a1 +", "/b +"]
    );
}

#[test]
fn the_line_for_all_disks_goes_back_to_its_default() {
    let a = ours(&[("io.weight", "default 50\n8:0 200")], &[("io.weight", "default 50\n8:0 200")]);
    let document = r#"{"groups": {"a": {"knobs": {"io.weight": {"8:0": 200}}}}}"#;
    assert_eq!(plain(document, &standing(&[("/a", a)])), ["/a io.weight=default 100;8:0 200"]);
}

#[test]
fn knobs_of_controllers_that_the_document_leaves_out_are_left_out() {
    let document = r#"{"controllers": ["cpu"], "groups": {"a": {"knobs": {"memory.max": "1G", "cpu.weight": 5}}}}"#;
    assert_eq!(plain(document, &standing(&[])), ["/a +", "/a cpu.weight=5"]);
}

#[test]
fn what_failed_half_way_is_still_undone() {
    let mut a = ours(&[("io.max", "8:16 rbps=7 wbps=max riops=max wiops=max")], &[]);
    if let Marked::Ours(mark) = &mut a.mark {
        let set = Set { want: "8:0 rbps=5".into(), kept: None, before: Some("8:16 rbps=7".into()) };
        mark.files.insert("io.max".into(), set);
    }
    let document = r#"{"groups": {"a": {"knobs": {"io.max": {"8:0": {"rbps": 5}}}}}}"#;
    assert_eq!(plain(document, &standing(&[("/a", a)])), ["/a io.max=8:0 rbps=5;8:16 rbps=max"]);
}

#[test]
fn the_tree_may_grow_before_it_does() {
    let a = ours(
        &[("cgroup.max.descendants", "1"), ("cgroup.subtree_control", "misc cpu")],
        &[("cgroup.max.descendants", "1")],
    );
    let document =
        r#"{"controllers": ["cpu"], "groups": {"a": {"knobs": {"cgroup.max.descendants": 9}, "groups": {"b": {}}}}}"#;
    let tree = standing(&[("/a", a), ("/a/_tasks", ours(&[], &[]))]);
    assert_eq!(plain(document, &tree), ["/a cgroup.max.descendants=9", "/a/b +"]);
}

#[test]
fn who_is_in_a_group_that_goes_finds_the_parents_leaf_again() {
    let parent = ours(&[("cgroup.subtree_control", EVERYTHING)], &[]);
    let tree = node(vec![unified(&[("/", parent), ("/a", ours(&[], &[]))])]);
    // Someone removed /_tasks, and nothing is declared any more that would have it made.
    let empty = parse(br#"{"groups": {}}"#).unwrap();
    let held = plan(&empty, &tree, &Policy::default(), &Approval::default());
    assert_eq!(lines(&held), ["[unified /a -]"]);
    let approval = Approval { digests: [held.guard.unwrap().digest].into(), ..Approval::default() };
    assert_eq!(lines(&plan(&empty, &tree, &Policy::default(), &approval)), ["unified /_tasks +", "unified /a -"]);
}
