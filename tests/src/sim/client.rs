//! A client's session, above the wire (rule X3).

use std::sync::Arc;

use datafusion::arrow::array::{Array as _, ArrayRef, Int64Array, StringArray};
use quorate_gateway::Gateway;
use quorate_gateway::pg::startup::Hello;
use quorate_gateway::session::{Outcome, Session};
use quorate_planner::error::SqlError;

use super::machine::Up;
use super::runtime;

/// What came of a statement.
#[derive(Debug)]
pub enum Failed {
    /// The server said no.
    Sql(SqlError),
    /// The connection broke: the node crashed.
    Broken,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sql(error) => write!(f, "{} {}", error.sqlstate, error.message),
            Self::Broken => f.write_str("the connection broke"),
        }
    }
}

/// Rows of 64-bit numbers; NULL is `None`.
pub type Rows = Vec<Vec<Option<i64>>>;

/// What one cell of a column is; `None` for NULL.
type Cell<T> = fn(&ArrayRef, usize) -> Option<T>;

/// A session at one node. It ends with the node.
pub struct Client {
    session: Session,
    up: Up,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// What the server says.
    pub fn connect(up: &Up) -> Result<Self, Failed> {
        let gateway: Arc<Gateway> = up.gateway.clone();
        let hello = Hello {
            user: String::from("simulated"),
            database: gateway.database().to_owned(),
            settings: Vec::new(),
        };
        let session = Session::open(gateway, hello).map_err(Failed::Sql)?;
        Ok(Self { session, up: up.clone() })
    }

    /// Runs a text of one statement and takes all of its rows, as the simple protocol does.
    ///
    /// # Errors
    /// [`Failed`]; a block has failed then.
    pub async fn query(&mut self, text: &str) -> Result<Rows, Failed> {
        self.run(text, number).await.map(|(rows, _)| rows)
    }

    /// The same with rows of texts, NULL being empty, and how many rows a command touched.
    ///
    /// # Errors
    /// [`Failed`]; a block has failed then.
    pub async fn texts(&mut self, text: &str) -> Result<(Vec<Vec<String>>, u64), Failed> {
        let (rows, touched) = self.run(text, in_words).await?;
        let filled = |row: Vec<Option<String>>| row.into_iter().map(Option::unwrap_or_default);
        Ok((rows.into_iter().map(|row| filled(row).collect()).collect(), touched))
    }

    async fn run<T>(&mut self, text: &str, cell: Cell<T>) -> Result<Answer<T>, Failed> {
        let over = self.up.life.over.clone();
        let result = runtime::unless(over.cancelled(), run(&mut self.session, text, cell)).await;
        // What is answered at the very moment of the crash does not leave the machine any more.
        let Some(result) = result.filter(|_| !over.is_cancelled()) else {
            return Err(Failed::Broken);
        };
        result.map_err(|error| {
            self.session.fail();
            Failed::Sql(error)
        })
    }
}

fn number(column: &ArrayRef, row: usize) -> Option<i64> {
    let numbers = column.as_any().downcast_ref::<Int64Array>()?;
    (!numbers.is_null(row)).then(|| numbers.value(row))
}

fn in_words(column: &ArrayRef, row: usize) -> Option<String> {
    if let Some(texts) = column.as_any().downcast_ref::<StringArray>() {
        return (!texts.is_null(row)).then(|| texts.value(row).to_owned());
    }
    number(column, row).map(|number| number.to_string())
}

/// Rows, and how many a command touched.
type Answer<T> = (Vec<Vec<Option<T>>>, u64);

async fn run<T>(session: &mut Session, text: &str, cell: Cell<T>) -> Result<Answer<T>, SqlError> {
    let (mut rows, mut touched) = (Vec::new(), 0);
    for statement in session.split(text)? {
        let ready = session.prepare(statement, &[]).await?;
        let source = match session.run(&ready, Vec::new()).await? {
            Outcome::Rows(source) => Some(source),
            Outcome::Command { tag, rows } => {
                let count = tag.rsplit(' ').next().and_then(|count| count.parse().ok());
                touched = count.unwrap_or(0);
                rows
            }
            Outcome::Empty => None,
        };
        if let Some(mut source) = source {
            while let Some((batch, row)) = source.next().await? {
                rows.push(batch.columns().iter().map(|column| cell(column, row)).collect());
            }
        }
    }
    session.statement_ended();
    session.finish_implicit().await?;
    Ok((rows, touched))
}
