//! From stored rows and index entries to Arrow: only the columns somebody needs are decoded.

use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;

use crate::catalog::{ColumnDef, ColumnId, IndexId, TableDef};
use crate::error::{SqlError, SqlResult};
use crate::keyenc::{self, Datum};
use crate::row::{self, ColumnBuilder, RowLayout, TableDecoder};

/// Appends a value of a column's type as a key column.
pub fn encode_key_value(
    key: &mut Vec<u8>,
    column: &ColumnDef,
    value: &ScalarValue,
) -> SqlResult<()> {
    keyenc::encode_scalar(value, column.ty, key)
}

/// Reads some columns of a table's rows.
#[derive(Debug)]
pub struct RowReader {
    table: Arc<TableDef>,
    /// Places in the table of the columns read, ascending.
    columns: Vec<usize>,
    layout: RowLayout,
    schema: SchemaRef,
}

impl RowReader {
    /// A reader of the columns at these places of the table.
    pub fn new(table: Arc<TableDef>, columns: Vec<usize>) -> SqlResult<Self> {
        let ids: Vec<ColumnId> = columns.iter().map(|i| table.columns[*i].id).collect();
        let layout = RowLayout::new(&table, &ids)?;
        Ok(Self { schema: layout.schema(), table, columns, layout })
    }

    /// The table.
    pub fn table(&self) -> &Arc<TableDef> {
        &self.table
    }

    /// Places in the table of the columns read.
    pub fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// The schema of what is read.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// How the rows lie, for a scan program.
    pub fn row_layout(&self) -> &RowLayout {
        &self.layout
    }

    /// Where a column of the table is in what is read.
    pub fn place_of(&self, column: usize) -> Option<usize> {
        self.columns.iter().position(|c| *c == column)
    }

    /// Decodes rows.
    pub fn decode(&self, rows: &[(Bytes, Bytes)]) -> SqlResult<RecordBatch> {
        let mut decoder = TableDecoder::new(self.layout.clone())?;
        for (key, value) in rows {
            decoder.append(key, value)?;
        }
        decoder.finish()
    }

    /// Decodes entries of a secondary index that hold every column read.
    pub fn decode_entries(
        &self,
        index: IndexId,
        entries: &[(Bytes, Bytes)],
    ) -> SqlResult<RecordBatch> {
        let index = self.index(index)?;
        let columns = self.columns.iter().map(|i| &self.table.columns[*i]);
        let mut builders = columns
            .clone()
            .map(|c| ColumnBuilder::new(c.ty, entries.len()))
            .collect::<SqlResult<Vec<_>>>()?;
        for (key, value) in entries {
            let held = row::index_columns(&self.table, index, key, value)?;
            for (column, builder) in columns.clone().zip(&mut builders) {
                let found = held.iter().find(|(id, _)| *id == column.id);
                let (_, value) =
                    found.ok_or_else(|| SqlError::internal("an index does not hold a column"))?;
                builder.append(value)?;
            }
        }
        let arrays = builders.iter_mut().map(ColumnBuilder::finish).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(entries.len()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)?)
    }

    /// The keys of the rows that index entries stand for, in their order, with empty values.
    pub fn entry_rows(
        &self,
        index: IndexId,
        entries: Vec<(Bytes, Bytes)>,
    ) -> SqlResult<Vec<(Bytes, Bytes)>> {
        let index = self.index(index)?;
        let key = |(key, value): (Bytes, Bytes)| {
            let row = row::primary_key_of_entry(&self.table, index, &key, &value)?;
            Ok((row, Bytes::new()))
        };
        entries.into_iter().map(key).collect()
    }

    fn index(&self, index: IndexId) -> SqlResult<&crate::catalog::IndexDef> {
        let found = self.table.index(index);
        found.ok_or_else(|| SqlError::internal("the index of a plan is gone"))
    }
}

/// A row of a batch, by column id: what keys and rows are encoded from.
pub struct BatchRow<'a> {
    /// The table.
    pub table: &'a TableDef,
    /// Its columns, in its order.
    pub batch: &'a RecordBatch,
    /// Which row.
    pub row: usize,
}

impl<'a> BatchRow<'a> {
    /// A column's value.
    pub fn value(&self, id: ColumnId) -> SqlResult<Datum<'a>> {
        let place = self
            .table
            .position(id)
            .filter(|place| *place < self.batch.num_columns())
            .ok_or_else(|| SqlError::internal("a row without one of its columns"))?;
        Datum::of_cell(self.batch.column(place).as_ref(), self.row)
    }
}
