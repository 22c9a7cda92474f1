//! Kernel files that tell about a group, and the members that they give to its node. `value` has cgrouparch's keys, and
//! numbers of the same kind beside them; `events`, `operations` and `pressure` stand beside `value`.

use crate::actual::Version;
use crate::ids::Controller;

/// What is measured of a group under one controller.
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

/// More than cgrouparch's values, at the price of one or more files for each group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Choice {
    Cpu,
    Memory,
    Events,
    Io,
    Pids,
    Pressure,
}

impl Choice {
    pub const ALL: [Self; 6] = [Self::Cpu, Self::Memory, Self::Events, Self::Io, Self::Pids, Self::Pressure];

    /// As `usage.collect` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Events => "events",
            Self::Io => "io",
            Self::Pids => "pids",
            Self::Pressure => "pressure",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.name() == name)
    }
}

/// What is collected of each group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collect {
    /// Everything that files say which are read anyway.
    lean: bool,
    choices: u8,
}

impl Collect {
    /// Cgrouparch's values alone.
    pub const PLAIN: Self = Self { lean: false, choices: 0 };
    /// No file more than for cgrouparch's values, but all that these say.
    pub const LEAN: Self = Self { lean: true, choices: 0 };

    #[must_use]
    pub fn with(self, choice: Choice) -> Self {
        Self { lean: true, choices: self.choices | 1 << choice as u8 }
    }

    pub fn all() -> Self {
        Choice::ALL.into_iter().fold(Self::LEAN, Self::with)
    }

    pub fn has(self, choice: Choice) -> bool {
        self.choices & 1 << choice as u8 != 0
    }
}

/// One kernel file of a group. Where both versions have one of a meaning, the names differ, the members do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reading {
    /// v1: the CPU time, and nothing else.
    CpuacctUsage,
    /// v1: user and system time, in hundredths of a second.
    CpuacctStat,
    /// v1's cpu.stat: throttling.
    Throttling,
    /// v2's cpu.stat, of which only the time counts.
    CpuTime,
    /// v2's cpu.stat, all of it.
    CpuStat,
    /// v1: bytes by disk.
    BlkioBytes,
    /// v1: operations by disk.
    BlkioOperations,
    /// v2's io.stat, of which only the bytes count.
    IoBytes,
    /// v2's io.stat: bytes and operations.
    IoStat,
    MemoryCurrent,
    MemoryPeak,
    /// v2: swap in use.
    MemorySwap,
    MemoryStat,
    /// v1: how often the limit was in the way.
    MemoryFailcnt,
    /// v2: memory.events.
    MemoryEvents,
    /// v1: processes killed for lack of memory.
    OomControl,
    PidsCurrent,
    PidsPeak,
    CpuPressure,
    MemoryPressure,
    IoPressure,
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

    /// The controller whose hierarchy has cgrouparch's value.
    pub fn controller(self) -> Controller {
        match self {
            Self::Cpu => Controller::Cpuacct,
            Self::Io => Controller::Io,
            Self::Memory => Controller::Memory,
            Self::Pids => Controller::Pids,
        }
    }

    /// The files to read, the one with cgrouparch's value first.
    pub fn readings(self, version: Version, collect: Collect) -> Vec<Reading> {
        use Reading as R;
        use Version::{V1, V2};
        let lean = collect.lean;
        let when = |choice, readings: &[Reading]| if collect.has(choice) { readings.to_vec() } else { Vec::new() };
        let pressure = |reading| if version == V2 { when(Choice::Pressure, &[reading]) } else { Vec::new() };
        let parts = match (self, version) {
            (Self::Cpu, V1) => [vec![R::CpuacctUsage], when(Choice::Cpu, &[R::CpuacctStat, R::Throttling]), vec![]],
            (Self::Cpu, V2) => [vec![if lean { R::CpuStat } else { R::CpuTime }], pressure(R::CpuPressure), vec![]],
            (Self::Io, V1) => [vec![R::BlkioBytes], when(Choice::Io, &[R::BlkioOperations]), vec![]],
            (Self::Io, V2) => [vec![if lean { R::IoStat } else { R::IoBytes }], pressure(R::IoPressure), vec![]],
            (Self::Memory, V1) => [
                vec![R::MemoryCurrent],
                when(Choice::Memory, &[R::MemoryPeak, R::MemoryStat, R::MemoryFailcnt]),
                when(Choice::Events, &[R::OomControl]),
            ],
            (Self::Memory, V2) => [
                vec![R::MemoryCurrent],
                when(Choice::Memory, &[R::MemoryPeak, R::MemorySwap, R::MemoryStat]),
                [when(Choice::Events, &[R::MemoryEvents]), pressure(R::MemoryPressure)].concat(),
            ],
            (Self::Pids, _) => [vec![R::PidsCurrent], when(Choice::Pids, &[R::PidsPeak]), vec![]],
        };
        parts.concat()
    }
}

