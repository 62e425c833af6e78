//! Where in the text an error found by planning belongs.
//!
//! Planning works on a tree without places, so an error that names something is placed where its
//! name stands among the tokens: a column where no call or alias stands, a function before its
//! bracket, a table behind FROM, a literal where its text stands.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::tokens::{position, word};
use crate::error::{SqlError, SqlState};

/// Words before the name of a table.
const BEFORE_TABLE: [&str; 8] = ["from", "join", "into", "update", "only", "table", "using", "of"];

/// Tokens and what is looked for among them.
struct Place<'a> {
    tokens: &'a [TokenWithSpan],
}

/// The error with its place, if it has none yet and its words tell of one.
pub(super) fn located(error: SqlError, tokens: &[TokenWithSpan], text: &str) -> SqlError {
    if error.position.is_some() {
        return error;
    }
    match (Place { tokens }).of(&error) {
        Some(at) => {
            let place = position(text, tokens[at].span.start);
            error.at(place)
        }
        None => error,
    }
}

/// The part of a message between the first pair of double quotes.
fn quoted(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once('"')?;
    rest.rsplit_once('"').map(|(name, _)| name)
}

fn first_quoted(message: &str) -> Option<&str> {
    message.split('"').nth(1)
}

impl Place<'_> {
    fn of(&self, error: &SqlError) -> Option<usize> {
        let message = error.message.as_str();
        match error.sqlstate {
            SqlState::UNDEFINED_COLUMN if message.contains("of relation") => {
                self.name(first_quoted(message)?)
            }
            SqlState::UNDEFINED_COLUMN | SqlState::AMBIGUOUS_COLUMN => {
                match first_quoted(message) {
                    Some(name) => self.name(name),
                    None => self.dotted(message.strip_prefix("column ")?.split(' ').next()?),
                }
            }
            SqlState::UNDEFINED_TABLE if message.starts_with("missing FROM-clause") => {
                self.qualifier(first_quoted(message)?)
            }
            SqlState::UNDEFINED_TABLE => self.table(first_quoted(message)?),
            SqlState::UNDEFINED_FUNCTION | SqlState::AMBIGUOUS_FUNCTION => {
                match message.strip_prefix("function ") {
                    Some(rest) => self.call(rest.split(['(', ' ']).next()?),
                    None => self.operator(message),
                }
            }
            SqlState::GROUPING_ERROR => match message.strip_prefix("column \"") {
                Some(rest) => self.dotted(rest.split('"').next()?),
                None => None,
            },
            SqlState::INVALID_TEXT_REPRESENTATION
            | SqlState::INVALID_DATETIME_FORMAT
            | SqlState::DATETIME_FIELD_OVERFLOW
            | SqlState::INVALID_TIME_ZONE_DISPLACEMENT
            | SqlState::NUMERIC_VALUE_OUT_OF_RANGE => self.literal(quoted(message)?),
            SqlState::UNDEFINED_OBJECT => self.name(first_quoted(message)?),
            _ => None,
        }
    }

    fn find(&self, fits: impl Fn(usize) -> bool) -> Option<usize> {
        (0..self.tokens.len()).find(|i| fits(*i))
    }

    fn is(&self, i: usize, name: &str) -> bool {
        match self.tokens.get(i).map(|t| &t.token) {
            Some(Token::Word(w)) if w.quote_style.is_some() => w.value == name,
            Some(Token::Word(w)) => w.value.to_lowercase() == name,
            _ => false,
        }
    }

    fn token(&self, i: Option<usize>) -> Option<&Token> {
        i.and_then(|i| self.tokens.get(i)).map(|t| &t.token)
    }

    /// A name that is no function and no alias; of a qualified one, the qualifier.
    fn name(&self, name: &str) -> Option<usize> {
        let after_as = |i: usize| {
            i.checked_sub(1).and_then(|i| self.tokens.get(i)).and_then(word).as_deref()
                == Some("as")
        };
        let plain = |i: usize| self.token(Some(i + 1)) != Some(&Token::LParen) && !after_as(i);
        let found = self
            .find(|i| self.is(i, name) && plain(i))
            .or_else(|| self.find(|i| self.is(i, name)))?;
        match found.checked_sub(2) {
            Some(before) if self.token(found.checked_sub(1)) == Some(&Token::Period) => {
                Some(before)
            }
            _ => Some(found),
        }
    }

    /// `a.b`, or `b`.
    fn dotted(&self, name: &str) -> Option<usize> {
        let Some((table, column)) = name.rsplit_once('.') else { return self.name(name) };
        let pair = |i: usize| {
            self.is(i, table)
                && self.token(Some(i + 1)) == Some(&Token::Period)
                && self.is(i + 2, column)
        };
        self.find(pair).or_else(|| self.name(column))
    }

    fn qualifier(&self, table: &str) -> Option<usize> {
        self.find(|i| self.is(i, table) && self.token(Some(i + 1)) == Some(&Token::Period))
    }

    fn table(&self, name: &str) -> Option<usize> {
        let last = name.rsplit('.').next().unwrap_or(name);
        let first = name.split('.').next().unwrap_or(name);
        let behind = |i: usize| match self.token(i.checked_sub(1)) {
            Some(Token::Word(w)) => {
                w.quote_style.is_none() && BEFORE_TABLE.contains(&w.value.to_lowercase().as_str())
            }
            _ => false,
        };
        let is = |i: usize| self.is(i, first) || self.is(i, last);
        let listed = |i: usize| {
            self.token(i.checked_sub(1)) == Some(&Token::Comma)
                && self.token(Some(i + 1)) != Some(&Token::Period)
        };
        self.find(|i| is(i) && behind(i))
            .or_else(|| self.find(|i| is(i) && listed(i)))
            .or_else(|| self.find(is))
    }

    fn call(&self, name: &str) -> Option<usize> {
        self.find(|i| self.is(i, name) && self.token(Some(i + 1)) == Some(&Token::LParen))
    }

    /// `operator does not exist: integer + boolean`
    fn operator(&self, message: &str) -> Option<usize> {
        let (_, call) = message.split_once(": ")?;
        let symbol = call.split(' ').find(|part| {
            !part.is_empty() && part.chars().all(|c| "+-*/<>=~!@#%^&|`?".contains(c))
        })?;
        // Two spellings of one operator.
        let same = |shown: &str| shown == symbol || (symbol == "<>" && shown == "!=");
        self.find(|i| self.token(Some(i)).is_some_and(|t| same(&t.to_string())))
    }

    fn literal(&self, text: &str) -> Option<usize> {
        self.find(|i| match self.token(Some(i)) {
            Some(Token::SingleQuotedString(s) | Token::EscapedStringLiteral(s)) => {
                s == text || s.trim() == text
            }
            _ => false,
        })
    }
}
