//! Multi-row INSERTs: rows are gathered per table and sent when a batch is full.

use super::value::Value;
use crate::error::BenchError;
use crate::progress::Progress;
use crate::runtime::pause;
use crate::tpcc::schema::Table;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

/// Attempts for one batch that meets serialization failures.
const ATTEMPTS_MAX: u32 = 20;
/// Pause before a batch is sent again, times the number of the attempt.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(20);

/// How rows are written into the statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LoadWith {
    /// Prepared statements with parameters
    Parameters,
    /// Statements with literals
    Literals,
}

/// Gathers and sends the rows of one connection.
pub struct Writer<'a> {
    client: &'a Client,
    progress: &'a Progress,
    batch_rows: usize,
    with: LoadWith,
    /// Rows not sent yet, by table.
    waiting: BTreeMap<&'static str, (&'static Table, Vec<Vec<Value>>)>,
    /// Prepared statements for full batches, by table.
    full: BTreeMap<&'static str, Statement>,
}

impl<'a> Writer<'a> {
    /// A writer that sends so many rows at once.
    pub fn new(
        client: &'a Client,
        progress: &'a Progress,
        batch_rows: usize,
        with: LoadWith,
    ) -> Self {
        let (waiting, full) = (BTreeMap::new(), BTreeMap::new());
        Self { client, progress, batch_rows, with, waiting, full }
    }

    /// Adds a row, and sends the table's batch if that fills it.
    pub async fn add(&mut self, table: &'static Table, row: Vec<Value>) -> Result<(), BenchError> {
        assert_eq!(row.len(), table.columns.len(), "a row has its table's columns");
        let (_, rows) = self.waiting.entry(table.name).or_insert((table, Vec::new()));
        rows.push(row);
        if rows.len() >= self.batch_rows {
            let rows = std::mem::take(rows);
            self.send(table, rows).await?;
        }
        Ok(())
    }

    /// Sends what is left.
    pub async fn finish(mut self) -> Result<(), BenchError> {
        for (_, (table, rows)) in std::mem::take(&mut self.waiting) {
            if !rows.is_empty() {
                self.send(table, rows).await?;
            }
        }
        Ok(())
    }

    async fn send(
        &mut self,
        table: &'static Table,
        rows: Vec<Vec<Value>>,
    ) -> Result<(), BenchError> {
        let doing = format!("loading {}", table.name);
        for attempt in 1.. {
            let sent = match self.with {
                LoadWith::Parameters => self.send_parameters(table, &rows).await,
                LoadWith::Literals => self.client.batch_execute(&literals(table, &rows)).await,
            };
            let Err(error) = sent else { break };
            let again = error.code().is_some_and(|code| code.code() == "40001");
            if !again || attempt >= ATTEMPTS_MAX {
                return Err(BenchError::statement(doing, &error));
            }
            pause(ATTEMPT_PAUSE * attempt).await;
        }
        self.progress.add(rows.len() as u64);
        Ok(())
    }

    async fn send_parameters(
        &mut self,
        table: &'static Table,
        rows: &[Vec<Value>],
    ) -> Result<(), tokio_postgres::Error> {
        let is_full = rows.len() == self.batch_rows;
        let statement = match self.full.get(table.name) {
            Some(statement) if is_full => statement.clone(),
            _ => {
                let types = table.types(rows.len());
                let sql = placeholders(table, rows.len());
                self.client.prepare_typed(&sql, &types).await?
            }
        };
        if is_full {
            self.full.insert(table.name, statement.clone());
        }
        let params: Vec<&(dyn ToSql + Sync)> =
            rows.iter().flatten().map(|value| value as &(dyn ToSql + Sync)).collect();
        self.client.execute(&statement, &params).await?;
        Ok(())
    }
}

fn insert_into(table: &Table) -> String {
    let names: Vec<&str> = table.columns.iter().map(|(name, _)| *name).collect();
    format!("INSERT INTO {} ({}) VALUES ", table.name, names.join(", "))
}

/// A multi-row INSERT with a parameter for each value.
pub fn placeholders(table: &Table, row_count: usize) -> String {
    let mut sql = insert_into(table);
    let width = table.columns.len();
    for row in 0..row_count {
        sql.push_str(if row == 0 { "(" } else { ", (" });
        for column in 0..width {
            let comma = if column == 0 { "" } else { ", " };
            write!(sql, "{comma}${}", row * width + column + 1)
                .expect("writing to a string succeeds");
        }
        sql.push(')');
    }
    sql
}

/// A multi-row INSERT with literals.
fn literals(table: &Table, rows: &[Vec<Value>]) -> String {
    let mut sql = insert_into(table);
    for (index, row) in rows.iter().enumerate() {
        let values: Vec<String> = row.iter().map(Value::to_string).collect();
        let comma = if index == 0 { "" } else { ", " };
        write!(sql, "{comma}({})", values.join(", ")).expect("writing to a string succeeds");
    }
    sql
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tpcc::schema::NEW_ORDER;

    #[test]
    fn statements_of_two_rows() {
        let head = "INSERT INTO new_order (no_w_id, no_d_id, no_o_id) VALUES ";
        assert_eq!(placeholders(&NEW_ORDER, 2), format!("{head}($1, $2, $3), ($4, $5, $6)"));
        let rows = vec![vec![Value::Int(1), Value::Int(2), Value::Int(3)]; 2];
        assert_eq!(literals(&NEW_ORDER, &rows), format!("{head}(1, 2, 3), (1, 2, 3)"));
    }
}
