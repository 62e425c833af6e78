//! sqllogictest files, run the same way against PostgreSQL and against Quorate.
//!
//! The expected results come from PostgreSQL; `UPDATE_GOLDENFILES=1` asks it again. Each file runs
//! three times: through the simple protocol, through the extended one with text values, and with
//! binary values. Column types are compared too, by the letters of [`PgColumn`]; of an error only
//! the SQLSTATE is.
//!
//! One line of a file is one row, its values separated by `|`. SQL NULL is `NULL`; a value that is
//! empty, has spaces at its ends or would read as something else stands in single quotes; a line
//! feed shows as `\n`.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use sqllogictest::{
    AsyncDB, ColumnType, DBOutput, ExpectedError, Normalizer, QueryExpect, Record, RecordOutput,
    Runner, SortMode, StatementExpect, TestErrorKind,
};

use crate::binary::{self, oid};
use crate::wire::{Mode, Reply, Url, WireClient};

/// How long one statement may take before the run counts it as hung.
const STATEMENT_LIMIT: Duration = Duration::from_secs(20);

/// A file is given up after this many statements that hang or lose the connection.
const BREAKS_MAX: usize = 3;

/// How many failures of one file are described; the rest are counted.
const FAILURES_SHOWN_MAX: usize = 25;

/// The declared type of a result column, one letter in the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PgColumn(char);

/// Letters of the types that have one; every other type is `?`.
const LETTERS: [(u32, char); 17] = [
    (oid::BOOL, 'B'),
    (oid::INT2, 's'),
    (oid::INT4, 'i'),
    (oid::INT8, 'I'),
    (oid::FLOAT4, 'r'),
    (oid::FLOAT8, 'R'),
    (oid::NUMERIC, 'N'),
    (oid::TEXT, 'T'),
    (oid::VARCHAR, 'V'),
    (oid::BPCHAR, 'C'),
    (oid::NAME, 'n'),
    (oid::BYTEA, 'X'),
    (oid::DATE, 'D'),
    (oid::TIMESTAMP, 'S'),
    (oid::TIMESTAMPTZ, 'Z'),
    (oid::UUID, 'U'),
    (oid::INTERVAL, 'v'),
];

impl PgColumn {
    fn of(oid: u32) -> PgColumn {
        PgColumn(LETTERS.iter().find(|(known, _)| *known == oid).map_or('?', |(_, letter)| *letter))
    }
}

impl ColumnType for PgColumn {
    fn from_char(letter: char) -> Option<PgColumn> {
        (letter == '?' || LETTERS.iter().any(|(_, known)| *known == letter))
            .then_some(PgColumn(letter))
    }

    fn to_char(&self) -> char {
        self.0
    }
}

/// What a statement ended with when not with a result.
#[derive(Debug, thiserror::Error)]
pub enum SltError {
    /// The server refused it.
    #[error("{sqlstate} {message}")]
    Server {
        /// SQLSTATE.
        sqlstate: String,
        /// Primary message.
        message: String,
    },
    /// The connection broke, or bytes arrived that make no sense.
    #[error("connection: {0}")]
    Connection(#[from] io::Error),
    /// The server kept silent.
    #[error("no answer within {STATEMENT_LIMIT:?}")]
    Hung,
}

/// A session that the sqllogictest runner drives; a broken one is opened anew.
struct SltDb {
    url: Url,
    engine: String,
    mode: Mode,
    client: Option<WireClient>,
}

impl SltDb {
    async fn answer(&mut self, sql: &str) -> Result<Reply, SltError> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => WireClient::connect(&self.url).await?,
        };
        let reply = tokio::time::timeout(STATEMENT_LIMIT, client.run(sql, self.mode))
            .await
            .map_err(|_| SltError::Hung)??;
        self.client = Some(client);
        Ok(reply)
    }
}

#[async_trait]
impl AsyncDB for SltDb {
    type Error = SltError;
    type ColumnType = PgColumn;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<PgColumn>, SltError> {
        let reply = self.answer(sql).await?;
        if let Some(error) = &reply.error {
            return Err(SltError::Server {
                sqlstate: error.sqlstate().to_owned(),
                message: error.message().to_owned(),
            });
        }
        let count = reply.count();
        let Some(columns) = reply.columns else {
            return Ok(DBOutput::StatementComplete(count));
        };
        let mut rows = Vec::with_capacity(reply.rows.len());
        for row in &reply.rows {
            if row.len() != columns.len() {
                let said = format!("{} values in {} columns", row.len(), columns.len());
                return Err(io::Error::other(said).into());
            }
            let values = row.iter().zip(&columns).map(|(value, column)| {
                let Some(bytes) = value else {
                    return Ok("NULL".to_owned());
                };
                let text = if column.format == 1 {
                    binary::to_text(column.oid, bytes).map_err(io::Error::other)?
                } else {
                    String::from_utf8(bytes.to_vec()).map_err(io::Error::other)?
                };
                Ok(shown(&text))
            });
            rows.push(values.collect::<Result<Vec<_>, SltError>>()?);
        }
        let types = columns.iter().map(|column| PgColumn::of(column.oid)).collect();
        Ok(DBOutput::Rows { types, rows })
    }

