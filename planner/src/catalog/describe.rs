//! A key in words: `Key (a, b)=(1, 2)`, for the DETAIL of unique violations and conflicts.

use quorate_txn::keys;

use super::defs::{IndexId, TableId};
use super::snapshot::CatalogSnapshot;
use crate::error::{SqlError, SqlState};
use crate::keyenc;
use crate::types::text;

/// What a key says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyDescription {
    /// The table.
    pub table: String,
    /// The index, or the constraint it stands for.
    pub index: String,
    /// The index's columns.
    pub columns: Vec<String>,
    /// Their values as text, `null` for NULL.
    pub values: Vec<String>,
}

impl KeyDescription {
    /// `(a, b)=(1, 2)`
    pub fn key(&self) -> String {
        format!("({})=({})", self.columns.join(", "), self.values.join(", "))
    }

    /// `23505` for a row that is there already.
    pub fn unique_violation(&self) -> SqlError {
        SqlError::new(
            SqlState::UNIQUE_VIOLATION,
            format!("duplicate key value violates unique constraint \"{}\"", self.index),
        )
        .with_detail(format!("Key {} already exists.", self.key()))
        .on_table(self.table.clone())
        .on_constraint(self.index.clone())
    }

    /// `40001` for a row that somebody else changed.
    pub fn conflict(&self) -> SqlError {
        SqlError::new(
            SqlState::SERIALIZATION_FAILURE,
            "could not serialize access due to concurrent update",
        )
        .with_detail(format!("Key {} of table \"{}\".", self.key(), self.table))
        .with_hint("Run the transaction again.")
        .on_table(self.table.clone())
    }
}

/// What a key of the table keyspace says; `None` if it is of no table in the catalog.
pub fn describe_key(catalog: &CatalogSnapshot, key: &[u8]) -> Option<KeyDescription> {
    let (storage, index) = keys::table_and_index(key)?;
    let table = catalog.table_of_storage(TableId(storage))?;
    let index = table.index(IndexId(index))?;
    let mut rest = key.strip_prefix(table.index_prefix(index.id).as_ref())?;
    let mut columns = Vec::new();
    let mut values = Vec::new();
    for part in &index.columns {
        let column = table.column(part.column)?;
        let (value, after) = keyenc::decode(rest, column.ty).ok()?;
        rest = after;
        let scalar = value.to_scalar(column.ty).ok()?;
        columns.push(column.name.clone());
        values.push(text::to_text(&scalar, column.ty).ok()?.unwrap_or_else(|| "null".into()));
    }
    Some(KeyDescription { table: table.name.clone(), index: index.name.clone(), columns, values })
}
