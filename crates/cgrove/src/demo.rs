//! The demo's process: a little work in a group of its own, so that a first look shows something. It ends with the
//! daemon however the daemon ends, because it watches a pipe that only the daemon holds.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cgrove_state::StateDir;

/// The hidden command that is the demo's process.
pub(crate) const COMMAND: &str = "demo-load";

/// Killed when dropped.
pub(crate) struct Demo {
    child: Child,
    pid_file: PathBuf,
}

impl Demo {
    /// Starts the process and writes `demo.pid` into the state directory.
    pub(crate) fn start(state_dir: &Path) -> io::Result<Self> {
        StateDir::new(state_dir).prepare().map_err(io::Error::other)?;
        let child =
            Command::new(std::env::current_exe()?).arg(COMMAND).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let pid_file = state_dir.join("demo.pid");
        std::fs::write(&pid_file, format!("{}\n", child.id()))?;
        Ok(Self { child, pid_file })
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.pid_file);
    }
}

/// Works a third of the time until standard input ends.
#[allow(clippy::disallowed_methods, reason = "a load generator sleeps on purpose")]
pub(crate) fn load() {
    let over = Arc::new(AtomicBool::new(false));
    let flag = over.clone();
    std::thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        flag.store(true, Ordering::Relaxed);
    });
    while !over.load(Ordering::Relaxed) {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(30) {
            std::hint::spin_loop();
        }
        std::thread::sleep(Duration::from_millis(60));
    }
}

/// What to try next, for the terminal.
pub(crate) fn banner(config: &cgrove_config::Config, config_path: &Path) -> String {
    let address = config.server.listen.first().map(ToString::to_string).unwrap_or_default();
    let exe = std::env::current_exe().map(|p| p.display().to_string()).unwrap_or_else(|_| "cgrove".into());
    let path = std::fs::canonicalize(config_path).unwrap_or_else(|_| config_path.to_owned());
    let path = path.display();
    format!(
        "
cgrove keeps {parent} equal to {tree} and measures it every second.
Look at http://{address}/ in a browser, or try from another terminal:

  {exe} --config {path} top
  {exe} --config {path} tree
  {exe} --config {path} usage --follow
  {exe} --config {path} plan
  curl http://{address}/metrics

or any WebSocket client on ws://{address}/ :

  {{\"cmd\": \"show_account\", \"args\": {{\"nr_slot\": 2}}}}

Change {tree} and watch the groups follow. Ctrl-C stops cgrove and its demo process; the groups stay.
",
        parent = config.parent_shown(),
        tree = config.tree.path.display(),
    )
}
