//! A document in a file: watched with inotify, and read again now and then whatever inotify says.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use cgrove_cgroupfs::outside::{DOCUMENTS, Key};
use tokio::sync::mpsc;

use super::{Fetched, News};
use crate::hints::DirWatch;

/// Also catches what inotify cannot see, such as a changed target of a symbolic link.
const REREAD: Duration = Duration::from_secs(5);
/// Lets an editor finish before we read.
const SETTLE: Duration = Duration::from_millis(20);

/// The file's content, unless its file system never answers. A thread that hangs is left behind.
async fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let path = path.to_owned();
    let ask = move || {
        let key = Key { what: path.display().to_string(), owner: 0 };
        DOCUMENTS.ask(&key, move || std::fs::read(&path))
    };
    let answer = tokio::task::spawn_blocking(ask).await?;
    answer.unwrap_or_else(|why| Err(std::io::Error::new(std::io::ErrorKind::TimedOut, why)))
}

/// Runs until the receiver is gone. The version counts the changes seen.
pub(crate) async fn run(path: PathBuf, news: mpsc::Sender<News>) {
    let mut watch = DirWatch::new().ok();
    let mut last: Option<Bytes> = None;
    let mut version = 0;
    loop {
        if let Some(watch) = &mut watch {
            watch.set(path.parent().map(PathBuf::from)).await;
        }
        let item = match read(&path).await {
            Ok(bytes) => {
                let bytes = Bytes::from(bytes);
                if last.as_ref() != Some(&bytes) {
                    version += i64::from(last.is_some());
                    last = Some(bytes.clone());
                }
                News::Document(Fetched { bytes, version, ..Fetched::default() })
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                News::Away(format!("{} does not exist; nothing is changed", path.display()))
            }
            Err(e) => News::Away(format!("{}: {e}", path.display())),
        };
        if news.send(item).await.is_err() {
            return;
        }
        let changed = async {
            match &mut watch {
                Some(watch) => watch.changed().await,
                None => std::future::pending().await,
            }
        };
        let _ = tokio::time::timeout(REREAD, changed).await;
        tokio::time::sleep(SETTLE).await;
    }
}
