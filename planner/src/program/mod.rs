//! Scan programs: the part of a scan that runs beside the data (filter, projection, limit), as
//! bytes that a gateway sends with a scan and a node runs over the rows it reads.
//!
//! A program is the layout of the rows, a filter over the columns decoded, the columns to put out
//! and a limit. The filter is DataFusion's physical expression in its own protobuf form, with
//! parameters replaced by their values; functions travel by name and must be ones every node has.
//! The output is an Arrow IPC stream.

mod codec;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::ipc::writer::StreamWriter;
use datafusion::physical_expr::PhysicalExpr;
use serde::{Deserialize, Serialize};

use crate::error::{SqlError, SqlResult};
use crate::exec::fetch::RowReader;
use crate::exec::scan::evaluate_filter;
use crate::row::{RowLayout, TableDecoder};

/// Rows that are decoded before the filter looks at them.
const BATCH_ROWS: usize = 1024;

/// The first byte of every program.
const VERSION: u8 = 1;

/// Bytes a program may have.
const PROGRAM_BYTES_MAX: usize = 1 << 20;

/// A program in the form it travels in. Parameters are already replaced by their values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanProgram {
    bytes: Bytes,
}

impl ScanProgram {
    /// A program from its bytes; they are looked at only when an engine starts it.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into() }
    }

    /// The bytes to send.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// What a program's bytes hold, after the version.
#[derive(Serialize, Deserialize)]
struct Parts {
    layout: RowLayout,
    filter: Vec<u8>,
    projection: Vec<usize>,
    limit: Option<u64>,
}

/// A program for a scan; `None` if its filter cannot travel.
pub fn build(
    reader: &RowReader,
    filter: &Arc<dyn PhysicalExpr>,
    projection: &[usize],
    limit: Option<usize>,
) -> SqlResult<Option<Arc<ScanProgram>>> {
    let Some(filter) = codec::encode(filter)? else { return Ok(None) };
    let parts = Parts {
        layout: reader.row_layout().clone(),
        filter,
        projection: projection.to_vec(),
        limit: limit.map(|n| n as u64),
    };
    let mut bytes = vec![VERSION];
    serde_json::to_writer(&mut bytes, &parts)
        .map_err(|error| SqlError::internal(format!("a scan program: {error}")))?;
    Ok((bytes.len() <= PROGRAM_BYTES_MAX).then(|| Arc::new(ScanProgram::from_bytes(bytes))))
}

/// The batches of a program's output, which must have this schema.
pub fn decode_output(schema: &SchemaRef, output: &[u8]) -> SqlResult<Vec<RecordBatch>> {
    if output.is_empty() {
        return Ok(Vec::new());
    }
    let reader = StreamReader::try_new(output, None)?;
    let mut batches = Vec::new();
    for batch in reader {
        let columns = batch?;
        let options = datafusion::arrow::array::RecordBatchOptions::new()
            .with_row_count(Some(columns.num_rows()));
        batches.push(RecordBatch::try_new_with_options(
            Arc::clone(schema),
            columns.columns().to_vec(),
            &options,
        )?);
    }
    Ok(batches)
}

/// Runs programs. Whatever the bytes, it answers an error and never panics.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProgramEngine;

impl ProgramEngine {
    /// An engine.
    pub fn new() -> Self {
        Self
    }

    /// Starts a program over the rows of one page.
    pub fn start(&self, program: &[u8]) -> SqlResult<ProgramRun> {
        let bad = |why: String| SqlError::corrupt(format!("a scan program is damaged: {why}"));
        if program.len() > PROGRAM_BYTES_MAX {
            return Err(bad("it is too long".into()));
        }
        let body = match program.split_first() {
            Some((&VERSION, body)) => body,
            _ => return Err(bad("its version is unknown".into())),
        };
        let parts: Parts = serde_json::from_slice(body).map_err(|error| bad(error.to_string()))?;
        let schema = parts.layout.schema();
        if parts.projection.iter().any(|i| *i >= schema.fields().len()) {
            return Err(bad("it puts out a column it does not read".into()));
        }
        let filter = guarded(|| codec::decode(&parts.filter, &schema))?;
        let projected = Arc::new(schema.project(&parts.projection)?);
        Ok(ProgramRun {
            decoder: TableDecoder::new(parts.layout)?,
            filter,
            projection: parts.projection,
            left: parts.limit,
            schema: projected,
            done: Vec::new(),
        })
    }
}

/// Turns a panic of a library into an error.
fn guarded<T>(work: impl FnOnce() -> SqlResult<T>) -> SqlResult<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(SqlError::corrupt("a scan program broke down")))
}

/// A program at work on the rows of one page.
pub struct ProgramRun {
    decoder: TableDecoder,
    filter: Arc<dyn PhysicalExpr>,
    projection: Vec<usize>,
    /// Rows that may still be put out.
    left: Option<u64>,
    schema: SchemaRef,
    done: Vec<RecordBatch>,
}

impl ProgramRun {
    /// Takes a row; whether more are wanted.
    pub fn row(&mut self, key: &[u8], value: &[u8]) -> SqlResult<bool> {
        if self.left == Some(0) {
            return Ok(false);
        }
        self.decoder.append(key, value)?;
        // With a limit, rows beyond the one that fills it should not be read.
        let wanted = self.left.map_or(BATCH_ROWS, |left| {
            usize::try_from(left).unwrap_or(BATCH_ROWS).clamp(1, BATCH_ROWS)
        });
        if self.decoder.rows() >= wanted {
            self.flush()?;
        }
        Ok(self.left != Some(0))
    }

    /// Filters and projects what was decoded since the last time.
    fn flush(&mut self) -> SqlResult<()> {
        if self.decoder.rows() == 0 {
            return Ok(());
        }
        let batch = self.decoder.finish()?;
        let mask = guarded(|| evaluate_filter(&self.filter, &batch))?;
        let mut kept = filter_record_batch(&batch, &mask)?.project(&self.projection)?;
        if let Some(left) = &mut self.left {
            let rows = kept.num_rows().min(usize::try_from(*left).unwrap_or(usize::MAX));
            kept = kept.slice(0, rows);
            *left -= rows as u64;
        }
        if kept.num_rows() > 0 {
            self.done.push(kept);
        }
        Ok(())
    }

    /// What came out, and an end to the run.
    pub fn output(&mut self) -> SqlResult<Bytes> {
        self.flush()?;
        let batches = std::mem::take(&mut self.done);
        if batches.is_empty() {
            return Ok(Bytes::new());
        }
        let mut writer = StreamWriter::try_new(Vec::new(), &self.schema)?;
        for batch in &batches {
            writer.write(batch)?;
        }
        Ok(writer.into_inner()?.into())
    }
}
