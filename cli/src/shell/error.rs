//! Errors: those that end the shell, and those the server sends, shown as psql shows them.

use std::fmt::Write as _;
use std::io;
use unicode_width::UnicodeWidthStr;

/// What ends the shell.
#[derive(Debug, thiserror::Error)]
pub enum ShellError {
    /// The address makes no sense.
    #[error("bad address: {0}")]
    Address(String),
    /// The server could not be reached, refused the session, or went away for good.
    #[error("cannot connect to {server}: {reason}")]
    Connect {
        /// Host and port.
        server: String,
        /// What the system or the server said.
        reason: String,
    },
    /// The session was lost.
    #[error("connection to {server} lost: {reason}")]
    Lost {
        /// Host and port.
        server: String,
        /// What the system said.
        reason: String,
    },
    /// A file or the terminal could not be read.
    #[error("cannot read {name}: {source}")]
    Input {
        /// What was read.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// The result could not be written.
    #[error("cannot write the result: {0}")]
    Output(io::Error),
}

impl ShellError {
    /// The exit code psql would end with: 2 for connections, 1 for the rest.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Address(_) | Self::Connect { .. } | Self::Lost { .. } => 2,
            Self::Input { .. } | Self::Output(_) => 1,
        }
    }
}

/// Columns of the query text shown around the place of an error.
const WINDOW_COLUMNS: usize = 60;
/// Columns shown to the right of that place at least.
const WINDOW_RIGHT_MIN: usize = 10;

/// An error or notice from the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerMessage {
    /// ERROR, FATAL, WARNING, NOTICE, …
    pub severity: String,
    /// SQLSTATE
    pub code: String,
    /// The message proper.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What to do.
    pub hint: Option<String>,
    /// Where it came from.
    pub context: Option<String>,
    /// Which character of the statement it is about, from 1.
    pub position: Option<usize>,
}

impl ServerMessage {
    /// The message as psql shows it; `sql` is the text that was sent.
    pub fn show(&self, sql: &str) -> String {
        let mut text = format!("{}:  {}\n", self.severity, self.message);
        if let Some(position) = self.position {
            text.push_str(&show_position(sql, position));
        }
        let more = [("DETAIL", &self.detail), ("HINT", &self.hint), ("CONTEXT", &self.context)];
        for (name, value) in more {
            if let Some(value) = value {
                writeln!(text, "{name}:  {value}").expect("writing to a string succeeds");
            }
        }
        text
    }
}

/// The line of the statement with a caret below the place, or nothing if there is no such place.
fn show_position(sql: &str, position: usize) -> String {
    let Some(index) = position.checked_sub(1) else {
        return String::new();
    };
    let chars: Vec<char> = sql.chars().collect();
    if index > chars.len() {
        return String::new();
    }
    let line_start = chars[..index].iter().rposition(|c| *c == '\n').map_or(0, |at| at + 1);
    let line_number = chars[..line_start].iter().filter(|c| **c == '\n').count() + 1;
    let line_end =
        chars[index..].iter().position(|c| *c == '\n').map_or(chars.len(), |n| index + n);
    let mut line: Vec<char> = chars[line_start..line_end].to_vec();
    while line.last() == Some(&'\r') {
        line.pop();
    }
    let mut column = (index - line_start).min(line.len());
    let (mut before, mut after) = ("", "");
    if line.len() > WINDOW_COLUMNS {
        let right = line.len().min((column + WINDOW_RIGHT_MIN).max(WINDOW_COLUMNS));
        let left = right - WINDOW_COLUMNS;
        if right < line.len() {
            after = "...";
        }
        if left > 0 {
            before = "...";
        }
        line = line[left..right].to_vec();
        column -= left;
    }
    let blank = |c: &char| if *c == '\t' { ' ' } else { *c };
    let shown: String = line.iter().map(blank).collect();
    let head = format!("LINE {line_number}: {before}");
    let ahead: String = shown.chars().take(column).collect();
    let indent = " ".repeat(head.width() + ahead.width());
    format!("{head}{shown}{after}\n{indent}^\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(position: usize) -> ServerMessage {
        ServerMessage {
            severity: "ERROR".to_owned(),
            code: "42703".to_owned(),
            message: "column \"x\" does not exist".to_owned(),
            position: Some(position),
            hint: Some("There is a column \"y\".".to_owned()),
            ..ServerMessage::default()
        }
    }

    #[test]
    fn a_caret_stands_below_the_place() {
        let shown = error(8).show("select x");
        let expected = "ERROR:  column \"x\" does not exist\nLINE 1: select x\n               ^\n\
                        HINT:  There is a column \"y\".\n";
        assert_eq!(shown, expected);
        let shown = error(11).show("select\n  äx\nfrom t");
        assert!(shown.contains("LINE 2:   äx\n           ^\n"), "{shown}");
    }

    #[test]
    fn long_lines_are_cut_around_the_place() {
        let sql = format!("select {}x{}", "1, ".repeat(40), ", 2".repeat(40));
        let shown = error(128).show(&sql);
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[1].starts_with("LINE 1: ...") && lines[1].ends_with("..."), "{shown}");
        let caret = lines[2].find('^').expect("has a caret");
        assert_eq!(&lines[1][caret..=caret], "x", "{shown}");
    }

    #[test]
    fn a_position_outside_of_the_text_shows_nothing() {
        assert!(!error(500).show("select x").contains("LINE"));
        assert!(!error(0).show("select x").contains("LINE"));
        assert!(error(9).show("select x").contains("LINE 1"));
    }
}
