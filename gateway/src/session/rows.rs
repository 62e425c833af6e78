//! Rows on their way to a client, a batch at a time.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::Schema;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::EmptyRecordBatchStream;
use datafusion::physical_plan::memory::MemoryStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use quorate_planner::error::SqlError;
use quorate_planner::types::PgType;

use super::OutColumn;

/// Bytes of rows that are taken before the first is given out.
const TAKEN_BYTES_MAX: usize = 64 << 20;

/// A result that is fetched as the client takes it.
pub struct RowSource {
    /// What the columns are.
    pub columns: Arc<[OutColumn]>,
    stream: SendableRecordBatchStream,
    batch: Option<RecordBatch>,
    next_row: usize,
}

impl RowSource {
    /// Rows of this stream.
    pub fn new(columns: Arc<[OutColumn]>, stream: SendableRecordBatchStream) -> Self {
        Self { columns, stream, batch: None, next_row: 0 }
    }

    /// Rows of this stream, all taken now. What does not fit into memory is left to come later.
    pub async fn taken(
        columns: Arc<[OutColumn]>,
        mut stream: SendableRecordBatchStream,
    ) -> Result<Self, SqlError> {
        let (mut batches, mut bytes) = (Vec::new(), 0);
        while bytes < TAKEN_BYTES_MAX {
            let Some(batch) = stream.next().await.transpose()? else { break };
            bytes += batch.get_array_memory_size();
            batches.push(Ok(batch));
        }
        let schema = stream.schema();
        let rest = futures::stream::iter(batches).chain(stream);
        Ok(Self::new(columns, Box::pin(RecordBatchStreamAdapter::new(schema, rest))))
    }

    /// Rows of text, one column a name.
    pub fn of_texts(names: &[&str], rows: Vec<Vec<String>>) -> Result<Self, SqlError> {
        let fields: Vec<_> = names.iter().map(|n| PgType::Text.field(*n, false)).collect();
        let schema = Arc::new(Schema::new(fields));
        let column = |i: usize| -> ArrayRef {
            Arc::new(rows.iter().map(|row| row.get(i).cloned()).collect::<StringArray>())
        };
        let batch = RecordBatch::try_new(schema.clone(), (0..names.len()).map(column).collect())?;
        let stream = MemoryStream::try_new(vec![batch], schema, None)?;
        Ok(Self::new(text_columns(names), Box::pin(stream)))
    }

    /// One number, or NULL.
    pub fn of_number(name: &str, number: Option<i64>) -> Result<Self, SqlError> {
        let schema = Arc::new(Schema::new(vec![PgType::Int8.field(name, true)]));
        let column: ArrayRef = Arc::new(Int64Array::from(vec![number]));
        let batch = RecordBatch::try_new(schema.clone(), vec![column])?;
        let stream = MemoryStream::try_new(vec![batch], schema, None)?;
        Ok(Self::new(columns_of(&[name], PgType::Int8), Box::pin(stream)))
    }

    /// Makes sure the current batch has a row left; `false` at the end.
    async fn fill(&mut self) -> Result<bool, SqlError> {
        loop {
            if self.batch.as_ref().is_some_and(|b| self.next_row < b.num_rows()) {
                return Ok(true);
            }
            match self.stream.next().await {
                Some(batch) => {
                    self.batch = Some(batch.map_err(SqlError::from)?);
                    self.next_row = 0;
                }
                None => {
                    self.batch = None;
                    // What the rows came from is not kept for as long as a portal lives.
                    let schema = self.stream.schema();
                    self.stream = Box::pin(EmptyRecordBatchStream::new(schema));
                    return Ok(false);
                }
            }
        }
    }

    /// The next row, as its batch and place in it.
    pub async fn next(&mut self) -> Result<Option<(&RecordBatch, usize)>, SqlError> {
        if !self.fill().await? {
            return Ok(None);
        }
        let row = self.next_row;
        self.next_row += 1;
        Ok(self.batch.as_ref().map(|batch| (batch, row)))
    }

    /// Whether every row was taken. May fetch a batch to know.
    pub async fn is_exhausted(&mut self) -> Result<bool, SqlError> {
        Ok(!self.fill().await?)
    }
}

/// Columns of text.
pub fn text_columns(names: &[&str]) -> Arc<[OutColumn]> {
    columns_of(names, PgType::Text)
}

/// Columns of one type.
pub fn columns_of(names: &[&str], ty: PgType) -> Arc<[OutColumn]> {
    let column =
        |name: &&str| OutColumn { name: (*name).to_string(), ty, table_oid: 0, column_no: 0 };
    names.iter().map(column).collect()
}
