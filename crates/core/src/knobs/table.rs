//! The table of knobs. Ranges, defaults and units are the kernel's own
//! (Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst, and the handlers in kernel/sched, mm, block).

use crate::ids::Controller;

/// What values a knob takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number within the range.
    Int { min: i64, max: i64 },
    /// A whole number within the range, or `max`.
    IntOrMax { min: i64, max: i64 },
    /// Bytes: a number, one with K, M, G or T (powers of 1024), `N%` of the machine's memory, or `max`.
    Bytes,
    /// CPU time per period: `max`, `N%` of the machine, a quota in microseconds, or `quota period`.
    Bandwidth,
    /// CFS quota in microseconds per period: 1000 or more, or -1 for none.
    Quota,
    /// 0 or 1, or false and true.
    Flag,
    /// CPUs or memory nodes, `0-3,8`.
    Ids,
    /// `FROZEN` or `THAWED`.
    State,
    /// Per device one rate: `{"8:0": 1000}`; in bytes (with K, M, G, T) or operations a second.
    Rates { bytes: bool },
    /// Per device `rbps`, `wbps` (bytes) and `riops`, `wiops`: `{"8:0": {"rbps": "100M"}}`.
    IoMax,
}

/// What a hierarchy version does with the knob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Its own file of the same name.
    Native,
    /// Converted into these files.
    Files(&'static [&'static str]),
    /// Not expressible; why, and what to use.
    Absent(&'static str),
}

/// How to undo a knob that the document no longer names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unset {
    /// Write this.
    Const(&'static str),
    /// Write what the parent has.
    Parent,
    /// Write 0 for each device that we had limited.
    PerDevice,
    /// Leave it as it is.
    Stays,
}

/// One row.
#[derive(Debug)]
pub struct Knob {
    /// The file name, which is also how a document names the knob.
    pub name: &'static str,
    pub controller: Controller,
    pub kind: Kind,
    /// What a new group has.
    pub default: &'static str,
    pub unset: Unset,
    pub v1: Side,
    pub v2: Side,
    /// One line for reference pages and the JSON Schema.
    pub about: &'static str,
}

/// The row of a knob's name.
pub fn find(name: &str) -> Option<&'static Knob> {
    KNOBS.iter().find(|k| k.name == name)
}

/// A file in a hierarchy's root whose presence shows that groups have `file`, for files that the
/// root itself lacks (the kernel's CFTYPE_NOT_ON_ROOT). Empty: every kernel with the controller has it.
pub fn witness(file: &str) -> Option<&'static str> {
    match file {
        "blkio.bfq.weight" => Some("blkio.bfq.io_service_bytes"),
        "blkio.weight" => Some("blkio.time"),
        "freezer.state" | "pids.max" => Some(""),
        _ => None,
    }
}

const NO_V2: &str = "cgroup v2 has no such knob";
const ONLY_V2: &str = "only cgroup v2 has this knob";

