//! Which user owns the other end of a connection within this node. The kernel tells by sock_diag(7); where netlink
//! sockets are not allowed, /proc/net/tcp tells the same more slowly, and is read no oftener than its cost allows.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// `SOCK_DIAG_BY_FAMILY`, and `struct inet_diag_req_v2` behind a netlink header.
const BY_FAMILY: u16 = 20;
const REQUEST: u16 = 1;
const HEADER: usize = 16;
/// Offsets in `struct inet_diag_msg`.
const STATE: usize = 1;
const REMOTE_PORT: usize = 6;
const UID: usize = 64;
const INODE: usize = 68;
const MESSAGE: usize = 72;
/// `TCP_LISTEN` and `TCP_TIME_WAIT`: nobody's connection.
const LISTEN: u8 = 10;
const TIME_WAIT: u8 = 6;

/// The user whose socket has the local address `there` and is connected to `here`; `None` when no process has it open.
pub(crate) fn of(here: SocketAddr, there: SocketAddr) -> Option<u32> {
    // A kernel without the module answers as if there were no such socket.
    ask(here, there).ok().flatten().or_else(|| read().get(&(canonical(there), canonical(here))).copied())
}

/// An IPv4 address is one, however it is written.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn ask(here: SocketAddr, there: SocketAddr) -> io::Result<Option<u32>> {
    let (here, there) = (canonical(here), canonical(there));
    let mut request = Vec::with_capacity(HEADER + 56);
    request.extend(u32::to_ne_bytes(72));
    request.extend(u16::to_ne_bytes(BY_FAMILY));
    request.extend(u16::to_ne_bytes(REQUEST));
    request.extend([0; 8]);
    let family: u8 = if there.is_ipv4() { 2 } else { 10 };
    // Family, TCP, nothing more about it, whatever its state.
    request.extend([family, 6, 0, 0]);
    request.extend(u32::MAX.to_ne_bytes());
    request.extend(there.port().to_be_bytes());
    request.extend(here.port().to_be_bytes());
    request.extend(octets(there.ip()));
    request.extend(octets(here.ip()));
    request.extend(0u32.to_ne_bytes());
    // No cookie.
    request.extend([0xff; 8]);
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(SOCK_DIAG))?;
    rustix::net::sendto(&socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut reply = [0; 1024];
    // The kernel has answered before the request returned.
    let (length, _) = rustix::net::recv(&socket, &mut reply[..], RecvFlags::DONTWAIT)?;
    let reply = reply.get(..length).unwrap_or_default();
    let kind = reply.get(4..6).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
    if kind != Some(BY_FAMILY) {
        // NLMSG_ERROR with its negative number.
        let code = reply.get(HEADER..HEADER + 4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes);
        return match -code {
            libc_errno::ENOENT => Ok(None),
            code => Err(io::Error::from_raw_os_error(code)),
        };
    }
    let Some(message) = reply.get(HEADER..HEADER + MESSAGE) else { return Err(io::ErrorKind::InvalidData.into()) };
    let number = |at: usize| message.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes);
    let state = message.get(STATE).copied().unwrap_or_default();
    let port = message.get(REMOTE_PORT..REMOTE_PORT + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_be_bytes);
    // Without the connection the kernel shows whoever listens there; without an inode no process has it open.
    let open = state != LISTEN && state != TIME_WAIT && port == here.port() && number(INODE) != 0;
    Ok(open.then(|| number(UID)))
}

mod libc_errno {
    pub(super) const ENOENT: i32 = nix::errno::Errno::ENOENT as i32;
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V6(v6) => v6.octets(),
        IpAddr::V4(v4) => {
            let mut out = [0; 16];
            out[..4].copy_from_slice(&v4.octets());
            out
        }
    }
}

/// Answers for many connections, for a daemon.
#[derive(Default)]
pub(crate) struct Owners(Mutex<Table>);

