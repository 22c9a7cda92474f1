//! Sends spans over OTLP, as OpenTelemetry's variables in the environment say.

use std::sync::OnceLock;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{info, warn};
use tracing_subscriber::{Layer, Registry, reload};

type Sender = Option<Box<dyn Layer<Registry> + Send + Sync>>;
/// Where the log leaves room for who sends spans.
pub(crate) type Slot = reload::Layer<Sender, Registry>;

/// Sending begins after privileges are given up: its thread needs none.
pub(crate) struct Traces {
    slot: reload::Handle<Sender, Registry>,
    provider: OnceLock<SdkTracerProvider>,
}

impl Traces {
    pub(crate) fn new() -> (Slot, Self) {
        let (layer, slot) = reload::Layer::new(None);
        (layer, Self { slot, provider: OnceLock::new() })
    }

    pub(crate) fn begin(&self, node: &str) {
        if !super::wanted() {
            return;
        }
        let exporter = match SpanExporter::builder().build() {
            Ok(exporter) => exporter,
            Err(e) => return warn!("no traces are sent: {e}"),
        };
        let about = [
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", node.to_owned()),
            KeyValue::new("host.name", node.to_owned()),
        ];
        // Who names the service by OTEL_SERVICE_NAME has a reason.
        let named = std::env::var_os("OTEL_SERVICE_NAME").is_some();
        let resource = Resource::builder().with_attributes(about);
        let resource = if named { resource } else { resource.with_service_name("cgrove") };
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build();
        let sender = tracing_opentelemetry::layer().with_tracer(provider.tracer("cgrove")).boxed();
        if let Err(e) = self.slot.reload(Some(sender)) {
            return warn!("no traces are sent: {e}");
        }
        let _ = self.provider.set(provider);
        info!("traces of reconciles are sent");
    }

    /// Sends what has not been sent.
    pub(crate) fn end(&self) {
        if let Some(provider) = self.provider.get()
            && let Err(e) = provider.shutdown()
        {
            warn!("the last traces could not be sent: {e}");
        }
    }
}