/// Every knob that documents may name. One row a line, so that the table can be read as one.
#[rustfmt::skip]
pub const KNOBS: &[Knob] = &[
    Knob { name: "cpu.weight", controller: Controller::Cpu, kind: Kind::Int { min: 1, max: 10_000 }, default: "100", unset: Unset::Const("100"), v1: Side::Files(&["cpu.shares"]), v2: Side::Native, about: "share of CPU time against siblings" },
    Knob { name: "cpu.shares", controller: Controller::Cpu, kind: Kind::Int { min: 2, max: 262_144 }, default: "1024", unset: Unset::Const("1024"), v1: Side::Native, v2: Side::Files(&["cpu.weight"]), about: "share of CPU time against siblings, v1 scale" },
    Knob { name: "cpu.max", controller: Controller::Cpu, kind: Kind::Bandwidth, default: "max 100000", unset: Unset::Const("max 100000"), v1: Side::Files(&["cpu.cfs_quota_us", "cpu.cfs_period_us"]), v2: Side::Native, about: "most CPU time in each period, microseconds" },
    Knob { name: "cpu.cfs_quota_us", controller: Controller::Cpu, kind: Kind::Quota, default: "-1", unset: Unset::Const("-1"), v1: Side::Native, v2: Side::Files(&["cpu.max"]), about: "most CPU time in each cpu.cfs_period_us, microseconds; -1 is unlimited" },
    Knob { name: "cpu.cfs_period_us", controller: Controller::Cpu, kind: Kind::Int { min: 1000, max: 1_000_000 }, default: "100000", unset: Unset::Const("100000"), v1: Side::Native, v2: Side::Files(&["cpu.max"]), about: "the period of cpu.cfs_quota_us, microseconds" },
    Knob { name: "cpu.max.burst", controller: Controller::Cpu, kind: Kind::Int { min: 0, max: 1_000_000_000 }, default: "0", unset: Unset::Const("0"), v1: Side::Files(&["cpu.cfs_burst_us"]), v2: Side::Native, about: "CPU time that may be saved up beyond the quota, microseconds (Linux 5.14)" },
    Knob { name: "cpu.cfs_burst_us", controller: Controller::Cpu, kind: Kind::Int { min: 0, max: 1_000_000_000 }, default: "0", unset: Unset::Const("0"), v1: Side::Native, v2: Side::Files(&["cpu.max.burst"]), about: "v1 name of cpu.max.burst (Linux 5.14)" },
    Knob { name: "cpu.idle", controller: Controller::Cpu, kind: Kind::Flag, default: "0", unset: Unset::Const("0"), v1: Side::Native, v2: Side::Native, about: "1: runs only when nothing else wants the CPU; suppresses the weight (Linux 5.15)" },
    Knob { name: "cpu.rt_runtime_us", controller: Controller::Cpu, kind: Kind::Int { min: -1, max: 1_000_000_000 }, default: "0", unset: Unset::Const("0"), v1: Side::Native, v2: Side::Absent(NO_V2), about: "realtime CPU time in each cpu.rt_period_us, microseconds" },
    Knob { name: "cpu.rt_period_us", controller: Controller::Cpu, kind: Kind::Int { min: 1, max: 1_000_000_000 }, default: "1000000", unset: Unset::Const("1000000"), v1: Side::Native, v2: Side::Absent(NO_V2), about: "the period of cpu.rt_runtime_us, microseconds" },
    Knob { name: "cpuset.cpus", controller: Controller::Cpuset, kind: Kind::Ids, default: "the parent's", unset: Unset::Parent, v1: Side::Native, v2: Side::Native, about: "CPUs that the group may use" },
    Knob { name: "cpuset.mems", controller: Controller::Cpuset, kind: Kind::Ids, default: "the parent's", unset: Unset::Parent, v1: Side::Native, v2: Side::Native, about: "memory nodes that the group may use" },
    Knob { name: "cpuset.cpu_exclusive", controller: Controller::Cpuset, kind: Kind::Flag, default: "0", unset: Unset::Const("0"), v1: Side::Native, v2: Side::Absent("on v2 use cpuset.cpus.partition"), about: "1: siblings may not overlap the CPUs" },
    Knob { name: "cpuset.mem_exclusive", controller: Controller::Cpuset, kind: Kind::Flag, default: "0", unset: Unset::Const("0"), v1: Side::Native, v2: Side::Absent(NO_V2), about: "1: siblings may not overlap the memory nodes" },
    Knob { name: "cpuset.mem_hardwall", controller: Controller::Cpuset, kind: Kind::Flag, default: "0", unset: Unset::Const("0"), v1: Side::Native, v2: Side::Absent(NO_V2), about: "1: kernel allocations stay on the group's nodes too" },
    Knob { name: "cpuset.memory_migrate", controller: Controller::Cpuset, kind: Kind::Flag, default: "0", unset: Unset::Const("0"), v1: Side::Native, v2: Side::Absent("v2 always migrates"), about: "1: pages follow when cpuset.mems changes" },
    Knob { name: "cpuset.memory_spread_page", controller: Controller::Cpuset, kind: Kind::Flag, default: "0", unset: Unset::Const("0"), v1: Side::Native, v2: Side::Absent(NO_V2), about: "1: page cache is spread over the nodes" },
    Knob { name: "cpuset.memory_spread_slab", controller: Controller::Cpuset, kind: Kind::Flag, default: "0", unset: Unset::Const("0"), v1: Side::Native, v2: Side::Absent(NO_V2), about: "1: slab objects are spread over the nodes" },
    Knob { name: "cpuset.sched_load_balance", controller: Controller::Cpuset, kind: Kind::Flag, default: "1", unset: Unset::Const("1"), v1: Side::Native, v2: Side::Absent("on v2 use cpuset.cpus.partition"), about: "0: the scheduler does not balance over these CPUs" },
    Knob { name: "cpuset.sched_relax_domain_level", controller: Controller::Cpuset, kind: Kind::Int { min: -1, max: 5 }, default: "-1", unset: Unset::Const("-1"), v1: Side::Native, v2: Side::Absent(NO_V2), about: "how far the scheduler looks for idle CPUs" },
    Knob { name: "memory.max", controller: Controller::Memory, kind: Kind::Bytes, default: "max", unset: Unset::Const("max"), v1: Side::Files(&["memory.limit_in_bytes"]), v2: Side::Native, about: "most memory, bytes" },
    Knob { name: "memory.limit_in_bytes", controller: Controller::Memory, kind: Kind::Bytes, default: "max", unset: Unset::Const("-1"), v1: Side::Native, v2: Side::Files(&["memory.max"]), about: "v1 name of memory.max" },
    Knob { name: "memory.swap.max", controller: Controller::Memory, kind: Kind::Bytes, default: "max", unset: Unset::Const("max"), v1: Side::Files(&["memory.memsw.limit_in_bytes"]), v2: Side::Native, about: "most swap, bytes; on v1 memory.max + this becomes memory.memsw.limit_in_bytes" },
    Knob { name: "memory.memsw.limit_in_bytes", controller: Controller::Memory, kind: Kind::Bytes, default: "max", unset: Unset::Const("-1"), v1: Side::Native, v2: Side::Files(&["memory.swap.max"]), about: "most memory and swap together, bytes" },
    Knob { name: "memory.soft_limit_in_bytes", controller: Controller::Memory, kind: Kind::Bytes, default: "max", unset: Unset::Const("-1"), v1: Side::Native, v2: Side::Absent("on v2 use memory.low or memory.high"), about: "reclaimed first when above this, bytes" },
    Knob { name: "memory.swappiness", controller: Controller::Memory, kind: Kind::Int { min: 0, max: 200 }, default: "the parent's", unset: Unset::Parent, v1: Side::Native, v2: Side::Absent(NO_V2), about: "readiness to swap rather than drop cache" },
    Knob { name: "memory.oom_control", controller: Controller::Memory, kind: Kind::Flag, default: "0", unset: Unset::Const("0"), v1: Side::Native, v2: Side::Absent(NO_V2), about: "1: tasks at the limit wait instead of being killed" },
    Knob { name: "memory.min", controller: Controller::Memory, kind: Kind::Bytes, default: "0", unset: Unset::Const("0"), v1: Side::Absent(ONLY_V2), v2: Side::Native, about: "memory that is never reclaimed, bytes" },
    Knob { name: "memory.low", controller: Controller::Memory, kind: Kind::Bytes, default: "0", unset: Unset::Const("0"), v1: Side::Absent(ONLY_V2), v2: Side::Native, about: "memory that is reclaimed last, bytes" },
    Knob { name: "memory.high", controller: Controller::Memory, kind: Kind::Bytes, default: "max", unset: Unset::Const("max"), v1: Side::Absent(ONLY_V2), v2: Side::Native, about: "above this the group is slowed and reclaimed, bytes" },
    Knob { name: "memory.oom.group", controller: Controller::Memory, kind: Kind::Flag, default: "0", unset: Unset::Const("0"), v1: Side::Absent(ONLY_V2), v2: Side::Native, about: "1: an out-of-memory kill takes the whole group" },
    Knob { name: "io.weight", controller: Controller::Io, kind: Kind::Int { min: 1, max: 10_000 }, default: "100", unset: Unset::Const("100"), v1: Side::Files(&["blkio.bfq.weight", "blkio.weight"]), v2: Side::Native, about: "share of disk time against siblings" },
    Knob { name: "io.bfq.weight", controller: Controller::Io, kind: Kind::Int { min: 1, max: 1000 }, default: "100", unset: Unset::Const("100"), v1: Side::Files(&["blkio.bfq.weight"]), v2: Side::Native, about: "share of disk time under the bfq scheduler" },
    Knob { name: "blkio.weight", controller: Controller::Io, kind: Kind::Int { min: 10, max: 1000 }, default: "500", unset: Unset::Const("500"), v1: Side::Native, v2: Side::Files(&["io.bfq.weight", "io.weight"]), about: "share of disk time; kernels since 5.0 have it as blkio.bfq.weight" },
    Knob { name: "blkio.bfq.weight", controller: Controller::Io, kind: Kind::Int { min: 1, max: 1000 }, default: "100", unset: Unset::Const("100"), v1: Side::Native, v2: Side::Files(&["io.bfq.weight"]), about: "share of disk time under the bfq scheduler" },
    Knob { name: "io.max", controller: Controller::Io, kind: Kind::IoMax, default: "none", unset: Unset::PerDevice, v1: Side::Files(&["blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device", "blkio.throttle.read_iops_device", "blkio.throttle.write_iops_device"]), v2: Side::Native, about: "limits by device: rbps, wbps (bytes a second), riops, wiops" },
    Knob { name: "blkio.throttle.read_bps_device", controller: Controller::Io, kind: Kind::Rates { bytes: true }, default: "none", unset: Unset::PerDevice, v1: Side::Native, v2: Side::Files(&["io.max"]), about: "bytes read a second, by device" },
    Knob { name: "blkio.throttle.write_bps_device", controller: Controller::Io, kind: Kind::Rates { bytes: true }, default: "none", unset: Unset::PerDevice, v1: Side::Native, v2: Side::Files(&["io.max"]), about: "bytes written a second, by device" },
    Knob { name: "blkio.throttle.read_iops_device", controller: Controller::Io, kind: Kind::Rates { bytes: false }, default: "none", unset: Unset::PerDevice, v1: Side::Native, v2: Side::Files(&["io.max"]), about: "reads a second, by device" },
    Knob { name: "blkio.throttle.write_iops_device", controller: Controller::Io, kind: Kind::Rates { bytes: false }, default: "none", unset: Unset::PerDevice, v1: Side::Native, v2: Side::Files(&["io.max"]), about: "writes a second, by device" },
    Knob { name: "pids.max", controller: Controller::Pids, kind: Kind::IntOrMax { min: 0, max: 4_194_304 }, default: "max", unset: Unset::Const("max"), v1: Side::Native, v2: Side::Native, about: "most processes and threads" },
    Knob { name: "freezer.state", controller: Controller::Freezer, kind: Kind::State, default: "THAWED", unset: Unset::Const("THAWED"), v1: Side::Native, v2: Side::Files(&["cgroup.freeze"]), about: "FROZEN stops every process of the group" },
    Knob { name: "cgroup.freeze", controller: Controller::Freezer, kind: Kind::Flag, default: "0", unset: Unset::Const("0"), v1: Side::Files(&["freezer.state"]), v2: Side::Native, about: "1 stops every process of the group" },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_file_has_a_row_of_its_own() {
        for knob in KNOBS {
            for side in [knob.v1, knob.v2] {
                if let Side::Files(files) = side {
                    for file in files {
                        assert!(find(file).is_some(), "{} -> {file}", knob.name);
                    }
                }
            }
            let prefix = knob.name.split('.').next().unwrap();
            assert!(prefix == "cgroup" || Controller::parse(prefix) == Some(knob.controller), "{}", knob.name);
            assert_eq!(KNOBS.iter().filter(|k| k.name == knob.name).count(), 1, "{}", knob.name);
        }
    }

    /// docs/knobs.md is this table; `CGROVE_UPDATE_DOCS=1 cargo test` writes it.
    #[test]
    fn the_reference_page_is_this_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/knobs.md");
        if std::env::var_os("CGROVE_UPDATE_DOCS").is_some() {
            std::fs::write(path, page()).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(path).unwrap(),
            page(),
            "run CGROVE_UPDATE_DOCS=1 cargo test -p cgrove-core"
        );
    }

    fn page() -> String {
        let mut out = String::from(
            "# Knobs\n\nGenerated from `crates/core/src/knobs/table.rs`. Any name may be used on any node; a name of the other cgroup\n\
             version is converted, and the plan shows the result. Ranges and defaults are the kernel's.\n\n\
             | knob | values | default | on v1 | on v2 | |\n|---|---|---|---|---|---|\n",
        );
        for k in KNOBS {
            let side = |side| match side {
                Side::Native => "itself".to_owned(),
                Side::Files(files) => files.iter().map(|f| format!("`{f}`")).collect::<Vec<_>>().join(", "),
                Side::Absent(why) => format!("no: {why}"),
            };
            let (v1, v2) = (side(k.v1), side(k.v2));
            out += &format!("| `{}` | {} | {} | {v1} | {v2} | {} |\n", k.name, values(k.kind), k.default, k.about);
        }
        out
    }

    fn values(kind: Kind) -> String {
        match kind {
            Kind::Int { min, max } => format!("{min} to {max}"),
            Kind::IntOrMax { min, max } => format!("{min} to {max}, or `max`"),
            Kind::Bytes => "bytes, with K M G T, `N%` of memory, or `max`".into(),
            Kind::Bandwidth => "`max`, `N%` of all CPUs, microseconds, or `QUOTA PERIOD`".into(),
            Kind::Quota => "1000 or more, or -1".into(),
            Kind::Flag => "0 or 1".into(),
            Kind::Ids => "a list, `0-3,8`".into(),
            Kind::State => "`FROZEN` or `THAWED`".into(),
            Kind::Rates { bytes: true } => "`{\"8:0\": bytes a second}`".into(),
            Kind::Rates { bytes: false } => "`{\"8:0\": operations a second}`".into(),
            Kind::IoMax => "`{\"8:0\": {\"rbps\": \"100M\", \"wiops\": 50}}`".into(),
        }
    }
}
