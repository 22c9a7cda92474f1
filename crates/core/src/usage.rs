//! Usage in cgrouparch's shape: a template of the tree's constant bytes, with numbers spliced in.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::actual::Version;
use crate::desired::Desired;
use crate::ids::{Controller, GroupPath};

/// What is measured, and how its kernel text becomes a JSON value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gauge {
    /// `{"usage": nanoseconds of CPU since the group was made}`.
    Cpu,
    /// `{"8:0": {"Read": bytes, "Write": bytes}}`.
    Io,
    /// `{"current": bytes}`.
    Memory,
    /// `{"current": processes and threads}`.
    Pids,
}

impl Gauge {
    /// What a controller's groups are measured by, if at all.
    pub fn of(controller: Controller) -> Option<Self> {
        match controller {
            Controller::Cpu | Controller::Cpuacct => Some(Self::Cpu),
            Controller::Io => Some(Self::Io),
            Controller::Memory => Some(Self::Memory),
            Controller::Pids => Some(Self::Pids),
            _ => None,
        }
    }

    /// The controller whose hierarchy has the file.
    pub fn controller(self) -> Controller {
        match self {
            Self::Cpu => Controller::Cpuacct,
            Self::Io => Controller::Io,
            Self::Memory => Controller::Memory,
            Self::Pids => Controller::Pids,
        }
    }

    /// Appends the JSON value for the file's text. Text that is not as expected gives `{}`, like a missing group.
    pub fn render(self, version: Version, text: &[u8], out: &mut Vec<u8>) {
        let key: &[u8] = match (self, version) {
            (Self::Io, Version::V1) => return render_io(text, out),
            (Self::Io, Version::V2) => return render_io_stat(text, out),
            (Self::Cpu, Version::V2) => return render_cpu_stat(text, out),
            (Self::Cpu, Version::V1) => b"{\"usage\":",
            (Self::Memory | Self::Pids, _) => b"{\"current\":",
        };
        match digits(text) {
            Some(number) => {
                out.extend_from_slice(key);
                out.extend_from_slice(number);
                out.push(b'}');
            }
            None => out.extend_from_slice(b"{}"),
        }
    }
}

/// The number that a file consists of, as JSON may have it.
fn digits(text: &[u8]) -> Option<&[u8]> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let plain = !text.is_empty()
        && text.len() <= 20
        && text.iter().all(u8::is_ascii_digit)
        && (text[0] != b'0' || text.len() == 1);
    plain.then_some(text)
}

/// v2's cpu.stat begins with `usage_usec`; the value is in nanoseconds on either version.
fn render_cpu_stat(text: &[u8], out: &mut Vec<u8>) {
    let mut lines = text.split(|b| *b == b'\n');
    let number = lines.find_map(|l| l.strip_prefix(b"usage_usec ")).and_then(digits);
    match number {
        Some(b"0") => out.extend_from_slice(b"{\"usage\":0}"),
        Some(number) => {
            out.extend_from_slice(b"{\"usage\":");
            out.extend_from_slice(number);
            out.extend_from_slice(b"000}");
        }
        None => out.extend_from_slice(b"{}"),
    }
}

/// v2's io.stat: `8:0 rbytes=1 wbytes=2 rios=3 ...`; a device without traffic has no numbers.
fn render_io_stat(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'{');
    let mut comma: &[u8] = b"";
    for line in text.split(|b| *b == b'\n') {
        // Linux 5.14 to 5.18 do not end the lines of idle disks: the last number before the keys is the disk's.
        let mut id: &[u8] = b"";
        let (mut read, mut written) = (None, None);
        for word in line.split(|b| *b == b' ') {
            if !word.is_empty() && word.iter().all(|b| b.is_ascii_digit() || *b == b':') {
                id = word;
            }
            read = read.or_else(|| word.strip_prefix(b"rbytes=").and_then(digits));
            written = written.or_else(|| word.strip_prefix(b"wbytes=").and_then(digits));
        }
        let (false, Some(read), Some(written)) = (id.is_empty(), read, written) else { continue };
        for part in [comma, b"\"", id, b"\":{\"Read\":", read, b",\"Write\":", written, b"}"] {
            out.extend_from_slice(part);
        }
        comma = b",";
    }
    out.push(b'}');
}

