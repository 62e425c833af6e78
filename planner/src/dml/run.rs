//! The execution of a planned INSERT, UPDATE or DELETE.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use datafusion::arrow::compute::take_record_batch;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use futures::StreamExt;

use super::conflict::Conflict;
use super::write::{Writes, check_not_null, entries_of};
use super::{DmlKind, DmlPlan};
use crate::catalog::{CatalogSnapshot, IndexId, TableDef, describe_key};
use crate::error::{SqlError, SqlResult, SqlState};
use crate::exec::fetch::BatchRow;
use crate::exec::scan::GETS_PER_REQUEST;
use crate::exec::{RunState, SessionValues};
use crate::kv::{KvTxn, LockStrength, RowLock};
use crate::plan::instance::PlanStream;
use datafusion::common::ScalarValue;

/// What a statement needs from its execution.
pub struct DmlContext {
    /// The transaction.
    pub txn: Arc<dyn KvTxn>,
    /// Parameters.
    pub params: Vec<ScalarValue>,
    /// The session.
    pub session: SessionValues,
    /// For the names of keys.
    pub catalog: Arc<CatalogSnapshot>,
}

/// Runs a statement; answers the tag and the rows of RETURNING.
pub async fn run(plan: &DmlPlan, context: DmlContext) -> SqlResult<(String, Option<PlanStream>)> {
    let state = RunState {
        txn: Arc::clone(&context.txn),
        params: context.params.clone(),
        session: context.session.clone(),
        input: vec![],
        outer: vec![],
    };
    let mut stream = plan.source.execute(state)?;
    let mut statement = Statement {
        plan,
        context: &context,
        writes: Writes::default(),
        rows: 0,
        returned: Vec::new(),
        seen: HashSet::new(),
        given: HashSet::new(),
        met: HashSet::new(),
    };
    // A statement sees the table as it was: nothing is written before the last row is read.
    while let Some(batch) = stream.next().await.transpose()? {
        if batch.num_rows() > 0 {
            statement.take(batch).await?;
        }
    }
    drop(stream);
    statement.check().await?;
    let before = match &plan.returning {
        Some(returning) if returning.reads_tables => Some(context.txn.frozen()?),
        _ => None,
    };
    let (rows, returned) = statement.write()?;
    let command = plan.kind.command();
    let tag = match plan.kind {
        DmlKind::Insert => format!("{command} 0 {rows}"),
        DmlKind::Update | DmlKind::Delete => format!("{command} {rows}"),
    };
    let Some(returning) = &plan.returning else { return Ok((tag, None)) };
    let state = RunState {
        txn: before.unwrap_or(context.txn),
        params: context.params,
        session: context.session,
        input: returned,
        outer: vec![],
    };
    Ok((tag, Some(returning.rows.execute(state)?)))
}

/// One execution of a statement.
pub(super) struct Statement<'a> {
    pub(super) plan: &'a DmlPlan,
    pub(super) context: &'a DmlContext,
    writes: Writes,
    rows: usize,
    /// Rows for RETURNING.
    returned: Vec<RecordBatch>,
    /// Keys of rows touched so far: a join may bring a row twice, only the first counts.
    seen: HashSet<Bytes>,
    /// Unique keys that rows of this statement were given.
    pub(super) given: HashSet<Bytes>,
    /// Unique keys looked for because of ON CONFLICT.
    pub(super) met: HashSet<Bytes>,
}

