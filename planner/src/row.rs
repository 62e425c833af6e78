//! Rows as keys and values, and back into Arrow arrays.
//!
//! A row of a table is its primary key, and as value the other columns: a version byte, how many
//! columns follow, a bitmap of those that are NULL, and for each its id (as the difference to the
//! one before) and, unless it is NULL, the length and bytes of its value. Columns that are not
//! there were added later. Numbers are variable-length (seven bits a byte, the lowest first).
//!
//! Columns of the primary key whose key bytes do not tell everything (the digits a `numeric`
//! shows, the sign of a float's zero) are in the value too.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder,
    FixedSizeBinaryBuilder, Float32Builder, Float64Builder, Int16Builder, Int32Builder,
    Int64Builder, IntervalMonthDayNanoBuilder, LargeBinaryBuilder, LargeStringBuilder, NullBuilder,
    RecordBatch, RecordBatchOptions, StringBuilder, TimestampMicrosecondBuilder, UInt32Builder,
};
use datafusion::arrow::datatypes::{Schema, SchemaRef};

use crate::catalog::{ColumnId, IndexDef, IndexId, TableDef};
use crate::error::{SqlError, SqlResult, SqlState};
use crate::keyenc::{self, Datum};
use crate::types::datetime::Interval;
use crate::types::numeric::Numeric;
use crate::types::{PgType, cell};

/// The first byte of every value.
const VERSION: u8 = 1;

fn corrupt(what: &str) -> SqlError {
    SqlError::corrupt(format!("a stored row is damaged: {what}"))
}

/// The columns kept in the value of a table's rows, by ascending id.
pub fn value_columns(table: &TableDef) -> Vec<ColumnId> {
    let in_key = |id| table.primary().columns.iter().any(|c| c.column == id);
    let lossy = |ty| matches!(ty, PgType::Numeric(None) | PgType::Float4 | PgType::Float8);
    let mut ids: Vec<ColumnId> =
        table.columns.iter().filter(|c| !in_key(c.id) || lossy(c.ty)).map(|c| c.id).collect();
    ids.sort_unstable();
    ids
}

/// The key of the row whose columns `value_of` gives.
pub fn primary_key<'a>(
    table: &TableDef,
    value_of: &dyn Fn(ColumnId) -> SqlResult<Datum<'a>>,
) -> SqlResult<Bytes> {
    let mut key = table.index_prefix(IndexId::PRIMARY).to_vec();
    for part in &table.primary().columns {
        keyenc::encode(&value_of(part.column)?, column_type(table, part.column)?, &mut key)?;
    }
    Ok(key.into())
}

/// Key and value of a row.
pub fn primary_entry<'a>(
    table: &TableDef,
    value_of: &dyn Fn(ColumnId) -> SqlResult<Datum<'a>>,
) -> SqlResult<(Bytes, Bytes)> {
    let key = primary_key(table, value_of)?;
    Ok((key, encode_columns(table, &value_columns(table), value_of)?))
}

/// Key and value of a row's entry in a secondary index.
pub fn index_entry<'a>(
    table: &TableDef,
    index: &IndexDef,
    value_of: &dyn Fn(ColumnId) -> SqlResult<Datum<'a>>,
) -> SqlResult<(Bytes, Bytes)> {
    let mut key = table.index_prefix(index.id).to_vec();
    let mut any_null = false;
    for part in &index.columns {
        let value = value_of(part.column)?;
        any_null |= matches!(value, Datum::Null);
        keyenc::encode(&value, column_type(table, part.column)?, &mut key)?;
    }
    let suffix = table.key_suffix(index);
    if !index.unique || any_null {
        for id in &suffix {
            keyenc::encode(&value_of(*id)?, column_type(table, *id)?, &mut key)?;
        }
        return Ok((key.into(), encode_columns(table, &[], value_of)?));
    }
    Ok((key.into(), encode_columns(table, &suffix, value_of)?))
}

