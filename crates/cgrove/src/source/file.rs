//! A document in a file: watched with inotify, looked at every second, and read again now and then whatever both say.
//! Whatever stands in its place is neither waited for nor read beyond the largest document.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use cgrove_cgroupfs::outside::{DOCUMENTS, Key};
use cgrove_config::files;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use super::pace::Pace;
use super::{Fetched, News};
use crate::hints::DirWatch;

/// Also catches what inotify cannot see, such as a changed target of a symbolic link.
const LOOK: Duration = Duration::from_secs(1);
/// Catches what looks like before.
const REREAD: Duration = Duration::from_secs(5);
/// Lets an editor finish before we read.
const SETTLE: Duration = Duration::from_millis(20);
/// What tells a file from the one that stood there before.
type Stamp = Option<(u64, u64, u64, (i64, i64), (i64, i64))>;

/// What `work` finds at the path, unless its file system never answers. A thread that hangs is left behind, and the path
/// is left alone for a while.
async fn ask<T: Send + 'static>(
    path: &Path,
    work: impl Fn() -> io::Result<T> + Send + Sync + 'static,
) -> io::Result<T> {
    let key = Key { what: path.display().to_string(), owner: 0 };
    let answer = spawn_blocking(move || DOCUMENTS.ask(&key, work)).await?;
    answer.unwrap_or_else(|why| Err(io::Error::new(io::ErrorKind::TimedOut, why)))
}

/// Runs until the receiver is gone. The version counts the changes seen.
pub(crate) async fn run(path: PathBuf, news: mpsc::Sender<News>) {
    let mut watch = DirWatch::new().ok();
    let mut pace = Pace::new();
    let mut last: Option<Bytes> = None;
    let mut version = 0;
    loop {
        if let Some(watch) = &mut watch {
            watch.set(path.parent().map(PathBuf::from)).await;
        }
        let read = {
            let path = path.clone();
            move || files::read(&path, files::DOCUMENT).map(|bytes| (stamp(&path), bytes))
        };
        let (seen, found) = match ask(&path, read).await {
            Ok((seen, bytes)) => (seen, Ok(bytes)),
            Err(e) => (None, Err(e)),
        };
        let item = match found {
            Ok(bytes) => {
                let bytes = Bytes::from(bytes);
                if last.as_ref() != Some(&bytes) {
                    version += i64::from(last.is_some());
                    last = Some(bytes.clone());
                }
                News::Document(Fetched { bytes, version, ..Fetched::default() })
            }
            Err(e) => News::Away(why(&path, &e)),
        };
        if news.send(item).await.is_err() {
            return;
        }
        let again = Instant::now() + REREAD;
        loop {
            let changed = async {
                match &mut watch {
                    Some(watch) => watch.changed().await,
                    None => std::future::pending().await,
                }
            };
            if timeout(LOOK, changed).await.is_ok() {
                sleep(SETTLE.max(pace.take())).await;
                break;
            }
            let look = {
                let path = path.clone();
                move || Ok(stamp(&path))
            };
            if news.is_closed() {
                return;
            }
            // What does not answer is read again, which says so.
            if ask(&path, look).await.map_or(true, |now| now != seen) || Instant::now() >= again {
                break;
            }
        }
    }
}

fn stamp(path: &Path) -> Stamp {
    let found = std::fs::metadata(path).ok()?;
    let (written, changed) = ((found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec()));
    Some((found.dev(), found.ino(), found.len(), written, changed))
}

fn why(path: &Path, e: &io::Error) -> String {
    let path = path.display();
    match e.kind() {
        io::ErrorKind::NotFound => format!("{path} does not exist; nothing is changed"),
        io::ErrorKind::FileTooLarge => format!("{path}: {e}, and a document has at most 1 MiB; nothing is changed"),
        _ => format!("{path}: {e}; nothing is changed"),
    }
}
