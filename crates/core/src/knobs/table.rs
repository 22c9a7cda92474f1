//! The table of knobs: what exists, of which kind, on which side, since when. Ranges, defaults and units are the
//! kernel's own; each row names its document (below Documentation/admin-guide/) or source file.

mod cpu;
mod cpuset;
mod hugetlb;
mod io;
mod memory;
mod others;
#[cfg(test)]
mod page;

pub(super) use hugetlb::page as huge_page;

use std::collections::HashMap;
use std::sync::LazyLock;

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
    /// A percentage with two decimals (`"50%"`, 50, "12.5"), or `max`.
    Clamp,
    /// 0 or 1, or false and true.
    Flag,
    /// One of these words.
    Word(&'static [&'static str]),
    /// CPUs or memory nodes, `0-3,8`.
    Ids,
    /// `FROZEN` or `THAWED`.
    State,
    /// A tc handle: a number, `0x10001`, or `10:1` (hexadecimal major and minor).
    ClassId,
    /// A weight for all disks, or `{"default": 100, "8:0": 200}`.
    Weight { min: u64, max: u64 },
    /// Per disk: `{"8:0": {"rbps": "100M"}}`; with one unnamed field `{"8:0": 1000}`. Disks are named by number, by
    /// `/dev` path, or all whole disks together by `*`.
    PerDisk(&'static [Field]),
    /// The same by name: a resource, a network interface, an RDMA device.
    PerName(&'static [Field]),
    /// Device access: `["c 1:3 rwm", "b 8:* r"]`, or `["a"]` for all.
    Rules,
}

/// One number of a [`Kind::PerDisk`] or [`Kind::PerName`] value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Empty for the only number of its line.
    pub name: &'static str,
    pub min: u64,
    pub max: u64,
    /// Written with K, M, G, T if wished.
    pub bytes: bool,
    /// May be `max`.
    pub or_max: bool,
}

/// What a hierarchy version does with the knob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Its own file of the same name.
    Native,
    /// Converted into these files.
    Files(&'static [&'static str]),
    /// Converted into the first of these that the kernel has.
    FirstOf(&'static [&'static str]),
    /// Not expressible; why, and what to use.
    Absent(&'static str),
}

/// How to undo a knob that the document no longer names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unset {
    /// Write this.
    Const(&'static str),
    /// Write what the parent has (on v2 nothing, which means the same there).
    Parent,
    /// Reset each line that we had set.
    PerKey,
}

/// One row.
#[derive(Debug, Clone, Copy)]
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
    /// First kernels that have the file, by version of cgroups; what it depends on.
    pub since: &'static str,
    /// Where the kernel documents or handles it.
    pub source: &'static str,
    /// One line for reference pages and the JSON Schema.
    pub about: &'static str,
}

impl Knob {
    /// What resets a line of the knob's own file.
    pub fn reset(&self) -> &'static str {
        match self.name {
            "blkio.bfq.weight_device" | "blkio.weight_device" => "default",
            "io.max" | "io.latency" | "rdma.max" | "misc.max" => "max",
            _ if matches!(self.kind, Kind::Weight { .. }) => "default",
            _ => "0",
        }
    }

    /// The files that it may come to, on either version.
    pub fn targets(&self) -> Vec<&'static str> {
        let name = self.name;
        let of = |side| match side {
            Side::Native => vec![name],
            Side::Files(files) | Side::FirstOf(files) => files.to_vec(),
            Side::Absent(_) => Vec::new(),
        };
        let mut out = [of(self.v1), of(self.v2)].concat();
        // v1's weights by disk have a file of their own.
        if matches!(self.kind, Kind::Weight { .. }) {
            out.extend(["blkio.weight_device", "blkio.bfq.weight_device"]);
        }
        out
    }
}

const NO_V2: &str = "cgroup v2 has no such knob";
const ONLY_V2: &str = "only cgroup v2 has this knob";
const V2_RST: &str = "cgroup-v2.rst";

/// Every knob that documents may name.
pub fn knobs() -> impl Iterator<Item = &'static Knob> + Clone {
    let slices = [cpu::KNOBS, cpuset::KNOBS, memory::KNOBS, io::KNOBS, others::KNOBS, hugetlb::KNOBS];
    slices.into_iter().flatten()
}

/// The row of a knob's name.
pub fn find(name: &str) -> Option<&'static Knob> {
    static BY_NAME: LazyLock<HashMap<&'static str, &'static Knob>> =
        LazyLock::new(|| knobs().map(|k| (k.name, k)).collect());
    BY_NAME.get(name).copied()
}

/// A file in a v1 hierarchy's root whose presence shows that groups have `file`, for files that the
/// root itself lacks (the kernel's CFTYPE_NOT_ON_ROOT). Empty: every kernel with the controller has it.
pub fn witness(file: &str) -> Option<&'static str> {
    match file {
        "blkio.bfq.weight" | "blkio.bfq.weight_device" => Some("blkio.bfq.io_service_bytes"),
        "blkio.weight" | "blkio.weight_device" => Some("blkio.time"),
        "freezer.state" | "pids.max" => Some(""),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_file_has_a_row_of_its_own() {
        for knob in knobs() {
            for side in [knob.v1, knob.v2] {
                if let Side::Files(files) | Side::FirstOf(files) = side {
                    for file in files {
                        assert!(find(file).is_some(), "{} -> {file}", knob.name);
                    }
                }
            }
            let prefix = knob.name.split('.').next().unwrap();
            assert!(prefix == "cgroup" || Controller::parse(prefix) == Some(knob.controller), "{}", knob.name);
            assert_eq!(knobs().filter(|k| k.name == knob.name).count(), 1, "{}", knob.name);
            assert!(!knob.since.is_empty() && !knob.source.is_empty(), "{}", knob.name);
        }
    }
}
