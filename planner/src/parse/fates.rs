//! `SELECT txn_status('token')` and its kind: functions that tell how transactions end. They ask
//! more than tables, so each stands alone in its `SELECT`; elsewhere it is not known.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::commands::Reader;
use super::tokens::word;

/// The function that is asked, and what its result is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fate {
    /// The function.
    pub query: FateQuery,
    /// The name of the column: the alias, or the function as it was called.
    pub column: String,
}

/// A function that tells how transactions end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FateQuery {
    /// `txn_status('token')`
    TxnStatus(TokenSource),
    /// `pg_xact_status(id)`, `txid_status(id)`
    XactStatus(TokenSource),
    /// `pg_current_xact_id()`, and `pg_current_xact_id_if_assigned()`, which does not give an id to
    /// a transaction that has written nothing.
    XactId {
        /// Give it one.
        assign: bool,
    },
}

/// Where the token of `txn_status`, or the id of `pg_xact_status`, comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// It stands there.
    Text(String),
    /// It is the client's first parameter.
    Parameter,
}

/// Their names.
pub(crate) const FUNCTIONS: &[&str] = &[
    "txn_status",
    "pg_xact_status",
    "txid_status",
    "pg_current_xact_id",
    "txid_current",
    "pg_current_xact_id_if_assigned",
    "txid_current_if_assigned",
];

/// What the tokens behind `SELECT` ask for, if they are one of these functions and nothing else.
pub(super) fn fate(r: &mut Reader<'_>) -> Option<Fate> {
    let name = word(r.next()?).filter(|name| FUNCTIONS.contains(&name.as_str()))?;
    if !r.take_token(&Token::LParen) {
        return None;
    }
    let query = match name.as_str() {
        "txn_status" => FateQuery::TxnStatus(source(r, false)?),
        "pg_xact_status" | "txid_status" => FateQuery::XactStatus(source(r, true)?),
        name => FateQuery::XactId { assign: !name.ends_with("_if_assigned") },
    };
    if !r.take_token(&Token::RParen) {
        return None;
    }
    let column = match r.take("as") {
        true => r.name().ok()?,
        false => name,
    };
    r.end().ok()?;
    Some(Fate { query, column })
}

fn source(r: &mut Reader<'_>, number: bool) -> Option<TokenSource> {
    match &r.next()?.token {
        Token::SingleQuotedString(text) => Some(TokenSource::Text(text.clone())),
        Token::Number(text, _) if number => Some(TokenSource::Text(text.clone())),
        Token::Placeholder(name) if name == "$1" => Some(TokenSource::Parameter),
        _ => None,
    }
}
