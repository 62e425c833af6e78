//! String functions. Positions and lengths count characters, from 1. The collation is `C`: only
//! ASCII letters have a case.

use std::borrow::Cow;

use super::cast::{of_string, string, to_string};
use super::function::{Call, Evaluator};
use crate::error::{SqlError, SqlResult, SqlState};
use crate::keyenc::Datum;
use crate::types::{PgType, text};

/// Bytes a function may make of one value.
const RESULT_BYTES_MAX: usize = 256 << 20;

/// What computes a string function.
pub fn evaluator(name: &str) -> Option<Evaluator> {
    Some(match name {
        "length" | "char_length" | "character_length" => |call, v| match call.types[0] {
            crate::types::PgType::Bytea => Ok(count(bytes(&v[0])?.len())),
            _ => Ok(count(string(&v[0])?.chars().count())),
        },
        "octet_length" => |_, v| Ok(count(bytes(&v[0])?.len())),
        "bit_length" => |_, v| Ok(count(bytes(&v[0])?.len() * 8)),
        "upper" => |_, v| Ok(of_string(string(&v[0])?.to_ascii_uppercase())),
        "lower" => |_, v| Ok(of_string(string(&v[0])?.to_ascii_lowercase())),
        "initcap" => |_, v| Ok(of_string(initcap(string(&v[0])?))),
        "substring" | "substr" => substring,
        "strpos" => strpos,
        "btrim" | "trim" => |_, v| trim(v, true, true),
        "ltrim" => |_, v| trim(v, true, false),
        "rtrim" => |_, v| trim(v, false, true),
        "replace" => replace,
        "translate" => translate,
        "left" => |_, v| cut(v, true),
        "right" => |_, v| cut(v, false),
        "lpad" => |_, v| pad(v, true),
        "rpad" => |_, v| pad(v, false),
        "reverse" => |_, v| Ok(of_string(string(&v[0])?.chars().rev().collect::<String>())),
        "repeat" => repeat,
        "split_part" => split_part,
        "ascii" => |_, v| {
            Ok(Datum::Int(string(&v[0])?.chars().next().map_or(0, |c| i64::from(u32::from(c)))))
        },
        "chr" => chr,
        "md5" => |_, v| Ok(of_string(super::md5::hex_digest(bytes(&v[0])?))),
        "to_hex" => |call, v| {
            let n = int(&v[0])?;
            Ok(of_string(match call.types[0] {
                crate::types::PgType::Int8 => format!("{n:x}"),
                _ => format!("{:x}", n as i32),
            }))
        },
        "starts_with" => |_, v| Ok(Datum::Bool(string(&v[0])?.starts_with(string(&v[1])?))),
        "quote_literal" => |_, v| Ok(of_string(quote_literal(string(&v[0])?))),
        "quote_ident" => |_, v| Ok(of_string(quote_ident(string(&v[0])?))),
        "overlay" => overlay,
        "pg_like_escape" => like_escape,
        "pg_similar" => similar,
        "pg_replacement" => replacement,
        "encode" => encode,
        "decode" => decode,
        "concat" => concat,
        "concat_ws" => concat_ws,
        "format" => format_text,
        "format_type" => format_type,
        // What is stored is what is shown.
        "pg_get_expr" => |_, v| Ok(super::cast::owned(v[0].clone())),
        "array_to_string" => array_to_string,
        _ => return None,
    })
}

fn count(n: usize) -> Datum<'static> {
    Datum::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

fn bytes<'a>(value: &'a Datum<'_>) -> SqlResult<&'a [u8]> {
    match value {
        Datum::Bytes(b) => Ok(b),
        other => Err(SqlError::internal(format!("{other:?} is no string"))),
    }
}

/// An integer argument.
pub fn int(value: &Datum<'_>) -> SqlResult<i64> {
    match value {
        Datum::Int(n) => Ok(*n),
        other => Err(SqlError::internal(format!("{other:?} is no integer"))),
    }
}

fn initcap(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut inside = false;
    for c in value.chars() {
        out.push(if inside { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() });
        inside = c.is_ascii_alphanumeric();
    }
    out
}

