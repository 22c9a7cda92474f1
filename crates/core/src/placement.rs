//! Which process belongs to which group: those that pid files name, then those that rules match, first match first;
//! and everything that descends from them and is not named itself.

mod matcher;

use std::collections::{BTreeMap, HashMap, HashSet};

use self::matcher::Matcher;
use crate::ids::GroupPath;
use crate::rules::{AllTraits, Criteria, Known, Traits};

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

/// A rule, with everything that the node had to look up.
#[derive(Debug, Clone)]
pub struct Rule {
    /// `None`: what matches is left where it is.
    pub group: Option<GroupPath>,
    pub criteria: Criteria,
    /// Where the rule stands, for messages: `tasks.rules[2]`.
    pub source: String,
}

/// Where a process belongs, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    pub process: Process,
    /// The process itself, or the ancestor that was named.
    pub named: i32,
    /// Named by its pid, not merely matched: protection does not stop it.
    pub by_pid: bool,
}

/// The outcome for all groups.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Placement {
    /// Sorted by group, then pid.
    pub groups: BTreeMap<GroupPath, Vec<Target>>,
    /// Claims that were not honoured, each with its reason.
    pub problems: Vec<String>,
}

impl Placement {
    /// These processes alone, if they belong anywhere.
    #[must_use]
    pub fn only(&self, pids: &HashSet<i32>) -> Self {
        let some = |targets: &Vec<Target>| targets.iter().filter(|t| pids.contains(&t.process.pid)).copied().collect();
        let groups = self.groups.iter().map(|(path, targets)| (path.clone(), some(targets)));
        Self { groups: groups.filter(|(_, targets): &(_, Vec<_>)| !targets.is_empty()).collect(), problems: Vec::new() }
    }
}

/// What names a process: the first of pid files (the deepest path wins, then document order) and rules in order.
#[derive(Debug, Clone, Copy)]
enum Naming<'a> {
    Claim(&'a Claim),
    Rule(&'a Rule),
    /// A rule that may match it: what of the process would tell could not be read. It stays where it is.
    Doubt(&'a Rule),
}

impl Naming<'_> {
    fn group(&self) -> Option<&GroupPath> {
        match self {
            Self::Claim(claim) => Some(&claim.group),
            Self::Rule(rule) => rule.group.as_ref(),
            Self::Doubt(_) => None,
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Claim(claim) => claim.source.clone(),
            Self::Rule(rule) | Self::Doubt(rule) => format!("{} ({})", rule.source, rule.criteria.shown()),
        }
    }
}

/// May a rule match this process by what it is? A quick look at one process, which no unit or ancestor is asked about.
pub fn may_match(rules: &[Rule], known: &Known, process: &Process, traits: &Traits) -> bool {
    let by_looks = |c: &Criteria| c.user.is_some() || c.exe.is_some() || c.cmdline.is_some();
    rules.iter().filter(|r| by_looks(&r.criteria)).any(|rule| {
        let criteria = Criteria { unit: None, ancestor_pid_file: None, ..rule.criteria.clone() };
        let rule = Rule { criteria, group: None, source: String::new() };
        Matcher::new(&rule, known).matches(process, traits, &Processes::new()) == Some(true)
    })
}

/// Everything that decides where processes belong.
pub struct Census<'a> {
    /// In document order.
    pub claims: &'a [Claim],
    /// In the order in which they count.
    pub rules: &'a [Rule],
    pub known: &'a Known,
    pub processes: &'a Processes,
    pub traits: &'a AllTraits,
    /// Never moved: this process, and the daemon if that is another one.
    pub daemons: [i32; 2],
}

