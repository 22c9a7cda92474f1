//! systemd's units: their main and control processes, asked of systemctl, the interface that stays.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// systemd answers within milliseconds, or is itself in trouble.
const PATIENCE: Duration = Duration::from_secs(5);

/// Main and control pids by unit name, for names and globs. Blocking.
pub(crate) fn pids(patterns: &BTreeSet<String>) -> Result<BTreeMap<String, Vec<i32>>, String> {
    if patterns.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut command = Command::new("systemctl");
    command.args(["show", "--no-pager", "--property=Id,MainPID,ControlPID", "--"]).args(patterns);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.map_err(|e| format!("systemctl: {e}; units in rules match nothing"))?;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap_or(0));
    let (done, output) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = done.send(child.wait_with_output());
    });
    let output = match output.recv_timeout(PATIENCE) {
        Ok(output) => output.map_err(|e| format!("systemctl: {e}"))?,
        Err(_) => {
            // Its own child, not reaped yet: the pid is still its.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            return Err("systemctl does not answer; units in rules match nothing".into());
        }
    };
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(format!("systemctl: {}; units in rules match nothing", text.lines().next().unwrap_or("failed")));
    }
    Ok(parse(&String::from_utf8_lossy(&output.stdout)))
}

/// Blocks of `Key=value` lines, one a unit, with an empty line between.
fn parse(text: &str) -> BTreeMap<String, Vec<i32>> {
    let mut out = BTreeMap::new();
    for block in text.split("\n\n") {
        let value = |key: &str| block.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
        let Some(id) = value("Id") else { continue };
        let pids = ["MainPID", "ControlPID"].into_iter().filter_map(|key| value(key)?.parse().ok());
        out.insert(id.to_owned(), pids.filter(|pid| *pid > 0).collect());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_units() {
        let text = "MainPID=42\nControlPID=0\nId=nginx.service\n\nMainPID=0\nControlPID=7\nId=x@1.service\n";
        let units = parse(text);
        assert_eq!((&units["nginx.service"][..], &units["x@1.service"][..]), (&[42][..], &[7][..]));
        assert!(parse("").is_empty());
    }
}
