//! What tests/bench/run lets others do beside cgrove: bare system calls, and libraries. Prints JSON: CPU time in
//! nanoseconds, one number, or one for each pass.
//!
//!     reads SECONDS < files                          one pread of each file a second
//!     create < lines DIRECTORY [FILE VALUE]          mkdir, open, write
//!     look < lines DIRECTORY [FILE]                  stat, open, read
//!     remove < directories                           rmdir
//!     processes SECONDS                              a pass over /proc each second
//!     moves < lines FILE PID                         one write each
//!     cgroups-rs create|remove PARENT COUNT          PARENT/g0 and so on in cpu and blkio
//!     cgroups-rs|libcgroups read PARENT COUNT SECONDS
//!     below read DIRECTORY SECONDS
//!     rendering|planning COUNT PASSES                what cgrove thinks

mod clock;
mod floor;
mod libraries;
mod thought;

use std::io::{BufRead, Error, Result};
use std::path::{Path, PathBuf};

use serde_json::json;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u32>().map_err(|e| Error::other(format!("{text}: {e}")));
    let count = |text: &str| number(text).map(|n| n as usize);
    let told = match words[..] {
        ["reads", seconds] => json!(floor::reads(&paths()?, number(seconds)?)?),
        ["create"] => json!(floor::create(&lines()?)?),
        ["look"] => json!(floor::look(&lines()?)?),
        ["remove"] => json!(floor::remove(&paths()?)?),
        ["processes", seconds] => json!(floor::processes(number(seconds)?)?),
        ["moves"] => json!(floor::moves(&lines()?)?),
        ["cgroups-rs", "create", parent, groups] => json!(libraries::cgroups_rs_create(parent, count(groups)?)?),
        ["cgroups-rs", "remove", parent, groups] => json!(libraries::cgroups_rs_remove(parent, count(groups)?)?),
        ["cgroups-rs", "read", parent, groups, seconds] => {
            json!(libraries::cgroups_rs_read(parent, count(groups)?, number(seconds)?)?)
        }
        ["libcgroups", "read", parent, groups, seconds] => {
            json!(libraries::libcgroups_read(parent, count(groups)?, number(seconds)?)?)
        }
        ["below", "read", directory, seconds] => json!(libraries::below_read(Path::new(directory), number(seconds)?)?),
        ["rendering", groups, passes] => json!(thought::rendering(count(groups)?, number(passes)?)?),
        ["planning", groups, passes] => json!(thought::planning(count(groups)?, number(passes)?)?),
        _ => return Err(Error::other("see the beginning of tests/bench/peers/src/main.rs")),
    };
    println!("{}", json!({ "cpu_ns": told, "peak_kib": clock::peak_kib() }));
    Ok(())
}

fn lines() -> Result<Vec<String>> {
    std::io::stdin().lock().lines().collect()
}

fn paths() -> Result<Vec<PathBuf>> {
    Ok(lines()?.into_iter().map(PathBuf::from).collect())
}
