//! JSON as documents need it: keys in order, duplicate keys refused, and the line of any place.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// A JSON value whose objects keep their order.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    String(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// The value as compact JSON text, shortened for messages.
    pub fn shown(&self) -> String {
        let text = serde_json::to_string(self).unwrap_or_default();
        match text.char_indices().nth(60) {
            Some((i, _)) => format!("{}...", &text[..i]),
            None => text,
        }
    }

    /// A number, or a numeric string (cgrouparch accepted both).
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Number(n) => n.as_i64(),
            Self::String(s) => s.trim().parse().ok(),
            _ => None,
        }
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => s.serialize_unit(),
            Self::Bool(b) => s.serialize_bool(*b),
            Self::Number(n) => n.serialize(s),
            Self::String(text) => s.serialize_str(text),
            Self::Array(items) => s.collect_seq(items),
            Self::Object(entries) => s.collect_map(entries.iter().map(|(k, v)| (k, v))),
        }
    }
}

/// Text to value. The error says line and column, and for a duplicate key its path.
pub fn parse(text: &str) -> Result<Json, serde_json::Error> {
    let mut de = serde_json::Deserializer::from_str(text);
    let value = Seed { path: "$" }.deserialize(&mut de)?;
    de.end()?;
    Ok(value)
}

/// Reads one value; carries the path for the message about a duplicate key.
struct Seed<'a> {
    path: &'a str,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Json;
    fn deserialize<D: Deserializer<'de>>(self, de: D) -> Result<Json, D::Error> {
        de.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Json, E> {
        Ok(Json::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Json, E> {
        Ok(Json::Number(v.into()))
    }
    fn visit_u64<E>(self, v: u64) -> Result<Json, E> {
        Ok(Json::Number(v.into()))
    }
    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Json, E> {
        serde_json::Number::from_f64(v).map(Json::Number).ok_or_else(|| E::custom("not a finite number"))
    }
    fn visit_str<E>(self, v: &str) -> Result<Json, E> {
        Ok(Json::String(v.into()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Seed { path: &format!("{}[{}]", self.path, items.len()) })? {
            items.push(item);
        }
        Ok(Json::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut entries: Vec<(String, Json)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format_args!(
                    "duplicate key {key:?} in {}: each key may stand once",
                    self.path
                )));
            }
            let value = map.next_value_seed(Seed { path: &format!("{}.{key}", self.path) })?;
            entries.push((key, value));
        }
        Ok(Json::Object(entries))
    }
}

/// The 1-based line on which the value at `steps` (object keys and array indices) starts.
pub fn line_of(text: &str, steps: &[String]) -> Option<usize> {
    let mut raw: &RawValue = serde_json::from_str(text).ok()?;
    for step in steps {
        raw = if raw.get().starts_with('[') {
            serde_json::from_str::<Vec<&RawValue>>(raw.get()).ok()?.get(step.parse::<usize>().ok()?).copied()?
        } else {
            let mut de = serde_json::Deserializer::from_str(raw.get());
            de.deserialize_map(Find(step)).ok()??
        };
    }
    let offset = raw.get().as_ptr() as usize - text.as_ptr() as usize;
    Some(1 + text.get(..offset)?.matches('\n').count())
}

struct Find<'a>(&'a str);

impl<'de> Visitor<'de> for Find<'_> {
    type Value = Option<&'de RawValue>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some((key, value)) = map.next_entry::<String, &'de RawValue>()? {
            if key == self.0 {
                found = Some(value);
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_and_duplicates_are_refused_with_their_path() {
        let Json::Object(entries) = parse(r#"{"z":1,"a":[true,null,"x"]}"#).unwrap() else { panic!() };
        assert_eq!(entries[0].0, "z");
        let error = parse("{\"a\":\n{\"b\":1,\"b\":2}}").unwrap_err();
        assert_eq!(error.line(), 2);
        assert!(error.to_string().contains("duplicate key \"b\" in $.a"), "{error}");
    }

    #[test]
    fn hostile_text_is_an_error_not_a_crash() {
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse("{\"a\":1} x").is_err());
        assert!(parse("").is_err());
    }

    #[test]
    fn lines_are_found_by_path() {
        let text = "{\n \"a\": {\n  \"b\": [1,\n   2]\n }\n}";
        let steps = |s: &[&str]| s.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        assert_eq!(line_of(text, &steps(&["a", "b", "1"])), Some(4));
        assert_eq!(line_of(text, &steps(&["a", "c"])), None);
    }
}
