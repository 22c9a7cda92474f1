//! Events that come faster than anybody reads: some of each kind and place are told at once, the rest is counted and
//! told as one event when a second is over. While it goes on, sums become fewer.

use std::collections::HashMap;
use std::time::Duration;

use cgrove_core::event::Kind;
use cgrove_core::ids::GroupPath;
use tokio::time::Instant;

use super::News;
use crate::budget::Budget;

/// Told at once of one kind in one place, and in a second from then on.
const OF_A_PLACE: (u32, u32) = (50, 2);
/// The same of one kind, wherever.
const OF_A_KIND: (u32, u32) = (200, 20);
/// The first sum is told after this time; while it goes on, after twice as long each time, up to the last.
const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(16);
/// Sums that are kept apart by place; others are of their kind alone.
const MOST: usize = 256;

type Place = (Kind, Option<GroupPath>);

#[derive(Debug)]
pub(super) struct Sums {
    places: Budget<Place>,
    kinds: Budget<Kind>,
    owed: HashMap<Place, Sum>,
}

#[derive(Debug)]
struct Sum {
    count: u64,
    since: Instant,
    period: Duration,
}

impl Sum {
    fn due(&self) -> Instant {
        self.since + self.period
    }
}

impl Sums {
    pub(super) fn new() -> Self {
        let (places, kinds) = (Budget::new(OF_A_PLACE.0, OF_A_PLACE.1), Budget::new(OF_A_KIND.0, OF_A_KIND.1));
        Self { places, kinds, owed: HashMap::new() }
    }

    /// Is it to be told now? Otherwise it is counted.
    pub(super) fn passes(&mut self, news: &News, now: Instant) -> bool {
        let place = place(news);
        if self.places.take(place.clone(), now) && self.kinds.take(news.kind, now) {
            return true;
        }
        let key = if self.owed.len() < MOST || self.owed.contains_key(&place) { place } else { (news.kind, None) };
        let sum = self.owed.entry(key).or_insert(Sum { count: 0, since: now, period: FIRST });
        sum.count += if news.is_sum || news.kind.counts_times() { news.count.unwrap_or(1) } else { 1 };
        false
    }

    /// When the next sum is to be told.
    pub(super) fn due(&self) -> Option<Instant> {
        self.owed.values().map(Sum::due).min()
    }

    /// Sums whose time is over. A place where nothing was counted meanwhile begins anew.
    pub(super) fn take(&mut self, now: Instant) -> Vec<News> {
        let mut out = Vec::new();
        self.owed.retain(|(kind, group), sum| {
            if sum.due() > now {
                return true;
            }
            let count = std::mem::take(&mut sum.count);
            if count > 0 {
                out.push(told(*kind, group.as_ref(), count, now - sum.since));
                (sum.since, sum.period) = (now, (sum.period * 2).min(LAST));
            }
            count > 0
        });
        out
    }
}

/// Where it happened, as far as that is not for others to choose: anybody names the groups that he makes.
fn place(news: &News) -> Place {
    let group = match news.kind {
        Kind::GroupAppeared | Kind::GroupDisappeared => news.group.as_ref().and_then(GroupPath::up),
        _ => news.group.clone(),
    };
    (news.kind, group)
}

fn told(kind: Kind, group: Option<&GroupPath>, count: u64, during: Duration) -> News {
    let below = if matches!(kind, Kind::GroupAppeared | Kind::GroupDisappeared) { " below it" } else { "" };
    let time = match during.as_secs_f64().round() as u64 {
        0 | 1 => "second".to_owned(),
        n => format!("{n} seconds"),
    };
    let text = format!("and {count} more of this kind{below} in the last {time}");
    News { group: group.cloned(), count: Some(count), is_sum: true, ..News::new(kind, text) }
}
