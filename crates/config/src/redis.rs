//! The `[redis]` section: one server, the master that sentinels name, or a cluster.

use std::path::Path;

use crate::raw::RawRedis;
use crate::values::{Bad, client_tls, secret_file};
use crate::{ClientTls, Secret};

const FORM: &str = "redis://[user:password@]host:port[/db], rediss://... or redis+sentinel://[user:password@]host:port[,host:port]/master[/db]";

#[derive(Debug, Clone)]
pub struct Redis {
    pub url: String,
    pub sentinels: Option<Sentinels>,
    pub cluster: bool,
    pub password: Option<Secret>,
    pub prefix: String,
    /// The prefix with `{node}` in it, where it was written so.
    pub pattern: Option<String>,
    pub tls: Option<ClientTls>,
    pub compression: Compression,
}

/// How slots are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// As JSON, which cgrouparch's clients read.
    #[default]
    None,
    Zstd,
}

/// Who knows which server is the master.
#[derive(Clone, PartialEq, Eq)]
pub struct Sentinels {
    pub hosts: Vec<String>,
    pub master: String,
    /// `user:password@` for the master, or nothing.
    pub user_info: String,
    pub db: u32,
}

impl std::fmt::Debug for Sentinels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}", self.master, self.hosts.join(","))
    }
}

/// The section, and whether Redis is wanted.
pub(crate) fn redis(raw: RawRedis, node: &str, base: &Path) -> Result<(Redis, bool), Bad> {
    let url = match raw.url {
        None => None,
        Some(toml::Value::String(url)) => Some(url),
        Some(_) => return Err(("redis.url", format!("a string of the form {FORM}"))),
    };
    let wanted = url.is_some();
    let url = url.unwrap_or_else(|| "redis://127.0.0.1:6379".into());
    let sentinels = match url.strip_prefix("redis+sentinel://") {
        Some(rest) => Some(sentinels(rest).ok_or_else(|| ("redis.url", format!("not of the form {FORM}")))?),
        None => None,
    };
    // A wrong URL is a configuration error even before Redis is used; the client's text may quote the URL and its password.
    if sentinels.is_none()
        && let Err(e) = check_url(&url)
    {
        return Err(("redis.url", format!("not of the form {FORM} ({:?})", e.kind())));
    }
    let pattern = raw.prefix.unwrap_or_else(|| "cgroup_arch".into());
    let pattern = pattern.trim_end_matches('/').to_owned();
    let redis = Redis {
        sentinels,
        cluster: raw.cluster,
        password: raw.password_file.map(|p| secret_file(base, &p)),
        prefix: pattern.replace("{node}", node),
        pattern: pattern.contains("{node}").then_some(pattern),
        compression: compression(raw.compression.as_deref())?,
        tls: client_tls("redis.tls_ca", [raw.tls_ca, raw.tls_certificate, raw.tls_key], base)?,
        url,
    };
    if redis.tls.is_some() && !redis.url.starts_with("rediss://") {
        return Err(("redis.tls_ca", "is used with a redis.url that begins with rediss://".into()));
    }
    if redis.cluster && redis.sentinels.is_some() {
        return Err(("redis.cluster", "a cluster has no sentinels: name one of its servers in redis.url".into()));
    }
    Ok((redis, wanted))
}

fn compression(text: Option<&str>) -> Result<Compression, Bad> {
    match text {
        None | Some("none") => Ok(Compression::None),
        Some("zstd") => Ok(Compression::Zstd),
        Some(other) => Err(("redis.compression", format!("{other:?} is not one of \"none\", \"zstd\""))),
    }
}

/// Is this an address that the client will take? What TLS needs is not this crate's to know.
fn check_url(url: &str) -> redis::RedisResult<()> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let plain = match scheme.to_ascii_lowercase().as_str() {
        tls @ ("rediss" | "valkeys") => {
            if rest.split_once('#').is_some_and(|(_, fragment)| fragment != "insecure") {
                return Err(
                    (redis::ErrorKind::InvalidClientConfig, "only #insecure may stand behind the address").into()
                );
            }
            format!("{}://{rest}", tls.strip_suffix('s').unwrap_or(tls))
        }
        _ => url.to_owned(),
    };
    redis::Client::open(plain).map(drop)
}

fn sentinels(rest: &str) -> Option<Sentinels> {
    let (user_info, rest) = match rest.rsplit_once('@') {
        Some((user_info, rest)) => (format!("{user_info}@"), rest),
        None => (String::new(), rest),
    };
    let (hosts, path) = rest.split_once('/')?;
    let (master, db) = path.split_once('/').unwrap_or((path, ""));
    let hosts: Vec<String> =
        hosts.split(',').map(|h| if h.contains(':') { h.to_owned() } else { format!("{h}:26379") }).collect();
    let whole = hosts.iter().all(|h| redis::Client::open(format!("redis://{h}/")).is_ok()) && !master.is_empty();
    let db = if db.is_empty() { 0 } else { db.parse().ok()? };
    whole.then(|| Sentinels { hosts, master: master.to_owned(), user_info, db })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentinels_are_read_and_do_not_print_passwords() {
        let s = sentinels("u:secret@a:1,b/mymaster/3").unwrap();
        assert_eq!((s.hosts.join(" ").as_str(), s.master.as_str(), s.db), ("a:1 b:26379", "mymaster", 3));
        assert_eq!(s.user_info, "u:secret@");
        assert!(!format!("{s:?}").contains("secret"));
        assert!(sentinels("a:1").is_none() && sentinels("a:1/").is_none() && sentinels("a:1/m/x").is_none());
    }

    #[test]
    fn addresses_are_checked_as_the_client_will_read_them() {
        for good in
            ["redis://h", "rediss://u:p@h:1/2", "REDISS://h/#insecure", "valkeys://h", "redis+unix:///run/r.sock"]
        {
            assert!(check_url(good).is_ok(), "{good}");
        }
        for bad in ["h:6379", "http://h", "rediss://", "rediss://h/#typo", "redis://h/x"] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
    }
}
