//! `SELECT txn_status('token')` and its kind: functions that tell how transactions end. They ask
//! more than tables, so each stands alone in its `SELECT`; elsewhere it is not known.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::commands::Reader;
use super::tokens::{is_word, word};
use crate::error::{SqlError, SqlResult, SqlState};

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

/// Types a token may be cast to, and an id.
const TEXTS: [&str; 2] = ["text", "varchar"];
const NUMBERS: [&str; 3] = ["xid8", "bigint", "int8"];

/// What the tokens behind `SELECT` ask for, if they are one of these functions and nothing else.
///
/// # Errors
/// `0A000` for an argument that is computed, `42883` for one where none is taken.
pub(super) fn fate(r: &mut Reader<'_>) -> SqlResult<Option<Fate>> {
    let named = r.next().and_then(word).filter(|name| FUNCTIONS.contains(&name.as_str()));
    let Some(name) = named else { return Ok(None) };
    if !r.take_token(&Token::LParen) {
        return Ok(None);
    }
    let Some(arguments) = r.until_closed() else { return Ok(None) };
    let Some(alias) = alias(r) else { return Ok(None) };
    let given = |types| source(arguments, types).ok_or_else(|| not_given(&name, r, arguments));
    let query = match name.as_str() {
        "txn_status" => FateQuery::TxnStatus(given(&TEXTS)?),
        "pg_xact_status" | "txid_status" => FateQuery::XactStatus(given(&NUMBERS)?),
        _ if !arguments.is_empty() => {
            let message = format!("function {name} with arguments does not exist");
            let error = SqlError::new(SqlState::UNDEFINED_FUNCTION, message);
            return Err(error.with_hint(format!("It has none: SELECT {name}()")));
        }
        name => FateQuery::XactId { assign: !name.ends_with("_if_assigned") },
    };
    Ok(Some(Fate { query, column: alias.unwrap_or(name) }))
}

/// The alias behind a call, if nothing else is there; `Some(None)`: nothing at all.
fn alias(r: &mut Reader<'_>) -> Option<Option<String>> {
    let name = match r.peek().map(|t| &t.token) {
        None => return Some(None),
        _ if r.take("as") => r.name().ok()?,
        Some(Token::Word(word)) if word.keyword == Keyword::NoKeyword => r.name().ok()?,
        Some(_) => return None,
    };
    r.end().ok()?;
    Some(Some(name))
}

/// A literal or the client's first parameter, cast to one of these types or not at all.
fn source(arguments: &[TokenWithSpan], types: &[&str]) -> Option<TokenSource> {
    let is_type = |token: &TokenWithSpan| types.iter().any(|ty| is_word(Some(token), ty));
    let given = match arguments {
        [given] => given,
        [given, colons, ty] if colons.token == Token::DoubleColon && is_type(ty) => given,
        [cast, open, given, by, ty, close]
            if is_word(Some(cast), "cast")
                && open.token == Token::LParen
                && is_word(Some(by), "as")
                && is_type(ty)
                && close.token == Token::RParen =>
        {
            given
        }
        _ => return None,
    };
    match &given.token {
        Token::SingleQuotedString(text) => Some(TokenSource::Text(text.clone())),
        Token::Number(text, _) if types == NUMBERS => Some(TokenSource::Text(text.clone())),
        Token::Placeholder(name) if name == "$1" => Some(TokenSource::Parameter),
        _ => None,
    }
}

fn not_given(name: &str, r: &Reader<'_>, arguments: &[TokenWithSpan]) -> SqlError {
    let what = format_args!("{name}() of anything but one literal or one parameter");
    let error = SqlError::unsupported(what)
        .with_hint(format!("Compute it before: SELECT {name}('…') or SELECT {name}($1)"));
    match arguments.first() {
        Some(first) => error.at(r.position(first)),
        None => error,
    }
}
