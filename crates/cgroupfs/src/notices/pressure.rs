//! Waiting for triggers of pressure. The kernel tells each crossing to whoever polls first, so nobody but this may poll
//! the files; a poll within a poll would eat what it should hand on.

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;

use super::Trigger;

/// What stands for the end among triggers' numbers.
const END: u64 = u64::MAX;

/// One poll for all triggers, and for the end.
pub struct Pressure(Epoll, EventFd);

impl Pressure {
    pub(super) fn new() -> Result<Self, Errno> {
        let (poll, end) = (Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?, EventFd::new()?);
        poll.add(&end, EpollEvent::new(EpollFlags::EPOLLIN, END))?;
        Ok(Self(poll, end))
    }

    /// From now on nobody waits.
    pub(super) fn end(&self) {
        let _ = self.1.write(1);
    }

    pub(super) fn add(&self, trigger: &Trigger, number: u64) -> Result<(), Errno> {
        self.0.add(&trigger.file, event(number))
    }

    /// Each crossing is told once, until it has been heard.
    pub(super) fn again(&self, trigger: &Trigger, number: u64) -> Result<(), Errno> {
        self.0.modify(&trigger.file, &mut event(number))
    }

    /// Waits for triggers to fire; blocking. `None` is the end.
    pub fn wait(&self) -> Option<Vec<(u64, EpollFlags)>> {
        let mut events = [EpollEvent::empty(); 64];
        let n = match self.0.wait(&mut events, EpollTimeout::NONE) {
            Ok(n) => n,
            Err(Errno::EINTR) => 0,
            Err(_) => return None,
        };
        let fired: Vec<_> = events.iter().take(n).map(|e| (e.data(), e.events())).collect();
        fired.iter().all(|(number, _)| *number != END).then_some(fired)
    }
}

fn event(number: u64) -> EpollEvent {
    EpollEvent::new(EpollFlags::EPOLLPRI | EpollFlags::EPOLLONESHOT, number)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn whoever_waits_learns_of_the_end() {
        let pressure = Arc::new(Pressure::new().unwrap());
        let (sender, told) = mpsc::channel();
        let waiting = pressure.clone();
        thread::spawn(move || sender.send(waiting.wait()));
        pressure.end();
        assert_eq!(told.recv_timeout(Duration::from_secs(10)), Ok(None));
    }
}
