//! Connections: opening them, counting statements, and what an error means for a transaction.

use crate::args::Isolation;
use crate::error::{BenchError, explain};
use crate::runtime;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio_postgres::config::Host;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, NoTls, Row, Statement};

/// How long opening one connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a new session may take to be ready.
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);
const _: () = assert!(
    CONNECT_TIMEOUT.as_secs() < SESSION_TIMEOUT.as_secs(),
    "a session begins with its connection"
);

/// How long data sent may stay unacknowledged before a connection counts as lost: a server behind
/// a partition answers nothing, not even that it is gone.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);
/// How long a connection may be silent before it is probed, and how often.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// The serialization failure of the SQL standard, and Postgres's deadlock: safe to repeat.
const CODES_RETRY: [&str; 2] = ["40001", "40P01"];
/// The server does not know whether the transaction committed.
const CODE_UNKNOWN: &str = "40003";
/// Classes and codes after which the session is gone: connection exceptions, shutdowns.
const CODES_SESSION_GONE: [&str; 3] = ["57P01", "57P02", "57P03"];

/// Parameters of a statement.
pub type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Why one attempt of a transaction did not finish.
#[derive(Debug)]
pub enum TxError {
    /// The driver or the server said so.
    Db(tokio_postgres::Error),
    /// A concurrent transaction took the row this one had found (READ COMMITTED only).
    Overtaken,
    /// A row that must exist was not there.
    Missing(String),
}

impl From<tokio_postgres::Error> for TxError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Db(error)
    }
}

/// What a terminal must do after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing was committed: repeat with the same input.
    Retry,
    /// Whether it was committed is not known: count it, never repeat it.
    Unknown,
    /// The session is gone before COMMIT was sent: reconnect and repeat.
    Reconnect,
    /// Failed for good.
    Failed,
}

/// A session of a terminal, with its statement counter.
pub struct Conn {
    client: Client,
    begin: &'static str,
    statements: AtomicU64,
    /// COMMIT (or a statement that commits by itself) was sent and not answered.
    committing: AtomicBool,
}

impl Conn {
    /// Opens a session whose transactions have the given isolation level.
    pub async fn open(config: &Config, isolation: Isolation) -> Result<Self, BenchError> {
        let client = connect(config).await?;
        Ok(Self {
            client,
            begin: isolation.begin(),
            statements: AtomicU64::new(0),
            committing: AtomicBool::new(false),
        })
    }

    /// Gives statements outside explicit transactions the isolation level, too.
    pub async fn set_default_isolation(&self, isolation: Isolation) -> Result<(), BenchError> {
        let level = isolation.sql();
        let sql = format!("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL {level}");
        let set = self.client.batch_execute(&sql).await;
        set.map_err(|error| BenchError::statement("setting the isolation level", &error))
    }

    /// Prepares a statement with the parameter types given, so that the server infers nothing.
    pub async fn prepare(&self, sql: &str, types: &[Type]) -> Result<Statement, BenchError> {
        let prepared = self.client.prepare_typed(sql, types).await;
        prepared.map_err(|error| BenchError::statement(format!("preparing {sql:?}"), &error))
    }

    /// Begins a transaction.
    pub async fn begin(&self) -> Result<(), TxError> {
        self.count();
        self.committing.store(false, Ordering::Relaxed);
        Ok(self.client.batch_execute(self.begin).await?)
    }

