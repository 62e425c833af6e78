//! `quorate sql`: a shell like psql over plain Postgres protocol, so that it also works with
//! PostgreSQL.
//!
//! # The life of a line
//! 1. [`interactive`] or [`script`] reads it.
//! 2. [`splitter`] says which statements and backslash commands it completes.
//! 3. [`session`] sends a statement through [`wire`] and gathers the answers; [`meta`] carries
//!    out backslash commands.
//! 4. [`table`] prints results, [`error`] errors.

mod describe;
pub mod error;
pub mod interactive;
pub mod meta;
mod options;
pub mod script;
pub mod session;
pub mod splitter;
pub mod table;
#[cfg(test)]
mod tests;
pub mod wire;

pub use error::ShellError;
pub use options::{DEFAULT_URL, ShellOptions};

use interactive::run_interactive;
use meta::set_variable;
use script::{run_command, run_file, run_lines};
use session::{Console, Session, Success};
use std::io::{BufRead, BufReader, IsTerminal};

/// Exit code after a failed `-c`, as in psql.
const CODE_COMMAND_FAILED: u8 = 1;

/// Runs the shell on the process's own terminal or pipes; answers the exit code. An error is to
/// be printed in one line and has an exit code of its own.
pub async fn run(options: ShellOptions) -> Result<u8, ShellError> {
    let stdin = std::io::stdin();
    let input: Option<Box<dyn BufRead + Send>> =
        if stdin.is_terminal() { None } else { Some(Box::new(BufReader::new(stdin))) };
    let result = run_with(options, input, Console::standard()).await;
    match result {
        // Whoever read our output has seen enough.
        Err(ShellError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(0),
        other => other,
    }
}

/// Runs the shell on any input (none: a person types) and output.
pub async fn run_with(
    options: ShellOptions,
    input: Option<Box<dyn BufRead + Send>>,
    console: Console,
) -> Result<u8, ShellError> {
    let mut session = Session::open(&options, console).await?;
    let code = run_session(&mut session, &options, input).await;
    session.close().await;
    code
}

async fn run_session(
    session: &mut Session,
    options: &ShellOptions,
    input: Option<Box<dyn BufRead + Send>>,
) -> Result<u8, ShellError> {
    for variable in &options.variables {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        if set_variable(session, name, value)? == Success::No {
            return Ok(CODE_COMMAND_FAILED);
        }
    }
    if options.commands.is_empty() && options.files.is_empty() {
        let Some(input) = input else {
            return run_interactive(session).await;
        };
        return Ok(exit_code(run_lines(session, input, None).await?));
    }
    let mut code = 0;
    for command in &options.commands {
        match run_command(session, command).await? {
            Success::Yes => code = 0,
            Success::Quit => return Ok(0),
            Success::End(code) => return Ok(code),
            Success::No => code = CODE_COMMAND_FAILED,
        }
        if code != 0 && session.on_error_stop {
            return Ok(code);
        }
    }
    for file in &options.files {
        match run_file(session, file).await? {
            Success::Yes | Success::Quit => code = 0,
            Success::End(code) => return Ok(code),
            Success::No => code = CODE_COMMAND_FAILED,
        }
    }
    Ok(code)
}

fn exit_code(success: Success) -> u8 {
    match success {
        Success::Yes | Success::Quit => 0,
        Success::No => CODE_COMMAND_FAILED,
        Success::End(code) => code,
    }
}
