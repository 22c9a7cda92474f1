//! The `[server]` section: where we listen, and who may ask for what.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Secret;
use crate::raw::{OneOrMany, RawServer, RawToken};
use crate::values::{Bad, duration, secret_file};

#[derive(Debug, Clone)]
pub struct Server {
    pub listen: Vec<Address>,
    /// Networks that may read without a password.
    pub allow_from: Vec<ipnet::IpNet>,
    pub insecure: bool,
    /// Clients on this node need no token.
    pub trust_loopback: bool,
    pub hosts: Vec<String>,
    pub max_connections: usize,
    /// A WebSocket that answers nothing for so long is dropped.
    pub idle_timeout: Duration,
    pub tls: Option<Tls>,
    pub tokens: Vec<Token>,
}

/// Where clients come in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    Tcp(SocketAddr),
    /// Open to those who may write the socket: mode 0660, group cgrove.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// TLS on every TCP port: who speaks it is told by the first byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Who signs clients' certificates, and what these clients may ask.
    pub client_ca: Option<PathBuf>,
    pub client_roles: Roles,
}

/// What a client may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Roles {
    /// Measurements, groups, metrics.
    pub usage: bool,
    /// The document, and the status that quotes it.
    pub conf: bool,
}

impl Roles {
    pub const ALL: Self = Self { usage: true, conf: true };
    const NAMES: &str = "a list of \"usage\" and \"conf\", with at least one of them";

    pub fn and(self, other: Self) -> Self {
        Self { usage: self.usage || other.usage, conf: self.conf || other.conf }
    }

    fn parse(names: &[String]) -> Option<Self> {
        let mut roles = Self::default();
        for name in names {
            match name.as_str() {
                "usage" => roles.usage = true,
                "conf" => roles.conf = true,
                _ => return None,
            }
        }
        (roles != Self::default()).then_some(roles)
    }
}

/// A token, or its SHA-256, lives in a file; one on each line, so that an old and a new one may hold together.
#[derive(Debug, Clone)]
pub struct Token {
    pub name: String,
    pub roles: Roles,
    pub secret: Secret,
}

