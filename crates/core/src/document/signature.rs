//! The signature of a document: what of it is signed, and where the signature stands. Keys and curves are elsewhere.

use super::error::{DocumentError, Place};
use crate::json::{self, Json};

/// The member of the document that holds it.
pub const MEMBER: &str = "signature";
/// First line of what is signed; another meaning would get another line.
const TITLE: &str = "cgrove document 1";

/// `"signature": {"key": "...", "serial": 1, "value": "..."}`, at the document's top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// Names the key, as [`super::digest`] of its 32 bytes.
    pub key: String,
    /// Grows with each document that is signed: Unix milliseconds, unless someone chose otherwise.
    pub serial: u64,
    /// Ed25519 over [`signed`], in base64.
    pub value: String,
}

/// The bytes that are signed: a title, the serial number, and the document without its signature as JSON without
/// white space, members in their order. So a document may be indented anew, but not changed.
pub fn signed(top: &[(String, Json)], serial: u64) -> Vec<u8> {
    let rest = top.iter().filter(|(key, _)| key != MEMBER).cloned().collect();
    let body = serde_json::to_string(&Json::Object(rest)).unwrap_or_default();
    format!("{TITLE}\n{serial}\n{body}").into_bytes()
}

/// The signature of a document's text and what it has to sign; `None` for an unsigned one.
pub fn of(text: &str) -> Option<(Signature, Vec<u8>)> {
    let Ok(Json::Object(top)) = json::parse(text) else { return None };
    let (_, value) = top.iter().find(|(key, _)| key == MEMBER)?;
    let signature = read(value).ok()?;
    let bytes = signed(&top, signature.serial);
    Some((signature, bytes))
}

/// Takes the signature out of what is left to be read, and refuses a misshapen one.
pub(super) fn take(top: &mut Vec<(String, Json)>) -> Result<(), DocumentError> {
    let Some(at) = top.iter().position(|(key, _)| key == MEMBER) else { return Ok(()) };
    let (_, value) = top.remove(at);
    read(&value).map(drop).map_err(|()| {
        Place::default()
            .down(MEMBER)
            .refuse(value.shown(), "an object with key, serial and value, as `cgrove push --sign KEY` makes it".into())
    })
}

fn read(value: &Json) -> Result<Signature, ()> {
    let Json::Object(members) = value else { return Err(()) };
    let (mut key, mut serial, mut signature) = (None, None, None);
    for (name, value) in members {
        match (name.as_str(), value) {
            ("key", Json::String(s)) => key = Some(s.clone()),
            ("serial", Json::Number(n)) => serial = n.as_u64(),
            ("value", Json::String(s)) => signature = Some(s.clone()),
            _ => return Err(()),
        }
    }
    match (key, serial, signature) {
        (Some(key), Some(serial), Some(value)) => Ok(Signature { key, serial, value }),
        _ => Err(()),
    }
}

/// The member to be added to a document.
pub fn member(signature: &Signature) -> (String, Json) {
    let entries = vec![
        ("key".into(), Json::String(signature.key.clone())),
        ("serial".into(), Json::Number(signature.serial.into())),
        ("value".into(), Json::String(signature.value.clone())),
    ];
    (MEMBER.into(), Json::Object(entries))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_may_change_and_nothing_else() {
        let sign = |text: &str| of(text).map(|(s, bytes)| (s.serial, String::from_utf8(bytes).unwrap()));
        let tail = r#""signature": {"key": "k", "serial": 7, "value": "v"}}"#;
        let (serial, bytes) = sign(&format!(r#"{{"groups": {{"b": {{}}, "a": {{}}}}, {tail}"#)).unwrap();
        assert_eq!((serial, bytes.as_str()), (7, "cgrove document 1\n7\n{\"groups\":{\"b\":{},\"a\":{}}}"));
        assert_eq!(sign(&format!("{{\n\"groups\":{{\"b\":{{}},\"a\":{{}}}},{tail}")).unwrap().1, bytes);
        assert_ne!(sign(&format!(r#"{{"groups": {{"a": {{}}, "b": {{}}}}, {tail}"#)).unwrap().1, bytes);
        assert!(sign(r#"{"groups": {}}"#).is_none() && sign("{").is_none());
    }

    #[test]
    fn both_forms_may_be_signed_and_a_misshapen_signature_is_refused() {
        for body in [r#""groups": {"a": {}}"#, r#""cpu": {"sub_cgroup": {"a": {}}}"#] {
            let with = |s: &str| super::super::parse(format!("{{{body}, \"signature\": {s}}}").as_bytes());
            assert_eq!(with(r#"{"key": "k", "serial": 1, "value": "v"}"#).unwrap().groups.len(), 1);
            for bad in [
                "1",
                "{}",
                r#"{"key": "k", "serial": -1, "value": "v"}"#,
                r#"{"key": "k", "serial": 1, "value": "v", "x": 1}"#,
            ] {
                let error = with(bad).unwrap_err().to_string();
                assert!(error.contains("$.signature") && error.contains("--sign"), "{error}");
            }
        }
    }
}
