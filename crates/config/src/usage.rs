//! The `[usage]`, `[events]` and `[metrics]` sections: what is measured and kept, what is told, what Prometheus gets.

use std::time::Duration;

use cgrove_core::desired::Form;
use cgrove_core::usage::{Choice, Collect};

use crate::raw::{OneOrMany, RawEvents, RawMetrics, RawUsage};
use crate::values::{Bad, bytes, duration};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    Memory,
    Redis,
}

#[derive(Debug, Clone)]
pub struct Usage {
    pub store: StoreKind,
    pub keep: Duration,
    pub memory: usize,
    /// `None`: by the document's form.
    pub collect: Option<Collect>,
}

impl Usage {
    /// What is collected of a document's groups. Cgrouparch's clients know nothing of more than its values.
    pub fn collect(&self, form: Form) -> Collect {
        self.collect.unwrap_or(match form {
            Form::ByController => Collect::PLAIN,
            Form::ByGroup => Collect::LEAN,
        })
    }
}

#[derive(Debug, Clone)]
pub struct Events {
    /// How many are kept, here and in Redis.
    pub keep: usize,
    pub pressure: Vec<Threshold>,
}

/// How long tasks of a group may wait for a resource before that is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threshold {
    pub resource: Resource,
    /// All tasks at once, not only some of them.
    pub full: bool,
    /// Of the time.
    pub percent: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    Cpu,
    Memory,
    Io,
}

impl Resource {
    const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Io];

    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Io => "io",
        }
    }
}

impl Threshold {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let (resource, kind, percent) = (words.next()?, words.next()?, words.next()?);
        let resource = Resource::ALL.into_iter().find(|r| r.name() == resource)?;
        let full = match kind {
            "some" => false,
            "full" => true,
            _ => return None,
        };
        let percent = percent.strip_suffix('%')?.parse().ok().filter(|p| (1..=100).contains(p))?;
        words.next().is_none().then_some(Self { resource, full, percent })
    }
}

impl std::fmt::Display for Threshold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}%", self.resource.name(), if self.full { "full" } else { "some" }, self.percent)
    }
}

#[derive(Debug, Clone)]
pub struct Metrics {
    /// Groups with series of their own, in document order; 0: none.
    pub groups: usize,
}

/// Of `usage.keep`.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// `redis`: an address of Redis is set.
pub(crate) fn usage(raw: RawUsage, redis: bool) -> Result<Usage, Bad> {
    let store = match (raw.store.as_deref(), redis) {
        (Some("redis"), _) | (None, true) => StoreKind::Redis,
        (Some("memory"), _) | (None, false) => StoreKind::Memory,
        (Some(other), _) => return Err(("usage.store", format!("{other:?} is not one of \"memory\", \"redis\""))),
    };
    let keep = duration("usage.keep", raw.keep, Duration::from_secs(300), Duration::from_secs(1))?;
    if keep > LONGEST {
        let why = "more than 1day: each second is a slot in memory and a key in Redis, all of which are looked for after an outage; keep more than a day where /metrics is scraped";
        return Err(("usage.keep", format!("{} is {why}", humantime::format_duration(keep))));
    }
    let memory = match raw.memory.map(|m| m.list().concat()) {
        None => 64 << 20,
        Some(text) => bytes(&text).ok_or(("usage.memory", format!("{text:?} is not a size such as \"64M\"")))?,
    };
    Ok(Usage { store, keep, memory, collect: collect(raw.collect)? })
}

fn collect(raw: Option<OneOrMany>) -> Result<Option<Collect>, Bad> {
    let mut words = "\"auto\", \"cgrouparch\", \"lean\", \"all\", or a list of ";
    let names = match raw {
        None => return Ok(None),
        Some(OneOrMany::One(word)) => match word.as_str() {
            "auto" => return Ok(None),
            "cgrouparch" => return Ok(Some(Collect::PLAIN)),
            "lean" => return Ok(Some(Collect::LEAN)),
            "all" => return Ok(Some(Collect::all())),
            _ => vec![word],
        },
        Some(other) => {
            words = "one of ";
            other.list()
        }
    };
    let allowed = || Choice::ALL.map(|c| format!("{:?}", c.name())).join(", ");
    let add = |collect: Collect, name: &String| match Choice::parse(name) {
        Some(choice) => Ok(collect.with(choice)),
        None => Err(("usage.collect", format!("{name:?} is not {words}{}", allowed()))),
    };
    names.iter().try_fold(Collect::LEAN, add).map(Some)
}

pub(crate) fn events(raw: RawEvents) -> Result<Events, Bad> {
    let pressure = match raw.pressure {
        None => vec!["memory full 10%".to_owned(), "io full 20%".to_owned()],
        Some(list) => list,
    };
    let parse = |text: &String| {
        let why =
            || format!("{text:?} is not of the form \"memory full 10%\": cpu, memory or io; some or full; 1% to 100%");
        Threshold::parse(text).ok_or_else(|| ("events.pressure", why()))
    };
    let keep = raw.keep.unwrap_or(10_000);
    if !(1..=1_000_000).contains(&keep) {
        return Err(("events.keep", format!("{keep} is not between 1 and 1000000")));
    }
    Ok(Events { keep, pressure: pressure.iter().map(parse).collect::<Result<_, _>>()? })
}

pub(crate) fn metrics(raw: RawMetrics) -> Metrics {
    Metrics { groups: raw.groups.unwrap_or(1000) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_collected_is_a_word_or_a_list() {
        let one = |word: &str| collect(Some(OneOrMany::One(word.into())));
        assert_eq!((one("auto"), one("cgrouparch")), (Ok(None), Ok(Some(Collect::PLAIN))));
        assert_eq!(one("pressure"), Ok(Some(Collect::LEAN.with(Choice::Pressure))));
        let every: Vec<String> = Choice::ALL.map(|c| c.name().to_owned()).into();
        assert_eq!(collect(Some(OneOrMany::Many(every))), one("all"));
        assert!(one("memroy").unwrap_err().1.contains("\"memory\""));
        let usage = usage(RawUsage::default(), false).unwrap();
        assert_eq!((usage.collect(Form::ByController), usage.collect(Form::ByGroup)), (Collect::PLAIN, Collect::LEAN));
    }

    #[test]
    fn slots_are_kept_for_a_day_at_most() {
        let kept = |keep: &str| {
            usage(RawUsage { keep: Some(keep.into()), ..RawUsage::default() }, true).map(|u| u.keep.as_secs())
        };
        assert_eq!(kept("24h"), Ok(86_400));
        let (name, why) = kept("86401s").unwrap_err();
        assert!(name == "usage.keep" && why.contains("1day 1s is more than 1day"), "{why}");
        assert!(kept("500years").is_err());
    }

    #[test]
    fn thresholds_are_strict() {
        let t = Threshold::parse("memory full 10%").unwrap();
        assert_eq!(
            (t.resource, t.full, t.percent, t.to_string().as_str()),
            (Resource::Memory, true, 10, "memory full 10%")
        );
        for bad in [
            "",
            "memory",
            "memory full",
            "memory full 0%",
            "memory full 101%",
            "disk some 1%",
            "io all 1%",
            "io some 1% x",
        ] {
            assert!(events(RawEvents { pressure: Some(vec![bad.into()]), keep: None }).is_err(), "{bad:?}");
        }
        assert!(events(RawEvents { pressure: None, keep: Some(0) }).is_err());
    }
}
