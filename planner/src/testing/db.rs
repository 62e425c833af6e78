//! A database in memory with one session: text in, text out.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use datafusion::common::ScalarValue;
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use parking_lot::Mutex;
use quorate_proto::Timestamp;

use super::{MemStore, MemTxn};
use crate::catalog::{CatalogSnapshot, DdlOp, catalog_span, decode_catalog};
use crate::dml::backfill::backfill;
use crate::error::{SqlError, SqlResult};
use crate::exec::SessionValues;
use crate::exec::access::whole_prefix;
use crate::parse::{Statement, StatementKind, parse};
use crate::plan::{ExecContext, Execution, OutColumn, Planner, PlannerConfig, Prepared, Settings};
use crate::types::PgType;
use crate::types::text::to_text;

/// Microseconds since 1970 of the test clock's first reading: 2024-01-01.
const EPOCH_US: i64 = 1_704_067_200_000_000;

/// A database in memory.
#[derive(Debug)]
pub struct MemDb {
    /// The rows.
    pub store: Arc<MemStore>,
    /// The planner.
    pub planner: Planner,
    ids: AtomicU64,
    clock: AtomicI64,
    block: Mutex<Option<Arc<MemTxn>>>,
}

/// What a statement gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The command tag.
    pub tag: String,
    /// Names of the result's columns.
    pub names: Vec<String>,
    /// Rows as text; `None` is NULL.
    pub rows: Vec<Vec<Option<String>>>,
}

impl Default for MemDb {
    fn default() -> Self {
        Self::new()
    }
}

impl MemDb {
    /// An empty database.
    pub fn new() -> Self {
        Self {
            store: MemStore::new(),
            planner: Planner::new(PlannerConfig::default()),
            ids: AtomicU64::new(100),
            clock: AtomicI64::new(EPOCH_US),
            block: Mutex::default(),
        }
    }

    /// The catalog of now.
    pub fn catalog(&self) -> SqlResult<Arc<CatalogSnapshot>> {
        let rows = self.store.rows(&catalog_span());
        let pairs = rows.iter().map(|(k, v)| (k.as_ref(), v.as_ref()));
        decode_catalog(pairs).map(Arc::new)
    }

    /// Plans a statement or finds its plan.
    pub fn prepare(&self, sql: &str, params: &[Option<PgType>]) -> SqlResult<Arc<Prepared>> {
        let statement = parse_one(sql)?;
        self.planner.prepare(&statement, &self.catalog()?, &Settings::default(), params)
    }

    /// What an execution in a transaction gets.
    pub fn context(&self, txn: Arc<MemTxn>, params: Vec<ScalarValue>) -> SqlResult<ExecContext> {
        let now = self.clock.fetch_add(1_000_000, Ordering::SeqCst);
        let session = SessionValues {
            user: "tester".into(),
            database: "quorate".into(),
            backend_pid: 42,
            txn_time_us: now,
            statement_time_us: now,
            time_zone: crate::types::Zone::utc(),
        };
        Ok(ExecContext { txn, params, lifted: vec![], session, catalog: self.catalog()? })
    }

    /// Runs one statement, without parameters.
    pub async fn run(&self, sql: &str) -> SqlResult<Answer> {
        self.run_with(sql, vec![]).await
    }

    /// Runs one statement. After an error an open transaction is gone.
    pub async fn run_with(&self, sql: &str, params: Vec<ScalarValue>) -> SqlResult<Answer> {
        let statement = parse_one(sql)?;
        let answer = match &statement.kind {
            StatementKind::Begin(_) => {
                *self.block.lock() = Some(self.store.begin(true));
                Ok(command("BEGIN"))
            }
            StatementKind::Commit(_) => {
                let open = self.block.lock().take();
                open.map_or(Ok(()), |txn| txn.commit()).map(|()| command("COMMIT"))
            }
            StatementKind::Rollback(_) => {
                self.block.lock().take();
                Ok(command("ROLLBACK"))
            }
            StatementKind::Ddl(op) => self.change(op),
            _ => self.execute(&statement, params).await,
        };
        if answer.is_err() {
            self.block.lock().take();
        }
        answer
    }

    async fn execute(&self, statement: &Statement, params: Vec<ScalarValue>) -> SqlResult<Answer> {
        let settings = Settings::default();
        let prepared = self.planner.prepare(statement, &self.catalog()?, &settings, &[])?;
        let open = self.block.lock().clone();
        let txn = open.clone().unwrap_or_else(|| self.store.begin(false));
        let columns = prepared.columns.clone().unwrap_or_default();
        let mut context = self.context(Arc::clone(&txn), params)?;
        context.lifted.clone_from(&statement.lifted);
        let answer = match prepared.execute(context).await? {
            Execution::Rows(stream) => {
                let rows = text_rows(stream, &columns).await?;
                (format!("SELECT {}", rows.len()), rows)
            }
            Execution::Command { tag, returning: Some(stream) } => {
                (tag, text_rows(stream, &columns).await?)
            }
            Execution::Command { tag, returning: None } => (tag, vec![]),
        };
        if open.is_none() {
            txn.commit()?;
        }
        let names = columns.into_iter().map(|c| c.name).collect();
        Ok(Answer { tag: answer.0, names, rows: answer.1 })
    }

    fn change(&self, op: &DdlOp) -> SqlResult<Answer> {
        let catalog = self.catalog()?;
        self.planner.check_ddl(op, &catalog, &Settings::default())?;
        let mut ids = || self.ids.fetch_add(1, Ordering::SeqCst);
        let change = op.apply(&catalog, &mut ids, Timestamp::ZERO)?;
        self.store.load(change.writes);
        if let Some((table, index)) = change.backfill {
            let catalog = self.catalog()?;
            let missing = || SqlError::internal("the table to fill is gone");
            let def = catalog.table_by_id(table).ok_or_else(missing)?;
            let found = def.index(index).ok_or_else(missing)?;
            let rows = self.store.rows(&whole_prefix(&def.index_prefix(def.primary().id)));
            let ops = backfill(def, found, &rows)?;
            self.store.load(ops);
            let finish = DdlOp::FinishIndex { table, index };
            let change = finish.apply(&catalog, &mut ids, Timestamp::ZERO)?;
            self.store.load(change.writes);
        }
        Ok(command(op.tag()))
    }
}

fn command(tag: &str) -> Answer {
    Answer { tag: tag.into(), names: vec![], rows: vec![] }
}

/// The only statement of a text.
fn parse_one(sql: &str) -> SqlResult<Statement> {
    let mut parsed = parse(sql)?;
    match (parsed.pop(), parsed.is_empty()) {
        (Some(statement), true) => Ok(statement),
        _ => Err(SqlError::syntax("one statement is expected")),
    }
}

/// All rows of a result as text.
pub async fn text_rows(
    mut stream: SendableRecordBatchStream,
    columns: &[OutColumn],
) -> SqlResult<Vec<Vec<Option<String>>>> {
    let mut rows = Vec::new();
    while let Some(batch) = stream.next().await.transpose()? {
        for row in 0..batch.num_rows() {
            let cells = batch.columns().iter().zip(columns).map(|(array, column)| {
                to_text(&ScalarValue::try_from_array(array, row)?, column.ty)
            });
            rows.push(cells.collect::<SqlResult<Vec<_>>>()?);
        }
    }
    Ok(rows)
}
