//! Files with a line for each disk or name: flat (`8:0 1048576`) or nested (`8:0 rbps=1048576 wbps=max`).

use std::collections::BTreeMap;

/// Numbers by key and field; the field of a flat line is empty. `None` resets.
type Fields = BTreeMap<String, Option<String>>;

/// The lines of a file that are ours.
#[derive(Debug, Clone, PartialEq)]
pub struct Lines {
    /// What resets a number: `0`, `max` or `default`.
    pub reset: &'static str,
    pub lines: BTreeMap<String, Fields>,
}

impl Lines {
    pub fn new(reset: &'static str) -> Self {
        Self { reset, lines: BTreeMap::new() }
    }

    /// The keys and fields of a file's text, or of a mark's record.
    pub fn parse(text: &str) -> BTreeMap<String, BTreeMap<String, String>> {
        let line = |line: &str| {
            let mut words = line.split_whitespace();
            let key = words.next()?.to_owned();
            let fields = words.map(|word| match word.split_once('=') {
                Some((field, value)) => (field.to_owned(), value.to_owned()),
                None => (String::new(), word.to_owned()),
            });
            Some((key, fields.collect()))
        };
        text.lines().filter_map(line).collect()
    }

    /// Adds resets for what was ours and is not wanted any more; the line for all disks goes back to `default`.
    pub fn release(&mut self, ours: &str, default: &str) {
        for (key, fields) in Self::parse(ours) {
            let reset = (key == "default").then(|| default.to_owned());
            let line = self.lines.entry(key).or_default();
            for field in fields.into_keys() {
                line.entry(field).or_insert(reset.clone());
            }
        }
    }

    pub(super) fn match_in(&self, actual: &str) -> bool {
        let now = Self::parse(actual);
        self.lines.iter().all(|(key, fields)| self.line_matches(fields, now.get(key)))
    }

    fn line_matches(&self, fields: &Fields, now: Option<&BTreeMap<String, String>>) -> bool {
        fields.iter().all(|(field, want)| {
            let now = now.and_then(|n| n.get(field)).map(String::as_str);
            match want {
                Some(want) => now == Some(want) || (now.is_none() && want == self.reset),
                None => now.is_none_or(|n| n == self.reset),
            }
        })
    }

    pub(super) fn writes(&self, actual: &str) -> Vec<String> {
        let now = Self::parse(actual);
        let mut out = Vec::new();
        // The line for all disks comes first, and resets the others where the kernel is bfq.
        let first = self.lines.get_key_value("default");
        let resets = first.is_some_and(|(key, fields)| !self.line_matches(fields, now.get(key)));
        let others = self.lines.iter().filter(|(key, _)| *key != "default");
        for (key, fields) in first.into_iter().chain(others) {
            if self.line_matches(fields, now.get(key)) && (!resets || fields.values().all(Option::is_none)) {
                continue;
            }
            let mut line = key.clone();
            for (field, want) in fields {
                let value = want.as_deref().unwrap_or(self.reset);
                line += &if field.is_empty() { format!(" {value}") } else { format!(" {field}={value}") };
            }
            out.push(line);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knobs::Want;

    fn lines(reset: &'static str, wanted: &[(&str, &str, Option<&str>)]) -> Lines {
        let mut out = Lines::new(reset);
        for (key, field, value) in wanted {
            out.lines.entry((*key).into()).or_default().insert((*field).into(), value.map(Into::into));
        }
        out
    }

    #[test]
    fn flat_lines_touch_only_what_is_named() {
        let want = Want::Lines(lines("0", &[("8:0", "", Some("5")), ("8:16", "", None)]));
        assert!(want.matches("8:0 5\n7:0 9\n", 4096));
        assert!(!want.matches("8:0 5\n8:16 9\n", 4096));
        assert_eq!(want.writes("8:16 9"), ["8:0 5", "8:16 0"]);
    }

    #[test]
    fn nested_lines_go_out_whole() {
        let want = Want::Lines(lines("max", &[("8:0", "rbps", Some("100")), ("8:0", "wiops", None)]));
        assert!(want.matches("8:0 rbps=100 wbps=max riops=max wiops=max\n", 4096));
        assert!(want.matches("8:0 rbps=100\n", 4096) && !want.matches("", 4096));
        assert_eq!(want.writes("8:0 rbps=5 wiops=7"), ["8:0 rbps=100 wiops=max"]);
        // What is unlimited anyway needs no line in the file.
        assert!(Want::Lines(lines("max", &[("8:0", "rbps", Some("max"))])).matches("", 4096));
    }

    #[test]
    fn what_was_ours_is_released() {
        let mut want = lines("max", &[("8:0", "rbps", Some("100"))]);
        want.release("8:0 rbps=5 wbps=6\n8:16 riops=7", "");
        let want = Want::Lines(want);
        assert_eq!(want.writes("8:0 rbps=5 wbps=6\n8:16 riops=7"), ["8:0 rbps=100 wbps=max", "8:16 riops=max"]);
        let mut weight = lines("default", &[("default", "", Some("100"))]);
        weight.release("8:0 200", "100");
        assert_eq!(Want::Lines(weight).writes("default 50\n8:0 200\n"), ["default 100", "8:0 default"]);
        let mut disk = lines("default", &[("8:0", "", Some("200"))]);
        disk.release("default 50\n8:0 200", "100");
        assert_eq!(Want::Lines(disk).writes("default 50\n8:0 200"), ["default 100", "8:0 200"]);
    }
}
