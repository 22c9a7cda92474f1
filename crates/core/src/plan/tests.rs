//! Plans in tables: small actual trees, and the actions that come out as one line each.

mod unified;

use std::collections::BTreeMap;

use super::*;
use crate::actual::{Actual, Group, Hierarchy, MARK_FORMAT, Machine, Mark, Marked, Set, Version};
use crate::document::parse;
use crate::ids::{Controller, ControllerSet};
use crate::knobs::knobs;

fn path(text: &str) -> GroupPath {
    GroupPath::parse(text).unwrap()
}

fn hierarchy(label: &str) -> Hierarchy {
    let controllers: ControllerSet = label.split(',').filter_map(Controller::parse).collect();
    let files = knobs().filter(|k| controllers.contains(k.controller)).map(|k| k.name.to_owned()).collect();
    let root =
        if label == "cpuset" { group(&[("cpuset.cpus", "0-3"), ("cpuset.mems", "0")]) } else { Group::default() };
    Hierarchy {
        label: label.into(),
        version: Version::V1,
        controllers,
        at_root: true,
        present: true,
        complete: true,
        files,
        above: BTreeMap::new(),
        closed_above: ControllerSet::EMPTY,
        groups: [(GroupPath::root(), root)].into(),
    }
}

fn group(values: &[(&str, &str)]) -> Group {
    Group { values: values.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(), ..Group::default() }
}

fn ours(values: &[(&str, &str)], set: &[(&str, &str)]) -> Group {
    let files = set.iter().map(|(k, v)| ((*k).into(), Set { want: (*v).into(), ..Set::default() })).collect();
    Group {
        mark: Marked::Ours(Mark { format: MARK_FORMAT, instance: "cgrove".into(), parent: "/".into(), files }),
        ..group(values)
    }
}

fn node(hierarchies: Vec<Hierarchy>) -> Actual {
    let machine = Machine { memory: 1 << 30, cpus: 4, page: 4096, disks: Vec::new(), devices: BTreeMap::new() };
    Actual { machine, hierarchies }
}

fn with(label: &str, groups: &[(&str, Group)]) -> Actual {
    let mut h = hierarchy(label);
    h.groups.extend(groups.iter().map(|(p, g)| (path(p), g.clone())));
    node(vec![h])
}

fn run(document: &str, actual: &Actual, policy: &Policy) -> Plan {
    plan(&parse(document.as_bytes()).unwrap(), actual, policy, &Approval::default())
}

/// `cpu /a +`, `cpu /a cpu.shares=5`, `cpu /a adopt`, `cpu /a -`; held ones in brackets.
fn lines(plan: &Plan) -> Vec<String> {
    plan.actions
        .iter()
        .map(|a| {
            let op = match &a.op {
                Op::Create => "+".into(),
                Op::Adopt { .. } => "adopt".into(),
                Op::Write(w) => format!("{}={}", w.file, w.to.join(";")),
                Op::Forget { file } => format!("forget {file}"),
                Op::Remove => "-".into(),
                Op::EnableAbove { controllers } => format!("above +{}", controllers.join(" +")),
                Op::Settle => "settle".into(),
            };
            let line = format!("{} {} {op}", a.hierarchy, a.group);
            if a.held.is_some() { format!("[{line}]") } else { line }
        })
        .collect()
}

const CPU: &str = r#"{"cpu": {"sub_cgroup": {"a": {"conf": {"share": 500}, "sub_cgroup": {"b": {}}}}}}"#;
const KEEP: &str = r#"{"cpu": {"sub_cgroup": {"keep": {}}}}"#;

#[test]
fn an_empty_node_gets_the_tree_in_every_hierarchy_concerned() {
    let actual = node(vec![hierarchy("cpu"), hierarchy("cpuacct"), hierarchy("memory")]);
    let plan = run(CPU, &actual, &Policy::default());
    assert_eq!(lines(&plan), ["cpu /a +", "cpu /a/b +", "cpu /a cpu.shares=500", "cpuacct /a +", "cpuacct /a/b +"]);
    assert!(plan.notes.is_empty() && plan.guard.is_none());
}

