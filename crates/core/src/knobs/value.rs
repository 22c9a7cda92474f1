//! Typed values: what a document's JSON means for a knob, or what would have been allowed.

use std::collections::BTreeMap;

use super::lists::{DevId, IdSet};
use super::table::Kind;
use crate::json::Json;

/// A knob's value, checked against its [`Kind`].
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Int(i64),
    /// `max`: no limit.
    Max,
    Bytes(u64),
    /// Percent of the machine, in hundredths (`"12.5%"` is 1250).
    Percent(u32),
    /// Microseconds of CPU in each period; `None` is unlimited.
    Bandwidth {
        quota: Option<u64>,
        period: u64,
    },
    Flag(bool),
    Ids(IdSet),
    Rates(BTreeMap<DevId, Option<u64>>),
    Io(BTreeMap<DevId, IoLimits>),
}

/// One device's limits in `io.max` order: rbps, wbps, riops, wiops; inner `None` is `max`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoLimits(pub [Option<Option<u64>>; 4]);

/// The keys of a device in `io.max`.
pub(super) const IO_KEYS: [&str; 4] = ["rbps", "wbps", "riops", "wiops"];

impl Value {
    /// As a document writes it.
    pub fn to_json(&self, kind: Kind) -> Json {
        let text = |s: &str| Json::String(s.into());
        let rate = |r: &Option<u64>| r.map_or_else(|| text("max"), |n| Json::Number(n.into()));
        match self {
            Self::Int(n) => Json::Number((*n).into()),
            Self::Max => text("max"),
            Self::Bytes(b) => match human_bytes(*b) {
                plain if plain.ends_with(|c: char| c.is_ascii_digit()) => Json::Number((*b).into()),
                short => Json::String(short),
            },
            Self::Percent(p) => Json::String(format!("{}%", f64::from(*p) / 100.0)),
            Self::Bandwidth { quota: None, period } => Json::String(format!("max {period}")),
            Self::Bandwidth { quota: Some(quota), period } => Json::String(format!("{quota} {period}")),
            Self::Flag(frozen) if kind == Kind::State => text(if *frozen { "FROZEN" } else { "THAWED" }),
            Self::Flag(flag) => Json::Number(u8::from(*flag).into()),
            Self::Ids(ids) => Json::String(ids.to_string()),
            Self::Rates(rates) => Json::Object(rates.iter().map(|(d, r)| (d.to_string(), rate(r))).collect()),
            Self::Io(devices) => Json::Object(
                devices
                    .iter()
                    .map(|(device, limits)| {
                        let keys = IO_KEYS.iter().zip(&limits.0);
                        let set = keys.filter_map(|(key, r)| Some(((*key).to_owned(), rate(r.as_ref()?))));
                        (device.to_string(), Json::Object(set.collect()))
                    })
                    .collect(),
            ),
        }
    }
}

