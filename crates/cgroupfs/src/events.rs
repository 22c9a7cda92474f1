//! The kernel's process events: which processes have just begun another program, or changed their user. Hints only: what
//! is missed is found at the next pass over /proc. Needs CAP_NET_ADMIN.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with};

/// include/uapi/linux/connector.h, cn_proc.h, netlink.h.
const CN_IDX_PROC: u32 = 1;
const CN_VAL_PROC: u32 = 1;
const PROC_CN_MCAST_LISTEN: u32 = 1;
const NLMSG_DONE: u16 = 3;
const HEADERS: usize = 16 + 20;
const EXEC: u32 = 0x2;
const UID: u32 = 0x4;

/// Non-blocking; poll its descriptor, then [`ProcEvents::drain`].
pub struct ProcEvents(OwnedFd);

impl ProcEvents {
    pub fn new() -> Result<Self, Errno> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::CONNECTOR))?;
        bind(&fd, &SocketAddrNetlink::new(0, CN_IDX_PROC))?;
        let mut message = Vec::with_capacity(HEADERS + 4);
        let length = u32::try_from(HEADERS + 4).unwrap_or(0);
        message.extend_from_slice(&length.to_ne_bytes());
        message.extend_from_slice(&NLMSG_DONE.to_ne_bytes());
        message.extend_from_slice(&[0; 10]); // flags, sequence, port
        message.extend_from_slice(&CN_IDX_PROC.to_ne_bytes());
        message.extend_from_slice(&CN_VAL_PROC.to_ne_bytes());
        message.extend_from_slice(&[0; 8]); // sequence, acknowledgement
        message.extend_from_slice(&4u16.to_ne_bytes());
        message.extend_from_slice(&[0; 2]); // flags
        message.extend_from_slice(&PROC_CN_MCAST_LISTEN.to_ne_bytes());
        send(&fd, &message, SendFlags::empty())?;
        Ok(Self(fd))
    }

    /// The processes of all events that are there; `None` when some were lost.
    pub fn drain(&self) -> Option<Vec<i32>> {
        let mut pids = Vec::new();
        let mut buffer = [MaybeUninit::<u8>::uninit(); 1024];
        loop {
            match recv(&self.0, &mut buffer, RecvFlags::empty()) {
                Ok(((bytes, _), _)) => pids.extend(parse(bytes)),
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => return None,
                Err(_) => return Some(pids),
            }
        }
    }
}

impl AsFd for ProcEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
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
