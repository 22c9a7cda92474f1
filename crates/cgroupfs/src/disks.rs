//! Disks: the whole ones of this machine, and ones named by path. A path need not be seen to be known: a service whose
//! /dev is its own asks init, or finds a disk's number in /sys and in udev's database.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use cgrove_core::knobs::DevId;

use crate::outside::{DISKS, Mounts};
use crate::view;

/// What each path meant when it last answered: a limit is not undone because a file system is silent.
static ANSWERED: Mutex<BTreeMap<String, DevId>> = Mutex::new(BTreeMap::new());

/// The disks with hardware, or a hypervisor, behind them: neither loop, ram, zram nor device-mapper.
pub(crate) fn whole() -> Vec<DevId> {
    let entries = std::fs::read_dir("/sys/block").into_iter().flatten().flatten().map(|e| e.path());
    let real = entries.filter(|disk| disk.join("device").exists());
    let mut ids: Vec<DevId> = real.filter_map(|disk| number_in(&disk.join("dev"))).collect();
    ids.sort();
    ids
}

/// The block devices that these paths name, as far as they are any.
pub(crate) fn found<'a>(paths: impl Iterator<Item = &'a str>) -> Vec<(String, DevId)> {
    let paths: Vec<String> = paths.map(str::to_owned).collect();
    if paths.is_empty() {
        return Vec::new();
    }
    let mounts = OnceCell::new();
    let key = |path: &String| mounts.get_or_init(Mounts::now).key(Path::new(path), 0);
    let answers = DISKS.each(paths.clone(), key, |path| at(Path::new(path)));
    let mut answered = ANSWERED.lock().unwrap_or_else(PoisonError::into_inner);
    answered.retain(|path, _| paths.contains(path));
    for (path, answer) in paths.iter().zip(answers) {
        match answer {
            Ok(Some(number)) => drop(answered.insert(path.clone(), number)),
            Ok(None) => drop(answered.remove(path)),
            Err(_) => {}
        }
    }
    answered.iter().map(|(path, number)| (path.clone(), *number)).collect()
}

/// The block device at this path, `/dev/sda` or `/dev/disk/by-id/...`; `None` when there is none.
fn at(path: &Path) -> Option<DevId> {
    seen(path).or_else(|| known(path, Path::new("/sys"), Path::new("/run/udev/data")))
}

fn seen(path: &Path) -> Option<DevId> {
    let meta = view::metadata(path).find(|m| m.file_type().is_block_device())?;
    let (major, minor) = (nix::sys::stat::major(meta.rdev()), nix::sys::stat::minor(meta.rdev()));
    Some(DevId(u32::try_from(major).ok()?, u32::try_from(minor).ok()?))
}

/// By the kernel's name, device-mapper's, or a link that udev keeps.
fn known(path: &Path, sys: &Path, udev: &Path) -> Option<DevId> {
    let name = path.strip_prefix("/dev").ok()?.to_str()?;
    let blocks = sys.join("class/block");
    // The kernel writes `cciss/c0d0` as one word.
    if let Some(number) = number_in(&blocks.join(name.replace('/', "!")).join("dev")) {
        return Some(number);
    }
    if let Some(mapped) = name.strip_prefix("mapper/") {
        let is_it = |disk: &Path| std::fs::read_to_string(disk.join("dm/name")).is_ok_and(|n| n.trim() == mapped);
        let entries = std::fs::read_dir(blocks).ok()?.flatten().map(|e| e.path());
        return entries.into_iter().find(|disk| is_it(disk)).and_then(|disk| number_in(&disk.join("dev")));
    }
    // `S:` is a link, `L:` its priority where several devices claim one (sd-device's database, b8:0 for a block device).
    let claims = std::fs::read_dir(udev).ok()?.flatten().filter_map(|entry| {
        let number: DevId = entry.file_name().to_str()?.strip_prefix('b')?.parse().ok()?;
        let text = std::fs::read_to_string(entry.path()).ok()?;
        let priority = text.lines().find_map(|l| l.strip_prefix("L:")?.parse::<i32>().ok()).unwrap_or(0);
        text.lines().any(|l| l.strip_prefix("S:") == Some(name)).then_some((priority, number))
    });
    claims.max().map(|(_, number)| number)
}

fn number_in(file: &Path) -> Option<DevId> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_known_by_its_names_without_being_seen() {
        let dir = std::env::temp_dir().join(format!("cgrove-disks-{}", std::process::id()));
        let (sys, udev) = (dir.join("sys"), dir.join("udev"));
        for (name, number, mapped) in
            [("sda", "8:0", None), ("cciss!c0d0", "104:0", None), ("dm-0", "254:0", Some("vg-root"))]
        {
            let disk = sys.join("class/block").join(name);
            std::fs::create_dir_all(disk.join("dm")).unwrap();
            std::fs::write(disk.join("dev"), format!("{number}\n")).unwrap();
            if let Some(mapped) = mapped {
                std::fs::write(disk.join("dm/name"), format!("{mapped}\n")).unwrap();
            }
        }
        std::fs::create_dir_all(&udev).unwrap();
        std::fs::write(udev.join("b8:0"), "S:disk/by-id/ata-X\nS:disk/by-label/both\nE:ID_BUS=ata\n").unwrap();
        std::fs::write(udev.join("b254:0"), "S:vg/root\nL:50\nS:disk/by-label/both\n").unwrap();
        std::fs::write(udev.join("c10:1"), "S:disk/by-id/ata-Y\n").unwrap();
        let find = |path: &str| known(Path::new(path), &sys, &udev).map(|n| n.to_string());
        let expected = [
            ("/dev/sda", Some("8:0")),
            ("/dev/cciss/c0d0", Some("104:0")),
            ("/dev/mapper/vg-root", Some("254:0")),
            ("/dev/vg/root", Some("254:0")),
            ("/dev/disk/by-id/ata-X", Some("8:0")),
            // The higher priority has the link.
            ("/dev/disk/by-label/both", Some("254:0")),
            ("/dev/disk/by-id/ata-Y", None),
            ("/dev/sdz", None),
            ("/dev/mapper/x", None),
            ("/home/sda", None),
        ];
        let found: Vec<_> = expected.iter().map(|(path, _)| (*path, find(path))).collect();
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(found, expected.map(|(path, number)| (path, number.map(str::to_owned))));
    }
}