impl Reading {
    /// The controller whose hierarchy has the file.
    pub fn controller(self) -> Controller {
        match self {
            Self::CpuacctUsage | Self::CpuacctStat | Self::CpuTime | Self::CpuStat => Controller::Cpuacct,
            Self::Throttling | Self::CpuPressure => Controller::Cpu,
            Self::BlkioBytes | Self::BlkioOperations | Self::IoBytes | Self::IoStat | Self::IoPressure => {
                Controller::Io
            }
            Self::PidsCurrent | Self::PidsPeak => Controller::Pids,
            _ => Controller::Memory,
        }
    }

    /// Appends the file's numbers: to `value` members of the value, which has begun with `{`; to `beside` whole members
    /// that follow it. Text that is not as expected gives nothing, like a group that is not there.
    pub fn render(self, version: Version, text: &[u8], value: &mut Vec<u8>, beside: &mut Vec<u8>) {
        match self {
            Self::CpuacctUsage => member(value, b"usage", digits(text), b""),
            Self::MemoryCurrent | Self::PidsCurrent => member(value, b"current", digits(text), b""),
            Self::MemoryPeak | Self::PidsPeak => member(value, b"peak", digits(text), b""),
            Self::MemorySwap => member(value, b"swap", digits(text), b""),
            Self::MemoryFailcnt => member(value, b"failcnt", digits(text), b""),
            Self::CpuTime => member(value, b"usage", field(text, b"usage_usec "), b"000"),
            Self::CpuStat => {
                const KEYS: [(&[u8], &[u8], &[u8]); 6] = [
                    (b"usage_usec ", b"usage", b"000"),
                    (b"user_usec ", b"user", b"000"),
                    (b"system_usec ", b"system", b"000"),
                    (b"nr_periods ", b"nr_periods", b""),
                    (b"nr_throttled ", b"nr_throttled", b""),
                    (b"throttled_usec ", b"throttled", b"000"),
                ];
                members(value, text, &KEYS);
            }
            Self::CpuacctStat => {
                members(value, text, &[(b"user ", b"user", b"0000000"), (b"system ", b"system", b"0000000")]);
            }
            Self::Throttling => {
                const KEYS: [(&[u8], &[u8], &[u8]); 3] = [
                    (b"nr_periods ", b"nr_periods", b""),
                    (b"nr_throttled ", b"nr_throttled", b""),
                    (b"throttled_time ", b"throttled", b""),
                ];
                members(value, text, &KEYS);
            }
            Self::BlkioBytes => blkio(text, value),
            Self::BlkioOperations => aside(beside, b"operations", |out| blkio(text, out)),
            Self::IoBytes => io_stat(text, b"rbytes=", b"wbytes=", value),
            Self::IoStat => {
                io_stat(text, b"rbytes=", b"wbytes=", value);
                aside(beside, b"operations", |out| io_stat(text, b"rios=", b"wios=", out));
            }
            Self::MemoryStat => memory_stat(version, text, value),
            Self::MemoryEvents => {
                const KEYS: [(&[u8], &[u8], &[u8]); 5] = [
                    (b"low ", b"low", b""),
                    (b"high ", b"high", b""),
                    (b"max ", b"max", b""),
                    (b"oom ", b"oom", b""),
                    (b"oom_kill ", b"oom_kill", b""),
                ];
                aside(beside, b"events", |out| members(out, text, &KEYS));
            }
            Self::OomControl => {
                aside(beside, b"events", |out| members(out, text, &[(b"oom_kill ", b"oom_kill", b"")]));
            }
            Self::CpuPressure | Self::MemoryPressure | Self::IoPressure => {
                aside(beside, b"pressure", |out| pressure(text, out));
            }
        }
    }
}

/// The number that a file or word consists of, as JSON may have it.
fn digits(text: &[u8]) -> Option<&[u8]> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let plain = !text.is_empty()
        && text.len() <= 20
        && text.iter().all(u8::is_ascii_digit)
        && (text[0] != b'0' || text.len() == 1);
    plain.then_some(text)
}

