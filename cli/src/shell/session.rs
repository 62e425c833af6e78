//! A session: runs statements, prints their results, knows the settings.

use super::error::{ServerMessage, ShellError};
use super::options::ShellOptions;
use super::table::{Column, Format, Row, Style, Table};
use super::wire::{Answer, Target, TxState, Wire};
use futures::FutureExt;
use std::io::{self, Write};
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Where results and errors go.
pub struct Console {
    /// Results.
    pub out: Box<dyn Write + Send>,
    /// Errors and notices.
    pub err: Box<dyn Write + Send>,
}

impl Console {
    /// Standard output and standard error.
    pub fn standard() -> Self {
        Self { out: Box::new(io::stdout()), err: Box::new(io::stderr()) }
    }
}

/// Whether a statement or command succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Success {
    /// It did.
    Yes,
    /// It failed, and the reason was printed.
    No,
    /// `\q`: the script, or the shell a person types into, is to end.
    Quit,
    /// The shell must end at once with this code.
    End(u8),
}

/// A place in a script, to be named in errors.
#[derive(Clone, Debug)]
pub struct ScriptPlace {
    /// Its file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
}

/// A session and its settings.
pub struct Session {
    wire: Wire,
    target: Target,
    console: Console,
    interrupts: Signal,
    /// Whether the statement that runs was asked to end.
    cancelled: bool,
    /// How results are printed.
    pub style: Style,
    /// Whether the time of each statement is printed.
    pub timing: bool,
    /// Whether command tags are left out.
    pub quiet: bool,
    /// Whether a script ends at its first error.
    pub on_error_stop: bool,
    /// Whether a person types.
    pub interactive: bool,
    /// The place in the scripts that run, the innermost last.
    pub scripts: Vec<ScriptPlace>,
    /// The statement that ran last, for `\g` on an empty line.
    pub last_statement: String,
}

/// What a script ends with after Ctrl-C, as programs ended by that signal do.
const CODE_INTERRUPTED: u8 = 130;

/// Results of a query that are not printed.
type Collected = Result<Vec<Row>, ServerMessage>;

#[expect(clippy::disallowed_methods, reason = "a shell tells how long a statement really took")]
fn now() -> Instant {
    Instant::now()
}

impl Session {
    /// Connects.
    pub async fn open(options: &ShellOptions, console: Console) -> Result<Self, ShellError> {
        let target = Target::parse(&options.url)?;
        let wire = Wire::connect(&target).await?;
        let interrupts = signal(SignalKind::interrupt())
            .map_err(|source| ShellError::Input { name: "signals".to_owned(), source })?;
        let format = match (options.csv, options.unaligned) {
            (true, _) => Format::Csv,
            (false, true) => Format::Unaligned,
            (false, false) => Format::Aligned,
        };
        let style = Style { format, tuples_only: options.tuples_only, expanded: options.expanded };
        Ok(Self {
            wire,
            target,
            console,
            interrupts,
            cancelled: false,
            style,
            timing: false,
            quiet: options.quiet,
            on_error_stop: false,
            interactive: false,
            scripts: Vec::new(),
            last_statement: String::new(),
        })
    }

    /// Prints to the results.
    pub fn print(&mut self, text: &str) -> Result<(), ShellError> {
        let written = self.console.out.write_all(text.as_bytes());
        written.and_then(|()| self.console.out.flush()).map_err(ShellError::Output)
    }

    /// Prints to the errors, with the place in the script if one runs.
    pub fn complain(&mut self, text: &str) -> Result<(), ShellError> {
        let place = match self.scripts.last() {
            Some(script) => format!("quorate:{}:{}: ", script.file, script.line),
            None => String::new(),
        };
        let written = self.console.err.write_all(format!("{place}{text}").as_bytes());
        written.and_then(|()| self.console.err.flush()).map_err(ShellError::Output)
    }

    /// Runs statements and prints what comes of them.
    pub async fn run(&mut self, sql: &str) -> Result<Success, ShellError> {
        sql.clone_into(&mut self.last_statement);
        let start = now();
        let result = self.run_and_print(sql).await;
        match result {
            Err(ShellError::Lost { server, reason }) => self.reconnect(server, reason).await,
            Ok(success) => {
                if self.timing {
                    self.print_time(start.elapsed())?;
                }
                Ok(success)
            }
            Err(other) => Err(other),
        }
    }

    fn print_time(&mut self, time: Duration) -> Result<(), ShellError> {
        let ms = time.as_secs_f64() * 1000.0;
        self.print(&format!("Time: {ms:.3} ms\n"))
    }

