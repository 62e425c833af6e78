//! What goes to the client: errors, notices, row descriptions and rows.

use bytes::{BufMut, BytesMut};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::DataType;
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::data::{FieldDescription, RowDescription};
use pgwire::messages::response::{
    CommandComplete, ErrorResponse, NoticeResponse, ReadyForQuery, TransactionStatus,
};
use quorate_planner::error::{SqlError, SqlState};
use quorate_planner::types::{Format, PgType, encode_cell};

use crate::session::{Notice, OutColumn, Status};

/// The fields of an error (severity, SQLSTATE, message, …) in the protocol's order.
pub fn error(error: &SqlError, fatal: bool) -> PgWireBackendMessage {
    let severity = if fatal { "FATAL" } else { "ERROR" };
    let mut fields = vec![
        (b'S', severity.to_string()),
        (b'V', severity.to_string()),
        (b'C', error.sqlstate.code().to_string()),
        (b'M', clean(&error.message)),
    ];
    let mut optional = |code: u8, value: Option<String>| {
        if let Some(value) = value {
            fields.push((code, clean(&value)));
        }
    };
    optional(b'D', error.detail.clone());
    optional(b'H', error.hint.clone());
    optional(b'P', error.position.map(|p| p.to_string()));
    optional(b's', error.schema.clone());
    optional(b't', error.table.clone());
    optional(b'c', error.column.clone());
    optional(b'd', error.data_type.clone());
    optional(b'n', error.constraint.clone());
    PgWireBackendMessage::ErrorResponse(ErrorResponse::new(fields))
}

/// A notice or warning.
pub fn notice(notice: &Notice) -> PgWireBackendMessage {
    let fields = vec![
        (b'S', notice.severity.to_string()),
        (b'V', notice.severity.to_string()),
        (b'C', notice.sqlstate.code().to_string()),
        (b'M', clean(&notice.message)),
    ];
    PgWireBackendMessage::NoticeResponse(NoticeResponse::new(fields))
}

/// Strings travel ended by a zero byte, so they hold none.
fn clean(text: &str) -> String {
    text.replace('\0', "")
}

/// A protocol violation.
pub fn violation(message: impl Into<String>) -> SqlError {
    SqlError::new(SqlState::PROTOCOL_VIOLATION, message)
}

/// `ReadyForQuery` with the transaction's status.
pub fn ready(status: Status) -> PgWireBackendMessage {
    let status = match status {
        Status::Idle => TransactionStatus::Idle,
        Status::InTransaction => TransactionStatus::Transaction,
        Status::Failed => TransactionStatus::Error,
    };
    PgWireBackendMessage::ReadyForQuery(ReadyForQuery::new(status))
}

/// `CommandComplete`
pub fn complete(tag: String) -> PgWireBackendMessage {
    PgWireBackendMessage::CommandComplete(CommandComplete::new(tag))
}

/// How each result column shall travel: none given is text, one is for all.
pub fn column_formats(codes: &[i16], columns: usize) -> Result<Vec<Format>, SqlError> {
    let format = |code: &i16| match code {
        0 => Ok(Format::Text),
        1 => Ok(Format::Binary),
        other => Err(violation(format!("unsupported format code: {other}"))),
    };
    match codes {
        [] => Ok(vec![Format::Text; columns]),
        [one] => Ok(vec![format(one)?; columns]),
        many if many.len() == columns => many.iter().map(format).collect(),
        many => Err(violation(format!(
            "bind message has {} result formats but query has {columns} columns",
            many.len()
        ))),
    }
}

/// `RowDescription`
pub fn row_description(columns: &[OutColumn], formats: &[Format]) -> PgWireBackendMessage {
    let field = |(i, column): (usize, &OutColumn)| {
        let code = match formats.get(i) {
            Some(Format::Binary) => 1,
            Some(Format::Text) | None => 0,
        };
        FieldDescription::new(
            clean(&column.name),
            i32::from_be_bytes(column.table_oid.to_be_bytes()),
            column.column_no,
            column.ty.oid(),
            column.ty.typlen(),
            column.ty.typmod(),
            code,
        )
    };
    let fields = columns.iter().enumerate().map(field).collect();
    PgWireBackendMessage::RowDescription(RowDescription::new(fields))
}

/// Appends one `DataRow`, encoded in place.
pub fn data_row(
    output: &mut BytesMut,
    batch: &RecordBatch,
    row: usize,
    columns: &[(PgType, Format)],
    scratch: &mut Vec<u8>,
) -> Result<(), SqlError> {
    let start = output.len();
    output.put_u8(b'D');
    output.put_i32(0);
    output.put_i16(i16::try_from(columns.len()).map_err(|_| too_wide())?);
    for (array, (ty, format)) in batch.columns().iter().zip(columns) {
        // A column of nothing but NULLs has no map of them.
        if array.is_null(row) || *array.data_type() == DataType::Null {
            output.put_i32(-1);
            continue;
        }
        scratch.clear();
        if let Err(e) = encode_cell(array.as_ref(), row, *ty, *format, scratch) {
            output.truncate(start);
            return Err(e);
        }
        output.put_i32(i32::try_from(scratch.len()).map_err(|_| too_wide())?);
        output.put_slice(scratch);
    }
    let len = i32::try_from(output.len() - start - 1).map_err(|_| too_wide())?;
    output[start + 1..start + 5].copy_from_slice(&len.to_be_bytes());
    Ok(())
}

fn too_wide() -> SqlError {
    SqlError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, "a row is too wide for the protocol")
}