    async fn shutdown(&mut self) {
        self.client = None;
    }

    fn engine_name(&self) -> &str {
        &self.engine
    }

    async fn sleep(duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    fn error_sql_state(error: &SltError) -> Option<String> {
        match error {
            SltError::Server { sqlstate, .. } => Some(sqlstate.clone()),
            SltError::Connection(_) | SltError::Hung => None,
        }
    }
}

/// A value as it stands in the files.
fn shown(text: &str) -> String {
    let flat = text.replace('\n', "\\n").replace('\t', "\\t");
    let plain = !flat.is_empty() && flat.trim() == flat && flat != "NULL" && !flat.contains('|');
    if plain { flat } else { format!("'{flat}'") }
}

fn same_rows(_: Normalizer, actual: &[Vec<String>], expected: &[String]) -> bool {
    actual.iter().map(|row| row.join("|")).eq(expected.iter().cloned())
}

/// The folder of the files.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("slt")
}

/// Every file, in order; `QUORATE_SLT=part` keeps those whose name contains the part.
pub fn files() -> io::Result<Vec<PathBuf>> {
    let wanted = std::env::var("QUORATE_SLT").unwrap_or_default();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "slt")
            && name_of(&path).contains(&wanted)
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn name_of(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

/// What running the files found.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Records run.
    pub records: usize,
    /// Records that did not do what the file says.
    pub failed: usize,
    /// One description per failure, at most `FAILURES_SHOWN_MAX` per file and mode.
    pub failures: Vec<String>,
    /// Per file: name, records, failed.
    pub files: Vec<(String, usize, usize)>,
}

impl Outcome {
    /// A table of the files that failed, then the failures.
    pub fn report(&self) -> String {
        let mut text = format!("{} of {} records failed\n", self.failed, self.records);
        for (name, records, failed) in self.files.iter().filter(|(_, _, failed)| *failed > 0) {
            text.push_str(&format!("  {failed:4} of {records:4}  {name}\n"));
        }
        for failure in &self.failures {
            text.push_str(failure);
            text.push('\n');
        }
        text
    }
}

/// First line of a file whose results depend on how the server writes them: an instant in binary
/// carries no session time zone, so only text can show it.
const TEXT_ONLY: &str = "# text only";

/// Runs every file in every mode against the server at `url` and says what failed.
///
/// `engine_name` (`postgresql` or `quorate`) is what `onlyif` and `skipif` look at. The database
/// should be empty: a file's tables are dropped before and after it.
pub async fn run_all(url: &str, engine_name: &str) -> io::Result<Outcome> {
    let mut outcome = Outcome::default();
    for path in files()? {
        let (mut records, mut failed) = (0, 0);
        let text_only = std::fs::read_to_string(&path)?.starts_with(TEXT_ONLY);
        for mode in Mode::ALL {
            if text_only && mode == Mode::ExtendedBinary {
                continue;
            }
            let (ran, failures) = run_file(&path, url, engine_name, mode).await?;
            records += ran;
            failed += failures.len();
            let more = failures.len().saturating_sub(FAILURES_SHOWN_MAX);
            outcome.failures.extend(failures.into_iter().take(FAILURES_SHOWN_MAX));
            if more > 0 {
                outcome.failures.push(format!("… and {more} more in {}", name_of(&path)));
            }
        }
        eprintln!("{failed:4} of {records:4} records failed: {}", name_of(&path));
        outcome.records += records;
        outcome.failed += failed;
        outcome.files.push((name_of(&path), records, failed));
    }
    Ok(outcome)
}

