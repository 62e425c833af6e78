//! What is written for a row: its own key and the entries of its indexes, with the constraints.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;

use crate::catalog::{IndexId, TableDef};
use crate::error::{SqlError, SqlResult, SqlState};
use crate::exec::fetch::BatchRow;
use crate::keyenc::Datum;
use crate::kv::WriteOp;
use crate::row;
use crate::types::text::to_text;

/// A key that must hold nothing else, and the row that wants it.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The key.
    pub key: Bytes,
    /// The index it is a key of.
    pub index: IndexId,
    /// The row, counted over the statement.
    pub row: usize,
}

/// The writes of one statement.
///
/// # Invariants
///
/// * A key is deleted before it is put: a row may take the key another row of the statement gives
///   up.
/// * No two rows of the statement want the same unique key.
#[derive(Debug, Default)]
pub struct Writes {
    deletes: HashSet<Bytes>,
    puts: BTreeMap<Bytes, Bytes>,
    /// Keys that must hold nothing.
    wanted: Vec<Wanted>,
}

/// The entries of one row: key, value, index, and whether the key must be its own.
type Entries = Vec<(Bytes, Bytes, IndexId, bool)>;

/// All entries of a row, the row itself first.
pub fn entries_of(table: &TableDef, batch: &RecordBatch, row: usize) -> SqlResult<Entries> {
    let source = BatchRow { table, batch, row };
    let value_of = |id| source.value(id);
    let (key, value) = row::primary_entry(table, &value_of)?;
    let mut entries = vec![(key, value, IndexId::PRIMARY, true)];
    for index in table.indexes.iter().filter(|index| index.id != IndexId::PRIMARY) {
        let (key, value) = row::index_entry(table, index, &value_of)?;
        let mut own = index.unique;
        for part in &index.columns {
            own &= !matches!(value_of(part.column)?, Datum::Null);
        }
        entries.push((key, value, index.id, own));
    }
    Ok(entries)
}

impl Writes {
    /// A new row; `row` counts rows over the statement.
    pub fn insert(
        &mut self,
        table: &TableDef,
        batch: &RecordBatch,
        at: usize,
        row: usize,
    ) -> SqlResult<()> {
        for (key, value, index, own) in entries_of(table, batch, at)? {
            self.put(key, value, index, own, row)?;
        }
        Ok(())
    }

    fn put(
        &mut self,
        key: Bytes,
        value: Bytes,
        index: IndexId,
        own: bool,
        row: usize,
    ) -> SqlResult<()> {
        if own {
            if self.puts.contains_key(&key) {
                return Err(SqlError::internal("two rows want the same key"));
            }
            self.wanted.push(Wanted { key: key.clone(), index, row });
        }
        self.puts.insert(key, value);
        Ok(())
    }

    /// Whether a row of this statement already has the key.
    pub fn holds(&self, key: &Bytes) -> bool {
        self.puts.contains_key(key)
    }

    /// A row that goes.
    pub fn delete(&mut self, table: &TableDef, batch: &RecordBatch, at: usize) -> SqlResult<()> {
        for (key, ..) in entries_of(table, batch, at)? {
            self.deletes.insert(key);
        }
        Ok(())
    }

    /// A row that changes: only entries that differ are written.
    pub fn update(
        &mut self,
        table: &TableDef,
        (old, new): (&RecordBatch, &RecordBatch),
        at: usize,
        row: usize,
    ) -> SqlResult<()> {
        let before = entries_of(table, old, at)?;
        let after = entries_of(table, new, at)?;
        for ((old_key, old_value, ..), (key, value, index, own)) in before.into_iter().zip(after) {
            if old_key != key {
                self.deletes.insert(old_key);
                self.put(key, value, index, own, row)?;
            } else if old_value != value || index == IndexId::PRIMARY {
                // The row itself is written even if unchanged: whoever updates it too conflicts.
                self.puts.insert(key, value);
            }
        }
        Ok(())
    }

    /// Keys that must hold nothing, apart from those the statement empties itself.
    pub fn wanted(&self) -> Vec<Wanted> {
        let emptied = |w: &&Wanted| !self.deletes.contains(&w.key);
        self.wanted.iter().filter(emptied).cloned().collect()
    }

    /// The writes, deletes first.
    pub fn into_ops(self) -> Vec<WriteOp> {
        let own: HashSet<Bytes> = self.wanted.into_iter().map(|w| w.key).collect();
        let mut ops = Vec::with_capacity(self.deletes.len() + self.puts.len());
        let gone = self.deletes.iter().filter(|key| !self.puts.contains_key(*key));
        ops.extend(gone.map(|key| WriteOp::delete(key.clone())));
        for (key, value) in self.puts {
            let must_be_absent = own.contains(&key) && !self.deletes.contains(&key);
            ops.push(WriteOp { key, value: Some(value), must_be_absent });
        }
        ops
    }
}

/// `23502` if a NOT NULL column is NULL in a row.
pub fn check_not_null(table: &TableDef, batch: &RecordBatch) -> SqlResult<()> {
    for (column, array) in table.columns.iter().zip(batch.columns()) {
        if column.nullable || column.hidden || array.null_count() == 0 {
            continue;
        }
        let Some(row) = (0..array.len()).find(|row| array.is_null(*row)) else { continue };
        let message = format!(
            "null value in column \"{}\" of relation \"{}\" violates not-null constraint",
            column.name, table.name
        );
        return Err(SqlError::new(SqlState::NOT_NULL_VIOLATION, message)
            .with_detail(format!("Failing row contains ({}).", row_text(table, batch, row)?))
            .on_table(table.name.clone())
            .on_column(column.name.clone()));
    }
    Ok(())
}

fn row_text(table: &TableDef, batch: &RecordBatch, row: usize) -> SqlResult<String> {
    let mut cells = Vec::new();
    for (column, array) in table.columns.iter().zip(batch.columns()) {
        if column.hidden {
            continue;
        }
        let value = datafusion::common::ScalarValue::try_from_array(array, row)?;
        cells.push(to_text(&value, column.ty)?.unwrap_or_else(|| "null".into()));
    }
    Ok(cells.join(", "))
}