    async fn run_and_print(&mut self, sql: &str) -> Result<Success, ShellError> {
        self.cancelled = false;
        // A Ctrl-C from before this statement is not meant for it.
        while self.interactive && self.interrupts.recv().now_or_never().is_some() {}
        self.wire.query(sql).await?;
        let mut table: Option<Table> = None;
        let mut success = Success::Yes;
        loop {
            let answer = match self.answer_or_interrupt().await? {
                Some(answer) => answer,
                None => return Ok(Success::End(CODE_INTERRUPTED)),
            };
            match answer {
                Answer::Columns(columns) => {
                    let column =
                        |c: super::wire::WireColumn| Column { name: c.name, numeric: c.numeric };
                    let columns = columns.into_iter().map(column).collect();
                    table = Some(Table { columns, ..Table::default() });
                }
                Answer::Row(row) => {
                    if let Some(table) = &mut table {
                        table.rows.push(row);
                    }
                }
                Answer::Done(tag) => self.print_result(table.take(), &tag)?,
                Answer::CopyOut(data) => {
                    let written = self.console.out.write_all(&data);
                    written.map_err(ShellError::Output)?;
                }
                Answer::Error(error) => {
                    success = Success::No;
                    // What came before the error is lost in psql, too.
                    table = None;
                    self.complain(&error.show(sql))?;
                }
                Answer::Notice(notice) => self.complain(&notice.show(sql))?,
                Answer::Empty => {}
                Answer::Ready if self.cancelled && !self.interactive => {
                    return Ok(Success::End(CODE_INTERRUPTED));
                }
                Answer::Ready => return Ok(success),
            }
        }
    }

    /// The next answer; while waiting for it, Ctrl-C asks the server to cancel. `None` if the
    /// shell is to end.
    async fn answer_or_interrupt(&mut self) -> Result<Option<Answer>, ShellError> {
        loop {
            let canceller = self.wire.canceller();
            tokio::select! {
                answer = self.wire.answer() => return answer.map(Some),
                _ = self.interrupts.recv() => {}
            }
            if self.cancelled && !self.interactive {
                return Ok(None);
            }
            self.cancelled = true;
            match canceller.cancel().await {
                Ok(()) => self.complain("Cancel request sent\n")?,
                Err(reason) => self.complain(&format!("Cancel request failed: {reason}\n"))?,
            }
        }
    }

    fn print_result(&mut self, table: Option<Table>, tag: &str) -> Result<(), ShellError> {
        let has_table = table.is_some();
        if let Some(table) = table {
            self.print(&table.show(self.style))?;
        }
        let changes = ["INSERT", "UPDATE", "DELETE", "MERGE"];
        let shows_tag = !has_table || changes.iter().any(|word| tag.starts_with(word));
        if shows_tag && !self.quiet {
            self.print(&format!("{tag}\n"))?;
        }
        Ok(())
    }

    /// Tries once to get the session back; a script ends in any case.
    async fn reconnect(&mut self, server: String, reason: String) -> Result<Success, ShellError> {
        if !self.interactive {
            return Err(ShellError::Lost { server, reason });
        }
        self.complain(&format!("The connection to {server} was lost ({reason}).\n"))?;
        self.wire = Wire::connect(&self.target).await?;
        self.complain(&format!("Connected again, to {}.\n", self.wire.server()))?;
        Ok(Success::No)
    }

    /// Runs a query of our own and answers its rows.
    pub async fn collect(&mut self, sql: &str) -> Result<Collected, ShellError> {
        self.wire.query(sql).await?;
        let (mut rows, mut failure) = (Vec::new(), None);
        loop {
            match self.wire.answer().await? {
                Answer::Row(row) => rows.push(row),
                Answer::Error(error) => failure = Some(error),
                Answer::Ready => return Ok(failure.map_or(Ok(rows), Err)),
                Answer::Columns(_)
                | Answer::Done(_)
                | Answer::Empty
                | Answer::CopyOut(_)
                | Answer::Notice(_) => {}
            }
        }
    }

    /// What the prompt shows, with the character that tells what is still open.
    pub fn prompt(&self, open: char) -> String {
        let state = match self.wire.state {
            TxState::Idle => "",
            TxState::Open => "*",
            TxState::Failed => "!",
        };
        format!("{}{open}{state}> ", self.target.database)
    }

    /// Greets.
    pub fn greet(&mut self) -> Result<(), ShellError> {
        let (server, version) = (self.wire.server(), self.wire.server_version.clone());
        let text =
            format!("Connected to {server}, server version {version}.\nType \"\\?\" for help.\n\n");
        self.print(&text)
    }

    /// Tells about the connection.
    pub fn conninfo(&mut self) -> Result<(), ShellError> {
        let text = format!(
            "You are connected to database \"{}\" as user \"{}\" at {} (server version {}).\n",
            self.target.database,
            self.target.user,
            self.wire.server(),
            self.wire.server_version,
        );
        self.print(&text)
    }

    /// Ends the session.
    pub async fn close(self) {
        self.wire.close().await;
    }
}
