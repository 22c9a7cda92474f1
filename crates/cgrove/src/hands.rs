//! The one thread that sees /proc and writes cgroups. It is begun before the others are confined (`confine`), and
//! takes one piece of work at a time. What it is at is noted, for whoever wants to know why it is silent.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::mpsc::{Sender, channel};

use cgrove_cgroupfs::doing::{self, Doing};
use tokio::sync::oneshot;

use crate::exit::Exit;

type Work = Box<dyn FnOnce() + Send>;

/// A way to give the thread work; it ends when the last of these is gone.
#[derive(Clone)]
pub(crate) struct Hands {
    work: Sender<Work>,
    doing: Doing,
}

impl Hands {
    pub(crate) fn begin() -> std::io::Result<Self> {
        let (work, waiting) = channel::<Work>();
        let doing = Doing::default();
        let noted = doing.clone();
        let run = move || {
            noted.note_here();
            for work in waiting {
                doing::at("begin", Path::new(""));
                work();
                doing::nothing();
            }
        };
        std::thread::Builder::new().name("hands".into()).spawn(run)?;
        Ok(Self { work, doing })
    }

    /// What the thread is at.
    pub(crate) fn doing(&self) -> Doing {
        self.doing.clone()
    }

    /// What the work returns. A panic in there is a bug: it ends the daemon, which systemd starts again.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = oneshot::channel();
        let work = move || drop(done.send(catch_unwind(AssertUnwindSafe(work))));
        // The thread outlives every piece of work: without it there is nothing to go on with.
        let gone = |_| resume_unwind(Box::new("the hands are gone"));
        self.work.send(Box::new(work)).unwrap_or_else(gone);
        match result.await {
            Ok(Ok(value)) => value,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => resume_unwind(Box::new("the hands are gone")),
        }
    }
}

impl Hands {
    /// As [`Hands::run`], for those who answer for the whole daemon: a panic becomes exit code 70, with its text.
    pub(crate) async fn attempt<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Exit> {
        let hands = self.clone();
        tokio::spawn(async move { hands.run(work).await }).await.map_err(|e| Exit::bug("the worker", e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_in_order_on_one_thread_and_a_panic_comes_back() {
        let hands = Hands::begin().unwrap();
        let name = || std::thread::current().name().map(str::to_owned);
        assert_eq!(hands.run(name).await.as_deref(), Some("hands"));
        let other = hands.clone();
        let died = tokio::spawn(async move { other.run(|| panic!("a bug")).await }).await;
        assert!(died.is_err_and(|e| e.is_panic()));
        assert_eq!(hands.run(|| 2 + 2).await, 4);
        let exit = hands.attempt(|| panic!("a bug")).await.map(|()| 0).unwrap_err();
        assert!(exit.code == 70 && exit.message.contains("a bug"), "{exit:?}");
        assert_eq!(hands.attempt(|| 2 + 2).await.unwrap(), 4);
    }
}
