//! The terminal: plain lines, and colour where it is wanted.

use std::io::{IsTerminal, Write};

/// A line on standard output. A closed pipe (`| head`) is no error; false says that nobody reads any more.
pub(crate) fn out(text: &str) -> bool {
    writeln!(std::io::stdout().lock(), "{text}").is_ok()
}

/// A line on standard error.
pub(crate) fn err(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Does this stream want colour? See https://no-color.org.
pub(crate) fn colour(stream: &impl IsTerminal) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    set("CLICOLOR_FORCE") || (stream.is_terminal() && !set("NO_COLOR"))
}

/// Colours that mean something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint(bool);

impl Paint {
    pub(crate) fn stdout() -> Self {
        Self(colour(&std::io::stdout()))
    }
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self(false)
    }
    fn code(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
    pub(crate) fn green(self, text: &str) -> String {
        self.code("32", text)
    }
    pub(crate) fn yellow(self, text: &str) -> String {
        self.code("33", text)
    }
    pub(crate) fn red(self, text: &str) -> String {
        self.code("31", text)
    }
    pub(crate) fn dim(self, text: &str) -> String {
        self.code("2", text)
    }
    pub(crate) fn bold(self, text: &str) -> String {
        self.code("1", text)
    }
}
