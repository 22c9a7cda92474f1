//! Is the other end of a connection on loopback in this process? Any user may connect to a port of loopback; the kernel says
//! which socket has which address (/proc/self/net/tcp), and which sockets are ours (/proc/self/fd).

use std::collections::HashSet;
use std::io::Result;
use std::net::{SocketAddr, SocketAddrV4};

/// Those of the peers of `here` whose socket is one of this process's. What cannot be told is an error.
pub(super) fn ours(here: SocketAddrV4, peers: &[SocketAddr]) -> Result<Vec<bool>> {
    let table = std::fs::read_to_string("/proc/self/net/tcp")?;
    let mut held = HashSet::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        // A descriptor may be closed meanwhile.
        let Ok(link) = std::fs::read_link(entry?.path()) else { continue };
        let socket = link.to_str().and_then(|l| l.strip_prefix("socket:[")?.strip_suffix(']'));
        held.extend(socket.map(str::to_owned));
    }
    let of = |peer: &SocketAddr| match peer {
        SocketAddr::V4(peer) => inode(&table, *peer, here).is_some_and(|inode| held.contains(inode)),
        SocketAddr::V6(_) => false,
    };
    Ok(peers.iter().map(of).collect())
}

/// The inode of the socket from `local` to `remote`.
fn inode(table: &str, local: SocketAddrV4, remote: SocketAddrV4) -> Option<&str> {
    // Addresses are the numbers that the machine makes of the four bytes; ports are in the usual order.
    let shown = |a: SocketAddrV4| format!("{:08X}:{:04X}", u32::from_ne_bytes(a.ip().octets()), a.port());
    let (local, remote) = (shown(local), shown(remote));
    table.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        (words.next()? == local && words.next()? == remote).then(|| words.nth(6))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::process::{Command, Stdio};

    #[test]
    fn ours_and_a_strangers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(here) = listener.local_addr().unwrap() else { panic!("an address of IPv4") };
        let mine = TcpStream::connect(here).unwrap();
        let (_held, own) = listener.accept().unwrap();
        assert_eq!(own, mine.local_addr().unwrap());
        let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{}; read -u 3 _", here.port());
        let mut child = Command::new("bash").args(["-c", &connect]).stdin(Stdio::null()).spawn().unwrap();
        let (mut theirs, other) = listener.accept().unwrap();
        assert_eq!(ours(here, &[own, other]).unwrap(), [true, false]);
        // Nor is a connection that is over.
        drop(mine);
        assert_eq!(ours(here, &[own]).unwrap(), [false]);
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = theirs.read(&mut [0]);
        child.wait().unwrap();
    }
}
