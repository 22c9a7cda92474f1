//! What a kernel file should say, compared the way the kernel rounds and prints it.

mod lines;

use std::cmp::Ordering;

pub use lines::Lines;

use super::lists::{DeviceRule, IdSet};
use super::value::human_bytes;

/// What v1's memory controller prints for "no limit" with 4 KiB pages (PAGE_COUNTER_MAX); larger pages print less.
pub const MEMORY_MAX: u64 = 0x7fff_ffff_ffff_f000;
/// Anything at least this large means "no limit", whatever the page size.
const NO_LIMIT: u64 = MEMORY_MAX - (1 << 31);

/// The wanted content of one file.
#[derive(Debug, Clone, PartialEq)]
pub enum Want {
    /// The trimmed text itself.
    Text(String),
    /// A number where more means wider (quotas, pids.max); `None` is unlimited, written as `unlimited`.
    Limit { value: Option<i64>, unlimited: &'static str },
    /// Bytes, rounded down to whole pages by the kernel; `None` is unlimited.
    Bytes { bytes: Option<u64>, unlimited: &'static str, page: Option<u64> },
    /// `cpu.max`: microseconds of CPU in each period; `None` is unlimited.
    Bandwidth { quota: Option<u64>, period: u64 },
    /// CPUs or nodes.
    Ids(IdSet),
    /// Lines by disk or name; others in the file are not ours.
    Lines(Lines),
    /// The first line's `key value` (memory.oom_control).
    FirstLine(String),
    /// `FROZEN` (also while `FREEZING`) or `THAWED`.
    State(bool),
    /// v1's devices.list: these and no others, or all but these.
    Devices { allow: bool, rules: Vec<DeviceRule> },
    /// cgroup.subtree_control: at least these controllers.
    Enabled(Vec<&'static str>),
}

impl Want {
    /// Does the file say so already? `page` is the machine's page size.
    pub fn matches(&self, actual: &str, page: u64) -> bool {
        let actual = actual.trim();
        match self {
            Self::Text(want) => actual == want,
            Self::Limit { value, .. } => number(actual) == *value,
            Self::Bytes { bytes, page: huge, .. } => {
                let page = huge.unwrap_or(page);
                byte_limit(actual) == bytes.map(|b| b / page * page).filter(|b| *b < NO_LIMIT)
            }
            Self::Bandwidth { quota, period } => bandwidth(actual) == (*quota, *period),
            Self::Ids(want) => actual.parse().as_ref() == Ok(want),
            Self::Lines(lines) => lines.match_in(actual),
            Self::FirstLine(want) => actual.lines().next().and_then(|l| l.split_whitespace().last()) == Some(want),
            Self::State(frozen) => (actual != "THAWED") == *frozen,
            Self::Devices { allow, rules } => {
                let mut now: Vec<DeviceRule> = actual.lines().filter_map(|l| l.parse().ok()).collect();
                let mut want = rules.clone();
                now.sort();
                want.sort();
                // The kernel does not tell what is denied; only that all is allowed otherwise.
                if *allow { now == want } else { rules.is_empty() && now == [DeviceRule::All] }
            }
            Self::Enabled(wanted) => wanted.iter().all(|c| actual.split_whitespace().any(|a| a == *c)),
        }
    }

    /// The writes that make the file say so, one system call each.
    pub fn writes(&self, actual: &str) -> Vec<String> {
        match self {
            Self::Text(want) if want.is_empty() => vec!["\n".into()],
            Self::Text(want) | Self::FirstLine(want) => vec![want.clone()],
            Self::Limit { value, unlimited } => vec![value.map_or_else(|| (*unlimited).into(), |v| v.to_string())],
            Self::Bytes { bytes, unlimited, .. } => {
                vec![bytes.map_or_else(|| (*unlimited).into(), |v| v.to_string())]
            }
            Self::Bandwidth { quota, period } => {
                vec![format!("{} {period}", quota.map_or_else(|| "max".into(), |q| q.to_string()))]
            }
            // An empty write never reaches the kernel's handler; a newline does, and means the same.
            Self::Ids(want) if want.is_empty() => vec!["\n".into()],
            Self::Ids(want) => vec![want.to_string()],
            Self::State(frozen) => vec![if *frozen { "FROZEN" } else { "THAWED" }.into()],
            Self::Lines(lines) => lines.writes(actual),
            Self::Devices { allow, rules } => {
                let (first, each) = if *allow { ("deny", "allow") } else { ("allow", "deny") };
                let all = rules == &[DeviceRule::All];
                let reset = (!all).then(|| format!("{first} a"));
                reset.into_iter().chain(rules.iter().map(|r| format!("{each} {r}"))).collect()
            }
            Self::Enabled(wanted) => {
                let missing = wanted.iter().filter(|c| !actual.split_whitespace().any(|a| a == **c));
                missing.map(|c| format!("+{c}")).collect()
            }
        }
    }

    /// How the wanted content compares with the present one: `Greater` widens (parents must go first),
    /// `Less` narrows (children first), `None` is incomparable, `Equal` does not matter.
    pub fn width(&self, actual: &str) -> Option<Ordering> {
        let limit = |now: Option<u64>, want: Option<u64>| {
            now.map_or(u64::MAX, |n| n).cmp(&want.map_or(u64::MAX, |n| n)).reverse()
        };
        match self {
            Self::Bytes { bytes, .. } => Some(limit(byte_limit(actual), *bytes)),
            Self::Limit { value, .. } => {
                Some(limit(number(actual).and_then(|n| n.try_into().ok()), value.and_then(|n| n.try_into().ok())))
            }
            Self::Bandwidth { quota, period } => {
                let share = |(quota, period): (Option<u64>, u64)| {
                    quota.map_or(u128::MAX, |q| (u128::from(q) << 64) / u128::from(period.max(1)))
                };
                Some(share((*quota, *period)).cmp(&share(bandwidth(actual))))
            }
            Self::Ids(want) => {
                let now: IdSet = actual.parse().unwrap_or_default();
                match (want.is_superset(&now), now.is_superset(want)) {
                    (true, _) => Some(Ordering::Greater),
                    (_, true) => Some(Ordering::Less),
                    _ => None,
                }
            }
            _ => Some(Ordering::Equal),
        }
    }

    /// For people: what the file will say.
    pub fn shown(&self) -> String {
        match self {
            Self::Bytes { bytes: Some(bytes), .. } => human_bytes(*bytes),
            Self::Bytes { bytes: None, .. } => "max".into(),
            _ => self.writes("").join(", ").trim().to_owned(),
        }
    }
}

/// `max 100000` or `50000 100000`; anything else is unlimited.
fn bandwidth(text: &str) -> (Option<u64>, u64) {
    let mut words = text.split_whitespace();
    let quota = words.next().and_then(|w| w.parse().ok());
    (quota, words.next().and_then(|w| w.parse().ok()).unwrap_or(100_000))
}

fn number(text: &str) -> Option<i64> {
    text.trim().parse().ok().filter(|n| *n >= 0)
}

fn byte_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|n| *n < NO_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(bytes: Option<u64>, unlimited: &'static str) -> Want {
        Want::Bytes { bytes, unlimited, page: None }
    }

    #[test]
    fn bytes_compare_after_rounding_to_pages() {
        let want = bytes(Some(10_000), "-1");
        assert!(want.matches("8192\n", 4096) && !want.matches("12288", 4096));
        assert!(bytes(None, "-1").matches("9223372036854771712\n", 4096));
        assert!(bytes(Some(i64::MAX as u64), "-1").matches("9223372036854771712", 4096));
        assert_eq!(want.width("4096"), Some(Ordering::Greater));
        assert_eq!(want.width("9223372036854771712"), Some(Ordering::Less));
        assert_eq!(
            (bytes(None, "-1").writes(""), bytes(None, "max").writes("")),
            (vec!["-1".into()], vec!["max".into()])
        );
        assert!(bytes(None, "max").matches("max\n", 4096) && !want.matches("max", 4096));
        let huge = Want::Bytes { bytes: Some(5 << 20), unlimited: "max", page: Some(2 << 20) };
        assert!(huge.matches("4194304", 4096));
        // hugetlb without a limit prints whole huge pages.
        assert!(
            bytes(None, "-1").matches("9223372036852678656", 4096)
                && bytes(None, "-1").matches("9223372035781033984", 4096)
        );
    }

    #[test]
    fn unlimited_is_wider_than_any_number() {
        let quota = |value| Want::Limit { value, unlimited: "-1" };
        assert!(quota(None).matches("-1", 4096) && quota(Some(5000)).matches("5000", 4096));
        assert_eq!(quota(None).width("5000"), Some(Ordering::Greater));
        assert_eq!(quota(Some(5000)).width("-1"), Some(Ordering::Less));
        let pids = Want::Limit { value: None, unlimited: "max" };
        assert!(pids.matches("max\n", 4096));
        assert_eq!(pids.writes(""), ["max"]);
        let max = |quota, period| Want::Bandwidth { quota, period };
        assert!(
            max(Some(5000), 10_000).matches("5000 10000\n", 4096) && max(None, 100_000).matches("max 100000", 4096)
        );
        assert_eq!(max(Some(5000), 10_000).width("max 100000"), Some(Ordering::Less));
        assert_eq!(max(Some(5000), 10_000).width("5000 20000"), Some(Ordering::Greater));
        assert_eq!(max(None, 100_000).writes(""), ["max 100000"]);
    }

    #[test]
    fn id_sets_widen_narrow_or_move_sideways() {
        let want = Want::Ids("0-1".parse().unwrap());
        assert!(want.matches("0,1\n", 4096));
        assert_eq!(want.width("0"), Some(Ordering::Greater));
        assert_eq!(want.width(""), Some(Ordering::Greater));
        assert_eq!(want.width("0-3"), Some(Ordering::Less));
        assert_eq!(want.width("2-3"), None);
        let none = Want::Ids(IdSet::default());
        assert!(none.matches("\n", 4096) && none.writes("0") == ["\n"]);
    }

    #[test]
    fn special_files() {
        assert!(Want::FirstLine("1".into()).matches("oom_kill_disable 1\nunder_oom 0\n", 4096));
        assert!(Want::State(true).matches("FREEZING\n", 4096) && Want::State(false).matches("THAWED", 4096));
        let enabled = Want::Enabled(vec!["cpu", "io"]);
        assert!(enabled.matches("cpuset cpu io memory", 4096) && !enabled.matches("cpuset io", 4096));
        assert_eq!(enabled.writes("cpuset io"), ["+cpu"]);
    }

    #[test]
    fn device_lists() {
        let rules = |text: &[&str]| text.iter().map(|t| t.parse().unwrap()).collect::<Vec<DeviceRule>>();
        let some = Want::Devices { allow: true, rules: rules(&["c 1:3 rwm", "b 8:* r"]) };
        assert!(some.matches("b 8:* r\nc 1:3 rwm\n", 4096) && !some.matches("a *:* rwm", 4096));
        assert_eq!(some.writes(""), ["deny a", "allow c 1:3 rwm", "allow b 8:* r"]);
        let all = Want::Devices { allow: true, rules: rules(&["a"]) };
        assert!(all.matches("a *:* rwm\n", 4096) && all.writes("") == ["allow a"]);
        let most = Want::Devices { allow: false, rules: rules(&["c 1:3 w"]) };
        assert_eq!(most.writes(""), ["allow a", "deny c 1:3 w"]);
        assert!(!most.matches("a *:* rwm", 4096));
    }
}
