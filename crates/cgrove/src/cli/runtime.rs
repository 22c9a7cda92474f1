//! Commands are blocking; what they need of async work runs here.

use crate::exit::Exit;

/// Runs async work on a small runtime: the daemon's heavy work has threads of its own.
pub(super) fn in_runtime<T>(work: impl Future<Output = T>) -> Result<T, Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|e| Exit::unavailable(format!("cannot start: {e}")))?;
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    Ok(result)
}