pub(crate) fn server(raw: RawServer, base: &Path) -> Result<Server, Bad> {
    let listen = raw.listen.map(OneOrMany::list).unwrap_or_else(|| vec!["127.0.0.1:43409".into()]);
    let listen = listen.iter().map(|text| address(text)).collect::<Result<Vec<_>, _>>()?;
    let allow_from = raw
        .allow_from
        .iter()
        .map(|text| {
            let net = text.parse::<ipnet::IpNet>().or_else(|_| text.parse::<IpAddr>().map(Into::into));
            net.map_err(|_| ("server.allow_from", format!("{text:?} is not a network such as \"10.0.0.0/8\"")))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let client_roles = match &raw.tls_client_roles {
        None => Roles { usage: true, conf: false },
        Some(names) => Roles::parse(names).ok_or(("server.tls_client_roles", Roles::NAMES.to_owned()))?,
    };
    let tls = match (raw.tls_certificate, raw.tls_key) {
        (Some(certificate), Some(key)) => Some(Tls {
            certificate: base.join(certificate),
            key: base.join(key),
            client_ca: raw.tls_client_ca.map(|ca| base.join(ca)),
            client_roles,
        }),
        (None, None) if raw.tls_client_ca.is_some() => {
            return Err(("server.tls_client_ca", "needs server.tls_certificate and server.tls_key beside it".into()));
        }
        (None, None) => None,
        (Some(_), None) => return Err(("server.tls_certificate", "needs server.tls_key beside it".into())),
        (None, Some(_)) => return Err(("server.tls_key", "needs server.tls_certificate beside it".into())),
    };
    let server = Server {
        listen,
        allow_from,
        insecure: raw.insecure,
        trust_loopback: raw.trust_loopback.unwrap_or(true),
        hosts: raw.hosts,
        max_connections: raw.max_connections.unwrap_or(1024).max(1),
        idle_timeout: duration(
            "server.idle_timeout",
            raw.idle_timeout,
            Duration::from_secs(900),
            Duration::from_secs(1),
        )?,
        tls,
        tokens: tokens(raw.tokens, base)?,
    };
    check_reach(&server).map_err(|why| ("server.listen", why))?;
    Ok(server)
}

fn address(text: &str) -> Result<Address, Bad> {
    let path = text.strip_prefix("unix:").unwrap_or(text);
    if path.starts_with('/') {
        return Ok(Address::Unix(PathBuf::from(path)));
    }
    text.parse().map(Address::Tcp).map_err(|_| {
        (
            "server.listen",
            format!(
                "{text:?} is not an address and port such as \"127.0.0.1:43409\" or \"[::1]:43409\", nor a socket's path such as \"/run/cgrove/cgrove.sock\""
            ),
        )
    })
}

fn tokens(raw: Option<toml::Value>, base: &Path) -> Result<Vec<Token>, Bad> {
    const NAME: &str = "server.tokens";
    let Some(value) = raw else { return Ok(Vec::new()) };
    // The parser's message may quote a token that someone wrote here.
    let shape = || "each is [[server.tokens]] with name = \"...\", roles = [\"usage\"] and file = \"...\"".to_owned();
    let entries: Vec<RawToken> = value.try_into().map_err(|_: toml::de::Error| (NAME, shape()))?;
    let read = |raw: RawToken| {
        let roles = Roles::parse(&raw.roles).ok_or((NAME, format!("{}: roles is {}", raw.name, Roles::NAMES)))?;
        Ok(Token { secret: secret_file(base, &raw.file), name: raw.name, roles })
    };
    entries.into_iter().map(read).collect()
}

/// Other hosts may reach us only where someone said so.
pub fn check_reach(server: &Server) -> Result<(), String> {
    let open = |a: &&Address| matches!(a, Address::Tcp(a) if !a.ip().is_loopback());
    let Some(open) = server.listen.iter().find(open) else { return Ok(()) };
    let by_proof = server.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some() || !server.tokens.is_empty());
    if server.insecure || by_proof || !server.allow_from.is_empty() {
        return Ok(());
    }
    let missing = match (&server.tls, server.tokens.is_empty()) {
        (None, false) => "tokens count only over TLS: set server.tls_certificate and server.tls_key",
        (Some(_), true) => "TLS alone lets nobody in: add [[server.tokens]] or server.tls_client_ca",
        _ => "set server.tls_certificate, server.tls_key and [[server.tokens]]",
    };
    Err(format!(
        "{open} is reachable from other hosts: {missing}; or name who may read without a password with server.allow_from = [\"10.0.0.0/8\"]; or say server.insecure = true"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(text: &str) -> Result<Server, Bad> {
        server(toml::from_str(text).unwrap(), Path::new("/etc/cgrove"))
    }

    #[test]
    fn other_hosts_get_in_only_where_someone_said_so() {
        const TLS: &str = "tls_certificate = \"c\"\ntls_key = \"k\"\n";
        const TOKEN: &str = "[[tokens]]\nname = \"t\"\nroles = [\"usage\"]\nfile = \"t\"\n";
        let open = |more: &str| build(&format!("listen = \"0.0.0.0:1\"\n{more}"));
        for (more, hint) in [("", "server.tls_certificate"), (TLS, "server.tls_client_ca"), (TOKEN, "only over TLS")] {
            let (name, why) = open(more).unwrap_err();
            assert!(name == "server.listen" && why.contains(hint), "{why}");
        }
        for more in ["insecure = true", "allow_from = [\"10.0.0.1\"]", &format!("{TLS}{TOKEN}")] {
            assert!(open(more).is_ok(), "{more}");
        }
        assert!(open(&format!("{TLS}tls_client_ca = \"ca\"")).is_ok());
        assert!(build(TOKEN).is_ok() && build("listen = [\"[::1]:1\", \"/run/x.sock\"]").is_ok());
    }

    #[test]
    fn sockets_tokens_and_roles() {
        let s = build("listen = [\"unix:/a\", \"/b\"]\n[[tokens]]\nname = \"t\"\nroles = [\"conf\"]\nfile = \"t\"")
            .unwrap();
        assert_eq!(s.listen, [Address::Unix("/a".into()), Address::Unix("/b".into())]);
        assert_eq!(s.tokens[0].roles, Roles { usage: false, conf: true });
        assert!(matches!(&s.tokens[0].secret, Secret::File(path) if path == Path::new("/etc/cgrove/t")));
        let (_, why) = build("[[tokens]]\nname = \"t\"\nroles = [\"root\"]\nfile = \"t\"").unwrap_err();
        assert!(why.contains("\"usage\" and \"conf\""), "{why}");
        let (_, why) = build("tokens = [\"topsecret\"]").unwrap_err();
        assert!(!why.contains("topsecret"), "{why}");
        assert!(build("tls_key = \"k\"").is_err() && build("listen = \"here\"").is_err());
    }
}