/// The key of the row that an entry of a secondary index stands for.
pub fn primary_key_of_entry(
    table: &TableDef,
    index: &IndexDef,
    key: &[u8],
    value: &[u8],
) -> SqlResult<Bytes> {
    let values = index_columns(table, index, key, value)?;
    primary_key(table, &|id| {
        values
            .iter()
            .find(|(known, _)| *known == id)
            .map(|(_, value)| value.clone())
            .ok_or_else(|| corrupt("an index entry without a part of the key"))
    })
}

/// All columns an index entry holds: the index's own and the primary key's.
pub fn index_columns<'a>(
    table: &TableDef,
    index: &IndexDef,
    key: &[u8],
    value: &'a [u8],
) -> SqlResult<Vec<(ColumnId, Datum<'a>)>> {
    let prefix = table.index_prefix(index.id);
    let mut rest = key.strip_prefix(prefix.as_ref()).ok_or_else(|| corrupt("another index"))?;
    let mut out = Vec::new();
    for part in &index.columns {
        let (value, after) = keyenc::decode(rest, column_type(table, part.column)?)?;
        out.push((part.column, value));
        rest = after;
    }
    let suffix = table.key_suffix(index);
    let in_key = !rest.is_empty();
    if in_key {
        for id in &suffix {
            let (value, after) = keyenc::decode(rest, column_type(table, *id)?)?;
            out.push((*id, value));
            rest = after;
        }
        if !rest.is_empty() {
            return Err(corrupt("a key with bytes left over"));
        }
        return Ok(out);
    }
    let mut found = Vec::new();
    read_columns(value, |id, bytes| {
        found.push((id, bytes));
        Ok(())
    })?;
    for id in suffix {
        let bytes = found.iter().find(|(known, _)| *known == id).and_then(|(_, bytes)| *bytes);
        let bytes = bytes.ok_or_else(|| corrupt("an index entry without a primary key"))?;
        out.push((id, value_from(bytes, column_type(table, id)?)?));
    }
    Ok(out)
}

fn column_type(table: &TableDef, id: ColumnId) -> SqlResult<PgType> {
    table
        .column(id)
        .map(|c| c.ty)
        .ok_or_else(|| SqlError::internal(format!("table {} has no column {id:?}", table.name)))
}

fn put_varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn take_varint(bytes: &mut &[u8]) -> SqlResult<u64> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or_else(|| corrupt("it ends early"))?;
        *bytes = rest;
        n |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Ok(n);
        }
    }
    Err(corrupt("a number is too long"))
}

fn encode_columns<'a>(
    table: &TableDef,
    columns: &[ColumnId],
    value_of: &dyn Fn(ColumnId) -> SqlResult<Datum<'a>>,
) -> SqlResult<Bytes> {
    let mut columns = columns.to_vec();
    columns.sort_unstable();
    let mut out = vec![VERSION];
    put_varint(columns.len() as u64, &mut out);
    let bitmap = out.len();
    out.resize(bitmap + columns.len().div_ceil(8), 0);
    let mut last = 0;
    let mut scratch = Vec::new();
    for (i, id) in columns.iter().enumerate() {
        put_varint(u64::from(id.0 - last), &mut out);
        last = id.0;
        let value = value_of(*id)?;
        if matches!(value, Datum::Null) {
            out[bitmap + i / 8] |= 1 << (i % 8);
            continue;
        }
        scratch.clear();
        value_bytes(&value, column_type(table, *id)?, &mut scratch)?;
        put_varint(scratch.len() as u64, &mut out);
        out.extend_from_slice(&scratch);
    }
    Ok(out.into())
}

