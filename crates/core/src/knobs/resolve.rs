//! From a group's settings to the files that express them on this kernel, with every conversion named.

use std::collections::BTreeMap;

use super::convert::{io_to_blkio_weight, weight_to_shares, weight_to_shares_runc};
use super::table::{Kind, Knob, Side, Unset, find};
use super::value::Value;
use super::want::Want;
use crate::actual::Machine;

/// How weights and shares are converted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CpuConversion {
    /// Keeps ratios; default meets default.
    #[default]
    Linear,
    /// The curve of runc, crun and youki.
    Runc,
}

/// One file and what it should say.
#[derive(Debug, Clone, PartialEq)]
pub struct FileWant {
    /// The knob as the document names it.
    pub knob: &'static str,
    /// The kernel file.
    pub file: String,
    pub want: Want,
    /// Said when the file is not the knob's own: `cpu.weight 800 as cpu.shares 8192`.
    pub conversion: Option<String>,
}

/// What a group's settings come to.
#[derive(Debug, Default, PartialEq)]
pub struct Resolved {
    pub files: Vec<FileWant>,
    /// Knobs that this kernel cannot express, with the reason.
    pub unsupported: Vec<(&'static str, String)>,
    /// Files that another knob makes meaningless now (the weight under `cpu.idle`); neither written nor unset.
    pub suppressed: Vec<&'static str>,
}

/// Resolves for v1. `has` tells whether groups of the hierarchy have a file.
pub fn resolve_v1(
    settings: &BTreeMap<&'static str, Value>,
    machine: &Machine,
    conversion: CpuConversion,
    has: &dyn Fn(&str) -> bool,
) -> Resolved {
    let mut out = Resolved::default();
    let idle = settings.get("cpu.idle") == Some(&Value::Flag(true)) && has("cpu.idle");
    for (name, value) in settings {
        let Some(knob) = find(name) else { continue };
        if idle && matches!(*name, "cpu.weight" | "cpu.shares") {
            out.suppressed.push("cpu.shares");
            continue;
        }
        match files_for(knob, has)
            .and_then(|files| Ok((wants(knob, value, settings, machine, conversion, &files)?, files)))
        {
            Err(why) => out.unsupported.push((knob.name, why)),
            Ok((wants, files)) => {
                for (file, want) in files.iter().zip(wants) {
                    let Some(want) = want else { continue };
                    let conversion = (*file != knob.name).then(|| format!("as {file} {}", want.shown()));
                    out.files.push(FileWant { knob: knob.name, file: (*file).into(), want, conversion });
                }
            }
        }
    }
    out
}

/// Which files express the knob here: all of `io.max`'s, the first existing one of a weight's.
fn files_for(knob: &'static Knob, has: &dyn Fn(&str) -> bool) -> Result<Vec<&'static str>, String> {
    let missing = |file: &str| format!("this kernel has no {file}");
    match knob.v1 {
        Side::Absent(why) => Err(why.into()),
        Side::Native if has(knob.name) => Ok(vec![knob.name]),
        Side::Native if knob.name == "blkio.weight" && has("blkio.bfq.weight") => Ok(vec!["blkio.bfq.weight"]),
        Side::Native if knob.name == "blkio.weight" => Err("this kernel has neither blkio.weight (gone since Linux 5.0) nor blkio.bfq.weight (needs the bfq I/O scheduler)".into()),
        Side::Native => Err(missing(knob.name)),
        Side::Files(files) if knob.name == "io.weight" => {
            let found = files.iter().find(|f| has(f));
            found.map(|f| vec![*f]).ok_or_else(|| "this kernel has neither blkio.bfq.weight nor blkio.weight".into())
        }
        Side::Files(files) => match files.iter().find(|f| !has(f)) {
            None => Ok(files.to_vec()),
            Some(file) => Err(missing(file)),
        },
    }
}

/// What each of `files` should say; `None` where the value says nothing about a file.
fn wants(
    knob: &Knob,
    value: &Value,
    settings: &BTreeMap<&'static str, Value>,
    machine: &Machine,
    conversion: CpuConversion,
    files: &[&'static str],
) -> Result<Vec<Option<Want>>, String> {
    let text = |n: i64| Some(Want::Text(n.to_string()));
    let limit = |value: Option<i64>, unlimited| Some(Want::Limit { value, unlimited });
    Ok(match (knob.name, value) {
        ("cpu.weight", Value::Int(w)) => match conversion {
            CpuConversion::Linear => vec![text(weight_to_shares(*w))],
            CpuConversion::Runc => vec![text(weight_to_shares_runc(*w))],
        },
        // bfq's default is io.weight's own, so the number stays; the old scale has another default.
        ("io.weight", Value::Int(w)) if files == ["blkio.bfq.weight"] => vec![text((*w).min(1000))],
        ("io.weight", Value::Int(w)) => vec![text(io_to_blkio_weight(*w))],
        ("cpu.max", value) => {
            let (quota, period) = match value {
                Value::Bandwidth { quota, period } => (*quota, *period),
                Value::Percent(p) => (Some((machine.cpus * 100_000 * u64::from(*p) / 10_000).max(1000)), 100_000),
                _ => return Err("not a bandwidth".into()),
            };
            vec![limit(quota.map(|q| q as i64), "-1"), text(period as i64)]
        }
        ("memory.swap.max", value) => {
            let memory = settings.get("memory.max").or_else(|| settings.get("memory.limit_in_bytes"));
            match (memory.map(|m| byte_count(m, machine)), byte_count(value, machine)) {
                (_, None) => vec![Some(Want::Bytes(None))],
                (Some(None), Some(_)) => {
                    return Err("v1 cannot limit swap alone: memory.max is unlimited on this group".into());
                }
                (Some(Some(memory)), Some(swap)) => vec![Some(Want::Bytes(memory.checked_add(swap)))],
                (None, Some(_)) => {
                    return Err("v1 limits memory and swap together: set memory.max on the same group".into());
                }
            }
        }
        (_, Value::Io(devices)) => (0..files.len())
            .map(|i| {
                let rates: BTreeMap<_, _> = devices.iter().filter_map(|(d, limits)| Some((*d, limits.0[i]?))).collect();
                (!rates.is_empty()).then_some(Want::Rates(rates))
            })
            .collect(),
        (_, Value::Rates(rates)) => vec![Some(Want::Rates(rates.clone()))],
        ("cpu.cfs_quota_us" | "cpu.rt_runtime_us", Value::Int(q)) => vec![limit(Some(*q).filter(|q| *q >= 0), "-1")],
        ("memory.oom_control", Value::Flag(f)) => vec![Some(Want::FirstLine(i64::from(*f).to_string()))],
        ("cgroup.freeze" | "freezer.state", Value::Flag(f)) => vec![Some(Want::State(*f))],
        (_, Value::Ids(ids)) => vec![Some(Want::Ids(ids.clone()))],
        (_, Value::Flag(f)) => vec![text(i64::from(*f))],
        (_, Value::Int(n)) if matches!(knob.kind, Kind::IntOrMax { .. }) => vec![limit(Some(*n), "max")],
        (_, Value::Max) if matches!(knob.kind, Kind::IntOrMax { .. }) => vec![limit(None, "max")],
        (_, Value::Int(n)) => vec![text(*n)],
        (_, value) => vec![Some(Want::Bytes(byte_count(value, machine)))],
    })
}

fn byte_count(value: &Value, machine: &Machine) -> Option<u64> {
    match value {
        Value::Bytes(bytes) => Some(*bytes),
        Value::Percent(p) => Some((u128::from(machine.memory) * u128::from(*p) / 10_000) as u64),
        _ => None,
    }
}

impl Unset {
    /// The wanted content that undoes `file`: `ours` is what the mark says we wrote, `parents` the parent's value.
    pub fn want(self, file: &str, ours: &str, parents: Option<&str>) -> Option<Want> {
        let kind = find(file).map(|k| k.kind);
        Some(match (self, kind) {
            (Self::Stays, _) => return None,
            (Self::PerDevice, _) => {
                Want::Rates(super::want::parse_rates(ours).into_keys().map(|d| (d, None)).collect())
            }
            (Self::Parent, Some(Kind::Ids)) => Want::Ids(parents?.parse().ok()?),
            (Self::Parent, _) => Want::Text(parents?.trim().into()),
            (Self::Const(_), Some(Kind::Bytes)) => Want::Bytes(None),
            (Self::Const("-1"), Some(Kind::Quota)) => Want::Limit { value: None, unlimited: "-1" },
            (Self::Const("max"), _) => Want::Limit { value: None, unlimited: "max" },
            (Self::Const(_), Some(Kind::State)) => Want::State(false),
            (Self::Const(text), _) if file == "memory.oom_control" => Want::FirstLine(text.into()),
            (Self::Const(text), _) => Want::Text(text.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knobs::parse_value;

    fn resolve(json: &str, has: &dyn Fn(&str) -> bool) -> Resolved {
        let crate::json::Json::Object(entries) = crate::json::parse(json).unwrap() else { panic!() };
        let settings = entries
            .iter()
            .map(|(k, v)| {
                let knob = find(k).unwrap();
                (knob.name, parse_value(knob.kind, v).unwrap())
            })
            .collect();
        let machine = Machine { memory: 1 << 30, cpus: 4, page: 4096 };
        resolve_v1(&settings, &machine, CpuConversion::Linear, has)
    }

    fn written(json: &str) -> Vec<String> {
        resolve(json, &|_| true)
            .files
            .iter()
            .flat_map(|f| f.want.writes("").into_iter().map(|w| format!("{}={w}", f.file)))
            .collect()
    }

    #[test]
    fn v2_names_become_v1_files() {
        assert_eq!(written(r#"{"cpu.weight": 800}"#), ["cpu.shares=8192"]);
        assert_eq!(written(r#"{"cpu.max": "50%"}"#), ["cpu.cfs_quota_us=200000", "cpu.cfs_period_us=100000"]);
        assert_eq!(written(r#"{"cpu.max": "max"}"#), ["cpu.cfs_quota_us=-1", "cpu.cfs_period_us=100000"]);
        assert_eq!(written(r#"{"memory.max": "50%"}"#), ["memory.limit_in_bytes=536870912"]);
        assert_eq!(
            written(r#"{"memory.max": "1M", "memory.swap.max": "1M"}"#),
            ["memory.limit_in_bytes=1048576", "memory.memsw.limit_in_bytes=2097152"]
        );
        assert_eq!(
            written(r#"{"io.max": {"8:0": {"rbps": "1K", "wiops": 7}}}"#),
            ["blkio.throttle.read_bps_device=8:0 1024", "blkio.throttle.write_iops_device=8:0 7"]
        );
        assert_eq!(written(r#"{"cgroup.freeze": 1}"#), ["freezer.state=FROZEN"]);
        assert_eq!(written(r#"{"pids.max": "max"}"#), ["pids.max=max"]);
    }

    #[test]
    fn weights_take_the_file_that_the_kernel_has() {
        let bfq = |f: &str| f == "blkio.bfq.weight";
        assert_eq!(resolve(r#"{"blkio.weight": 500}"#, &bfq).files[0].file, "blkio.bfq.weight");
        assert_eq!(resolve(r#"{"io.weight": 100}"#, &bfq).files[0].want, Want::Text("100".into()));
        assert_eq!(resolve(r#"{"io.weight": 100}"#, &|f| f == "blkio.weight").files[0].want, Want::Text("500".into()));
        let none = resolve(r#"{"blkio.weight": 500, "cpu.shares": 5}"#, &|f| f == "cpu.shares");
        assert_eq!((none.files.len(), none.unsupported[0].0), (1, "blkio.weight"));
    }

    #[test]
    fn idle_suppresses_the_weight_and_v2_only_knobs_say_so() {
        let idle = resolve(r#"{"cpu.idle": 1, "cpu.weight": 5, "memory.high": "1G", "memory.swap.max": 0}"#, &|_| true);
        assert_eq!(idle.suppressed, ["cpu.shares"]);
        assert_eq!(idle.files.iter().map(|f| f.file.as_str()).collect::<Vec<_>>(), ["cpu.idle"]);
        assert_eq!(idle.unsupported.len(), 2);
    }

    #[test]
    fn unsetting_restores_defaults() {
        let want = |file: &str, ours: &str, parent: Option<&str>| {
            find(file).unwrap().unset.want(file, ours, parent).unwrap().writes(ours)
        };
        assert_eq!(want("cpu.shares", "5", None), ["1024"]);
        assert_eq!(want("memory.limit_in_bytes", "5", None), ["-1"]);
        assert_eq!(want("cpuset.cpus", "0", Some("0-1\n")), ["0-1"]);
        assert_eq!(want("blkio.throttle.read_bps_device", "8:0 5", None), ["8:0 0"]);
        assert_eq!(want("pids.max", "5", None), ["max"]);
    }
}