    /// Commits; an error from here on leaves the outcome unknown unless the server says more.
    pub async fn commit(&self) -> Result<(), TxError> {
        self.count();
        self.committing.store(true, Ordering::Relaxed);
        self.client.batch_execute("COMMIT").await?;
        self.committing.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Rolls back.
    pub async fn rollback(&self) -> Result<(), TxError> {
        self.count();
        Ok(self.client.batch_execute("ROLLBACK").await?)
    }

    /// Runs a query.
    pub async fn rows(
        &self,
        statement: &Statement,
        params: Params<'_>,
    ) -> Result<Vec<Row>, TxError> {
        self.count();
        Ok(self.client.query(statement, params).await?)
    }

    /// Runs a query of which the first row counts.
    pub async fn first(
        &self,
        statement: &Statement,
        params: Params<'_>,
    ) -> Result<Option<Row>, TxError> {
        Ok(self.rows(statement, params).await?.into_iter().next())
    }

    /// Runs a query that must find a row; `what` names it in the error.
    pub async fn one(
        &self,
        what: &str,
        statement: &Statement,
        params: Params<'_>,
    ) -> Result<Row, TxError> {
        let row = self.first(statement, params).await?;
        row.ok_or_else(|| TxError::Missing(format!("{what} not found with {params:?}")))
    }

    /// Runs a statement without result and tells how many rows it touched.
    pub async fn run(&self, statement: &Statement, params: Params<'_>) -> Result<u64, TxError> {
        self.count();
        Ok(self.client.execute(statement, params).await?)
    }

    /// Runs a statement that is a transaction of its own: losing the answer loses the outcome.
    pub async fn run_alone(
        &self,
        statement: &Statement,
        params: Params<'_>,
    ) -> Result<u64, TxError> {
        self.committing.store(true, Ordering::Relaxed);
        let touched = self.run(statement, params).await?;
        self.committing.store(false, Ordering::Relaxed);
        Ok(touched)
    }

    /// Marks that nothing is being committed, before a new attempt.
    pub fn start_attempt(&self) {
        self.committing.store(false, Ordering::Relaxed);
    }

    /// Whether an answer to COMMIT is outstanding.
    pub fn is_committing(&self) -> bool {
        self.committing.load(Ordering::Relaxed)
    }

    /// Statements sent so far, BEGIN and COMMIT included.
    pub fn statement_count(&self) -> u64 {
        self.statements.load(Ordering::Relaxed)
    }

    /// Whether the session is gone.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// The plain client, for work that is not measured.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What the failure of an attempt on this connection means.
    pub fn verdict(&self, error: &TxError) -> Verdict {
        let error = match error {
            TxError::Overtaken => return Verdict::Retry,
            TxError::Missing(_) => return Verdict::Failed,
            TxError::Db(error) => error,
        };
        let code = error.code().map(|code| code.code().to_owned());
        verdict_of(code.as_deref(), self.is_committing(), self.is_closed())
    }

    fn count(&self) {
        self.statements.fetch_add(1, Ordering::Relaxed);
    }
}

/// The rule behind [`Conn::verdict`], apart from any connection.
fn verdict_of(code: Option<&str>, committing: bool, closed: bool) -> Verdict {
    match code {
        Some(code) if CODES_RETRY.contains(&code) => Verdict::Retry,
        Some(CODE_UNKNOWN) => Verdict::Unknown,
        Some(code) => {
            let gone = code.starts_with("08") || CODES_SESSION_GONE.contains(&code) || closed;
            match (gone, committing) {
                (true, true) => Verdict::Unknown,
                (true, false) => Verdict::Reconnect,
                (false, _) => Verdict::Failed,
            }
        }
        None if committing => Verdict::Unknown,
        None if closed => Verdict::Reconnect,
        None => Verdict::Failed,
    }
}

/// The name under which a failed attempt is counted.
pub fn failure_name(error: &TxError) -> String {
    match error {
        TxError::Db(error) => match error.code() {
            Some(code) => code.code().to_owned(),
            None => "connection".to_owned(),
        },
        TxError::Overtaken => "overtaken".to_owned(),
        TxError::Missing(_) => "missing row".to_owned(),
    }
}

/// A failed attempt in words.
pub fn failure_text(error: &TxError) -> String {
    match error {
        TxError::Db(error) => explain(error),
        TxError::Overtaken => "a concurrent transaction took the row".to_owned(),
        TxError::Missing(what) => what.clone(),
    }
}

/// Opens a plain connection and lets it run beside the caller.
pub async fn connect(config: &Config) -> Result<Client, BenchError> {
    let mut config = config.clone();
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    config.tcp_user_timeout(UNACKNOWLEDGED_MAX);
    config.keepalives_idle(KEEPALIVE).keepalives_interval(KEEPALIVE);
    let failed = |reason: String| BenchError::Connect { server: server_name(&config), reason };
    // The driver's own limit covers the socket only, not a server that accepts and says nothing.
    let (client, connection) =
        match tokio::time::timeout(SESSION_TIMEOUT, config.connect(NoTls)).await {
            Ok(Ok(session)) => session,
            Ok(Err(error)) => return Err(failed(explain(&error))),
            Err(_) => {
                let seconds = SESSION_TIMEOUT.as_secs();
                return Err(failed(format!("no answer within {seconds} s")));
            }
        };
    runtime::spawn(async move {
        // A lost connection shows up as the error of the statement that was under way.
        let _ = connection.await;
    });
    Ok(client)
}

/// Host, port and database of an address, without credentials.
pub fn server_name(config: &Config) -> String {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        Some(Host::Unix(path)) => path.display().to_string(),
        None => "localhost".to_owned(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let database = config.get_dbname().or(config.get_user()).unwrap_or("");
    format!("{host}:{port}/{database}")
}

/// The server's version as it says it, for the report.
pub async fn server_version(client: &Client) -> String {
    match client.simple_query("SHOW server_version").await {
        Ok(messages) => messages
            .iter()
            .find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            })
            .unwrap_or_else(|| "unknown".to_owned()),
        Err(error) => format!("unknown ({})", explain(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_surely_did_not_commit_is_repeated() {
        let cases = [
            (Some("40001"), true, false, Verdict::Retry),
            (Some("40P01"), false, false, Verdict::Retry),
            (Some("40003"), true, false, Verdict::Unknown),
            (Some("57P01"), true, true, Verdict::Unknown),
            (Some("57P01"), false, true, Verdict::Reconnect),
            (Some("08006"), true, false, Verdict::Unknown),
            (Some("23505"), false, false, Verdict::Failed),
            (Some("23505"), true, false, Verdict::Failed),
            (None, true, true, Verdict::Unknown),
            (None, false, true, Verdict::Reconnect),
            (None, false, false, Verdict::Failed),
        ];
        for (code, committing, closed, expected) in cases {
            let found = verdict_of(code, committing, closed);
            assert_eq!(found, expected, "{code:?} committing={committing} closed={closed}");
        }
    }

    #[test]
    fn server_names_hide_credentials() {
        let config: Config = "postgres://me:secret@db.example:7000/shop".parse().expect("parses");
        assert_eq!(server_name(&config), "db.example:7000/shop");
    }
}
