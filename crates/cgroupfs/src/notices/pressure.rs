//! Waiting for triggers of pressure. The kernel tells each crossing to whoever polls first, so nobody but this may poll
//! the files; a poll within a poll would eat what it should hand on.

use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::Trigger;

/// One poll for all triggers.
pub struct Pressure(Epoll);

impl Pressure {
    pub(super) fn new() -> Result<Self, Errno> {
        Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map(Self)
    }

    pub(super) fn add(&self, trigger: &Trigger, number: u64) -> Result<(), Errno> {
        self.0.add(&trigger.file, event(number))
    }

    /// Each crossing is told once, until it has been heard.
    pub(super) fn again(&self, trigger: &Trigger, number: u64) -> Result<(), Errno> {
        self.0.modify(&trigger.file, &mut event(number))
    }

    /// Waits for triggers to fire; blocking.
    pub fn wait(&self, longest: Duration) -> Vec<(u64, EpollFlags)> {
        let mut events = [EpollEvent::empty(); 64];
        let longest = EpollTimeout::try_from(longest).unwrap_or(EpollTimeout::ZERO);
        let n = self.0.wait(&mut events, longest).unwrap_or(0);
        events[..n].iter().map(|e| (e.data(), e.events())).collect()
    }
}

fn event(number: u64) -> EpollEvent {
    EpollEvent::new(EpollFlags::EPOLLPRI | EpollFlags::EPOLLONESHOT, number)
}
