//! Whoever is told to stop stops: whatever hangs, the process ends within a bound that is shorter than systemd's.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

/// The unit's TimeoutStopSec is 30 s; beyond it systemd kills.
const LONGEST: Duration = Duration::from_secs(15);

static RUNS: AtomicBool = AtomicBool::new(false);

/// Listens for TERM and INT beside whoever winds up.
pub(crate) fn watch() -> std::io::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        begin();
    });
    Ok(())
}

/// A thread of its own, so that it waits for no other.
fn begin() {
    if RUNS.swap(true, Ordering::Relaxed) {
        return;
    }
    let end = || {
        let began = std::time::Instant::now();
        while let Some(left) = LONGEST.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
            std::thread::park_timeout(left);
        }
        tracing::warn!("something hangs and is not waited for any longer; stopped; the groups stay");
        leave();
    };
    if let Err(e) = std::thread::Builder::new().name("deadline".into()).spawn(end) {
        tracing::warn!("the deadline for stopping: {e}");
    }
}

#[allow(clippy::disallowed_methods, reason = "destructors would wait for what hangs; the kernel releases the locks")]
fn leave() -> ! {
    std::process::exit(0)
}
