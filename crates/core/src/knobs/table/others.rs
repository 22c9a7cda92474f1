//! pids, freezer, devices, net_cls, net_prio, rdma, misc, and what every v2 group has.

use super::{Field, Kind, Knob, ONLY_V2, Side, Unset, V2_RST};
use crate::ids::Controller::{Core, Devices, Freezer, Misc, NetCls, NetPrio, Pids, Rdma};

const fn count(name: &'static str, max: u64, or_max: bool) -> Field {
    Field { name, min: 0, max, bytes: false, or_max }
}
const ALL_U32: u64 = u32::MAX as u64;
const HANDLES: Kind =
    Kind::PerName(&[count("hca_handle", i32::MAX as u64, true), count("hca_object", i32::MAX as u64, true)]);
const BPF: Side = Side::Absent(
    "on v2 device access is a BPF program of whoever starts the processes, not a file: use DeviceAllow= of the systemd unit or the container runtime's setting",
);
const MATCH: Side =
    Side::Absent("v2 has no network controllers: match the group itself in nftables (socket cgroupv2) or by BPF");

#[rustfmt::skip]
pub(super) const KNOBS: &[Knob] = &[
    Knob { name: "pids.max", controller: Pids, kind: Kind::IntOrMax { min: 0, max: 4_194_304 }, default: "max", unset: Unset::Const("max"), v1: Side::Native, v2: Side::Native, since: "v1 4.3, v2 4.5", source: V2_RST, about: "most processes and threads" },
    Knob { name: "freezer.state", controller: Freezer, kind: Kind::State, default: "THAWED", unset: Unset::Const("THAWED"), v1: Side::Native, v2: Side::Files(&["cgroup.freeze"]), since: "v1 2.6.28", source: "cgroup-v1/freezer-subsystem.rst", about: "FROZEN stops every process of the group" },
    Knob { name: "cgroup.freeze", controller: Freezer, kind: Kind::Flag, default: "0", unset: Unset::Const("0"), v1: Side::Files(&["freezer.state"]), v2: Side::Native, since: "v2 5.2", source: V2_RST, about: "1 stops every process of the group" },
    Knob { name: "cgroup.max.depth", controller: Core, kind: Kind::IntOrMax { min: 0, max: i32::MAX as i64 }, default: "max", unset: Unset::Const("max"), v1: Side::Absent(ONLY_V2), v2: Side::Native, since: "v2 4.14", source: V2_RST, about: "deepest that groups may be nested below" },
    Knob { name: "cgroup.max.descendants", controller: Core, kind: Kind::IntOrMax { min: 0, max: i32::MAX as i64 }, default: "max", unset: Unset::Const("max"), v1: Side::Absent(ONLY_V2), v2: Side::Native, since: "v2 4.14", source: V2_RST, about: "most groups below" },
    Knob { name: "cgroup.pressure", controller: Core, kind: Kind::Flag, default: "1", unset: Unset::Const("1"), v1: Side::Absent(ONLY_V2), v2: Side::Native, since: "v2 6.1, CONFIG_PSI", source: V2_RST, about: "0: pressure of the group is not accounted" },
    Knob { name: "devices.allow", controller: Devices, kind: Kind::Rules, default: "all", unset: Unset::Parent, v1: Side::Files(&["devices.list"]), v2: BPF, since: "v1 2.6.26", source: "cgroup-v1/devices.rst", about: "device accesses that are allowed, all others denied: type, numbers, any of rwm" },
    Knob { name: "devices.deny", controller: Devices, kind: Kind::Rules, default: "none", unset: Unset::Parent, v1: Side::Files(&["devices.list"]), v2: BPF, since: "v1 2.6.26", source: "cgroup-v1/devices.rst", about: "device accesses that are denied, all others allowed; [\"a\"] beside devices.allow says what that says anyway" },
    Knob { name: "devices.list", controller: Devices, kind: Kind::Rules, default: "all", unset: Unset::Parent, v1: Side::Absent("only read by the kernel's rules: use devices.allow or devices.deny"), v2: BPF, since: "v1 2.6.26", source: "cgroup-v1/devices.rst", about: "the list in force, read only" },
    Knob { name: "net_cls.classid", controller: NetCls, kind: Kind::ClassId, default: "0", unset: Unset::Const("0"), v1: Side::Native, v2: MATCH, since: "v1 2.6.29", source: "cgroup-v1/net_cls.rst", about: "class of the group's packets for tc and nftables" },
    Knob { name: "net_prio.ifpriomap", controller: NetPrio, kind: Kind::PerName(&[count("", ALL_U32, false)]), default: "0", unset: Unset::PerKey, v1: Side::Native, v2: MATCH, since: "v1 3.3", source: "cgroup-v1/net_prio.rst", about: "priority of the group's packets, by network interface" },
    Knob { name: "rdma.max", controller: Rdma, kind: HANDLES, default: "max", unset: Unset::PerKey, v1: Side::Native, v2: Side::Native, since: "4.11", source: V2_RST, about: "RDMA resources by device: hca_handle, hca_object" },
    Knob { name: "misc.max", controller: Misc, kind: Kind::PerName(&[count("", i64::MAX as u64, true)]), default: "max", unset: Unset::PerKey, v1: Side::Native, v2: Side::Native, since: "5.13", source: V2_RST, about: "scalar resources by name, as misc.capacity lists them (sev, sev_es, sgx_epc)" },
];
