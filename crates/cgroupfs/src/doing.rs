//! What the worker thread is at, for whoever wants to know why it is silent: noted before system calls that may take long.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One thread's present operation, seen by others.
#[derive(Debug, Clone, Default)]
pub struct Doing(Arc<Mutex<Option<Now>>>);

#[derive(Debug)]
struct Now {
    op: &'static str,
    path: PathBuf,
    since: Instant,
}

thread_local! {
    static MINE: RefCell<Option<Doing>> = const { RefCell::new(None) };
}

impl Doing {
    /// From now on this thread notes here what it does.
    pub fn note_here(&self) {
        MINE.with(|mine| *mine.borrow_mut() = Some(self.clone()));
    }

    /// The operation that has been going on for longer than `limit`, and for how long.
    pub fn longer_than(&self, limit: Duration) -> Option<(String, Duration)> {
        let now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Now { op, path, since } = now.as_ref()?;
        let text = if path.as_os_str().is_empty() { (*op).to_owned() } else { format!("{op} {}", path.display()) };
        Some((text, since.elapsed())).filter(|(_, silent)| *silent > limit)
    }
}

/// This thread begins an operation on a file.
pub fn at(op: &'static str, path: &Path) {
    with(|now| match now {
        Some(now) => {
            (now.op, now.since) = (op, Instant::now());
            now.path.clear();
            now.path.push(path);
        }
        None => *now = Some(Now { op, path: path.to_owned(), since: Instant::now() }),
    });
}

/// This thread has nothing to do.
pub fn nothing() {
    with(|now| *now = None);
}

fn with(change: impl FnOnce(&mut Option<Now>)) {
    MINE.with(|mine| {
        if let Some(Doing(now)) = &*mine.borrow() {
            change(&mut now.lock().unwrap_or_else(PoisonError::into_inner));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_see_what_a_thread_is_at() {
        let doing = Doing::default();
        at("write", Path::new("/nobody/notes"));
        assert!(doing.longer_than(Duration::ZERO).is_none());
        doing.note_here();
        at("write", Path::new("/a/memory.max"));
        at("read", Path::new("/b"));
        std::thread::park_timeout(Duration::from_millis(2));
        let seen = doing.clone();
        let told = std::thread::spawn(move || seen.longer_than(Duration::ZERO)).join().unwrap().unwrap();
        assert_eq!(told.0, "read /b");
        assert!(doing.longer_than(Duration::from_secs(60)).is_none());
        at("plan", Path::new(""));
        std::thread::park_timeout(Duration::from_millis(2));
        assert_eq!(doing.longer_than(Duration::ZERO).unwrap().0, "plan");
        nothing();
        assert!(doing.longer_than(Duration::ZERO).is_none());
    }
}
