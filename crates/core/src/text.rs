//! Text of others, shown: names, keys, values and messages that we did not write must not steer a terminal or forge a
//! line of the log.

use std::borrow::Cow;
use std::fmt::Write;

/// The text as one line that only shows: every character that steers a terminal, ends a line, turns the direction of
/// writing or is not seen at all is escaped, `\x1b`, `\u202e` or `\U000e0041`. Backslashes stay, but for one that would
/// read as such an escape: it is `\x5c`. So two different texts are never shown alike.
pub fn shown(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|c| is_unseen(c) || c == '\\') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for (at, c) in text.char_indices() {
        match c {
            '\\' if reads_as_escape(&text[at + 1..]) => escape(&mut out, c),
            c if is_unseen(c) => escape(&mut out, c),
            c => out.push(c),
        }
    }
    out.into()
}

/// JSON text as it may be printed: the same value, in which no character but the line's end steers, hides or turns.
pub fn shown_json(json: &str) -> Cow<'_, str> {
    let stays = |c: char| !is_unseen(c) || c == '\n';
    if json.chars().all(stays) {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match c {
            c if stays(c) => out.push(c),
            // Below a space, only tabulators and returns between values are JSON.
            c if c < ' ' => out.push(' '),
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.into()
}

/// The first so many characters, and how long it is.
pub fn shortened(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}... ({} bytes)", &text[..end], text.len()).into(),
        None => text.into(),
    }
}

fn escape(out: &mut String, c: char) {
    let _ = match u32::from(c) {
        n @ ..=0xff => write!(out, "\\x{n:02x}"),
        n @ ..=0xffff => write!(out, "\\u{n:04x}"),
        n => write!(out, "\\U{n:08x}"),
    };
}

/// Is this what would follow the backslash of one of our escapes?
fn reads_as_escape(rest: &str) -> bool {
    let digits = match rest.as_bytes().first() {
        Some(b'x') => 2,
        Some(b'u') => 4,
        Some(b'U') => 8,
        _ => return false,
    };
    let Some(hex) = rest.get(1..=digits).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit())) else { return false };
    let c = u32::from_str_radix(hex, 16).ok().and_then(char::from_u32);
    // Whoever reads does not tell capital digits from small ones.
    c.is_some_and(|c| is_unseen(c) || c == '\\')
}

/// Control characters, those of Unicode's format and separator classes, what is drawn with no width, and private ones,
/// whose look is anybody's.
fn is_unseen(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    matches!(c,
        '\u{80}'..='\u{9f}' | '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}'
        | '\u{890}'..='\u{891}' | '\u{8e2}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{e000}'..='\u{f8ff}' | '\u{fdd0}'..='\u{fdef}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
        | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{fffe}'..='\u{ffff}' | '\u{110bd}' | '\u{110cd}'
        | '\u{13430}'..='\u{1345f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{10ffff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a reader would make of it.
    fn read(shown: &str) -> String {
        let mut out = String::new();
        let mut rest = shown;
        while let Some(c) = rest.chars().next() {
            let digits = match rest.as_bytes().get(..2) {
                Some(b"\\x") => 2,
                Some(b"\\u") => 4,
                Some(b"\\U") => 8,
                _ => 0,
            };
            let value = rest.get(2..2 + digits).filter(|hex| digits > 0 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
            let value = value.and_then(|hex| char::from_u32(u32::from_str_radix(hex, 16).ok()?));
            match value.filter(|c| is_unseen(*c) || *c == '\\') {
                Some(c) => {
                    out.push(c);
                    rest = &rest[2 + digits..];
                }
                None => {
                    out.push(c);
                    rest = &rest[c.len_utf8()..];
                }
            }
        }
        out
    }

    /// Mostly what makes trouble.
    fn hostile() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            any::<String>(),
            proptest::char::range('\0', '\u{ff}').prop_map(String::from),
            proptest::char::range('\u{2000}', '\u{2070}').prop_map(String::from),
            "\\\\{1,3}([xuU][0-9a-f]{0,8})?",
            "[a-z/]{0,6}",
        ];
        proptest::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn nothing_steers_and_nothing_is_lost(text in hostile()) {
            let shown = shown(&text);
            prop_assert!(!shown.chars().any(is_unseen) && !shown.chars().any(char::is_control), "{shown:?}");
            prop_assert_eq!(read(&shown), text);
        }

        #[test]
        fn json_stays_the_same_value(text in hostile(), pretty in any::<bool>()) {
            let value = serde_json::json!({ text.clone(): [text] });
            let json = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let json = format!("\t{json}\r\n");
            let shown = shown_json(&json);
            prop_assert!(!shown.chars().any(|c| is_unseen(c) && c != '\n'), "{shown:?}");
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        }
    }

    #[test]
    fn examples() {
        let cases = [
            ("plain, ünïcödé 日本", "plain, ünïcödé 日本"),
            ("a\x1b[31mb\r\nc\x07", "a\\x1b[31mb\\x0d\\x0ac\\x07"),
            ("\u{9b}31m\u{202e}\u{2066}\u{200b}", "\\x9b31m\\u202e\\u2066\\u200b"),
            ("tag \u{e0041}", "tag \\U000e0041"),
            // What is no escape of ours stays, as systemd's names and Rust's quotes.
            ("dev-x\\x2dy \\u{1b} \\n \\\\ C:\\x", "dev-x\\x2dy \\u{1b} \\n \\\\ C:\\x"),
            ("\\x1b \\x1B", "\\x5cx1b \\x5cx1B"),
            ("\\\x1b", "\\\\x1b"),
        ];
        for (text, wanted) in cases {
            assert_eq!(shown(text), wanted);
        }
        assert!(matches!(shown("plain"), Cow::Borrowed(_)));
    }
}
