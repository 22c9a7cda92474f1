//! Where documents come from, and which one is in force. A document is taken whole or refused whole; a refused,
//! missing or unreadable one leaves the last good one in force.

mod demands;
pub(crate) mod file;
pub(crate) mod last_good;
mod origin;
mod pace;
pub(crate) mod trust;
pub(crate) mod zookeeper;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cgrove_core::desired::Desired;
use cgrove_core::document;
use cgrove_core::event::Kind;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::clock::now;
use crate::state::{Change, Keeper, Key};
use crate::status::{Board, DocumentStatus, Listed, Refused};
pub(crate) use demands::Demands;
use last_good::Kept;
pub(crate) use origin::Origin;

/// An approval is looked for this often while one is waited for.
const APPROVAL: Duration = Duration::from_secs(1);

/// A document in force.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    pub(crate) bytes: Bytes,
    /// The znode's data version; for a file the number of changes seen.
    pub(crate) version: i64,
    pub(crate) desired: Arc<Desired>,
    /// The digest of the document that this one replaced, for its `allow_removals`.
    pub(crate) previous: Option<String>,
    /// ZooKeeper's count of changes when this one was written; a file has none.
    pub(crate) mzxid: Option<i64>,
}

/// What a source has to say.
#[derive(Debug)]
pub(crate) enum News {
    /// Not reachable, or not readable; why.
    Away(String),
    /// The document as it is there now.
    Document(Fetched),
    /// The source answers, but there is no document.
    Missing(String),
}

/// A document as its source has it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fetched {
    pub(crate) bytes: Bytes,
    pub(crate) version: i64,
    pub(crate) mzxid: Option<i64>,
    /// Who may write it that should not.
    pub(crate) exposed: Option<String>,
}

/// Takes news, publishes what is in force.
pub(crate) struct Intake {
    board: Arc<Board>,
    keeper: Keeper,
    origin: Origin,
    demands: Demands,
    in_force: watch::Sender<Option<Arc<Document>>>,
    /// With none in force: what another parent's daemon, or one with other servers, had from the same place. It is not
    /// applied, and nothing older is.
    before: Option<Document>,
    /// An older document, which an operator may approve.
    older: Option<(String, Fetched)>,
    /// That it is away was told.
    told_away: bool,
}

impl Intake {
    /// Starts with the document that was in force before a reload, else with the last good one of the state directory.
    /// New demands concern documents to come: what is in force stays until another is.
    pub(crate) async fn new(
        board: Arc<Board>,
        (keeper, origin): (Keeper, Origin),
        demands: Demands,
        before: Option<Arc<Document>>,
    ) -> (Self, watch::Receiver<Option<Arc<Document>>>) {
        let (in_force, receiver) = watch::channel(None);
        let mut intake = Self { board, keeper, origin, demands, in_force, before: None, older: None, told_away: false };
        if let Some(before) = before {
            if let Err(why) = intake.demands.trust.check(&before.bytes) {
                warn!("the document in force stays until a signed one comes, or the daemon is restarted: {why}");
            }
            intake.publish(before, true);
            return (intake, receiver);
        }
        let (dir, origin) = (intake.keeper.dir().clone(), intake.origin.clone());
        match elsewhere(move || last_good::load(&dir, &origin)).await {
            Ok(Some(Kept { document: last, .. })) if intake.demands.trust.check(&last.bytes).is_err() => {
                warn!("the last good document is not used: tree.trusted_keys did not sign it");
            }
            Ok(Some(Kept { document, foreign: Some(why), comparable })) => {
                warn!("the last good document cannot be used: {why}");
                intake.before = Some(document).filter(|_| comparable);
            }
            Ok(Some(Kept { document: last, .. })) => {
                info!(version = last.version, "starting with the last good document");
                // One of an earlier version does not say whose it is; from now on it does.
                intake.keep(&last);
                intake.publish(Arc::new(last), true);
            }
            Ok(None) => {}
            Err(e) => warn!("the last good document cannot be used: {e}"),
        }
        (intake, receiver)
    }

    fn keep(&self, document: &Document) {
        self.keeper.change(Key::LastGood, Change::Put(last_good::encode(document, &self.origin)));
    }

    pub(crate) async fn run(mut self, mut news: mpsc::Receiver<News>) {
        // A source tells something at least every half minute, if only that nothing changed.
        let pulse = self.board.pulses.of("source", Duration::from_secs(120));
        loop {
            tokio::select! {
                item = news.recv() => match item {
                    Some(item) => {
                        pulse.beat();
                        self.take(item).await;
                    }
                    None => return,
                },
                () = tokio::time::sleep(APPROVAL), if self.older.is_some() => self.look_for_approval().await,
            }
        }
    }

