//! A refused document: where, what, what is allowed, and the nearest known name.

use std::fmt;

use crate::json;

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
        DocumentError { path: self.to_string(), line: None, value: Some(value), why, steps: self.0.clone() }
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
        for step in &self.0 {
            if step.contains('.') {
                write!(f, "[{step:?}]")?;
            } else {
                write!(f, ".{step}")?;
            }
        }
        Ok(())
    }
}

/// The known name most like `name`, if any is like it at all.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|k| (strsim::jaro_winkler(&name.to_lowercase(), k), k))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k)
}
