//! SASL DIGEST-MD5 (RFC 2831), a client's side, as ZooKeeper's `DigestLoginModule` speaks it: one challenge, one response,
//! and the server's proof that it knows the password as well.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;

/// What ZooKeeper's clients name as the service.
const URI: &str = "zookeeper/zk-sasl-md5";

/// Ours to the server's challenge, and what the server has to say then.
pub(super) struct Response {
    pub(super) text: String,
    pub(super) proof: String,
}

/// Answers a challenge.
pub(super) fn respond(challenge: &[u8], user: &str, password: &str) -> Result<Response, String> {
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| "no random numbers are to be had".to_owned())?;
    respond_with(challenge, (user, password), &HEXLOWER.encode(&random), URI)
}

fn respond_with(challenge: &[u8], who: (&str, &str), cnonce: &str, uri: &str) -> Result<Response, String> {
    let (user, password) = who;
    let text = std::str::from_utf8(challenge).map_err(|_| "its challenge is no text".to_owned())?;
    let said = directives(text).ok_or("its challenge is not DIGEST-MD5's")?;
    let get = |key: &str| said.get(key).map(String::as_str);
    let nonce = get("nonce").filter(|n| !n.is_empty()).ok_or("its challenge has no nonce")?;
    let realm = get("realm").unwrap_or_default();
    if get("algorithm") != Some("md5-sess") {
        return Err("its challenge wants another algorithm than md5-sess".into());
    }
    if !get("qop").unwrap_or("auth").split(',').any(|q| q.trim() == "auth") {
        return Err("its challenge wants more than authentication (qop=auth)".into());
    }
    // They stand in quotes of the response.
    if [user, realm, nonce].iter().any(|t| t.contains(['"', '\\'])) {
        return Err("a user, realm or nonce with quotes".into());
    }
    let secret = md5::compute(format!("{user}:{realm}:{password}"));
    let a1 = md5::compute([&secret.0[..], format!(":{nonce}:{cnonce}").as_bytes()].concat());
    let digest = |method: &str| {
        let a2 = md5::compute(format!("{method}:{uri}"));
        format!("{:x}", md5::compute(format!("{a1:x}:{nonce}:00000001:{cnonce}:auth:{a2:x}")))
    };
    let charset = if get("charset") == Some("utf-8") { "charset=utf-8," } else { "" };
    let text = format!(
        "{charset}username=\"{user}\",realm=\"{realm}\",nonce=\"{nonce}\",nc=00000001,cnonce=\"{cnonce}\",digest-uri=\"{uri}\",maxbuf=65536,response={},qop=auth",
        digest("AUTHENTICATE")
    );
    Ok(Response { text, proof: format!("rspauth={}", digest("")) })
}

/// `key=value` or `key="value"`, with commas in between.
fn directives(mut text: &str) -> Option<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    loop {
        text = text.trim_start_matches([',', ' ', '\t', '\r', '\n']);
        if text.is_empty() {
            return Some(out);
        }
        let (key, rest) = text.split_once('=')?;
        let value;
        (value, text) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => rest.split_once(',').unwrap_or((rest, "")),
        };
        out.entry(key.trim().to_owned()).or_insert_with(|| value.trim().to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHALLENGE: &[u8] =
        br#"realm="elwood.innosoft.com",nonce="OA6MG9tEQGm2hh",qop="auth",algorithm=md5-sess,charset=utf-8"#;

    /// RFC 2831's example, in section 4.
    #[test]
    fn a_challenge_is_answered() {
        let uri = "imap/elwood.innosoft.com";
        let response = respond_with(CHALLENGE, ("chris", "secret"), "OA6MHXh6VqTrRk", uri).unwrap();
        assert!(response.text.contains("username=\"chris\",realm=\"elwood.innosoft.com\",nonce=\"OA6MG9tEQGm2hh\""));
        assert!(response.text.contains("response=d388dad90d4bbd760a152321f2143af7,qop=auth"), "{}", response.text);
        assert_eq!(response.proof, "rspauth=ea40f60335c427b5527b84dbabcdfffd");
        assert!(!response.text.contains("secret"));
    }

    #[test]
    fn what_is_no_challenge_is_refused() {
        for bad in [
            &b""[..],
            b"\xff",
            b"nonce",
            b"nonce=\"x",
            b"nonce=\"\",algorithm=md5-sess",
            b"nonce=x",
            b"nonce=x,algorithm=sha-256",
            b"nonce=x,algorithm=md5-sess,qop=auth-conf",
        ] {
            assert!(respond(bad, "u", "p").is_err(), "{bad:?}");
        }
        assert!(respond(b"nonce=x,algorithm=md5-sess", "u\"", "p").is_err());
    }
}