    async fn take(&mut self, news: News) {
        match news {
            News::Away(why) => self.trouble(false, why),
            News::Missing(why) => self.trouble(true, format!("{why}; nothing is changed")),
            News::Document(fetched) => {
                let exposed = fetched.exposed.clone();
                let known = self.board.update(|s| {
                    (s.source.connected, s.source.error) = (true, None);
                    std::mem::replace(&mut s.source.exposed, exposed.clone()) == exposed
                });
                if let Some(exposed) = exposed.filter(|_| !known) {
                    warn!("source: {exposed}");
                }
                self.back();
                self.older = None;
                self.document(fetched, false).await;
            }
        }
    }

    async fn look_for_approval(&mut self) {
        let keeper = self.keeper.clone();
        let given = elsewhere(move || keeper.approvals()).await;
        if let Some((digest, fetched)) = self.older.take_if(|(digest, _)| given.contains(digest)) {
            info!(digest, "an operator approved an older document");
            self.keeper.spend(&digest);
            self.document(fetched, true).await;
        }
    }

    fn tell(&self, kind: Kind, text: String) {
        self.board.journal.tell([crate::events::News::new(kind, text)]);
    }

    fn back(&mut self) {
        if std::mem::take(&mut self.told_away) {
            let place = self.board.update(|s| s.source.place.clone());
            self.tell(Kind::SourceBack, format!("{place} answers again"));
        }
    }

    /// Shown in status for as long as it lasts, logged once.
    fn trouble(&mut self, connected: bool, why: String) {
        let known = self.board.update(|s| {
            s.source.connected = connected;
            s.source.error.replace(why.clone()).as_ref() == Some(&why)
        });
        if !known {
            warn!("source: {why}");
        }
        if !std::mem::replace(&mut self.told_away, true) {
            self.tell(Kind::SourceAway, why);
        }
    }

    fn refuse(&self, version: i64, error: String, approve: Option<String>) {
        let refused = Refused { version, error: error.clone(), approve };
        let known = self.board.update(|s| {
            let old = s.refused.replace(refused);
            old.is_some_and(|o| o.version == version && o.error == error)
        });
        if !known {
            let rest =
                if self.in_force.borrow().is_some() { "the one before stays in force" } else { "none is in force" };
            warn!(document_version = version, "document refused, {rest}: {error}");
            let text = format!("document version {version} refused, {rest}: {error}");
            self.tell(Kind::DocumentRefused, text);
        }
    }

    /// Takes a document, or says why not.
    async fn document(&mut self, fetched: Fetched, approved: bool) {
        let current = self.in_force.borrow().clone();
        let before = current.as_deref().or(self.before.as_ref());
        let met = self.demands.met(&fetched, before, approved);
        // Before it is in force: what was approved for another one is gone by then.
        let (keeper, waits) = (self.keeper.clone(), met.as_ref().err().and_then(|(_, digest)| digest.clone()));
        elsewhere(move || keeper.document_waits(waits.as_deref())).await;
        if let Err((error, approve)) = met {
            self.refuse(fetched.version, error, approve.clone());
            self.older = approve.map(|digest| (digest, fetched));
            return;
        }
        let Fetched { bytes, version, mzxid, .. } = fetched;
        // The same text again, on a server that lags or was set up anew, makes nothing older.
        let mzxid = match &current {
            Some(c) if c.bytes == bytes && !approved => mzxid.max(c.mzxid),
            _ => mzxid,
        };
        let desired = match &current {
            Some(current) if current.bytes == bytes && current.version == version => {
                self.board.update(|s| {
                    s.refused = None;
                    s.document.iter_mut().for_each(|d| d.last_good = false);
                });
                return;
            }
            Some(current) if current.bytes == bytes => current.desired.clone(),
            _ => {
                let text = bytes.clone();
                match elsewhere(move || document::parse(&text)).await {
                    Ok(desired) => Arc::new(desired),
                    Err(e) => return self.refuse(version, e.to_string(), None),
                }
            }
        };
        let previous = match &current {
            Some(c) if c.bytes == bytes => c.previous.clone(),
            Some(c) => Some(c.desired.digest.clone()),
            None => None,
        };
        let document = Document { bytes, version, desired, previous, mzxid };
        // It counts at once: a slow disk keeps nobody waiting, and `state` says what it has not taken.
        self.keep(&document);
        info!(
            document_version = version,
            digest = document.desired.digest,
            groups = document.desired.groups.len(),
            "document in force"
        );
        let (digest, groups) = (&document.desired.digest, document.desired.groups.len());
        self.tell(Kind::DocumentInForce, format!("version {version}, {groups} groups, digest {digest}"));
        for warning in &document.desired.warnings {
            warn!(document_version = version, "document: {warning}");
        }
        self.publish(Arc::new(document), false);
    }

    fn publish(&self, document: Arc<Document>, last_good: bool) {
        self.board.update(|s| {
            s.refused = None;
            s.document = Some(DocumentStatus {
                version: document.version,
                digest: document.desired.digest.clone(),
                groups: document.desired.groups.len(),
                since: now(),
                last_good,
                warnings: Listed::lines(document.desired.warnings.iter()),
            });
        });
        self.in_force.send_replace(Some(document));
    }
}

/// What takes long, or waits for a disk, holds up no other task. A panic in there goes on in the caller.
async fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}
