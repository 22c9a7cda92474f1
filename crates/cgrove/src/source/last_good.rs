//! The last good document on disk, so that a node boots right while the source is away.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Document;

const FILE: &str = "last-good.json";

/// First line of the file; the document follows.
#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    version: i64,
    digest: String,
    previous: Option<String>,
    #[serde(default)]
    mzxid: Option<i64>,
}

/// Makes the state directory, mode 0700.
pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Replaces the kept document: temporary file, fsync, rename, fsync of the directory.
pub(crate) fn save(dir: &Path, document: &Document) -> io::Result<()> {
    make_dir(dir)?;
    let header = Header {
        format: 1,
        version: document.version,
        digest: document.desired.digest.clone(),
        previous: document.previous.clone(),
        mzxid: document.mzxid,
    };
    let temporary = dir.join(format!("{FILE}.new"));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    serde_json::to_writer(&mut file, &header)?;
    file.write_all(b"\n")?;
    file.write_all(&document.bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(FILE))?;
    fs::File::open(dir)?.sync_all()
}

/// The kept document, if there is one and it is whole.
pub(crate) fn load(dir: &Path) -> Result<Option<Document>, String> {
    let path = dir.join(FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => Bytes::from(bytes),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(format!("{}: {e}", path.display())),
    };
    let torn = |what: &str| format!("{}: {what}; it is ignored until the source answers", path.display());
    let end = bytes.iter().position(|b| *b == b'\n').ok_or_else(|| torn("has no header"))?;
    let header: Header = serde_json::from_slice(&bytes[..end]).map_err(|e| torn(&e.to_string()))?;
    let body = bytes.slice(end + 1..);
    if cgrove_core::document::digest(&body) != header.digest {
        return Err(torn("its checksum is wrong"));
    }
    // An upgrade leaves no node without its tree.
    let desired = cgrove_core::document::parse_kept(&body).map_err(|e| torn(&e.to_string()))?;
    Ok(Some(Document {
        bytes: body,
        version: header.version,
        desired: Arc::new(desired),
        previous: header.previous,
        mzxid: header.mzxid,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_survives_and_a_torn_file_is_noticed() {
        let dir = std::env::temp_dir().join(format!("cgrove-last-good-{}", std::process::id()));
        assert!(load(&dir).unwrap().is_none());
        let bytes = Bytes::from_static(br#"{"groups": {"a": {}}}"#);
        let desired = Arc::new(cgrove_core::document::parse(&bytes).unwrap());
        let document =
            Document { bytes: bytes.clone(), version: 7, desired, previous: Some("x".into()), mzxid: Some(5) };
        save(&dir, &document).unwrap();
        let back = load(&dir).unwrap().unwrap();
        assert_eq!((back.bytes, back.version, back.previous.as_deref(), back.mzxid), (bytes, 7, Some("x"), Some(5)));
        let whole = fs::read(dir.join(FILE)).unwrap();
        for end in 0..whole.len() {
            fs::write(dir.join(FILE), &whole[..end]).unwrap();
            assert!(load(&dir).is_err(), "cut at {end}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
