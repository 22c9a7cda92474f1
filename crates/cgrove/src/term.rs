//! The terminal: the only place that writes to standard output and standard error. Whatever a line holds is escaped on
//! its way out, but for colours that [`Paint`] put there; lines end where a command ends them.

#![allow(clippy::disallowed_methods, reason = "this is where text is escaped")]

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::{IsTerminal, Stderr, Write};
use std::sync::LazyLock;

use cgrove_core::text;
use serde::Serialize;

/// One line on standard output. A closed pipe (`| head`) is no error; false says that nobody reads any more.
pub(crate) fn out(line: &str) -> bool {
    put(&written(line))
}

/// Several lines on standard output.
pub(crate) fn page(page: &Page) -> bool {
    put(&page.0.join("\n"))
}

/// JSON on standard output.
pub(crate) fn json(value: &impl Serialize) -> bool {
    json_text(&serde_json::to_string(value).unwrap_or_default())
}

/// JSON over several lines, for people.
pub(crate) fn json_pretty(value: &impl Serialize) -> bool {
    json_text(&serde_json::to_string_pretty(value).unwrap_or_default())
}

/// What is JSON already.
pub(crate) fn json_text(json: &str) -> bool {
    put(&text::shown_json(json))
}

/// Our own generated text, which holds nothing of others: completions and manual pages.
pub(crate) fn generated(text: &[u8]) {
    let _ = std::io::stdout().lock().write_all(text);
}

fn put(text: &str) -> bool {
    writeln!(std::io::stdout().lock(), "{text}").is_ok()
}

/// A line on standard error.
pub(crate) fn err(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", written(line));
}

/// A panic's message may quote what others wrote, too.
pub(crate) fn escape_panics() {
    std::panic::set_hook(Box::new(|panic| err(&panic.to_string())));
}

/// Lines for people; each is escaped when it is added, so that no text in it makes another line.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Page(Vec<String>);

impl Page {
    pub(crate) fn line(&mut self, line: impl AsRef<str>) {
        self.0.push(written(line.as_ref()));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// Standard error for the log, whose records are escaped before they are formatted.
pub(crate) fn for_log() -> Stderr {
    std::io::stderr()
}

/// Is standard output a terminal?
pub(crate) fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Does standard error want colour?
pub(crate) fn err_has_colour() -> bool {
    colour(&std::io::stderr())
}

/// Does this stream want colour? See https://no-color.org.
fn colour(stream: &impl IsTerminal) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    set("CLICOLOR_FORCE") || (stream.is_terminal() && !set("NO_COLOR"))
}

/// What stands for the start of a colour's code until the line is written. Others' text cannot hold it: nobody else
/// knows the number, which is another one in each process.
static MARK: LazyLock<String> =
    LazyLock::new(|| format!("\u{f8ff}{:016x}\u{f8ff}", RandomState::new().hash_one("paint")));

/// A line as it is written: escaped, with colours where [`Paint`] marked them.
fn written(line: &str) -> String {
    let mut parts = line.split(MARK.as_str());
    let mut out = text::shown(parts.next().unwrap_or_default()).into_owned();
    for part in parts {
        let (code, rest) = part.split_once('m').unwrap_or(("0", part));
        out.push_str(&format!("\x1b[{code}m{}", text::shown(rest)));
    }
    out
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
        if self.0 { format!("{mark}{code}m{text}{mark}0m", mark = *MARK) } else { text.to_owned() }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_colours_are_written_and_others_are_shown() {
        let paint = Paint(true);
        let line = format!("{} {}", paint.red("a\x1b[2Jb"), "\x1b[31mred\u{f8ff}0123456789abcdef\u{f8ff}31m\n");
        let wanted = "\x1b[31ma\\x1b[2Jb\x1b[0m \\x1b[31mred\\uf8ff0123456789abcdef\\uf8ff31m\\x0a";
        assert_eq!(written(&line), wanted);
        let nested = paint.bold(&paint.dim("x"));
        assert_eq!(written(&nested), "\x1b[1m\x1b[2mx\x1b[0m\x1b[0m");
    }

    #[test]
    fn a_page_has_as_many_lines_as_were_added() {
        let mut page = Page::default();
        page.line("one\ntwo");
        page.line(Paint::none().bold("three"));
        assert_eq!(page.to_string(), "one\\x0atwo\nthree");
    }
}