#[test]
fn co_mounted_controllers_are_one_tree() {
    let plan = run(CPU, &node(vec![hierarchy("cpu,cpuacct")]), &Policy::default());
    assert_eq!(lines(&plan).len(), 3);
}

#[test]
fn a_settled_tree_plans_to_nothing_and_drift_is_repaired() {
    let settled = |shares| {
        with(
            "cpu,cpuacct",
            &[("/a", ours(&[("cpu.shares", shares)], &[("cpu.shares", "500")])), ("/a/b", ours(&[], &[]))],
        )
    };
    assert!(run(CPU, &settled("500\n"), &Policy::default()).is_empty());
    assert_eq!(lines(&run(CPU, &settled("7\n"), &Policy::default())), ["cpu,cpuacct /a cpu.shares=500"]);
}

#[test]
fn an_existing_group_is_adopted_when_tuned() {
    let actual = with("cpu,cpuacct", &[("/a", group(&[("cpu.shares", "500")])), ("/a/b", group(&[]))]);
    assert_eq!(lines(&run(CPU, &actual, &Policy::default())), ["cpu,cpuacct /a adopt"]);
    let actual = with("cpu,cpuacct", &[("/a", group(&[("cpu.shares", "3")])), ("/a/b", group(&[]))]);
    assert_eq!(
        lines(&run(CPU, &actual, &Policy::default())),
        ["cpu,cpuacct /a adopt", "cpu,cpuacct /a cpu.shares=500"]
    );
}

#[test]
fn a_group_that_was_ours_is_marked_again_also_where_it_has_no_knob() {
    let stale = |values| Group { stale: true, ..group(values) };
    let mut actual =
        with("cpuacct", &[("/a", stale(&[])), ("/a/b", group(&[])), ("/left", stale(&[])), ("/user", stale(&[]))]);
    let declared = r#"{"cpu": {"sub_cgroup": {"a": {"sub_cgroup": {"b": {}}}, "user": {}}}}"#;
    let plan = run(declared, &actual, &Policy::default());
    assert_eq!(lines(&plan), ["cpuacct /a adopt"], "made by hand, undeclared, or another manager's");
    actual.hierarchies[0].groups.insert(path("/a"), ours(&[], &[]));
    assert!(run(declared, &actual, &Policy::default()).is_empty());
    // The parent was made by us; with the knob of a group, all is one adoption.
    actual.hierarchies = with("cpu", &[("/", stale(&[])), ("/a", stale(&[("cpu.shares", "500")]))]).hierarchies;
    actual.hierarchies[0].at_root = false;
    assert_eq!(lines(&run(CPU, &actual, &Policy::default())), ["cpu / adopt", "cpu /a adopt", "cpu /a/b +"]);
    // What belongs to others stays theirs.
    let foreign = Group { mark: Marked::Foreign("x".into()), ..stale(&[]) };
    let actual = with("cpuacct", &[("/a", foreign), ("/a/b", ours(&[], &[]))]);
    assert!(run(CPU, &actual, &Policy::default()).is_empty());
}

#[test]
fn what_the_kernel_kept_is_not_drift() {
    let mut a = ours(&[("cpu.shares", "499")], &[]);
    if let Marked::Ours(mark) = &mut a.mark {
        mark.files.insert("cpu.shares".into(), Set { want: "500".into(), kept: Some("499".into()), before: None });
    }
    let actual = with("cpu,cpuacct", &[("/a", a), ("/a/b", group(&[]))]);
    assert!(run(CPU, &actual, &Policy::default()).is_empty());
}

#[test]
fn a_knob_that_left_the_document_is_unset() {
    let set = [("cpu.shares", "500"), ("cpu.cfs_quota_us", "5000"), ("raw.file", "x")];
    let actual = with(
        "cpu,cpuacct",
        &[("/a", ours(&[("cpu.shares", "500"), ("cpu.cfs_quota_us", "5000")], &set)), ("/a/b", group(&[]))],
    );
    assert_eq!(
        lines(&run(CPU, &actual, &Policy::default())),
        ["cpu,cpuacct /a cpu.cfs_quota_us=-1", "cpu,cpuacct /a forget raw.file"]
    );
}