/// `64G` where it divides evenly, else the plain number.
pub(super) fn human_bytes(bytes: u64) -> String {
    for (shift, unit) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

const PERIOD: u64 = 100_000;

/// Checks a value against the knob's kind. The error says what is allowed.
pub fn parse_value(kind: Kind, json: &Json) -> Result<Value, String> {
    let text = match json {
        Json::String(s) => s.trim(),
        _ => "",
    };
    match kind {
        Kind::Int { min, max } => in_range(json, min, max).map(Value::Int),
        Kind::IntOrMax { min, max } if text != "max" => {
            in_range(json, min, max).map(Value::Int).map_err(|e| e + ", or \"max\"")
        }
        Kind::IntOrMax { .. } => Ok(Value::Max),
        Kind::Bytes => bytes(json),
        Kind::Bandwidth => bandwidth(json, text),
        Kind::Quota => match json.integer() {
            Some(-1) => Ok(Value::Int(-1)),
            Some(n) if (1000..=1 << 44).contains(&n) => Ok(Value::Int(n)),
            _ => Err("microseconds, 1000 or more, or -1 for unlimited".into()),
        },
        Kind::Flag => match (json, json.integer()) {
            (Json::Bool(b), _) => Ok(Value::Flag(*b)),
            (_, Some(n @ (0 | 1))) => Ok(Value::Flag(n == 1)),
            _ => Err("0 or 1 (or false or true)".into()),
        },
        Kind::Ids => {
            let text = json.integer().map(|n| n.to_string()).unwrap_or_else(|| text.to_owned());
            let ids: IdSet = text.parse()?;
            if ids.is_empty() {
                return Err(
                    "a list of numbers and ranges, as in \"0-3,8\"; leave the knob out to use the parent's".into()
                );
            }
            Ok(Value::Ids(ids))
        }
        Kind::State => match text {
            "FROZEN" => Ok(Value::Flag(true)),
            "THAWED" => Ok(Value::Flag(false)),
            _ => Err("\"FROZEN\" or \"THAWED\"".into()),
        },
        Kind::Rates { bytes } => devices(json, |v| rate(v, bytes)).map(Value::Rates),
        Kind::IoMax => devices(json, io_limits).map(Value::Io),
    }
}

fn in_range(json: &Json, min: i64, max: i64) -> Result<i64, String> {
    json.integer().filter(|n| (min..=max).contains(n)).ok_or_else(|| format!("a whole number from {min} to {max}"))
}

fn bytes(json: &Json) -> Result<Value, String> {
    const HOW: &str = "bytes as a number, with K, M, G or T (\"64G\"), \"N%\" of the machine's memory, or \"max\"";
    if let Json::String(s) = json {
        if s.trim() == "max" || s.trim() == "-1" {
            return Ok(Value::Max);
        }
        if let Some(percent) = percent(s) {
            return percent.map(Value::Percent).ok_or_else(|| HOW.into());
        }
    }
    size(json).map(Value::Bytes).ok_or_else(|| HOW.into())
}

/// `"64G"`, `"1.5M"` is not taken: the kernel's memparse knows whole numbers only.
fn size(json: &Json) -> Option<u64> {
    let text = match json {
        Json::Number(n) => return n.as_u64().filter(|n| *n <= i64::MAX as u64),
        Json::String(s) => s.trim(),
        _ => return None,
    };
    let (digits, shift) = match text.as_bytes().last()?.to_ascii_uppercase() {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        b'T' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let n: u64 = all_digits.then(|| digits.parse().ok())??;
    n.checked_mul(1 << shift).filter(|n| *n <= i64::MAX as u64)
}

/// `None` when it is no percentage at all, `Some(None)` when it is out of range.
fn percent(text: &str) -> Option<Option<u32>> {
    let number = text.trim().strip_suffix('%')?;
    let value: Option<f64> = number.trim().parse().ok();
    Some(value.filter(|p| (0.01..=100.0).contains(p)).map(|p| (p * 100.0).round() as u32))
}

fn bandwidth(json: &Json, text: &str) -> Result<Value, String> {
    const HOW: &str = "\"max\", \"N%\" of the machine's CPUs, a quota in microseconds (1000 or more), or \"QUOTA PERIOD\" with a period of 1000 to 1000000";
    if let Some(percent) = percent(text) {
        return percent.map(Value::Percent).ok_or_else(|| HOW.into());
    }
    let mut words = text.split_whitespace();
    let (first, second, third) = (words.next(), words.next(), words.next());
    let quota = match (first, json) {
        (Some("max"), _) => Some(None),
        (Some(word), _) => word.parse::<u64>().ok().filter(|q| (1000..=1 << 44).contains(q)).map(Some),
        (None, _) => {
            json.integer().and_then(|n| u64::try_from(n).ok()).filter(|q| (1000..=1 << 44).contains(q)).map(Some)
        }
    };
    let period = match second {
        None => Some(PERIOD),
        Some(word) => word.parse().ok().filter(|p| (1000..=1_000_000).contains(p)),
    };
    match (quota, period, third) {
        (Some(quota), Some(period), None) => Ok(Value::Bandwidth { quota, period }),
        _ => Err(HOW.into()),
    }
}

fn devices<T>(json: &Json, read: impl Fn(&Json) -> Result<T, String>) -> Result<BTreeMap<DevId, T>, String> {
    let Json::Object(entries) = json else {
        return Err("an object with a key for each device, as in {\"8:0\": ...}".into());
    };
    let mut out = BTreeMap::new();
    for (device, value) in entries {
        let id: DevId = device.parse().map_err(|how| format!("{how} (not {device:?})"))?;
        out.insert(id, read(value).map_err(|how| format!("for device {device}: {how}"))?);
    }
    Ok(out)
}

fn rate(json: &Json, in_bytes: bool) -> Result<Option<u64>, String> {
    if matches!(json, Json::String(s) if s.trim() == "max") {
        return Ok(None);
    }
    let value = if in_bytes {
        size(json)
    } else {
        json.integer().and_then(|n| u64::try_from(n).ok()).filter(|n| *n <= u64::from(u32::MAX))
    };
    value.filter(|n| *n > 0).map(Some).ok_or_else(|| {
        if in_bytes {
            "bytes a second, 1 or more, with K, M, G or T, or \"max\""
        } else {
            "operations a second, 1 to 4294967295, or \"max\""
        }
        .into()
    })
}

fn io_limits(json: &Json) -> Result<IoLimits, String> {
    let Json::Object(entries) = json else {
        return Err("an object with rbps, wbps, riops, wiops".into());
    };
    let mut limits = IoLimits::default();
    for (key, value) in entries {
        let i = IO_KEYS
            .iter()
            .position(|k| k == key)
            .ok_or_else(|| format!("the keys rbps, wbps, riops, wiops (not {key:?})"))?;
        limits.0[i] = Some(rate(value, i < 2).map_err(|how| format!("{key}: {how}"))?);
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knobs::KNOBS;

    fn parse(kind: Kind, text: &str) -> Result<Value, String> {
        parse_value(kind, &crate::json::parse(text).unwrap())
    }

    #[test]
    fn integers_have_ranges_and_may_be_strings() {
        let kind = Kind::Int { min: 2, max: 262_144 };
        for good in ["2", "\"262144\"", "1024"] {
            assert!(parse(kind, good).is_ok(), "{good}");
        }
        for bad in ["1", "262145", "1.5", "true", "\"x\"", "null", "-3", "99999999999999999999"] {
            assert!(parse(kind, bad).unwrap_err().contains("2 to 262144"), "{bad}");
        }
    }

    #[test]
    fn every_integer_knob_takes_its_boundaries_and_nothing_beyond() {
        for knob in KNOBS {
            if let Kind::Int { min, max } | Kind::IntOrMax { min, max } = knob.kind {
                for (n, fits) in [(min, true), (max, true), (min - 1, false), (max + 1, false)] {
                    assert_eq!(parse(knob.kind, &n.to_string()).is_ok(), fits, "{} {n}", knob.name);
                }
            }
        }
    }

    #[test]
    fn bytes_take_units_percent_and_max() {
        assert_eq!(parse(Kind::Bytes, "\"64G\""), Ok(Value::Bytes(64 << 30)));
        assert_eq!(parse(Kind::Bytes, "\"4k\""), Ok(Value::Bytes(4096)));
        assert_eq!(parse(Kind::Bytes, "\"max\""), Ok(Value::Max));
        assert_eq!(parse(Kind::Bytes, "\"12.5%\""), Ok(Value::Percent(1250)));
        for bad in ["\"1.5G\"", "-1", "\"\"", "\"G\"", "\"101%\"", "\"0%\"", "\"99999999T\"", "\"1 G\"", "{}"] {
            assert!(parse(Kind::Bytes, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bandwidth_forms() {
        let b = |quota, period| Ok(Value::Bandwidth { quota, period });
        assert_eq!(parse(Kind::Bandwidth, "\"max\""), b(None, 100_000));
        assert_eq!(parse(Kind::Bandwidth, "\"50000 100000\""), b(Some(50_000), 100_000));
        assert_eq!(parse(Kind::Bandwidth, "20000"), b(Some(20_000), 100_000));
        assert_eq!(parse(Kind::Bandwidth, "\"50%\""), Ok(Value::Percent(5000)));
        for bad in ["999", "\"5 5\"", "\"\"", "\"1 2 3\"", "\"50000 9999999\"", "null"] {
            assert!(parse(Kind::Bandwidth, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn devices_are_numbers_with_typed_limits() {
        let Ok(Value::Io(map)) = parse(Kind::IoMax, r#"{"8:0": {"rbps": "100M", "wiops": 5, "wbps": "max"}}"#) else {
            panic!()
        };
        assert_eq!(map[&DevId(8, 0)].0, [Some(Some(100 << 20)), Some(None), None, Some(Some(5))]);
        for bad in [r#"{"sda": {}}"#, r#"{"8:0": {"bps": 1}}"#, r#"{"8:0": 5}"#, r#"{"8:0": {"rbps": 0}}"#, "5"] {
            assert!(parse(Kind::IoMax, bad).is_err(), "{bad}");
        }
        assert!(parse(Kind::Rates { bytes: false }, r#"{"8:0": "1K"}"#).is_err());
    }

    #[test]
    fn lists_flags_states() {
        assert!(
            parse(Kind::Ids, "\"0-3\"").is_ok() && parse(Kind::Ids, "0").is_ok() && parse(Kind::Ids, "\"\"").is_err()
        );
        assert_eq!(parse(Kind::Flag, "true"), Ok(Value::Flag(true)));
        assert!(parse(Kind::Flag, "2").is_err() && parse(Kind::State, "\"frozen\"").is_err());
    }
}
