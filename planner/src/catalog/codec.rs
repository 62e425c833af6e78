//! The rows of the system keyspace that keep the catalog.
//!
//! One row per table, under its id: a format byte and the definition as JSON. One row for the
//! version of the whole, which every DDL statement writes, so that two of them conflict.

use bytes::Bytes;
use quorate_txn::keys;

use super::defs::{TableDef, TableId};
use super::snapshot::CatalogSnapshot;
use crate::error::{SqlError, SqlResult};
use crate::kv::{Span, WriteOp};

/// Class of the catalog's rows in the system keyspace.
const CATALOG_CLASS: u8 = 0x10;
/// Under the class: the version.
const VERSION_TAG: u8 = 0x00;
/// Under the class: tables.
const TABLE_TAG: u8 = 0x01;
/// The first byte of every value.
const FORMAT: u8 = 1;

/// The keys of the whole catalog.
pub fn catalog_span() -> Span {
    let start = keys::system_prefix(CATALOG_CLASS);
    let end = keys::prefix_end(&start);
    Span::new(start, end)
}

/// The row every DDL statement reads and writes.
pub fn version_key() -> Bytes {
    keys::system_key(CATALOG_CLASS, &[VERSION_TAG])
}

/// The row of a table.
pub fn table_key(id: TableId) -> Bytes {
    let mut rest = vec![TABLE_TAG];
    rest.extend_from_slice(&id.0.to_be_bytes());
    keys::system_key(CATALOG_CLASS, &rest)
}

/// The write that makes `version` the catalog's.
pub fn put_version(version: u64) -> WriteOp {
    let mut value = vec![FORMAT];
    value.extend_from_slice(&version.to_be_bytes());
    WriteOp::put(version_key(), value)
}

/// The write that keeps a definition.
pub fn put_table(table: &TableDef) -> SqlResult<WriteOp> {
    let mut value = vec![FORMAT];
    serde_json::to_writer(&mut value, table)
        .map_err(|e| SqlError::internal(format!("a table definition: {e}")))?;
    Ok(WriteOp::put(table_key(table.id), value))
}

/// The version in a row of [`version_key`]; 0 if there is none yet.
pub fn decode_version(value: Option<&[u8]>) -> SqlResult<u64> {
    let Some(value) = value else { return Ok(0) };
    match value.split_first() {
        Some((&FORMAT, rest)) => rest
            .try_into()
            .map(u64::from_be_bytes)
            .map_err(|_| SqlError::corrupt("the catalog's version is damaged")),
        _ => Err(SqlError::corrupt("the catalog's version has an unknown format")),
    }
}

/// The catalog from all rows of [`catalog_span`].
pub fn decode_catalog<'a>(
    rows: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) -> SqlResult<CatalogSnapshot> {
    let mut version = 0;
    let mut tables = Vec::new();
    let prefix = keys::system_prefix(CATALOG_CLASS);
    for (key, value) in rows {
        let rest = key
            .strip_prefix(prefix.as_ref())
            .ok_or_else(|| SqlError::corrupt("a row that is not of the catalog"))?;
        match rest.first() {
            Some(&VERSION_TAG) => version = decode_version(Some(value))?,
            Some(&TABLE_TAG) => tables.push(decode_table(value)?),
            _ => return Err(SqlError::corrupt("an unknown row in the catalog")),
        }
    }
    CatalogSnapshot::new(version, tables)
}

/// A definition from its row.
pub fn decode_table(value: &[u8]) -> SqlResult<TableDef> {
    let Some((&FORMAT, json)) = value.split_first() else {
        return Err(SqlError::corrupt("a table definition of an unknown format"));
    };
    serde_json::from_slice(json)
        .map_err(|e| SqlError::corrupt(format!("a table definition is damaged: {e}")))
}
