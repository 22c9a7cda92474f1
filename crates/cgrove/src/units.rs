//! systemd's units: their main and control processes, asked of systemctl, the interface that stays.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use cgrove_cgroupfs::outside::{Key, NAMES};

/// systemd answers within milliseconds, or is itself in trouble: then it is left in peace for a while (`NAMES`).
const PATIENCE: Duration = Duration::from_secs(5);

/// Main and control pids by unit name, aliases included, for names and globs; and what is wrong with single names.
/// An error means that systemd could not be asked. Blocking.
pub(crate) fn pids(patterns: &BTreeSet<String>) -> Result<(Pids, Vec<String>), String> {
    if patterns.is_empty() || !Path::new("/run/systemd/system").exists() {
        return Ok(Default::default());
    }
    let patterns = patterns.clone();
    let key = Key { what: "systemctl".into(), owner: 0 };
    NAMES.ask(&key, move || pids_now(&patterns)).unwrap_or_else(|_| Err("systemctl does not answer".into()))
}

fn pids_now(patterns: &BTreeSet<String>) -> Result<(Pids, Vec<String>), String> {
    let all: Vec<&str> = patterns.iter().map(String::as_str).collect();
    if let Ok(found) = ask(&all)? {
        return Ok((found, Vec::new()));
    }
    // One name that systemd refuses must not hide the others.
    let (mut out, mut problems) = (BTreeMap::new(), Vec::new());
    for pattern in all {
        match ask(&[pattern])? {
            Ok(found) => out.extend(found),
            Err(why) => problems.push(format!("unit {pattern:?}: {why}")),
        }
    }
    Ok((out, problems))
}

/// Main and control pids by unit name.
pub(crate) type Pids = BTreeMap<String, Vec<i32>>;
type Answer = Result<Pids, String>;

/// The outer error: no answer. The inner one: systemd's own about the names.
fn ask(patterns: &[&str]) -> Result<Answer, String> {
    let mut command = Command::new("systemctl");
    command.args(["show", "--no-pager", "--property=Names,MainPID,ControlPID", "--"]).args(patterns);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.map_err(|e| format!("systemctl: {e}"))?;
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
            return Err("systemctl does not answer".into());
        }
    };
    let text = String::from_utf8_lossy(&output.stderr);
    Ok(match output.status.success() {
        true => Ok(parse(&String::from_utf8_lossy(&output.stdout))),
        false => Err(text.lines().next().unwrap_or("refused").to_owned()),
    })
}

/// Blocks of `Key=value` lines, one a unit, with an empty line between.
fn parse(text: &str) -> BTreeMap<String, Vec<i32>> {
    let mut out = BTreeMap::new();
    for block in text.split("\n\n") {
        let value = |key: &str| block.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
        let pids = ["MainPID", "ControlPID"].into_iter().filter_map(|key| value(key)?.parse().ok());
        let pids: Vec<i32> = pids.filter(|pid| *pid > 0).collect();
        for name in value("Names").unwrap_or_default().split_whitespace() {
            out.insert(name.to_owned(), pids.clone());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_units() {
        let text =
            "MainPID=42\nControlPID=0\nNames=nginx.service www.service\n\nMainPID=0\nControlPID=7\nNames=x@1.service\n";
        let units = parse(text);
        assert_eq!((&units["www.service"][..], &units["x@1.service"][..]), (&[42][..], &[7][..]));
        assert!(parse("").is_empty());
    }
}
