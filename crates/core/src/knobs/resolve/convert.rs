//! One knob's value as the content of one file.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::{CpuConversion, Settings, Site};
use crate::actual::{Machine, Version};
use crate::knobs::convert::{
    blkio_to_io_weight, io_to_blkio_weight, nice_to_shares, shares_to_weight, shares_to_weight_runc, weight_to_shares,
    weight_to_shares_runc,
};
use crate::knobs::lists::{DevId, DeviceRule};
use crate::knobs::table::{Kind, Knob, find, huge_page};
use crate::knobs::value::{DEFAULT, Value};
use crate::knobs::want::{Lines, Want};

pub(super) struct Conversion<'a> {
    pub(super) site: &'a Site<'a>,
    pub(super) knob: &'a Knob,
    pub(super) value: &'a Value,
    pub(super) settings: &'a Settings,
    pub(super) file: &'static str,
    /// Disks that do not exist here.
    pub(super) missing: &'a RefCell<Vec<String>>,
}

/// v1 has a file of its own for weights by disk.
pub(super) fn split_weight(files: &mut Vec<&'static str>, value: &Value) {
    let (Value::Keyed(keys), [file @ ("blkio.weight" | "blkio.bfq.weight")]) = (value, &files[..]) else { return };
    let device = if *file == "blkio.weight" { "blkio.weight_device" } else { "blkio.bfq.weight_device" };
    if keys.keys().any(|k| k != DEFAULT) {
        files.push(device);
    }
    if !keys.contains_key(DEFAULT) {
        files.remove(0);
    }
}