/// Runs one file to its end, whatever fails on the way: the records run, and the failures.
pub async fn run_file(
    path: &Path,
    url: &str,
    engine_name: &str,
    mode: Mode,
) -> io::Result<(usize, Vec<String>)> {
    let records = parse(path)?;
    let url = Url::parse(url)?;
    drop_tables(&records, &url).await?;
    let mut runner = Runner::new(|| connect(&url, engine_name, mode));
    runner.with_validator(same_rows);
    runner.with_column_validator(sqllogictest::strict_column_validator);
    let (mut ran, mut breaks) = (0, 0);
    let mut failures = Vec::new();
    for record in &records {
        if matches!(record, Record::Halt { .. }) {
            break;
        }
        ran += usize::from(matches!(record, Record::Statement { .. } | Record::Query { .. }));
        if let Err(error) = runner.run_async(record.clone()).await {
            let place = format!("{}:{}", name_of(path), error.location().line());
            let told = error.kind().display(false).to_string();
            breaks += usize::from(is_break(&error.kind()));
            let failure = format!("{place} ({mode:?})\n{told}");
            // At once: a run that is cut short should have said what it found.
            eprintln!("{failure}");
            failures.push(failure);
            if breaks == BREAKS_MAX {
                failures.push(format!("{place} ({mode:?}): given up, {breaks} broken connections"));
                break;
            }
        }
    }
    runner.shutdown_async().await;
    drop(runner);
    drop_tables(&records, &url).await?;
    Ok((ran, failures))
}

/// Whether the server hung or went away, rather than answering wrongly.
fn is_break(kind: &TestErrorKind) -> bool {
    let (TestErrorKind::Fail { err, .. } | TestErrorKind::ErrorMismatch { err, .. }) = kind else {
        return false;
    };
    let cause = err.downcast_ref::<SltError>();
    matches!(cause, Some(SltError::Hung | SltError::Connection(_)))
}

async fn connect(url: &Url, engine: &str, mode: Mode) -> Result<SltDb, SltError> {
    let client = Some(WireClient::connect(url).await?);
    Ok(SltDb { url: url.clone(), engine: engine.to_owned(), mode, client })
}

fn parse(path: &Path) -> io::Result<Vec<Record<PgColumn>>> {
    sqllogictest::parse_file(path).map_err(|error| io::Error::other(error.to_string()))
}

/// The statements of one file, as text.
pub fn statements(path: &Path) -> io::Result<Vec<String>> {
    let sql = |record| match record {
        Record::Statement { sql, .. } | Record::Query { sql, .. } => Some(sql),
        _ => None,
    };
    Ok(parse(path)?.into_iter().filter_map(sql).collect())
}

/// Drops the tables that the records create, so that a file starts and ends with none of them.
async fn drop_tables(records: &[Record<PgColumn>], url: &Url) -> io::Result<()> {
    let names: BTreeSet<String> = records
        .iter()
        .filter_map(|record| match record {
            Record::Statement { sql, .. } => created_table(sql),
            _ => None,
        })
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    let mut client = WireClient::connect(url).await?;
    for name in names {
        let sql = format!("DROP TABLE IF EXISTS {name}");
        let reply = tokio::time::timeout(STATEMENT_LIMIT, client.run(&sql, Mode::Simple))
            .await
            .map_err(|_| io::Error::other("DROP TABLE hangs"))??;
        if let Some(error) = reply.error {
            let said = format!("{} {}", error.sqlstate(), error.message());
            return Err(io::Error::other(format!("DROP TABLE {name}: {said}")));
        }
    }
    Ok(())
}

/// The name in `CREATE TABLE name`, if the text is such a statement.
fn created_table(sql: &str) -> Option<String> {
    let mut words = sql.split(|c: char| c.is_whitespace() || c == '(').filter(|w| !w.is_empty());
    let mut next = || words.next().map(str::to_owned);
    if !next()?.eq_ignore_ascii_case("create") || !next()?.eq_ignore_ascii_case("table") {
        return None;
    }
    let mut name = next()?;
    if name.eq_ignore_ascii_case("if") {
        next()?;
        next()?;
        name = next()?;
    }
    Some(name)
}

/// Rewrites one file with what the server at `url` answers; true if anything changed.
///
/// A record's kind follows the answer as well: `statement` where no row can come back, with the
/// count where the command has one; `(SQLSTATE)` where it fails.
pub async fn rewrite_file(path: &Path, url: &str, engine_name: &str) -> io::Result<bool> {
    let records = parse(path)?;
    let url = Url::parse(url)?;
    drop_tables(&records, &url).await?;
    let mut runner = Runner::new(|| connect(&url, engine_name, Mode::Simple));
    let mut text = String::new();
    for record in &records {
        let output = runner.apply_record(record.clone()).await;
        let record = rewritten(record, output).map_err(io::Error::other)?;
        text.push_str(&record.to_string());
        text.push('\n');
    }
    runner.shutdown_async().await;
    drop(runner);
    drop_tables(&records, &url).await?;
    while text.ends_with("\n\n") {
        text.pop();
    }
    let changed = std::fs::read_to_string(path)? != text;
    if changed {
        std::fs::write(path, text)?;
    }
    Ok(changed)
}