#[test]
fn idle_suppresses_the_weight_and_clearing_writes_it_again() {
    let idle = r#"{"groups": {"a": {"knobs": {"cpu.idle": 1, "cpu.weight": 50}}}, "controllers": ["cpu"]}"#;
    let actual =
        with("cpu,cpuacct", &[("/a", ours(&[("cpu.shares", "512"), ("cpu.idle", "0")], &[("cpu.shares", "512")]))]);
    assert_eq!(lines(&run(idle, &actual, &Policy::default())), ["cpu,cpuacct /a cpu.idle=1"]);
    let awake = r#"{"groups": {"a": {"knobs": {"cpu.weight": 50}}}, "controllers": ["cpu"]}"#;
    let actual = with(
        "cpu,cpuacct",
        &[("/a", ours(&[("cpu.shares", "3"), ("cpu.idle", "1")], &[("cpu.shares", "512"), ("cpu.idle", "1")]))],
    );
    assert_eq!(
        lines(&run(awake, &actual, &Policy::default())),
        ["cpu,cpuacct /a cpu.idle=0", "cpu,cpuacct /a cpu.shares=512"]
    );
}

#[test]
fn cpusets_are_filled_and_follow_the_parent() {
    let doc = r#"{"cpuset": {"sub_cgroup": {"a": {"conf": {"cpuset.cpus": "0-1"}, "sub_cgroup": {"b": {}}}}}}"#;
    let plan = run(doc, &with("cpuset", &[]), &Policy::default());
    let expected = [
        "cpuset /a +",
        "cpuset /a/b +",
        "cpuset /a cpuset.cpus=0-1",
        "cpuset /a cpuset.mems=0",
        "cpuset /a/b cpuset.cpus=0-1",
        "cpuset /a/b cpuset.mems=0",
    ];
    assert_eq!(lines(&plan), expected);
}

#[test]
fn cpusets_widen_from_the_top_and_narrow_from_the_bottom() {
    let doc = |cpus| {
        format!(
            r#"{{"cpuset": {{"sub_cgroup": {{"a": {{"conf": {{"cpuset.cpus": "{cpus}"}}, "sub_cgroup": {{"b": {{}}}}}}}}}}}}"#
        )
    };
    let now = |a, b| {
        let set = |cpus: &str, want: &str| {
            ours(&[("cpuset.cpus", cpus), ("cpuset.mems", "0")], &[("cpuset.cpus", want), ("cpuset.mems", "=parent")])
        };
        with("cpuset", &[("/a", set(a, a)), ("/a/b", set(b, "=parent"))])
    };
    let policy = Policy::default();
    assert_eq!(
        lines(&run(&doc("0-3"), &now("0-1", "0-1"), &policy)),
        ["cpuset /a cpuset.cpus=0-3", "cpuset /a/b cpuset.cpus=0-3"]
    );
    assert_eq!(
        lines(&run(&doc("0"), &now("0-1", "0-1"), &policy)),
        ["cpuset /a/b cpuset.cpus=0", "cpuset /a cpuset.cpus=0"]
    );
    let sideways = [
        "cpuset /a cpuset.cpus=0-3",
        "cpuset /a/b cpuset.cpus=0-3",
        "cpuset /a/b cpuset.cpus=2-3",
        "cpuset /a cpuset.cpus=2-3",
    ];
    assert_eq!(lines(&run(&doc("2-3"), &now("0-1", "0-1"), &policy)), sideways);
    assert!(run(&doc("0-1"), &now("0-1", "0-1"), &policy).is_empty());
}