/// Calls `each` for every column of a value: its id and bytes, `None` for NULL.
fn read_columns<'a>(
    value: &'a [u8],
    mut each: impl FnMut(ColumnId, Option<&'a [u8]>) -> SqlResult<()>,
) -> SqlResult<()> {
    let mut rest = match value.split_first() {
        Some((&VERSION, rest)) => rest,
        Some((version, _)) => return Err(corrupt(&format!("version {version} is unknown"))),
        None => return Err(corrupt("it is empty")),
    };
    let count =
        usize::try_from(take_varint(&mut rest)?).map_err(|_| corrupt("too many columns"))?;
    let (nulls, mut rest) =
        rest.split_at_checked(count.div_ceil(8)).ok_or_else(|| corrupt("it ends early"))?;
    let mut id = 0u32;
    for i in 0..count {
        let step = u32::try_from(take_varint(&mut rest)?).map_err(|_| corrupt("a column id"))?;
        id = id.checked_add(step).ok_or_else(|| corrupt("a column id"))?;
        if nulls[i / 8] >> (i % 8) & 1 == 1 {
            each(ColumnId(id), None)?;
            continue;
        }
        let length = usize::try_from(take_varint(&mut rest)?).map_err(|_| corrupt("a length"))?;
        let (bytes, after) =
            rest.split_at_checked(length).ok_or_else(|| corrupt("it ends early"))?;
        rest = after;
        each(ColumnId(id), Some(bytes))?;
    }
    if rest.is_empty() { Ok(()) } else { Err(corrupt("bytes are left over")) }
}

fn value_bytes(value: &Datum<'_>, ty: PgType, out: &mut Vec<u8>) -> SqlResult<()> {
    match value {
        Datum::Null => {}
        Datum::Bool(v) => out.push(u8::from(*v)),
        Datum::Int(v) => short_int(i128::from(*v), out),
        Datum::Decimal(v) => short_int(*v, out),
        Datum::Float4(v) => out.extend_from_slice(&v.to_le_bytes()),
        Datum::Float8(v) => out.extend_from_slice(&v.to_le_bytes()),
        Datum::Bytes(v) if matches!(ty, PgType::Char(_)) => {
            let end = v.iter().rposition(|b| *b != b' ').map_or(0, |i| i + 1);
            out.extend_from_slice(&v[..end]);
        }
        Datum::Bytes(v) => out.extend_from_slice(v),
        Datum::Interval(v) => {
            out.extend_from_slice(&v.months.to_le_bytes());
            out.extend_from_slice(&v.days.to_le_bytes());
            out.extend_from_slice(&v.micros.to_le_bytes());
        }
    }
    Ok(())
}

/// As few little-endian bytes as keep the sign.
fn short_int(value: i128, out: &mut Vec<u8>) {
    let bytes = value.to_le_bytes();
    let fill = if value < 0 { 0xFF } else { 0 };
    let mut length = 16;
    while length > 0
        && bytes[length - 1] == fill
        && (length == 1 || bytes[length - 2] >> 7 == fill >> 7)
        && !(length == 1 && value < 0)
    {
        length -= 1;
    }
    out.extend_from_slice(&bytes[..length]);
}

fn long_int(bytes: &[u8]) -> SqlResult<i128> {
    if bytes.len() > 16 {
        return Err(corrupt("an integer is too long"));
    }
    let fill = if bytes.last().is_some_and(|b| b >> 7 == 1) { 0xFF } else { 0 };
    let mut full = [fill; 16];
    full[..bytes.len()].copy_from_slice(bytes);
    Ok(i128::from_le_bytes(full))
}

