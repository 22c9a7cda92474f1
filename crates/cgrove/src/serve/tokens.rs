//! Tokens: kept as hashes, compared in constant time.

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use cgrove_config::{Config, Roles};

/// Shorter ones can be guessed.
const SHORTEST: usize = 16;
const HASHED: &str = "sha256:";

/// Hashes of every token, with what it opens.
#[derive(Default)]
pub(crate) struct Tokens(Vec<([u8; 32], Roles)>);

impl Tokens {
    /// Reads every token file; the error names the file, never what is in it.
    pub(crate) fn read(config: &Config) -> Result<Self, String> {
        let mut hashes = Vec::new();
        for token in &config.server.tokens {
            let bad = |why: &str| format!("server.tokens {:?}: {why}", token.name);
            let text = token.secret.read().map_err(|e| bad(&e.to_string()))?;
            let before = hashes.len();
            for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
                let hash = hash_of(line).ok_or_else(|| {
                    bad("its file has a line that is neither a token of 16 characters or more nor sha256: and 64 hexadecimal digits")
                })?;
                hashes.push((hash, token.roles));
            }
            if hashes.len() == before {
                return Err(bad("its file holds no token"));
            }
        }
        Ok(Self(hashes))
    }

    /// What the presented token opens. Every hash is looked at, whichever fits.
    pub(super) fn roles(&self, token: &str) -> Option<Roles> {
        let presented: [u8; 32] = Sha256::digest(token).into();
        let mut found = None;
        for (hash, roles) in &self.0 {
            if bool::from(hash.ct_eq(&presented)) {
                found = Some(found.map_or(*roles, |f: Roles| f.and(*roles)));
            }
        }
        found
    }
}

fn hash_of(line: &str) -> Option<[u8; 32]> {
    let Some(hex) = line.strip_prefix(HASHED) else {
        return (line.len() >= SHORTEST).then(|| Sha256::digest(line).into());
    };
    let mut out = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}

/// The token of a request: a bearer's, or the password of Basic, which is what browsers know to ask for.
pub(super) fn presented(headers: &HeaderMap) -> Option<String> {
    let (scheme, value) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.trim().to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(data_encoding::BASE64.decode(value.trim().as_bytes()).ok()?).ok()?;
    Some(pair.split_once(':')?.1.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_what_its_line_says() {
        let usage = Roles { usage: true, conf: false };
        let secret = "correct horse battery";
        let hex: String = Sha256::digest(secret).iter().map(|b| format!("{b:02x}")).collect();
        for line in [secret.to_owned(), format!("sha256:{hex}")] {
            let tokens = Tokens(vec![([0; 32], Roles::ALL), (hash_of(&line).unwrap(), usage)]);
            assert_eq!(tokens.roles(secret), Some(usage));
            for wrong in ["", "correct horse batterx", &line[..15], &hex] {
                assert_eq!(tokens.roles(wrong), None, "{wrong}");
            }
        }
        for bad in ["short", "sha256:12", &format!("sha256:{}", "g".repeat(64)), &format!("sha256:{}", "é".repeat(32))]
        {
            assert_eq!(hash_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn bearer_and_basic() {
        let header = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            presented(&headers)
        };
        assert_eq!(header("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(header("bearer  abc ").as_deref(), Some("abc"));
        assert_eq!(header("Basic YW55Om86cGU=").as_deref(), Some("o:pe"));
        for bad in ["abc", "Basic abc", "Basic YWJj", "Digest abc"] {
            assert_eq!(header(bad), None, "{bad}");
        }
    }
}