/// The bounds `[start, end)` of a substring, counted from 0, before they are cut to the value.
fn bounds(v: &[Datum<'_>]) -> SqlResult<(i64, i64)> {
    let start = int(&v[1])?;
    let end = match v.get(2) {
        Some(length) => {
            let length = int(length)?;
            if length < 0 {
                return Err(SqlError::new(
                    SqlState::SUBSTRING_ERROR,
                    "negative substring length not allowed",
                ));
            }
            start.saturating_add(length)
        }
        None => i64::MAX,
    };
    Ok(((start - 1).max(0), (end.saturating_sub(1)).max(0)))
}

fn substring(call: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    let (start, end) = bounds(v)?;
    let length = usize::try_from((end - start).max(0)).unwrap_or(usize::MAX);
    let start = usize::try_from(start).unwrap_or(usize::MAX);
    if call.ret == crate::types::PgType::Bytea {
        let all = bytes(&v[0])?;
        let part: Vec<u8> = all.iter().skip(start).take(length).copied().collect();
        return Ok(Datum::Bytes(Cow::Owned(part)));
    }
    let part: String = string(&v[0])?.chars().skip(start).take(length).collect();
    Ok(of_string(part))
}

fn strpos(_: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    let (value, part) = (string(&v[0])?, string(&v[1])?);
    Ok(match value.find(part) {
        Some(at) => count(value[..at].chars().count() + 1),
        None => Datum::Int(0),
    })
}

fn trim(v: &[Datum<'_>], front: bool, back: bool) -> SqlResult<Datum<'static>> {
    let set = match v.get(1) {
        Some(set) => string(set)?.to_owned(),
        None => " ".to_owned(),
    };
    let mut value = string(&v[0])?;
    if front {
        value = value.trim_start_matches(|c| set.contains(c));
    }
    if back {
        value = value.trim_end_matches(|c| set.contains(c));
    }
    Ok(of_string(value))
}

fn replace(_: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    let (value, from, to) = (string(&v[0])?, string(&v[1])?, string(&v[2])?);
    if from.is_empty() {
        return Ok(of_string(value));
    }
    let found = value.matches(from).count();
    check_size(value.len().saturating_add(found.saturating_mul(to.len())))?;
    Ok(of_string(value.replace(from, to)))
}

fn translate(_: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    let from: Vec<char> = string(&v[1])?.chars().collect();
    let to: Vec<char> = string(&v[2])?.chars().collect();
    let map = |c: char| match from.iter().position(|f| *f == c) {
        Some(i) => to.get(i).copied(),
        None => Some(c),
    };
    Ok(of_string(string(&v[0])?.chars().filter_map(map).collect::<String>()))
}

/// `left` and `right`: a negative count is how many to leave out at the other end.
fn cut(v: &[Datum<'_>], left: bool) -> SqlResult<Datum<'static>> {
    let value = string(&v[0])?;
    let n = int(&v[1])?;
    let all = i64::try_from(value.chars().count()).unwrap_or(i64::MAX);
    let take = if n < 0 { (all + n).max(0) } else { n.min(all) };
    let take = usize::try_from(take).unwrap_or(0);
    let skip = if left { 0 } else { usize::try_from(all).unwrap_or(0) - take };
    Ok(of_string(value.chars().skip(skip).take(take).collect::<String>()))
}

fn check_size(bytes: usize) -> SqlResult<()> {
    if bytes > RESULT_BYTES_MAX {
        return Err(SqlError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, "requested length too large"));
    }
    Ok(())
}

fn pad(v: &[Datum<'_>], left: bool) -> SqlResult<Datum<'static>> {
    let value = string(&v[0])?;
    let length = usize::try_from(int(&v[1])?.max(0)).unwrap_or(0);
    let fill: Vec<char> = match v.get(2) {
        Some(fill) => string(fill)?.chars().collect(),
        None => vec![' '],
    };
    check_size(length.saturating_mul(4))?;
    let have = value.chars().count();
    if have >= length || fill.is_empty() {
        return Ok(of_string(value.chars().take(length).collect::<String>()));
    }
    let padding: String = fill.iter().cycle().take(length - have).collect();
    Ok(of_string(if left { padding + value } else { value.to_owned() + &padding }))
}

fn repeat(_: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    let times = usize::try_from(int(&v[1])?.max(0)).unwrap_or(0);
    let value = string(&v[0])?;
    check_size(value.len().saturating_mul(times))?;
    Ok(of_string(value.repeat(times)))
}

fn split_part(_: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    let (value, by, n) = (string(&v[0])?, string(&v[1])?, int(&v[2])?);
    if n == 0 {
        return Err(SqlError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            "field position must not be zero",
        ));
    }
    let parts: Vec<&str> = if by.is_empty() { vec![value] } else { value.split(by).collect() };
    let all = i64::try_from(parts.len()).unwrap_or(i64::MAX);
    let at = if n > 0 { n - 1 } else { all + n };
    let part = usize::try_from(at).ok().and_then(|i| parts.get(i)).copied();
    Ok(of_string(part.unwrap_or("")))
}

fn chr(_: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    let n = int(&v[0])?;
    let error = |message: &str| SqlError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, message);
    if n == 0 {
        return Err(error("null character not permitted"));
    }
    if n < 0 {
        return Err(SqlError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            "character number must be positive",
        ));
    }
    let c = u32::try_from(n).ok().and_then(char::from_u32);
    let c = c.ok_or_else(|| error("requested character not valid for encoding"))?;
    Ok(of_string(c.to_string()))
}

fn quote_literal(value: &str) -> String {
    let quoted = value.replace('\'', "''");
    if value.contains('\\') {
        format!(" E'{}'", quoted.replace('\\', "\\\\")).trim_start().to_owned()
    } else {
        format!("'{quoted}'")
    }
}

fn quote_ident(value: &str) -> String {
    let plain = value
        .chars()
        .enumerate()
        .all(|(i, c)| c == '_' || c.is_ascii_lowercase() || (i > 0 && c.is_ascii_digit()));
    let reserved = matches!(
        value,
        "select"
            | "from"
            | "where"
            | "table"
            | "user"
            | "order"
            | "group"
            | "all"
            | "and"
            | "or"
            | "not"
            | "null"
            | "true"
            | "false"
            | "in"
            | "is"
            | "as"
            | "on"
            | "to"
            | "with"
    );
    if plain && !reserved && !value.is_empty() {
        value.to_owned()
    } else {
        format!("\"{}\"", value.replace('"', "\"\""))
    }
}

fn overlay(_: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    let (value, by, start) = (string(&v[0])?, string(&v[1])?, int(&v[2])?);
    let length = match v.get(3) {
        Some(n) => int(n)?,
        None => i64::try_from(by.chars().count()).unwrap_or(i64::MAX),
    };
    if start <= 0 {
        return Err(SqlError::new(
            SqlState::SUBSTRING_ERROR,
            "negative substring length not allowed",
        ));
    }
    if i32::try_from(start + length).is_err() {
        return Err(crate::types::numeric::out_of_range("integer"));
    }
    let before = usize::try_from(start - 1).unwrap_or(usize::MAX);
    let after = usize::try_from((start - 1 + length).max(0)).unwrap_or(usize::MAX);
    let mut out: String = value.chars().take(before).collect();
    out.push_str(by);
    out.extend(value.chars().skip(after));
    Ok(of_string(out))
}

/// A LIKE pattern whose escape character becomes a backslash.
fn like_escape(_: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    let mut escapes = string(&v[1])?.chars();
    let escape = escapes.next();
    if escapes.next().is_some() {
        let invalid = SqlError::new(SqlState::INVALID_ESCAPE_SEQUENCE, "invalid escape string");
        return Err(invalid.with_hint("Escape string must be empty or one character."));
    }
    let mut out = String::new();
    let mut pattern = string(&v[0])?.chars();
    while let Some(c) = pattern.next() {
        if Some(c) == escape {
            let next = pattern.next().ok_or_else(|| {
                SqlError::new(
                    SqlState::INVALID_ESCAPE_SEQUENCE,
                    "LIKE pattern must not end with escape character",
                )
            })?;
            out.push('\\');
            out.push(next);
        } else if c == '\\' {
            out.push_str("\\\\");
        } else {
            out.push(c);
        }
    }
    Ok(of_string(out))
}

/// A pattern of SIMILAR TO as a regular expression.
fn similar(_: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    let escape = string(&v[1])?.chars().next();
    let mut out = String::from("^(?:");
    let mut pattern = string(&v[0])?.chars();
    let mut inside = false;
    while let Some(c) = pattern.next() {
        if Some(c) == escape {
            let next = pattern.next().ok_or_else(|| {
                SqlError::new(
                    SqlState::INVALID_ESCAPE_SEQUENCE,
                    "a SIMILAR TO pattern must not end with its escape character",
                )
            })?;
            if next == '"' {
                return Err(SqlError::unsupported("an escape-double-quote separator"));
            }
            out.push('\\');
            out.push(next);
            continue;
        }
        match c {
            ']' => inside = false,
            '[' => inside = true,
            _ => {}
        }
        match c {
            _ if inside => out.push(c),
            '%' => out.push_str(".*"),
            '_' => out.push('.'),
            '\\' | '.' | '^' | '$' => {
                out.push('\\');
                out.push(c);
            }
            '(' => out.push_str("(?:"),
            other => out.push(other),
        }
    }
    out.push_str(")$");
    // `.` of SQL is any character, the end of a line too.
    Ok(of_string(format!("(?s){out}")))
}

/// The replacement of `regexp_replace` as DataFusion reads it: `\\1` is `${1}` there.
fn replacement(_: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    let mut out = String::new();
    let mut rest = string(&v[0])?.chars();
    while let Some(c) = rest.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match rest.next() {
                Some('&') => out.push_str("${0}"),
                Some(digit @ '1'..='9') => out.push_str(&format!("${{{digit}}}")),
                _ => return Err(SqlError::unsupported("a backslash in a replacement")),
            },
            other => out.push(other),
        }
    }
    Ok(of_string(out))
}

fn unknown_encoding(name: &str) -> SqlError {
    SqlError::new(SqlState::INVALID_PARAMETER_VALUE, format!("unrecognized encoding: \"{name}\""))
}

fn encode(_: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    let value = bytes(&v[0])?;
    match string(&v[1])?.to_lowercase().as_str() {
        "hex" => Ok(of_string(hex::encode(value))),
        "base64" => Ok(of_string(super::base64::encode(value))),
        "escape" => Err(SqlError::unsupported("the encoding \"escape\"")),
        other => Err(unknown_encoding(other)),
    }
}

fn decode(_: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    let value = string(&v[0])?;
    let out = match string(&v[1])?.to_lowercase().as_str() {
        "hex" => text::parse_bytea(&format!("\\x{value}"))?,
        "base64" => super::base64::decode(value).ok_or_else(|| {
            SqlError::new(SqlState::INVALID_PARAMETER_VALUE, "invalid base64 end sequence")
        })?,
        "escape" => return Err(SqlError::unsupported("the encoding \"escape\"")),
        other => return Err(unknown_encoding(other)),
    };
    Ok(Datum::Bytes(Cow::Owned(out)))
}

/// Text of an argument of `concat`: booleans are `t` and `f` there.
fn shown(value: &Datum<'_>, ty: crate::types::PgType) -> SqlResult<String> {
    match value {
        Datum::Bool(b) => Ok(if *b { "t" } else { "f" }.into()),
        Datum::Bytes(_) if matches!(ty, crate::types::PgType::Char(_)) => {
            Ok(string(value)?.to_owned())
        }
        other => to_string(other, ty),
    }
}

fn concat(call: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    let mut out = String::new();
    for (value, ty) in v.iter().zip(call.types) {
        if !matches!(value, Datum::Null) {
            out.push_str(&shown(value, *ty)?);
        }
    }
    Ok(of_string(out))
}

/// A type as `format_type` shows it, from its oid and modifier.
fn format_type(_: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    let Datum::Int(oid) = v[0] else { return Ok(Datum::Null) };
    let ty = u32::try_from(oid).ok().and_then(PgType::by_oid);
    let Some(ty) = ty else {
        return Ok(of_string(if oid == 0 { "-" } else { "???" }));
    };
    let typmod = match v[1] {
        Datum::Int(typmod) if typmod >= 4 => u32::try_from(typmod - 4).ok(),
        _ => None,
    };
    let ty = match (ty, typmod) {
        (PgType::Numeric(_), Some(packed)) => {
            let digits = u8::try_from(packed >> 16).ok();
            let scale = i8::try_from(packed & 0x7ff).ok();
            PgType::Numeric(digits.zip(scale))
        }
        (PgType::Varchar(_), n) => PgType::Varchar(n),
        (PgType::Char(_), Some(n)) => PgType::Char(Some(n)),
        (PgType::Char(_), None) if matches!(v[1], Datum::Null) => {
            return Ok(of_string("character"));
        }
        (ty, _) => ty,
    };
    Ok(of_string(ty.to_string()))
}

/// The elements of an array in its text form; those of the catalog have no quotes in it.
fn array_to_string(_: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    let array = string(&v[0])?;
    let inner = array.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    let inner = inner.filter(|inner| !inner.contains(['"', '{', '\\']));
    let inner = inner.ok_or_else(|| SqlError::unsupported("an array in array_to_string"))?;
    Ok(of_string(inner.replace(',', string(&v[1])?)))
}

/// `format`: `%s`, `%I`, `%L`, with a position, a minus and a width.
fn format_text(call: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    let wrong = |message: &str| SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message);
    if matches!(v[0], Datum::Null) {
        return Ok(Datum::Null);
    }
    let mut out = String::new();
    let mut next = 1;
    let mut format = string(&v[0])?.chars().peekable();
    while let Some(c) = format.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if format.next_if_eq(&'%').is_some() {
            out.push('%');
            continue;
        }
        let mut number = String::new();
        while let Some(digit) = format.next_if(char::is_ascii_digit) {
            number.push(digit);
        }
        let positioned = !number.is_empty() && format.next_if_eq(&'$').is_some();
        if positioned {
            next = number.parse().map_err(|_| wrong("number is out of range"))?;
            if next == 0 {
                return Err(wrong(
                    "format specifies argument 0, but arguments are numbered from 1",
                ));
            }
            number.clear();
        }
        let left = number.is_empty() && format.next_if_eq(&'-').is_some();
        while let Some(digit) = format.next_if(char::is_ascii_digit) {
            number.push(digit);
        }
        let width: usize = match number.as_str() {
            "" => 0,
            digits => digits.parse().map_err(|_| wrong("number is out of range"))?,
        };
        check_size(width)?;
        let kind = format.next().ok_or_else(|| wrong("unterminated format() type specifier"))?;
        if !matches!(kind, 's' | 'I' | 'L') {
            let message = format!("unrecognized format() type specifier \"{kind}\"");
            return Err(wrong(&message));
        }
        let (Some(value), Some(ty)) = (v.get(next), call.types.get(next)) else {
            return Err(wrong("too few arguments for format()"));
        };
        next += 1;
        let text = match (kind, value) {
            ('s', Datum::Null) => String::new(),
            ('L', Datum::Null) => "NULL".to_owned(),
            (_, Datum::Null) => {
                return Err(SqlError::new(
                    SqlState::NULL_VALUE_NOT_ALLOWED,
                    "null values cannot be formatted as an SQL identifier",
                ));
            }
            ('s', value) => shown(value, *ty)?,
            ('I', value) => quote_ident(&shown(value, *ty)?),
            (_, value) => quote_literal(&shown(value, *ty)?),
        };
        let blanks = " ".repeat(width.saturating_sub(text.chars().count()));
        out.push_str(&if left { text + &blanks } else { blanks + &text });
    }
    Ok(of_string(out))
}

fn concat_ws(call: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    if matches!(v[0], Datum::Null) {
        return Ok(Datum::Null);
    }
    let mut parts = Vec::new();
    for (value, ty) in v.iter().zip(call.types).skip(1) {
        if !matches!(value, Datum::Null) {
            parts.push(shown(value, *ty)?);
        }
    }
    Ok(of_string(parts.join(&to_string(&v[0], call.types[0])?)))
}
