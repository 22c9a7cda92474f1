//! The `[redis]` section: one server, the master that sentinels name, or a cluster.

use std::path::Path;

use super::raw::RawRedis;
use super::values::{Bad, client_tls, secret_file};
use super::{ClientTls, Secret};

const FORM: &str = "redis://[user:password@]host:port[/db], rediss://... or redis+sentinel://[user:password@]host:port[,host:port]/master[/db]";

#[derive(Debug, Clone)]
pub(crate) struct Redis {
    pub(crate) url: String,
    pub(crate) sentinels: Option<Sentinels>,
    pub(crate) cluster: bool,
    pub(crate) password: Option<Secret>,
    pub(crate) prefix: String,
    pub(crate) tls: Option<ClientTls>,
}

/// Who knows which server is the master.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Sentinels {
    pub(crate) hosts: Vec<String>,
    pub(crate) master: String,
    /// `user:password@` for the master, or nothing.
    pub(crate) user_info: String,
    pub(crate) db: u32,
}

impl std::fmt::Debug for Sentinels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}", self.master, self.hosts.join(","))
    }
}

/// The section, and whether Redis is wanted.
pub(super) fn redis(raw: RawRedis, node: &str, base: &Path) -> Result<(Redis, bool), Bad> {
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
        && let Err(e) = redis::Client::open(url.as_str())
    {
        return Err(("redis.url", format!("not of the form {FORM} ({:?})", e.kind())));
    }
    let prefix = raw.prefix.unwrap_or_else(|| "cgroup_arch".into()).replace("{node}", node);
    let redis = Redis {
        sentinels,
        cluster: raw.cluster,
        password: raw.password_file.map(|p| secret_file(base, &p)),
        prefix: prefix.trim_end_matches('/').to_owned(),
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
}
