//! cpu: weights and bandwidth (kernel/sched/core.c).

use cgrove_core::actual::Version;
use cgrove_core::ids::GroupPath;

use super::{Model, signed, unsigned};
use crate::Errno;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cpu {
    /// In v1's unit on both versions.
    shares: u64,
    idle: bool,
    /// Microseconds.
    quota: Option<u64>,
    period: u64,
    burst: u64,
}

impl Default for Cpu {
    fn default() -> Self {
        Self { shares: 1024, idle: false, quota: None, period: 100_000, burst: 0 }
    }
}

/// What an idle group's shares are.
const IDLE: u64 = 3;

/// From nice -20 to 19 (sched_prio_to_weight).
const NICE: [u64; 40] = [
    88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916, 9548, 7620, 6100, 4904, 3906, 3121, 2501,
    1991, 1586, 1277, 1024, 820, 655, 526, 423, 335, 272, 215, 172, 137, 110, 87, 70, 56, 45, 36, 29, 23, 18, 15,
];

pub(super) fn files(version: Version) -> &'static [&'static str] {
    match version {
        Version::V1 => &["cpu.shares", "cpu.idle", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.cfs_burst_us"],
        Version::V2 => &["cpu.weight", "cpu.weight.nice", "cpu.idle", "cpu.max", "cpu.max.burst"],
    }
}

impl Model {
    pub(super) fn read_cpu(&self, group: &GroupPath, file: &str) -> String {
        let cpu = &self.nodes[group].cpu;
        match file {
            "cpu.shares" => cpu.shares.to_string(),
            "cpu.weight" if cpu.idle => self.ground.idle_weight.to_string(),
            "cpu.weight" => ((cpu.shares * 100 + 512) / 1024).to_string(),
            "cpu.weight.nice" => nearest_nice(cpu.shares).to_string(),
            "cpu.idle" => u8::from(cpu.idle).to_string(),
            "cpu.cfs_quota_us" => cpu.quota.map_or("-1".into(), |q| q.to_string()),
            "cpu.cfs_period_us" => cpu.period.to_string(),
            "cpu.max" => format!("{} {}", cpu.quota.map_or("max".into(), |q| q.to_string()), cpu.period),
            _ => cpu.burst.to_string(),
        }
    }

    pub(super) fn write_cpu(&mut self, group: &GroupPath, file: &str, value: &str) -> Result<(), Errno> {
        let old = self.nodes[group].cpu.clone();
        let shares = |shares: u64| Cpu { shares: shares.clamp(2, 1 << 18), ..old.clone() };
        let new = match file {
            "cpu.idle" => match (signed(value)?, old.idle) {
                (1, false) => Cpu { idle: true, shares: IDLE, ..old },
                (0, true) => Cpu { idle: false, shares: 1024, ..old },
                (0 | 1, _) => old,
                _ => return Err(Errno::EINVAL),
            },
            "cpu.shares" => match unsigned(value)? {
                _ if old.idle => return Err(Errno::EINVAL),
                n => shares(n),
            },
            "cpu.weight" => match unsigned(value)? {
                n @ 1..=10_000 if !old.idle => shares((n * 1024 + 50) / 100),
                1..=10_000 => return Err(Errno::EINVAL),
                _ => return Err(Errno::ERANGE),
            },
            "cpu.weight.nice" => match usize::try_from(signed(value)? + 20).ok().and_then(|i| NICE.get(i)) {
                Some(_) if old.idle => return Err(Errno::EINVAL),
                Some(weight) => shares(*weight),
                None => return Err(Errno::ERANGE),
            },
            _ => return self.write_bandwidth(group, file, value),
        };
        self.change(group).cpu = new;
        Ok(())
    }

    /// tg_set_cfs_bandwidth: quota and period at least a millisecond, a period at most a second, a burst within the quota.
    fn write_bandwidth(&mut self, group: &GroupPath, file: &str, value: &str) -> Result<(), Errno> {
        let old = self.nodes[group].cpu.clone();
        let new = match file {
            "cpu.cfs_quota_us" => match signed(value)? {
                n if n < 0 => Cpu { quota: None, ..old },
                n => Cpu { quota: Some(n.unsigned_abs()), ..old },
            },
            "cpu.cfs_period_us" => Cpu { period: unsigned(value)?, ..old },
            "cpu.cfs_burst_us" | "cpu.max.burst" => Cpu { burst: unsigned(value)?, ..old },
            // `$MAX $PERIOD`, read by sscanf: a second word that is no number counts as none.
            _ => {
                let mut words = value.split_whitespace();
                let quota = match words.next().ok_or(Errno::EINVAL)? {
                    "max" => None,
                    text => Some(unsigned(text).map_err(|_| Errno::EINVAL)?),
                };
                let period = words.next().and_then(|text| unsigned(text).ok()).unwrap_or(old.period);
                Cpu { quota, period, ..old }
            }
        };
        let Cpu { quota, period, burst, .. } = new;
        let most = u64::MAX / 1000;
        let bad = quota.is_some_and(|q| q < 1000 || q > most >> 20 || burst > q || burst + q > most >> 20)
            || !(1000..=1_000_000).contains(&period);
        if bad {
            return Err(Errno::EINVAL);
        }
        let old = std::mem::replace(&mut self.change(group).cpu, new);
        if self.v1() && !self.ratios_fit(group) {
            self.change(group).cpu = old;
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// v1: no group may have more CPU time than the nearest limit above (tg_cfs_schedulable_down).
    fn ratios_fit(&self, changed: &GroupPath) -> bool {
        // As the kernel counts: in units of 2^-20.
        let ratio = |p: &GroupPath| {
            let cpu = &self.nodes.get(p)?.cpu;
            cpu.quota.map(|q| (u128::from(q) << 20) / u128::from(cpu.period))
        };
        self.nodes.keys().filter(|p| *p == changed || p.is_below(changed)).all(|p| {
            let above = std::iter::successors(p.up(), GroupPath::up).find_map(|a| ratio(&a));
            ratio(p).zip(above).is_none_or(|(own, above)| own <= above)
        })
    }
}

/// cpu_weight_nice_read_s64: the nearest in the table, of two equally near the one that is nicer to others' less.
fn nearest_nice(shares: u64) -> i64 {
    let mut last = u64::MAX;
    for (i, weight) in NICE.iter().enumerate() {
        let delta = weight.abs_diff(shares);
        if delta >= last {
            return i as i64 - 21;
        }
        last = delta;
    }
    19
}
