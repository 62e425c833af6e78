//! `information_schema` and `pg_catalog`: tables of rows made from the catalog, as far as clients
//! and shells ask for them.

mod empty;
mod information;
mod parts;
mod pg;

pub use empty::is_empty;

use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::ScalarValue;

use crate::catalog::CatalogSnapshot;
use crate::error::SqlResult;
use crate::exec::values::{Rows, ValuesTable};
use crate::types::PgType;

/// What the tables tell about.
pub(crate) struct About<'a> {
    /// The tables.
    pub catalog: &'a Arc<CatalogSnapshot>,
    /// The database's name.
    pub database: &'a str,
}

/// A table in the making.
pub(crate) struct Relation {
    columns: &'static [(&'static str, PgType)],
    rows: Vec<Vec<ScalarValue>>,
}

impl Relation {
    pub(crate) fn new(columns: &'static [(&'static str, PgType)]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    pub(crate) fn push(&mut self, row: Vec<ScalarValue>) {
        debug_assert_eq!(row.len(), self.columns.len(), "a row has a value for each column");
        self.rows.push(row);
    }

    fn finish(self) -> SqlResult<ValuesTable> {
        let fields = self.columns.iter().map(|(name, ty)| ty.field(*name, true));
        let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let mut columns = Vec::with_capacity(self.columns.len());
        for (i, (_, ty)) in self.columns.iter().enumerate() {
            if self.rows.is_empty() {
                columns.push(datafusion::arrow::array::new_empty_array(&ty.arrow()));
                continue;
            }
            let cells = self.rows.iter().map(|row| match &row[i] {
                ScalarValue::Null => ScalarValue::try_from(&ty.arrow()),
                value => Ok(value.clone()),
            });
            columns.push(ScalarValue::iter_to_array(cells.collect::<Result<Vec<_>, _>>()?)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows.len()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options)?;
        Ok(ValuesTable { schema, rows: Rows::Fixed(batch) })
    }
}

pub(crate) fn text(value: impl Into<String>) -> ScalarValue {
    ScalarValue::Utf8(Some(value.into()))
}

pub(crate) fn yes(value: bool) -> ScalarValue {
    text(if value { "YES" } else { "NO" })
}

pub(crate) fn int(value: i32) -> ScalarValue {
    ScalarValue::Int32(Some(value))
}

pub(crate) fn small(value: i16) -> ScalarValue {
    ScalarValue::Int16(Some(value))
}

pub(crate) fn boolean(value: bool) -> ScalarValue {
    ScalarValue::Boolean(Some(value))
}

pub(crate) fn float(value: f32) -> ScalarValue {
    ScalarValue::Float32(Some(value))
}

pub(crate) fn oid(value: u32) -> ScalarValue {
    ScalarValue::UInt32(Some(value))
}

/// A table of one of the two schemas; `None` if there is no such table.
pub fn table(
    schema: &str,
    name: &str,
    catalog: &Arc<CatalogSnapshot>,
    database: &str,
) -> SqlResult<Option<ValuesTable>> {
    let about = About { catalog, database };
    let relation = match schema {
        "information_schema" => information::relation(name, &about),
        "pg_catalog" => pg::relation(name, &about)
            .or_else(|| parts::relation(name, &about))
            .or_else(|| empty::relation(name)),
        _ => None,
    };
    relation.map(Relation::finish).transpose()
}
