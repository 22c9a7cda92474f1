//! Writing to a disk that may be slow: the tree waits a second, and looks again later.

use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::time::Duration;

use cgrove_state::StateError;

const PATIENCE: Duration = Duration::from_secs(1);

/// One file's writes, one after the other.
#[derive(Debug, Default)]
pub(super) struct Slow(Option<Receiver<Result<(), StateError>>>);

#[derive(Debug)]
pub(super) enum Written {
    Done,
    /// It goes on; nothing else is written meanwhile.
    Waiting,
    Failed(StateError),
}

impl Slow {
    /// What became of a write that was waited for too long; `None` without one.
    pub(super) fn earlier(&mut self) -> Option<Written> {
        let pending = self.0.take()?;
        Some(match pending.try_recv() {
            Ok(Ok(())) => Written::Done,
            Ok(Err(e)) => Written::Failed(e),
            Err(TryRecvError::Empty) => {
                self.0 = Some(pending);
                Written::Waiting
            }
            Err(TryRecvError::Disconnected) => Written::Failed(died()),
        })
    }

    pub(super) fn write(&mut self, work: impl FnOnce() -> Result<(), StateError> + Send + 'static) -> Written {
        let (done, written) = channel();
        let thread = std::thread::Builder::new().name("marks".into()).spawn(move || drop(done.send(work())));
        if let Err(source) = thread {
            return Written::Failed(StateError::Io { operation: "begin to write", path: "a thread".into(), source });
        }
        match written.recv_timeout(PATIENCE) {
            Ok(Ok(())) => Written::Done,
            Ok(Err(e)) => Written::Failed(e),
            Err(RecvTimeoutError::Timeout) => {
                self.0 = Some(written);
                Written::Waiting
            }
            Err(RecvTimeoutError::Disconnected) => Written::Failed(died()),
        }
    }
}

fn died() -> StateError {
    let source = std::io::Error::other("the thread that writes died");
    StateError::Io { operation: "write", path: "the state directory".into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_write_is_waited_for_no_longer_than_a_second_and_not_forgotten() {
        let mut slow = Slow::default();
        assert!(matches!(slow.write(|| Ok(())), Written::Done) && slow.earlier().is_none());
        let (go, gate) = channel::<()>();
        let wait = move || gate.recv().map_err(|_| died());
        assert!(matches!(slow.write(wait), Written::Waiting));
        assert!(matches!(slow.earlier(), Some(Written::Waiting)));
        go.send(()).unwrap();
        let ended = (0..1000).find_map(|_| match slow.earlier() {
            Some(Written::Waiting) => {
                std::thread::park_timeout(Duration::from_millis(5));
                None
            }
            other => other,
        });
        assert!(matches!(ended, Some(Written::Done)));
        assert!(matches!(slow.write(|| Err(died())), Written::Failed(_)));
    }
}
