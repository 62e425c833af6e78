//! `ALTER TABLE … SPLIT AT VALUES (…), …`: where ranges are to be cut.

use bytes::Bytes;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::StatementKind;
use super::commands::Reader;
use crate::catalog::{CatalogSnapshot, IndexDef, TableDef};
use crate::error::{SqlError, SqlResult, SqlState};
use crate::keyenc::{self, Datum};
use crate::types::text;

/// What is split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SplitTarget {
    /// The rows of a table.
    Table(String),
    /// The entries of an index.
    Index(String),
}

/// The statement after `ALTER`; `None` if it is another one.
pub(super) fn split_at(r: &mut Reader<'_>) -> SqlResult<Option<StatementKind>> {
    let table = r.take("table");
    if !table && !r.take("index") {
        return Ok(None);
    }
    let name = r.object()?;
    if !r.take("split") {
        return Ok(None);
    }
    if !r.take("at") || !r.take("values") {
        return Err(r.error());
    }
    let mut rows = Vec::new();
    loop {
        rows.push(row(r)?);
        if !r.take_token(&Token::Comma) {
            break;
        }
    }
    let target = if table { SplitTarget::Table(name) } else { SplitTarget::Index(name) };
    Ok(Some(StatementKind::SplitAt(target, rows)))
}

fn row(r: &mut Reader<'_>) -> SqlResult<Vec<Option<String>>> {
    if !r.take_token(&Token::LParen) {
        return Err(r.error());
    }
    let mut values = Vec::new();
    loop {
        if r.take("null") {
            values.push(None);
        } else {
            let sign = if r.take_token(&Token::Minus) { "-" } else { "" };
            let error = r.error();
            values.push(Some(match r.next().map(|t| &t.token) {
                Some(Token::Number(n, _)) => format!("{sign}{n}"),
                Some(Token::SingleQuotedString(s) | Token::EscapedStringLiteral(s))
                    if sign.is_empty() =>
                {
                    s.clone()
                }
                Some(Token::Word(w)) if w.value.eq_ignore_ascii_case("true") => "true".into(),
                Some(Token::Word(w)) if w.value.eq_ignore_ascii_case("false") => "false".into(),
                _ => return Err(error),
            }));
        }
        if r.take_token(&Token::RParen) {
            return Ok(values);
        }
        if !r.take_token(&Token::Comma) {
            return Err(r.error());
        }
    }
}

/// The keys to cut at: one for each row of values, which are the first columns of the key.
pub fn split_keys(
    catalog: &CatalogSnapshot,
    target: &SplitTarget,
    rows: &[Vec<Option<String>>],
) -> SqlResult<Vec<Bytes>> {
    let (table, index): (&TableDef, &IndexDef) = match target {
        SplitTarget::Table(name) => {
            let table = catalog.expect_table(name)?;
            (table, table.primary())
        }
        SplitTarget::Index(name) => {
            let (table, index) = catalog.index(name).ok_or_else(|| {
                SqlError::new(
                    SqlState::UNDEFINED_OBJECT,
                    format!("index \"{name}\" does not exist"),
                )
            })?;
            (table, index)
        }
    };
    rows.iter().map(|row| split_key(table, index, row)).collect()
}

fn split_key(table: &TableDef, index: &IndexDef, row: &[Option<String>]) -> SqlResult<Bytes> {
    if row.len() > index.columns.len() {
        return Err(SqlError::syntax(format!(
            "SPLIT AT gives {} values, the key has {} columns",
            row.len(),
            index.columns.len()
        )));
    }
    let mut key = table.index_prefix(index.id).to_vec();
    for (part, value) in index.columns.iter().zip(row) {
        let column = table
            .column(part.column)
            .ok_or_else(|| SqlError::internal("an index of an unknown column"))?;
        match value {
            Some(value) => {
                keyenc::encode_scalar(&text::from_text(value, column.ty)?, column.ty, &mut key)?;
            }
            None => keyenc::encode(&Datum::Null, column.ty, &mut key)?,
        }
    }
    Ok(key.into())
}
