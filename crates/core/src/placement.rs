//! Which process belongs to which group: named ones first, then everything that descends from them.

use std::collections::{BTreeMap, HashMap};

use crate::ids::GroupPath;

/// One process of a pass over /proc.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    /// Start time in clock ticks since boot: with the pid it names the process for good.
    pub start: u64,
    /// A kernel thread, never moved.
    pub kernel: bool,
    pub threads: u32,
}

/// Every process by pid.
pub type Processes = HashMap<i32, Process>;

/// A pid that some source names for a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub group: GroupPath,
    pub pid: i32,
    /// Start time of the process that was meant when the source was read.
    pub start: u64,
    /// The pid file, for messages.
    pub source: String,
}

/// Where a process belongs, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    pub process: Process,
    /// The named process itself, or the ancestor that was named.
    pub named: i32,
}

/// The outcome for all groups.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Placement {
    /// Sorted by group, then pid.
    pub groups: BTreeMap<GroupPath, Vec<Target>>,
    /// Claims that were not honoured, each with its reason.
    pub problems: Vec<String>,
}

/// Assigns every process. `claims` come in document order; `daemon` is never moved.
pub fn place(claims: &[Claim], processes: &Processes, daemon: i32) -> Placement {
    let mut out = Placement::default();
    let mut named: HashMap<i32, &Claim> = HashMap::new();
    for claim in claims {
        let refusal = match processes.get(&claim.pid) {
            _ if claim.pid == daemon => Some("is the daemon itself"),
            None => Some("does not run"),
            Some(p) if p.kernel => Some("is a kernel thread"),
            Some(p) if p.start != claim.start => Some("belongs to another process by now"),
            Some(_) => None,
        };
        if let Some(why) = refusal {
            out.problems.push(format!("{}: pid {} {why}", claim.source, claim.pid));
            continue;
        }
        match named.get(&claim.pid) {
            None => {
                named.insert(claim.pid, claim);
            }
            Some(first) if first.group == claim.group => {}
            Some(first) => {
                // The deepest path wins, then document order.
                let winner = if claim.group.depth() > first.group.depth() { claim } else { *first };
                out.problems.push(format!(
                    "pid {} is claimed by {} ({}) and {} ({}): it goes to {}",
                    claim.pid, first.group, first.source, claim.group, claim.source, winner.group
                ));
                named.insert(claim.pid, winner);
            }
        }
    }
    let mut memo: HashMap<i32, Option<i32>> = HashMap::new();
    for process in processes.values().filter(|p| !p.kernel && p.pid != daemon) {
        if let Some(ancestor) = nearest_named(process.pid, processes, &named, &mut memo)
            && let Some(claim) = named.get(&ancestor)
        {
            out.groups.entry(claim.group.clone()).or_default().push(Target { process: *process, named: ancestor });
        }
    }
    for targets in out.groups.values_mut() {
        targets.sort_by_key(|t| (t.process.pid != t.named, t.process.pid));
    }
    out
}

/// The nearest named process at or above `pid`. Parents that vanish mid-pass end the search.
fn nearest_named(
    pid: i32,
    processes: &Processes,
    named: &HashMap<i32, &Claim>,
    memo: &mut HashMap<i32, Option<i32>>,
) -> Option<i32> {
    let mut trail = Vec::new();
    let mut at = pid;
    let found = loop {
        if named.contains_key(&at) {
            break Some(at);
        }
        if let Some(known) = memo.get(&at) {
            break *known;
        }
        trail.push(at);
        memo.insert(at, None);
        match processes.get(&at) {
            Some(p) if p.parent > 0 => at = p.parent,
            _ => break None,
        }
    };
    memo.extend(trail.into_iter().map(|pid| (pid, found)));
    found
}

/// What a pid file says: its first line, trimmed, is one decimal pid greater than 1, without a sign.
pub fn parse_pid(content: &[u8]) -> Result<i32, &'static str> {
    let line = content.split(|b| *b == b'\n').next().unwrap_or_default();
    let text = std::str::from_utf8(line).map_err(|_| "its first line is not text")?.trim();
    if text.is_empty() {
        return Err(if content.is_empty() { "it is empty" } else { "its first line is empty" });
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err("its first line is not a decimal number without a sign");
    }
    match text.parse() {
        Ok(0 | 1) => Err("pids 0 and 1 are never moved"),
        Ok(pid) => Ok(pid),
        Err(_) => Err("the number is too large for a pid"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processes(list: &[(i32, i32)]) -> Processes {
        list.iter()
            .map(|&(pid, parent)| (pid, Process { pid, parent, start: 1, kernel: pid == 2, threads: 1 }))
            .collect()
    }

    fn claim(group: &str, pid: i32) -> Claim {
        Claim { group: GroupPath::parse(group).unwrap(), pid, start: 1, source: format!("/run/{pid}.pid") }
    }

    fn pids(placement: &Placement, group: &str) -> Vec<i32> {
        placement.groups.get(&GroupPath::parse(group).unwrap()).into_iter().flatten().map(|t| t.process.pid).collect()
    }

    #[test]
    fn descendants_follow_unless_named_themselves() {
        let table = processes(&[(10, 1), (11, 10), (12, 11), (13, 12), (20, 1)]);
        let placement = place(&[claim("/a", 10), claim("/b", 12)], &table, 99);
        assert_eq!((pids(&placement, "/a"), pids(&placement, "/b")), (vec![10, 11], vec![12, 13]));
        assert!(placement.problems.is_empty());
    }

    #[test]
    fn a_pid_claimed_twice_goes_to_the_deepest_then_the_first() {
        let table = processes(&[(10, 1)]);
        let placement = place(&[claim("/a", 10), claim("/b", 10), claim("/c/d", 10)], &table, 99);
        assert_eq!(pids(&placement, "/c/d"), [10]);
        assert_eq!(placement.problems.len(), 2);
        assert_eq!(pids(&place(&[claim("/a", 10), claim("/b", 10)], &table, 99), "/a"), [10]);
    }

    #[test]
    fn daemon_kernel_threads_and_the_dead_are_refused() {
        let table = processes(&[(2, 0), (10, 1), (11, 10)]);
        let placement = place(&[claim("/a", 2), claim("/a", 10), claim("/a", 77)], &table, 10);
        assert_eq!((placement.problems.len(), pids(&placement, "/a").len()), (3, 0));
        let reused = Claim { start: 7, ..claim("/a", 11) };
        assert!(place(&[reused], &table, 99).problems[0].contains("another process"));
        // The daemon stays even when an ancestor is named; its own children are that ancestor's descendants.
        let placement = place(&[claim("/a", 10)], &processes(&[(10, 1), (11, 10), (12, 11)]), 11);
        assert_eq!(pids(&placement, "/a"), [10, 12]);
    }

    #[test]
    fn circles_from_a_torn_pass_end() {
        let table = processes(&[(10, 11), (11, 10)]);
        assert!(place(&[], &table, 1).groups.is_empty());
        assert_eq!(pids(&place(&[claim("/a", 10)], &table, 1), "/a").len(), 2);
    }

    #[test]
    fn pid_files_are_read_strictly() {
        for (text, pid) in [("123\n", 123), (" 123 \nmore\nlines", 123), ("4194304", 4_194_304)] {
            assert_eq!(parse_pid(text.as_bytes()), Ok(pid), "{text:?}");
        }
        for bad in ["", "\n5", "0", "1", "-5", "+5", "0x10", "5\0", "12 34", "99999999999", "abc", "5.0", "\u{663}"] {
            assert!(parse_pid(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(parse_pid(b"\xff\xfe").is_err());
    }
}
