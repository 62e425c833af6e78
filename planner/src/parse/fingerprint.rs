//! What makes two texts the same plan.
//!
//! Literals are lifted into parameters only where PostgreSQL would plan the same with any other
//! literal of the type: beside operators, in lists and VALUES, in WHERE, ON and SET. Ordinals,
//! LIMIT, typed literals, type modifiers, GROUP BY, ORDER BY, the select list and arguments of
//! functions stay. The fingerprint holds each literal's type class.

use std::fmt::Write;

use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::Literal;
use super::tokens::{position, word};
use crate::types::PgType;
use crate::types::numeric::Numeric;

/// Lifted literals of one statement, at most: a large INSERT is planned by its own text.
const LIFTED_MAX: usize = 512;

/// Words after which a literal may be lifted.
const BEFORE: [&str; 12] =
    ["and", "or", "not", "where", "between", "like", "ilike", "then", "else", "when", "in", "on"];

/// The highest `$n`.
pub fn highest_parameter(tokens: &[TokenWithSpan]) -> usize {
    let number = |t: &TokenWithSpan| match &t.token {
        Token::Placeholder(p) => p.strip_prefix('$')?.parse().ok(),
        _ => None,
    };
    tokens.iter().filter_map(number).max().unwrap_or(0)
}

/// Replaces literals by parameters where that is safe.
pub fn lift(
    mut tokens: Vec<TokenWithSpan>,
    params: usize,
    text: &str,
) -> (Vec<TokenWithSpan>, Vec<Literal>) {
    let first = tokens.first().and_then(word);
    let plain = matches!(first.as_deref(), Some("select" | "insert" | "update" | "delete"));
    if params > 0 || !plain {
        return (tokens, Vec::new());
    }
    let places = liftable_places(&tokens);
    if places.len() > LIFTED_MAX {
        return (tokens, Vec::new());
    }
    let mut lifted = Vec::new();
    for at in places {
        if let Some(mut literal) = literal_of(&tokens[at].token) {
            // Only a string can be found to be wrong when it is bound.
            if literal.ty.is_none() {
                literal.position = position(text, tokens[at].span.start);
            }
            lifted.push(literal);
            tokens[at].token = Token::Placeholder(format!("${}", lifted.len()));
        }
    }
    (tokens, lifted)
}

fn literal_of(token: &Token) -> Option<Literal> {
    match token {
        Token::SingleQuotedString(text) => {
            let value = ScalarValue::Utf8(Some(text.clone()));
            Some(Literal { ty: None, value, position: 0 })
        }
        Token::Number(digits, false) => number(digits),
        _ => None,
    }
}

fn number(digits: &str) -> Option<Literal> {
    if digits.bytes().all(|b| b.is_ascii_digit()) {
        if let Ok(n) = digits.parse::<i32>() {
            let value = ScalarValue::Int32(Some(n));
            return Some(Literal { ty: Some(PgType::Int4), value, position: 0 });
        }
        let n = digits.parse::<i64>().ok()?;
        let value = ScalarValue::Int64(Some(n));
        return Some(Literal { ty: Some(PgType::Int8), value, position: 0 });
    }
    if digits.bytes().any(|b| !b.is_ascii_digit() && b != b'.') {
        return None;
    }
    let Numeric::Finite { mantissa, scale } = Numeric::parse(digits).ok()? else { return None };
    let (mantissa, scale) = (mantissa.to_i128()?, i8::try_from(scale).ok()?);
    if mantissa.unsigned_abs() >= 10u128.pow(37) || scale > 37 {
        return None;
    }
    Some(Literal {
        ty: Some(PgType::Numeric(Some((38, scale)))),
        value: ScalarValue::Decimal128(Some(mantissa), 38, scale),
        position: 0,
    })
}

