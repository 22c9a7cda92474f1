//! /proc/PID/stat and /proc/PID/cgroup, with whatever name a process gave itself.
#![no_main]

use cgrove_cgroupfs::{paths, procs};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = procs::parse_stat(data);
    if let Ok(text) = std::str::from_utf8(data) {
        for label in ["cpu", "unified", "cpu,cpuacct"] {
            let _ = paths::cgroup_of(text, label);
        }
    }
});
