//! Input that a person types: line editing and history.

use super::error::ShellError;
use super::script::run_line;
use super::session::{Session, Success};
use super::splitter::Splitter;
use rustyline::error::ReadlineError;
use rustyline::{Config, DefaultEditor};
use std::path::PathBuf;

/// The file in the home folder that keeps the history.
const HISTORY_FILE: &str = ".quorate_history";
/// Statements the history keeps.
const HISTORY_LENGTH: usize = 10_000;

/// Reads and runs statements until the person leaves; answers the exit code.
pub async fn run_interactive(session: &mut Session) -> Result<u8, ShellError> {
    session.interactive = true;
    if !session.quiet {
        session.greet()?;
    }
    let history = std::env::home_dir().map(|home| home.join(HISTORY_FILE));
    let mut editor = new_editor(history.as_ref())?;
    let mut splitter = Splitter::default();
    let mut typed = String::new();
    loop {
        let prompt = session.prompt(splitter.prompt_char());
        let (back, line) = read_line(editor, prompt).await?;
        editor = back;
        match line {
            Ok(line) => {
                typed.push_str(&line);
                let success = run_line(session, &mut splitter, &line).await?;
                if splitter.is_idle() {
                    remember(&mut editor, &typed, history.as_ref(), session)?;
                    typed.clear();
                } else {
                    typed.push('\n');
                }
                match success {
                    Success::Quit => return Ok(0),
                    Success::End(code) => return Ok(code),
                    Success::Yes | Success::No => {}
                }
            }
            Err(ReadlineError::Interrupted) => {
                // Ctrl-C forgets what was typed; it never leaves.
                splitter.take();
                typed.clear();
            }
            Err(ReadlineError::Eof) => {
                session.print("\\q\n")?;
                return Ok(0);
            }
            Err(error) => return Err(input_error(error)),
        }
    }
}

fn new_editor(history: Option<&PathBuf>) -> Result<DefaultEditor, ShellError> {
    let config = Config::builder()
        .max_history_size(HISTORY_LENGTH)
        .and_then(|builder| builder.history_ignore_dups(true))
        .map_err(input_error)?
        .build();
    let mut editor = DefaultEditor::with_config(config).map_err(input_error)?;
    if let Some(path) = history.filter(|path| path.exists())
        && let Err(error) = editor.load_history(path)
    {
        eprintln!("the history in {} cannot be read: {error}", path.display());
    }
    Ok(editor)
}

/// Reads a line on a thread that may block; the editor comes back with it.
async fn read_line(
    mut editor: DefaultEditor,
    prompt: String,
) -> Result<(DefaultEditor, Result<String, ReadlineError>), ShellError> {
    let read = tokio::task::spawn_blocking(move || {
        let line = editor.readline(&prompt);
        (editor, line)
    });
    read.await.map_err(|error| ShellError::Input {
        name: "the terminal".to_owned(),
        source: std::io::Error::other(error),
    })
}

fn remember(
    editor: &mut DefaultEditor,
    typed: &str,
    history: Option<&PathBuf>,
    session: &mut Session,
) -> Result<(), ShellError> {
    let typed = typed.trim();
    if typed.is_empty() {
        return Ok(());
    }
    let added = editor.add_history_entry(typed);
    let saved = match history {
        Some(path) if matches!(added, Ok(true)) => editor.append_history(path),
        _ => Ok(()),
    };
    match added.and(saved) {
        Ok(()) => Ok(()),
        Err(error) => session.complain(&format!("the history was not kept: {error}\n")),
    }
}

fn input_error(error: ReadlineError) -> ShellError {
    ShellError::Input { name: "the terminal".to_owned(), source: std::io::Error::other(error) }
}
