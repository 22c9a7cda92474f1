//! The log: text on a terminal, journald's own fields where systemd collects it, JSON on request.

use std::os::linux::fs::MetadataExt;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::term;

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
    /// To systemd's journal, with fields: GROUP, KNOB, ERRNO, DOCUMENT_VERSION
    Journald,
}

/// `level` counts unless CGROVE_LOG says otherwise. Without a format the journal is used when it is what standard
/// error leads to.
pub(crate) fn start(format: Option<Format>, level: &str) {
    let filter = EnvFilter::try_from_env("CGROVE_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let format = format.unwrap_or(if leads_to_journal() { Format::Journald } else { Format::Text });
    if format == Format::Journald
        && let Ok(layer) = tracing_journald::layer()
    {
        let layer = layer.with_field_prefix(None).with_syslog_identifier("cgrove".into());
        tracing_subscriber::registry().with(filter).with(layer).init();
        return;
    }
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match format {
        Format::Json => builder.json().flatten_event(true).init(),
        _ => builder.with_ansi(term::colour(&std::io::stderr())).init(),
    }
}

/// systemd names the stream by device and inode; someone may have redirected standard error since.
fn leads_to_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let here = std::fs::metadata("/proc/self/fd/2").map(|m| format!("{}:{}", m.st_dev(), m.st_ino()));
    !named.is_empty() && here.is_ok_and(|here| here == named)
}
