//! Tokens of a text, their places, and errors that point at them.

use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Whitespace};

use crate::error::{SqlError, SqlResult, SqlState};
use crate::kv::LockStrength;

/// What follows EXCLUDE in the frame of a window, which sqlparser does not know.
const EXCLUDED: [&str; 4] = ["current", "group", "ties", "no"];

/// The tokens of a text without white space and comments.
pub fn tokenize(text: &str) -> SqlResult<Vec<TokenWithSpan>> {
    let mut tokens = super::operators::tokenize(text).map_err(|e| {
        let message = match e.message.as_str() {
            m if m.contains("string literal") => "unterminated quoted string".into(),
            m if m.contains("comment") => "unterminated /* comment".into(),
            m if m.contains("delimited identifier") || m.contains("close delimiter") => {
                "unterminated quoted identifier".into()
            }
            other => format!("syntax error: {other}"),
        };
        SqlError::syntax(message).at(position(text, e.location))
    })?;
    tokens.retain(|t| !matches!(t.token, Token::Whitespace(_)));
    // Placeholders with names are our own, within plans.
    let number = |p: &str| p.len() > 1 && p[1..].bytes().all(|b| b.is_ascii_digit());
    let near = |token: &Token| match token {
        Token::Placeholder(p) if !number(p) => Some("$"),
        // sqlparser takes what follows for the name of one.
        Token::Colon => Some(":"),
        _ => None,
    };
    if let Some((near, token)) = tokens.iter().find_map(|t| Some((near(&t.token)?, t))) {
        let error = SqlError::syntax(format!("syntax error at or near \"{near}\""));
        return Err(error.at(position(text, token.span.start)));
    }
    Ok(joined(tokens))
}

/// String literals with a line break between them are one.
fn joined(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    for token in tokens {
        if let Some(last) = out.last_mut()
            && let (Token::SingleQuotedString(before), Token::SingleQuotedString(more)) =
                (&mut last.token, &token.token)
            && token.span.start.line > last.span.end.line
        {
            before.push_str(more);
            last.span.end = token.span.end;
            continue;
        }
        out.push(token);
    }
    out
}

/// Whether a token is white space.
pub fn is_space(token: &Token) -> bool {
    matches!(
        token,
        Token::Whitespace(
            Whitespace::Space
                | Whitespace::Newline
                | Whitespace::Tab
                | Whitespace::SingleLineComment { .. }
                | Whitespace::MultiLineComment(_)
        )
    )
}

/// The tokens of each statement.
pub fn split(tokens: Vec<TokenWithSpan>) -> Vec<Vec<TokenWithSpan>> {
    let mut out = Vec::new();
    let mut current = Vec::new();
    for token in tokens {
        match token.token {
            Token::SemiColon if current.is_empty() => {}
            Token::SemiColon => out.push(std::mem::take(&mut current)),
            Token::EOF => {}
            _ => current.push(token),
        }
    }
    if !current.is_empty() {
        out.push(current);
    }
    out
}

/// A place as a number of characters from the start, counted from 1.
pub fn position(text: &str, place: Location) -> usize {
    let before: usize = text
        .split_inclusive('\n')
        .take(usize::try_from(place.line.saturating_sub(1)).unwrap_or(0))
        .map(|line| line.chars().count())
        .sum();
    before + usize::try_from(place.column).unwrap_or(1)
}

/// The same as a number of bytes from the start.
pub(super) fn byte_at(text: &str, place: Location) -> usize {
    let at = position(text, place).saturating_sub(1);
    text.char_indices().nth(at).map_or(text.len(), |(i, _)| i)
}

/// The text from the first to the last of some tokens.
pub fn text_of<'a>(text: &'a str, tokens: &[TokenWithSpan]) -> &'a str {
    let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else { return "" };
    let (start, end) = (byte_at(text, first.span.start), byte_at(text, last.span.end));
    text.get(start..end).unwrap_or("")
}

/// `42601` at a token.
pub fn error_near(token: &TokenWithSpan, text: &str) -> SqlError {
    if token.token == Token::EOF {
        return SqlError::syntax("syntax error at end of input").at(text.chars().count() + 1);
    }
    let shown = text_of(text, std::slice::from_ref(token));
    let shown = if shown.is_empty() { token.token.to_string() } else { shown.to_owned() };
    SqlError::syntax(format!("syntax error at or near \"{shown}\""))
        .at(position(text, token.span.start))
}

