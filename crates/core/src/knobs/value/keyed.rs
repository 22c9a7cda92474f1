//! Values with a line for each disk or name: `{"8:0": {"rbps": "100M"}}`, `{"eth0": 5}`, `{"default": 100, "8:0": 200}`.

use std::collections::BTreeMap;

use super::sizes::size;
use crate::json::Json;
use crate::knobs::lists::DevId;
use crate::knobs::table::{Field, Kind};

type Keyed = BTreeMap<String, BTreeMap<&'static str, Option<u64>>>;

/// What a weight for all disks is called among its lines.
pub(in crate::knobs) const DEFAULT: &str = "default";

pub(super) fn weights(json: &Json, min: u64, max: u64) -> Result<Keyed, String> {
    let field = Field { name: "", min, max, bytes: false, or_max: false };
    let how = format!("a whole number from {min} to {max}, or {{\"default\": {max}, \"8:0\": {min}}}");
    match json {
        Json::Object(entries) if !entries.is_empty() => {
            let mut out = Keyed::new();
            for (key, value) in entries {
                let key = if key == DEFAULT { key.clone() } else { disk(key)? };
                out.insert(key.clone(), [("", number(value, &field).map_err(|e| format!("for {key}: {e}"))?)].into());
            }
            Ok(out)
        }
        _ => number(json, &field).map(|n| [(DEFAULT.to_owned(), [("", n)].into())].into()).map_err(|_| how),
    }
}

pub(super) fn per_disk(json: &Json, fields: &'static [Field]) -> Result<Keyed, String> {
    let Json::Object(entries) = json else {
        return Err(
            "an object with a key for each disk, as in {\"8:0\": ...}, {\"/dev/sda\": ...} or {\"*\": ...}".into()
        );
    };
    lines(entries, fields, disk)
}

pub(super) fn per_name(json: &Json, fields: &'static [Field]) -> Result<Keyed, String> {
    let Json::Object(entries) = json else {
        return Err("an object with a key for each name, as in {\"name\": ...}".into());
    };
    lines(entries, fields, |name| {
        let fits =
            !name.is_empty() && name.len() <= 128 && !name.contains(|c: char| c.is_whitespace() || c.is_control());
        fits.then(|| name.to_owned()).ok_or_else(|| format!("a name without spaces (not {name:?})"))
    })
}

/// A disk by number, by path below /dev, or all whole ones.
fn disk(text: &str) -> Result<String, String> {
    let path = text.starts_with("/dev/") && !text.split('/').any(|c| c == "..") && !text.contains(char::is_whitespace);
    if path || text == "*" {
        return Ok(text.to_owned());
    }
    text.parse::<DevId>()
        .map(|id| id.to_string())
        .map_err(|how| format!("{how}, a path such as \"/dev/sda\", or \"*\" for all whole disks (not {text:?})"))
}

fn lines(
    entries: &[(String, Json)],
    fields: &'static [Field],
    key: impl Fn(&str) -> Result<String, String>,
) -> Result<Keyed, String> {
    let mut out = Keyed::new();
    for (name, value) in entries {
        let line = line(value, fields).map_err(|how| format!("for {name}: {how}"))?;
        if out.insert(key(name)?, line).is_some() {
            return Err(format!("each key once (not {name:?} twice)"));
        }
    }
    Ok(out)
}

