//! memory: limits, protection, swap.

use super::{Kind, Knob, NO_V2, ONLY_V2, Side, Unset, V2_RST};
use crate::ids::Controller::Memory;

const RST: &str = "cgroup-v1/memory.rst";

#[rustfmt::skip]
pub(super) const KNOBS: &[Knob] = &[
    Knob { name: "memory.max", controller: Memory, kind: Kind::Bytes, default: "max", unset: Unset::Const("max"), v1: Side::Files(&["memory.limit_in_bytes"]), v2: Side::Native, since: "v2 4.5", source: V2_RST, about: "most memory, bytes" },
    Knob { name: "memory.limit_in_bytes", controller: Memory, kind: Kind::Bytes, default: "max", unset: Unset::Const("max"), v1: Side::Native, v2: Side::Files(&["memory.max"]), since: "v1 2.6.25", source: RST, about: "v1 name of memory.max" },
    Knob { name: "memory.swap.max", controller: Memory, kind: Kind::Bytes, default: "max", unset: Unset::Const("max"), v1: Side::Files(&["memory.memsw.limit_in_bytes"]), v2: Side::Native, since: "v2 4.5, CONFIG_SWAP", source: V2_RST, about: "most swap, bytes; on v1 memory.max + this becomes memory.memsw.limit_in_bytes" },
    Knob { name: "memory.memsw.limit_in_bytes", controller: Memory, kind: Kind::Bytes, default: "max", unset: Unset::Const("max"), v1: Side::Native, v2: Side::Files(&["memory.swap.max"]), since: "v1 2.6.29, swapaccount", source: RST, about: "most memory and swap together, bytes; on v2 what exceeds the memory limit becomes memory.swap.max" },
    Knob { name: "memory.high", controller: Memory, kind: Kind::Bytes, default: "max", unset: Unset::Const("max"), v1: Side::Absent(ONLY_V2), v2: Side::Native, since: "v2 4.5", source: V2_RST, about: "above this the group is slowed and reclaimed, bytes" },
    Knob { name: "memory.low", controller: Memory, kind: Kind::Bytes, default: "0", unset: Unset::Const("0"), v1: Side::Absent(ONLY_V2), v2: Side::Native, since: "v2 4.5", source: V2_RST, about: "memory that is reclaimed last, bytes" },
    Knob { name: "memory.min", controller: Memory, kind: Kind::Bytes, default: "0", unset: Unset::Const("0"), v1: Side::Absent(ONLY_V2), v2: Side::Native, since: "v2 4.18", source: V2_RST, about: "memory that is never reclaimed, bytes" },
    Knob { name: "memory.swap.high", controller: Memory, kind: Kind::Bytes, default: "max", unset: Unset::Const("max"), v1: Side::Absent(ONLY_V2), v2: Side::Native, since: "v2 5.8, CONFIG_SWAP", source: V2_RST, about: "above this much swap the group is slowed, bytes" },
    Knob { name: "memory.zswap.max", controller: Memory, kind: Kind::Bytes, default: "max", unset: Unset::Const("max"), v1: Side::Absent(ONLY_V2), v2: Side::Native, since: "v2 5.19, CONFIG_ZSWAP", source: V2_RST, about: "most compressed swap, bytes" },
    Knob { name: "memory.zswap.writeback", controller: Memory, kind: Kind::Flag, default: "1", unset: Unset::Const("1"), v1: Side::Absent(ONLY_V2), v2: Side::Native, since: "v2 6.8, CONFIG_ZSWAP", source: V2_RST, about: "0: compressed swap is never written to disk" },
    Knob { name: "memory.oom.group", controller: Memory, kind: Kind::Flag, default: "0", unset: Unset::Const("0"), v1: Side::Absent(ONLY_V2), v2: Side::Native, since: "v2 4.19", source: V2_RST, about: "1: an out-of-memory kill takes the whole group" },
    Knob { name: "memory.reclaim", controller: Memory, kind: Kind::Bytes, default: "none", unset: Unset::Const(""), v1: Side::Absent(RECLAIM), v2: Side::Absent(RECLAIM), since: "v2 5.19", source: V2_RST, about: "asks for reclaim once; not part of a document" },
    Knob { name: "memory.soft_limit_in_bytes", controller: Memory, kind: Kind::Bytes, default: "max", unset: Unset::Const("max"), v1: Side::Native, v2: Side::Absent("on v2 use memory.low or memory.high"), since: "v1 2.6.32, not under PREEMPT_RT", source: RST, about: "reclaimed first when above this, bytes" },
    Knob { name: "memory.kmem.tcp.limit_in_bytes", controller: Memory, kind: Kind::Bytes, default: "max", unset: Unset::Const("max"), v1: Side::Native, v2: Side::Absent("v2 counts TCP buffers in memory.max"), since: "v1 3.3", source: RST, about: "most memory for TCP buffers, bytes" },
    Knob { name: "memory.swappiness", controller: Memory, kind: Kind::Int { min: 0, max: 200 }, default: "the parent's", unset: Unset::Parent, v1: Side::Native, v2: Side::Absent(NO_V2), since: "v1 2.6.29; above 100 5.8", source: RST, about: "readiness to swap rather than drop cache" },
    Knob { name: "memory.oom_control", controller: Memory, kind: Kind::Flag, default: "0", unset: Unset::Const("0"), v1: Side::Native, v2: Side::Absent(NO_V2), since: "v1 2.6.34", source: RST, about: "1: tasks at the limit wait instead of being killed" },
    Knob { name: "memory.move_charge_at_immigrate", controller: Memory, kind: Kind::Int { min: 0, max: 3 }, default: "0", unset: Unset::Const("0"), v1: Side::Native, v2: Side::Absent("v2 never moves charges"), since: "v1 2.6.34; only 0 since 6.14", source: RST, about: "bits: 1 anonymous pages, 2 file pages move with the task" },
];

const RECLAIM: &str = "an action, not a state: `cgrove reclaim GROUP 100M`, or set memory.high";
