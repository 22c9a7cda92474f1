//! What one group uses, out of a slot with rates: for `usage` and `top`.

use std::collections::BTreeMap;

use serde_json::Value;

/// Rates in a second, and levels. `None` is not measured, or has no rate.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Figures {
    pub(super) cores: Option<f64>,
    pub(super) memory: Option<f64>,
    pub(super) tasks: Option<u64>,
    pub(super) read: Option<f64>,
    pub(super) written: Option<f64>,
    /// The worst of what some tasks waited for in the last ten seconds, in percent.
    pub(super) pressure: Option<f64>,
}

/// Every group of a slot by its path; `top` is the path of the slot's topmost nodes.
pub(super) fn collect(slot: &Value, top: &str) -> BTreeMap<String, Figures> {
    let mut out = BTreeMap::new();
    for (controller, node) in slot.as_object().into_iter().flatten() {
        walk(&mut out, controller, top.trim_end_matches('/'), node);
    }
    out
}

fn walk(out: &mut BTreeMap<String, Figures>, controller: &str, path: &str, node: &Value) {
    let shown = if path.is_empty() { "/" } else { path };
    let figures = out.entry(shown.to_owned()).or_default();
    let value = &node["value"];
    match controller {
        "cpu" | "cpuacct" => figures.cores = value["usage"].as_f64().map(|ns| ns / 1e9),
        "memory" => figures.memory = value["current"].as_f64(),
        "pids" => figures.tasks = value["current"].as_u64(),
        "io" | "blkio" => {
            let sum = |key: &str| {
                let disks = value.as_object()?.values();
                // Not `sum`, which begins at -0.
                Some(disks.filter_map(|d| d[key].as_f64()).fold(0.0, |all, n| all + n))
            };
            (figures.read, figures.written) = (sum("Read"), sum("Write"));
        }
        _ => {}
    }
    if let Some(waiting) = node["pressure"]["some"]["avg10"].as_f64() {
        figures.pressure = Some(figures.pressure.unwrap_or(0.0).max(waiting));
    }
    for (name, child) in node["sub_cgroup"].as_object().into_iter().flatten() {
        walk(out, controller, &format!("{path}/{name}"), child);
    }
}

/// A size for people.
pub(super) fn bytes(bytes: f64) -> String {
    const UNITS: [&str; 5] = ["B", "K", "M", "G", "T"];
    let mut value = bytes;
    let mut unit = 0;
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{value:.0} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        assert_eq!([0.0, 1023.0, 1024.0, 1.5e9, 1e16].map(bytes), ["0 B", "1023 B", "1.0 K", "1.4 G", "9094.9 T"]);
    }
}
