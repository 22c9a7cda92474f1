//! io, v1's blkio: weights and limits by disk.

use super::{Field, Kind, Knob, ONLY_V2, Side, Unset, V2_RST};
use crate::ids::Controller::Io;

const RST: &str = "cgroup-v1/blkio-controller.rst";
const BFQ: &str = "../block/bfq-iosched.rst";
const ROOT: Side =
    Side::Absent("exists in the hierarchy's root only, one setting for the machine: write it there at boot");

const fn bytes(name: &'static str) -> Field {
    Field { name, min: 1, max: i64::MAX as u64, bytes: true, or_max: true }
}
const fn operations(name: &'static str) -> Field {
    Field { name, min: 1, max: u32::MAX as u64, bytes: false, or_max: true }
}
const LIMITS: &[Field] = &[bytes("rbps"), bytes("wbps"), operations("riops"), operations("wiops")];
const BYTES: Kind = Kind::PerDisk(&[bytes("")]);
const OPERATIONS: Kind = Kind::PerDisk(&[operations("")]);
const LATENCY: Kind = Kind::PerDisk(&[Field { name: "target", min: 1, max: 60_000_000, bytes: false, or_max: true }]);
const fn weight(min: u64) -> Field {
    Field { name: "", min, max: 1000, bytes: false, or_max: false }
}
const fn weights(min: u64) -> Kind {
    Kind::Weight { min, max: 1000 }
}
const WEIGHT_DEVICE: Kind = Kind::PerDisk(&[weight(10)]);
const BFQ_DEVICE: Kind = Kind::PerDisk(&[weight(1)]);
const NO_DISKS: Unset = Unset::PerKey;
const THROTTLE: &[&str] = &[
    "blkio.throttle.read_bps_device",
    "blkio.throttle.write_bps_device",
    "blkio.throttle.read_iops_device",
    "blkio.throttle.write_iops_device",
];

#[rustfmt::skip]
pub(super) const KNOBS: &[Knob] = &[
    Knob { name: "io.weight", controller: Io, kind: Kind::Weight { min: 1, max: 10_000 }, default: "100", unset: Unset::PerKey, v1: Side::FirstOf(&["blkio.bfq.weight", "blkio.weight"]), v2: Side::Native, since: "v2 5.4, CONFIG_BLK_CGROUP_IOCOST", source: V2_RST, about: "share of disk time against siblings" },
    Knob { name: "io.bfq.weight", controller: Io, kind: weights(1), default: "100", unset: Unset::PerKey, v1: Side::Files(&["blkio.bfq.weight"]), v2: Side::Native, since: "v2 4.16, bfq loaded", source: BFQ, about: "share of disk time under the bfq scheduler" },
    Knob { name: "blkio.weight", controller: Io, kind: weights(10), default: "500", unset: Unset::PerKey, v1: Side::FirstOf(&["blkio.weight", "blkio.bfq.weight"]), v2: Side::FirstOf(&["io.bfq.weight", "io.weight"]), since: "v1 2.6.33 to 4.20", source: RST, about: "share of disk time; kernels since 5.0 have it as blkio.bfq.weight" },
    Knob { name: "blkio.weight_device", controller: Io, kind: WEIGHT_DEVICE, default: "none", unset: NO_DISKS, v1: Side::FirstOf(&["blkio.weight_device", "blkio.bfq.weight_device"]), v2: Side::FirstOf(&["io.bfq.weight", "io.weight"]), since: "v1 2.6.37 to 4.20", source: RST, about: "share of disk time, by disk" },
    Knob { name: "blkio.bfq.weight", controller: Io, kind: weights(1), default: "100", unset: Unset::PerKey, v1: Side::Native, v2: Side::Files(&["io.bfq.weight"]), since: "v1 4.16, bfq loaded", source: BFQ, about: "share of disk time under the bfq scheduler" },
    Knob { name: "blkio.bfq.weight_device", controller: Io, kind: BFQ_DEVICE, default: "none", unset: NO_DISKS, v1: Side::Native, v2: Side::Files(&["io.bfq.weight"]), since: "v1 5.4, bfq loaded", source: BFQ, about: "share of disk time under the bfq scheduler, by disk" },
    Knob { name: "io.max", controller: Io, kind: Kind::PerDisk(LIMITS), default: "none", unset: Unset::PerKey, v1: Side::Files(THROTTLE), v2: Side::Native, since: "v2 4.5", source: V2_RST, about: "limits by disk: rbps, wbps (bytes a second), riops, wiops" },
    Knob { name: "blkio.throttle.read_bps_device", controller: Io, kind: BYTES, default: "none", unset: NO_DISKS, v1: Side::Native, v2: Side::Files(&["io.max"]), since: "v1 2.6.37", source: RST, about: "bytes read a second, by disk" },
    Knob { name: "blkio.throttle.write_bps_device", controller: Io, kind: BYTES, default: "none", unset: NO_DISKS, v1: Side::Native, v2: Side::Files(&["io.max"]), since: "v1 2.6.37", source: RST, about: "bytes written a second, by disk" },
    Knob { name: "blkio.throttle.read_iops_device", controller: Io, kind: OPERATIONS, default: "none", unset: NO_DISKS, v1: Side::Native, v2: Side::Files(&["io.max"]), since: "v1 2.6.37", source: RST, about: "reads a second, by disk" },
    Knob { name: "blkio.throttle.write_iops_device", controller: Io, kind: OPERATIONS, default: "none", unset: NO_DISKS, v1: Side::Native, v2: Side::Files(&["io.max"]), since: "v1 2.6.37", source: RST, about: "writes a second, by disk" },
    Knob { name: "io.latency", controller: Io, kind: LATENCY, default: "none", unset: Unset::PerKey, v1: Side::Absent(ONLY_V2), v2: Side::Native, since: "v2 4.19, CONFIG_BLK_CGROUP_IOLATENCY", source: V2_RST, about: "latency that siblings must not spoil, by disk: target in microseconds" },
    Knob { name: "io.prio.class", controller: Io, kind: Kind::Word(&["no-change", "promote-to-rt", "restrict-to-be", "idle", "none-to-rt"]), default: "no-change", unset: Unset::Const("no-change"), v1: Side::Files(&["blkio.prio.class"]), v2: Side::Native, since: "v2 5.14, CONFIG_BLK_CGROUP_IOPRIO; promote-to-rt 6.5", source: V2_RST, about: "I/O priority class of the group's requests" },
    Knob { name: "blkio.prio.class", controller: Io, kind: Kind::Word(&["no-change", "promote-to-rt", "restrict-to-be", "idle", "none-to-rt"]), default: "no-change", unset: Unset::Const("no-change"), v1: Side::Native, v2: Side::Files(&["io.prio.class"]), since: "v1 5.14, CONFIG_BLK_CGROUP_IOPRIO; promote-to-rt 6.5", source: V2_RST, about: "v1 name of io.prio.class" },
    Knob { name: "io.cost.qos", controller: Io, kind: Kind::PerDisk(LIMITS), default: "none", unset: NO_DISKS, v1: Side::Absent(ONLY_V2), v2: ROOT, since: "v2 5.4, CONFIG_BLK_CGROUP_IOCOST", source: V2_RST, about: "quality of service by disk, root only" },
    Knob { name: "io.cost.model", controller: Io, kind: Kind::PerDisk(LIMITS), default: "none", unset: NO_DISKS, v1: Side::Absent(ONLY_V2), v2: ROOT, since: "v2 5.4, CONFIG_BLK_CGROUP_IOCOST", source: V2_RST, about: "cost model by disk, root only" },
];
