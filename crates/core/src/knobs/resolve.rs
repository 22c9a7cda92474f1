//! From a group's settings to the files that express them on this kernel, with every conversion named.

mod convert;
mod unset;

use std::cell::RefCell;

use litemap::LiteMap;

use super::table::{Knob, Side, find};
use super::value::Value;
use super::want::Want;
use crate::actual::{Machine, Version};

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
    /// Said when the file is not the knob's own: `as cpu.shares 8192`.
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

/// A group's settings.
pub type Settings = LiteMap<&'static str, Value>;

/// Where settings are resolved.
pub struct Site<'a> {
    pub version: Version,
    pub machine: &'a Machine,
    pub conversion: CpuConversion,
    /// Do groups of the hierarchy have a file?
    pub has: &'a dyn Fn(&str) -> bool,
}

impl Site<'_> {
    /// The files for a group's settings.
    pub fn resolve(&self, settings: &Settings) -> Resolved {
        let mut out = Resolved::default();
        let idle = settings.get("cpu.idle") == Some(&Value::Flag(true)) && (self.has)("cpu.idle");
        for (name, value) in settings {
            let Some(knob) = find(name) else { continue };
            if idle && matches!(*name, "cpu.weight" | "cpu.weight.nice" | "cpu.shares") {
                continue;
            }
            // A disk that is missing takes nothing from the others.
            let missing = RefCell::new(Vec::new());
            let result = self.files_for(knob, value).and_then(|files| {
                files.iter().map(|f| Ok((*f, self.want(knob, value, settings, f, &missing)?))).collect()
            });
            let mut missing = missing.into_inner();
            missing.dedup();
            out.unsupported.extend(missing.into_iter().map(|why| (knob.name, why)));
            let files: Vec<(&'static str, Option<Want>)> = match result {
                Ok(files) => files,
                Err(why) => {
                    out.unsupported.push((knob.name, why));
                    continue;
                }
            };
            for (file, want) in files {
                let Some(want) = want else { continue };
                let conversion = (file != knob.name).then(|| format!("as {file} {}", want.shown()));
                out.add(FileWant { knob: knob.name, file: file.into(), want, conversion });
            }
        }
        if idle {
            out.suppressed.extend(["cpu.shares", "cpu.weight", "cpu.weight.nice"]);
        }
        out
    }

    /// Which files express the knob here.
    fn files_for(&self, knob: &'static Knob, value: &Value) -> Result<Vec<&'static str>, String> {
        let side = match self.version {
            Version::V1 => knob.v1,
            Version::V2 => knob.v2,
        };
        let missing =
            |file: &str| format!("this kernel has no {file} (since Linux: {})", find(file).map_or("", |k| k.since));
        let mut files = match side {
            Side::Absent(why) => return Err(why.into()),
            Side::Native => vec![knob.name],
            Side::Files(files) => files.to_vec(),
            Side::FirstOf(files) => match files.iter().find(|f| (self.has)(f)) {
                Some(file) => vec![*file],
                None => {
                    return Err(format!(
                        "this kernel has neither {} (the latter needs {})",
                        files.join(" nor "),
                        files.last().and_then(|f| find(f)).map_or("", |k| k.since)
                    ));
                }
            },
        };
        // The list that is compared; allow and deny are how it is written.
        if files == ["devices.list"] && !(self.has)("devices.list") {
            return Err(missing("devices.list"));
        }
        if self.version == Version::V1 {
            convert::split_weight(&mut files, value);
        }
        match files.iter().find(|f| !(self.has)(f)) {
            None => Ok(files),
            Some(file) => Err(missing(file)),
        }
    }

    fn want(
        &self,
        knob: &Knob,
        value: &Value,
        settings: &Settings,
        file: &'static str,
        missing: &RefCell<Vec<String>>,
    ) -> Result<Option<Want>, String> {
        convert::Conversion { site: self, knob, value, settings, file, missing }.want()
    }
}

