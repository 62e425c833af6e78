//! A client's connection: it moves to the next server when one fails, and sorts failures by what is
//! known afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_postgres::{Client, Config, SimpleQueryMessage};

use crate::args::Isolation;
use crate::db::connect;
use crate::error::BenchError;
use crate::runtime::pause;

/// How long one transaction may take before its client gives up the connection.
pub const TRANSACTION_LIMIT: Duration = Duration::from_secs(20);
/// Pause after a server that could not be reached.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// The server does not know whether the transaction committed.
const CODE_UNKNOWN: &str = "40003";
/// Under this name transactions are counted whose client gave up.
const GAVE_UP: &str = "gave up";
/// Under this name transactions are counted whose connection was lost.
const CONNECTION: &str = "connection";

/// How a transaction ended for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// It was acknowledged.
    Acknowledged,
    /// It certainly did not happen; why, as an SQLSTATE or in a word.
    Refused(String),
    /// Nobody can tell; why.
    Unknown(String),
}

/// Why a statement failed: its SQLSTATE, if a server sent one.
#[derive(Debug)]
pub struct Failure(pub Option<String>);

impl Failure {
    /// What is known after it.
    pub fn told(&self, committing: bool) -> Told {
        let code = self.0.as_deref();
        let name = code.unwrap_or(CONNECTION).to_owned();
        let unclear = code.is_none_or(|code| code == CODE_UNKNOWN || session_is_gone(code));
        match committing && unclear {
            true => Told::Unknown(name),
            false => Told::Refused(name),
        }
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self(error.code().map(|code| code.code().to_owned()))
    }
}

/// Rows as text; NULL is empty.
pub type Rows = Vec<Vec<String>>;

/// What a transaction needs of its session. The simulator has one of its own.
pub trait Link: Send {
    /// What is sent from here on may commit: a failure of it may be anything.
    fn commits(&mut self);

    /// Runs a statement: its rows, and how many it touched.
    ///
    /// # Errors
    /// Why it failed.
    fn run(&mut self, sql: &str) -> impl Future<Output = Result<(Rows, u64), Failure>> + Send;
}

/// A transaction that can be sent over a [`Link`].
pub trait Attempt {
    /// Sends it, up to its commit.
    ///
    /// # Errors
    /// Where it failed.
    fn send(&mut self, link: &mut impl Link) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Commits a block.
///
/// # Errors
/// Why it failed.
pub async fn commit(link: &mut impl Link) -> Result<(), Failure> {
    link.commits();
    link.run("COMMIT").await.map(drop)
}

/// The link over a connection.
struct Connection<'a> {
    client: &'a Client,
    committing: bool,
}

impl Link for Connection<'_> {
    fn commits(&mut self) {
        self.committing = true;
    }

    async fn run(&mut self, sql: &str) -> Result<(Rows, u64), Failure> {
        let (mut rows, mut touched) = (Rows::new(), 0);
        for message in self.client.simple_query(sql).await? {
            match message {
                SimpleQueryMessage::Row(row) => {
                    let cells = (0..row.len()).map(|at| row.get(at).unwrap_or_default().to_owned());
                    rows.push(cells.collect());
                }
                SimpleQueryMessage::CommandComplete(count) => touched = count,
                _ => {}
            }
        }
        Ok((rows, touched))
    }
}

/// A client's session.
pub struct Session {
    servers: Arc<Vec<Config>>,
    level: Isolation,
    /// Index of the server in use.
    server: usize,
    client: Option<Client>,
    /// The number of the connection, and where the next comes from.
    process: u64,
    processes: Arc<AtomicU64>,
}

impl Session {
    /// Not connected yet; to this server first.
    pub fn new(
        servers: &Arc<Vec<Config>>,
        level: Isolation,
        server: usize,
        processes: &Arc<AtomicU64>,
    ) -> Self {
        Self {
            servers: servers.clone(),
            level,
            server: server % servers.len().max(1),
            client: None,
            process: 0,
            processes: processes.clone(),
        }
    }

    /// The server in use.
    pub fn server(&self) -> usize {
        self.server
    }

    /// The number of the connection in use.
    pub fn process(&self) -> u64 {
        self.process
    }

    /// Makes sure that there is a connection; whether there is one now. If not it has moved on to
    /// the next server.
    pub async fn ready(&mut self) -> bool {
        if self.client.as_ref().is_some_and(|client| !client.is_closed()) {
            return true;
        }
        if let Ok(client) = self.open().await {
            self.process = self.processes.fetch_add(1, Ordering::Relaxed);
            self.client = Some(client);
            return true;
        }
        self.move_on();
        pause(RECONNECT_PAUSE).await;
        false
    }

    async fn open(&self) -> Result<Client, BenchError> {
        let client = connect(&self.servers[self.server]).await?;
        // For statements outside of blocks.
        let level = self.level.sql();
        let sql = format!("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL {level}");
        let set = client.batch_execute(&sql).await;
        set.map_err(|error| BenchError::statement(sql, &error))?;
        Ok(client)
    }

    fn move_on(&mut self) {
        self.client = None;
        self.server = (self.server + 1) % self.servers.len().max(1);
    }

    /// Runs one transaction, once; what came of it. Afterwards the session is ready for the next,
    /// or has moved on.
    pub async fn run(&mut self, attempt: &mut impl Attempt) -> Told {
        let Some(client) = &self.client else { return Told::Refused(CONNECTION.to_owned()) };
        let mut link = Connection { client, committing: false };
        let sent = tokio::time::timeout(TRANSACTION_LIMIT, attempt.send(&mut link)).await;
        let committing = link.committing;
        let told = match &sent {
            Ok(Ok(())) => Told::Acknowledged,
            Ok(Err(failure)) => failure.told(committing),
            Err(_) if committing => Told::Unknown(GAVE_UP.to_owned()),
            Err(_) => Told::Refused(GAVE_UP.to_owned()),
        };
        let usable = match sent {
            Ok(Ok(())) => true,
            Ok(Err(Failure(Some(code)))) => !session_is_gone(&code),
            _ => false,
        };
        if !usable {
            self.move_on();
        } else if told != Told::Acknowledged {
            let rollback = client.batch_execute("ROLLBACK");
            if !matches!(tokio::time::timeout(TRANSACTION_LIMIT, rollback).await, Ok(Ok(()))) {
                self.move_on();
            }
        }
        told
    }
}

/// Connection exceptions, and servers that shut down.
fn session_is_gone(code: &str) -> bool {
    code.starts_with("08") || code.starts_with("57P")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_while_it_commits_is_unknown_unless_the_server_says_more() {
        for (code, committing, unknown) in [
            (None, false, false),
            (None, true, true),
            (Some("40003"), true, true),
            (Some("08006"), true, true),
            (Some("57P01"), true, true),
            (Some("57P01"), false, false),
            (Some("40001"), true, false),
            (Some("23505"), true, false),
        ] {
            let told = Failure(code.map(str::to_owned)).told(committing);
            assert_eq!(matches!(told, Told::Unknown(_)), unknown, "{code:?} {committing}");
        }
    }
}
