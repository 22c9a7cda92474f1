//! Where documents come from, and which one is in force. A document is taken whole or refused whole; a refused,
//! missing or unreadable one leaves the last good one in force.

pub(crate) mod file;
pub(crate) mod last_good;
pub(crate) mod zookeeper;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cgrove_core::desired::Desired;
use cgrove_core::document;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::status::{Board, DocumentStatus, Refused, now};

/// A document in force.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    pub(crate) bytes: Bytes,
    /// The znode's data version; for a file the number of changes seen.
    pub(crate) version: i64,
    pub(crate) desired: Arc<Desired>,
    /// The digest of the document that this one replaced, for its `allow_removals`.
    pub(crate) previous: Option<String>,
}

/// What a source has to say.
#[derive(Debug)]
pub(crate) enum News {
    /// Connected, or readable again.
    Connected,
    /// Not reachable, or not readable; why.
    Away(String),
    /// The document as it is there now.
    Document { bytes: Bytes, version: i64 },
    /// The source answers, but there is no document.
    Missing(String),
}

/// Takes news, publishes what is in force.
pub(crate) struct Intake {
    board: Arc<Board>,
    state_dir: PathBuf,
    in_force: watch::Sender<Option<Arc<Document>>>,
}

impl Intake {
    /// Starts with the last good document, if the state directory has one.
    pub(crate) fn new(board: Arc<Board>, state_dir: PathBuf) -> (Self, watch::Receiver<Option<Arc<Document>>>) {
        let (in_force, receiver) = watch::channel(None);
        let intake = Self { board, state_dir, in_force };
        match last_good::load(&intake.state_dir) {
            Ok(Some(last)) => {
                info!(version = last.version, "starting with the last good document");
                intake.publish(last, true);
            }
            Ok(None) => {}
            Err(e) => warn!("the last good document cannot be used: {e}"),
        }
        (intake, receiver)
    }

    pub(crate) async fn run(mut self, mut news: mpsc::Receiver<News>) {
        // A source tells something at least every half minute, if only that nothing changed.
        let pulse = self.board.pulses.of("source", Duration::from_secs(120));
        while let Some(item) = news.recv().await {
            pulse.beat();
            self.take(item);
        }
    }

    fn take(&mut self, news: News) {
        match news {
            News::Connected => self.board.update(|s| (s.source.connected, s.source.error) = (true, None)),
            News::Away(why) => self.trouble(false, why),
            News::Missing(why) => self.trouble(true, format!("{why}; nothing is changed")),
            News::Document { bytes, version } => {
                self.board.update(|s| (s.source.connected, s.source.error) = (true, None));
                self.document(bytes, version);
            }
        }
    }

    /// Shown in status for as long as it lasts, logged once.
    fn trouble(&self, connected: bool, why: String) {
        let known = self.board.update(|s| {
            s.source.connected = connected;
            s.source.error.replace(why.clone()).as_ref() == Some(&why)
        });
        if !known {
            warn!("source: {why}");
        }
    }

    fn document(&mut self, bytes: Bytes, version: i64) {
        let current = self.in_force.borrow().clone();
        let desired = match &current {
            Some(current) if current.bytes == bytes && current.version == version => {
                self.board.update(|s| {
                    s.refused = None;
                    s.document.iter_mut().for_each(|d| d.last_good = false);
                });
                return;
            }
            Some(current) if current.bytes == bytes => current.desired.clone(),
            _ => match document::parse(&bytes) {
                Ok(desired) => Arc::new(desired),
                Err(e) => {
                    let refused = Refused { version, error: e.to_string() };
                    let known = self.board.update(|s| {
                        let old = s.refused.replace(refused);
                        old.is_some_and(|o| o.version == version)
                    });
                    if !known {
                        warn!(document_version = version, "document refused, the one before stays in force: {e}");
                    }
                    return;
                }
            },
        };
        let previous = match &current {
            Some(c) if c.bytes == bytes => c.previous.clone(),
            Some(c) => Some(c.desired.digest.clone()),
            None => None,
        };
        let document = Document { bytes, version, desired, previous };
        if let Err(e) = last_good::save(&self.state_dir, &document) {
            warn!("the document is in force, but could not be kept for the next boot: {e}");
        }
        info!(
            document_version = version,
            digest = document.desired.digest,
            groups = document.desired.groups.len(),
            "document in force"
        );
        for warning in &document.desired.warnings {
            warn!(document_version = version, "document: {warning}");
        }
        self.publish(document, false);
    }

    fn publish(&self, document: Document, last_good: bool) {
        self.board.update(|s| {
            s.refused = None;
            s.document = Some(DocumentStatus {
                version: document.version,
                digest: document.desired.digest.clone(),
                groups: document.desired.groups.len(),
                since: now(),
                last_good,
                warnings: document.desired.warnings.clone(),
            });
        });
        self.in_force.send_replace(Some(Arc::new(document)));
    }
}