/// A value from the bytes of a row.
fn value_from(bytes: &[u8], ty: PgType) -> SqlResult<Datum<'_>> {
    let wrong = || corrupt(&format!("no {ty}"));
    Ok(match ty {
        PgType::Bool => match bytes {
            [b @ 0..=1] => Datum::Bool(*b == 1),
            _ => return Err(wrong()),
        },
        PgType::Int2
        | PgType::Int4
        | PgType::Int8
        | PgType::Oid
        | PgType::Date
        | PgType::Timestamp
        | PgType::TimestampTz => Datum::Int(i64::try_from(long_int(bytes)?).map_err(|_| wrong())?),
        PgType::Numeric(Some(_)) => Datum::Decimal(long_int(bytes)?),
        PgType::Float4 => Datum::Float4(f32::from_le_bytes(bytes.try_into().map_err(|_| wrong())?)),
        PgType::Float8 => Datum::Float8(f64::from_le_bytes(bytes.try_into().map_err(|_| wrong())?)),
        PgType::Numeric(None) => {
            Numeric::from_bytes(bytes)?;
            Datum::Bytes(Cow::Borrowed(bytes))
        }
        PgType::Text | PgType::Varchar(_) | PgType::Name => {
            std::str::from_utf8(bytes).map_err(|_| wrong())?;
            Datum::Bytes(Cow::Borrowed(bytes))
        }
        PgType::Char(length) => {
            let text = std::str::from_utf8(bytes).map_err(|_| wrong())?;
            Datum::Bytes(match length {
                Some(n) => Cow::Owned(crate::types::text::pad_char(text, n).into_bytes()),
                None => Cow::Borrowed(bytes),
            })
        }
        PgType::Bytea => Datum::Bytes(Cow::Borrowed(bytes)),
        PgType::Uuid if bytes.len() == 16 => Datum::Bytes(Cow::Borrowed(bytes)),
        PgType::Interval if bytes.len() == 16 => Datum::Interval(Interval {
            months: i32::from_le_bytes(bytes[..4].try_into().map_err(|_| wrong())?),
            days: i32::from_le_bytes(bytes[4..8].try_into().map_err(|_| wrong())?),
            micros: i64::from_le_bytes(bytes[8..].try_into().map_err(|_| wrong())?),
        }),
        PgType::Uuid | PgType::Interval | PgType::Unknown | PgType::Void => return Err(wrong()),
    })
}

/// An Arrow array in the making, for the type of one column.
pub enum ColumnBuilder {
    /// `bool`
    Bool(BooleanBuilder),
    /// `int2`
    Int2(Int16Builder),
    /// `int4`
    Int4(Int32Builder),
    /// `int8`
    Int8(Int64Builder),
    /// `oid`
    Oid(UInt32Builder),
    /// `float4`
    Float4(Float32Builder),
    /// `float8`
    Float8(Float64Builder),
    /// `numeric(p,s)`
    Decimal(Decimal128Builder),
    /// `numeric`
    Numeric(LargeBinaryBuilder),
    /// `text`, `varchar`, `name`
    Text(StringBuilder),
    /// `char(n)`
    Char(LargeStringBuilder),
    /// `bytea`
    Bytea(BinaryBuilder),
    /// `date`
    Date(Date32Builder),
    /// `timestamp` and `timestamptz`
    Stamp(TimestampMicrosecondBuilder),
    /// `uuid`
    Uuid(FixedSizeBinaryBuilder),
    /// `interval`
    Interval(IntervalMonthDayNanoBuilder),
    /// No value but NULL
    Null(NullBuilder),
}

