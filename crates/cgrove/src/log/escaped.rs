//! Every record's message and fields are escaped before they are formatted, so that no text of others steers the
//! terminal or makes another line; and no place in the code of a daemon
//! writes more lines in a second than can be read: the rest is counted, and said by [`sum_up`].

use std::collections::HashMap;
use std::error::Error;
use std::fmt::Debug;
use std::sync::{LazyLock, Mutex, PoisonError};

use cgrove_core::text::{shortened, shown};
use tokio::time::Instant;
use tracing::callsite::Identifier;
use tracing::field::{DisplayValue, Field, Value, Visit, display};
use tracing::{Event, Level, Metadata, Subscriber, warn};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::budget::Budget;

/// Longest message or field.
const LONGEST: usize = 16_000;
/// Of a line that was not written, so much is quoted.
const EXAMPLE: usize = 300;
/// Lines of one place in the code that are written at once, and in a second from then on.
const AT_ONCE: u32 = 1000;
const A_SECOND: u32 = 20;

/// The layer that formats, and gets only escaped text.
pub(super) struct Escaped<L> {
    pub(super) layer: L,
    /// Only a daemon goes on for ever.
    pub(super) bounded: bool,
}

impl<S: Subscriber, L: Layer<S>> Layer<S> for Escaped<L> {
    fn on_layer(&mut self, subscriber: &mut S) {
        self.layer.on_layer(subscriber);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let fields = event.metadata().fields();
        let mut found = Found(HashMap::with_capacity(fields.len()));
        event.record(&mut found);
        if self.bounded && !has_room(event.metadata(), &found) {
            return;
        }
        let values: Vec<Option<&dyn Value>> =
            fields.iter().map(|field| found.0.get(&field.index()).map(Shown::value)).collect();
        let values = fields.value_set_all(&values);
        self.layer.on_event(&Event::new_child_of(event.parent().cloned(), event.metadata(), &values), context);
    }
}

/// What of the last while was not written: by the place in the code, an example and how many.
static LEFT_OUT: LazyLock<Mutex<HashMap<Identifier, (String, u64)>>> = LazyLock::new(Mutex::default);
static LINES: LazyLock<Mutex<Budget<Identifier>>> = LazyLock::new(|| Mutex::new(Budget::new(AT_ONCE, A_SECOND)));

/// Whoever asks for more than information gets all of it.
fn has_room(about: &Metadata<'_>, found: &Found) -> bool {
    if *about.level() > Level::INFO {
        return true;
    }
    if LINES.lock().unwrap_or_else(PoisonError::into_inner).take(about.callsite(), Instant::now()) {
        return true;
    }
    let mut left_out = LEFT_OUT.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, count) = left_out.entry(about.callsite()).or_insert_with(|| {
        let message = about.fields().field("message").and_then(|field| found.0.get(&field.index()));
        (message.map(|m| shortened(&m.text(), EXAMPLE).into_owned()).unwrap_or_default(), 0)
    });
    *count += 1;
    false
}

/// Says what was left out since the last time.
pub(crate) fn sum_up() {
    let left_out = std::mem::take(&mut *LEFT_OUT.lock().unwrap_or_else(PoisonError::into_inner));
    for (example, count) in left_out.into_values() {
        warn!(count, "{count} more lines of one kind were not written, the first of them: {example}");
    }
}

/// A field's value, with nothing in it that steers.
enum Shown {
    Text(String),
    /// As it displays, without quotes.
    Words(DisplayValue<String>),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Bool(bool),
}

impl Shown {
    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Words(words) => format!("{words:?}"),
            _ => String::new(),
        }
    }

    fn value(&self) -> &dyn Value {
        match self {
            Self::Text(text) => text,
            Self::Words(words) => words,
            Self::Signed(n) => n,
            Self::Unsigned(n) => n,
            Self::Float(n) => n,
            Self::Bool(b) => b,
        }
    }
}

/// By the field's number.
struct Found(HashMap<usize, Shown>);

impl Found {
    fn put(&mut self, field: &Field, shown: Shown) {
        self.0.insert(field.index(), shown);
    }
}

fn clean(text: &str) -> String {
    shown(&shortened(text, LONGEST)).into_owned()
}

impl Visit for Found {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, Shown::Words(display(clean(&format!("{value:?}")))));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Shown::Text(clean(value)));
    }
    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.put(field, Shown::Words(display(clean(&value.to_string()))));
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Shown::Signed(value));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Shown::Unsigned(value));
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, Shown::Float(value));
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Shown::Bool(value));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged<L>(layer: impl FnOnce(fmt::Layer<tracing_subscriber::Registry>) -> L, written: &Written) -> String
    where
        L: Layer<tracing_subscriber::Registry> + Send + Sync,
    {
        let hostile = "a\x1b[2J\n2026-01-01T00:00:00Z  INFO forged\u{202e}\u{9b}";
        let subscriber = tracing_subscriber::registry().with(Escaped { layer: layer(fmt::layer()), bounded: false });
        tracing::subscriber::with_default(subscriber, || {
            let error = std::io::Error::other(hostile);
            let whole = Some(-3_i64);
            tracing::warn!(
                group = hostile,
                errno = whole,
                none = None::<i64>,
                error = &error as &dyn Error,
                n = 7_u64,
                ok = true,
                "{hostile} {hostile:?}"
            );
            tracing::info!(plain = "x", "plain");
        });
        String::from_utf8(written.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn one_record_is_one_line_that_only_shows() {
        let written = Written::default();
        let writer = written.clone();
        let text = logged(|l| l.with_ansi(false).with_writer(move || writer.clone()), &written);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(!text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'), "{text}");
        assert!(
            text.contains("a\\x1b[2J\\x0a2026") && text.contains("errno=-3") && text.contains(" n=7 ok=true"),
            "{text}"
        );
        assert!(text.contains("plain plain=\"x\"") && !text.contains("none"), "{text}");
        let written = Written::default();
        let writer = written.clone();
        let json = logged(|l| l.json().flatten_event(true).with_writer(move || writer.clone()), &written);
        let first: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
        assert_eq!(json.lines().count(), 2);
        assert_eq!(first["group"], "a\\x1b[2J\\x0a2026-01-01T00:00:00Z  INFO forged\\u202e\\x9b");
        assert_eq!((&first["errno"], &first["n"], &first["ok"]), (&(-3).into(), &7.into(), &true.into()));
    }
}
