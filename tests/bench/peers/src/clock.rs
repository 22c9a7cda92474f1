//! CPU time, user and system together, by the kernel's own account.

use std::io::Result;

use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{ClockId, clock_gettime};

/// Nanoseconds that this process spends on its CPUs in `work`.
pub(crate) fn spent<T>(work: impl FnOnce() -> Result<T>) -> Result<i64> {
    let before = now();
    std::hint::black_box(work()?);
    Ok(now() - before)
}

/// The same of each second's `work`, done so often as a sampler does it.
pub(crate) fn each_second(passes: u32, mut work: impl FnMut() -> Result<()>) -> Result<Vec<i64>> {
    let pass = |_| {
        std::thread::sleep(std::time::Duration::from_secs(1));
        spent(&mut work)
    };
    (0..passes).map(pass).collect()
}

fn now() -> i64 {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(0, |t| t.tv_sec() * 1_000_000_000 + t.tv_nsec())
}

/// Most memory so far, in KiB.
pub(crate) fn peak_kib() -> i64 {
    getrusage(UsageWho::RUSAGE_SELF).map_or(0, |u| u.max_rss())
}