impl Conversion<'_> {
    /// `None` where the value says nothing about the file.
    pub(super) fn want(&self) -> Result<Option<Want>, String> {
        let int = |n: i64| Ok(Some(Want::Text(n.to_string())));
        let runc = self.site.conversion == CpuConversion::Runc;
        match (self.knob.name, self.file, self.value) {
            ("cpu.weight", "cpu.shares", Value::Int(w)) if runc => int(weight_to_shares_runc(*w)),
            ("cpu.weight", "cpu.shares", Value::Int(w)) => int(weight_to_shares(*w)),
            ("cpu.weight.nice", "cpu.shares", Value::Int(nice)) => int(nice_to_shares(*nice)),
            ("cpu.shares", "cpu.weight", Value::Int(s)) if runc => int(shares_to_weight_runc(*s)),
            ("cpu.shares", "cpu.weight", Value::Int(s)) => int(shares_to_weight(*s)),
            (_, "cpu.max", _) => self.bandwidth().map(Some),
            ("cpu.max", file, value) => self.half_of_bandwidth(file, value).map(Some),
            ("memory.swap.max", "memory.memsw.limit_in_bytes", value) => self.swap_to_memsw(value).map(Some),
            ("memory.memsw.limit_in_bytes", "memory.swap.max", value) => self.memsw_to_swap(value).map(Some),
            (_, "devices.list", _) => self.devices().map(Some),
            (_, _, Value::Keyed(keys)) => self.lines(keys),
            (_, _, Value::Flag(frozen)) if self.file == "freezer.state" => Ok(Some(Want::State(*frozen))),
            _ => Ok(Some(self.plain())),
        }
    }

    /// The value as it is, in the file's own way of writing it.
    fn plain(&self) -> Want {
        let unlimited = if self.site.version == Version::V1 { "-1" } else { "max" };
        let kind = find(self.file).map_or(self.knob.kind, |k| k.kind);
        match (kind, self.value) {
            (Kind::Quota, Value::Int(q)) => Want::Limit { value: Some(*q).filter(|q| *q >= 0), unlimited: "-1" },
            (_, Value::Int(q)) if self.file == "cpu.rt_runtime_us" => {
                Want::Limit { value: Some(*q).filter(|q| *q >= 0), unlimited: "-1" }
            }
            (Kind::IntOrMax { .. }, Value::Int(n)) => Want::Limit { value: Some(*n), unlimited: "max" },
            (Kind::IntOrMax { .. }, _) => Want::Limit { value: None, unlimited: "max" },
            (Kind::Clamp, Value::Percent(p)) if *p < 10_000 => Want::Text(format!("{}.{:02}", p / 100, p % 100)),
            (Kind::Clamp, _) => Want::Text("max".into()),
            (_, Value::Flag(flag)) if self.file == "memory.oom_control" => Want::FirstLine(u8::from(*flag).to_string()),
            (_, Value::Flag(flag)) => Want::Text(u8::from(*flag).to_string()),
            (_, Value::Word(word)) => Want::Text((*word).into()),
            (_, Value::Ids(ids)) => Want::Ids(ids.clone()),
            (_, Value::Int(n)) => Want::Text(n.to_string()),
            (_, value) => {
                let bytes = byte_count(value, self.site.machine);
                Want::Bytes { bytes, unlimited, page: huge_page(self.file) }
            }
        }
    }

    /// `cpu.max` from itself, or from v1's two halves.
    fn bandwidth(&self) -> Result<Want, String> {
        let (quota, period) = match self.value {
            Value::Bandwidth { quota, period } => (*quota, *period),
            Value::Percent(p) => (Some(share_of_cpus(self.site.machine, *p)), 100_000),
            _ => {
                let half = |name: &str| match self.settings.get(name) {
                    Some(Value::Int(n)) => u64::try_from(*n).ok(),
                    _ => None,
                };
                (half("cpu.cfs_quota_us"), half("cpu.cfs_period_us").unwrap_or(100_000))
            }
        };
        Ok(Want::Bandwidth { quota, period })
    }

    fn half_of_bandwidth(&self, file: &str, value: &Value) -> Result<Want, String> {
        let (quota, period) = match value {
            Value::Bandwidth { quota, period } => (*quota, *period),
            Value::Percent(p) => (Some(share_of_cpus(self.site.machine, *p)), 100_000),
            _ => return Err("not a bandwidth".into()),
        };
        Ok(match file {
            "cpu.cfs_quota_us" => Want::Limit { value: quota.and_then(|q| i64::try_from(q).ok()), unlimited: "-1" },
            _ => Want::Text(period.to_string()),
        })
    }

    fn memory(&self) -> Option<Option<u64>> {
        let memory = self.settings.get("memory.max").or_else(|| self.settings.get("memory.limit_in_bytes"));
        memory.map(|m| byte_count(m, self.site.machine))
    }

    fn swap_to_memsw(&self, value: &Value) -> Result<Want, String> {
        let bytes = match (self.memory(), byte_count(value, self.site.machine)) {
            (_, None) => None,
            (Some(None), Some(_)) => {
                return Err("v1 cannot limit swap alone: memory.max is unlimited on this group".into());
            }
            (Some(Some(memory)), Some(swap)) => memory.checked_add(swap),
            (None, Some(_)) => {
                return Err("v1 limits memory and swap together: set memory.max on the same group".into());
            }
        };
        Ok(Want::Bytes { bytes, unlimited: "-1", page: None })
    }

    fn memsw_to_swap(&self, value: &Value) -> Result<Want, String> {
        let bytes = match (self.memory(), byte_count(value, self.site.machine)) {
            (_, None) => None,
            (Some(Some(memory)), Some(both)) => Some(both.saturating_sub(memory)),
            _ => {
                return Err(
                    "v2 limits swap apart: set the memory limit on the same group, what exceeds it is swap".into()
                );
            }
        };
        Ok(Want::Bytes { bytes, unlimited: "max", page: None })
    }

    fn devices(&self) -> Result<Want, String> {
        let rules = |name: &str| match self.settings.get(name) {
            Some(Value::Rules(rules)) => Some(rules.clone()),
            _ => None,
        };
        match (rules("devices.allow"), rules("devices.deny")) {
            (Some(rules), None) => Ok(Want::Devices { allow: true, rules }),
            (Some(rules), Some(deny)) if deny == [DeviceRule::All] => Ok(Want::Devices { allow: true, rules }),
            (None, Some(rules)) if rules == [DeviceRule::All] => Ok(Want::Devices { allow: true, rules: Vec::new() }),
            (None, Some(rules)) => Ok(Want::Devices { allow: false, rules }),
            _ => Err("devices.allow names all that is allowed: leave devices.deny out, or write it as [\"a\"]".into()),
        }
    }

    /// Lines by disk or name; several fields of one file, or one field of several files.
    fn lines(&self, keys: &BTreeMap<String, BTreeMap<&'static str, Option<u64>>>) -> Result<Option<Want>, String> {
        let reset = find(self.file).unwrap_or(self.knob).reset();
        let by_disk = !matches!(self.knob.kind, Kind::PerName(_));
        let one_field = self.field();
        let mut out = Lines::new(reset);
        // All disks first, so that one that is named beats them.
        for pass in [true, false] {
            for (key, fields) in keys.iter().filter(|(k, _)| (*k == "*") == pass) {
                if key == DEFAULT {
                    if let Some(want) = self.default_weight(fields, &mut out) {
                        return Ok(Some(want));
                    }
                    continue;
                }
                if self.file.ends_with("weight") && self.site.version == Version::V1 {
                    continue;
                }
                for name in if by_disk { self.disks(key) } else { vec![key.clone()] } {
                    for (field, number) in fields {
                        let (from, to) = one_field;
                        if from.is_some_and(|from| from != *field) {
                            continue;
                        }
                        let number = number.map(|n| self.scaled(n).to_string());
                        let text = number.or_else(|| (reset == "max").then(|| "max".to_owned()));
                        out.lines.entry(name.clone()).or_default().insert(to.unwrap_or(field).into(), text);
                    }
                }
            }
        }
        Ok((!out.lines.is_empty()).then_some(Want::Lines(out)))
    }

    /// Which field of the value the file holds, and what the file calls it.
    fn field(&self) -> (Option<&'static str>, Option<&'static str>) {
        const PAIRS: [(&str, &str); 4] = [
            ("blkio.throttle.read_bps_device", "rbps"),
            ("blkio.throttle.write_bps_device", "wbps"),
            ("blkio.throttle.read_iops_device", "riops"),
            ("blkio.throttle.write_iops_device", "wiops"),
        ];
        let field = |name: &str| PAIRS.iter().find(|(file, _)| *file == name).map(|(_, field)| *field);
        match (self.knob.name == self.file, field(self.file), field(self.knob.name)) {
            (false, Some(from), _) => (Some(from), Some("")),
            (false, _, Some(to)) => (None, Some(to)),
            _ => (None, None),
        }
    }

    /// The weight for all disks: on v1 the whole file, on v2 its line `default`.
    fn default_weight(&self, fields: &BTreeMap<&'static str, Option<u64>>, out: &mut Lines) -> Option<Want> {
        let weight = self.scaled(fields.get("").copied().flatten()?).to_string();
        if self.site.version == Version::V1 {
            return self.file.ends_with("weight").then_some(Want::Text(weight));
        }
        out.lines.entry(DEFAULT.into()).or_default().insert(String::new(), Some(weight));
        None
    }

    /// Weights have three scales: bfq's and io.weight's share their default, blkio.weight's is five times as large.
    fn scaled(&self, n: u64) -> u64 {
        let signed = i64::try_from(n).unwrap_or(i64::MAX);
        let weight = match (self.knob.name, self.file) {
            ("io.weight", "blkio.bfq.weight" | "blkio.bfq.weight_device") => signed.min(1000),
            ("io.weight", "blkio.weight" | "blkio.weight_device") => io_to_blkio_weight(signed),
            ("blkio.weight" | "blkio.weight_device", "io.weight") => blkio_to_io_weight(signed),
            _ => return n,
        };
        u64::try_from(weight).unwrap_or(1)
    }

    fn disks(&self, key: &str) -> Vec<String> {
        let machine = self.site.machine;
        let ids: Vec<DevId> = match key {
            "*" => machine.disks.clone(),
            path if path.starts_with('/') => match machine.devices.get(path) {
                Some(id) => vec![*id],
                None => {
                    self.missing.borrow_mut().push(format!("{path} is no block device on this node"));
                    Vec::new()
                }
            },
            number => number.parse().into_iter().collect(),
        };
        ids.iter().map(ToString::to_string).collect()
    }
}

/// Microseconds of CPU in a period of 100 ms.
fn share_of_cpus(machine: &Machine, hundredths: u32) -> u64 {
    (machine.cpus * 100_000 * u64::from(hundredths) / 10_000).max(1000)
}

fn byte_count(value: &Value, machine: &Machine) -> Option<u64> {
    match value {
        Value::Bytes(bytes) => Some(*bytes),
        Value::Percent(p) => Some((u128::from(machine.memory) * u128::from(*p) / 10_000) as u64),
        _ => None,
    }
}
