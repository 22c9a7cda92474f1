//! Who may ask. Loopback needs no password: it learns what /sys/fs/cgroup shows to every local user anyway. Host and
//! Origin are checked, so that a page in an operator's browser cannot ask for it (DNS rebinding).

use std::net::{IpAddr, SocketAddr};

use hyper::HeaderMap;
use hyper::header::{HOST, ORIGIN, UPGRADE};

use crate::config::Config;

/// `Err` says what is not allowed.
pub(super) fn check(
    config: &Config,
    peer: SocketAddr,
    local: Option<SocketAddr>,
    headers: &HeaderMap,
) -> Result<(), &'static str> {
    let ip = peer.ip().to_canonical();
    let own = local.is_some_and(|l| l.ip().to_canonical() == ip);
    if !ip.is_loopback()
        && !own
        && !config.server.insecure
        && !config.server.allow_from.iter().any(|net| net.contains(&ip))
    {
        return Err("this address is not in server.allow_from");
    }
    let host = headers.get(HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    if !host_allowed(config, host) {
        return Err("this Host is not an IP address, localhost, the node's name or in server.hosts");
    }
    match headers.get(ORIGIN).map(|o| o.to_str().unwrap_or_default()) {
        Some(origin) if origin.split_once("://").map(|(_, rest)| rest) != Some(host) => {
            Err("requests from other sites' pages are refused")
        }
        _ => Ok(()),
    }
}

fn host_allowed(config: &Config, host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let same = |other: &str| other.eq_ignore_ascii_case(name);
    name.parse::<IpAddr>().is_ok()
        || same("localhost")
        || same(&config.node)
        || config.server.hosts.iter().any(|h| same(h))
}

/// Does the request ask for a WebSocket?
pub(super) fn wants_websocket(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).and_then(|u| u.to_str().ok()).is_some_and(|u| u.eq_ignore_ascii_case("websocket"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    fn config(server: &str) -> Config {
        let path = std::env::temp_dir().join(format!("cgrove-access-{}-{}.toml", std::process::id(), server.len()));
        std::fs::write(&path, format!("node = \"n1\"\n[tree]\nsource = \"file\"\npath = \"x\"\n[server]\n{server}"))
            .unwrap();
        let config = load(&path, std::iter::empty()).unwrap();
        std::fs::remove_file(path).unwrap();
        config
    }

    fn asks(config: &Config, peer: &str, host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        origin.map(|o| headers.insert(ORIGIN, o.parse().unwrap()));
        check(config, peer.parse().unwrap(), "10.0.0.9:1".parse().ok(), &headers).is_ok()
    }

    #[test]
    fn hosts_and_origins() {
        let c = config("hosts = [\"cg.example\"]");
        for host in ["127.0.0.1:43409", "localhost:43409", "[::1]:43409", "N1:43409", "cg.example", "10.1.2.3"] {
            assert!(asks(&c, "127.0.0.1:5", host, None), "{host}");
            assert!(asks(&c, "127.0.0.1:5", host, Some(&format!("http://{host}"))), "{host}");
        }
        assert!(!asks(&c, "127.0.0.1:5", "evil.example", None));
        assert!(!asks(&c, "127.0.0.1:5", "127.0.0.1:43409", Some("http://evil.example")));
        assert!(!asks(&c, "127.0.0.1:5", "127.0.0.1:43409", Some("null")));
    }

    #[test]
    fn other_hosts_only_from_allowed_networks() {
        let c = config("listen = \"0.0.0.0:1\"\nallow_from = [\"10.0.0.0/8\"]");
        assert!(asks(&c, "10.9.9.9:5", "10.0.0.1", None) && asks(&c, "[::ffff:10.1.1.1]:5", "10.0.0.1", None));
        assert!(!asks(&c, "11.0.0.1:5", "10.0.0.1", None));
        // The node itself, through an address of its own.
        assert!(asks(
            &config("listen = \"10.0.0.9:1\"\nallow_from = [\"11.0.0.0/8\"]"),
            "10.0.0.9:5",
            "10.0.0.9",
            None
        ));
        assert!(asks(&config("listen = \"0.0.0.0:1\"\ninsecure = true"), "11.0.0.1:5", "10.0.0.1", None));
    }
}
