//! cpuset: which CPUs and memory nodes.

use super::{Kind, Knob, NO_V2, ONLY_V2, Side, Unset, V2_RST};
use crate::ids::Controller::Cpuset;

const RST: &str = "cgroup-v1/cpusets.rst";
const PARTITION: Side = Side::Absent("on v2 use cpuset.cpus.partition");

#[rustfmt::skip]
pub(super) const KNOBS: &[Knob] = &[
    Knob { name: "cpuset.cpus", controller: Cpuset, kind: Kind::Ids, default: "the parent's", unset: Unset::Parent, v1: Side::Native, v2: Side::Native, since: "v1 2.6.24, v2 5.0", source: V2_RST, about: "CPUs that the group may use" },
    Knob { name: "cpuset.mems", controller: Cpuset, kind: Kind::Ids, default: "the parent's", unset: Unset::Parent, v1: Side::Native, v2: Side::Native, since: "v1 2.6.24, v2 5.0", source: V2_RST, about: "memory nodes that the group may use" },
    Knob { name: "cpuset.cpus.exclusive", controller: Cpuset, kind: Kind::Ids, default: "none", unset: Unset::Const(""), v1: Side::Absent(ONLY_V2), v2: Side::Native, since: "v2 6.7", source: V2_RST, about: "CPUs kept from siblings, for partitions below" },
    Knob { name: "cpuset.cpus.partition", controller: Cpuset, kind: Kind::Word(&["member", "root", "isolated"]), default: "member", unset: Unset::Const("member"), v1: Side::Absent("on v1 use cpuset.cpu_exclusive and cpuset.sched_load_balance"), v2: Side::Native, since: "v2 5.0; isolated 6.1", source: V2_RST, about: "root: a scheduling domain of its own; isolated: also without load balancing" },
    Knob { name: "cpuset.cpu_exclusive", controller: Cpuset, kind: Kind::Flag, default: "0", unset: Unset::Const("0"), v1: Side::Native, v2: PARTITION, since: "v1 2.6.24", source: RST, about: "1: siblings may not overlap the CPUs" },
    Knob { name: "cpuset.mem_exclusive", controller: Cpuset, kind: Kind::Flag, default: "0", unset: Unset::Const("0"), v1: Side::Native, v2: Side::Absent(NO_V2), since: "v1 2.6.24", source: RST, about: "1: siblings may not overlap the memory nodes" },
    Knob { name: "cpuset.mem_hardwall", controller: Cpuset, kind: Kind::Flag, default: "0", unset: Unset::Const("0"), v1: Side::Native, v2: Side::Absent(NO_V2), since: "v1 2.6.26", source: RST, about: "1: kernel allocations stay on the group's nodes too" },
    Knob { name: "cpuset.memory_migrate", controller: Cpuset, kind: Kind::Flag, default: "0", unset: Unset::Const("0"), v1: Side::Native, v2: Side::Absent("v2 always migrates"), since: "v1 2.6.24", source: RST, about: "1: pages follow when cpuset.mems changes" },
    Knob { name: "cpuset.memory_spread_page", controller: Cpuset, kind: Kind::Flag, default: "0", unset: Unset::Const("0"), v1: Side::Native, v2: Side::Absent(NO_V2), since: "v1 2.6.24", source: RST, about: "1: page cache is spread over the nodes" },
    Knob { name: "cpuset.memory_spread_slab", controller: Cpuset, kind: Kind::Flag, default: "0", unset: Unset::Const("0"), v1: Side::Native, v2: Side::Absent(NO_V2), since: "v1 2.6.24", source: RST, about: "1: slab objects are spread over the nodes" },
    Knob { name: "cpuset.sched_load_balance", controller: Cpuset, kind: Kind::Flag, default: "1", unset: Unset::Const("1"), v1: Side::Native, v2: PARTITION, since: "v1 2.6.24", source: RST, about: "0: the scheduler does not balance over these CPUs" },
    Knob { name: "cpuset.sched_relax_domain_level", controller: Cpuset, kind: Kind::Int { min: -1, max: 5 }, default: "-1", unset: Unset::Const("-1"), v1: Side::Native, v2: Side::Absent(NO_V2), since: "v1 2.6.26", source: RST, about: "how far the scheduler looks for idle CPUs" },
];
