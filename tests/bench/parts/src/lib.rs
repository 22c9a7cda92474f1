//! Inputs of the benchmarks: documents, the node that they describe, and what the kernel says of it.

use std::collections::{BTreeMap, BTreeSet};

use cgrove_core::actual::{Actual, Group, Hierarchy, MARK_FORMAT, Machine, Mark, Marked, Set, Version};
use cgrove_core::desired::Desired;
use cgrove_core::document;
use cgrove_core::ids::{Controller, ControllerSet, GroupPath};
use cgrove_core::plan::{Approval, Op, Plan, Policy, plan};
use cgrove_core::usage::{Reading, Template};

/// So many groups, ten below each of the first level's, three knobs each. A document has at most 1 MiB: of more than 10,000
/// groups only the first ones have knobs.
pub fn by_group(groups: usize) -> String {
    let tuned = |i: usize| if i < 500 { r#""knobs":{"cpu.weight":20,"memory.max":"1G","pids.max":500}"# } else { "" };
    let inner = |i: usize, n: usize| {
        let below: Vec<String> = (0..n).map(|j| format!(r#""h{j}":{{{}}}"#, tuned(i))).collect();
        let comma = if tuned(i).is_empty() { "" } else { "," };
        format!(r#""g{i}":{{{}{comma}"groups":{{{}}}}}"#, tuned(i), below.join(","))
    };
    let mut left = groups;
    let mut all = Vec::new();
    while left > 0 {
        let n = (left - 1).min(10);
        all.push(inner(all.len(), n));
        left -= n + 1;
    }
    format!(r#"{{"controllers":["cpu","memory","pids"],"groups":{{{}}}}}"#, all.join(","))
}

/// So many groups with cgrouparch's two files a group.
pub fn by_controller(groups: usize) -> String {
    let below = |conf: &str| (0..groups).map(|i| format!(r#""g{i}": {{{conf}}}"#)).collect::<Vec<_>>().join(", ");
    format!(
        r#"{{"cpu": {{"sub_cgroup": {{{}}}}}, "blkio": {{"sub_cgroup": {{{}}}}}}}"#,
        below(r#""conf": {"share": 20}"#),
        below("")
    )
}

/// A document that is known to be good.
pub fn desired(text: &str) -> Desired {
    match document::parse(text.as_bytes()) {
        Ok(desired) => desired,
        Err(e) => panic!("{e}"),
    }
}

/// Three v1 hierarchies with nothing in them.
pub fn empty_node() -> Actual {
    let hierarchy = |controller: Controller, files: &[&str]| Hierarchy {
        label: controller.name().to_owned(),
        version: Version::V1,
        controllers: [controller].into_iter().collect(),
        at_root: false,
        present: true,
        complete: true,
        files: files.iter().map(|f| (*f).to_owned()).collect::<BTreeSet<_>>(),
        above: BTreeMap::new(),
        closed_above: ControllerSet::EMPTY,
        groups: [(GroupPath::root(), Group::default())].into(),
    };
    Actual {
        machine: Machine { memory: 64 << 30, cpus: 64, page: 4096, disks: Vec::new(), devices: BTreeMap::new() },
        hierarchies: vec![
            hierarchy(Controller::Cpu, &["cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us"]),
            hierarchy(Controller::Memory, &["memory.limit_in_bytes", "memory.soft_limit_in_bytes"]),
            hierarchy(Controller::Pids, &["pids.max"]),
        ],
    }
}

/// The plan for this node.
pub fn planned(desired: &Desired, actual: &Actual) -> Plan {
    plan(desired, actual, &Policy::default(), &Approval::default())
}

/// The same node after its plan was carried out.
pub fn settled(desired: &Desired, mut actual: Actual) -> Actual {
    let plan = planned(desired, &actual);
    for action in &plan.actions {
        let Some(hierarchy) = actual.hierarchies.iter_mut().find(|h| h.label == action.hierarchy) else { continue };
        let group = hierarchy.groups.entry(action.group.clone()).or_default();
        if group.ours().is_none() {
            let mark = Mark { format: MARK_FORMAT, instance: "bench".into(), ..Mark::default() };
            group.mark = Marked::Ours(mark);
        }
        if let Op::Write(write) = &action.op {
            group.values.insert(write.file.clone(), write.to.concat());
            if let (Marked::Ours(mark), Some(want)) = (&mut group.mark, &write.record) {
                mark.files.insert(write.file.clone(), Set { want: want.clone(), ..Set::default() });
            }
        }
    }
    actual
}

const CPU: &[u8] = b"123456789012\n";
const DISK: &[u8] =
    b"254:0 Read 81920\n254:0 Write 4096\n254:0 Sync 86016\n254:0 Async 0\n254:0 Total 86016\nTotal 86016\n";

/// One slot's JSON as the sampler makes it, of files that have been read.
pub fn render(template: &Template, out: &mut Vec<u8>) {
    let mut beside = Vec::new();
    template.render(out, |i, out| {
        let (reading, text) = match template.probes[i].gauge.controller() {
            Controller::Io => (Reading::BlkioBytes, DISK),
            _ => (Reading::CpuacctUsage, CPU),
        };
        out.push(b'{');
        reading.render(Version::V1, text, out, &mut beside);
        out.push(b'}');
    });
}

/// The same slot by way of a tree of values, as one would write it first.
pub fn render_by_values(groups: usize) -> Vec<u8> {
    use serde_json::{Map, Value, json};
    let number = |text: &[u8]| std::str::from_utf8(text).ok().and_then(|t| t.trim().parse::<u64>().ok());
    let cpu = || json!({ "usage": number(CPU) });
    let disk = || {
        let mut devices = Map::new();
        for line in std::str::from_utf8(DISK).unwrap_or_default().lines() {
            let words: Vec<&str> = line.split(' ').collect();
            if let [device, kind @ ("Read" | "Write"), bytes] = words[..] {
                let of = devices.entry(device).or_insert_with(|| json!({}));
                of[kind] = Value::from(bytes.parse::<u64>().unwrap_or(0));
            }
        }
        Value::Object(devices)
    };
    let node = |value: &dyn Fn() -> Value| {
        let below: Map<String, Value> = (0..groups).map(|i| (format!("g{i}"), json!({ "value": value() }))).collect();
        json!({ "value": value(), "sub_cgroup": below })
    };
    serde_json::to_vec(&json!({ "cpu": node(&cpu), "blkio": node(&disk) })).unwrap_or_default()
}
