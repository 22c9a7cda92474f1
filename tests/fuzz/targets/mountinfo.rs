//! Mounts come from what the kernel lists; only those below the wanted directory count, each hierarchy once.
#![no_main]

use std::collections::BTreeSet;
use std::path::Path;

use cgrove_cgroupfs::host::parse_mountinfo;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let dir = Path::new("/sys/fs/cgroup");
    let mounts = parse_mountinfo(text, dir);
    assert!(mounts.iter().all(|m| m.dir.starts_with(dir)));
    let labels: BTreeSet<_> = mounts.iter().map(|m| &m.label).collect();
    assert_eq!(labels.len(), mounts.len());
});
