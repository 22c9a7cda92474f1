//! A mark as text: JSON whose first member is a MAC over where it lies and what it says. It can neither be made without
//! the secret nor carried to another directory or boot.

use cgrove_core::actual::Set;
use cgrove_core::knobs::find;
use data_encoding::HEXLOWER;
use hmac::{Hmac, Mac};
use litemap::LiteMap;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// The directory that a mark belongs to.
pub(super) struct Place<'a> {
    pub(super) boot: &'a str,
    pub(super) hierarchy: &'a str,
    pub(super) inode: u64,
}

/// What a mark says. The names are those of the attribute's JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Body {
    pub(super) format: u32,
    pub(super) instance: String,
    pub(super) parent: String,
    #[serde(default)]
    pub(super) parent_inode: u64,
    /// Its path below the parent when it was marked.
    #[serde(default)]
    pub(super) group: String,
    pub(super) files: LiteMap<String, Set>,
}

const BEFORE: &[u8] = b"{\"mac\":\"";
const AFTER: &[u8] = b"\",";
const DIGITS: usize = 64;

/// A secret that MACs are made with.
#[derive(Clone)]
pub(super) struct Key(Hmac<Sha256>);

impl Key {
    pub(super) fn new(secret: &[u8; 32]) -> Option<Self> {
        Hmac::new_from_slice(secret).ok().map(Self)
    }

    fn mac(&self, place: &Place<'_>, body: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        for part in [b"cgrove mark".as_slice(), place.boot.trim().as_bytes(), place.hierarchy.as_bytes()] {
            mac.update(part);
            mac.update(b"\0");
        }
        mac.update(&place.inode.to_le_bytes());
        mac.update(body);
        mac
    }

    pub(super) fn seal(&self, place: &Place<'_>, body: &Body) -> Vec<u8> {
        let text = serde_json::to_vec(body).unwrap_or_default();
        let rest = text.get(1..).unwrap_or_default();
        let mac = HEXLOWER.encode(&self.mac(place, rest).finalize().into_bytes());
        [BEFORE, mac.as_bytes(), AFTER, rest].concat()
    }

    /// What it says, if this key made it for this place.
    pub(super) fn open(&self, place: &Place<'_>, text: &[u8]) -> Option<Body> {
        let (mac, rest) = text.strip_prefix(BEFORE)?.split_at_checked(DIGITS)?;
        let rest = rest.strip_prefix(AFTER)?;
        self.mac(place, rest).verify_slice(&HEXLOWER.decode(mac).ok()?).ok()?;
        body(&[b"{", rest].concat())
    }
}

/// What a mark says, whoever made it. Files that are no file of a group are left out, whoever named them.
pub(super) fn body(text: &[u8]) -> Option<Body> {
    let mut body: Body = serde_json::from_slice(text).ok()?;
    if !body.files.keys().all(|name| is_file(name)) {
        body.files = body.files.into_iter().filter(|(name, _)| is_file(name)).collect();
    }
    Some(body)
}

/// A knob, or a raw file as documents may name it: a controller, a dot, and a word. Never a path.
pub(super) fn is_file(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    find(name).is_some()
        || (name.len() <= 64 && name.contains('.') && !name.starts_with('.') && name.chars().all(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body_of(files: &[&str]) -> Body {
        let files = files.iter().map(|f| ((*f).to_owned(), Set { want: "5".into(), ..Set::default() })).collect();
        let (instance, parent, group) = ("cgrove".into(), "/".into(), "/a".into());
        Body { format: 2, instance, parent, parent_inode: 1, group, files }
    }

    const HERE: Place<'_> = Place { boot: "b\n", hierarchy: "cpu", inode: 7 };

    #[test]
    fn a_mark_counts_where_it_was_made_and_nowhere_else() {
        let key = Key::new(&[7; 32]).unwrap();
        let sealed = key.seal(&HERE, &body_of(&["cpu.shares"]));
        assert_eq!(key.open(&HERE, &sealed), Some(body_of(&["cpu.shares"])));
        for place in [
            Place { inode: 8, ..HERE },
            Place { hierarchy: "cpua", ..HERE },
            Place { hierarchy: "memory", ..HERE },
            Place { boot: "c", ..HERE },
        ] {
            assert_eq!(key.open(&place, &sealed), None);
        }
        assert_eq!(Key::new(&[8; 32]).unwrap().open(&HERE, &sealed), None);
    }

    #[test]
    fn whoever_changes_a_byte_has_no_mark() {
        let key = Key::new(&[7; 32]).unwrap();
        let sealed = key.seal(&HERE, &body_of(&["cpu.shares", "cpu.cfs_quota_us"]));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(key.open(&HERE, &changed), None, "byte {at}");
            assert_eq!(key.open(&HERE, &sealed[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn files_are_names_and_never_paths() {
        for bad in ["../../../tmp/fifo", "dev/zero", "/etc/x", "..", "tasks", "", "cpu.\0", "cpu.shares\n"] {
            let text = serde_json::to_vec(&body_of(&[bad, "cpu.shares"])).unwrap();
            assert_eq!(body(&text).unwrap().files.keys().collect::<Vec<_>>(), ["cpu.shares"], "{bad:?}");
        }
        for good in ["cpu.shares", "devices.list", "memory.max", "hugetlb.2MB.max", "cpu.rt-x_y"] {
            assert!(is_file(good), "{good}");
        }
    }
}
