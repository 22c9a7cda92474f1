//! Measures every group of a tree once a second: descriptors stay open, one pread each, no allocation.

mod counters;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::sync::Arc;

use cgrove_core::actual::Version;
use cgrove_core::ids::{Controller, GroupPath};
use cgrove_core::usage::{Collect, Gauge, Reading, Template};

use self::counters::Counters;
use crate::host::{Host, Mount, Parents};
use crate::paths::Tree;

/// A tree's probes, and where their numbers come from.
pub struct Sampler {
    template: Arc<Template>,
    probes: Vec<Probe>,
    counters: Counters,
    /// Which file tells about disk traffic here, for status.
    pub io_source: Option<&'static str>,
    beside: Vec<u8>,
}

/// One group under one controller.
struct Probe {
    what: Arc<What>,
    /// The number of its first counter; the others follow.
    first: usize,
}

/// What is read of each group under one controller. The first reading has cgrouparch's value.
struct What {
    version: Version,
    readings: Vec<Reading>,
}

/// What one slot lacked, and what it must not be compared with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Groups without a value, counted once for each gauge.
    pub missing: usize,
    /// Groups that were made anew since they were last measured: their counters began again.
    pub remade: Vec<GroupPath>,
}

impl Sampler {
    /// Prepares a tree; files are opened at the first slot. `budget` is the number of descriptors that may stay open.
    pub fn new(template: Arc<Template>, host: &Host, parents: &Parents, collect: Collect, budget: usize) -> Self {
        let mut io_source = None;
        let mut roots: BTreeMap<&str, Option<Arc<File>>> = BTreeMap::new();
        let mut counters = Counters::new(budget);
        let mut probes = Vec::with_capacity(template.probes.len());
        let mount = |controller| host.with([controller].into_iter().collect()).next();
        let mut whats: HashMap<Gauge, Arc<What>> = HashMap::new();
        for probe in &template.probes {
            let what = whats.entry(probe.gauge).or_insert_with(|| {
                let version = mount(probe.gauge.controller()).map_or(Version::V1, |m| m.version);
                Arc::new(What { version, readings: probe.gauge.readings(version, collect) })
            });
            let first = counters.len();
            for reading in what.readings.iter().copied() {
                let place = mount(reading.controller()).and_then(|mount| {
                    let name = match reading {
                        Reading::BlkioBytes | Reading::IoBytes | Reading::IoStat => {
                            *io_source.get_or_insert_with(|| io_file(mount))
                        }
                        Reading::BlkioOperations => operations(io_source.get_or_insert_with(|| io_file(mount))),
                        _ => file_name(reading, mount),
                    };
                    // Memory's root has some of the files and not others: there the parent is measured.
                    let whole = mount.version == Version::V2
                        && probe.group.is_root()
                        && reading.controller() != Controller::Memory
                        && mount.dir.join(name).exists();
                    let tree = Tree::new(mount, parents);
                    let path = if whole { mount.dir.join(name) } else { tree.file(&probe.group, name) };
                    let root =
                        roots.entry(&mount.label).or_insert_with(|| Some(Arc::new(File::open(&mount.dir).ok()?)));
                    Some((root.clone()?, path.strip_prefix(&mount.dir).ok()?.into()))
                });
                counters.add(place);
            }
            probes.push(Probe { what: what.clone(), first });
        }
        counters.shrink();
        Self { template, probes, counters, io_source, beside: Vec::new() }
    }

    /// Appends one slot's JSON to `out`.
    pub fn sample(&mut self, out: &mut Vec<u8>) -> Gaps {
        let mut gaps = Gaps::default();
        let Self { template, probes, counters, beside, .. } = self;
        template.render(out, |i, out| {
            let Some(probe) = probes.get(i) else { return };
            out.push(b'{');
            beside.clear();
            let mut anew = false;
            for (n, reading) in probe.what.readings.iter().enumerate() {
                match counters.read(probe.first + n) {
                    Some(told) => {
                        anew |= told.anew;
                        reading.render(probe.what.version, told.text, out, beside);
                    }
                    // Without its first file there is no group; others may be lacking in this kernel.
                    None if n == 0 => {
                        gaps.missing += 1;
                        break;
                    }
                    None => {}
                }
            }
            out.push(b'}');
            out.extend_from_slice(beside);
            if anew && let Some(probe) = template.probes.get(i) {
                gaps.remade.push(probe.group.clone());
            }
        });
        gaps
    }
}

/// What a file is called in a hierarchy.
fn file_name(reading: Reading, mount: &Mount) -> &'static str {
    let v1 = mount.version == Version::V1;
    match reading {
        Reading::CpuacctUsage => "cpuacct.usage",
        Reading::CpuacctStat => "cpuacct.stat",
        Reading::Throttling | Reading::CpuTime | Reading::CpuStat => "cpu.stat",
        Reading::MemoryCurrent if v1 => "memory.usage_in_bytes",
        Reading::MemoryCurrent => "memory.current",
        Reading::MemoryPeak if v1 => "memory.max_usage_in_bytes",
        Reading::MemoryPeak => "memory.peak",
        Reading::MemorySwap => "memory.swap.current",
        Reading::MemoryStat => "memory.stat",
        Reading::MemoryFailcnt => "memory.failcnt",
        Reading::MemoryEvents => "memory.events",
        Reading::OomControl => "memory.oom_control",
        // Only a root lacks it, and nobody counts processes there.
        Reading::PidsCurrent => "pids.current",
        Reading::PidsPeak => "pids.peak",
        Reading::CpuPressure => "cpu.pressure",
        Reading::MemoryPressure => "memory.pressure",
        Reading::IoPressure => "io.pressure",
        Reading::BlkioBytes | Reading::BlkioOperations | Reading::IoBytes | Reading::IoStat => io_file(mount),
    }
}

/// Kernels before 5.0 count everything; since then bfq counts its own disks, and throttle those with a rule.
fn io_file(mount: &Mount) -> &'static str {
    if mount.version == Version::V2 {
        return "io.stat";
    }
    if mount.dir.join("blkio.io_service_bytes_recursive").exists() {
        return "blkio.io_service_bytes_recursive";
    }
    let disks = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let bfq = disks
        .into_iter()
        .any(|d| std::fs::read_to_string(d.path().join("queue/scheduler")).is_ok_and(|s| s.contains("[bfq]")));
    if bfq { "blkio.bfq.io_service_bytes_recursive" } else { "blkio.throttle.io_service_bytes_recursive" }
}

/// The file beside it that counts operations.
fn operations(bytes: &str) -> &'static str {
    match bytes {
        "blkio.io_service_bytes_recursive" => "blkio.io_serviced_recursive",
        "blkio.bfq.io_service_bytes_recursive" => "blkio.bfq.io_serviced_recursive",
        _ => "blkio.throttle.io_serviced_recursive",
    }
}

/// Raises the soft limit of open files to the hard one; returns what sampling may use of it.
pub fn descriptor_budget() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 256 };
    let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    let limit = usize::try_from(if raised { hard } else { soft }).unwrap_or(usize::MAX);
    // The rest is for locks, watches, clients, stores and the source.
    limit.saturating_sub(2048).max(limit / 8)
}