impl ColumnBuilder {
    /// An empty array of a type.
    pub fn new(ty: PgType, rows: usize) -> SqlResult<Self> {
        Ok(match ty {
            PgType::Bool => Self::Bool(BooleanBuilder::with_capacity(rows)),
            PgType::Int2 => Self::Int2(Int16Builder::with_capacity(rows)),
            PgType::Int4 => Self::Int4(Int32Builder::with_capacity(rows)),
            PgType::Int8 => Self::Int8(Int64Builder::with_capacity(rows)),
            PgType::Oid => Self::Oid(UInt32Builder::with_capacity(rows)),
            PgType::Float4 => Self::Float4(Float32Builder::with_capacity(rows)),
            PgType::Float8 => Self::Float8(Float64Builder::with_capacity(rows)),
            PgType::Numeric(Some((p, s))) => Self::Decimal(
                Decimal128Builder::with_capacity(rows).with_precision_and_scale(p, s)?,
            ),
            PgType::Numeric(None) => Self::Numeric(LargeBinaryBuilder::new()),
            PgType::Text | PgType::Varchar(_) | PgType::Name => Self::Text(StringBuilder::new()),
            PgType::Char(_) => Self::Char(LargeStringBuilder::new()),
            PgType::Bytea => Self::Bytea(BinaryBuilder::new()),
            PgType::Date => Self::Date(Date32Builder::with_capacity(rows)),
            PgType::Timestamp => Self::Stamp(TimestampMicrosecondBuilder::with_capacity(rows)),
            PgType::TimestampTz => Self::Stamp(
                TimestampMicrosecondBuilder::with_capacity(rows).with_timezone("+00:00"),
            ),
            PgType::Uuid => Self::Uuid(FixedSizeBinaryBuilder::with_capacity(rows, 16)),
            PgType::Interval => Self::Interval(IntervalMonthDayNanoBuilder::with_capacity(rows)),
            PgType::Unknown | PgType::Void => Self::Null(NullBuilder::new()),
        })
    }

    /// Appends a value; `XX001` if it is none of the column's type, `54000` if the column cannot
    /// hold as many bytes.
    pub fn append(&mut self, value: &Datum<'_>) -> SqlResult<()> {
        fn fits(held: usize, value: &[u8]) -> SqlResult<()> {
            if i32::try_from(held + value.len()).is_ok() {
                return Ok(());
            }
            let message = "the values of a batch of rows are larger than 2 GiB";
            Err(SqlError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, message))
        }
        fn int<T: TryFrom<i64>>(value: i64) -> SqlResult<T> {
            T::try_from(value).map_err(|_| corrupt("an integer is too large"))
        }
        fn string(value: &[u8]) -> SqlResult<&str> {
            std::str::from_utf8(value).map_err(|_| corrupt("text that is no UTF-8"))
        }
        match (self, value) {
            (builder, Datum::Null) => builder.append_null(),
            (Self::Bool(b), Datum::Bool(v)) => b.append_value(*v),
            (Self::Int2(b), Datum::Int(v)) => b.append_value(int(*v)?),
            (Self::Int4(b), Datum::Int(v)) => b.append_value(int(*v)?),
            (Self::Int8(b), Datum::Int(v)) => b.append_value(*v),
            (Self::Oid(b), Datum::Int(v)) => b.append_value(int(*v)?),
            (Self::Float4(b), Datum::Float4(v)) => b.append_value(*v),
            (Self::Float8(b), Datum::Float8(v)) => b.append_value(*v),
            (Self::Decimal(b), Datum::Decimal(v)) => b.append_value(*v),
            (Self::Numeric(b), Datum::Bytes(v)) => b.append_value(v),
            (Self::Text(b), Datum::Bytes(v)) => {
                fits(b.values_slice().len(), v)?;
                b.append_value(string(v)?);
            }
            (Self::Char(b), Datum::Bytes(v)) => b.append_value(string(v)?),
            (Self::Bytea(b), Datum::Bytes(v)) => {
                fits(b.values_slice().len(), v)?;
                b.append_value(v);
            }
            (Self::Date(b), Datum::Int(v)) => b.append_value(int(*v)?),
            (Self::Stamp(b), Datum::Int(v)) => b.append_value(*v),
            (Self::Uuid(b), Datum::Bytes(v)) => b.append_value(v)?,
            (Self::Interval(b), Datum::Interval(v)) => {
                b.append_value(cell::interval_to_arrow(*v)?);
            }
            _ => return Err(corrupt("a value of another type")),
        }
        Ok(())
    }

    fn append_null(&mut self) {
        match self {
            Self::Bool(b) => b.append_null(),
            Self::Int2(b) => b.append_null(),
            Self::Int4(b) => b.append_null(),
            Self::Int8(b) => b.append_null(),
            Self::Oid(b) => b.append_null(),
            Self::Float4(b) => b.append_null(),
            Self::Float8(b) => b.append_null(),
            Self::Decimal(b) => b.append_null(),
            Self::Numeric(b) => b.append_null(),
            Self::Text(b) => b.append_null(),
            Self::Char(b) => b.append_null(),
            Self::Bytea(b) => b.append_null(),
            Self::Date(b) => b.append_null(),
            Self::Stamp(b) => b.append_null(),
            Self::Uuid(b) => b.append_null(),
            Self::Interval(b) => b.append_null(),
            Self::Null(b) => b.append_null(),
        }
    }

    /// The array; the builder starts again.
    pub fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Bool(b) => Arc::new(b.finish()),
            Self::Int2(b) => Arc::new(b.finish()),
            Self::Int4(b) => Arc::new(b.finish()),
            Self::Int8(b) => Arc::new(b.finish()),
            Self::Oid(b) => Arc::new(b.finish()),
            Self::Float4(b) => Arc::new(b.finish()),
            Self::Float8(b) => Arc::new(b.finish()),
            Self::Decimal(b) => Arc::new(b.finish()),
            Self::Numeric(b) => Arc::new(b.finish()),
            Self::Text(b) => Arc::new(b.finish()),
            Self::Char(b) => Arc::new(b.finish()),
            Self::Bytea(b) => Arc::new(b.finish()),
            Self::Date(b) => Arc::new(b.finish()),
            Self::Stamp(b) => Arc::new(b.finish()),
            Self::Uuid(b) => Arc::new(b.finish()),
            Self::Interval(b) => Arc::new(b.finish()),
            Self::Null(b) => Arc::new(b.finish()),
        }
    }
}

