//! How far long work is: told every two seconds. Work that ends sooner says nothing.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::term;

const EVERY: Duration = Duration::from_secs(2);

/// Work that is done in steps.
pub(crate) struct Progress {
    next: Instant,
    tell: Box<dyn Fn(usize, usize) + Send + Sync>,
}

impl Progress {
    /// `tell` gets how many steps are done, and how many there are.
    pub(crate) fn new(tell: impl Fn(usize, usize) + Send + Sync + 'static) -> Self {
        Self { next: Instant::now() + EVERY, tell: Box::new(tell) }
    }

    /// Another piece of work begins.
    pub(crate) fn begin(&mut self) {
        self.next = Instant::now() + EVERY;
    }

    pub(crate) fn at(&mut self, done: usize, total: usize) {
        if Instant::now() >= self.next {
            self.next = Instant::now() + EVERY;
            (self.tell)(done, total);
        }
    }
}

/// A command's work whose steps cannot be counted; said on standard error that it goes on.
pub(crate) fn patiently<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let (ended, waiting) = channel::<()>();
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = waiting.recv_timeout(EVERY) {
                term::err(&format!("cgrove: {what}, {} s", began.elapsed().as_secs()));
            }
        });
        let result = work();
        drop(ended);
        result
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn only_long_work_is_told() {
        let told = Arc::new(AtomicUsize::new(0));
        let count = told.clone();
        let mut progress = Progress::new(move |done, total| {
            let _ = count.fetch_add(done * 10 + total, Ordering::Relaxed);
        });
        progress.at(1, 2);
        assert_eq!(told.load(Ordering::Relaxed), 0);
        progress.next = Instant::now();
        progress.at(2, 3);
        progress.at(3, 3);
        assert_eq!(told.load(Ordering::Relaxed), 23);
        assert_eq!(patiently("nothing", || 7), 7);
    }
}
