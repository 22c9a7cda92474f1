//! inotify as an async hint: "something in these directories changed". Whoever listens reads again.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cgrove_cgroupfs::outside::{Mounts, WATCHES};
use cgrove_cgroupfs::view;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Readiness of a descriptor that someone else reads.
pub(crate) struct Ready(AsyncFd<OwnedFd>);

impl Ready {
    pub(crate) fn new(source: &impl AsFd) -> std::io::Result<Self> {
        let fd = source.as_fd().try_clone_to_owned()?;
        // SAFETY: an OwnedFd stays open, and names the same file, for as long as the AsyncFd that owns it.
        #[allow(unsafe_code, reason = "tokio has no safe constructor for an owned descriptor")]
        let fd = unsafe { AsyncFd::register(fd) }?;
        Ok(Self(fd))
    }

    /// Waits until there is something to read, lets `read` take all of it, and returns what it says.
    pub(crate) async fn take<T>(&self, read: impl FnOnce() -> T) -> T {
        match self.0.readable().await {
            Ok(mut guard) => {
                // First cleared, then read: what arrives in between is announced again.
                guard.clear_ready();
                read()
            }
            Err(_) => std::future::pending().await,
        }
    }
}

/// Readiness with a pause before each reading: what else is announced meanwhile wakes nobody, it waits to be read.
pub(crate) enum Unhurried {
    Awake(Ready),
    /// Its descriptor is not polled until then.
    Resting(OwnedFd, Instant),
    /// It could not be polled again.
    Lost,
}

impl Unhurried {
    /// Waits until there is something to read, and for the pause. Cancel-safe.
    pub(crate) async fn wait(&mut self, pause: Duration) -> std::io::Result<()> {
        if let Self::Awake(ready) = self {
            ready.take(|| ()).await;
            if let Self::Awake(ready) = std::mem::replace(self, Self::Lost) {
                *self = Self::Resting(ready.0.into_inner(), Instant::now() + pause);
            }
        }
        if let Self::Resting(fd, until) = self {
            tokio::time::sleep_until(*until).await;
            *self = Self::Awake(Ready::new(fd)?);
            return Ok(());
        }
        Err(std::io::ErrorKind::NotConnected.into())
    }
}

/// Somebody touched the tree; told by who listens to the kernel, after what happened was told to everybody.
#[derive(Debug, Default)]
pub(crate) struct Drift {
    touched: Notify,
    blind: AtomicBool,
}

impl Drift {
    pub(crate) fn touched(&self) {
        self.touched.notify_one();
    }

    /// Not everything is watched: one has to look by oneself.
    pub(crate) fn set_blind(&self, blind: bool) {
        self.blind.store(blind, Ordering::Relaxed);
    }

    pub(crate) fn is_blind(&self) -> bool {
        self.blind.load(Ordering::Relaxed)
    }

    /// Waits for the next touch. Cancel-safe.
    pub(crate) async fn wait(&self) {
        self.touched.notified().await;
    }
}

/// Watches directories for files that appear, vanish or are written.
pub(crate) struct DirWatch {
    inotify: Arc<Inotify>,
    ready: Ready,
    /// Two for one that our own mounts cover.
    dirs: BTreeMap<PathBuf, Vec<WatchDescriptor>>,
}

impl DirWatch {
    pub(crate) fn new() -> Result<Self, std::io::Error> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let ready = Ready::new(&inotify)?;
        Ok(Self { inotify: Arc::new(inotify), ready, dirs: BTreeMap::new() })
    }

    /// Watches exactly these directories; ones that do not exist, or do not answer, are tried again at the next call.
    pub(crate) async fn set(&mut self, wanted: impl IntoIterator<Item = PathBuf>) {
        let mut old = std::mem::take(&mut self.dirs);
        let mut new = Vec::new();
        for dir in wanted {
            match old.remove(&dir) {
                Some(watches) => drop(self.dirs.insert(dir, watches)),
                None => new.push(dir),
            }
        }
        for wd in old.into_values().flatten() {
            let _ = self.inotify.rm_watch(wd);
        }
        if !new.is_empty() {
            let inotify = self.inotify.clone();
            let added = tokio::task::spawn_blocking(move || watch(&inotify, new)).await.unwrap_or_default();
            self.dirs.extend(added);
        }
    }

    /// Waits for the next change. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        let Self { inotify, ready, dirs } = self;
        while !ready.take(|| drain(inotify, dirs)).await {}
    }
}

/// The directories that could be watched. Whoever looks for a directory on a dead mount hangs.
fn watch(inotify: &Arc<Inotify>, dirs: Vec<PathBuf>) -> Vec<(PathBuf, Vec<WatchDescriptor>)> {
    let flags = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_ONLYDIR;
    let (mounts, inotify) = (OnceCell::new(), inotify.clone());
    let add = move |dir: &PathBuf| -> Vec<WatchDescriptor> {
        view::both(dir).iter().filter_map(|way| inotify.add_watch(&way.path, flags).ok()).collect()
    };
    let key = |dir: &PathBuf| mounts.get_or_init(Mounts::now).key(&dir.join("."), 0);
    let answers = WATCHES.each(dirs.clone(), key, add);
    let added = dirs.into_iter().zip(answers).filter_map(|(dir, watches)| Some((dir, watches.ok()?)));
    added.filter(|(_, watches)| !watches.is_empty()).collect()
}

/// Reads all events; false when there were none.
fn drain(inotify: &Inotify, dirs: &mut BTreeMap<PathBuf, Vec<WatchDescriptor>>) -> bool {
    let mut any = false;
    loop {
        match inotify.read_events() {
            Ok(events) => {
                any |= !events.is_empty();
                for gone in events.iter().filter(|e| e.mask.contains(AddWatchFlags::IN_IGNORED)) {
                    dirs.retain(|_, watches| !watches.contains(&gone.wd));
                }
            }
            Err(Errno::EINTR) => {}
            Err(_) => return any,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nix::sys::eventfd::{EfdFlags, EventFd};
    use nix::sys::resource::{UsageWho, getrusage};

    use super::*;

    #[test]
    fn who_waits_anyway_is_not_woken_by_each_announcement() {
        let announced = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap());
        let again = announced.clone();
        let announcing = std::thread::spawn(move || {
            for _ in 0..100 {
                again.write(1).unwrap();
                std::thread::park_timeout(Duration::from_millis(2));
            }
        });
        let woken = || getrusage(UsageWho::RUSAGE_THREAD).unwrap().voluntary_context_switches();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut ready = Unhurried::Awake(Ready::new(&*announced).unwrap());
            let before = woken();
            // Others may be waited for in turns with it.
            let pause = Duration::from_millis(150);
            assert!(tokio::time::timeout(Duration::from_millis(50), ready.wait(pause)).await.is_err());
            ready.wait(pause).await.unwrap();
            assert!(woken() - before < 20, "woken {} times", woken() - before);
            let Unhurried::Awake(ready) = ready else { panic!("it rests") };
            assert!(ready.take(|| announced.read()).await.unwrap() > 0, "what was announced waits to be read");
        });
        announcing.join().unwrap();
    }
}