/// What PostgreSQL says where sqlparser gives up.
pub fn syntax_error(error: &ParserError, tokens: &[TokenWithSpan], text: &str) -> SqlError {
    let message = match error {
        ParserError::RecursionLimitExceeded => {
            let message = "stack depth limit exceeded";
            return SqlError::new(SqlState::STATEMENT_TOO_COMPLEX, message);
        }
        ParserError::ParserError(m) | ParserError::TokenizerError(m) => m,
    };
    if let Some(place) = place_in(message)
        && let Some(at) = tokens.iter().position(|t| t.span.start == place)
    {
        if is_word(tokens.get(at), "exclude")
            && EXCLUDED.iter().any(|word| is_word(tokens.get(at + 1), word))
        {
            let error = SqlError::unsupported("EXCLUDE in the frame of a window");
            return error.at(position(text, place));
        }
        return error_near(&tokens[at], text);
    }
    if message.contains("found: EOF") {
        return SqlError::syntax("syntax error at end of input").at(text.chars().count() + 1);
    }
    SqlError::syntax(format!("syntax error: {message}"))
}

/// `… at Line: 3, Column: 7`
fn place_in(message: &str) -> Option<Location> {
    let (_, rest) = message.rsplit_once("Line: ")?;
    let (line, rest) = rest.split_once(", Column: ")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some(Location { line: line.parse().ok()?, column: digits.parse().ok()? })
}

/// The word a token is, in lower case; `None` for quoted identifiers and everything else.
pub fn word(token: &TokenWithSpan) -> Option<String> {
    match &token.token {
        Token::Word(w) if w.quote_style.is_none() => Some(w.value.to_lowercase()),
        _ => None,
    }
}

/// Whether a token is one of these words.
pub fn is_word(token: Option<&TokenWithSpan>, word: &str) -> bool {
    match token.map(|t| &t.token) {
        Some(Token::Word(w)) => w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word),
        _ => false,
    }
}

/// The locking clauses, in their order. A clause follows a statement's FROM, so that `FOR` in
/// `substring(… for …)` is none: it is not followed by these words.
pub fn lock_strengths(tokens: &[TokenWithSpan]) -> Vec<LockStrength> {
    let mut out = Vec::new();
    for i in 0..tokens.len() {
        if let Some((strength, _)) = lock_at(tokens, i) {
            out.push(strength);
        }
    }
    out
}

/// The locking clause that starts at a token, and how many tokens it has.
fn lock_at(tokens: &[TokenWithSpan], i: usize) -> Option<(LockStrength, usize)> {
    let is = |n: usize, word: &str| is_word(tokens.get(i + n), word);
    if !is(0, "for") {
        return None;
    }
    if is(1, "update") {
        Some((LockStrength::Update, 2))
    } else if is(1, "share") {
        Some((LockStrength::Share, 2))
    } else if is(1, "key") && is(2, "share") {
        Some((LockStrength::KeyShare, 3))
    } else if is(1, "no") && is(2, "key") && is(3, "update") {
        Some((LockStrength::NoKeyUpdate, 4))
    } else {
        None
    }
}

/// The tokens with every locking clause as one of the two sqlparser knows, and `TABLE x` as the
/// query it stands for.
pub fn plain(tokens: &[TokenWithSpan]) -> Vec<TokenWithSpan> {
    let mut out = Vec::with_capacity(tokens.len() + 2);
    let mut i = 0;
    if is_word(tokens.first(), "table") {
        let make = |token| TokenWithSpan::new(token, tokens[0].span);
        out.push(make(Token::make_keyword("SELECT")));
        out.push(make(Token::Mul));
        out.push(make(Token::make_keyword("FROM")));
        i = 1;
    }
    while i < tokens.len() {
        match lock_at(tokens, i) {
            Some((_, length)) => {
                out.push(tokens[i].clone());
                out.push(tokens[i + length - 1].clone());
                i += length;
            }
            None => {
                out.push(tokens[i].clone());
                i += 1;
            }
        }
    }
    out
}
