//! Cuts input into SQL statements and backslash commands, line by line, the way psql does:
//! semicolons inside quotes, dollar quotes, comments and parentheses do not end a statement.

/// What the scanner is inside of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Plain,
    /// `'…'`; with `E'…'` a backslash escapes the next character.
    SingleQuote { escapes: bool },
    /// `"…"`
    DoubleQuote,
    /// `$tag$…$tag$`, with the whole delimiter.
    DollarQuote(String),
    /// `/* … */`, which nests.
    BlockComment { depth: u32 },
}

/// A complete piece of input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A statement with its semicolon.
    Statement(String),
    /// A backslash command without the backslash, to the end of its line.
    Meta(String),
}

/// Gathers lines until a statement is complete.
///
/// # Invariants
/// - `statement` holds exactly what was read since the last complete statement.
#[derive(Debug, Default)]
pub struct Splitter {
    statement: String,
    state: State,
    parens: u32,
}

impl Splitter {
    /// Takes in one line without its line end; answers the pieces it completes.
    pub fn push_line(&mut self, line: &str) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut at = 0;
        while let Some(c) = line[at..].chars().next() {
            let rest = &line[at..];
            if self.state == State::Plain {
                if rest.starts_with("--") {
                    break;
                }
                if let Some(command) = rest.strip_prefix('\\') {
                    pieces.push(Piece::Meta(command.trim().to_owned()));
                    if line[..at].trim().is_empty() {
                        // Nothing of this line belongs to the statement, nor does its end.
                        return pieces;
                    }
                    break;
                }
                if c == ';' && self.parens == 0 {
                    pieces.extend(self.take().map(|sql| Piece::Statement(sql + ";")));
                    at += 1;
                    continue;
                }
            }
            let taken = self.step(rest, c);
            self.statement.push_str(&rest[..taken]);
            at += taken;
        }
        if !self.statement.is_empty() {
            self.statement.push('\n');
        }
        pieces
    }

    /// Follows the state over the next token; answers how many bytes it has.
    fn step(&mut self, rest: &str, c: char) -> usize {
        match &self.state {
            State::Plain => self.step_plain(rest, c),
            State::SingleQuote { escapes: true } if c == '\\' => {
                1 + rest[1..].chars().next().map_or(0, char::len_utf8)
            }
            // A doubled quote closes and opens again, which comes to the same.
            State::SingleQuote { .. } if c == '\'' => self.end_token(1),
            State::DoubleQuote if c == '"' => self.end_token(1),
            State::DollarQuote(delimiter) if rest.starts_with(delimiter.as_str()) => {
                let length = delimiter.len();
                self.end_token(length)
            }
            State::BlockComment { depth } => {
                let depth = *depth;
                if rest.starts_with("/*") {
                    self.state = State::BlockComment { depth: depth + 1 };
                    2
                } else if rest.starts_with("*/") && depth > 1 {
                    self.state = State::BlockComment { depth: depth - 1 };
                    2
                } else if rest.starts_with("*/") {
                    self.end_token(2)
                } else {
                    c.len_utf8()
                }
            }
            State::SingleQuote { .. } | State::DoubleQuote | State::DollarQuote(_) => c.len_utf8(),
        }
    }

    fn end_token(&mut self, length: usize) -> usize {
        self.state = State::Plain;
        length
    }

    fn step_plain(&mut self, rest: &str, c: char) -> usize {
        match c {
            '\'' => self.state = State::SingleQuote { escapes: self.after_e() },
            '"' => self.state = State::DoubleQuote,
            '(' => self.parens += 1,
            ')' => self.parens = self.parens.saturating_sub(1),
            '$' if !self.after_word() => {
                if let Some(delimiter) = dollar_delimiter(rest) {
                    self.state = State::DollarQuote(delimiter.to_owned());
                    return delimiter.len();
                }
            }
            '/' if rest.starts_with("/*") => {
                self.state = State::BlockComment { depth: 1 };
                return 2;
            }
            _ => {}
        }
        c.len_utf8()
    }

    /// Whether the quote that comes next is that of an `E'…'` string.
    fn after_e(&self) -> bool {
        let mut before = self.statement.chars().rev();
        matches!(before.next(), Some('e' | 'E')) && !before.next().is_some_and(is_word)
    }

    fn after_word(&self) -> bool {
        self.statement.chars().next_back().is_some_and(is_word)
    }

    /// Takes what was gathered, complete or not; `None` if it is blank.
    pub fn take(&mut self) -> Option<String> {
        self.state = State::Plain;
        self.parens = 0;
        let statement = std::mem::take(&mut self.statement);
        let trimmed = statement.trim();
        (!trimmed.is_empty()).then(|| trimmed.to_owned())
    }

    /// What was gathered so far.
    pub fn pending(&self) -> &str {
        self.statement.trim()
    }

    /// Whether nothing but blanks was gathered and no quote is open.
    pub fn is_idle(&self) -> bool {
        self.state == State::Plain && self.pending().is_empty()
    }

    /// The character that tells in the prompt what is still open.
    pub fn prompt_char(&self) -> char {
        match self.state {
            State::Plain if self.parens > 0 => '(',
            State::Plain if self.is_idle() => '=',
            State::Plain => '-',
            State::SingleQuote { .. } => '\'',
            State::DoubleQuote => '"',
            State::DollarQuote(_) => '$',
            State::BlockComment { .. } => '*',
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// The delimiter of a dollar quote at the beginning of the text: `$$` or `$tag$`.
fn dollar_delimiter(text: &str) -> Option<&str> {
    let tag_end = text[1..].find('$')? + 1;
    let tag = &text[1..tag_end];
    let starts_well = !tag.starts_with(|c: char| c.is_ascii_digit());
    let is_tag = tag.chars().all(|c| c.is_alphanumeric() || c == '_');
    (starts_well && is_tag).then(|| &text[..=tag_end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(text: &str) -> (Vec<Piece>, Splitter) {
        let mut splitter = Splitter::default();
        let pieces = text.lines().flat_map(|line| splitter.push_line(line)).collect();
        (pieces, splitter)
    }

    fn statements(text: &str) -> Vec<String> {
        let (pieces, _) = split(text);
        let statement = |piece| match piece {
            Piece::Statement(sql) => sql,
            Piece::Meta(command) => panic!("unexpected command {command}"),
        };
        pieces.into_iter().map(statement).collect()
    }

    #[test]
    fn semicolons_end_statements() {
        assert_eq!(statements("select 1; select 2;;"), ["select 1;", "select 2;"]);
        assert_eq!(statements("select\n  1\n;"), ["select\n  1;"]);
    }

    #[test]
    fn semicolons_inside_something_do_not() {
        let cases = [
            "select 'a;b', 'it''s; so'",
            "select \"a;b\"",
            r"select E'a\';b'",
            "select $$a;b$$ || $tag$c;$$;d$tag$",
            "select 1 /* a; /* nested; */ b; */ + 2",
            "create rule r as on insert to t do (select 1; select 2)",
            "select 'two\nlines;'",
        ];
        for case in cases {
            let text = format!("{case};");
            assert_eq!(statements(&text), [text.as_str()]);
        }
    }

    #[test]
    fn what_looks_like_a_quote_but_is_none() {
        // A plain string has no escapes, parameters and names with dollars are no dollar quotes.
        assert_eq!(statements(r"select 'a\'; select 2;").len(), 2);
        assert_eq!(statements("select $1; select $2;").len(), 2);
        assert_eq!(statements("select a$b$c; select 2;").len(), 2);
        assert_eq!(statements("select table'x\\'; select 2;").len(), 2);
    }

    #[test]
    fn comments_to_the_end_of_the_line_are_dropped() {
        assert_eq!(statements("select 1 -- one; two\n + 2;"), ["select 1 \n + 2;"]);
        assert_eq!(statements("-- nothing;\n"), Vec::<String>::new());
        assert_eq!(statements("select '--'; select 2;"), ["select '--';", "select 2;"]);
    }

    #[test]
    fn backslashes_begin_commands_outside_of_quotes() {
        let (pieces, splitter) = split("select 1 \\gx\n\\d t  \nselect '\\d';");
        let command = |text: &str| Piece::Meta(text.to_owned());
        assert_eq!(pieces[..2], [command("gx"), command("d t")]);
        assert_eq!(pieces[2], Piece::Statement("select 1 \nselect '\\d';".to_owned()));
        assert!(splitter.is_idle());
    }

    #[test]
    fn the_prompt_tells_what_is_open() {
        let cases = [
            ("", '='),
            ("   ", '='),
            ("select 1;", '='),
            ("select", '-'),
            ("select (1", '('),
            ("select 'a", '\''),
            ("select \"a", '"'),
            ("select $x$ a", '$'),
            ("select /* a", '*'),
        ];
        for (text, expected) in cases {
            assert_eq!(split(text).1.prompt_char(), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics_and_taking_resets(text in "[a-zé';\"$/*\\\\()\n -]{0,60}") {
            let (_, mut splitter) = split(&text);
            splitter.take();
            prop_assert!(splitter.is_idle());
            prop_assert_eq!(splitter.prompt_char(), '=');
        }
    }
}
