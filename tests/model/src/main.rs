//! Holds the model against the kernel:  lockstep [--actions N] [--seed N] [--parent /NAME] [HIERARCHY...]
//! Each hierarchy of this node that the model knows is played on beside the others. Exits 1 at the first difference.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test's tool, for people")]

use std::path::Path;
use std::process::ExitCode;

use cgrove_cgroupfs::host::Host;
use cgrove_core::actual::Version;
use cgrove_model::{lockstep, real};

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    if words == ["member"] {
        real::member();
        return ExitCode::SUCCESS;
    }
    let mut option = |name: &str, default: &str| {
        let at = words.iter().position(|w| w == name);
        at.map_or(default.to_owned(), |at| words.drain(at..(at + 2).min(words.len())).next_back().unwrap_or_default())
    };
    let own = format!("/cgrove-test-{}-model", std::process::id());
    let (actions, seed, parent) = (option("--actions", "10000"), option("--seed", "1"), option("--parent", &own));
    let (Ok(actions), Ok(seed)) = (actions.parse::<u64>(), seed.parse::<u64>()) else {
        eprintln!("--actions and --seed take numbers");
        return ExitCode::from(64);
    };
    let host = match Host::discover(Path::new("/sys/fs/cgroup")) {
        Ok(host) => host,
        Err(e) => {
            eprintln!("{e}");
            return ExitCode::from(69);
        }
    };
    let known = |label: &str| {
        label == "unified" || label.split(',').any(|c| matches!(c, "cpu" | "cpuset" | "memory" | "pids" | "freezer"))
    };
    let chosen = |label: &str| words.is_empty() || words.iter().any(|w| w == label);
    let name = parent.trim_start_matches('/');
    let played = std::thread::scope(|scope| {
        let mounts = host.mounts.iter().filter(|m| known(&m.label) && chosen(&m.label));
        let threads: Vec<_> =
            mounts.map(|mount| (mount, scope.spawn(move || lockstep::run(mount, name, actions, seed)))).collect();
        threads.into_iter().map(|(mount, t)| (mount, t.join())).collect::<Vec<_>>()
    });
    let mut good = !played.is_empty();
    for (mount, result) in played {
        let version = if mount.version == Version::V1 { "v1" } else { "v2" };
        match result {
            Ok(Ok(run)) => {
                println!(
                    "{} ({version}): {} files, {} actions, {} refused alike, {} late, {} differences",
                    mount.label,
                    run.files,
                    run.actions,
                    run.refused,
                    run.late,
                    u8::from(run.difference.is_some())
                );
                if let Some(why) = run.difference {
                    println!("  {why}");
                    good = false;
                }
            }
            Ok(Err(why)) => {
                println!("{} ({version}): not played: {why}", mount.label);
                good = false;
            }
            Err(_) => {
                println!("{} ({version}): died", mount.label);
                good = false;
            }
        }
    }
    ExitCode::from(u8::from(!good))
}
