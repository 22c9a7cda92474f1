//! `/metrics`: the status in OpenMetrics.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::status::Status;

/// The whole page.
pub(super) fn render(status: &Status) -> String {
    let mut registry = Registry::with_prefix("cgrove");
    let labels = vec![("version".to_owned(), status.version.to_owned()), ("node".to_owned(), status.node.clone())];
    registry.register("build", "This daemon", Info::new(labels));
    registry.register_collector(Box::new(Snapshot(status.clone())));
    let mut out = String::new();
    match prometheus_client::encoding::text::encode(&mut out, &registry) {
        Ok(()) => out,
        Err(_) => "# EOF\n".into(),
    }
}

#[derive(Debug)]
struct Snapshot(Status);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let s = &self.0;
        let gauges: [(&str, &str, usize); 13] = [
            ("ready", "1: a tree is applied and the source is connected", usize::from(s.ready)),
            ("source_connected", "1: ZooKeeper answers, or the file is readable", usize::from(s.source.connected)),
            ("document_groups", "Groups of the document in force", s.document.as_ref().map_or(0, |d| d.groups)),
            ("document_refused", "1: the newest document was refused", usize::from(s.refused.is_some())),
            ("plan_failures", "Actions that failed in the last round", s.plan.failures.len()),
            ("plan_held", "Actions that wait for an operator", s.plan.held.len()),
            ("plan_notes", "Things that this node's kernel cannot express, and refusals", s.plan.notes.len()),
            ("tasks_processes", "Processes that belong to groups", s.tasks.processes),
            ("tasks_problems", "Pid files that were not believed, and moves that failed", s.tasks.problems.len()),
            ("usage_held_slots", "Slots held in memory", s.usage.held),
            ("usage_missing_values", "Values missing in the newest slot", s.usage.missing),
            ("store_connected", "1: the outer store takes slots", usize::from(s.store.connected)),
            ("server_connections", "Clients at this moment", s.server.connections),
        ];
        for (name, help, value) in gauges {
            gauge(&mut encoder, name, help, None, value as i64)?;
        }
        gauge(&mut encoder, "usage_held", "Slots held in memory", Some(&Unit::Bytes), s.usage.held_bytes as i64)?;
        gauge(
            &mut encoder,
            "start_time",
            "When the daemon started, Unix time",
            Some(&Unit::Seconds),
            s.started as i64,
        )?;
        let counters: [(&str, &str, u64); 9] = [
            ("plan_rounds", "Reconciles", s.plan.rounds),
            ("plan_actions_done", "Actions done", s.plan.done_total),
            ("tasks_moved", "Processes moved", s.tasks.moved_total),
            ("usage_slots", "Slots measured", s.usage.slots_total),
            ("usage_gaps", "Seconds without a slot", s.usage.gaps_total),
            ("usage_dropped_slots", "Slots dropped from memory before their time", s.usage.dropped_total),
            ("store_written_slots", "Slots written to the outer store", s.store.written_total),
            ("store_replayed_slots", "Slots that the outer store had lost", s.store.replayed_total),
            ("server_requests", "WebSocket requests", s.server.requests_total),
        ];
        for (name, help, value) in counters {
            let metric = ConstCounter::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
        }
        let refused = ConstCounter::new(s.server.refused_total);
        refused.encode(encoder.encode_descriptor(
            "server_refused",
            "Connections and requests refused",
            None,
            refused.metric_type(),
        )?)
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: i64,
) -> Result<(), std::fmt::Error> {
    let metric = ConstGauge::new(value);
    metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_openmetrics() {
        let page = render(&Status { node: "n\"1".into(), version: "0.1.0", ..Status::default() });
        assert!(page.ends_with("# EOF\n"));
        assert!(page.contains("cgrove_build_info{version=\"0.1.0\",node=\"n\\\"1\"} 1"), "{page}");
        assert!(page.contains("cgrove_usage_slots_total 0") && page.contains("cgrove_usage_held_bytes 0"));
        assert!(page.contains("# TYPE cgrove_ready gauge"));
    }
}