impl Resolved {
    /// Several knobs may share a file (`io.max`, `cpu.max`, `devices.list`): their lines are merged.
    fn add(&mut self, new: FileWant) {
        let Some(old) = self.files.iter_mut().find(|f| f.file == new.file) else {
            return self.files.push(new);
        };
        if let (Want::Lines(old), Want::Lines(new)) = (&mut old.want, new.want) {
            for (key, fields) in new.lines {
                old.lines.entry(key).or_default().extend(fields);
            }
        }
        old.conversion = Some(format!("as {} {}", old.file, old.want.shown()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knobs::{DevId, parse_value};

    fn resolve(version: Version, json: &str, has: &dyn Fn(&str) -> bool) -> Resolved {
        let crate::json::Json::Object(entries) = crate::json::parse(json).unwrap() else { panic!() };
        let settings = entries
            .iter()
            .map(|(k, v)| {
                let knob = find(k).unwrap();
                (knob.name, parse_value(knob.kind, v).unwrap())
            })
            .collect();
        let machine = Machine {
            memory: 1 << 30,
            cpus: 4,
            page: 4096,
            disks: vec![DevId(8, 0), DevId(8, 16)],
            devices: [("/dev/sdc".into(), DevId(8, 32))].into(),
        };
        Site { version, machine: &machine, conversion: CpuConversion::Linear, has }.resolve(&settings)
    }

    fn written(version: Version, json: &str) -> Vec<String> {
        resolve(version, json, &|_| true)
            .files
            .iter()
            .flat_map(|f| f.want.writes("").into_iter().map(|w| format!("{}={w}", f.file)))
            .collect()
    }

    fn v1(json: &str) -> Vec<String> {
        written(Version::V1, json)
    }

    fn v2(json: &str) -> Vec<String> {
        written(Version::V2, json)
    }

    #[test]
    fn v2_names_become_v1_files() {
        assert_eq!(v1(r#"{"cpu.weight": 800}"#), ["cpu.shares=8192"]);
        assert_eq!(v1(r#"{"cpu.weight.nice": -5}"#), ["cpu.shares=3121"]);
        assert_eq!(v1(r#"{"cpu.max": "50%"}"#), ["cpu.cfs_quota_us=200000", "cpu.cfs_period_us=100000"]);
        assert_eq!(v1(r#"{"cpu.max": "max"}"#), ["cpu.cfs_quota_us=-1", "cpu.cfs_period_us=100000"]);
        assert_eq!(v1(r#"{"memory.max": "50%"}"#), ["memory.limit_in_bytes=536870912"]);
        assert_eq!(
            v1(r#"{"memory.max": "1M", "memory.swap.max": "1M"}"#),
            ["memory.limit_in_bytes=1048576", "memory.memsw.limit_in_bytes=2097152"]
        );
        assert_eq!(
            v1(r#"{"io.max": {"8:0": {"rbps": "1K", "wiops": 7}}}"#),
            ["blkio.throttle.read_bps_device=8:0 1024", "blkio.throttle.write_iops_device=8:0 7"]
        );
        assert_eq!(v1(r#"{"cgroup.freeze": 1}"#), ["freezer.state=FROZEN"]);
        assert_eq!(v1(r#"{"pids.max": "max"}"#), ["pids.max=max"]);
        assert_eq!(v1(r#"{"hugetlb.2MB.max": "4M"}"#), ["hugetlb.2MB.limit_in_bytes=4194304"]);
        assert_eq!(
            v1(r#"{"io.weight": {"default": 50, "8:0": 200}}"#),
            ["blkio.bfq.weight=50", "blkio.bfq.weight_device=8:0 200"]
        );
        assert_eq!(
            v1(r#"{"devices.allow": ["c 1:3 rwm"], "devices.deny": ["a"]}"#),
            ["devices.list=deny a", "devices.list=allow c 1:3 rwm"]
        );
        assert_eq!(
            v1(r#"{"net_cls.classid": "10:1", "net_prio.ifpriomap": {"lo": 5}}"#),
            ["net_cls.classid=1048577", "net_prio.ifpriomap=lo 5"]
        );
    }

    #[test]
    fn v1_names_become_v2_files() {
        assert_eq!(v2(r#"{"cpu.shares": 8192}"#), ["cpu.weight=800"]);
        assert_eq!(v2(r#"{"cpu.cfs_quota_us": 50000, "cpu.cfs_period_us": 20000}"#), ["cpu.max=50000 20000"]);
        assert_eq!(v2(r#"{"cpu.cfs_quota_us": -1}"#), ["cpu.max=max 100000"]);
        assert_eq!(v2(r#"{"cpu.max": "50%"}"#), ["cpu.max=200000 100000"]);
        assert_eq!(v2(r#"{"memory.limit_in_bytes": "max"}"#), ["memory.max=max"]);
        assert_eq!(
            v2(r#"{"memory.limit_in_bytes": "1M", "memory.memsw.limit_in_bytes": "3M"}"#),
            ["memory.max=1048576", "memory.swap.max=2097152"]
        );
        assert_eq!(
            v2(r#"{"blkio.throttle.read_bps_device": {"8:0": "1K"}, "blkio.throttle.write_iops_device": {"8:0": 7}}"#),
            ["io.max=8:0 rbps=1024 wiops=7"]
        );
        assert_eq!(v2(r#"{"freezer.state": "FROZEN"}"#), ["cgroup.freeze=1"]);
        assert_eq!(v2(r#"{"blkio.weight": 500}"#), ["io.bfq.weight=default 500"]);
        assert_eq!(v2(r#"{"io.weight": {"8:0": 200}}"#), ["io.weight=8:0 200"]);
        assert_eq!(
            v2(r#"{"cpu.uclamp.max": 50, "cpu.uclamp.min": "12.5%"}"#),
            ["cpu.uclamp.max=50.00", "cpu.uclamp.min=12.50"]
        );
        assert_eq!(v2(r#"{"cpu.uclamp.max": 100}"#), ["cpu.uclamp.max=max"]);
        assert_eq!(v2(r#"{"io.latency": {"8:0": {"target": 75000}}}"#), ["io.latency=8:0 target=75000"]);
        assert_eq!(
            v2(r#"{"rdma.max": {"m": {"hca_handle": 2, "hca_object": "max"}}}"#),
            ["rdma.max=m hca_handle=2 hca_object=max"]
        );
    }

    #[test]
    fn disks_by_path_and_all_of_them() {
        assert_eq!(v2(r#"{"io.max": {"/dev/sdc": {"rbps": 5}}}"#), ["io.max=8:32 rbps=5"]);
        // A disk that is named beats "all disks".
        assert_eq!(
            v2(r#"{"io.max": {"*": {"rbps": 5}, "8:16": {"rbps": 6}}}"#),
            ["io.max=8:0 rbps=5", "io.max=8:16 rbps=6"]
        );
        let odd = resolve(Version::V2, r#"{"io.max": {"/dev/none": {"rbps": 5}}}"#, &|_| true);
        assert!(odd.unsupported[0].1.contains("/dev/none"));
    }

    #[test]
    fn weights_take_the_file_that_the_kernel_has() {
        let text = |version, json: &str, file: &str| {
            let out = resolve(version, json, &|f| f == file);
            (out.files[0].file.clone(), out.files[0].want.writes("").concat())
        };
        let is = |file: &str, value: &str| (file.to_owned(), value.to_owned());
        assert_eq!(text(Version::V1, r#"{"blkio.weight": 500}"#, "blkio.bfq.weight"), is("blkio.bfq.weight", "500"));
        assert_eq!(text(Version::V1, r#"{"io.weight": 100}"#, "blkio.bfq.weight"), is("blkio.bfq.weight", "100"));
        assert_eq!(text(Version::V1, r#"{"io.weight": 100}"#, "blkio.weight"), is("blkio.weight", "500"));
        assert_eq!(text(Version::V2, r#"{"blkio.weight": 500}"#, "io.weight"), is("io.weight", "default 100"));
        let none = resolve(Version::V1, r#"{"blkio.weight": 500, "cpu.shares": 5}"#, &|f| f == "cpu.shares");
        assert_eq!((none.files.len(), none.unsupported[0].0), (1, "blkio.weight"));
    }

    #[test]
    fn idle_suppresses_the_weight_and_what_one_side_lacks_is_said() {
        let json = r#"{"cpu.idle": 1, "cpu.weight": 5, "memory.high": "1G", "memory.swap.max": 0}"#;
        let idle = resolve(Version::V1, json, &|_| true);
        assert!(idle.suppressed.contains(&"cpu.shares"));
        assert_eq!(idle.files.iter().map(|f| f.file.as_str()).collect::<Vec<_>>(), ["cpu.idle"]);
        assert_eq!(idle.unsupported.len(), 2);
        let only_v1 = r#"{"memory.swappiness": 5, "devices.allow": ["a"], "cpuset.cpu_exclusive": 1, "net_cls.classid": 1, "io.cost.qos": {}, "memory.reclaim": 5, "memory.memsw.limit_in_bytes": 5}"#;
        assert_eq!(resolve(Version::V2, only_v1, &|_| true).unsupported.len(), 7);
    }
}
