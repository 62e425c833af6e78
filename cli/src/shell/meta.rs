//! Backslash commands.

use super::error::ShellError;
use super::script::run_file;
use super::session::{Session, Success};
use super::splitter::Splitter;
use std::path::Path;

const HELP: &str = "\
General
  \\q                     leave
  \\g                     run the statement typed so far, or the last one again
  \\gx                    the same, with a line for each value
  \\p                     print the statement typed so far
  \\r                     forget the statement typed so far
  \\i FILE                run a file
  \\echo TEXT             print a text
  \\conninfo              about the connection
  \\set ON_ERROR_STOP on  end scripts at their first error

Tables
  \\d                     list tables
  \\d NAME                describe a table
  \\dt [PATTERN]          list tables
  \\di [PATTERN]          list indexes
  \\l                     list databases

Printing
  \\a                     aligned or unaligned
  \\t [on|off]            rows only
  \\x [on|off]            a line for each value
  \\timing [on|off]       time of each statement
";

/// Carries out a backslash command, given without its backslash.
pub async fn run_meta(
    session: &mut Session,
    splitter: &mut Splitter,
    text: &str,
) -> Result<Success, ShellError> {
    // As in psql, a semicolon at the end does no harm.
    let text = text.trim_end_matches(';').trim();
    let (name, argument) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let argument = argument.trim();
    match name {
        "q" | "quit" => return Ok(Success::Quit),
        "g" | "gx" => return run_again(session, splitter, name == "gx").await,
        "p" => {
            let pending = splitter.pending().to_owned();
            session.print(&format!("{pending}\n"))?;
        }
        "r" => {
            splitter.take();
        }
        "i" | "include" => {
            // Boxed, since a file may include files.
            return Box::pin(run_file(session, Path::new(unquote(argument)))).await;
        }
        "echo" => session.print(&format!("{}\n", unquote(argument)))?,
        "conninfo" => session.conninfo()?,
        "set" => return set(session, argument),
        "d" if argument.is_empty() => return session.list_relations().await,
        "d" | "d+" => return session.describe(argument).await,
        "dt" => return session.list_tables(argument).await,
        "di" => return session.list_indexes(argument).await,
        "l" | "list" => return session.list_databases().await,
        "a" => toggle_alignment(session)?,
        "t" => {
            let on = switch(session.style.tuples_only, argument);
            session.style.tuples_only = on;
            tell(session, &format!("Tuples only is {}.", on_off(on)))?;
        }
        "x" => {
            let on = switch(session.style.expanded, argument);
            session.style.expanded = on;
            tell(session, &format!("Expanded display is {}.", on_off(on)))?;
        }
        "timing" => {
            let on = switch(session.timing, argument);
            session.timing = on;
            tell(session, &format!("Timing is {}.", on_off(on)))?;
        }
        "?" => session.print(HELP)?,
        _ => {
            session.complain(&format!("invalid command \\{name}\nTry \\? for help.\n"))?;
            return Ok(Success::No);
        }
    }
    Ok(Success::Yes)
}

async fn run_again(
    session: &mut Session,
    splitter: &mut Splitter,
    expanded: bool,
) -> Result<Success, ShellError> {
    let statement = splitter.take().unwrap_or_else(|| session.last_statement.clone());
    if statement.is_empty() {
        return Ok(Success::Yes);
    }
    let before = session.style.expanded;
    session.style.expanded = before || expanded;
    let success = session.run(&statement).await;
    session.style.expanded = before;
    success
}

fn toggle_alignment(session: &mut Session) -> Result<(), ShellError> {
    use super::table::Format;
    let (format, name) = match session.style.format {
        Format::Aligned => (Format::Unaligned, "unaligned"),
        Format::Unaligned | Format::Csv => (Format::Aligned, "aligned"),
    };
    session.style.format = format;
    tell(session, &format!("Output format is {name}."))
}

/// `\set NAME VALUE` or `-v NAME=VALUE`.
fn set(session: &mut Session, argument: &str) -> Result<Success, ShellError> {
    let (name, value) = argument.split_once(char::is_whitespace).unwrap_or((argument, ""));
    set_variable(session, name, unquote(value.trim()))
}

/// Sets the only variable there is.
pub fn set_variable(session: &mut Session, name: &str, value: &str) -> Result<Success, ShellError> {
    if name != "ON_ERROR_STOP" {
        session.complain(&format!("unknown variable \"{name}\"; there is ON_ERROR_STOP\n"))?;
        return Ok(Success::No);
    }
    session.on_error_stop = !matches!(value, "off" | "false" | "no" | "0");
    Ok(Success::Yes)
}

fn tell(session: &mut Session, text: &str) -> Result<(), ShellError> {
    if session.quiet { Ok(()) } else { session.print(&format!("{text}\n")) }
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn switch(before: bool, argument: &str) -> bool {
    match argument {
        "on" | "true" | "1" => true,
        "off" | "false" | "0" => false,
        _ => !before,
    }
}

fn unquote(text: &str) -> &str {
    let inner = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\''));
    inner.unwrap_or(text)
}
