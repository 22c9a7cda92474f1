//! Series of single groups, out of the newest slot. Base units: seconds, bytes.

use std::collections::BTreeMap;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use serde_json::Value;

/// The series, and groups that have none because there are too many.
#[derive(Debug, Default)]
pub(super) struct Groups {
    series: BTreeMap<&'static str, Vec<(Labels, f64)>>,
    left_out: usize,
}

type Labels = Vec<(&'static str, String)>;

/// Name, unit, help, and whether it counts up.
const SERIES: [(&str, Option<Unit>, &str, bool); 20] = [
    ("group_cpu_usage", Some(Unit::Seconds), "CPU time", true),
    ("group_cpu_user", Some(Unit::Seconds), "CPU time in user mode", true),
    ("group_cpu_system", Some(Unit::Seconds), "CPU time in the kernel", true),
    ("group_cpu_periods", None, "Periods in which the CPU limit counted", true),
    ("group_cpu_throttled_periods", None, "Periods in which the group was throttled", true),
    ("group_cpu_throttled", Some(Unit::Seconds), "Time spent throttled", true),
    ("group_memory_usage", Some(Unit::Bytes), "Memory in use", false),
    ("group_memory_peak", Some(Unit::Bytes), "Most memory in use so far", false),
    ("group_memory_anon", Some(Unit::Bytes), "Anonymous memory", false),
    ("group_memory_file", Some(Unit::Bytes), "Page cache", false),
    ("group_memory_swap", Some(Unit::Bytes), "Swap in use", false),
    ("group_memory_refaults", None, "Pages read back that had been evicted", true),
    ("group_memory_events", None, "memory.events", true),
    ("group_io_read", Some(Unit::Bytes), "Bytes read", true),
    ("group_io_written", Some(Unit::Bytes), "Bytes written", true),
    ("group_io_reads", None, "Read operations", true),
    ("group_io_writes", None, "Write operations", true),
    ("group_tasks", None, "Processes and threads", false),
    ("group_tasks_peak", None, "Most processes and threads so far", false),
    ("group_pressure_waiting", Some(Unit::Seconds), "Time in which some or all tasks waited", true),
];

impl Groups {
    pub(super) fn of(slot: &[u8], most: usize) -> Self {
        let mut groups = Self::default();
        let mut known = BTreeMap::new();
        if let Ok(Value::Object(controllers)) = serde_json::from_slice(slot) {
            // A document by controller may have both; they are one counter.
            let twice = controllers.contains_key("cpu");
            for (controller, node) in controllers.iter().filter(|(c, _)| !(twice && *c == "cpuacct")) {
                groups.walk(controller, "/", node, most, &mut known);
            }
        }
        groups.left_out = known.values().filter(|counted| !**counted).count();
        groups
    }

    fn walk(&mut self, controller: &str, path: &str, node: &Value, most: usize, known: &mut BTreeMap<String, bool>) {
        let room = known.len() < most;
        if *known.entry(path.to_owned()).or_insert(room) {
            self.one(controller, path, node);
        }
        for (name, child) in node["sub_cgroup"].as_object().into_iter().flatten() {
            self.walk(controller, &format!("{}/{name}", path.trim_end_matches('/')), child, most, known);
        }
    }

    fn put(&mut self, name: &'static str, path: &str, more: &[(&'static str, &str)], value: Option<f64>) {
        let Some(value) = value else { return };
        let mut labels = vec![("group", path.to_owned())];
        labels.extend(more.iter().map(|(key, text)| (*key, (*text).to_owned())));
        self.series.entry(name).or_default().push((labels, value));
    }

    fn one(&mut self, controller: &str, path: &str, node: &Value) {
        let value = &node["value"];
        let number = |key: &str| value[key].as_f64();
        match controller {
            "cpu" | "cpuacct" => {
                let seconds = |key: &str| number(key).map(|ns| ns / 1e9);
                self.put("group_cpu_usage", path, &[], seconds("usage"));
                self.put("group_cpu_user", path, &[], seconds("user"));
                self.put("group_cpu_system", path, &[], seconds("system"));
                self.put("group_cpu_throttled", path, &[], seconds("throttled"));
                self.put("group_cpu_periods", path, &[], number("nr_periods"));
                self.put("group_cpu_throttled_periods", path, &[], number("nr_throttled"));
            }
            "memory" => {
                self.put("group_memory_usage", path, &[], number("current"));
                self.put("group_memory_peak", path, &[], number("peak"));
                self.put("group_memory_anon", path, &[], number("anon"));
                self.put("group_memory_file", path, &[], number("file"));
                self.put("group_memory_swap", path, &[], number("swap"));
                self.put("group_memory_refaults", path, &[], number("refaults"));
                for (event, count) in node["events"].as_object().into_iter().flatten() {
                    self.put("group_memory_events", path, &[("event", event)], count.as_f64());
                }
            }
            "pids" => {
                self.put("group_tasks", path, &[], number("current"));
                self.put("group_tasks_peak", path, &[], number("peak"));
            }
            "io" | "blkio" => {
                for (key, names) in [
                    ("value", ["group_io_read", "group_io_written"]),
                    ("operations", ["group_io_reads", "group_io_writes"]),
                ] {
                    for (device, counts) in node[key].as_object().into_iter().flatten() {
                        self.put(names[0], path, &[("device", device)], counts["Read"].as_f64());
                        self.put(names[1], path, &[("device", device)], counts["Write"].as_f64());
                    }
                }
            }
            _ => {}
        }
        let resource = if controller == "blkio" { "io" } else { controller };
        for (kind, told) in node["pressure"].as_object().into_iter().flatten() {
            let waited = told["total"].as_f64().map(|us| us / 1e6);
            self.put("group_pressure_waiting", path, &[("resource", resource), ("kind", kind)], waited);
        }
    }
}