/// Where a decoded column comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The n-th column of the key.
    Key(usize),
    /// The value.
    Value,
}

/// What a [`TableDecoder`] needs of a table: small, and sent along with scan programs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RowLayout {
    prefix: Vec<u8>,
    key: Vec<(ColumnId, PgType)>,
    /// The key columns of which the value knows more.
    in_both: Vec<ColumnId>,
    columns: Vec<(ColumnId, PgType, String, bool)>,
}

impl RowLayout {
    /// How the rows of a table lie, and which of their columns shall be decoded, in which order.
    pub fn new(table: &TableDef, projection: &[ColumnId]) -> SqlResult<Self> {
        let mut key = Vec::new();
        for part in &table.primary().columns {
            key.push((part.column, column_type(table, part.column)?));
        }
        let in_value = value_columns(table);
        let in_both = key.iter().map(|(id, _)| *id).filter(|id| in_value.contains(id)).collect();
        let mut columns = Vec::new();
        for id in projection {
            let column = table
                .column(*id)
                .ok_or_else(|| SqlError::internal("a projection of an unknown column"))?;
            columns.push((*id, column.ty, column.name.clone(), column.nullable));
        }
        let prefix = table.index_prefix(IndexId::PRIMARY).to_vec();
        Ok(Self { prefix, key, in_both, columns })
    }

    /// The Arrow schema of what is decoded; its fields remember their types.
    pub fn schema(&self) -> SchemaRef {
        let fields: Vec<_> =
            self.columns.iter().map(|(_, ty, name, nullable)| ty.field(name, *nullable)).collect();
        Arc::new(Schema::new(fields))
    }
}

/// Decodes rows of a table into a record batch.
pub struct TableDecoder {
    layout: RowLayout,
    schema: SchemaRef,
    sources: Vec<Source>,
    builders: Vec<ColumnBuilder>,
    /// Whether any column comes from the key, or from the value.
    reads_key: bool,
    reads_value: bool,
    rows: usize,
}

