//! Commands that need no plan, read from their tokens: transactions, settings, splits.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::asof::{self, AsOf};
use super::tokens::{error_near, is_word, position, text_of, word};
use super::{StatementKind, fates, split, storage};
use crate::error::{SqlError, SqlResult};

/// Isolation levels of the SQL standard. `READ UNCOMMITTED` is `READ COMMITTED`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IsolationLevel {
    /// A new snapshot for every statement.
    ReadCommitted,
    /// One snapshot.
    RepeatableRead,
    /// As if one after another.
    Serializable,
}

/// Modes of a transaction; `None` where nothing was said.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct TxnModes {
    /// `ISOLATION LEVEL`
    pub isolation: Option<IsolationLevel>,
    /// `READ ONLY` or `READ WRITE`
    pub read_only: Option<bool>,
    /// `DEFERRABLE` or `NOT DEFERRABLE`
    pub deferrable: Option<bool>,
    /// `AS OF SYSTEM TIME`
    pub as_of: Option<AsOf>,
}

/// What a setting is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetValue {
    /// `DEFAULT`
    Default,
    /// One value or several.
    Values(Vec<String>),
}

/// Reads tokens from the front.
pub(super) struct Reader<'a> {
    tokens: &'a [TokenWithSpan],
    at: usize,
    text: &'a str,
}

impl<'a> Reader<'a> {
    pub(super) fn new(tokens: &'a [TokenWithSpan], text: &'a str) -> Self {
        Self { tokens, at: 0, text }
    }

    /// Takes a word if it is next.
    pub(super) fn take(&mut self, word: &str) -> bool {
        let found = is_word(self.tokens.get(self.at), word);
        self.at += usize::from(found);
        found
    }

    /// Takes several words if they are next.
    pub(super) fn take_all(&mut self, words: &[&str]) -> bool {
        let found = words.iter().enumerate().all(|(i, w)| is_word(self.tokens.get(self.at + i), w));
        self.at += if found { words.len() } else { 0 };
        found
    }

    pub(super) fn take_token(&mut self, token: &Token) -> bool {
        let found = self.tokens.get(self.at).is_some_and(|t| t.token == *token);
        self.at += usize::from(found);
        found
    }

    pub(super) fn next(&mut self) -> Option<&'a TokenWithSpan> {
        let token = self.tokens.get(self.at);
        self.at += 1;
        token
    }

    pub(super) fn peek(&self) -> Option<&'a TokenWithSpan> {
        self.tokens.get(self.at)
    }

    /// The tokens up to the bracket that closes the last one taken, and that bracket; `None` if it
    /// is never closed.
    pub(super) fn until_closed(&mut self) -> Option<&'a [TokenWithSpan]> {
        let (from, mut depth) = (self.at, 0);
        loop {
            match self.next()?.token {
                Token::LParen => depth += 1,
                Token::RParen if depth == 0 => return self.tokens.get(from..self.at - 1),
                Token::RParen => depth -= 1,
                _ => {}
            }
        }
    }

    /// The place of a token, counted from 1.
    pub(super) fn position(&self, token: &TokenWithSpan) -> usize {
        position(self.text, token.span.start)
    }

    /// The error for the next token.
    pub(super) fn error(&self) -> SqlError {
        match self.tokens.get(self.at) {
            Some(token) => error_near(token, self.text),
            None => error_near(&TokenWithSpan::wrap(Token::EOF), self.text),
        }
    }

    /// Nothing may follow.
    pub(super) fn end(&self) -> SqlResult<()> {
        if self.at < self.tokens.len() { Err(self.error()) } else { Ok(()) }
    }

    /// An identifier, as it is looked up.
    pub(super) fn name(&mut self) -> SqlResult<String> {
        let error = self.error();
        match self.next().map(|t| &t.token) {
            Some(Token::Word(w)) if w.quote_style.is_some() => Ok(w.value.clone()),
            Some(Token::Word(w)) => Ok(w.value.to_lowercase()),
            _ => Err(error),
        }
    }

    /// The texts between the commas of a list in brackets; none if no bracket is next.
    fn list(&mut self) -> SqlResult<Vec<String>> {
        let mut out = Vec::new();
        if !self.take_token(&Token::LParen) {
            return Ok(out);
        }
        let (mut from, mut depth) = (self.at, 0);
        loop {
            let Some(token) = self.tokens.get(self.at) else { return Err(self.error()) };
            let ends = depth == 0 && matches!(token.token, Token::Comma | Token::RParen);
            if ends {
                if from == self.at {
                    return Err(self.error());
                }
                out.push(text_of(self.text, &self.tokens[from..self.at]).to_owned());
                from = self.at + 1;
            }
            self.at += 1;
            match token.token {
                Token::LParen => depth += 1,
                Token::RParen if depth == 0 => return Ok(out),
                Token::RParen => depth -= 1,
                _ => {}
            }
        }
    }

    /// A name that may be qualified; its last part, which must be in schema `public`.
    pub(super) fn object(&mut self) -> SqlResult<String> {
        let mut parts = vec![self.name()?];
        while self.take_token(&Token::Period) {
            parts.push(self.name()?);
        }
        let last = parts.pop().unwrap_or_default();
        match parts.last() {
            Some(schema) if schema != "public" => Err(SqlError::new(
                crate::error::SqlState::INVALID_SCHEMA_NAME,
                format!("schema \"{schema}\" does not exist"),
            )),
            _ => Ok(last),
        }
    }
}

