//! Who may ask, and for what. This node's clients need no password: they learn what /sys/fs/cgroup shows to every
//! local user anyway. Others bring a token or a certificate over TLS, or come from a network that someone named. Host
//! and Origin are checked, so that a page in an operator's browser cannot ask (DNS rebinding).

use std::net::IpAddr;

use hyper::HeaderMap;
use hyper::header::{ACCEPT, HOST, ORIGIN, UPGRADE};

use super::page;
use super::port::Ends;
use super::tokens::{self, Tokens};
use cgrove_config::{Config, Roles};

/// Why not. A stranger is told no more than that.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A password would help.
    Unknown(&'static str),
    /// None would.
    Never(&'static str),
}

impl Refusal {
    pub(super) fn why(&self) -> &'static str {
        match self {
            Self::Unknown(why) | Self::Never(why) => why,
        }
    }
}

/// What the client may ask for.
pub(super) fn admit(
    config: &Config,
    tokens: &Tokens,
    ends: &Ends,
    path: &str,
    headers: &HeaderMap,
) -> Result<Roles, Refusal> {
    if ends.peer.is_none() {
        // Who may open the socket was decided by its mode, and no browser can.
        return Ok(Roles::ALL);
    }
    from_no_other_site(config, path, headers)?;
    let server = &config.server;
    let local = ends.is_local();
    let ip = ends.ip();
    if server.insecure || (local && server.trust_loopback) || server.allow_from.iter().any(|net| net.contains(&ip)) {
        return Ok(Roles::ALL);
    }
    if !local && !ends.tls {
        // Not even a right token: on its way here everybody could read it.
        return Err(Refusal::Never("it is not in server.allow_from and does not speak TLS"));
    }
    let certified = server.tls.as_ref().filter(|_| ends.certified).map(|tls| tls.client_roles);
    let token = tokens::presented(headers);
    match (certified, token.as_deref().and_then(|t| tokens.roles(t))) {
        (Some(a), Some(b)) => Ok(a.and(b)),
        (Some(roles), None) | (None, Some(roles)) => Ok(roles),
        (None, None) if token.is_some() => Err(Refusal::Unknown("its token is not known")),
        (None, None) => Err(Refusal::Unknown("it brought no token and no certificate")),
    }
}

/// A page of another site in an operator's browser may not ask: neither by a name that points here (Host), nor by a
/// request that says where it comes from (Origin, Sec-Fetch-Site).
fn from_no_other_site(config: &Config, path: &str, headers: &HeaderMap) -> Result<(), Refusal> {
    const OTHER: Refusal = Refusal::Never("requests from other sites' pages are refused");
    let named = Refusal::Never("its Host is not an IP address, localhost, the node's name or in server.hosts");
    let mut hosts = headers.get_all(HOST).into_iter();
    let host = hosts.next().map_or(Some(""), |h| h.to_str().ok()).filter(|_| hosts.next().is_none());
    // Balancers ask without a Host. No browser does, so that no name can have been made to point here.
    let nameless = host == Some("") && is_about_health(path);
    let Some(host) = host.filter(|host| nameless || host_allowed(config, host)) else { return Err(named) };
    let mut origins = headers.get_all(ORIGIN).into_iter();
    if let Some(origin) = origins.next() {
        let same = origin.to_str().is_ok_and(|o| o.split_once("://").is_some_and(|(_, rest)| rest == host));
        return if same && !host.is_empty() && origins.next().is_none() { Ok(()) } else { Err(OTHER) };
    }
    let says = |name: &str, value: &str| headers.get(name).is_some_and(|v| v == value);
    let here = |site: &str| ["same-origin", "none"].contains(&site);
    let sites = headers.get_all("sec-fetch-site").into_iter();
    let elsewhere = sites.filter(|site| !site.to_str().is_ok_and(here)).count() > 0;
    // A link to the page may stand anywhere.
    let followed = says("sec-fetch-mode", "navigate") && says("sec-fetch-dest", "document") && page::is_file(path);
    let harmless = followed && !wants_websocket(headers);
    if elsewhere && !harmless { Err(OTHER) } else { Ok(()) }
}

