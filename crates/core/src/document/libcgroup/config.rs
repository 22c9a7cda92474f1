//! cgconfig.conf: nested blocks of `name = value;`.

use super::{File, Import, SyntaxError};
use crate::ids::Controller;

pub(super) fn read(file: &File, import: &mut Import) -> Result<(), SyntaxError> {
    let mut parser = Parser { tokens: tokens(file)?, at: 0, file, last_line: 1 };
    while let Some(word) = parser.peek() {
        let line = parser.line();
        match word.as_str() {
            "group" => parser.group(import)?,
            "mount" | "namespace" | "systemd" => {
                let what = parser.word("a block")?;
                parser.skip_block()?;
                import.note(file, line, format!("{what} block: left out; cgrove uses what is mounted"));
            }
            "template" => {
                parser.word("a block")?;
                let name = parser.word("a name")?;
                parser.skip_block()?;
                import.note(file, line, format!("template {name}: left out; write its groups out"));
            }
            "default" => {
                parser.word("a block")?;
                parser.skip_block()?;
                import.note(file, line, "default permissions: left out; a document has none".into());
            }
            other => return Err(parser.error(format!("group, mount, template or default expected, not {other:?}"))),
        }
    }
    Ok(())
}

struct Parser<'a> {
    tokens: Vec<(String, usize)>,
    at: usize,
    file: &'a File<'a>,
    last_line: usize,
}

impl Parser<'_> {
    fn group(&mut self, import: &mut Import) -> Result<(), SyntaxError> {
        self.word("group")?;
        let line = self.line();
        let name = self.word("the group's name")?;
        self.expect("{")?;
        let path = match import.group(&name) {
            Ok(path) => Some(path),
            Err(why) => {
                import.note(self.file, line, why);
                None
            }
        };
        loop {
            let line = self.line();
            match self.word("a controller or }")?.as_str() {
                "}" => return Ok(()),
                "perm" => {
                    self.skip_block()?;
                    import.note(
                        self.file,
                        line,
                        format!("permissions of {name}: left out; a document has none, groups are root's"),
                    );
                }
                controller => {
                    match Controller::parse(controller) {
                        Some(known) => import.controllers.insert(known),
                        None => import.note(self.file, line, format!("{controller}: left out, not a controller")),
                    }
                    self.expect("{")?;
                    while self.peek().map(String::as_str) != Some("}") {
                        let line = self.line();
                        let key = self.word("a parameter")?;
                        self.expect("=")?;
                        let value = self.word("a value")?;
                        self.expect(";")?;
                        if let Some(Err(why)) = path.as_ref().map(|path| import.parameter(path, &key, &value)) {
                            import.note(self.file, line, why);
                        }
                    }
                    self.expect("}")?;
                }
            }
        }
    }

    fn skip_block(&mut self) -> Result<(), SyntaxError> {
        self.expect("{")?;
        let mut depth = 1;
        while depth > 0 {
            match self.word("}")?.as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    fn peek(&self) -> Option<&String> {
        self.tokens.get(self.at).map(|(word, _)| word)
    }

    fn line(&self) -> usize {
        self.tokens.get(self.at).map_or(self.last_line, |(_, line)| *line)
    }

    fn word(&mut self, what: &str) -> Result<String, SyntaxError> {
        match self.tokens.get(self.at) {
            Some((word, line)) => {
                self.at += 1;
                self.last_line = *line;
                Ok(word.clone())
            }
            None => Err(self.error(format!("{what} expected, but the file ends"))),
        }
    }

    fn expect(&mut self, wanted: &str) -> Result<(), SyntaxError> {
        if self.peek().map(String::as_str) == Some(wanted) {
            return self.word(wanted).map(|_| ());
        }
        let found = self.peek().map_or("the end of the file".to_owned(), |w| format!("{w:?}"));
        Err(self.error(format!("{wanted:?} expected, not {found}")))
    }

    fn error(&self, what: String) -> SyntaxError {
        SyntaxError { file: self.file.name.into(), line: self.line(), what }
    }
}

/// Words, quoted strings (which may span lines), and `{ } = ;`, each with its line. `#` begins a comment.
fn tokens(file: &File) -> Result<Vec<(String, usize)>, SyntaxError> {
    let mut out = Vec::new();
    let mut line = 1;
    let mut rest = file.text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\n' => line += 1,
            c if c.is_whitespace() => {}
            '#' => while rest.next_if(|c| *c != '\n').is_some() {},
            '{' | '}' | '=' | ';' => out.push((c.to_string(), line)),
            '"' => {
                let start = line;
                let mut text = String::new();
                loop {
                    match rest.next() {
                        Some('"') => break,
                        Some(c) => {
                            line += usize::from(c == '\n');
                            text.push(c);
                        }
                        None => {
                            let what = "the quote is not closed".into();
                            return Err(SyntaxError { file: file.name.into(), line: start, what });
                        }
                    }
                }
                out.push((text, start));
            }
            c => {
                let mut word = c.to_string();
                while let Some(c) = rest.next_if(|c| !c.is_whitespace() && !"{}=;#\"".contains(*c)) {
                    word.push(c);
                }
                out.push((word, line));
            }
        }
    }
    Ok(out)
}
