//! The entries of a new index for rows that are there already.

use std::collections::HashMap;

use bytes::Bytes;

use crate::catalog::{CatalogSnapshot, IndexDef, TableDef, describe_key};
use crate::error::{SqlError, SqlResult, SqlState};
use crate::exec::fetch::{BatchRow, RowReader};
use crate::kv::WriteOp;
use crate::row;
use std::sync::Arc;

/// The entries of `index` for a page of the table's rows. Entries of a unique index must be absent:
/// one that is there already, or twice in the page, is a violation.
pub fn backfill(
    table: &Arc<TableDef>,
    index: &IndexDef,
    rows: &[(Bytes, Bytes)],
) -> SqlResult<Vec<WriteOp>> {
    let all = (0..table.columns.len()).collect();
    let batch = RowReader::new(Arc::clone(table), all)?.decode(rows)?;
    let mut seen: HashMap<Bytes, usize> = HashMap::new();
    let mut ops = Vec::with_capacity(rows.len());
    for at in 0..batch.num_rows() {
        let source = BatchRow { table, batch: &batch, row: at };
        let (key, value) = row::index_entry(table, index, &|id| source.value(id))?;
        if index.unique && seen.insert(key.clone(), at).is_some() {
            return Err(violation(None, index, &key));
        }
        ops.push(WriteOp { key, value: Some(value), must_be_absent: index.unique });
    }
    Ok(ops)
}

/// `23505` for an index that cannot be unique, as CREATE UNIQUE INDEX says it.
pub fn violation(catalog: Option<&CatalogSnapshot>, index: &IndexDef, key: &[u8]) -> SqlError {
    let message = format!("could not create unique index \"{}\"", index.name);
    let error =
        SqlError::new(SqlState::UNIQUE_VIOLATION, message).on_constraint(index.name.clone());
    match catalog.and_then(|catalog| describe_key(catalog, key)) {
        Some(key) => error.with_detail(format!("Key {} is duplicated.", key.key())),
        None => error,
    }
}