/// Whether the statement is DDL, which is parsed at once.
pub fn is_ddl(tokens: &[TokenWithSpan]) -> bool {
    let first = tokens.first().and_then(word);
    matches!(first.as_deref(), Some("create" | "drop" | "truncate"))
}

/// First words of statements that are refused.
const REFUSED: &[&str] = &[
    "copy",
    "listen",
    "unlisten",
    "notify",
    "lock",
    "declare",
    "fetch",
    "move",
    "close",
    "call",
    "do",
    "grant",
    "revoke",
    "comment",
    "cluster",
    "reindex",
    "checkpoint",
    "merge",
    "import",
    "security",
    "refresh",
];

/// The command that tokens are; `None` if they are something to be parsed.
pub fn command(tokens: &[TokenWithSpan], text: &str) -> SqlResult<Option<StatementKind>> {
    let Some(first) = tokens.first() else { return Ok(Some(StatementKind::Empty)) };
    let Some(first) = word(first) else { return Ok(None) };
    let mut r = Reader::new(tokens, text);
    r.at = 1;
    let kind = match first.as_str() {
        "select" => match fates::fate(&mut r)? {
            Some(fate) => StatementKind::Fate(fate),
            None => return Ok(None),
        },
        "begin" => {
            let _ = r.take("work") || r.take("transaction");
            StatementKind::Begin(modes(&mut r)?)
        }
        "start" => {
            if !r.take("transaction") {
                return Err(r.error());
            }
            StatementKind::Begin(modes(&mut r)?)
        }
        "commit" | "end" => {
            refuse_prepared(&mut r)?;
            StatementKind::Commit(chain(&mut r)?)
        }
        "rollback" | "abort" => {
            refuse_prepared(&mut r)?;
            let _ = r.take("work") || r.take("transaction");
            if r.take("to") {
                r.take("savepoint");
                StatementKind::RollbackTo(r.name()?)
            } else {
                StatementKind::Rollback(chain(&mut r)?)
            }
        }
        "savepoint" => StatementKind::Savepoint(r.name()?),
        "release" => {
            r.take("savepoint");
            StatementKind::Release(r.name()?)
        }
        "set" => set(&mut r)?,
        "show" => show(&mut r)?,
        "reset" => match setting_name(&mut r)? {
            name if name == "all" => StatementKind::Reset(None),
            name => StatementKind::Reset(Some(name)),
        },
        "discard" if r.take("all") => StatementKind::DiscardAll,
        "discard" => return Err(SqlError::unsupported("DISCARD other than ALL")),
        "deallocate" => {
            r.take("prepare");
            match r.take("all") {
                true => StatementKind::Deallocate(None),
                false => StatementKind::Deallocate(Some(r.name()?)),
            }
        }
        "prepare" | "execute" => return named(&mut r, &first).map(Some),
        "alter" => match alter(&mut r)? {
            Some(kind) => kind,
            None => return Ok(None),
        },
        "vacuum" => return Ok(Some(StatementKind::Maintenance("VACUUM"))),
        "analyze" | "analyse" => return Ok(Some(StatementKind::Maintenance("ANALYZE"))),
        word if REFUSED.contains(&word) => {
            return Err(SqlError::unsupported(first.to_uppercase()));
        }
        _ => return Ok(None),
    };
    r.end()?;
    Ok(Some(kind))
}

/// What comes behind `ALTER`; `None` if it is to be parsed.
fn alter(r: &mut Reader<'_>) -> SqlResult<Option<StatementKind>> {
    if let Some(split) = split::split_at(r)? {
        return Ok(Some(split));
    }
    r.at = 1;
    storage::alter(r)
}

/// What comes behind `PREPARE` and `EXECUTE`.
fn named(r: &mut Reader<'_>, verb: &str) -> SqlResult<StatementKind> {
    if verb == "prepare" && r.take("transaction") {
        return Err(SqlError::unsupported("two-phase commit by the client"));
    }
    let name = r.name()?;
    if verb == "execute" {
        let args = r.list()?;
        r.end()?;
        return Ok(StatementKind::Execute { name, args });
    }
    let types = r.list()?;
    if !r.take("as") || r.peek().is_none() {
        return Err(r.error());
    }
    let rest = &r.tokens[r.at..];
    let offset = rest.first().map_or(0, |first| position(r.text, first.span.start) - 1);
    Ok(StatementKind::Prepare { name, types, body: text_of(r.text, rest).into(), offset })
}