/// The number after a key, in a file of lines `key number`.
fn field<'a>(text: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    text.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(key)).and_then(digits)
}

/// Appends `"key":number`, the number made larger by the zeros of its unit.
fn member(out: &mut Vec<u8>, key: &[u8], number: Option<&[u8]>, zeros: &[u8]) {
    let Some(number) = number else { return };
    comma(out);
    out.push(b'"');
    out.extend_from_slice(key);
    out.extend_from_slice(b"\":");
    out.extend_from_slice(number);
    if number != b"0" {
        out.extend_from_slice(zeros);
    }
}

fn comma(out: &mut Vec<u8>) {
    if out.last().is_some_and(|b| *b != b'{') {
        out.push(b',');
    }
}

/// The numbers behind each of the keys, in the file's order.
fn members(out: &mut Vec<u8>, text: &[u8], keys: &[(&[u8], &[u8], &[u8])]) {
    for line in text.split(|b| *b == b'\n') {
        for (prefix, key, zeros) in keys {
            if let Some(rest) = line.strip_prefix(*prefix) {
                member(out, key, digits(rest), zeros);
                break;
            }
        }
    }
}

/// Appends `,"key":{...}`, or nothing when there is nothing to tell.
fn aside(out: &mut Vec<u8>, key: &[u8], members: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    for part in [b",\"", key, b"\":{"] {
        out.extend_from_slice(part);
    }
    let empty = out.len();
    members(out);
    if out.len() == empty { out.truncate(start) } else { out.push(b'}') }
}

/// v1 counts a group's own memory first, then, as `total_`, with what is below it; v2 always the latter.
fn memory_stat(version: Version, text: &[u8], out: &mut Vec<u8>) {
    let keys: [(&[u8], &[u8]); 3] = match version {
        Version::V1 => [(b"total_rss ", b"anon"), (b"total_cache ", b"file"), (b"total_swap ", b"swap")],
        Version::V2 => [(b"anon ", b"anon"), (b"file ", b"file"), (b"\0", b"")],
    };
    // Before Linux 5.9 there is one number for both kinds.
    let refault: &[u8] = if version == Version::V1 { b"total_workingset_refault" } else { b"workingset_refault" };
    let mut refaults: Option<u64> = None;
    for line in text.split(|b| *b == b'\n') {
        if let Some((prefix, key)) = keys.iter().find(|(prefix, _)| line.starts_with(prefix)) {
            member(out, key, digits(&line[prefix.len()..]), b"");
        } else if line.starts_with(refault)
            && let Some(number) = line.rsplit(|b| *b == b' ').next().and_then(digits)
        {
            let number: u64 = std::str::from_utf8(number).ok().and_then(|n| n.parse().ok()).unwrap_or(0);
            refaults = Some(refaults.unwrap_or(0).saturating_add(number));
        }
    }
    if let Some(refaults) = refaults {
        member(out, b"refaults", Some(refaults.to_string().as_bytes()), b"");
    }
}

/// `some avg10=0.12 avg60=0.00 avg300=0.00 total=345` lines.
fn pressure(text: &[u8], out: &mut Vec<u8>) {
    for line in text.split(|b| *b == b'\n') {
        let mut words = line.split(|b| *b == b' ');
        let kind = words.next().unwrap_or_default();
        let (mut average, mut total) = (None, None);
        for word in words {
            average = average.or_else(|| word.strip_prefix(b"avg10=").filter(|w| is_decimal(w)));
            total = total.or_else(|| word.strip_prefix(b"total=").and_then(digits));
        }
        let (b"some" | b"full", Some(average), Some(total)) = (kind, average, total) else { continue };
        comma(out);
        for part in [b"\"", kind, b"\":{\"avg10\":", average, b",\"total\":", total, b"}"] {
            out.extend_from_slice(part);
        }
    }
}

/// `12.34`, as JSON may have it.
fn is_decimal(word: &[u8]) -> bool {
    let mut halves = word.splitn(2, |b| *b == b'.');
    let (whole, rest) = (halves.next().and_then(digits), halves.next());
    whole.is_some() && rest.is_none_or(|r| !r.is_empty() && r.len() <= 20 && r.iter().all(u8::is_ascii_digit))
}

