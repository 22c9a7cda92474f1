//! `/metrics`: the daemon, its process and its groups, in OpenMetrics, or in Prometheus' older text format.

mod groups;
mod process;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::Library;
use crate::status::Status;
use groups::Groups;
use process::Process;

/// The whole page.
pub(super) fn render(library: &Library) -> String {
    let status = library.board.snapshot();
    let mut registry = Registry::default();
    let ours = registry.sub_registry_with_prefix("cgrove");
    let labels = vec![("version".to_owned(), status.version.to_owned()), ("node".to_owned(), status.node.clone())];
    ours.register("build", "This daemon", Info::new(labels));
    let timings = &library.board.timings;
    let seconds = || Unit::Seconds;
    ours.register_with_unit("tick_duration", "Measuring all groups once", seconds(), timings.tick.clone());
    ours.register_with_unit(
        "reconcile_duration",
        "Looking, planning and applying",
        seconds(),
        timings.reconcile.clone(),
    );
    ours.register_with_unit("store_duration", "Writing one batch of slots to Redis", seconds(), timings.store.clone());
    let events = library.board.journal.totals();
    ours.register_collector(Box::new(Snapshot { status, events: events.0, held_events: events.1 }));
    let newest = library.ring.newest().and_then(|slot| library.ring.range(slot, slot).pop_first());
    let most = library.config.metrics.groups;
    if let Some((_, slot)) = newest.filter(|_| most > 0) {
        ours.register_collector(Box::new(Groups::of(&slot, most)));
    }
    registry.sub_registry_with_prefix("process").register_collector(Box::new(Process));
    let mut out = String::new();
    match prometheus_client::encoding::text::encode(&mut out, &registry) {
        Ok(()) => out,
        Err(_) => "# EOF\n".into(),
    }
}

/// The same in the text format of before OpenMetrics: there the names of counters and infos are those of their samples.
pub(super) fn classic(page: &str) -> String {
    let mut out = String::with_capacity(page.len());
    let types: std::collections::HashMap<&str, &str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    for line in page.lines() {
        let Some((what, rest)) = line.strip_prefix("# ").and_then(|l| l.split_once(' ')) else {
            if !line.starts_with('#') {
                out.push_str(line);
                out.push('\n');
            }
            continue;
        };
        let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let (suffix, kind) = match types.get(name).copied() {
            Some("counter") => ("_total", "counter"),
            Some("info") => ("_info", "gauge"),
            other => ("", other.unwrap_or("untyped")),
        };
        match what {
            "HELP" => out.push_str(&format!("# HELP {name}{suffix} {rest}\n")),
            "TYPE" => out.push_str(&format!("# TYPE {name}{suffix} {kind}\n")),
            _ => {}
        }
    }
    out
}