impl<'a> Census<'a> {
    /// Assigns every process.
    pub fn place(&self) -> Placement {
        let mut out = Placement::default();
        let named = self.named(&mut out.problems);
        let mut memo: HashMap<i32, Option<i32>> = HashMap::new();
        for process in self.processes.values().filter(|p| self.movable(p)) {
            let nearest = nearest_named(process.pid, self.processes, &named, &mut memo);
            let Some((ancestor, naming)) = nearest.and_then(|pid| Some((pid, named.get(&pid)?))) else { continue };
            if let Some(group) = naming.group() {
                let by_pid = ancestor == process.pid
                    && matches!(
                        naming,
                        Naming::Claim(_) | Naming::Rule(Rule { criteria: Criteria { unit: Some(_), .. }, .. })
                    );
                out.groups.entry(group.clone()).or_default().push(Target {
                    process: *process,
                    named: ancestor,
                    by_pid,
                });
            }
        }
        for targets in out.groups.values_mut() {
            targets.sort_by_key(|t| (t.process.pid != t.named, t.process.pid));
        }
        out
    }

    /// Why a process belongs where it does, or nowhere: one line.
    pub fn why(&self, pid: i32) -> (Option<GroupPath>, String) {
        let Some(process) = self.processes.get(&pid) else { return (None, "it does not run".into()) };
        if process.kernel {
            return (None, "a kernel thread is never moved".into());
        }
        if !self.movable(process) {
            return (None, if pid == 1 { "pid 1 is never moved" } else { "the daemon is never moved" }.into());
        }
        let named = self.named(&mut Vec::new());
        let nearest = nearest_named(pid, self.processes, &named, &mut HashMap::new());
        let Some((ancestor, naming)) = nearest.and_then(|at| Some((at, named.get(&at)?))) else {
            return (None, "no pid file and no rule names it or an ancestor".into());
        };
        let whom = if ancestor == pid { "it".into() } else { format!("its ancestor {ancestor}") };
        let verb = match (naming, naming.group()) {
            (Naming::Doubt(_), _) => "cannot be compared, for lack of an answer in time, with",
            (_, None) => "ignores",
            (Naming::Claim(_), _) => "names",
            (Naming::Rule(_), _) => "matches",
        };
        (naming.group().cloned(), format!("{} {verb} {whom}", naming.shown()))
    }

    fn movable(&self, process: &Process) -> bool {
        !process.kernel && !self.daemons.contains(&process.pid) && process.pid > 1
    }

    /// Every process that a pid file or a rule names by itself.
    fn named(&self, problems: &mut Vec<String>) -> HashMap<i32, Naming<'a>> {
        let mut named: HashMap<i32, Naming<'a>> = HashMap::new();
        for claim in self.claims {
            if let Some(why) = self.refusal(claim) {
                problems.push(format!("{}: pid {} {why}", claim.source, claim.pid));
                continue;
            }
            match named.get(&claim.pid) {
                Some(Naming::Claim(first)) if first.group != claim.group => {
                    // The deepest path wins, then document order.
                    let winner = if claim.group.depth() > first.group.depth() { claim } else { *first };
                    problems.push(format!(
                        "pid {} is claimed by {} ({}) and {} ({}): it goes to {}",
                        claim.pid, first.group, first.source, claim.group, claim.source, winner.group
                    ));
                    named.insert(claim.pid, Naming::Claim(winner));
                }
                Some(_) => {}
                None => {
                    named.insert(claim.pid, Naming::Claim(claim));
                }
            }
        }
        let matchers: Vec<Matcher<'a>> = self.rules.iter().map(|rule| Matcher::new(rule, self.known)).collect();
        if !matchers.is_empty() {
            let nothing = Traits::default();
            for process in self.processes.values().filter(|p| self.movable(p)) {
                if named.contains_key(&process.pid) {
                    continue;
                }
                let traits = self.traits.get(&process.pid).unwrap_or(&nothing);
                let mut answers = matchers.iter().map(|m| (m.rule, m.matches(process, traits, self.processes)));
                match answers.find(|(_, answer)| *answer != Some(false)) {
                    Some((rule, Some(_))) => drop(named.insert(process.pid, Naming::Rule(rule))),
                    Some((rule, None)) => drop(named.insert(process.pid, Naming::Doubt(rule))),
                    None => {}
                }
            }
        }
        named
    }

    fn refusal(&self, claim: &Claim) -> Option<&'static str> {
        match self.processes.get(&claim.pid) {
            _ if self.daemons.contains(&claim.pid) => Some("is the daemon itself"),
            None => Some("does not run"),
            Some(p) if p.kernel => Some("is a kernel thread"),
            Some(p) if p.start != claim.start => Some("belongs to another process by now"),
            Some(_) => None,
        }
    }
}

