//! The log: text on a terminal, journald's own fields where systemd collects it, JSON on request. Every record goes
//! through [`Escaped`], whatever its form.

mod escaped;

use std::os::linux::fs::MetadataExt;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use self::escaped::Escaped;
pub(crate) use self::escaped::sum_up;
use crate::term;
use crate::traces::{self, Traces};

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
    /// To systemd's journal, with fields: GROUP, KNOB, ERRNO, DOCUMENT_VERSION
    Journald,
}

/// The ZooKeeper client library knows no servers but our relay to them: what it says is for whoever asks for it.
///
/// `level` counts unless CGROVE_LOG says otherwise. `bounded`, no part of the code writes lines without end. Without a
/// format the journal is used when it is what standard error leads to.
pub(crate) fn start(format: Option<Format>, level: &str, bounded: bool) -> Traces {
    let filter = EnvFilter::try_from_env("CGROVE_LOG")
        .unwrap_or_else(|_| EnvFilter::new(format!("{level},zookeeper_client=error")));
    // Spans for traces are not for the log.
    let filter = match format!("{}=off", traces::TARGET).parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    };
    let format = format.unwrap_or(if leads_to_journal() { Format::Journald } else { Format::Text });
    let text = || tracing_subscriber::fmt::layer().with_writer(term::for_log).with_target(false);
    let layer = match (format, tracing_journald::layer()) {
        (Format::Journald, Ok(journal)) => {
            journal.with_field_prefix(None).with_syslog_identifier("cgrove".into()).boxed()
        }
        (Format::Json, _) => text().json().flatten_event(true).boxed(),
        _ => text().with_ansi(term::err_has_colour()).boxed(),
    };
    let layer = Escaped { layer, bounded }.with_filter(filter);
    #[cfg(feature = "otlp")]
    {
        let (slot, traces) = Traces::new();
        let only = tracing_subscriber::filter::filter_fn(|about| about.target() == traces::TARGET);
        tracing_subscriber::registry().with(slot.with_filter(only)).with(layer).init();
        traces
    }
    #[cfg(not(feature = "otlp"))]
    {
        tracing_subscriber::registry().with(layer).init();
        Traces
    }
}

/// systemd names the stream by device and inode; someone may have redirected standard error since.
fn leads_to_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let here = std::fs::metadata("/proc/self/fd/2").map(|m| format!("{}:{}", m.st_dev(), m.st_ino()));
    !named.is_empty() && here.is_ok_and(|here| here == named)
}
