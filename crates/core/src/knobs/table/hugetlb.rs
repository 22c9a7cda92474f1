//! hugetlb: one set of rows for each page size that Linux knows.

use super::{Kind, Knob, Side, Unset, V2_RST};
use crate::ids::Controller::Hugetlb;

const RST: &str = "cgroup-v1/hugetlb.rst";
const MAX: Unset = Unset::Const("max");

macro_rules! rows {
    ($($size:literal)*) => { &[$(
        Knob { name: concat!("hugetlb.", $size, ".max"), controller: Hugetlb, kind: Kind::Bytes, default: "max", unset: MAX, v1: Side::Files(&[concat!("hugetlb.", $size, ".limit_in_bytes")]), v2: Side::Native, since: "v2 5.6", source: V2_RST, about: concat!("most memory in huge pages of ", $size, ", bytes") },
        Knob { name: concat!("hugetlb.", $size, ".rsvd.max"), controller: Hugetlb, kind: Kind::Bytes, default: "max", unset: MAX, v1: Side::Files(&[concat!("hugetlb.", $size, ".rsvd.limit_in_bytes")]), v2: Side::Native, since: "v2 5.7", source: V2_RST, about: concat!("most reserved memory in huge pages of ", $size, ", bytes") },
        Knob { name: concat!("hugetlb.", $size, ".limit_in_bytes"), controller: Hugetlb, kind: Kind::Bytes, default: "max", unset: MAX, v1: Side::Native, v2: Side::Files(&[concat!("hugetlb.", $size, ".max")]), since: "v1 3.6", source: RST, about: concat!("v1 name of hugetlb.", $size, ".max") },
        Knob { name: concat!("hugetlb.", $size, ".rsvd.limit_in_bytes"), controller: Hugetlb, kind: Kind::Bytes, default: "max", unset: MAX, v1: Side::Native, v2: Side::Files(&[concat!("hugetlb.", $size, ".rsvd.max")]), since: "v1 5.7", source: RST, about: concat!("v1 name of hugetlb.", $size, ".rsvd.max") },
    )*] };
}

/// The sizes of arm64, loongarch, powerpc, riscv, s390 and x86.
#[rustfmt::skip]
pub(super) const KNOBS: &[Knob] = rows!("2MB" "1GB" "64KB" "512KB" "1MB" "4MB" "8MB" "16MB" "32MB" "64MB" "256MB" "512MB" "2GB" "16GB");

/// Bytes of one page of a `hugetlb.<size>.*` file: limits are whole pages.
pub(crate) fn page(file: &str) -> Option<u64> {
    let size = file.strip_prefix("hugetlb.")?.split('.').next()?;
    let units = [("KB", 10), ("MB", 20), ("GB", 30)];
    units.iter().find_map(|(unit, shift)| Some(size.strip_suffix(unit)?.parse::<u64>().ok()? << shift))
}
