//! A client's session, above the wire (rule X3).

use std::sync::Arc;

use datafusion::arrow::array::{Array as _, Int64Array};
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
        let over = self.up.life.over.clone();
        let result = runtime::unless(over.cancelled(), run(&mut self.session, text)).await;
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

async fn run(session: &mut Session, text: &str) -> Result<Rows, SqlError> {
    let mut rows = Vec::new();
    for statement in session.split(text)? {
        let ready = session.prepare(statement, &[]).await?;
        let source = match session.run(&ready, Vec::new()).await? {
            Outcome::Rows(source) => Some(source),
            Outcome::Command { rows, .. } => rows,
            Outcome::Empty => None,
        };
        if let Some(mut source) = source {
            while let Some((batch, row)) = source.next().await? {
                let cell = |column: &Arc<dyn datafusion::arrow::array::Array>| {
                    let numbers = column.as_any().downcast_ref::<Int64Array>()?;
                    (!numbers.is_null(row)).then(|| numbers.value(row))
                };
                rows.push(batch.columns().iter().map(cell).collect());
            }
        }
    }
    session.finish_implicit().await?;
    Ok(rows)
}
