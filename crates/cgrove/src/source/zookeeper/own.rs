//! Is the other end of a connection on loopback in this process? Any user may connect to a port of loopback; the kernel says
//! which socket has which address (/proc/self/net/tcp), and which sockets are ours (/proc/self/fd).

use std::io::Result;
use std::net::{SocketAddr, SocketAddrV4};

use nix::unistd::geteuid;

/// Those of the peers of `here` whose socket is one of this process's. What cannot be told is an error.
pub(super) fn ours(here: SocketAddrV4, peers: &[SocketAddr]) -> Result<Vec<bool>> {
    let table = std::fs::read_to_string("/proc/self/net/tcp")?;
    let user = geteuid().to_string();
    let links: Vec<Option<String>> = peers
        .iter()
        .map(|peer| match peer {
            // A daemon with a large tree has very many descriptors: strangers do not make us look at them all.
            SocketAddr::V4(peer) => socket(&table, *peer, here)
                .filter(|(uid, _)| *uid == user)
                .map(|(_, inode)| format!("socket:[{inode}]")),
            SocketAddr::V6(_) => None,
        })
        .collect();
    let mut ours = vec![false; peers.len()];
    let mut left = links.iter().flatten().count();
    let mut descriptors = std::fs::read_dir("/proc/self/fd")?;
    while left > 0
        && let Some(descriptor) = descriptors.next()
    {
        // A descriptor may be closed meanwhile.
        let Ok(link) = std::fs::read_link(descriptor?.path()) else { continue };
        for (ours, wanted) in ours.iter_mut().zip(&links).filter(|(ours, _)| !**ours) {
            if wanted.as_deref().is_some_and(|wanted| link.as_os_str() == wanted) {
                (*ours, left) = (true, left - 1);
            }
        }
    }
    Ok(ours)
}

/// User and inode of the socket from `local` to `remote`.
fn socket(table: &str, local: SocketAddrV4, remote: SocketAddrV4) -> Option<(&str, &str)> {
    // Addresses are the numbers that the machine makes of the four bytes; ports are in the usual order.
    let shown = |a: SocketAddrV4| format!("{:08X}:{:04X}", u32::from_ne_bytes(a.ip().octets()), a.port());
    let (local, remote) = (shown(local), shown(remote));
    table.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        if words.next()? != local || words.next()? != remote {
            return None;
        }
        let (user, _timeout, inode) = (words.nth(4)?, words.next()?, words.next()?);
        Some((user, inode))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::process::{Command, Stdio};

    #[test]
    #[cfg(target_endian = "little")]
    fn the_kernels_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:0016 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0000000000000000 20 4 30 10 -1\n";
        let at = |port| SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, port);
        assert_eq!(socket(table, at(22), at(8080)), Some(("1000", "4711")));
        assert_eq!(socket(table, at(8080), at(22)), None);
    }

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