impl Collector for Groups {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        for (name, unit, help, counts) in &SERIES {
            let Some(series) = self.series.get(name) else { continue };
            let kind = if *counts { MetricType::Counter } else { MetricType::Gauge };
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
            for (labels, value) in series {
                let one = family.encode_family(labels)?;
                if *counts { ConstCounter::new(*value).encode(one)? } else { ConstGauge::new(*value).encode(one)? }
            }
        }
        let help = "Groups without series of their own; see metrics.groups";
        super::gauge(&mut encoder, "metrics_groups_left_out", help, None, self.left_out as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_units_and_a_cap() {
        let slot = br#"{"cpu":{"value":{"usage":1500000000},"sub_cgroup":{"a":{"value":{"usage":1}},"b":{"value":{}}}},"memory":{"value":{"current":4096},"events":{"oom_kill":2},"pressure":{"some":{"avg10":0.5,"total":2000000}}}}"#;
        let all = Groups::of(slot, 10);
        let group = |path: &str| vec![("group", path.to_owned())];
        assert_eq!(all.series["group_cpu_usage"][0], (group("/"), 1.5));
        assert_eq!(all.series["group_pressure_waiting"][0].1, 2.0);
        assert_eq!(all.series["group_memory_events"][0].0[1], ("event", "oom_kill".to_owned()));
        let few = Groups::of(slot, 2);
        assert_eq!((few.series["group_cpu_usage"].len(), few.left_out, all.left_out), (2, 1, 0));
        assert!(Groups::of(slot, 0).series.is_empty() && Groups::of(b"[]", 5).series.is_empty());
        let both = br#"{"cpu":{"value":{"usage":1}},"cpuacct":{"value":{"usage":2}}}"#;
        assert_eq!(Groups::of(both, 5).series["group_cpu_usage"].len(), 1);
        assert!(all.series.keys().all(|name| SERIES.iter().any(|s| s.0 == *name)));
    }
}
