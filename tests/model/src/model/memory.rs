//! memory: limits in pages, and what is inherited (mm/memcontrol.c, memcontrol-v1.c).

use cgrove_core::actual::Version;
use cgrove_core::ids::GroupPath;

use super::{Model, signed, unsigned};
use crate::Errno;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Memory {
    /// By file, in pages.
    limits: [u64; 6],
    swappiness: u64,
    oom_disabled: bool,
    oom_group: bool,
}

/// PAGE_COUNTER_MAX, with pages of 4 KiB: what "no limit" is.
const MOST: u64 = i64::MAX as u64 / 4096;

/// The limits that each version has, in the order of `limits`.
const V1: [&str; 4] = [
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.soft_limit_in_bytes",
    "memory.kmem.tcp.limit_in_bytes",
];
const V2: [&str; 6] = ["memory.max", "memory.high", "memory.swap.max", "memory.swap.high", "memory.low", "memory.min"];

pub(super) fn files(version: Version) -> &'static [&'static str] {
    match version {
        Version::V1 => &[
            "memory.limit_in_bytes",
            "memory.memsw.limit_in_bytes",
            "memory.soft_limit_in_bytes",
            "memory.kmem.tcp.limit_in_bytes",
            "memory.swappiness",
            "memory.oom_control",
        ],
        Version::V2 => &[
            "memory.max",
            "memory.high",
            "memory.swap.max",
            "memory.swap.high",
            "memory.low",
            "memory.min",
            "memory.oom.group",
        ],
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self { limits: [MOST; 6], swappiness: 60, oom_disabled: false, oom_group: false }
    }
}

impl Memory {
    pub(super) fn heir(&self) -> Self {
        Self { swappiness: self.swappiness, oom_disabled: self.oom_disabled, ..Self::default() }
    }
}

impl Model {
    fn limit(&self, file: &str) -> Option<usize> {
        if self.v1() { V1.iter().position(|f| *f == file) } else { V2.iter().position(|f| *f == file) }
    }

    /// Protections begin at nothing, limits at all.
    fn starts_at_zero(file: &str) -> bool {
        matches!(file, "memory.low" | "memory.min")
    }

    pub(super) fn read_memory(&self, group: &GroupPath, file: &str) -> String {
        let memory = &self.nodes[group].memory;
        let Some(i) = self.limit(file) else {
            return match file {
                "memory.swappiness" => memory.swappiness.to_string(),
                "memory.oom_control" => u8::from(memory.oom_disabled).to_string(),
                _ => u8::from(memory.oom_group).to_string(),
            };
        };
        // A protection is kept as what it is above nothing.
        let pages = if Self::starts_at_zero(file) { MOST - memory.limits[i] } else { memory.limits[i] };
        if pages == MOST && !self.v1() { "max".into() } else { (pages * self.ground.page).to_string() }
    }

    pub(super) fn write_memory(&mut self, group: &GroupPath, file: &str, value: &str) -> Result<(), Errno> {
        let mut new = self.nodes[group].memory.clone();
        match (file, self.limit(file)) {
            (_, Some(i)) => {
                let pages = match value {
                    "max" if !self.v1() => MOST,
                    "-1" if self.v1() => MOST,
                    text => (bytes(text)? / self.ground.page).min(MOST),
                };
                new.limits[i] = if Self::starts_at_zero(file) { MOST - pages } else { pages };
                // Memory with swap is never less than memory.
                if self.v1() && i < 2 && new.limits[0] > new.limits[1] {
                    return Err(Errno::EINVAL);
                }
            }
            ("memory.swappiness", _) => match unsigned(value)? {
                n @ 0..=200 => new.swappiness = n,
                _ => return Err(Errno::EINVAL),
            },
            ("memory.oom_control", _) => match unsigned(value)? {
                n @ 0..=1 => new.oom_disabled = n == 1,
                _ => return Err(Errno::EINVAL),
            },
            _ => match signed(value)? {
                n @ 0..=1 => new.oom_group = n == 1,
                _ => return Err(Errno::EINVAL),
            },
        }
        self.change(group).memory = new;
        Ok(())
    }
}

/// memparse: a number with K, M, G or T.
fn bytes(text: &str) -> Result<u64, Errno> {
    let digits = text.trim_end_matches(['K', 'M', 'G', 'T']);
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(Errno::EINVAL),
    };
    unsigned(digits).map(|n| n << shift).map_err(|_| Errno::EINVAL)
}
