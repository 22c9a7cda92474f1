//! The same work as done by libraries that others would pick.

use std::io::{Error, Result};
use std::path::Path;

use cgroups_rs::fs::blkio::BlkIoController;
use cgroups_rs::fs::cgroup_builder::CgroupBuilder;
use cgroups_rs::fs::cpuacct::CpuAcctController;
use cgroups_rs::fs::hierarchies;
use cgroups_rs::fs::{Cgroup, Controllers};
use libcgroups::common::CgroupManager;

use crate::clock;

fn other(e: impl std::fmt::Display) -> Error {
    Error::other(e.to_string())
}

fn controllers() -> Vec<String> {
    [Controllers::Cpu, Controllers::CpuAcct, Controllers::BlkIo].map(|c| c.to_string()).into()
}

fn groups(parent: &str, count: usize) -> impl Iterator<Item = Cgroup> {
    let load = |name| Cgroup::load_with_specified_controllers(hierarchies::auto(), name, controllers());
    (0..count).map(move |i| load(format!("{parent}/g{i}")))
}

/// cgroups-rs: groups with shares in cpu and blkio.
pub(crate) fn cgroups_rs_create(parent: &str, count: usize) -> Result<i64> {
    clock::spent(|| {
        (0..count).try_for_each(|i| {
            let group = CgroupBuilder::new(&format!("{parent}/g{i}")).set_specified_controllers(controllers());
            group.cpu().shares(205).done().build(hierarchies::auto()).map(drop).map_err(other)
        })
    })
}

pub(crate) fn cgroups_rs_remove(parent: &str, count: usize) -> Result<i64> {
    clock::spent(|| groups(parent, count).try_for_each(|group| group.delete().map_err(other)))
}

/// cgroups-rs: CPU time and disk traffic of each group. The groups are looked up once, as a sampler would.
pub(crate) fn cgroups_rs_read(parent: &str, count: usize, passes: u32) -> Result<Vec<i64>> {
    let groups: Vec<Cgroup> = groups(parent, count).collect();
    clock::each_second(passes, || {
        let mut sum = 0;
        for group in &groups {
            sum += group.controller_of::<CpuAcctController>().map_or(0, |c| c.cpuacct().usage);
            sum += group
                .controller_of::<BlkIoController>()
                .map_or(0, |c| c.blkio().throttle.io_service_bytes.len() as u64);
        }
        std::hint::black_box(sum);
        Ok(())
    })
}

/// below's cgroupfs, which knows cgroup v2 alone: cpu.stat and cgroup.stat of each group.
pub(crate) fn below_read(root: &Path, passes: u32) -> Result<Vec<i64>> {
    clock::each_second(passes, || {
        let top = cgroupfs::CgroupReader::new(root.to_owned()).map_err(other)?;
        for group in top.child_cgroup_iter().map_err(other)? {
            std::hint::black_box(group.read_cpu_stat().map_err(other)?);
            std::hint::black_box(group.read_cgroup_stat().map_err(other)?);
        }
        Ok(())
    })
}

/// libcgroups: its statistics of each group, which are of every v1 controller.
pub(crate) fn libcgroups_read(parent: &str, count: usize, passes: u32) -> Result<Vec<i64>> {
    let manager = |i| libcgroups::v1::manager::Manager::new(Path::new(&format!("{parent}/g{i}"))).map(|m| m.any());
    let managers = (0..count).map(|i| manager(i).map_err(other)).collect::<Result<Vec<_>>>()?;
    clock::each_second(passes, || {
        for manager in &managers {
            std::hint::black_box(manager.stats().map_err(other)?);
        }
        Ok(())
    })
}