/// `8:0 Read 123` lines; Sync, Async, Discard and Total are left out.
fn render_io(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'{');
    let mut device: &[u8] = b"";
    for line in text.split(|b| *b == b'\n') {
        let mut words = line.splitn(3, |b| *b == b' ');
        let (Some(id), Some(kind), Some(number)) = (words.next(), words.next(), words.next().and_then(digits)) else {
            continue;
        };
        let is_id = id.iter().all(|b| b.is_ascii_digit() || *b == b':');
        if !matches!(kind, b"Read" | b"Write") || !is_id {
            continue;
        }
        if id == device {
            out.push(b',');
        } else {
            out.extend_from_slice(if device.is_empty() { b"\"" } else { b"},\"" });
            out.extend_from_slice(id);
            out.extend_from_slice(b"\":{");
            device = id;
        }
        out.push(b'"');
        out.extend_from_slice(kind);
        out.extend_from_slice(b"\":");
        out.extend_from_slice(number);
    }
    out.extend_from_slice(if device.is_empty() { b"}" } else { b"}}" });
}

/// One value to be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    pub gauge: Gauge,
    pub group: GroupPath,
}

/// The constant bytes of a tree's usage JSON; between each two of them one probe's value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Template {
    pieces: Vec<Vec<u8>>,
    pub probes: Vec<Probe>,
}

