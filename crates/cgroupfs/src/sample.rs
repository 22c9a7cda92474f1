//! Measures every group of a tree once a second: descriptors stay open, one pread each, no allocation.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use cgrove_core::actual::Version;
use cgrove_core::usage::{Gauge, Template};

use crate::file::look;
use crate::host::{Host, Mount, Parents};
use crate::paths::Tree;

/// A tree's probes, opened.
pub struct Sampler {
    template: Template,
    probes: Vec<Probe>,
    /// How many descriptors may be kept; beyond them a file is opened for each read.
    budget: usize,
    kept: usize,
    /// Which file tells about disk traffic here, for status.
    pub io_source: Option<&'static str>,
    buffer: Vec<u8>,
}

struct Probe {
    gauge: Gauge,
    version: Version,
    /// The hierarchy's root directory, and the file's path below it.
    place: Option<(Arc<File>, PathBuf)>,
    file: Option<File>,
}

/// What one slot lacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Groups without a value, counted once for each gauge.
    pub missing: usize,
}

impl Sampler {
    /// Prepares a tree; files are opened at the first slot. `budget` is the number of descriptors that may stay open.
    pub fn new(template: Template, host: &Host, parents: &Parents, budget: usize) -> Self {
        let mut io_source = None;
        let mut roots: BTreeMap<&str, Option<Arc<File>>> = BTreeMap::new();
        let probes = template
            .probes
            .iter()
            .map(|probe| {
                let mount = host.with([probe.gauge.controller()].into_iter().collect()).next();
                let place = mount.and_then(|mount| {
                    let tree = Tree::new(mount, parents);
                    let name = match (probe.gauge, mount.version) {
                        (Gauge::Cpu, Version::V1) => "cpuacct.usage",
                        (Gauge::Cpu, Version::V2) => "cpu.stat",
                        (Gauge::Memory, Version::V1) => "memory.usage_in_bytes",
                        (Gauge::Memory, Version::V2) => "memory.current",
                        // Only a root lacks it, and nobody counts processes there.
                        (Gauge::Pids, _) => "pids.current",
                        (Gauge::Io, _) => io_source.get_or_insert_with(|| io_file(mount)),
                    };
                    let whole = mount.version == Version::V2 && probe.group.is_root() && mount.dir.join(name).exists();
                    let path = if whole { mount.dir.join(name) } else { tree.file(&probe.group, name) };
                    let root =
                        roots.entry(&mount.label).or_insert_with(|| Some(Arc::new(File::open(&mount.dir).ok()?)));
                    Some((root.clone()?, path.strip_prefix(&mount.dir).ok()?.to_owned()))
                });
                let version = mount.map_or(Version::V1, |m| m.version);
                Probe { gauge: probe.gauge, version, place, file: None }
            })
            .collect();
        Self { template, probes, budget, kept: 0, io_source, buffer: vec![0; 4096] }
    }

    /// Appends one slot's JSON to `out`.
    pub fn sample(&mut self, out: &mut Vec<u8>) -> Gaps {
        let mut gaps = Gaps::default();
        let (probes, buffer, kept, budget) = (&mut self.probes, &mut self.buffer, &mut self.kept, self.budget);
        self.template.render(out, |i, out| {
            let Some(probe) = probes.get_mut(i) else { return };
            match probe.read(buffer, kept, budget) {
                Some(length) => probe.gauge.render(probe.version, &buffer[..length], out),
                None => {
                    gaps.missing += 1;
                    out.extend_from_slice(b"{}");
                }
            }
        });
        gaps
    }
}

impl Probe {
    /// Reads the file into `buffer`. A group that was removed and made again answers ENODEV on the old descriptor.
    fn read(&mut self, buffer: &mut Vec<u8>, kept: &mut usize, budget: usize) -> Option<usize> {
        if let Some(file) = &self.file {
            if let Some(length) = read_whole(file, buffer) {
                return Some(length);
            }
            self.file = None;
            *kept -= 1;
        }
        let (root, path) = self.place.as_ref()?;
        let file = look(root, path).ok()?;
        let length = read_whole(&file, buffer)?;
        if *kept < budget {
            *kept += 1;
            self.file = Some(file);
        }
        Some(length)
    }
}

fn read_whole(file: &File, buffer: &mut Vec<u8>) -> Option<usize> {
    loop {
        let length = file.read_at(buffer, 0).ok()?;
        if length < buffer.len() {
            return Some(length);
        }
        // The kernel gives as much as fits; a full buffer may be cut.
        buffer.resize(buffer.len() * 2, 0);
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

/// Raises the soft limit of open files to the hard one; returns what sampling may use of it.
pub fn descriptor_budget() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 256 };
    let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    let limit = usize::try_from(if raised { hard } else { soft }).unwrap_or(usize::MAX);
    // The rest is for clients, stores and the source.
    limit.saturating_sub(2048).max(limit / 2)
}
