//! Typed values: what a document's JSON means for a knob, or what would have been allowed.

mod kernel;
mod keyed;
mod sizes;

use std::collections::BTreeMap;

use super::lists::{DeviceRule, IdSet};
use super::table::Kind;
use crate::json::Json;
pub(super) use keyed::DEFAULT;
pub(super) use sizes::human_bytes;

/// A knob's value, checked against its [`Kind`].
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Int(i64),
    /// `max`: no limit.
    Max,
    Bytes(u64),
    /// Percent (of the machine, where the kind says so), in hundredths (`"12.5%"` is 1250).
    Percent(u32),
    /// Microseconds of CPU in each period; `None` is unlimited.
    Bandwidth {
        quota: Option<u64>,
        period: u64,
    },
    Flag(bool),
    Word(&'static str),
    Ids(IdSet),
    /// By disk or name as the document writes it (`default` for a weight's own): the fields' numbers, `None` is `max`.
    Keyed(BTreeMap<String, BTreeMap<&'static str, Option<u64>>>),
    Rules(Vec<DeviceRule>),
}

impl Value {
    /// As a document writes it.
    pub fn to_json(&self, kind: Kind) -> Json {
        let text = |s: &str| Json::String(s.into());
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
            Self::Word(word) => text(word),
            Self::Ids(ids) => Json::String(ids.to_string()),
            Self::Keyed(keys) => keyed::to_json(kind, keys),
            Self::Rules(rules) => Json::Array(rules.iter().map(|r| Json::String(r.to_string())).collect()),
        }
    }

    /// The disks that it names by path (`/dev/sda`).
    pub fn device_paths(&self) -> impl Iterator<Item = &str> {
        let keys = match self {
            Self::Keyed(keys) => Some(keys.keys()),
            _ => None,
        };
        keys.into_iter().flatten().map(String::as_str).filter(|k| k.starts_with('/'))
    }
}

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
        Kind::Bytes => sizes::bytes(json),
        Kind::Bandwidth => sizes::bandwidth(json, text),
        Kind::Clamp => sizes::clamp(json, text),
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
        Kind::Word(words) => words
            .iter()
            .find(|w| **w == text)
            .map(|w| Value::Word(w))
            .ok_or_else(|| words.iter().map(|w| format!("{w:?}")).collect::<Vec<_>>().join(" or ")),
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
        Kind::ClassId => sizes::class_id(json, text).map(Value::Int),
        Kind::Weight { min, max } => keyed::weights(json, min, max).map(Value::Keyed),
        Kind::PerDisk(fields) => keyed::per_disk(json, fields).map(Value::Keyed),
        Kind::PerName(fields) => keyed::per_name(json, fields).map(Value::Keyed),
        Kind::Rules => rules(json),
    }
}

fn in_range(json: &Json, min: i64, max: i64) -> Result<i64, String> {
    json.integer().filter(|n| (min..=max).contains(n)).ok_or_else(|| format!("a whole number from {min} to {max}"))
}

fn rules(json: &Json) -> Result<Value, String> {
    const HOW: &str = "a list of device rules, as in [\"c 1:3 rwm\", \"b 8:* r\"], or [\"a\"] for all devices";
    let Json::Array(items) = json else { return Err(HOW.into()) };
    let rule = |item: &Json| match item {
        Json::String(text) => text.parse::<DeviceRule>().map_err(|()| format!("{HOW} (not {text:?})")),
        other => Err(format!("{HOW} (not {})", other.shown())),
    };
    let rules: Vec<_> = items.iter().map(rule).collect::<Result<_, _>>()?;
    if rules.is_empty() || rules.len() > 1 && rules.contains(&DeviceRule::All) {
        return Err(HOW.into());
    }
    Ok(Value::Rules(rules))
}

/// A value from JSON text, for the tests here and below.
#[cfg(test)]
fn parse(kind: Kind, text: &str) -> Result<Value, String> {
    parse_value(kind, &crate::json::parse(text).unwrap())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knobs::{find, knobs};

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
        for knob in knobs() {
            let (min, max) = match knob.kind {
                Kind::Int { min, max } | Kind::IntOrMax { min, max } => (min, max),
                Kind::Weight { min, max } => (min as i64, max as i64),
                _ => continue,
            };
            for (n, fits) in [(min, true), (max, true), (min - 1, false), (max + 1, false)] {
                assert_eq!(parse(knob.kind, &n.to_string()).is_ok(), fits, "{} {n}", knob.name);
            }
        }
    }

    #[test]
    fn lists_flags_states_words() {
        assert!(
            parse(Kind::Ids, "\"0-3\"").is_ok() && parse(Kind::Ids, "0").is_ok() && parse(Kind::Ids, "\"\"").is_err()
        );
        assert_eq!(parse(Kind::Flag, "true"), Ok(Value::Flag(true)));
        assert!(parse(Kind::Flag, "2").is_err() && parse(Kind::State, "\"frozen\"").is_err());
        let partition = find("cpuset.cpus.partition").unwrap().kind;
        assert_eq!(parse(partition, "\"isolated\""), Ok(Value::Word("isolated")));
        assert!(parse(partition, "\"roots\"").unwrap_err().contains("\"member\" or \"root\""));
    }

    #[test]
    fn device_rules() {
        let Ok(Value::Rules(rules)) = parse(Kind::Rules, r#"["c 1:3 mr", "b 8:* r"]"#) else { panic!() };
        assert_eq!(rules.iter().map(ToString::to_string).collect::<Vec<_>>(), ["c 1:3 rm", "b 8:* r"]);
        assert!(parse(Kind::Rules, r#"["a"]"#).is_ok());
        for bad in [
            "[]",
            "5",
            r#"["x 1:3 r"]"#,
            r#"["c 1:3"]"#,
            r#"["c 1:3 q"]"#,
            r#"["a", "c 1:3 r"]"#,
            r#"["c 1 r"]"#,
            "[5]",
        ] {
            assert!(parse(Kind::Rules, bad).is_err(), "{bad}");
        }
    }

    /// What a document may say, it can say again in the same way.
    #[test]
    fn values_survive_writing() {
        let samples = [
            ("cpu.max", "\"50000 100000\""),
            ("cpu.uclamp.max", "\"12.5%\""),
            ("memory.max", "\"64G\""),
            ("io.weight", r#"{"default":50,"8:0":200}"#),
            ("io.weight", "70"),
            ("io.max", r#"{"*":{"rbps":104857600},"/dev/sda":{"wiops":"max"}}"#),
            ("io.latency", r#"{"8:0":{"target":75000}}"#),
            ("blkio.throttle.read_bps_device", r#"{"8:0":"max"}"#),
            ("rdma.max", r#"{"mlx4_0":{"hca_handle":2,"hca_object":"max"}}"#),
            ("misc.max", r#"{"sev":5}"#),
            ("net_prio.ifpriomap", r#"{"eth0":5}"#),
            ("devices.allow", r#"["c 1:3 rwm"]"#),
            ("net_cls.classid", "\"10:1\""),
        ];
        for (name, text) in samples {
            let kind = find(name).unwrap().kind;
            let value = parse(kind, text).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(parse_value(kind, &value.to_json(kind)), Ok(value), "{name}");
        }
    }
}