fn refuse_prepared(r: &mut Reader<'_>) -> SqlResult<()> {
    if r.take("prepared") {
        return Err(SqlError::unsupported("two-phase commit by the client"));
    }
    Ok(())
}

fn chain(r: &mut Reader<'_>) -> SqlResult<bool> {
    let _ = r.take("work") || r.take("transaction");
    if !r.take("and") {
        return Ok(false);
    }
    let no = r.take("no");
    if r.take("chain") { Ok(!no) } else { Err(r.error()) }
}

fn modes(r: &mut Reader<'_>) -> SqlResult<TxnModes> {
    let mut modes = TxnModes::default();
    while r.peek().is_some() {
        if r.take_all(&["isolation", "level"]) {
            modes.isolation = Some(level(r)?);
        } else if r.take_all(&["read", "only"]) {
            modes.read_only = Some(true);
        } else if r.take_all(&["read", "write"]) {
            modes.read_only = Some(false);
        } else if r.take("deferrable") {
            modes.deferrable = Some(true);
        } else if r.take_all(&["not", "deferrable"]) {
            modes.deferrable = Some(false);
        } else if let Some((as_of, count)) = asof::read(r.tokens, r.at, r.text)? {
            modes.as_of = Some(as_of);
            r.at += count;
        } else {
            return Err(r.error());
        }
        r.take_token(&Token::Comma);
    }
    Ok(modes)
}

fn level(r: &mut Reader<'_>) -> SqlResult<IsolationLevel> {
    if r.take_all(&["read", "committed"]) || r.take_all(&["read", "uncommitted"]) {
        Ok(IsolationLevel::ReadCommitted)
    } else if r.take_all(&["repeatable", "read"]) {
        Ok(IsolationLevel::RepeatableRead)
    } else if r.take("serializable") {
        Ok(IsolationLevel::Serializable)
    } else {
        Err(r.error())
    }
}

fn set(r: &mut Reader<'_>) -> SqlResult<StatementKind> {
    if r.take_all(&["session", "characteristics", "as", "transaction"]) {
        return Ok(StatementKind::SetCharacteristics(modes(r)?));
    }
    if r.take("transaction") {
        return Ok(StatementKind::SetTransaction(modes(r)?));
    }
    if r.take("role") || r.take_all(&["session", "authorization"]) || r.take("constraints") {
        return Err(SqlError::unsupported("SET ROLE, SESSION AUTHORIZATION and CONSTRAINTS"));
    }
    let local = r.take("local");
    if !local {
        r.take("session");
    }
    if r.take_all(&["time", "zone"]) {
        let value = match r.take("local") {
            true => SetValue::Default,
            false => values(r)?,
        };
        return Ok(StatementKind::Set("timezone".into(), value, local));
    }
    if r.take("names") {
        let value = if r.peek().is_none() { SetValue::Default } else { values(r)? };
        return Ok(StatementKind::Set("client_encoding".into(), value, local));
    }
    let name = setting_name(r)?;
    if !r.take_token(&Token::Eq) && !r.take("to") {
        return Err(r.error());
    }
    Ok(StatementKind::Set(name, values(r)?, local))
}

fn values(r: &mut Reader<'_>) -> SqlResult<SetValue> {
    if r.take("default") {
        return Ok(SetValue::Default);
    }
    let mut out = Vec::new();
    loop {
        let error = r.error();
        let minus = r.take_token(&Token::Minus);
        let sign = if minus { "-" } else { "" };
        let value = match r.next().map(|t| &t.token) {
            Some(Token::SingleQuotedString(s) | Token::EscapedStringLiteral(s)) => s.clone(),
            Some(Token::Number(n, _)) => format!("{sign}{n}"),
            Some(Token::Word(w)) => {
                if w.quote_style.is_some() {
                    w.value.clone()
                } else {
                    w.value.to_lowercase()
                }
            }
            _ => return Err(error),
        };
        out.push(value);
        if !r.take_token(&Token::Comma) {
            return Ok(SetValue::Values(out));
        }
    }
}

/// The name of a setting, in lower case: `a`, `a.b`, `TIME ZONE`, ….
fn setting_name(r: &mut Reader<'_>) -> SqlResult<String> {
    if r.take_all(&["time", "zone"]) {
        return Ok("timezone".into());
    }
    if r.take_all(&["transaction", "isolation", "level"]) {
        return Ok("transaction_isolation".into());
    }
    if r.take_all(&["session", "authorization"]) {
        return Ok("session_authorization".into());
    }
    let mut name = r.name()?.to_lowercase();
    while r.take_token(&Token::Period) {
        name.push('.');
        name.push_str(&r.name()?.to_lowercase());
    }
    Ok(name)
}

fn show(r: &mut Reader<'_>) -> SqlResult<StatementKind> {
    if r.take_all(&["last", "transaction"]) {
        return Ok(StatementKind::Show(Some("last transaction".into())));
    }
    Ok(match setting_name(r)? {
        name if name == "all" => StatementKind::Show(None),
        name => StatementKind::Show(Some(name)),
    })
}
