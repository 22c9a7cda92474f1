//! Bytes, percentages, CPU bandwidth, clamps and tc handles.

use super::Value;
use crate::json::Json;

/// `64G` where it divides evenly, else the plain number.
pub(in crate::knobs) fn human_bytes(bytes: u64) -> String {
    for (shift, unit) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

pub(super) fn bytes(json: &Json) -> Result<Value, String> {
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

/// `"64G"`; `"1.5M"` is not taken: the kernel's memparse knows whole numbers only.
pub(super) fn size(json: &Json) -> Option<u64> {
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

pub(super) fn clamp(json: &Json, text: &str) -> Result<Value, String> {
    let number = match json {
        Json::Number(n) => n.as_f64(),
        _ if text == "max" => return Ok(Value::Max),
        _ => text.strip_suffix('%').unwrap_or(text).trim().parse().ok(),
    };
    let hundredths = number.filter(|p| (0.0..=100.0).contains(p)).map(|p| (p * 100.0).round() as u32);
    hundredths.map(Value::Percent).ok_or_else(|| "a percentage from 0 to 100, as in \"12.5%\", or \"max\"".into())
}

const PERIOD: u64 = 100_000;

pub(super) fn bandwidth(json: &Json, text: &str) -> Result<Value, String> {
    const HOW: &str = "\"max\", \"N%\" of the machine's CPUs, a quota in microseconds (1000 or more), or \"QUOTA PERIOD\" with a period of 1000 to 1000000";
    if let Some(percent) = percent(text) {
        return percent.map(Value::Percent).ok_or_else(|| HOW.into());
    }
    let mut words = text.split_whitespace();
    let (first, second, third) = (words.next(), words.next(), words.next());
    let fits = |q: &u64| (1000..=1 << 44).contains(q);
    let quota = match (first, json) {
        (Some("max"), _) => Some(None),
        (Some(word), _) => word.parse::<u64>().ok().filter(fits).map(Some),
        (None, _) => json.integer().and_then(|n| u64::try_from(n).ok()).filter(fits).map(Some),
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

/// tc writes a handle as `major:minor`, both hexadecimal.
pub(super) fn class_id(json: &Json, text: &str) -> Result<i64, String> {
    let hex = |s: &str, max: u32| u32::from_str_radix(s, 16).ok().filter(|n| *n <= max);
    let handle = match (text.split_once(':'), text.strip_prefix("0x")) {
        (Some((major, minor)), _) => {
            hex(major, 0xffff).zip(hex(minor, 0xffff)).map(|(a, b)| i64::from(a) << 16 | i64::from(b))
        }
        (None, Some(digits)) => hex(digits, u32::MAX).map(i64::from),
        _ => json.integer().filter(|n| (0..=i64::from(u32::MAX)).contains(n)),
    };
    handle.ok_or_else(|| "a class handle: \"10:1\" (hexadecimal, as tc writes it), \"0x100001\", or a number".into())
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;
    use crate::knobs::Kind;

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
    fn clamps_and_handles() {
        for (text, hundredths) in [("50", 5000), ("\"12.5%\"", 1250), ("\"0\"", 0), ("100", 10_000)] {
            assert_eq!(parse(Kind::Clamp, text), Ok(Value::Percent(hundredths)));
        }
        assert_eq!(parse(Kind::Clamp, "\"max\""), Ok(Value::Max));
        assert!(parse(Kind::Clamp, "101").is_err() && parse(Kind::Clamp, "-1").is_err());
        for text in ["\"10:1\"", "\"0x100001\"", "1048577"] {
            assert_eq!(parse(Kind::ClassId, text), Ok(Value::Int(0x0010_0001)), "{text}");
        }
        for bad in ["-1", "\"x:1\"", "4294967296", "\"10000:1\"", "\"0x\""] {
            assert!(parse(Kind::ClassId, bad).is_err(), "{bad}");
        }
    }
}
