//! cpuset: which CPUs and memory nodes (kernel/cgroup/cpuset.c, cpuset-v1.c).

use cgrove_core::actual::Version;
use cgrove_core::ids::GroupPath;

use super::{Ground, Model, signed, unsigned};
use crate::Errno;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cpuset {
    cpus: u64,
    mems: u64,
    /// v1's flags, in the order of FLAGS.
    flags: [bool; 7],
    relax: i64,
}

const V1: [&str; 12] = [
    "cpuset.cpus",
    "cpuset.mems",
    "cpuset.effective_cpus",
    "cpuset.effective_mems",
    "cpuset.sched_relax_domain_level",
    "cpuset.cpu_exclusive",
    "cpuset.mem_exclusive",
    "cpuset.mem_hardwall",
    "cpuset.memory_migrate",
    "cpuset.memory_spread_page",
    "cpuset.memory_spread_slab",
    "cpuset.sched_load_balance",
];
const FLAGS: &[&str] = V1.split_at(5).1;

pub(super) fn files(version: Version) -> &'static [&'static str] {
    match version {
        Version::V1 => &V1,
        Version::V2 => &["cpuset.cpus", "cpuset.mems", "cpuset.cpus.effective", "cpuset.mems.effective"],
    }
}

impl Default for Cpuset {
    fn default() -> Self {
        Self { cpus: 0, mems: 0, flags: [false, false, false, false, false, false, true], relax: -1 }
    }
}

impl Cpuset {
    pub(super) fn whole(ground: &Ground) -> Self {
        Self { cpus: ground.cpus, mems: ground.mems, ..Self::default() }
    }

    /// What a new group has from the one above: where pages are spread.
    pub(super) fn heir(&self) -> Self {
        let mut new = Self::default();
        (new.flags[4], new.flags[5]) = (self.flags[4], self.flags[5]);
        new
    }

    /// Within the other's, exclusive only where that is.
    fn fits(&self, above: &Self) -> bool {
        self.cpus & !above.cpus == 0
            && self.mems & !above.mems == 0
            && self.flags[0] <= above.flags[0]
            && self.flags[1] <= above.flags[1]
    }

    fn collides(&self, beside: &Self) -> bool {
        ((self.flags[0] || beside.flags[0]) && self.cpus & beside.cpus != 0)
            || ((self.flags[1] || beside.flags[1]) && self.mems & beside.mems != 0)
    }
}

impl Model {
    fn cpuset(&self, group: &GroupPath) -> &Cpuset {
        &self.nodes[group].cpuset
    }

    /// v1: what it says; v2: what of it the group above has, and all of that where nothing is left.
    fn effective(&self, group: &GroupPath, of: impl Fn(&Cpuset) -> u64 + Copy, all: u64) -> u64 {
        let own = of(self.cpuset(group));
        if self.v1() {
            return own;
        }
        let handed = |g: &GroupPath| g.up().is_none_or(|up| self.nodes[&up].handed.contains("cpuset"));
        let above = group.up().map_or(all, |up| if handed(&up) { self.effective(&up, of, all) } else { all });
        if own & above == 0 { above } else { own & above }
    }

    pub(super) fn read_cpuset(&self, group: &GroupPath, file: &str) -> String {
        let cpuset = self.cpuset(group);
        match file {
            "cpuset.cpus" => list(cpuset.cpus),
            "cpuset.mems" => list(cpuset.mems),
            "cpuset.effective_cpus" | "cpuset.cpus.effective" => {
                list(self.effective(group, |c| c.cpus, self.ground.cpus))
            }
            "cpuset.effective_mems" | "cpuset.mems.effective" => {
                list(self.effective(group, |c| c.mems, self.ground.mems))
            }
            "cpuset.sched_relax_domain_level" => cpuset.relax.to_string(),
            flag => u8::from(FLAGS.iter().position(|f| *f == flag).is_some_and(|i| cpuset.flags[i])).to_string(),
        }
    }

    pub(super) fn write_cpuset(&mut self, group: &GroupPath, file: &str, value: &str) -> Result<(), Errno> {
        let mut new = self.cpuset(group).clone();
        match file {
            "cpuset.cpus" => new.cpus = parse(value, self.ground.cpus, self.ground.cpu_ids)?,
            "cpuset.mems" => new.mems = parse(value, self.ground.mems, NODE_IDS)?,
            "cpuset.sched_relax_domain_level" => match signed(value)? {
                // How far it goes depends on the machine; nobody asks for more than this here.
                n @ -1..=0 => new.relax = n,
                _ => return Err(Errno::EINVAL),
            },
            flag => match FLAGS.iter().position(|f| *f == flag) {
                Some(i) => new.flags[i] = unsigned(value)? != 0,
                None => return Err(Errno::EINVAL),
            },
        }
        self.check(group, &new)?;
        self.change(group).cpuset = new;
        Ok(())
    }

    /// validate_change: in this order.
    fn check(&self, group: &GroupPath, new: &Cpuset) -> Result<(), Errno> {
        let old = self.cpuset(group);
        let up = group.up();
        if self.v1() {
            if self.children(group).iter().any(|c| !self.cpuset(c).fits(new)) {
                return Err(Errno::EBUSY);
            }
            let above = up.as_ref().map_or_else(|| Cpuset::whole(&self.ground), |up| self.cpuset(up).clone());
            if !new.fits(&above) {
                return Err(Errno::EACCES);
            }
        }
        let emptied = |old: u64, new: u64| old != 0 && new == 0;
        if self.populated(group) && (emptied(old.cpus, new.cpus) || emptied(old.mems, new.mems)) {
            return Err(Errno::ENOSPC);
        }
        let beside = up.iter().flat_map(|up| self.children(up)).filter(|p| p != group);
        if self.v1() && beside.map(|p| self.cpuset(&p).clone()).any(|other| new.collides(&other)) {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// v1: a cpuset without CPUs or nodes takes nobody.
    pub(super) fn cpuset_takes(&self, group: &GroupPath) -> Result<(), Errno> {
        let cpuset = self.cpuset(group);
        let empty = cpuset.cpus == 0 || cpuset.mems == 0;
        if self.ground.controllers.contains(&"cpuset") && empty { Err(Errno::ENOSPC) } else { Ok(()) }
    }
}

/// At least as many as any machine has nodes (MAX_NUMNODES).
const NODE_IDS: u32 = 1024;

/// A list of numbers and ranges; what the kernel has no place for, and what the machine lacks, is refused.
fn parse(text: &str, all: u64, ids: u32) -> Result<u64, Errno> {
    let mut set = 0;
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |t: &str| t.parse::<u32>().map_err(|_| Errno::EINVAL);
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(Errno::EINVAL);
        }
        if last >= ids {
            return Err(Errno::ERANGE);
        }
        if last >= u64::BITS {
            return Err(Errno::EINVAL);
        }
        (first..=last).for_each(|n| set |= 1 << n);
    }
    if set & !all != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(set)
}

/// As the kernel prints sets: `0-2,5`.
fn list(set: u64) -> String {
    let mut out: Vec<String> = Vec::new();
    let mut n = 0;
    while n < u64::BITS {
        let run = (set >> n).trailing_ones();
        match run {
            0 => n += 1,
            1 => out.push(n.to_string()),
            _ => out.push(format!("{n}-{}", n + run - 1)),
        }
        n += run;
    }
    out.join(",")
}
