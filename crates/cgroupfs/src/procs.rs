//! One pass over /proc: every process with its parent, start time and kind.

use std::io::Read;

use cgrove_core::placement::{Process, Processes};

use crate::paths::proc_dir;

/// Set in a kernel thread's flags (include/linux/sched.h).
const PF_KTHREAD: u64 = 0x0020_0000;
const PF_EXITING: u64 = 0x0000_0004;

/// All processes. Ones that vanish during the pass are left out.
pub fn scan() -> Processes {
    let mut out = Processes::new();
    let mut buffer = Vec::with_capacity(1024);
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok());
        if let Some(process) = pid.and_then(|pid| read_with(pid, &mut buffer)) {
            out.insert(process.pid, process);
        }
    }
    out
}

/// One process, if it still runs (zombies do not: nothing of them can be moved).
pub fn read(pid: i32) -> Option<Process> {
    read_with(pid, &mut Vec::new())
}

fn read_with(pid: i32, buffer: &mut Vec<u8>) -> Option<Process> {
    buffer.clear();
    std::fs::File::open(proc_dir(pid).join("stat")).ok()?.read_to_end(buffer).ok()?;
    parse_stat(buffer)
}

/// Is this thread on its way out? The kernel shows such a one at the root of every v1 hierarchy.
pub(crate) fn exiting(task: &std::path::Path) -> bool {
    let Ok(text) = std::fs::read_to_string(task.join("stat")) else { return true };
    let flags = text.rsplit(')').next().and_then(|rest| rest.split_ascii_whitespace().nth(6)?.parse::<u64>().ok());
    flags.is_none_or(|flags| flags & PF_EXITING != 0)
}

/// `/proc/PID/stat`; the name in parentheses may hold anything, so fields are counted from the last `)`.
pub fn parse_stat(text: &[u8]) -> Option<Process> {
    let close = text.iter().rposition(|b| *b == b')')?;
    let pid = std::str::from_utf8(text.get(..text.iter().position(|b| *b == b' ')?)?).ok()?.parse().ok()?;
    let fields: Vec<&str> = std::str::from_utf8(text.get(close + 2..)?).ok()?.split_ascii_whitespace().collect();
    let number = |i: usize| fields.get(i)?.parse::<u64>().ok();
    // Field numbers of proc_pid_stat(5), less three: state, ppid, flags, num_threads, starttime.
    // A leader that exited while other threads of it live on is no zombie yet.
    if matches!(*fields.first()?, "Z" | "X") && number(17)? <= 1 {
        return None;
    }
    Some(Process {
        pid,
        parent: i32::try_from(number(1)?).ok()?,
        kernel: number(6)? & PF_KTHREAD != 0,
        threads: u32::try_from(number(17)?).ok()?,
        start: number(19)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_any_name() {
        let line = b"42 (a) b) (c) S 7 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 3 0 98765 1 2 3";
        let process = parse_stat(line).unwrap();
        assert_eq!(
            (process.pid, process.parent, process.threads, process.start, process.kernel),
            (42, 7, 3, 98765, false)
        );
        for odd in
            [&b""[..], b"42", b"42 (x", b"42 (x)", b"x (x) S 1", b"42 (z) Z 7 42 42 0 -1 0 1 0 0 0 0 0 0 0 20 0 1 0 5"]
        {
            assert!(parse_stat(odd).is_none());
        }
    }

    #[test]
    fn this_process_is_in_the_scan() {
        let me = i32::try_from(std::process::id()).unwrap();
        let all = scan();
        assert_eq!(all.get(&me).map(|p| p.start), read(me).map(|p| p.start));
        assert!(all[&me].threads >= 1);
    }
}