/// The record that expects exactly this output.
fn rewritten(
    record: &Record<PgColumn>,
    output: RecordOutput<PgColumn>,
) -> Result<Record<PgColumn>, String> {
    let (sql, sort_mode) = match record {
        Record::Statement { sql, .. } => (sql, None),
        Record::Query { sql, expected: QueryExpect::Results { sort_mode, .. }, .. } => {
            (sql, *sort_mode)
        }
        Record::Query { sql, .. } => (sql, None),
        _ => return Ok(record.clone()),
    };
    let anything_goes = matches!(record, Record::Statement { expected: StatementExpect::Ok, .. });
    Ok(match output {
        // `statement ok` stays: whoever wrote it does not care about the rows.
        RecordOutput::Query { error: None, .. } if anything_goes => record.clone(),
        RecordOutput::Query { error: None, types, rows } => {
            let results = rows.iter().map(|row| row.join("|")).collect();
            as_query(record, types, sort_mode, results)
        }
        RecordOutput::Statement { error: None, count } if counts(sql) => {
            as_statement(record, StatementExpect::Count(count))
        }
        RecordOutput::Statement { error: None, .. } => as_statement(record, StatementExpect::Ok),
        RecordOutput::Query { error: Some(cause), .. }
        | RecordOutput::Statement { error: Some(cause), .. } => {
            let Some(SltError::Server { sqlstate, .. }) = cause.downcast_ref::<SltError>() else {
                return Err(format!("{cause}, running {sql}"));
            };
            let error = ExpectedError::SqlState(sqlstate.clone());
            as_statement(record, StatementExpect::Error(error))
        }
        _ => record.clone(),
    })
}

fn as_statement(record: &Record<PgColumn>, expected: StatementExpect) -> Record<PgColumn> {
    match record.clone() {
        Record::Statement { loc, conditions, connection, sql, retry, .. }
        | Record::Query { loc, conditions, connection, sql, retry, .. } => {
            Record::Statement { loc, conditions, connection, sql, expected, retry }
        }
        other => other,
    }
}

fn as_query(
    record: &Record<PgColumn>,
    types: Vec<PgColumn>,
    sort_mode: Option<SortMode>,
    results: Vec<String>,
) -> Record<PgColumn> {
    let (label, result_mode) = (None, None);
    let expected = QueryExpect::Results { types, sort_mode, result_mode, label, results };
    match record.clone() {
        Record::Statement { loc, conditions, connection, sql, retry, .. }
        | Record::Query { loc, conditions, connection, sql, retry, .. } => {
            Record::Query { loc, conditions, connection, sql, expected, retry }
        }
        other => other,
    }
}

/// Whether the command tag of this statement ends with a count of rows.
fn counts(sql: &str) -> bool {
    let first = sql.split_whitespace().next().unwrap_or_default();
    ["insert", "update", "delete", "with"].iter().any(|verb| first.eq_ignore_ascii_case(verb))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_could_be_misread_are_quoted() {
        assert_eq!(shown("a b"), "a b");
        assert_eq!(shown(""), "''");
        assert_eq!(shown("ab  "), "'ab  '");
        assert_eq!(shown("NULL"), "'NULL'");
        assert_eq!(shown("a|b"), "'a|b'");
        assert_eq!(shown("a\nb"), "a\\nb");
    }

    #[test]
    fn the_created_table_is_found() {
        assert_eq!(created_table("create table a(b int)"), Some("a".into()));
        assert_eq!(created_table("CREATE TABLE IF NOT EXISTS  x (b int)"), Some("x".into()));
        assert_eq!(created_table("create index i on t (a)"), None);
    }

    #[test]
    fn a_wrong_row_is_noticed() {
        let rows = [vec!["1".to_owned(), "a".to_owned()]];
        assert!(same_rows(sqllogictest::default_normalizer, &rows, &["1|a".to_owned()]));
        assert!(!same_rows(sqllogictest::default_normalizer, &rows, &["1|b".to_owned()]));
        assert!(!same_rows(sqllogictest::default_normalizer, &rows, &[]));
    }
}