fn line(json: &Json, fields: &'static [Field]) -> Result<BTreeMap<&'static str, Option<u64>>, String> {
    if let [only] = fields
        && only.name.is_empty()
    {
        return Ok([("", number(json, only)?)].into());
    }
    let names = || fields.iter().map(|f| f.name).collect::<Vec<_>>().join(", ");
    let Json::Object(entries) = json else {
        return Err(format!("an object with {}", names()));
    };
    let mut out = BTreeMap::new();
    for (key, value) in entries {
        let field =
            fields.iter().find(|f| f.name == key).ok_or_else(|| format!("the keys {} (not {key:?})", names()))?;
        out.insert(field.name, number(value, field).map_err(|how| format!("{key}: {how}"))?);
    }
    Ok(out)
}

fn number(json: &Json, field: &Field) -> Result<Option<u64>, String> {
    if field.or_max && matches!(json, Json::String(s) if s.trim() == "max") {
        return Ok(None);
    }
    let value = if field.bytes { size(json) } else { json.integer().and_then(|n| u64::try_from(n).ok()) };
    value.filter(|n| (field.min..=field.max).contains(n)).map(Some).ok_or_else(|| {
        let or_max = if field.or_max { ", or \"max\"" } else { "" };
        match field.bytes {
            true => format!("bytes a second, {} or more, with K, M, G or T{or_max}", field.min),
            false => format!("a whole number from {} to {}{or_max}", field.min, field.max),
        }
    })
}

/// As a document writes it.
pub(super) fn to_json(kind: Kind, keys: &Keyed) -> Json {
    let number = |n: &Option<u64>| n.map_or_else(|| Json::String("max".into()), |n| Json::Number(n.into()));
    let one = |line: &BTreeMap<&'static str, Option<u64>>| line.get("").map(number);
    if let (Kind::Weight { .. }, 1, Some(line)) = (kind, keys.len(), keys.get(DEFAULT)) {
        return one(line).unwrap_or(Json::Null);
    }
    let entries = keys.iter().map(|(key, line)| {
        let fields = || Json::Object(line.iter().map(|(name, n)| ((*name).to_owned(), number(n))).collect());
        (key.clone(), one(line).unwrap_or_else(fields))
    });
    Json::Object(entries.collect())
}

#[cfg(test)]
mod tests {
    use crate::knobs::{Value, find};

    fn parse(knob: &str, text: &str) -> Result<Value, String> {
        super::super::parse(find(knob).unwrap().kind, text)
    }

    #[test]
    fn disks_have_typed_limits() {
        let Ok(Value::Keyed(map)) = parse("io.max", r#"{"8:0": {"rbps": "100M", "wiops": 5, "wbps": "max"}}"#) else {
            panic!()
        };
        assert_eq!(map["8:0"], [("rbps", Some(100 << 20)), ("wbps", None), ("wiops", Some(5))].into());
        for good in [r#"{"*": {"rbps": 5}}"#, r#"{"/dev/disk/by-id/x": {}}"#] {
            assert!(parse("io.max", good).is_ok(), "{good}");
        }
        for bad in [
            r#"{"sda": {}}"#,
            r#"{"/etc/x": {}}"#,
            r#"{"/dev/../x": {}}"#,
            r#"{"8:0": {"bps": 1}}"#,
            r#"{"8:0": 5}"#,
            r#"{"8:0": {"rbps": 0}}"#,
            r#"{"8:0": {}, "8:00": {}}"#,
            "5",
        ] {
            assert!(parse("io.max", bad).is_err(), "{bad}");
        }
        assert!(parse("blkio.throttle.read_iops_device", r#"{"8:0": "1K"}"#).is_err());
        assert!(parse("blkio.throttle.read_bps_device", r#"{"8:0": "1K"}"#).is_ok());
    }

    #[test]
    fn weights_are_one_number_or_one_for_each_disk() {
        let weight = |text| parse("io.weight", text);
        assert_eq!(weight("50"), weight(r#"{"default": "50"}"#));
        assert!(weight(r#"{"8:0": 200}"#).is_ok());
        for bad in ["0", "10001", "{}", r#"{"8:0": "max"}"#, r#"{"x": 5}"#, r#"{"8:0": {"": 5}}"#, "\"max\""] {
            assert!(weight(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_have_counts() {
        assert!(parse("rdma.max", r#"{"mlx4_0": {"hca_handle": 2, "hca_object": "max"}}"#).is_ok());
        assert!(parse("rdma.max", r#"{"mlx4_0": {"handles": 2}}"#).unwrap_err().contains("hca_handle"));
        assert!(parse("misc.max", r#"{"sev": "max"}"#).is_ok() && parse("misc.max", r#"{"a b": 1}"#).is_err());
        assert!(parse("net_prio.ifpriomap", r#"{"eth0": "max"}"#).is_err());
    }
}