/// The process that began this one. A later one under the parent's number is somebody else: the parent ended, and its
/// number was used again, before the pass over /proc came there.
fn parent<'a>(process: &Process, processes: &'a Processes) -> Option<&'a Process> {
    processes.get(&process.parent).filter(|up| up.start <= process.start)
}

/// The nearest named process at or above `pid`. Parents that vanish mid-pass end the search.
fn nearest_named(
    pid: i32,
    processes: &Processes,
    named: &HashMap<i32, Naming>,
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
        match processes.get(&at).and_then(|p| parent(p, processes)) {
            Some(up) => at = up.pid,
            None => break None,
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
    use crate::rules::Needs;

    fn processes(list: &[(i32, i32)]) -> Processes {
        list.iter()
            .map(|&(pid, parent)| (pid, Process { pid, parent, start: 1, kernel: pid == 2, threads: 1 }))
            .collect()
    }

    fn claim(group: &str, pid: i32) -> Claim {
        Claim { group: GroupPath::parse(group).unwrap(), pid, start: 1, source: format!("/run/{pid}.pid") }
    }

    fn place(claims: &[Claim], processes: &Processes, daemon: i32) -> Placement {
        census(claims, &[], &Known::default(), processes, &AllTraits::new(), daemon).place()
    }

    fn census<'a>(
        claims: &'a [Claim],
        rules: &'a [Rule],
        known: &'a Known,
        processes: &'a Processes,
        traits: &'a AllTraits,
        daemon: i32,
    ) -> Census<'a> {
        Census { claims, rules, known, processes, traits, daemons: [daemon, daemon] }
    }

    fn rule(group: &str, json: &str) -> Rule {
        let criteria = Criteria::from_json(&crate::json::parse(json).unwrap()).unwrap();
        let group = (group != "ignore").then(|| GroupPath::parse(group).unwrap());
        Rule { group, criteria, source: format!("rule {json}") }
    }

    #[test]
    fn rules_match_in_order_after_pid_files() {
        let table = processes(&[(1, 0), (10, 1), (11, 10), (20, 1), (21, 20), (30, 1), (40, 1), (41, 40)]);
        let traits =
            |uid, exe: &str| Traits { uid, exe: exe.into(), cmdline: format!("{exe} --run"), ..Traits::default() };
        let all: AllTraits = [
            (10, traits(33, "/sbin/web")),
            (11, traits(33, "/sbin/web")),
            (20, traits(33, "/bin/job")),
            (21, traits(33, "/bin/helper")),
            (30, traits(33, "/bin/backup")),
            (40, traits(5, "/bin/main")),
            (41, traits(5, "/bin/worker")),
        ]
        .into();
        let known = Known {
            users: [("www".to_owned(), 33)].into(),
            units: [("main.service".to_owned(), vec![(40, 1)])].into(),
            pid_files: [("/run/top.pid".to_owned(), (20, 1))].into(),
        };
        let rules = [
            rule("ignore", r#"{"exe": "*/backup"}"#),
            rule("/units", r#"{"unit": "main.*"}"#),
            rule("/helpers", r#"{"ancestor_pid_file": "/run/top.pid", "cmdline": "*helper*"}"#),
            rule("/www", r#"{"user": "www"}"#),
        ];
        let claims = [claim("/web", 10)];
        let census = census(&claims, &rules, &known, &table, &all, 99);
        let placement = census.place();
        assert_eq!(pids(&placement, "/web"), [10]);
        assert_eq!(pids(&placement, "/www"), [11, 20]);
        assert_eq!(pids(&placement, "/helpers"), [21]);
        // What a unit's main process starts goes with it.
        assert_eq!(pids(&placement, "/units"), [40, 41]);
        // What is ignored is nowhere.
        assert_eq!(placement.groups.len(), 4);
        let by_pid = |group: &str| placement.groups[&GroupPath::parse(group).unwrap()][0].by_pid;
        assert!(by_pid("/web") && by_pid("/units") && !by_pid("/www"));
        assert_eq!(census.why(30).0, None);
        assert!(census.why(30).1.contains("ignores it"));
        assert!(census.why(41).1.contains("its ancestor 40"));
        assert!(census.why(10).1.contains("/run/10.pid names it"));
        assert!(census.why(1).1.contains("pid 1") && census.why(77).1.contains("does not run"));
    }

    #[test]
    fn nobody_is_moved_by_doubt() {
        let table = processes(&[(10, 1), (11, 10), (20, 1), (30, 1)]);
        let unknown = Needs { exe: true, ..Needs::default() };
        let dead = Traits { uid: 33, unknown, ..Traits::default() };
        let all: AllTraits =
            [(10, dead.clone()), (11, Traits { uid: 5, ..Traits::default() }), (20, dead.clone()), (30, dead)].into();
        let rules = [
            rule("/five", r#"{"user": "4"}"#),
            rule("/web", r#"{"user": "33", "exe": "/sbin/web"}"#),
            rule("/all", r#"{"user": "33"}"#),
        ];
        let known = Known::default();
        let claims = [claim("/claimed", 20)];
        let census = census(&claims, &rules, &known, &table, &all, 99);
        // Whom a pid file names is known; what descends from one in doubt stays with it.
        assert_eq!((census.place().groups.len(), pids(&census.place(), "/claimed")), (1, vec![20]));
        assert!(
            census.why(10).1.contains("for lack of an answer") && census.why(11).0.is_none(),
            "{:?}",
            census.why(10)
        );
        // A rule that does not match in any case is no doubt.
        let others = [rule("/root", r#"{"user": "0", "exe": "/sbin/web"}"#), rule("/all", r#"{"user": "33"}"#)];
        let census = self::census(&[], &others, &known, &table, &all, 99);
        assert_eq!(pids(&census.place(), "/all"), [10, 20, 30, 11]);
    }

    #[test]
    fn a_pid_that_was_given_to_another_process_is_not_the_units() {
        let table = processes(&[(40, 1), (41, 40)]);
        let known = Known {
            units: [("main.service".to_owned(), vec![(40, 7)])].into(),
            pid_files: [("/run/top.pid".to_owned(), (40, 7))].into(),
            ..Known::default()
        };
        let rules = [rule("/a", r#"{"unit": "main.service"}"#), rule("/b", r#"{"ancestor_pid_file": "/run/top.pid"}"#)];
        assert!(census(&[], &rules, &known, &table, &AllTraits::new(), 99).place().groups.is_empty());
    }

    #[test]
    fn a_rule_whose_user_or_pid_file_is_unknown_matches_nobody() {
        let table = processes(&[(10, 1)]);
        let all: AllTraits = [(10, Traits::default())].into();
        let rules = [rule("/a", r#"{"user": "nobody-here"}"#), rule("/b", r#"{"ancestor_pid_file": "/run/none.pid"}"#)];
        assert!(census(&[], &rules, &Known::default(), &table, &all, 99).place().groups.is_empty());
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

    #[test]
    fn a_parents_number_that_was_used_again_is_nobodys_parent() {
        let mut table = processes(&[(1, 0), (10, 1), (11, 10)]);
        let placed = |table: &Processes| place(&[claim("/a", 10)], table, 0).groups.values().flatten().count();
        assert_eq!(placed(&table), 2);
        // 11's parent ended; the 10 that a pid file names began after 11 did.
        table.insert(11, Process { start: 0, ..table[&11] });
        assert_eq!(placed(&table), 1);
        let below = rule("/b", r#"{"ancestor_pid_file": "/run/x.pid"}"#);
        let known = Known { pid_files: [("/run/x.pid".into(), (10, 1))].into(), ..Known::default() };
        let (traits, rules) = (AllTraits::new(), [below]);
        assert_eq!(census(&[], &rules, &known, &table, &traits, 0).place().groups.len(), 0);
    }
}