impl Statement<'_> {
    fn table(&self) -> &TableDef {
        &self.plan.table
    }

    async fn take(&mut self, batch: RecordBatch) -> SqlResult<()> {
        match self.plan.kind {
            DmlKind::Insert => self.insert(batch).await,
            DmlKind::Update => self.change(&batch, &self.plan.assigned).await,
            DmlKind::Delete => self.delete(&batch).await,
        }
    }

    async fn insert(&mut self, batch: RecordBatch) -> SqlResult<()> {
        let batch = with_row_ids(&self.plan.table, batch)?;
        check_not_null(self.table(), &batch)?;
        match &self.plan.conflict {
            Conflict::Fail => self.put(&batch),
            Conflict::Skip(index) => {
                let batch = self.without_conflicts(batch, *index).await?;
                self.put(&batch)
            }
            Conflict::Update(update) => self.upsert(batch, update).await,
        }
    }

    /// New rows.
    pub(super) fn put(&mut self, batch: &RecordBatch) -> SqlResult<()> {
        for at in 0..batch.num_rows() {
            self.give(batch, at)?;
            self.writes.insert(&self.plan.table, batch, at, self.rows)?;
            self.rows += 1;
        }
        self.returned(batch)
    }

    /// Refuses a second row of this statement with the same unique key.
    fn give(&mut self, batch: &RecordBatch, at: usize) -> SqlResult<()> {
        for (key, _, _, own) in entries_of(&self.plan.table, batch, at)? {
            if own && !self.given.insert(key.clone()) {
                return Err(self.duplicate(&key));
            }
        }
        Ok(())
    }

    /// Rows before, and the new values of the assigned columns behind them.
    pub(super) async fn change(
        &mut self,
        batch: &RecordBatch,
        assigned: &[usize],
    ) -> SqlResult<()> {
        let table = &self.plan.table;
        let width = table.columns.len();
        let batch = self.first_of_each(batch, strength_of(table, assigned)).await?;
        let old: Vec<ArrayRef> = batch.columns()[..width].to_vec();
        let mut new = old.clone();
        for (n, place) in assigned.iter().enumerate() {
            new[*place] = Arc::clone(batch.column(width + n));
        }
        let schema = table_schema(table);
        let old = RecordBatch::try_new(Arc::clone(&schema), old)?;
        let new = RecordBatch::try_new(schema, new)?;
        check_not_null(table, &new)?;
        for at in 0..new.num_rows() {
            self.give(&new, at)?;
            self.writes.update(table, (&old, &new), at, self.rows)?;
            self.rows += 1;
        }
        self.returned(&new)
    }

    async fn delete(&mut self, batch: &RecordBatch) -> SqlResult<()> {
        let batch = self.first_of_each(batch, LockStrength::Update).await?;
        let columns = batch.columns().to_vec();
        let batch = RecordBatch::try_new(table_schema(&self.plan.table), columns)?;
        for at in 0..batch.num_rows() {
            self.writes.delete(&self.plan.table, &batch, at)?;
            self.rows += 1;
        }
        self.returned(&batch)
    }

    /// Only the first row of each key, locked where that comes before writing.
    async fn first_of_each(
        &mut self,
        batch: &RecordBatch,
        strength: LockStrength,
    ) -> SqlResult<RecordBatch> {
        let batch = self.without_repeated(batch)?;
        if self.context.txn.locks_before_writing() && batch.num_rows() > 0 {
            let table = &self.plan.table;
            let key = |row| {
                let source = BatchRow { table, batch: &batch, row };
                crate::row::primary_key(table, &|id| source.value(id))
            };
            let keys = (0..batch.num_rows()).map(key).collect::<SqlResult<_>>()?;
            self.context.txn.lock(keys, RowLock::of_write(strength)).await?;
        }
        Ok(batch)
    }

    fn without_repeated(&mut self, batch: &RecordBatch) -> SqlResult<RecordBatch> {
        let table = &self.plan.table;
        let mut kept = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let source = BatchRow { table, batch, row };
            let key = crate::row::primary_key(table, &|id| source.value(id))?;
            if self.seen.insert(key) {
                kept.push(row as u64);
            }
        }
        if kept.len() == batch.num_rows() {
            return Ok(batch.clone());
        }
        Ok(take_record_batch(batch, &UInt64Array::from(kept))?)
    }

    /// Keeps what RETURNING may show.
    fn returned(&mut self, batch: &RecordBatch) -> SqlResult<()> {
        if self.plan.returning.is_some() && batch.num_rows() > 0 {
            let columns = self.plan.table.columns.iter().enumerate();
            let shown: Vec<usize> = columns.filter(|(_, c)| !c.hidden).map(|(i, _)| i).collect();
            let batch = batch.project(&shown)?;
            let fields = self.plan.table.visible_columns();
            let fields: Vec<_> = fields.map(|c| c.ty.field(&c.name, c.nullable)).collect();
            let schema = Arc::new(Schema::new(fields));
            self.returned.push(RecordBatch::try_new(schema, batch.columns().to_vec())?);
        }
        Ok(())
    }

    /// Checks unique keys.
    async fn check(&self) -> SqlResult<()> {
        let txn = &self.context.txn;
        let checks_now = !txn.checks_at_commit() || self.plan.returning.is_some();
        if checks_now {
            let wanted = self.writes.wanted();
            for some in wanted.chunks(GETS_PER_REQUEST) {
                let keys: Vec<Bytes> = some.iter().map(|w| w.key.clone()).collect();
                let values = txn.get(keys).await?;
                if let Some(at) = values.iter().position(Option::is_some) {
                    return Err(self.duplicate(&some[at].key));
                }
            }
        }
        Ok(())
    }

    /// Buffers the writes.
    fn write(self) -> SqlResult<(usize, Vec<RecordBatch>)> {
        for op in self.writes.into_ops() {
            self.context.txn.write(op)?;
        }
        Ok((self.rows, self.returned))
    }

    fn duplicate(&self, key: &[u8]) -> SqlError {
        match describe_key(&self.context.catalog, key) {
            Some(description) => description.unique_violation(),
            None => SqlError::new(
                SqlState::UNIQUE_VIOLATION,
                "duplicate key value violates unique constraint",
            ),
        }
    }
}

/// The lock of a row some columns of which change: the strongest if they may be what other tables
/// refer to it by, as in PostgreSQL.
fn strength_of(table: &TableDef, assigned: &[usize]) -> LockStrength {
    let unique = table.indexes.iter().filter(|index| index.unique);
    let mut parts = unique.flat_map(|index| &index.columns);
    let changes =
        parts.any(|part| table.position(part.column).is_some_and(|i| assigned.contains(&i)));
    if changes { LockStrength::Update } else { LockStrength::NoKeyUpdate }
}

/// The schema of a table's rows, hidden columns and NULLs included: constraints are ours to check.
fn table_schema(table: &TableDef) -> SchemaRef {
    let fields: Vec<_> = table.columns.iter().map(|c| c.ty.field(&c.name, true)).collect();
    Arc::new(Schema::new(fields))
}

/// The rows with the hidden row id filled in where a table has one.
fn with_row_ids(table: &TableDef, batch: RecordBatch) -> SqlResult<RecordBatch> {
    let mut columns = batch.columns().to_vec();
    for (place, column) in table.columns.iter().enumerate() {
        if column.hidden {
            columns[place] = row_ids(batch.num_rows())?;
        }
    }
    debug_assert!(table.indexes[0].id == IndexId::PRIMARY, "the first index is the primary key");
    Ok(RecordBatch::try_new(table_schema(table), columns)?)
}

/// Row ids no other row has.
fn row_ids(rows: usize) -> SqlResult<ArrayRef> {
    let mut builder = datafusion::arrow::array::FixedSizeBinaryBuilder::with_capacity(rows, 16);
    for _ in 0..rows {
        builder.append_value(uuid::Uuid::new_v4().as_bytes())?;
    }
    Ok(Arc::new(builder.finish()))
}
