//! The kernel's process events: which processes have just begun another program, or changed their user. Hints only: what
//! is missed is found at the next pass over /proc. Needs CAP_NET_ADMIN.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrAny, SocketFlags, SocketType, bind, recvfrom, send, socket_with,
    sockopt,
};

/// include/uapi/linux/connector.h, cn_proc.h, netlink.h.
const CN_IDX_PROC: u32 = 1;
const CN_VAL_PROC: u32 = 1;
const PROC_CN_MCAST_LISTEN: u32 = 1;
const PROC_CN_MCAST_IGNORE: u32 = 2;
const NLMSG_DONE: u16 = 3;
const HEADERS: usize = 16 + 20;
const EXEC: u32 = 0x2;
const UID: u32 = 0x4;

/// Messages that are taken at a time: whoever forks without end must not keep us reading.
const MOST: usize = 2000;

/// Bytes of announcements that wait for us; some thousand.
const ROOM: usize = 4 << 20;

/// Non-blocking; poll its descriptor, then [`ProcEvents::drain`].
pub struct ProcEvents {
    socket: OwnedFd,
    /// Not everything was taken. The kernel announces nothing more before it is, once there was no room.
    more: AtomicBool,
}

impl ProcEvents {
    pub fn new() -> Result<Self, Errno> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::CONNECTOR))?;
        // Whoever may listen may also ask for more room than the system's limit.
        let _ = sockopt::set_socket_recv_buffer_size_force(&fd, ROOM);
        bind(&fd, &SocketAddrNetlink::new(0, CN_IDX_PROC))?;
        send(&fd, &control(&[PROC_CN_MCAST_LISTEN]), SendFlags::empty())?;
        // Since Linux 6.6 only these kinds need be announced; before, the kernel takes no notice of such a message.
        let _ = send(&fd, &control(&[PROC_CN_MCAST_LISTEN, EXEC | UID]), SendFlags::empty());
        Ok(Self { socket: fd, more: AtomicBool::new(false) })
    }

    /// Something waits to be taken, whatever the descriptor says.
    pub fn more(&self) -> bool {
        self.more.load(Ordering::Relaxed)
    }

    /// The processes of all events that are there; `None` when some were lost, or there are too many to take each by itself.
    pub fn drain(&self) -> Option<Vec<i32>> {
        let mut pids = Vec::new();
        let mut lost = false;
        self.more.store(false, Ordering::Relaxed);
        let mut buffer = [MaybeUninit::<u8>::uninit(); 1024];
        for _ in 0..MOST {
            match recvfrom(&self.socket, &mut buffer, RecvFlags::empty()) {
                Ok(((bytes, _), _, from)) if of_kernel(from.as_ref()) => pids.extend(parse(bytes)),
                // Whoever may open such a socket can send to ours.
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => lost = true,
                Err(_) => return Some(pids).filter(|_| !lost),
            }
        }
        self.more.store(true, Ordering::Relaxed);
        None
    }
}

/// The kernel goes on announcing to nobody, before Linux 6.6, unless it is told.
impl Drop for ProcEvents {
    fn drop(&mut self) {
        let _ = send(&self.socket, &control(&[PROC_CN_MCAST_IGNORE]), SendFlags::empty());
    }
}

fn of_kernel(from: Option<&SocketAddrAny>) -> bool {
    from.and_then(|from| SocketAddrNetlink::try_from(from.clone()).ok()).is_some_and(|from| from.pid() == 0)
}

/// A message to the kernel's connector with these numbers.
fn control(words: &[u32]) -> Vec<u8> {
    let body = words.len() * 4;
    let mut message = Vec::with_capacity(HEADERS + body);
    message.extend_from_slice(&u32::try_from(HEADERS + body).unwrap_or(0).to_ne_bytes());
    message.extend_from_slice(&NLMSG_DONE.to_ne_bytes());
    message.extend_from_slice(&[0; 10]); // flags, sequence, port
    message.extend_from_slice(&CN_IDX_PROC.to_ne_bytes());
    message.extend_from_slice(&CN_VAL_PROC.to_ne_bytes());
    message.extend_from_slice(&[0; 8]); // sequence, acknowledgement
    message.extend_from_slice(&u16::try_from(body).unwrap_or(0).to_ne_bytes());
    message.extend_from_slice(&[0; 2]); // flags
    words.iter().for_each(|word| message.extend_from_slice(&word.to_ne_bytes()));
    message
}

impl AsFd for ProcEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The process of an exec or of a change of user. After the headers: what, cpu, timestamp (8 bytes), pid, tgid.
fn parse(message: &[u8]) -> Option<i32> {
    let number = |at: usize| Some(u32::from_ne_bytes(message.get(HEADERS + at..HEADERS + at + 4)?.try_into().ok()?));
    let tgid = number(20)?;
    matches!(number(0)?, EXEC | UID).then(|| i32::try_from(tgid).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn execs_and_users_name_the_process() {
        let message = |what: u32| {
            let mut bytes = vec![0; HEADERS];
            for n in [what, 0, 0, 0, 41, 42, 0, 0] {
                bytes.extend_from_slice(&n.to_ne_bytes());
            }
            bytes
        };
        assert_eq!((parse(&message(EXEC)), parse(&message(UID)), parse(&message(1))), (Some(42), Some(42), None));
        assert_eq!(parse(&message(EXEC)[..50]), None);
    }
}
