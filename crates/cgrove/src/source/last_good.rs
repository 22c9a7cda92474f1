//! The last good document on disk, so that a node boots right while the source is away.

use std::sync::Arc;

use bytes::Bytes;
use cgrove_state::StateDir;
use serde::{Deserialize, Serialize};

use super::{Document, Origin};
use crate::state::LAST_GOOD;

/// First line of the file; the document follows.
#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    version: i64,
    digest: String,
    previous: Option<String>,
    #[serde(default)]
    mzxid: Option<i64>,
    /// Missing in a file of an earlier version, which is taken for ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<Origin>,
}

/// What is kept there.
pub(crate) struct Kept {
    pub(crate) document: Document,
    /// Why it is not applied here: it is for another parent, or from another source.
    pub(crate) foreign: Option<String>,
    /// It came from the same znode or file all the same: one that is older is not taken after it.
    pub(crate) comparable: bool,
}

/// What the file holds.
pub(crate) fn encode(document: &Document, origin: &Origin) -> Vec<u8> {
    let header = Header {
        format: 1,
        version: document.version,
        digest: document.desired.digest.clone(),
        previous: document.previous.clone(),
        mzxid: document.mzxid,
        origin: Some(origin.clone()),
    };
    let mut bytes = serde_json::to_vec(&header).unwrap_or_default();
    bytes.push(b'\n');
    bytes.extend_from_slice(&document.bytes);
    bytes
}

/// The kept document, if there is one and it is whole.
pub(crate) fn load(dir: &StateDir, origin: &Origin) -> Result<Option<Kept>, String> {
    let path = dir.path().join(LAST_GOOD);
    let Some(bytes) = dir.get_raw(LAST_GOOD).map_err(|e| e.to_string())?.map(Bytes::from) else { return Ok(None) };
    let torn = |what: &str| format!("{}: {what}; it is ignored until the source answers", path.display());
    let end = bytes.iter().position(|b| *b == b'\n').ok_or_else(|| torn("has no header"))?;
    let header: Header = serde_json::from_slice(&bytes[..end]).map_err(|e| torn(&e.to_string()))?;
    let body = bytes.slice(end + 1..);
    if cgrove_core::document::digest(&body) != header.digest {
        return Err(torn("its checksum is wrong"));
    }
    let comparable = header.origin.as_ref().is_none_or(|other| other.is_at_place_of(origin));
    let foreign = header.origin.filter(|other| !other.is(origin));
    let foreign =
        foreign.map(|other| torn(&format!("it belongs to another cgrove ({other}), not to this one ({origin})")));
    // An upgrade leaves no node without its tree.
    let desired = Arc::new(cgrove_core::document::parse_kept(&body).map_err(|e| torn(&e.to_string()))?);
    let Header { version, previous, mzxid, .. } = header;
    Ok(Some(Kept { document: Document { bytes: body, version, desired, previous, mzxid }, foreign, comparable }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    #[test]
    fn a_document_survives_and_a_torn_file_or_another_parents_is_noticed() {
        let dir = StateDir::new(std::env::temp_dir().join(format!("cgrove-last-good-{}", std::process::id())));
        let origin = |parent: &str| {
            let text = format!("[cgroup]\nparent = {parent:?}\n[tree]\nsource = \"file\"\npath = \"/x\"\n");
            Origin::of(&cgrove_config::parse(&text, "test", Path::new("/"), std::iter::empty()).unwrap())
        };
        let (ours, other) = (origin("/a"), origin("/b"));
        assert!(load(&dir, &ours).unwrap().is_none());
        let bytes = Bytes::from_static(br#"{"groups": {"a": {}}}"#);
        let desired = Arc::new(cgrove_core::document::parse(&bytes).unwrap());
        let document =
            Document { bytes: bytes.clone(), version: 7, desired, previous: Some("x".into()), mzxid: Some(5) };
        dir.put_raw(LAST_GOOD, &encode(&document, &ours)).unwrap();
        let read = |origin: &Origin| load(&dir, origin).unwrap().unwrap();
        assert!(read(&ours).foreign.is_none());
        let back = read(&ours).document;
        assert_eq!((back.bytes, back.version, back.previous.as_deref(), back.mzxid), (bytes, 7, Some("x"), Some(5)));
        assert!(read(&other).foreign.unwrap().contains("another cgrove") && read(&other).comparable);
        let whole = dir.get_raw(LAST_GOOD).unwrap().unwrap();
        let path = dir.path().join(LAST_GOOD);
        for end in 0..whole.len() {
            fs::write(&path, &whole[..end]).unwrap();
            assert!(load(&dir, &ours).is_err(), "cut at {end}");
        }
        // As an earlier version wrote it.
        let (digest, body) = (&document.desired.digest, std::str::from_utf8(&document.bytes).unwrap());
        fs::write(&path, format!("{{\"format\":1,\"version\":7,\"digest\":\"{digest}\",\"previous\":null}}\n{body}"))
            .unwrap();
        let old = read(&other);
        assert_eq!((old.document.version, old.foreign), (7, None));
        fs::remove_dir_all(dir.path()).unwrap();
    }
}
