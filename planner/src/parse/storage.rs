//! `ALTER TABLE … SET (…)` and `RESET (…)`: storage parameters.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::StatementKind;
use super::commands::Reader;
use crate::catalog::{DdlOp, TableOptions};
use crate::error::SqlResult;

/// The statement after `ALTER`; `None` if it is another one.
pub(super) fn alter(r: &mut Reader<'_>) -> SqlResult<Option<StatementKind>> {
    if !r.take("table") {
        return Ok(None);
    }
    let if_exists = r.take_all(&["if", "exists"]);
    r.take("only");
    let table = r.object()?;
    let set = r.take("set");
    if !(set || r.take("reset")) || !r.take_token(&Token::LParen) {
        return Ok(None);
    }
    let mut given = Vec::new();
    loop {
        let mut name = r.name()?;
        while r.take_token(&Token::Period) {
            name = format!("{name}.{}", r.name()?);
        }
        let value = match set {
            true => Some(value(r)?),
            false => None,
        };
        given.push((name, value));
        if r.take_token(&Token::RParen) {
            break;
        }
        if !r.take_token(&Token::Comma) {
            return Err(r.error());
        }
    }
    r.end()?;
    let mut options = TableOptions::default();
    for (name, value) in &given {
        options.take(name, value.as_deref())?;
    }
    Ok(Some(StatementKind::Ddl(DdlOp::SetOptions { table, if_exists, options })))
}

/// A value after `=`; a parameter that stands alone is switched on.
fn value(r: &mut Reader<'_>) -> SqlResult<String> {
    if !r.take_token(&Token::Eq) {
        return Ok(String::from("true"));
    }
    let error = r.error();
    match r.next().map(|t| &t.token) {
        Some(Token::Number(n, _)) => Ok(n.clone()),
        Some(Token::SingleQuotedString(s) | Token::EscapedStringLiteral(s)) => Ok(s.clone()),
        Some(Token::Word(w)) => Ok(w.value.to_lowercase()),
        _ => Err(error),
    }
}
