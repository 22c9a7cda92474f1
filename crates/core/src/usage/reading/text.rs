//! What the kernel's files say, as members of a node's JSON.

use super::Reading;
use crate::actual::Version;

/// What a line begins with, the key that its number gets, and the zeros that make it one of the member's unit.
type Keys = &'static [(&'static [u8], &'static [u8], &'static [u8])];

const CPU_STAT: Keys = &[
    (b"usage_usec ", b"usage", b"000"),
    (b"user_usec ", b"user", b"000"),
    (b"system_usec ", b"system", b"000"),
    (b"nr_periods ", b"nr_periods", b""),
    (b"nr_throttled ", b"nr_throttled", b""),
    (b"throttled_usec ", b"throttled", b"000"),
];
const THROTTLING: Keys = &[
    (b"nr_periods ", b"nr_periods", b""),
    (b"nr_throttled ", b"nr_throttled", b""),
    (b"throttled_time ", b"throttled", b""),
];
const EVENTS: Keys = &[
    (b"low ", b"low", b""),
    (b"high ", b"high", b""),
    (b"max ", b"max", b""),
    (b"oom ", b"oom", b""),
    (b"oom_kill ", b"oom_kill", b""),
];

impl Reading {
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
            Self::CpuStat => members(value, text, CPU_STAT),
            Self::CpuacctStat => {
                members(value, text, &[(b"user ", b"user", b"0000000"), (b"system ", b"system", b"0000000")]);
            }
            Self::Throttling => members(value, text, THROTTLING),
            Self::BlkioBytes => blkio(text, value),
            Self::BlkioOperations => aside(beside, b"operations", |out| blkio(text, out)),
            Self::IoBytes => io_stat(text, b"rbytes=", b"wbytes=", value),
            Self::IoStat => {
                io_stat(text, b"rbytes=", b"wbytes=", value);
                aside(beside, b"operations", |out| io_stat(text, b"rios=", b"wios=", out));
            }
            Self::MemoryStat => memory_stat(version, text, value),
            Self::MemoryEvents => {
                aside(beside, b"events", |out| members(out, text, EVENTS));
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

/// The lines of a file; the last one need not end.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = memchr::memchr_iter(b'\n', text).chain(text.last().is_some_and(|b| *b != b'\n').then_some(text.len()));
    let mut from = 0;
    ends.map(move |end| text.get(std::mem::replace(&mut from, end + 1)..end).unwrap_or_default())
}

/// The number after a key, in a file of lines `key number`.
fn field<'a>(text: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    lines(text).find_map(|line| line.strip_prefix(key)).and_then(digits)
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
fn members(out: &mut Vec<u8>, text: &[u8], keys: Keys) {
    for line in lines(text) {
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
    for line in lines(text) {
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
    for line in lines(text) {
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
    for line in lines(text) {
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
    for line in lines(text) {
        let Some(end) = line.iter().position(|b| *b == b' ') else { continue };
        let (id, rest) = line.split_at(end);
        let (key, number): (&[u8], _) = match rest {
            [b' ', b'R', b'e', b'a', b'd', b' ', number @ ..] => (b"\"Read\":", number),
            [b' ', b'W', b'r', b'i', b't', b'e', b' ', number @ ..] => (b"\"Write\":", number),
            _ => continue,
        };
        if id.is_empty() || !id.iter().all(|b| b.is_ascii_digit() || *b == b':') {
            continue;
        }
        let Some(number) = digits(number) else { continue };
        // Byte by byte, which is shorter than a call.
        if id.iter().eq(device) {
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
        out.extend_from_slice(key);
        out.extend_from_slice(number);
    }
    if !device.is_empty() {
        out.push(b'}');
    }
}
