//! Traces of reconciles: spans that only a build with the feature `otlp` sends anywhere, and no log shows.

#[cfg(feature = "otlp")]
mod otlp;
#[cfg(not(feature = "otlp"))]
mod without;

#[cfg(feature = "otlp")]
pub(crate) use otlp::Traces;
#[cfg(not(feature = "otlp"))]
pub(crate) use without::Traces;

/// The target of such spans.
pub(crate) const TARGET: &str = "cgrove_traces";

/// OpenTelemetry's own settings for whom to send to; without one of them nothing is sent.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// Does the environment name a collector?
fn wanted() -> bool {
    let set = |name: &&str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    let disabled = std::env::var("OTEL_SDK_DISABLED").is_ok_and(|v| v.eq_ignore_ascii_case("true"));
    ENDPOINTS.iter().any(set) && !disabled
}

/// One step of a reconcile, until it is dropped.
macro_rules! step {
    ($name:literal $(, $($field:tt)*)?) => {
        tracing::info_span!(target: $crate::traces::TARGET, $name $(, $($field)*)?).entered()
    };
}
pub(crate) use step;