/// Places of literals that may be lifted.
fn liftable_places(tokens: &[TokenWithSpan]) -> Vec<usize> {
    let mut out = Vec::new();
    // One entry per open bracket: whether literals may be lifted there now.
    let mut open = vec![false];
    for (i, token) in tokens.iter().enumerate() {
        let here = open.last_mut();
        let Some(here) = here else { return Vec::new() };
        match &token.token {
            Token::LParen => {
                let inner = *here && opens_expression(tokens, i);
                open.push(inner);
            }
            Token::RParen => {
                open.pop();
            }
            Token::Word(w) if w.quote_style.is_none() => {
                match w.value.to_ascii_lowercase().as_str() {
                    "where" | "values" | "set" => *here = true,
                    "on" => *here = !is(tokens, i + 1, "conflict"),
                    "select" | "from" | "group" | "having" | "order" | "limit" | "offset"
                    | "fetch" | "returning" | "window" | "union" | "intersect" | "except"
                    | "over" | "join" | "for" => *here = false,
                    _ => {}
                }
            }
            Token::SingleQuotedString(_) | Token::Number(..)
                if *here && may_follow(tokens, i) && !casts(tokens, i) =>
            {
                out.push(i);
            }
            _ => {}
        }
    }
    out
}

fn is(tokens: &[TokenWithSpan], i: usize, what: &str) -> bool {
    super::tokens::is_word(tokens.get(i), what)
}

/// A literal that is cast is converted when it is planned, as PostgreSQL does.
fn casts(tokens: &[TokenWithSpan], i: usize) -> bool {
    matches!(
        tokens.get(i + 1).map(|t| &t.token),
        Some(Token::DoubleColon | Token::SingleQuotedString(_) | Token::LBracket)
    ) || is(tokens, i + 1, "at")
        || is(tokens, i + 1, "collate")
        || is(tokens, i + 1, "escape")
}

fn is_operator(token: &Token) -> bool {
    matches!(
        token,
        Token::Eq
            | Token::Neq
            | Token::Lt
            | Token::Gt
            | Token::LtEq
            | Token::GtEq
            | Token::Plus
            | Token::Minus
            | Token::Mul
            | Token::Div
            | Token::Mod
            | Token::StringConcat
    )
}

/// Whether a bracket opens an expression or a list of them, and not arguments or columns.
fn opens_expression(tokens: &[TokenWithSpan], i: usize) -> bool {
    let Some(before) = i.checked_sub(1).and_then(|i| tokens.get(i)) else { return false };
    match &before.token {
        Token::LParen | Token::Comma => true,
        token if is_operator(token) => true,
        Token::Word(w) if w.quote_style.is_none() => {
            let word = w.value.to_ascii_lowercase();
            word == "values" || BEFORE.contains(&word.as_str())
        }
        _ => false,
    }
}

fn may_follow(tokens: &[TokenWithSpan], i: usize) -> bool {
    let Some(before) = i.checked_sub(1).and_then(|i| tokens.get(i)) else { return false };
    match &before.token {
        Token::LParen | Token::Comma => true,
        token if is_operator(token) => true,
        Token::Word(w) if w.quote_style.is_none() => {
            BEFORE.contains(&w.value.to_ascii_lowercase().as_str())
        }
        _ => false,
    }
}

/// The fingerprint: the tokens, and the type class of each lifted literal.
pub fn fingerprint(tokens: &[TokenWithSpan], lifted: &[Literal]) -> String {
    let mut out = String::with_capacity(tokens.len() * 6);
    for token in tokens {
        match &token.token {
            Token::Word(w) if w.quote_style.is_none() => {
                out.extend(w.value.chars().flat_map(char::to_lowercase));
            }
            other => {
                let _ = write!(out, "{other}");
            }
        }
        out.push(' ');
    }
    for literal in lifted {
        match literal.ty {
            Some(ty) => {
                let _ = write!(out, "/{ty}");
            }
            None => out.push_str("/?"),
        }
    }
    out
}