#[derive(Default)]
struct Table {
    /// Netlink sockets are not allowed here.
    slow: bool,
    users: HashMap<(SocketAddr, SocketAddr), u32>,
    /// Not read again before.
    next: Option<Instant>,
}

/// Between two looks at /proc/net/tcp: at least this, and so many times what the last one took.
const PAUSE: Duration = Duration::from_millis(100);
const SPARINGLY: u32 = 20;

impl Owners {
    /// As [`of`]; `None` also where it cannot be known now.
    pub(crate) fn of(&self, here: SocketAddr, there: SocketAddr) -> Option<u32> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !table.slow {
            match ask(here, there) {
                Ok(Some(user)) => return Some(user),
                // Gone, or a kernel without the module.
                Ok(None) => {}
                Err(e) => {
                    tracing::debug!("sock_diag: {e}; /proc/net/tcp is read instead");
                    table.slow = true;
                }
            }
        }
        let key = (canonical(there), canonical(here));
        let now = Instant::now();
        if table.next.is_none_or(|next| now >= next) {
            table.users = read();
            table.next = Some(Instant::now() + (now.elapsed() * SPARINGLY).max(PAUSE));
        }
        table.users.get(&key).copied()
    }
}

/// All connections that processes here have open: their local and remote addresses and their users.
fn read() -> HashMap<(SocketAddr, SocketAddr), u32> {
    let mut out = HashMap::new();
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        out.extend(text.lines().skip(1).filter_map(line));
    }
    out
}

fn line(text: &str) -> Option<((SocketAddr, SocketAddr), u32)> {
    let mut words = text.split_whitespace().skip(1);
    let (local, remote) = (address(words.next()?)?, address(words.next()?)?);
    let state = u8::from_str_radix(words.next()?, 16).ok()?;
    let user = words.nth(3)?.parse().ok()?;
    let inode: u64 = words.nth(1)?.parse().ok()?;
    (state != LISTEN && state != TIME_WAIT && inode != 0).then_some(((local, remote), user))
}

/// `0100007F:1F90`: words of 32 bits in the machine's order.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip: IpAddr = match ip.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            IpAddr::from(<[u8; 16]>::try_from(words.concat()).ok()?)
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip.to_canonical(), u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn both_ends_of_a_connection_are_ours_and_a_listener_is_none() {
        let me = nix::unistd::geteuid().as_raw();
        for at in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(at) else { continue };
            let port = listener.local_addr().unwrap().port();
            let to = if at == "[::1]:0" { "[::1]" } else { "127.0.0.1" };
            let client = TcpStream::connect(format!("{to}:{port}")).unwrap();
            let (server, peer) = listener.accept().unwrap();
            let (here, there) = (server.local_addr().unwrap(), peer);
            assert_eq!(of(here, there), Some(me), "{at}");
            assert_eq!(of(client.peer_addr().unwrap(), client.local_addr().unwrap()), Some(me));
            assert!(ask(here, there).is_ok_and(|user| user == Some(me)) || ask(here, there).is_err());
            let listed = read();
            assert_eq!(listed.get(&(canonical(there), canonical(here))), Some(&me), "{at}");
            let slow = Owners(Mutex::new(Table { slow: true, ..Table::default() }));
            assert_eq!((slow.of(here, there), Owners::default().of(here, there)), (Some(me), Some(me)));
            drop((client, server));
            // Nobody's any more; the listener is not taken for it.
            assert_eq!(of(here, there), None);
        }
    }

    #[test]
    fn lines_of_proc_net_tcp() {
        let text =
            "   1: 0100007F:A991 0100007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 35133 1 0 20";
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        if cfg!(target_endian = "little") {
            assert_eq!(line(text), Some(((at(43409), at(50000)), 1000)));
        }
        for nobody in [text.replace(" 01 ", " 0A "), text.replace("35133", "0"), "rubbish".into()] {
            assert_eq!(line(&nobody), None);
        }
    }
}
