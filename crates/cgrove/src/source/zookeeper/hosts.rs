//! `zookeeper.hosts`: `h1:2181,h2:2181/chroot`, as ZooKeeper's own clients read it.

/// A server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) tls: bool,
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name.contains(':') {
            true => write!(f, "[{}]:{}", self.name, self.port),
            false => write!(f, "{}:{}", self.name, self.port),
        }
    }
}

/// The servers and the chroot, which is empty or begins with a slash. `tls` is for servers that do not say otherwise.
pub(super) fn parse(text: &str, tls: bool) -> Result<(Vec<Host>, String), String> {
    let bad = |why: &str| format!("zookeeper.hosts {text:?}: {why}; as in \"h1:2181,h2:2181/chroot\"");
    let mut rest = text;
    let mut hosts = Vec::new();
    let mut chroot = "";
    while !rest.is_empty() || hosts.is_empty() {
        let (scheme, after) = match rest.split_once("://") {
            Some((scheme @ ("tcp" | "tcp+tls"), after)) => (Some(scheme), after),
            _ => (None, rest),
        };
        let end = after.find([',', '/']).unwrap_or(after.len());
        let (address, behind) = after.split_at(end);
        hosts.push(host(address, scheme.map_or(tls, |s| s == "tcp+tls")).ok_or_else(|| bad("a server is HOST:PORT"))?);
        match behind.strip_prefix(',') {
            Some("") => return Err(bad("nothing stands behind the last comma")),
            Some(more) => rest = more,
            None => {
                (chroot, rest) = (behind, "");
            }
        }
    }
    let chroot = chroot.strip_suffix('/').unwrap_or(chroot);
    let odd = |c: &str| matches!(c, "" | "." | "..") || c.chars().any(|c| c.is_control() || c == ',');
    match chroot.strip_prefix('/') {
        None => Ok((hosts, String::new())),
        Some(path) if !path.split('/').any(odd) => Ok((hosts, chroot.to_owned())),
        Some(_) => Err(bad("the chroot behind the servers is no znode path")),
    }
}

fn host(text: &str, tls: bool) -> Option<Host> {
    let (name, port) = match text.strip_prefix('[') {
        Some(inner) => {
            let (name, port) = inner.split_once(']')?;
            (name, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => text.rsplit_once(':').map_or((text, None), |(name, port)| (name, Some(port))),
    };
    let port = match port {
        None | Some("") => 2181,
        Some(port) => port.parse().ok().filter(|p| *p != 0)?,
    };
    (!name.is_empty()).then(|| Host { name: name.into(), port, tls })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_chroot() {
        let shown = |text: &str| {
            let (hosts, chroot) = parse(text, false).unwrap();
            let hosts: Vec<_> = hosts.iter().map(|h| format!("{h}{}", if h.tls { "+tls" } else { "" })).collect();
            format!("{} {chroot}", hosts.join(" "))
        };
        for (text, wanted) in [
            ("h", "h:2181 "),
            ("h1:1,h2:2/a/b", "h1:1 h2:2 /a/b"),
            ("h/", "h:2181 "),
            ("[::1]:9,[::2]/x", "[::1]:9 [::2]:2181 /x"),
            ("tcp+tls://h:1,tcp://i,j", "h:1+tls i:2181 j:2181 "),
        ] {
            assert_eq!(shown(text), wanted, "{text}");
        }
        for bad in ["", ",", "h,", ",h", "h:0", "h:x", "h:65536", "[::1", "h//a", "h/a,b", "h/a/../b", "h/a//"] {
            assert!(parse(bad, false).is_err(), "{bad}");
        }
        assert!(parse("h,tcp://i", true).unwrap().0.iter().map(|h| h.tls).eq([true, false]));
    }
}
