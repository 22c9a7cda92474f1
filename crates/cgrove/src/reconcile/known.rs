//! What was told already, and how many lines a round may write: however much fails or drifts, it costs no more than
//! reading it once, and the log stays readable.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, RandomState};

use cgrove_core::ids::GroupPath;
use tokio::time::Instant;

use crate::budget::Budget;

/// Lines about one group that are written at once, and in a second from then on: its owner may undo our work for ever.
const OF_A_GROUP: (u32, u32) = (20, 2);
/// The same about all groups.
const OF_ALL: (u32, u32) = (100, 10);
/// Lines of a new document's round.
const OF_A_DOCUMENT: usize = 1000;

/// The last list, by a number for each entry.
#[derive(Debug, Default)]
pub(super) struct Known {
    last: HashSet<u64>,
    numbers: RandomState,
}

impl Known {
    /// Entries that the last list did not have. From now on this one is the last.
    pub(super) fn news<'a, T: Hash>(&mut self, list: &'a [T]) -> Vec<&'a T> {
        let numbers: Vec<u64> = list.iter().map(|entry| self.numbers.hash_one(entry)).collect();
        let new = list.iter().zip(&numbers).filter(|(_, number)| !self.last.contains(number)).map(|(entry, _)| entry);
        let new = new.collect();
        self.last = numbers.into_iter().collect();
        new
    }
}

/// Which lines about groups are written.
#[derive(Debug)]
pub(super) struct Lines {
    groups: Budget<GroupPath>,
    all: Budget<()>,
}

impl Default for Lines {
    fn default() -> Self {
        Self { groups: Budget::new(OF_A_GROUP.0, OF_A_GROUP.1), all: Budget::new(OF_ALL.0, OF_ALL.1) }
    }
}

/// The lines of one round.
pub(super) struct RoundLines<'a> {
    lines: &'a mut Lines,
    /// A document's author is root: his lines are only limited in number.
    document: bool,
    now: Instant,
    written: usize,
    pub(super) left_out: u64,
    pub(super) groups: HashSet<GroupPath>,
}

impl Lines {
    pub(super) fn begin(&mut self, document: bool) -> RoundLines<'_> {
        RoundLines { lines: self, document, now: Instant::now(), written: 0, left_out: 0, groups: HashSet::new() }
    }
}

impl RoundLines<'_> {
    /// Is this line to be written? Otherwise it is counted.
    pub(super) fn fits(&mut self, group: &GroupPath) -> bool {
        let fits = if self.document {
            self.written < OF_A_DOCUMENT
        } else {
            self.lines.groups.take(group.clone(), self.now) && self.lines.all.take((), self.now)
        };
        if fits {
            self.written += 1;
        } else {
            self.left_out += 1;
            self.groups.insert(group.clone());
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::*;

    thread_local! {
        static COMPARED: Cell<u64> = const { Cell::new(0) };
    }

    #[derive(Clone)]
    struct Counted(u64);

    impl Hash for Counted {
        fn hash<H: std::hash::Hasher>(&self, to: &mut H) {
            COMPARED.set(COMPARED.get() + 1);
            self.0.hash(to);
        }
    }

    #[test]
    fn many_failures_are_looked_at_once_each() {
        let mut known = Known::default();
        let list: Vec<Counted> = (0..30_000).map(Counted).collect();
        assert_eq!(known.news(&list).len(), 30_000);
        assert!(known.news(&list).is_empty());
        let other: Vec<Counted> = (1..30_001).map(Counted).collect();
        assert_eq!(known.news(&other).iter().map(|c| c.0).collect::<Vec<_>>(), [30_000]);
        assert_eq!(known.news(&list).len(), 1, "what was mended and fails again is news");
        assert_eq!(COMPARED.get(), 4 * 30_000);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_toggles_knobs_leaves_room_for_the_lines_of_others() {
        let group = |path: &str| GroupPath::parse(path).unwrap();
        let (noisy, other) = (group("/noisy"), group("/other"));
        let mut lines = Lines::default();
        let mut written = 0;
        for _ in 0..60 {
            let mut round = lines.begin(false);
            written += (0..380).filter(|_| round.fits(&noisy)).count();
            assert!(round.fits(&other));
            assert!(round.left_out >= 360 && round.groups.len() == 1);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(written <= 20 + 2 * 60, "{written}");
        let mut round = lines.begin(true);
        assert_eq!((0..5000).filter(|_| round.fits(&noisy)).count(), 1000);
    }
}