/// v2's io.stat: `8:0 rbytes=1 wbytes=2 rios=3 ...`; a device without traffic has no numbers.
fn io_stat(text: &[u8], reads: &[u8], writes: &[u8], out: &mut Vec<u8>) {
    for line in text.split(|b| *b == b'\n') {
        // Linux 5.14 to 5.18 do not end the lines of idle disks: the last number before the keys is the disk's.
        let mut id: &[u8] = b"";
        let (mut read, mut written) = (None, None);
        for word in line.split(|b| *b == b' ') {
            if !word.is_empty() && word.iter().all(|b| b.is_ascii_digit() || *b == b':') {
                id = word;
            }
            read = read.or_else(|| word.strip_prefix(reads).and_then(digits));
            written = written.or_else(|| word.strip_prefix(writes).and_then(digits));
        }
        let (false, Some(read), Some(written)) = (id.is_empty(), read, written) else { continue };
        comma(out);
        for part in [b"\"", id, b"\":{\"Read\":", read, b",\"Write\":", written, b"}"] {
            out.extend_from_slice(part);
        }
    }
}

/// `8:0 Read 123` lines; Sync, Async, Discard and Total are left out.
fn blkio(text: &[u8], out: &mut Vec<u8>) {
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
            if !device.is_empty() {
                out.push(b'}');
            }
            comma(out);
            for part in [b"\"", id, b"\":{"] {
                out.extend_from_slice(part);
            }
            device = id;
        }
        for part in [b"\"", kind, b"\":", number] {
            out.extend_from_slice(part);
        }
    }
    if !device.is_empty() {
        out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use super::Reading as R;
    use super::*;

    /// What stands in a node: the value, and what is beside it.
    fn node(version: Version, readings: &[(Reading, &str)]) -> String {
        let (mut value, mut beside) = (b"{".to_vec(), Vec::new());
        for (reading, text) in readings {
            reading.render(version, text.as_bytes(), &mut value, &mut beside);
        }
        let text = String::from_utf8([&value[..], b"}", &beside].concat()).unwrap();
        let whole = format!("{{\"value\":{text}}}");
        serde_json::from_str::<serde_json::Value>(&whole).unwrap_or_else(|e| panic!("{e}: {whole}"));
        text
    }

    fn v1(reading: Reading, text: &str) -> String {
        node(Version::V1, &[(reading, text)])
    }

    fn v2(reading: Reading, text: &str) -> String {
        node(Version::V2, &[(reading, text)])
    }

    #[test]
    fn kernel_text_becomes_cgrouparchs_values() {
        assert_eq!(v1(R::CpuacctUsage, "12345\n"), r#"{"usage":12345}"#);
        assert_eq!(v1(R::MemoryCurrent, "0\n"), r#"{"current":0}"#);
        let io = "8:0 Read 5\n8:0 Write 6\n8:0 Sync 7\n8:0 Total 11\n8:16 Read 1\n8:16 Write 2\nTotal 14\n";
        assert_eq!(v1(R::BlkioBytes, io), r#"{"8:0":{"Read":5,"Write":6},"8:16":{"Read":1,"Write":2}}"#);
        assert_eq!(v1(R::BlkioBytes, "Total 0\n"), "{}");
        for odd in ["", "x", "-1", "01", "1 2", "\"", "123456789012345678901"] {
            assert_eq!(v1(R::CpuacctUsage, odd), "{}", "{odd:?}");
        }
    }

    #[test]
    fn v2_gives_the_same_values() {
        assert_eq!(v2(R::CpuTime, "usage_usec 12\nuser_usec 5\n"), r#"{"usage":12000}"#);
        assert_eq!(v2(R::CpuTime, "usage_usec 0\n"), r#"{"usage":0}"#);
        assert_eq!(v2(R::CpuTime, "user_usec 5\n"), "{}");
        assert_eq!(v2(R::MemoryCurrent, "4096\n"), r#"{"current":4096}"#);
        let io = "8:0 rbytes=5 wbytes=6 rios=1 wios=1 dbytes=0 dios=0\n253:1 \n8:16 rbytes=1 wbytes=2 rios=0 wios=0\n";
        assert_eq!(v2(R::IoBytes, io), r#"{"8:0":{"Read":5,"Write":6},"8:16":{"Read":1,"Write":2}}"#);
        assert_eq!(v2(R::IoBytes, "7:0 7:1 8:0 rbytes=5 wbytes=6\n"), r#"{"8:0":{"Read":5,"Write":6}}"#);
        assert_eq!((v2(R::IoBytes, ""), v2(R::IoBytes, "\"x rbytes=1 wbytes=2\n")), ("{}".into(), "{}".into()));
    }

    #[test]
    fn more_stands_beside_them_alike_on_both_versions() {
        let stat =
            "usage_usec 9\nuser_usec 5\nsystem_usec 4\nnr_periods 3\nnr_throttled 2\nthrottled_usec 7\nnr_bursts 0\n";
        let wanted = r#"{"usage":9000,"user":5000,"system":4000,"nr_periods":3,"nr_throttled":2,"throttled":7000}"#;
        assert_eq!(v2(R::CpuStat, stat), wanted);
        let one = [
            (R::CpuacctUsage, "9000\n"),
            (R::CpuacctStat, "user 1\nsystem 0\n"),
            (R::Throttling, "nr_periods 3\nnr_throttled 2\nthrottled_time 7000\n"),
        ];
        let wanted = r#"{"usage":9000,"user":10000000,"system":0,"nr_periods":3,"nr_throttled":2,"throttled":7000}"#;
        assert_eq!(node(Version::V1, &one), wanted);
        let wanted = r#"{"8:0":{"Read":5,"Write":6}},"operations":{"8:0":{"Read":1,"Write":2}}"#;
        assert_eq!(v2(R::IoStat, "8:0 rbytes=5 wbytes=6 rios=1 wios=2 dbytes=0 dios=0\n"), wanted);
        let one = [(R::BlkioBytes, "8:0 Read 5\n8:0 Write 6\n"), (R::BlkioOperations, "8:0 Read 1\n8:0 Write 2\n")];
        assert_eq!(node(Version::V1, &one), wanted);
    }

    #[test]
    fn memory_tells_what_it_is_made_of() {
        let two = [
            (R::MemoryCurrent, "30\n"),
            (R::MemoryPeak, "40\n"),
            (R::MemorySwap, "0\n"),
            (R::MemoryStat, "anon 10\nfile 20\nfile_mapped 7\nworkingset_refault_anon 3\nworkingset_refault_file 4\n"),
            (R::MemoryEvents, "low 0\nhigh 5\nmax 1\noom 2\noom_kill 3\noom_group_kill 9\n"),
        ];
        let wanted = r#"{"current":30,"peak":40,"swap":0,"anon":10,"file":20,"refaults":7},"events":{"low":0,"high":5,"max":1,"oom":2,"oom_kill":3}"#;
        assert_eq!(node(Version::V2, &two), wanted);
        let one = [
            (
                R::MemoryStat,
                "cache 1\nrss 1\ntotal_cache 20\ntotal_rss 10\ntotal_swap 0\ntotal_workingset_refault_file 7\n",
            ),
            (R::OomControl, "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
        ];
        assert_eq!(node(Version::V1, &one), r#"{"file":20,"anon":10,"swap":0,"refaults":7},"events":{"oom_kill":3}"#);
        // Before Linux 4.13 nobody counted.
        assert_eq!(v1(R::OomControl, "oom_kill_disable 0\nunder_oom 0\n"), "{}");
    }

    #[test]
    fn pressure_is_percent_and_microseconds() {
        let text = "some avg10=1.50 avg60=0.00 avg300=0.00 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        let wanted = r#"{},"pressure":{"some":{"avg10":1.50,"total":12},"full":{"avg10":0.00,"total":0}}"#;
        assert_eq!(v2(R::CpuPressure, text), wanted);
        for odd in ["some avg10=.5 total=1", "some avg10=1. total=1", "some avg10=01.5 total=1", "x avg10=1.5 total=1"]
        {
            assert_eq!(v2(R::IoPressure, odd), "{}", "{odd}");
        }
    }

    #[test]
    fn what_is_read_anyway_is_free_and_the_rest_is_asked_for() {
        let files = |collect| -> usize {
            let gauges = [Gauge::Cpu, Gauge::Io, Gauge::Memory, Gauge::Pids];
            gauges.iter().map(|g| g.readings(Version::V2, collect).len()).sum()
        };
        assert_eq!((files(Collect::PLAIN), files(Collect::LEAN)), (4, 4));
        assert_eq!(files(Collect::LEAN.with(Choice::Pressure)), 7);
        assert_eq!(files(Collect::all()), 12);
        let cpu = Gauge::Cpu.readings(Version::V1, Collect::all());
        assert_eq!(cpu, [R::CpuacctUsage, R::CpuacctStat, R::Throttling]);
        assert_eq!(Choice::ALL.map(|c| Choice::parse(c.name())), Choice::ALL.map(Some));
    }
}
