//! `cgrove reclaim`: asks the kernel once to take memory back from a group. An action, so no document has it.

use cgrove_cgroupfs::Fault;
use cgrove_cgroupfs::host::Host;
use cgrove_cgroupfs::paths::Tree;
use cgrove_core::actual::Version;
use cgrove_core::ids::Controller;
use cgrove_core::json::Json;
use cgrove_core::knobs::{Kind, Value, parse_value};
use nix::errno::Errno;

use super::args::Args;
use super::{cgexec, document};
use crate::exit::Exit;
use crate::term;

pub(super) fn run(args: &Args, group: &str, amount: &str) -> Result<u8, Exit> {
    let bytes = match parse_value(Kind::Bytes, &Json::String(amount.into())) {
        Ok(Value::Bytes(bytes)) if bytes > 0 => bytes,
        _ => return Err(Exit::usage(format!("{amount:?} is not an amount of memory such as 100M"))),
    };
    let config = document::load(args)?;
    let desired = document::in_force(&config)?;
    let path = cgexec::path_of(&desired, group)?;
    let host = Host::discover(&config.cgroup.dir)?;
    let mount = host.with([Controller::Memory].into_iter().collect()).find(|m| m.version == Version::V2);
    let mount = mount.ok_or_else(|| {
        Exit::unavailable(
            "memory is on cgroup v1 here, which has no memory.reclaim; set memory.soft_limit_in_bytes".into(),
        )
    })?;
    let tree = Tree::new(mount, config.parents());
    let file = tree.file(&path, "memory.reclaim");
    let current =
        || -> Option<u64> { std::fs::read_to_string(tree.file(&path, "memory.current")).ok()?.trim().parse().ok() };
    let before = current().unwrap_or(0);
    let result = std::fs::write(&file, bytes.to_string());
    let taken = before.saturating_sub(current().unwrap_or(before));
    match result {
        Ok(()) => {
            term::out(&format!("{path}: asked for {bytes} bytes, {taken} fewer are in use now"));
        }
        // The kernel's way to say that there was not as much to take.
        Err(e) if e.raw_os_error() == Some(Errno::EAGAIN as i32) => {
            return Err(Exit::unavailable(format!(
                "{path}: the kernel found less than {bytes} bytes to reclaim; {taken} fewer are in use now"
            )));
        }
        Err(e) => return Err(Fault::new("write", &file, &e).with_value(&bytes.to_string()).into()),
    }
    Ok(0)
}
