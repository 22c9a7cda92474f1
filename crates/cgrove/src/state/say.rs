//! Says how the state directory does: in status for as long as it lasts, in the log and as an event once.

use std::sync::Arc;
use std::time::Duration;

use cgrove_core::event::Kind;
use tracing::{info, warn};

use super::{Keeper, Report};
use crate::events::News;
use crate::status::{Board, StateStatus};

/// A disk that takes longer is slow.
const SLOW: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(250);

/// Runs for as long as the daemon does.
pub(crate) async fn run(keeper: Keeper, board: Arc<Board>) {
    let mut reports = keeper.watch();
    let dir = keeper.dir().path().display().to_string();
    // It must not keep the thread alive by itself.
    drop(keeper);
    let mut said = StateStatus::default();
    loop {
        let report = reports.borrow_and_update().clone();
        let now = status(&dir, &report);
        if now != said {
            board.update(|s| s.state = now.clone());
            say(&board, &said, &now);
            said = now;
        }
        tokio::select! {
            changed = reports.changed() => if changed.is_err() {
                return std::future::pending().await;
            },
            () = tokio::time::sleep(LOOK), if report.waiting.is_some() => {}
        }
    }
}

fn status(dir: &str, report: &Report) -> StateStatus {
    let slow = report.waiting.is_some_and(|since| since.elapsed() > SLOW);
    let unsaved = |what: &str| if slow || report.error.is_some() { vec![what.to_owned()] } else { Vec::new() };
    StateStatus {
        dir: dir.into(),
        error: report.error.clone(),
        not_yet_kept: if report.document {
            unsaved("document")
        } else if report.waiting.is_some() {
            unsaved("removals")
        } else {
            Vec::new()
        },
        approvals_error: report.approvals.clone(),
    }
}

fn say(board: &Board, before: &StateStatus, now: &StateStatus) {
    let tell = |kind, text: String| board.journal.tell([News::new(kind, text)]);
    // Each file that waits has an error of its own; the first says enough.
    if let Some(error) = now.error.as_ref().filter(|_| before.error.is_none()) {
        warn!("state: {error}; removals are held until the state directory can be read and written");
        tell(Kind::StateAway, format!("{error}; removals are held"));
    }
    let document = |s: &StateStatus| s.not_yet_kept.iter().any(|w| w == "document");
    if document(now) && !document(before) {
        match &now.error {
            Some(error) => warn!("the document is in force, but could not be kept for the next boot: {error}"),
            None => {
                warn!("the document is in force, but not yet kept for the next boot: the disk of {} is slow", now.dir)
            }
        }
    }
    if let Some(error) = now.approvals_error.as_ref().filter(|e| before.approvals_error.as_ref() != Some(e)) {
        warn!("approvals: {error}; what cannot be read is not approved");
    }
    let wrong = |s: &StateStatus| s.error.is_some() || !s.not_yet_kept.is_empty();
    if wrong(before) && !wrong(now) {
        info!("state: {} has taken everything that waited", now.dir);
        if before.error.is_some() {
            tell(Kind::StateBack, format!("{} can be read and written again", now.dir));
        }
    }
}
