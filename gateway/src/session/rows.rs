//! Rows on their way to a client, a batch at a time.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use quorate_planner::error::SqlError;

use super::OutColumn;

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
