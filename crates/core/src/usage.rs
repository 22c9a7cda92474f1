//! Usage in cgrouparch's shape: a template of the tree's constant bytes, with numbers spliced in.

mod reading;
mod view;

use crate::desired::Desired;
use crate::ids::{Controller, GroupPath};

pub use reading::{Choice, Collect, Gauge, Reading};
pub use view::{Before, View};

/// One value to be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    pub gauge: Gauge,
    pub group: GroupPath,
}

/// The constant bytes of a tree's usage JSON; between each two of them one probe's value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Template {
    text: Vec<u8>,
    /// Where a probe's value comes, in the order of probes.
    places: Vec<u32>,
    pub probes: Vec<Probe>,
}

impl Template {
    /// The shape of one slot: per usage key a node `{"value": ..., "sub_cgroup": {...}}` for the parent and each group.
    pub fn new(desired: &Desired) -> Self {
        let mut template = Self::default();
        let mut children: std::collections::HashMap<GroupPath, Vec<&GroupPath>> = std::collections::HashMap::new();
        for path in desired.groups.keys() {
            children.entry(path.up().unwrap_or_else(GroupPath::root)).or_default().push(path);
        }
        template.write("{");
        for (i, (key, controller)) in desired.usage_keys.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            template.write(&format!("{comma}{}:", quoted(key)));
            template.node(desired, *controller, &GroupPath::root(), &children);
        }
        template.write("}");
        template.text.shrink_to_fit();
        template.places.shrink_to_fit();
        template.probes.shrink_to_fit();
        template
    }

    fn node(
        &mut self,
        desired: &Desired,
        controller: Controller,
        path: &GroupPath,
        children: &std::collections::HashMap<GroupPath, Vec<&GroupPath>>,
    ) {
        self.write("{\"value\":");
        match Gauge::of(controller) {
            Some(gauge) => {
                self.probes.push(Probe { gauge, group: path.clone() });
                self.places.push(u32::try_from(self.text.len()).unwrap_or(u32::MAX));
            }
            None => self.write("{}"),
        }
        let below = children.get(path).into_iter().flatten();
        let below = below.filter(|p| desired.groups.get(**p).is_some_and(|g| g.controllers.contains(controller)));
        let mut separator = ",\"sub_cgroup\":{";
        for child in below {
            self.write(&format!("{separator}{}:", quoted(child.name())));
            self.node(desired, controller, child, children);
            separator = ",";
        }
        self.write(if separator == "," { "}}" } else { "}" });
    }

    fn write(&mut self, text: &str) {
        self.text.extend_from_slice(text.as_bytes());
    }

    /// Writes one slot; `value` appends the JSON value of the probe with that index.
    pub fn render(&self, out: &mut Vec<u8>, mut value: impl FnMut(usize, &mut Vec<u8>)) {
        let mut from = 0;
        for (i, place) in self.places.iter().map(|place| *place as usize).enumerate() {
            out.extend_from_slice(self.text.get(from..place).unwrap_or_default());
            value(i, out);
            from = place;
        }
        out.extend_from_slice(self.text.get(from..).unwrap_or_default());
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::parse;

    #[test]
    fn the_template_has_cgrouparchs_shape() {
        let doc = br#"{"cpu": {"sub_cgroup": {"a": {}, "b": {"conf": {}, "sub_cgroup": {"b1": {}}}}}, "blkio": {"sub_cgroup": {"a": {}}}, "cpuset": {}}"#;
        let template = Template::new(&parse(doc).unwrap());
        let mut out = Vec::new();
        template.render(&mut out, |i, out| out.extend_from_slice(i.to_string().as_bytes()));
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"cpu":{"value":0,"sub_cgroup":{"a":{"value":1},"b":{"value":2,"sub_cgroup":{"b1":{"value":3}}}}},"blkio":{"value":4,"sub_cgroup":{"a":{"value":5}}},"cpuset":{"value":{}}}"#
        );
        assert_eq!(template.probes[3].group.as_str(), "/b/b1");
    }

    #[test]
    fn an_empty_tree_is_valid_json() {
        let template = Template::new(&parse(br#"{"groups": {}}"#).unwrap());
        let mut out = Vec::new();
        template.render(&mut out, |_, out| out.extend_from_slice(b"{}"));
        assert!(serde_json::from_slice::<serde_json::Value>(&out).unwrap()["io"]["value"].is_object());
    }
}