impl TableDecoder {
    /// A decoder of rows that lie as `layout` says.
    pub fn new(layout: RowLayout) -> SqlResult<Self> {
        let source = |id: &ColumnId| {
            let at = layout.key.iter().position(|(key, _)| key == id);
            match at.filter(|_| !layout.in_both.contains(id)) {
                Some(i) => Source::Key(i),
                None => Source::Value,
            }
        };
        let sources: Vec<Source> = layout.columns.iter().map(|(id, ..)| source(id)).collect();
        let builders = layout
            .columns
            .iter()
            .map(|(_, ty, ..)| ColumnBuilder::new(*ty, 0))
            .collect::<SqlResult<_>>()?;
        Ok(Self {
            schema: layout.schema(),
            reads_key: sources.iter().any(|s| *s != Source::Value),
            reads_value: sources.contains(&Source::Value),
            sources,
            builders,
            rows: 0,
            layout,
        })
    }

    /// The schema of the batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Rows since the last batch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Decodes one row. After an error the decoder must not be used again.
    pub fn append(&mut self, key: &[u8], value: &[u8]) -> SqlResult<()> {
        if self.reads_key {
            self.append_key(key)?;
        }
        if self.reads_value {
            self.append_value(value)?;
        }
        self.rows += 1;
        Ok(())
    }

    fn append_key(&mut self, key: &[u8]) -> SqlResult<()> {
        let mut rest = key
            .strip_prefix(self.layout.prefix.as_slice())
            .ok_or_else(|| corrupt("the key of another table"))?;
        for (i, (_, ty)) in self.layout.key.iter().enumerate() {
            let (value, after) = keyenc::decode(rest, *ty)?;
            rest = after;
            for (at, source) in self.sources.iter().enumerate() {
                if *source == Source::Key(i) {
                    self.builders[at].append(&value)?;
                }
            }
        }
        if rest.is_empty() { Ok(()) } else { Err(corrupt("a key with bytes left over")) }
    }

    fn append_value(&mut self, value: &[u8]) -> SqlResult<()> {
        let Self { layout, sources, builders, rows, .. } = self;
        let mut seen = 0usize;
        read_columns(value, |id, bytes| {
            for (at, (wanted, ty, ..)) in layout.columns.iter().enumerate() {
                if *wanted == id && sources[at] == Source::Value {
                    let value = match bytes {
                        Some(bytes) => value_from(bytes, *ty)?,
                        None => Datum::Null,
                    };
                    builders[at].append(&value)?;
                    seen += 1;
                }
            }
            Ok(())
        })?;
        let wanted = sources.iter().filter(|s| **s == Source::Value).count();
        if seen == wanted {
            return Ok(());
        }
        if seen > wanted {
            return Err(corrupt("a column twice"));
        }
        // Columns the row was written without.
        for (at, source) in sources.iter().enumerate() {
            if *source == Source::Value {
                let builder = &mut builders[at];
                if builder.len() == *rows {
                    builder.append_null();
                }
            }
        }
        Ok(())
    }

    /// The rows so far as a batch; the decoder starts again.
    pub fn finish(&mut self) -> SqlResult<RecordBatch> {
        let arrays = self.builders.iter_mut().map(ColumnBuilder::finish).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        self.rows = 0;
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)?)
    }
}

impl ColumnBuilder {
    fn len(&self) -> usize {
        use datafusion::arrow::array::ArrayBuilder;
        match self {
            Self::Bool(b) => b.len(),
            Self::Int2(b) => b.len(),
            Self::Int4(b) => b.len(),
            Self::Int8(b) => b.len(),
            Self::Oid(b) => b.len(),
            Self::Float4(b) => b.len(),
            Self::Float8(b) => b.len(),
            Self::Decimal(b) => b.len(),
            Self::Numeric(b) => b.len(),
            Self::Text(b) => b.len(),
            Self::Char(b) => b.len(),
            Self::Bytea(b) => b.len(),
            Self::Date(b) => b.len(),
            Self::Stamp(b) => b.len(),
            Self::Uuid(b) => b.len(),
            Self::Interval(b) => b.len(),
            Self::Null(b) => b.len(),
        }
    }
}

#[cfg(test)]
#[path = "row_tests.rs"]
mod tests;
