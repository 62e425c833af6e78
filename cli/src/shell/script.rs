//! Input that is not typed: files, pipes, `-c`.

use super::error::ShellError;
use super::meta::run_meta;
use super::session::{ScriptPlace, Session, Success};
use super::splitter::{Piece, Splitter};
use std::io::{BufRead, BufReader};
use std::path::Path;

/// How deep files may include files.
const DEPTH_MAX: usize = 64;
/// What a script ends with at its first error if ON_ERROR_STOP is set, as in psql.
pub const CODE_SCRIPT_STOPPED: u8 = 3;

/// Runs a file; `-` is standard input.
pub async fn run_file(session: &mut Session, path: &Path) -> Result<Success, ShellError> {
    let name = path.display().to_string();
    if path.as_os_str() == "-" {
        let input = BufReader::new(std::io::stdin());
        return run_lines(session, input, Some("<stdin>".to_owned())).await;
    }
    if session.scripts.len() >= DEPTH_MAX {
        session.complain(&format!("{name}: files include each other too deeply\n"))?;
        return Ok(Success::No);
    }
    match std::fs::File::open(path) {
        Ok(file) => run_lines(session, BufReader::new(file), Some(name)).await,
        Err(error) => {
            session.complain(&format!("{name}: {error}\n"))?;
            Ok(Success::No)
        }
    }
}

/// Runs lines until they end, someone quits, or an error stops them. `name` stands in errors.
pub async fn run_lines(
    session: &mut Session,
    mut input: impl BufRead + Send,
    name: Option<String>,
) -> Result<Success, ShellError> {
    let depth = session.scripts.len();
    let shown = name.clone().unwrap_or_else(|| "standard input".to_owned());
    session.scripts.extend(name.map(|file| ScriptPlace { file, line: 0 }));
    let is_named = session.scripts.len() > depth;
    let mut splitter = Splitter::default();
    let mut success = Success::Yes;
    let mut line = Vec::new();
    while success == Success::Yes {
        line.clear();
        let read = input.read_until(b'\n', &mut line);
        let length = read.map_err(|source| ShellError::Input { name: shown.clone(), source })?;
        if length == 0 {
            break;
        }
        if is_named && let Some(place) = session.scripts.last_mut() {
            place.line += 1;
        }
        let text = String::from_utf8_lossy(&line);
        success = run_line(session, &mut splitter, text.trim_end_matches(['\n', '\r'])).await?;
    }
    if success == Success::Yes
        && let Some(rest) = splitter.take()
    {
        let result = session.run(&rest).await?;
        success = stop_if_asked(session, result);
    }
    session.scripts.truncate(depth);
    // Quitting ends this script, not the one that included it.
    Ok(if success == Success::Quit { Success::Yes } else { success })
}

/// Runs what one line completes.
pub async fn run_line(
    session: &mut Session,
    splitter: &mut Splitter,
    line: &str,
) -> Result<Success, ShellError> {
    for piece in splitter.push_line(line) {
        let result = match piece {
            Piece::Statement(sql) => session.run(&sql).await?,
            Piece::Meta(text) => run_meta(session, splitter, &text).await?,
        };
        let result = stop_if_asked(session, result);
        if matches!(result, Success::Quit | Success::End(_)) {
            return Ok(result);
        }
    }
    Ok(Success::Yes)
}

/// A failure ends a script if ON_ERROR_STOP is set, and does nothing else.
fn stop_if_asked(session: &Session, result: Success) -> Success {
    match result {
        Success::No if session.on_error_stop && !session.interactive => {
            Success::End(CODE_SCRIPT_STOPPED)
        }
        Success::No | Success::Yes => Success::Yes,
        Success::Quit => Success::Quit,
        Success::End(code) => Success::End(code),
    }
}

/// Runs the text of a `-c`: one backslash command, or SQL that is sent as it is.
pub async fn run_command(session: &mut Session, text: &str) -> Result<Success, ShellError> {
    match text.trim_start().strip_prefix('\\') {
        Some(command) => run_meta(session, &mut Splitter::default(), command).await,
        None => session.run(text).await,
    }
}