#[test]
fn memsw_goes_before_the_limit_up_and_after_it_down() {
    let doc =
        r#"{"groups": {"a": {"knobs": {"memory.max": "2M", "memory.swap.max": "1M"}}}, "controllers": ["memory"]}"#;
    let now = |limit: &str, memsw: &str, usage: &str| {
        let values = [
            ("memory.limit_in_bytes", limit),
            ("memory.memsw.limit_in_bytes", memsw),
            ("memory.usage_in_bytes", usage),
        ];
        with(
            "memory",
            &[("/a", ours(&values, &[("memory.limit_in_bytes", "x"), ("memory.memsw.limit_in_bytes", "x")]))],
        )
    };
    let policy = Policy::default();
    let up = ["memory /a memory.memsw.limit_in_bytes=3145728", "memory /a memory.limit_in_bytes=2097152"];
    assert_eq!(lines(&run(doc, &now("1048576", "1048576", "0"), &policy)), up);
    let down = ["memory /a memory.limit_in_bytes=2097152", "memory /a memory.memsw.limit_in_bytes=3145728"];
    assert_eq!(lines(&run(doc, &now("9223372036854771712", "9223372036854771712", "0"), &policy)), down);
    // Below what is in use: held.
    let held = ["[memory /a memory.limit_in_bytes=2097152]", "[memory /a memory.memsw.limit_in_bytes=3145728]"];
    assert_eq!(lines(&run(doc, &now("4194304", "9223372036854771712", "3000000"), &policy)), held);
}

