//! A refused document: where, what, what is allowed, and the nearest known name.

use std::fmt;

use crate::json;
use crate::text::shortened;

/// Why a document is refused. Displays as one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct DocumentError {
    /// JSON path, `$.groups.web.knobs`; empty when the whole document is meant.
    pub path: String,
    /// 1-based line of that place, where it is known.
    pub line: Option<usize>,
    /// The offending value, shortened.
    pub value: Option<String>,
    /// What is wrong and what is allowed.
    pub why: String,
    steps: Vec<String>,
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        if let Some(value) = &self.value {
            write!(f, "{value}: ")?;
        }
        f.write_str(&self.why)
    }
}

impl DocumentError {
    pub(super) fn whole(why: String) -> Self {
        let why = shortened(&why, EXPLAINED).into_owned();
        Self { path: String::new(), line: None, value: None, why, steps: Vec::new() }
    }

    pub(super) fn syntax(e: &serde_json::Error) -> Self {
        let mut error = Self::whole(format!("not valid JSON: {e}"));
        error.line = Some(e.line());
        error
    }

    pub(super) fn with_line(mut self, text: &str) -> Self {
        self.line = self.line.or_else(|| json::line_of(text, &self.steps));
        self
    }
}

/// A place in a document, for messages.
#[derive(Debug, Clone, Default)]
pub struct Place(Vec<String>);

impl Place {
    #[must_use]
    pub fn down(&self, key: &str) -> Self {
        let mut steps = self.0.clone();
        steps.push(key.into());
        Self(steps)
    }

    pub fn refuse(&self, value: String, why: String) -> DocumentError {
        let value = Some(shortened(&value, QUOTED).into_owned());
        let why = shortened(&why, EXPLAINED).into_owned();
        DocumentError { path: self.to_string(), line: None, value, why, steps: self.0.clone() }
    }

    /// An unknown key: what is allowed, and which known one is nearest.
    pub fn unknown<'a>(&self, key: &str, what: &str, known: impl Iterator<Item = &'a str> + Clone) -> DocumentError {
        let list = known.clone().collect::<Vec<_>>().join(", ");
        let hint = nearest(key, known).map(|n| format!("; did you mean {n}?")).unwrap_or_default();
        let allowed = if list.len() < 200 { format!("; allowed: {list}") } else { String::new() };
        self.down(key).refuse(format!("{key:?}"), format!("unknown {what}{hint}{allowed}"))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("$")?;
        for step in self.0.iter().map(|step| shortened(step, QUOTED)) {
            if step.contains('.') {
                write!(f, "[{step:?}]")?;
            } else {
                write!(f, ".{step}")?;
            }
        }
        Ok(())
    }
}

/// Longer than any name that is allowed.
const QUOTED: usize = 160;
/// Longer than anything that we have to say.
const EXPLAINED: usize = 1000;

/// The known name most like `name`, if any is like it at all. What is longer than any name is like none: the
/// comparison takes as long as the text is.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > QUOTED {
        return None;
    }
    let name = name.to_lowercase();
    known
        .map(|k| (strsim::jaro_winkler(&name, k), k))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::parse;

    #[test]
    fn what_is_wrong_is_quoted_in_part() {
        let long = "x".repeat(900_000);
        let pages = [
            format!(r#"{{"groups": {{"a": {{"knobs": {{"{long}": 1}}}}}}}}"#),
            format!(r#"{{"groups": {{"a": {{"{long}": 1}}}}}}"#),
            format!(r#"{{"groups": {{"{long}": {{}}}}}}"#),
            format!(r#"{{"groups": {{"a": {{"knobs": {{"cpu.weight": "{long}"}}}}}}}}"#),
            format!(r#"{{"groups": {{"a": {{"knobs": {{"cpuset.cpus": "{long}"}}}}}}}}"#),
            format!(r#"{{"groups": {{"a": {{"knobs": {{"devices.allow": ["{long}"]}}}}}}}}"#),
            format!(r#"{{"groups": {{"a": {{"files": {{"{long}/": "1"}}}}}}}}"#),
            format!(r#"{{"groups": {{"a": {{"pid_files": ["{long}"]}}}}}}"#),
            format!(r#"{{"groups": {{"a": {{"processes": [{{"exe": "{long}"}}]}}}}}}"#),
            format!(r#"{{"controllers": ["{long}"], "groups": {{}}}}"#),
            format!(r#"{{"{long}": {{}}}}"#),
            format!(r#"{{"cpu": {{"sub_cgroup": {{"{long}": {{}}}}}}}}"#),
            format!(r#"{{"{0}": 1, "{0}": 2}}"#, &long[..400_000]),
        ];
        for page in pages {
            let error = parse(page.as_bytes()).unwrap_err().to_string();
            assert!(error.len() < 2000, "{} bytes: {}", error.len(), &error[..300]);
        }
    }

    #[test]
    fn mistakes_without_end_are_listed_to_a_point() {
        let keys: Vec<String> = (0..60_000).map(|i| format!(r#""wait{i}": 1"#)).collect();
        let page = format!(r#"{{"cpu": {{"sub_cgroup": {{"a": {{"conf": {{{}}}}}}}}}}}"#, keys.join(", "));
        let warnings = parse(page.as_bytes()).unwrap().warnings;
        assert_eq!((warnings.len(), warnings[100].as_str()), (101, "more like these are not listed"));
        assert_eq!(nearest(&"memory.max".repeat(100), ["memory.max"].into_iter()), None);
    }
}
