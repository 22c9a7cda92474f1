//! What a kernel file should say, compared the way the kernel rounds and prints it.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::lists::{DevId, IdSet};
use super::value::human_bytes;

/// What v1's memory controller prints for "no limit" with 4 KiB pages (PAGE_COUNTER_MAX); larger pages print less.
pub const MEMORY_MAX: u64 = 0x7fff_ffff_ffff_f000;
/// Anything at least this large means "no limit", whatever the page size.
const NO_LIMIT: u64 = MEMORY_MAX - (1 << 20);

/// The wanted content of one file.
#[derive(Debug, Clone, PartialEq)]
pub enum Want {
    /// The trimmed text itself.
    Text(String),
    /// A number where more means wider (quotas, pids.max); `None` is unlimited, written as `unlimited`.
    Limit { value: Option<i64>, unlimited: &'static str },
    /// Bytes, rounded down to whole pages by the kernel; `None` is unlimited.
    Bytes(Option<u64>),
    /// CPUs or nodes.
    Ids(IdSet),
    /// A rate for each device; others in the file are not ours.
    Rates(BTreeMap<DevId, Option<u64>>),
    /// The first line's `key value` (memory.oom_control).
    FirstLine(String),
    /// `FROZEN` (also while `FREEZING`) or `THAWED`.
    State(bool),
}

impl Want {
    /// Does the file say so already?
    pub fn matches(&self, actual: &str, page: u64) -> bool {
        let actual = actual.trim();
        match self {
            Self::Text(want) => actual == want,
            Self::Limit { value, .. } => number(actual) == *value,
            Self::Bytes(want) => byte_limit(actual) == want.map(|b| b / page * page).filter(|b| *b < NO_LIMIT),
            Self::Ids(want) => actual.parse().as_ref() == Ok(want),
            Self::Rates(want) => {
                let now = parse_rates(actual);
                want.iter().all(|(device, rate)| now.get(device).copied() == *rate)
            }
            Self::FirstLine(want) => actual.lines().next().and_then(|l| l.split_whitespace().last()) == Some(want),
            Self::State(frozen) => (actual != "THAWED") == *frozen,
        }
    }

    /// The writes that make the file say so, one system call each.
    pub fn writes(&self, actual: &str) -> Vec<String> {
        match self {
            Self::Text(want) | Self::FirstLine(want) => vec![want.clone()],
            Self::Limit { value, unlimited } => vec![value.map_or_else(|| (*unlimited).into(), |v| v.to_string())],
            Self::Bytes(want) => vec![want.map_or_else(|| "-1".into(), |v| v.to_string())],
            Self::Ids(want) => vec![want.to_string()],
            Self::State(frozen) => vec![if *frozen { "FROZEN" } else { "THAWED" }.into()],
            Self::Rates(want) => {
                let now = parse_rates(actual);
                want.iter()
                    .filter(|(device, rate)| now.get(device).copied() != **rate)
                    .map(|(device, rate)| format!("{device} {}", rate.unwrap_or(0)))
                    .collect()
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
            Self::Bytes(want) => Some(limit(byte_limit(actual), *want)),
            Self::Limit { value, .. } => {
                Some(limit(number(actual).and_then(|n| n.try_into().ok()), value.and_then(|n| n.try_into().ok())))
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
            Self::Bytes(Some(bytes)) => human_bytes(*bytes),
            Self::Bytes(None) => "max".into(),
            Self::Rates(_) => self.writes("").join(", "),
            _ => self.writes("").concat(),
        }
    }
}

/// `8:0 1048576` lines of a throttle file.
pub fn parse_rates(text: &str) -> BTreeMap<DevId, u64> {
    text.lines()
        .filter_map(|line| {
            let (device, rate) = line.split_once(' ')?;
            Some((device.parse().ok()?, rate.trim().parse().ok()?))
        })
        .collect()
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

    #[test]
    fn bytes_compare_after_rounding_to_pages() {
        let want = Want::Bytes(Some(10_000));
        assert!(want.matches("8192\n", 4096) && !want.matches("12288", 4096));
        assert!(Want::Bytes(None).matches("9223372036854771712\n", 4096));
        assert!(Want::Bytes(Some(i64::MAX as u64)).matches("9223372036854771712", 4096));
        assert_eq!(want.width("4096"), Some(Ordering::Greater));
        assert_eq!(want.width("9223372036854771712"), Some(Ordering::Less));
        assert_eq!(Want::Bytes(None).writes(""), ["-1"]);
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
    }

    #[test]
    fn id_sets_widen_narrow_or_move_sideways() {
        let want = Want::Ids("0-1".parse().unwrap());
        assert!(want.matches("0,1\n", 4096));
        assert_eq!(want.width("0"), Some(Ordering::Greater));
        assert_eq!(want.width(""), Some(Ordering::Greater));
        assert_eq!(want.width("0-3"), Some(Ordering::Less));
        assert_eq!(want.width("2-3"), None);
    }

    #[test]
    fn rates_touch_only_the_named_devices() {
        let want = Want::Rates([(DevId(8, 0), Some(5)), (DevId(8, 16), None)].into());
        assert!(want.matches("8:0 5\n7:0 9\n", 4096));
        assert!(!want.matches("8:0 5\n8:16 9\n", 4096));
        assert_eq!(want.writes("8:16 9"), ["8:0 5", "8:16 0"]);
    }

    #[test]
    fn special_files() {
        assert!(Want::FirstLine("1".into()).matches("oom_kill_disable 1\nunder_oom 0\n", 4096));
        assert!(Want::State(true).matches("FREEZING\n", 4096) && Want::State(false).matches("THAWED", 4096));
    }
}
