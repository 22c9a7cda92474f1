//! Whom a connection is counted for: one user of this node, or one host elsewhere. What there is to share is shared among
//! peers, so that a crowd of one of them takes from nobody else.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Peer {
    /// A user of this node.
    User(u32),
    /// Somebody on this node; the kernel did not say who.
    Node,
    /// A host elsewhere; of IPv6 its /64.
    Host(IpAddr),
}

impl Peer {
    pub(super) const ROOT: Self = Self::User(0);
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(uid) => write!(f, "uid {uid}"),
            Self::Node => f.write_str("this node"),
            Self::Host(IpAddr::V6(v6)) => write!(f, "{v6}/64"),
            Self::Host(v4) => v4.fmt(f),
        }
    }
}

/// One IPv6 host has a whole /64.
pub(super) fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & (u128::MAX << 64))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_name() {
        let host = |text: &str| Peer::Host(network(text.parse().unwrap()));
        assert_eq!(host("2001:db8::1"), host("2001:db8::ffff"));
        assert_ne!(host("2001:db8::1"), host("2001:db8:0:1::1"));
        assert_eq!(host("::ffff:10.0.0.1"), host("10.0.0.1"));
        assert_eq!(host("2001:db8::1").to_string(), "2001:db8::/64");
        assert_eq!((Peer::ROOT.to_string(), host("10.0.0.1").to_string()), ("uid 0".into(), "10.0.0.1".into()));
    }
}
