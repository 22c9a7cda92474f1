//! Signed documents: with `tree.trusted_keys` only what an operator signed counts, so that whoever may write the
//! znode does not rule the nodes. An older document cannot come back either: serial numbers only grow.

use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use cgrove_config::files;
use cgrove_core::document::digest;
use cgrove_core::document::signature::{self, Signature};
use cgrove_core::json::{self, Json};
use data_encoding::BASE64;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};

/// What comes before the 32 bytes of an Ed25519 public key in its DER form (RFC 8410).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The keys that may sign, each with its name. None: documents need no signature.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trust(Vec<(String, [u8; 32])>);

impl Trust {
    pub(crate) fn read(files: &[PathBuf]) -> Result<Self, String> {
        let mut keys = Vec::new();
        for path in files {
            let bad = |why: String| {
                format!(
                    "tree.trusted_keys {}: {why}; `openssl pkey -in KEY -pubout` writes such a file",
                    path.display()
                )
            };
            let pem = files::read(path, files::SECRET).map_err(|e| bad(e.to_string()))?;
            let before = keys.len();
            for key in SubjectPublicKeyInfoDer::pem_slice_iter(&pem) {
                let key = key.map_err(|e| bad(e.to_string()))?;
                let raw = key.as_ref().strip_prefix(&SPKI[..]).and_then(|raw| <[u8; 32]>::try_from(raw).ok());
                let raw = raw.ok_or_else(|| bad("holds a public key that is not Ed25519".into()))?;
                keys.push((digest(&raw), raw));
            }
            if keys.len() == before {
                return Err(bad("holds no public key in PEM".into()));
            }
        }
        Ok(Self(keys))
    }

    /// The signature of a document that counts; without trusted keys each does. The error says what is wrong.
    pub(crate) fn check(&self, bytes: &[u8]) -> Result<Option<Signature>, String> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
        let Some((signature, signed)) = signature::of(text) else {
            return Err(
                "it is not signed, and tree.trusted_keys is set; `cgrove push --sign KEY` or `cgrove sign KEY` signs"
                    .into(),
            );
        };
        let Some((_, key)) = self.0.iter().find(|(name, _)| *name == signature.key) else {
            return Err(format!("it is signed by key {}, which is not in tree.trusted_keys", signature.key));
        };
        let value = BASE64.decode(signature.value.as_bytes()).unwrap_or_default();
        match UnparsedPublicKey::new(&ED25519, key).verify(&signed, &value) {
            Ok(()) => Ok(Some(signature)),
            Err(_) => {
                Err(format!("its signature by key {} is wrong: it was changed after it was signed", signature.key))
            }
        }
    }
}

/// The signature that a document shows, whoever made it.
pub(crate) fn signature(bytes: &[u8]) -> Option<Signature> {
    signature::of(std::str::from_utf8(bytes).ok()?).map(|(signature, _)| signature)
}

/// A serial number for what is signed now: later than that of `before`, whatever this host's clock says.
pub(crate) fn serial_after(before: &[u8]) -> u64 {
    crate::clock::now_millis().max(signature(before).map_or(0, |s| s.serial.saturating_add(1)))
}

/// The document with a signature by the private key in `file`.
pub(crate) fn sign(document: &[u8], file: &Path, serial: u64) -> Result<Vec<u8>, String> {
    let bad =
        |why: &str| format!("{}: {why}; `openssl genpkey -algorithm ed25519 -out KEY` makes a key", file.display());
    let pem = files::named(file, files::SECRET).map_err(|e| bad(&e.to_string()))?;
    let der = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|e| bad(&e.to_string()))?;
    let pair = Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|_| bad("not an Ed25519 private key"))?;
    let text = std::str::from_utf8(document).map_err(|_| "the document is not UTF-8".to_owned())?;
    let Ok(Json::Object(mut top)) = json::parse(text) else { return Err("the document is not a JSON object".into()) };
    top.retain(|(key, _)| key != signature::MEMBER);
    let value = BASE64.encode(pair.sign(&signature::signed(&top, serial)).as_ref());
    let key = digest(pair.public_key().as_ref());
    top.push(signature::member(&Signature { key, serial, value }));
    serde_json::to_vec_pretty(&Json::Object(top)).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> (Ed25519KeyPair, PathBuf) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let file = std::env::temp_dir().join(format!("cgrove-trust-{}-{seed}", std::process::id()));
        let der = pair.to_pkcs8v1().unwrap();
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", BASE64.encode(der.as_ref()));
        std::fs::write(&file, pem).unwrap();
        (pair, file)
    }

    #[test]
    fn only_what_a_trusted_key_signed_and_unchanged() {
        let (pair, file) = key(1);
        let raw: [u8; 32] = pair.public_key().as_ref().try_into().unwrap();
        let trust = Trust(vec![(digest(&raw), raw)]);
        let document = br#"{"groups": {"a": {"knobs": {"cpu.weight": 200}}}}"#;
        let text = String::from_utf8(sign(document, &file, 7).unwrap()).unwrap();
        let serial = |text: &[u8]| trust.check(text).map(|s| s.map(|s| s.serial));
        assert_eq!(serial(text.as_bytes()), Ok(Some(7)));
        assert_eq!(serial(text.replace("  ", "\t").as_bytes()), Ok(Some(7)));
        assert_eq!(signature(text.as_bytes()).map(|s| s.serial), Some(7));
        // Signed anew, the old signature is gone.
        assert_eq!(serial(&sign(text.as_bytes(), &file, 8).unwrap()), Ok(Some(8)));
        for (from, to) in [("200", "201"), ("\"serial\": 7", "\"serial\": 9"), ("\"a\"", "\"b\"")] {
            let error = trust.check(text.replace(from, to).as_bytes()).unwrap_err();
            assert!(error.contains("was changed"), "{from}: {error}");
        }
        assert!(trust.check(document).unwrap_err().contains("not signed"));
        let (_, other) = key(2);
        assert!(trust.check(&sign(document, &other, 9).unwrap()).unwrap_err().contains("not in tree.trusted_keys"));
        assert_eq!(Trust::default().check(document), Ok(None));
        for file in [file, other] {
            std::fs::remove_file(file).unwrap();
        }
    }

    #[test]
    fn a_public_key_as_openssl_writes_it() {
        let pem = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
        let file = std::env::temp_dir().join(format!("cgrove-trust-{}.pub", std::process::id()));
        std::fs::write(&file, pem).unwrap();
        assert_eq!(Trust::read(std::slice::from_ref(&file)).unwrap().0.len(), 1);
        std::fs::write(&file, "nothing").unwrap();
        assert!(Trust::read(std::slice::from_ref(&file)).unwrap_err().contains("no public key"));
        std::fs::remove_file(file).unwrap();
    }
}