#[test]
fn quota_and_period_change_without_a_wider_ratio_on_the_way() {
    let doc =
        |max: &str| format!(r#"{{"groups": {{"a": {{"knobs": {{"cpu.max": "{max}"}}}}}}, "controllers": ["cpu"]}}"#);
    let set = [("cpu.cfs_quota_us", "x"), ("cpu.cfs_period_us", "x")];
    let actual =
        with("cpu,cpuacct", &[("/a", ours(&[("cpu.cfs_quota_us", "50000"), ("cpu.cfs_period_us", "100000")], &set))]);
    let order = |max: &str| {
        lines(&run(&doc(max), &actual, &Policy::default()))
            .iter()
            .map(|l| l.rsplit(' ').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(order("20000 50000"), ["cpu.cfs_quota_us=20000", "cpu.cfs_period_us=50000"]);
    assert_eq!(order("40000 200000"), ["cpu.cfs_period_us=200000", "cpu.cfs_quota_us=40000"]);
}

#[test]
fn pruning_spares_the_protected_their_ancestors_and_what_is_below() {
    let groups = ["/keep", "/x", "/x/y", "/x/safe", "/x/safe/in", "/z", "/z/w"].map(|p| (p, group(&[])));
    let actual = with("cpu,cpuacct", &groups);
    let policy = |prune| Policy { prune, protected: Protected::new(["safe"]).unwrap(), ..Policy::default() };
    assert_eq!(
        lines(&run(KEEP, &actual, &policy(Prune::All))),
        ["cpu,cpuacct /z/w -", "cpu,cpuacct /z -", "cpu,cpuacct /x/y -"]
    );
    assert!(run(KEEP, &actual, &policy(Prune::Owned)).is_empty());
    assert!(run(KEEP, &actual, &policy(Prune::None)).is_empty());
}

#[test]
fn owned_groups_go_unless_something_foreign_lives_below() {
    let groups = [("/keep", ours(&[], &[])), ("/x", ours(&[], &[])), ("/x/y", group(&[])), ("/z", ours(&[], &[]))];
    let plan = run(KEEP, &with("cpu,cpuacct", &groups), &Policy::default());
    assert_eq!(lines(&plan), ["cpu,cpuacct /z -"]);
    assert!(plan.notes[0].text.contains("/x/y"));
}

#[test]
fn pinned_foreign_frozen_and_built_in_groups_stay() {
    let pinned = Group { pinned: Some("the daemon runs here"), ..Group::default() };
    let foreign = Group { mark: Marked::Foreign("parent /other".into()), ..Group::default() };
    let frozen = Group { frozen: true, ..Group::default() };
    let groups = [
        ("/keep", group(&[])),
        ("/p", group(&[])),
        ("/p/q", pinned),
        ("/f", foreign),
        ("/ice", frozen),
        ("/docker", group(&[])),
        ("/x.slice", group(&[])),
        ("/free", group(&[])),
        ("/deep", group(&[])),
        ("/deep/docker", group(&[])),
    ];
    let policy = Policy { prune: Prune::All, ..Policy::default() };
    let expected = ["[cpu,cpuacct /ice -]", "cpu,cpuacct /free -", "cpu,cpuacct /deep/docker -", "cpu,cpuacct /deep -"];
    assert_eq!(lines(&run(KEEP, &with("cpu,cpuacct", &groups), &policy)), expected);
}

#[test]
fn declaring_another_managers_group_is_refused() {
    let doc = r#"{"cpu": {"sub_cgroup": {"docker": {"sub_cgroup": {"x": {}}}, "ok": {}}}}"#;
    let plan = run(doc, &with("cpu,cpuacct", &[("/docker", group(&[]))]), &Policy::default());
    assert_eq!(lines(&plan), ["cpu,cpuacct /ok +"]);
    assert!(plan.notes[0].text.starts_with("refused"));
    assert_eq!(lines(&run(doc, &with("cpu,cpuacct", &[]), &Policy::default())).len(), 3);
}

fn many(n: usize) -> Vec<(String, Group)> {
    (0..n).map(|i| (format!("/g{i}"), ours(&[], &[]))).collect()
}

fn removing(total: usize, kept: usize, approval: &Approval, extra: &str) -> Plan {
    let names: Vec<_> = (0..kept).map(|i| format!("\"g{i}\": {{}}")).collect();
    let doc = format!(r#"{{"cpu": {{"sub_cgroup": {{{}}}}}{extra}}}"#, names.join(","));
    let groups = many(total);
    let groups: Vec<_> = groups.iter().map(|(p, g)| (p.as_str(), g.clone())).collect();
    plan(&parse(doc.as_bytes()).unwrap(), &with("cpu,cpuacct", &groups), &Policy::default(), approval)
}

#[test]
fn the_guard_holds_large_removals_until_approved() {
    let none = Approval::default();
    for (total, kept, held) in [(10, 5, false), (10, 4, true), (4, 1, false), (5, 1, true), (3, 0, true), (1, 0, true)]
    {
        let plan = removing(total, kept, &none, "");
        assert_eq!(plan.due().count() == 0, held, "{total} {kept}");
        assert_eq!(plan.guard.is_some(), held);
    }
    let digest = removing(10, 4, &none, "").guard.unwrap().digest;
    let approved = Approval { digests: [digest].into(), ..Approval::default() };
    assert_eq!(removing(10, 4, &approved, "").due().count(), 6);
    // Another change is another digest.
    assert_eq!(removing(10, 3, &approved, "").due().count(), 0);
    // What is left of an approved set needs no second approval.
    let removals =
        removing(10, 4, &approved, "").actions.iter().map(|a| (a.hierarchy.clone(), a.group.clone())).collect();
    assert_eq!(removing(10, 4, &Approval { removals, ..Approval::default() }, "").due().count(), 6);
}

#[test]
fn groups_of_others_do_not_make_a_removal_look_small() {
    let doc = r#"{"cpu": {"sub_cgroup": {"g0": {}}}}"#;
    let mut groups = many(20);
    groups.extend((0..60).map(|i| (format!("/g0/crowd{i}"), group(&[]))));
    let groups: Vec<_> = groups.iter().map(|(p, g)| (p.as_str(), g.clone())).collect();
    let plan = run(doc, &with("cpu,cpuacct", &groups), &Policy::default());
    assert_eq!(plan.due().filter(|a| a.op == Op::Remove).count(), 0);
    assert!(plan.guard.unwrap().why.contains("19 groups would go"));
    // Those of others count where they would go.
    let all = Policy { prune: Prune::All, ..Policy::default() };
    assert!(run(doc, &with("cpu,cpuacct", &groups), &all).guard.unwrap().why.contains("79 groups"));
}

#[test]
fn a_document_approves_the_removal_of_the_one_it_replaces() {
    let extra = r#", "allow_removals": "0123456789abcdef""#;
    let previous = |d: &str| Approval { previous: Some(d.into()), ..Approval::default() };
    assert_eq!(removing(10, 0, &previous("0123456789abcdef"), extra).due().count(), 10);
    assert_eq!(removing(10, 0, &previous("ffffffffffffffff"), extra).due().count(), 0);
    assert_eq!(removing(10, 0, &Approval::default(), extra).due().count(), 0);
}

#[test]
fn held_removals_do_not_hold_the_rest() {
    let doc = r#"{"cpu": {"sub_cgroup": {"new": {}}}}"#;
    let groups = many(10);
    let groups: Vec<_> = groups.iter().map(|(p, g)| (p.as_str(), g.clone())).collect();
    let plan = run(doc, &with("cpu,cpuacct", &groups), &Policy::default());
    assert_eq!(plan.due().count(), 1);
    assert_eq!(plan.actions.len(), 11);
}

#[test]
fn a_controller_that_is_not_mounted_is_a_note() {
    let plan = run(CPU, &node(vec![hierarchy("memory")]), &Policy::default());
    assert!(plan.is_empty());
    assert_eq!(plan.notes.len(), 2);
}

#[test]
fn throttle_rules_touch_only_our_devices() {
    let doc =
        |rules: &str| format!(r#"{{"groups": {{"a": {{"knobs": {{"io.max": {rules}}}}}}}, "controllers": ["io"]}}"#);
    let file = "blkio.throttle.read_bps_device";
    let actual = with("blkio", &[("/a", ours(&[(file, "8:0 5\n8:16 6\n7:0 9\n")], &[(file, "8:0 5\n8:16 6")]))]);
    assert!(run(&doc(r#"{"8:0": {"rbps": 5}, "8:16": {"rbps": 6}}"#), &actual, &Policy::default()).is_empty());
    assert_eq!(
        lines(&run(&doc(r#"{"8:0": {"rbps": 7}}"#), &actual, &Policy::default())),
        [format!("blkio /a {file}=8:0 7;8:16 0")]
    );
    assert_eq!(lines(&run(&doc("{}"), &actual, &Policy::default())), [format!("blkio /a {file}=8:0 0;8:16 0")]);
}

#[test]
fn what_is_held_stays_held_when_the_tree_grows() {
    let doc = r#"{"cpu": {"sub_cgroup": {"n0": {}, "n1": {}, "n2": {}, "n3": {}, "n4": {}, "n5": {}}}}"#;
    let desired = parse(doc.as_bytes()).unwrap();
    let mut groups = many(4);
    let at = |groups: &[(String, Group)], approval: &Approval| {
        let groups: Vec<_> = groups.iter().map(|(p, g)| (p.as_str(), g.clone())).collect();
        plan(&desired, &with("cpu,cpuacct", &groups), &Policy::default(), approval)
    };
    let first = at(&groups, &Approval::default());
    assert!(!first.guard.as_ref().unwrap().approved);
    let held =
        first.actions.iter().filter(|a| a.op == Op::Remove).map(|a| (a.hierarchy.clone(), a.group.clone())).collect();
    groups.extend((0..6).map(|i| (format!("/n{i}"), ours(&[], &[]))));
    let second = at(&groups, &Approval { held, ..Approval::default() });
    assert_eq!(second.due().count(), 0, "{:?}", lines(&second));
    // Its digest is the same, so that an operator's approval is not outrun.
    assert_eq!(second.guard.unwrap().digest, first.guard.unwrap().digest);
}

#[test]
fn a_narrower_ratio_goes_children_first_even_with_a_larger_quota() {
    let doc = r#"{"groups": {"a": {"knobs": {"cpu.max": "60000 200000"}, "groups": {"b": {"knobs": {"cpu.max": "60000 200000"}}}}}, "controllers": ["cpu"]}"#;
    let set = [("cpu.cfs_quota_us", "x"), ("cpu.cfs_period_us", "x")];
    let now = || ours(&[("cpu.cfs_quota_us", "50000"), ("cpu.cfs_period_us", "100000")], &set);
    let plan = run(doc, &with("cpu,cpuacct", &[("/a", now()), ("/a/b", now())]), &Policy::default());
    let order: Vec<_> = plan.actions.iter().map(|a| a.group.as_str()).collect();
    assert_eq!(order, ["/a/b", "/a/b", "/a", "/a"]);
}

#[test]
fn raw_files_are_taken_off_the_mark_and_left() {
    let doc = |files: &str| format!(r#"{{"groups": {{"a": {{{files}}}}}, "controllers": ["cpu"]}}"#);
    let raw = r#""files": {"cpu.shares": "5"}"#;
    let plan = run(&doc(raw), &with("cpu,cpuacct", &[]), &Policy::default());
    let Op::Write(write) = &plan.actions[1].op else { panic!() };
    let set = write.record.clone().unwrap();
    let actual = with("cpu,cpuacct", &[("/a", ours(&[("cpu.shares", "5")], &[("cpu.shares", &set)]))]);
    assert!(run(&doc(raw), &actual, &Policy::default()).is_empty());
    assert_eq!(lines(&run(&doc(""), &actual, &Policy::default())), ["cpu,cpuacct /a forget cpu.shares"]);
}

#[test]
fn device_rules_are_made_before_children_and_undone_by_the_mark() {
    let document = r#"{"controllers": ["devices"], "groups": {"a": {"knobs": {"devices.deny": ["c 1:3 w"]}, "groups": {"b": {}}}}}"#;
    let actual = with("devices", &[]);
    let first = run(document, &actual, &Policy::default());
    assert_eq!(lines(&first), ["devices /a +", "devices /a devices.list=allow a;deny c 1:3 w", "devices /a/b +"]);
    // The kernel's list does not show what is denied; the mark does.
    let a = ours(&[("devices.list", "a *:* rwm")], &[("devices.list", "allow a\ndeny c 1:3 w")]);
    let nothing = r#"{"controllers": ["devices"], "groups": {"a": {}}}"#;
    assert_eq!(
        lines(&run(nothing, &with("devices", &[("/a", a)]), &Policy::default())),
        ["devices /a devices.list=allow a"]
    );
}

#[test]
fn a_burst_shrinks_before_the_limit_and_grows_after_it() {
    let now = [("cpu.cfs_quota_us", "100000"), ("cpu.cfs_period_us", "200000"), ("cpu.cfs_burst_us", "90000")];
    let actual = with("cpu", &[("/a", ours(&now, &now))]);
    let document = |burst| {
        format!(r#"{{"groups": {{"a": {{"knobs": {{"cpu.max": "60000 100000", "cpu.max.burst": {burst}}}}}}}}}"#)
    };
    let found = lines(&run(&document(50_000), &actual, &Policy::default()));
    assert!(found[0].contains("burst"), "{found:?}");
}

#[test]
fn declared_and_kernel_stand_side_by_side() {
    let document = r#"{"cpu": {"sub_cgroup": {"a": {"conf": {"share": 2048}}, "b": {"conf": {}}}}}"#;
    let actual = with("cpu", &[("/a", ours(&[("cpu.shares", "1024")], &[]))]);
    let rows = |at: &str| {
        let rows = compare(&parse(document.as_bytes()).unwrap(), &actual, &Policy::default(), &path(at));
        let shown = rows.into_iter().map(|r| (r.file, r.wanted, r.kernel, r.differs, r.note.is_some()));
        shown.collect::<Vec<_>>()
    };
    let some = |text: &str| Some(text.to_owned());
    assert!(rows("/a").contains(&(some("cpu.shares"), some("2048"), some("1024"), true, false)), "{:?}", rows("/a"));
    assert_eq!(rows("/b"), [(some("cpu.shares"), some("1024"), None, true, false)]);
    assert!(rows("/x").is_empty());
}

#[test]
fn what_the_kernel_made_of_a_value_does_not_differ() {
    let document = parse(br#"{"cpu": {"sub_cgroup": {"a": {"conf": {"share": 2048}}}}}"#).unwrap();
    let differs = |now: &str| {
        let mut a = ours(&[("cpu.shares", now)], &[("cpu.shares", "2048")]);
        let Marked::Ours(mark) = &mut a.mark else { unreachable!() };
        mark.files.get_mut("cpu.shares").unwrap().kept = Some("2047".into());
        compare(&document, &with("cpu", &[("/a", a)]), &Policy::default(), &path("/a"))[0].differs
    };
    assert_eq!(["2048", "2047", "2046"].map(differs), [false, false, true]);
}