impl Template {
    /// The shape of one slot: per usage key a node `{"value": ..., "sub_cgroup": {...}}` for the parent and each group.
    pub fn new(desired: &Desired) -> Self {
        let mut template = Self { pieces: vec![Vec::new()], probes: Vec::new() };
        let mut children: std::collections::HashMap<GroupPath, Vec<&GroupPath>> = std::collections::HashMap::new();
        for path in desired.groups.keys() {
            children.entry(path.up().unwrap_or_else(GroupPath::root)).or_default().push(path);
        }
        template.text("{");
        for (i, (key, controller)) in desired.usage_keys.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            template.text(&format!("{comma}{}:", quoted(key)));
            template.node(desired, *controller, &GroupPath::root(), &children);
        }
        template.text("}");
        template
    }

    fn node(
        &mut self,
        desired: &Desired,
        controller: Controller,
        path: &GroupPath,
        children: &std::collections::HashMap<GroupPath, Vec<&GroupPath>>,
    ) {
        self.text("{\"value\":");
        match Gauge::of(controller) {
            Some(gauge) => {
                self.probes.push(Probe { gauge, group: path.clone() });
                self.pieces.push(Vec::new());
            }
            None => self.text("{}"),
        }
        let below = children.get(path).into_iter().flatten();
        let below = below.filter(|p| desired.groups.get(**p).is_some_and(|g| g.controllers.contains(controller)));
        let mut separator = ",\"sub_cgroup\":{";
        for child in below {
            self.text(&format!("{separator}{}:", quoted(child.name())));
            self.node(desired, controller, child, children);
            separator = ",";
        }
        self.text(if separator == "," { "}}" } else { "}" });
    }

    fn text(&mut self, text: &str) {
        if let Some(last) = self.pieces.last_mut() {
            last.extend_from_slice(text.as_bytes());
        }
    }

    /// Writes one slot; `value` appends the JSON value of the probe with that index.
    pub fn render(&self, out: &mut Vec<u8>, mut value: impl FnMut(usize, &mut Vec<u8>)) {
        for (i, piece) in self.pieces.iter().enumerate() {
            out.extend_from_slice(piece);
            if i < self.probes.len() {
                value(i, out);
            }
        }
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The subtree of one group out of a stored slot, under each controller that has it; `None` where none has.
pub fn narrow(slot: &[u8], group: &GroupPath) -> Option<Vec<u8>> {
    type Node<'a> = BTreeMap<&'a str, &'a RawValue>;
    let slot: Node = serde_json::from_slice(slot).ok()?;
    let mut out: BTreeMap<&str, &RawValue> = BTreeMap::new();
    for (controller, mut raw) in slot {
        let found = group.components().try_for_each(|name| {
            let node: Node = serde_json::from_str(raw.get()).ok()?;
            let children: Node = serde_json::from_str(node.get("sub_cgroup")?.get()).ok()?;
            raw = children.get(name)?;
            Some(())
        });
        if found.is_some() {
            out.insert(controller, raw);
        }
    }
    if out.is_empty() { None } else { serde_json::to_vec(&out).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::parse;

    fn rendered(gauge: Gauge, text: &str) -> String {
        rendered_from(Version::V1, gauge, text)
    }

    fn rendered_from(version: Version, gauge: Gauge, text: &str) -> String {
        let mut out = Vec::new();
        gauge.render(version, text.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn kernel_text_becomes_cgrouparchs_values() {
        assert_eq!(rendered(Gauge::Cpu, "12345\n"), r#"{"usage":12345}"#);
        assert_eq!(rendered(Gauge::Memory, "0\n"), r#"{"current":0}"#);
        let io = "8:0 Read 5\n8:0 Write 6\n8:0 Sync 7\n8:0 Total 11\n8:16 Read 1\n8:16 Write 2\nTotal 14\n";
        assert_eq!(rendered(Gauge::Io, io), r#"{"8:0":{"Read":5,"Write":6},"8:16":{"Read":1,"Write":2}}"#);
        assert_eq!(rendered(Gauge::Io, "Total 0\n"), "{}");
        for odd in ["", "x", "-1", "01", "1 2", "\"", "123456789012345678901"] {
            assert_eq!(rendered(Gauge::Cpu, odd), "{}", "{odd:?}");
        }
    }

    #[test]
    fn v2_gives_the_same_values() {
        let v2 = |gauge, text| rendered_from(Version::V2, gauge, text);
        assert_eq!(v2(Gauge::Cpu, "usage_usec 12\nuser_usec 5\n"), r#"{"usage":12000}"#);
        assert_eq!(v2(Gauge::Cpu, "usage_usec 0\n"), r#"{"usage":0}"#);
        assert_eq!(v2(Gauge::Cpu, "user_usec 5\n"), "{}");
        assert_eq!(v2(Gauge::Memory, "4096\n"), r#"{"current":4096}"#);
        let io = "8:0 rbytes=5 wbytes=6 rios=1 wios=1 dbytes=0 dios=0\n253:1 \n8:16 rbytes=1 wbytes=2 rios=0 wios=0\n";
        assert_eq!(v2(Gauge::Io, io), r#"{"8:0":{"Read":5,"Write":6},"8:16":{"Read":1,"Write":2}}"#);
        assert_eq!(v2(Gauge::Io, "7:0 7:1 8:0 rbytes=5 wbytes=6\n"), r#"{"8:0":{"Read":5,"Write":6}}"#);
        assert_eq!((v2(Gauge::Io, ""), v2(Gauge::Io, "\"x rbytes=1 wbytes=2\n")), ("{}".into(), "{}".into()));
    }

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

    #[test]
    fn a_subtree_is_cut_out_of_stored_bytes() {
        let slot = br#"{"cpu":{"value":{},"sub_cgroup":{"a":{"value":{"usage":1},"sub_cgroup":{"b":{"value":{"usage":2}}}}}},"blkio":{"value":{}}}"#;
        let cut = |path: &str| String::from_utf8(narrow(slot, &GroupPath::parse(path).unwrap()).unwrap()).unwrap();
        assert_eq!(cut("/a/b"), r#"{"cpu":{"value":{"usage":2}}}"#);
        assert!(narrow(slot, &GroupPath::parse("/x").unwrap()).is_none());
        assert!(narrow(b"poison", &GroupPath::root()).is_none());
    }
}