/// What monitoring and balancers ask.
pub(super) fn is_about_health(path: &str) -> bool {
    ["/healthz", "/readyz", "/metrics"].contains(&path)
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

/// Does the client ask for OpenMetrics, no less than for plain text? Whoever does not say gets Prometheus' older format,
/// which all tools read.
pub(super) fn wants_openmetrics(headers: &HeaderMap) -> bool {
    let accepted = |kind: &str| {
        let values = headers.get_all(ACCEPT).into_iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
        let quality = values.filter_map(|range| {
            let (name, rest) = range.split_once(';').unwrap_or((range, ""));
            let quality = || rest.split(';').find_map(|p| p.trim().strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
            (name.trim() == kind).then(quality)
        });
        quality.fold(0.0, f32::max)
    };
    let openmetrics = accepted("application/openmetrics-text");
    openmetrics > 0.0 && openmetrics >= accepted("text/plain")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::peer::Peer;
    use cgrove_config::load;
    use hyper::header::HeaderName;

    fn config(server: &str) -> Config {
        let path = std::env::temp_dir().join(format!("cgrove-access-{}-{}.toml", std::process::id(), server.len()));
        std::fs::write(&path, format!("node = \"n1\"\n[tree]\nsource = \"file\"\npath = \"x\"\n[server]\n{server}"))
            .unwrap();
        let config = load(&path, std::iter::empty()).unwrap();
        std::fs::remove_file(path).unwrap();
        config
    }

    fn admits(config: &Config, ends: Ends, host: &str, more: &[(&'static str, &str)]) -> Result<Roles, Refusal> {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        for (name, value) in more {
            headers.insert(*name, value.parse().unwrap());
        }
        admit(config, &Tokens::read(config).unwrap(), &ends, "/api/v1/get_conf", &headers)
    }

    fn from(peer: &str) -> Ends {
        let local = "10.0.0.9:1".parse().ok();
        Ends { peer: peer.parse().ok(), local, tls: false, certified: false, whose: Peer::Node }
    }

    fn asks(config: &Config, peer: &str, host: &str, origin: Option<&str>) -> bool {
        let origin: Vec<_> = origin.map(|o| ("origin", o)).into_iter().collect();
        admits(config, from(peer), host, &origin).is_ok()
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

    #[test]
    fn other_sites_do_not_ask_and_balancers_without_a_name_do() {
        let c = config("hosts = [\"one.example\"]");
        let asks = |path: &str, headers: &[(&'static str, &str)]| {
            let headers = headers.iter().map(|(n, v)| (HeaderName::from_static(n), v.parse().unwrap())).collect();
            admit(&c, &Tokens::default(), &from("127.0.0.1:5"), path, &headers).is_ok()
        };
        let here = ("host", "127.0.0.1:43409");
        for site in ["same-origin", "none"] {
            assert!(asks("/api/v1/get_conf", &[here, ("sec-fetch-site", site)]), "{site}");
        }
        let origin = ("origin", "http://127.0.0.1:43409");
        for site in ["cross-site", "same-site", "", "?"] {
            let site = ("sec-fetch-site", site);
            for path in ["/", "/metrics", "/healthz", "/api/v1/get_conf", "/page/main.js"] {
                assert!(!asks(path, &[here, site]), "{path}");
                assert!(!asks(path, &[here, site, ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "document")]));
                assert!(!asks(path, &[here, site, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")]));
            }
            let link = [here, site, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
            assert!(asks("/", &link) && !asks("/metrics", &link) && !asks("/api/v1/get_conf", &link));
            // Some browsers say this of the page's own WebSocket; its Origin decides.
            assert!(asks("/", &[here, site, origin, ("upgrade", "websocket")]));
            assert!(!asks("/", &[&link[..], &[("upgrade", "websocket")]].concat()));
        }
        for path in ["/healthz", "/readyz", "/metrics"] {
            assert!(asks(path, &[]) && asks(path, &[("host", "")]));
            assert!(!asks(path, &[("origin", "http://")]) && !asks(path, &[("sec-fetch-site", "cross-site")]));
            assert!(!asks(path, &[("host", "evil.example")]));
        }
        for path in ["/", "/ws", "/api/v1/get_conf", "/page/main.js"] {
            assert!(!asks(path, &[]) && !asks(path, &[("host", "")]));
        }
        let two = |name: &'static str, a: &str, b: &str| {
            let mut headers: HeaderMap = [(HOST, here.1.parse().unwrap())].into_iter().collect();
            headers.remove(name);
            headers.append(name, a.parse().unwrap());
            headers.append(name, b.parse().unwrap());
            headers.entry(HOST).or_insert(here.1.parse().unwrap());
            admit(&c, &Tokens::default(), &from("127.0.0.1:5"), "/", &headers).is_ok()
        };
        assert!(!two("host", here.1, "evil.example") && !two("origin", origin.1, "http://evil.example"));
        assert!(!two("sec-fetch-site", "none", "cross-site"));
    }

    #[test]
    fn tokens_and_certificates_count_over_tls_and_on_this_node() {
        let file = std::env::temp_dir().join(format!("cgrove-token-{}", std::process::id()));
        std::fs::write(&file, "0123456789abcdef\n").unwrap();
        let c = config(&format!(
            "listen = \"0.0.0.0:1\"\ntrust_loopback = false\ntls_certificate = \"c\"\ntls_key = \"k\"\ntls_client_ca = \"a\"\n[[server.tokens]]\nname = \"t\"\nroles = [\"conf\"]\nfile = {file:?}"
        ));
        let usage = Roles { usage: true, conf: false };
        let conf = Roles { usage: false, conf: true };
        let right = [("authorization", "Bearer 0123456789abcdef")];
        let wrong = [("authorization", "Bearer 0123456789abcdee")];
        let plain = from("11.0.0.1:5");
        let tls = Ends { tls: true, ..plain };
        let certified = Ends { certified: true, ..tls };
        assert_eq!(admits(&c, tls, "10.0.0.9", &right), Ok(conf));
        assert_eq!(admits(&c, certified, "10.0.0.9", &[]), Ok(usage));
        assert_eq!(admits(&c, certified, "10.0.0.9", &right), Ok(Roles::ALL));
        assert_eq!(admits(&c, from("127.0.0.1:5"), "127.0.0.1", &right), Ok(conf));
        assert_eq!(admits(&c, Ends { peer: None, ..plain }, "evil.example", &[]), Ok(Roles::ALL));
        assert!(matches!(admits(&c, tls, "10.0.0.9", &wrong), Err(Refusal::Unknown(_))));
        assert!(matches!(admits(&c, from("127.0.0.1:5"), "127.0.0.1", &[]), Err(Refusal::Unknown(_))));
        assert!(matches!(admits(&c, plain, "10.0.0.9", &right), Err(Refusal::Never(_))));
        assert!(matches!(admits(&c, tls, "evil.example", &right), Err(Refusal::Never(_))));
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn openmetrics_for_those_who_ask_for_it() {
        let wants = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            wants_openmetrics(&headers)
        };
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        assert!(wants(prometheus) && wants("application/openmetrics-text"));
        assert!(!wants("*/*") && !wants("text/plain") && !wants("application/openmetrics-text;q=0, text/plain"));
        assert!(
            !wants("application/openmetrics-text; q=0.2, text/plain; q=0.9") && !wants_openmetrics(&HeaderMap::new())
        );
    }
}