#[derive(Debug)]
struct Snapshot {
    status: Status,
    events: Vec<(cgrove_core::event::Kind, u64)>,
    held_events: usize,
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let s = &self.status;
        let gauges: [(&str, &str, usize); 16] = [
            ("ready", "1: a tree is applied and the source is connected", usize::from(s.ready)),
            ("source_connected", "1: ZooKeeper answers, or the file is readable", usize::from(s.source.connected)),
            ("document_groups", "Groups of the document in force", s.document.as_ref().map_or(0, |d| d.groups)),
            ("document_refused", "1: the newest document was refused", usize::from(s.refused.is_some())),
            ("plan_held", "Actions that wait for an operator", s.plan.held_total),
            ("plan_notes", "Things that this node's kernel cannot express, and refusals", s.plan.notes_total),
            ("tasks_processes", "Processes that belong to groups", s.tasks.processes),
            ("tasks_problems", "Pid files that were not believed, and moves that failed", s.tasks.problems_total),
            ("usage_held_slots", "Slots held in memory", s.usage.held),
            ("usage_missing_values", "Values missing in the newest slot", s.usage.missing),
            ("store_connected", "1: the outer store takes slots", usize::from(s.store.connected)),
            ("store_waiting_slots", "Slots that the outer store does not have yet", s.store.waiting),
            ("server_connections", "Clients at this moment", s.server.connections),
            ("server_subscriptions", "Subscriptions at this moment", s.server.subscriptions),
            ("server_errors", "Addresses that cannot be opened", s.server.errors.len()),
            ("events_held", "Events held in memory", self.held_events),
        ];
        for (name, help, value) in gauges {
            gauge(&mut encoder, name, help, None, value as f64)?;
        }
        let newest = s.usage.newest_slot.unwrap_or(0) as f64;
        gauge(&mut encoder, "usage_held", "Slots held in memory", Some(&Unit::Bytes), s.usage.held_bytes as f64)?;
        gauge(&mut encoder, "usage_newest_slot", "The newest slot, Unix time", Some(&Unit::Seconds), newest)?;
        gauge(
            &mut encoder,
            "start_time",
            "When the daemon started, Unix time",
            Some(&Unit::Seconds),
            s.started as f64,
        )?;
        let counters: [(&str, &str, u64); 12] = [
            ("plan_rounds", "Reconciles", s.plan.rounds),
            ("plan_actions_done", "Actions done", s.plan.done_total),
            ("tasks_moved", "Processes moved", s.tasks.moved_total),
            ("usage_slots", "Slots measured", s.usage.slots_total),
            ("usage_gaps", "Seconds without a slot", s.usage.gaps_total),
            ("usage_dropped_slots", "Slots dropped from memory before their time", s.usage.dropped_total),
            ("store_written_slots", "Slots written to the outer store", s.store.written_total),
            ("store_replayed_slots", "Slots that the outer store had lost", s.store.replayed_total),
            ("server_requests", "Requests over WebSocket and HTTP", s.server.requests_total),
            ("server_dropped_slots", "Slots that slow subscribers missed", s.server.dropped_total),
            (
                "server_dropped_clients",
                "Clients that were let go: for others, slow, or silent",
                s.server.dropped_clients.values().sum(),
            ),
            ("server_refused", "Connections and requests refused", s.server.refused_total),
        ];
        for (name, help, value) in counters {
            let metric = ConstCounter::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
        }
        gauge(
            &mut encoder,
            "plan_failed",
            "Actions that failed in the last round",
            None,
            s.plan.failures_total as f64,
        )?;
        let mut family = family(&mut encoder, "plan_failures", "The same by the kernel's error", MetricType::Gauge)?;
        for (errno, count) in &s.plan.failures_by_errno {
            let errno = errno.map_or("other".to_owned(), |e| format!("{:?}", nix::errno::Errno::from_raw(e)));
            ConstGauge::new(*count as i64).encode(family.encode_family(&[("errno", errno.as_str())])?)?;
        }
        let mut family = self::family(&mut encoder, "events", "What happened, by kind", MetricType::Counter)?;
        for (kind, count) in &self.events {
            ConstCounter::new(*count).encode(family.encode_family(&[("kind", kind.name())])?)?;
        }
        Ok(())
    }
}

fn family<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    name: &'e str,
    help: &str,
    kind: MetricType,
) -> Result<MetricEncoder<'e>, std::fmt::Error> {
    encoder.encode_descriptor(name, help, None, kind)
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: f64,
) -> Result<(), std::fmt::Error> {
    let metric = ConstGauge::new(value);
    metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_names_counters_as_their_samples() {
        let page = "# HELP a_b Words.\n# TYPE a_b counter\n# UNIT a_b seconds\na_b_total 5\n# HELP i I.\n# TYPE i info\ni_info{x=\"1\"} 1\n# HELP g G.\n# TYPE g gauge\ng 1\n# EOF\n";
        let wanted = "# HELP a_b_total Words.\n# TYPE a_b_total counter\na_b_total 5\n# HELP i_info I.\n# TYPE i_info gauge\ni_info{x=\"1\"} 1\n# HELP g G.\n# TYPE g gauge\ng 1\n";
        assert_eq!(classic(page), wanted);
    }
}
