//! cpu: weights, bandwidth, idle, clamps, realtime.

use super::{Kind, Knob, NO_V2, Side, Unset, V2_RST};
use crate::ids::Controller::Cpu;

const BURST: Kind = Kind::Int { min: 0, max: 1_000_000_000 };
const BWC: &str = "../scheduler/sched-bwc.rst";

/// One row a line, so that the table can be read as one.
#[rustfmt::skip]
pub(super) const KNOBS: &[Knob] = &[
    Knob { name: "cpu.weight", controller: Cpu, kind: Kind::Int { min: 1, max: 10_000 }, default: "100", unset: Unset::Const("100"), v1: Side::Files(&["cpu.shares"]), v2: Side::Native, since: "v2 4.15", source: V2_RST, about: "share of CPU time against siblings" },
    Knob { name: "cpu.weight.nice", controller: Cpu, kind: Kind::Int { min: -20, max: 19 }, default: "0", unset: Unset::Const("0"), v1: Side::Files(&["cpu.shares"]), v2: Side::Native, since: "v2 4.15", source: V2_RST, about: "cpu.weight on the scale of nice(1)" },
    Knob { name: "cpu.shares", controller: Cpu, kind: Kind::Int { min: 2, max: 262_144 }, default: "1024", unset: Unset::Const("1024"), v1: Side::Native, v2: Side::Files(&["cpu.weight"]), since: "v1 2.6.24", source: "kernel/sched/core.c", about: "share of CPU time against siblings, v1 scale" },
    Knob { name: "cpu.max", controller: Cpu, kind: Kind::Bandwidth, default: "max 100000", unset: Unset::Const("max 100000"), v1: Side::Files(&["cpu.cfs_quota_us", "cpu.cfs_period_us"]), v2: Side::Native, since: "v2 4.15", source: V2_RST, about: "most CPU time in each period, microseconds" },
    Knob { name: "cpu.cfs_quota_us", controller: Cpu, kind: Kind::Quota, default: "-1", unset: Unset::Const("-1"), v1: Side::Native, v2: Side::Files(&["cpu.max"]), since: "v1 3.2", source: BWC, about: "most CPU time in each cpu.cfs_period_us, microseconds; -1 is unlimited" },
    Knob { name: "cpu.cfs_period_us", controller: Cpu, kind: Kind::Int { min: 1000, max: 1_000_000 }, default: "100000", unset: Unset::Const("100000"), v1: Side::Native, v2: Side::Files(&["cpu.max"]), since: "v1 3.2", source: BWC, about: "the period of cpu.cfs_quota_us, microseconds" },
    Knob { name: "cpu.max.burst", controller: Cpu, kind: BURST, default: "0", unset: Unset::Const("0"), v1: Side::Files(&["cpu.cfs_burst_us"]), v2: Side::Native, since: "v2 5.14", source: V2_RST, about: "CPU time that may be saved up beyond the quota, microseconds" },
    Knob { name: "cpu.cfs_burst_us", controller: Cpu, kind: BURST, default: "0", unset: Unset::Const("0"), v1: Side::Native, v2: Side::Files(&["cpu.max.burst"]), since: "v1 5.14", source: BWC, about: "v1 name of cpu.max.burst" },
    Knob { name: "cpu.idle", controller: Cpu, kind: Kind::Flag, default: "0", unset: Unset::Const("0"), v1: Side::Native, v2: Side::Native, since: "5.15", source: V2_RST, about: "1: runs only when nothing else wants the CPU; suppresses the weight" },
    Knob { name: "cpu.uclamp.min", controller: Cpu, kind: Kind::Clamp, default: "0", unset: Unset::Const("0.00"), v1: Side::Native, v2: Side::Native, since: "5.4, CONFIG_UCLAMP_TASK_GROUP", source: V2_RST, about: "least CPU performance that the tasks ask for, percent" },
    Knob { name: "cpu.uclamp.max", controller: Cpu, kind: Kind::Clamp, default: "max", unset: Unset::Const("max"), v1: Side::Native, v2: Side::Native, since: "5.4, CONFIG_UCLAMP_TASK_GROUP", source: V2_RST, about: "most CPU performance that the tasks may ask for, percent" },
    Knob { name: "cpu.rt_runtime_us", controller: Cpu, kind: Kind::Int { min: -1, max: 1_000_000_000 }, default: "0", unset: Unset::Const("0"), v1: Side::Native, v2: Side::Absent(NO_V2), since: "v1 2.6.25, CONFIG_RT_GROUP_SCHED", source: "../scheduler/sched-rt-group.rst", about: "realtime CPU time in each cpu.rt_period_us, microseconds" },
    Knob { name: "cpu.rt_period_us", controller: Cpu, kind: Kind::Int { min: 1, max: 1_000_000_000 }, default: "1000000", unset: Unset::Const("1000000"), v1: Side::Native, v2: Side::Absent(NO_V2), since: "v1 2.6.25, CONFIG_RT_GROUP_SCHED", source: "../scheduler/sched-rt-group.rst", about: "the period of cpu.rt_runtime_us, microseconds" },
];
