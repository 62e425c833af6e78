//! Text to statements.
//!
//! A text is cut into tokens once. Commands that sqlparser lacks, or that need no plan, are read
//! from the tokens ([`commands`], [`split`]); DDL is parsed at once; everything else only when a
//! plan is made, which a known fingerprint ([`fingerprint`]) spares.

mod asof;
mod chains;
mod check;
mod clauses;
pub mod commands;
pub mod dialect;
mod fates;
pub mod fingerprint;
mod locate;
mod nothing;
mod operators;
mod regroup;
pub mod rewrite;
mod series;
mod setops;
pub mod split;
mod storage;
mod subqueries;
pub mod tokens;
mod windows;

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::ast::{self, Visit, Visitor};
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::TokenWithSpan;

use crate::catalog::{DdlOp, ddl_op};
use crate::error::{SqlError, SqlResult};
use crate::kv::{LockStrength, LockWait};
use crate::types::PgType;
use dialect::Postgres;

pub use asof::AsOf;
pub use commands::{IsolationLevel, SetValue, TxnModes};
pub(crate) use fates::FUNCTIONS as FATE_FUNCTIONS;
pub use fates::{Fate, FateQuery, TokenSource};
pub use split::{SplitTarget, split_keys};

/// How deep statements may nest.
const DEPTH_MAX: usize = 160;

/// A literal lifted out of a statement: the value of a parameter after the client's own.
#[derive(Debug, Clone, PartialEq)]
pub struct Literal {
    /// Its type; `None` for a string, which gets its type from where it stands.
    pub ty: Option<PgType>,
    /// Its value; of a string, the text.
    pub value: ScalarValue,
    /// Where it stands: a character of the whole text, counted from 1.
    pub position: usize,
}

impl Literal {
    /// The value in the type planning found for it.
    pub fn value_as(&self, ty: PgType) -> SqlResult<ScalarValue> {
        match (&self.ty, &self.value) {
            (None, ScalarValue::Utf8(Some(text))) => {
                crate::types::text::from_text(text, ty).map_err(|error| error.at(self.position))
            }
            _ => Ok(self.value.clone()),
        }
    }
}

/// What kind of statement it is, and all that commands say.
#[derive(Debug, Clone, PartialEq)]
pub enum StatementKind {
    /// Nothing but white space and comments.
    Empty,
    /// `SELECT`, `INSERT`, `UPDATE`, `DELETE`, `VALUES`, `EXPLAIN` and whatever else sqlparser
    /// knows: see [`Statement::parse_plan`].
    Plan,
    /// A change of the catalog.
    Ddl(DdlOp),
    /// `BEGIN`, `START TRANSACTION`
    Begin(TxnModes),
    /// `COMMIT`, `END`; `true`: `AND CHAIN`.
    Commit(bool),
    /// `ROLLBACK`, `ABORT`; `true`: `AND CHAIN`.
    Rollback(bool),
    /// `SAVEPOINT`
    Savepoint(String),
    /// `ROLLBACK TO SAVEPOINT`
    RollbackTo(String),
    /// `RELEASE SAVEPOINT`
    Release(String),
    /// `SET TRANSACTION`
    SetTransaction(TxnModes),
    /// `SET SESSION CHARACTERISTICS AS TRANSACTION`
    SetCharacteristics(TxnModes),
    /// `SET`; `true`: `LOCAL`.
    Set(String, SetValue, bool),
    /// `SELECT txn_status('token')` and its kind.
    Fate(Fate),
    /// `SHOW`; `None`: `ALL`.
    Show(Option<String>),
    /// `RESET`; `None`: `ALL`.
    Reset(Option<String>),
    /// `DISCARD ALL`
    DiscardAll,
    /// `DEALLOCATE`; `None`: `ALL`.
    Deallocate(Option<String>),
    /// `PREPARE name (types) AS body`
    Prepare {
        /// Its name.
        name: String,
        /// Types of its parameters, as far as they are said.
        types: Vec<String>,
        /// The statement.
        body: Arc<str>,
        /// Characters of the text before it.
        offset: usize,
    },
    /// `EXECUTE name (arguments)`
    Execute {
        /// The prepared statement.
        name: String,
        /// The text of each argument.
        args: Vec<String>,
    },
    /// `ALTER TABLE … SPLIT AT VALUES`, `ALTER INDEX … SPLIT AT VALUES`
    SplitAt(SplitTarget, Vec<Vec<Option<String>>>),
    /// `VACUUM`, `ANALYZE`: there is nothing to do; the tag to answer.
    Maintenance(&'static str),
}

/// One statement of a text.
#[derive(Debug, Clone)]
pub struct Statement {
    /// Its text, without the semicolon.
    pub text: Arc<str>,
    /// What it is the same plan as: its tokens, literals lifted.
    pub fingerprint: Arc<str>,
    /// The literals that were lifted: parameters after the client's own.
    pub lifted: Vec<Literal>,
    /// The highest `$n` in the text.
    pub params: usize,
    /// What it is.
    pub kind: StatementKind,
    /// The moment of the past it reads.
    pub as_of: Option<AsOf>,
    tokens: Arc<[TokenWithSpan]>,
    whole: Arc<str>,
}

/// A statement that becomes a plan.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// The syntax tree; lifted literals are placeholders, locking clauses are gone.
    pub statement: ast::Statement,
    /// Row locks by table name or alias; for all tables without a name.
    pub locks: Vec<LockClause>,
}

/// The statements of a text. A text of only white space is one [`StatementKind::Empty`].
pub fn parse(text: &str) -> SqlResult<Vec<Statement>> {
    let whole: Arc<str> = text.into();
    let all = tokens::tokenize(text)?;
    let mut out = Vec::new();
    for part in tokens::split(all) {
        out.push(statement(&whole, part)?);
    }
    if out.is_empty() {
        out.push(statement(&whole, Vec::new())?);
    }
    Ok(out)
}

fn statement(whole: &Arc<str>, mut tokens: Vec<TokenWithSpan>) -> SqlResult<Statement> {
    chains::check(&tokens, whole)?;
    let text: Arc<str> = tokens::text_of(whole, &tokens).into();
    let kind = commands::command(&tokens, whole)?.unwrap_or(StatementKind::Plan);
    let mut statement = Statement {
        text,
        fingerprint: "".into(),
        lifted: Vec::new(),
        params: fingerprint::highest_parameter(&tokens),
        kind,
        as_of: None,
        tokens: Arc::from([]),
        whole: Arc::clone(whole),
    };
    if statement.kind == StatementKind::Plan {
        if commands::is_ddl(&tokens) {
            statement.tokens = tokens.into();
            let tree = statement.tree()?;
            if let Some(op) = ddl_op(&tree)? {
                statement.kind = StatementKind::Ddl(op);
            }
            statement.fingerprint = Arc::clone(&statement.text);
        } else {
            statement.as_of = asof::take(&mut tokens, whole)?;
            let (tokens, lifted) = fingerprint::lift(tokens, statement.params, whole);
            statement.fingerprint = fingerprint::fingerprint(&tokens, &lifted).into();
            statement.tokens = tokens.into();
            statement.lifted = lifted;
        }
    }
    Ok(statement)
}

impl Statement {
    /// The types of the lifted literals, which follow the client's parameters.
    pub fn lifted_types(&self) -> impl Iterator<Item = Option<PgType>> + '_ {
        self.lifted.iter().map(|literal| literal.ty)
    }

    /// The error with the place of the name it is about, if it tells of one.
    pub fn located(&self, error: SqlError) -> SqlError {
        locate::located(error, &self.tokens, &self.whole)
    }

    /// The syntax tree of a statement that becomes a plan.
    pub fn parse_plan(&self) -> SqlResult<Parsed> {
        parsed(&self.tokens, &self.whole)
    }

    /// The same with the literals as they stand in the text.
    pub fn parse_literal(&self) -> SqlResult<Parsed> {
        let mut tokens = tokens::split(tokens::tokenize(&self.text)?).pop().unwrap_or_default();
        asof::take(&mut tokens, &self.text)?;
        parsed(&tokens, &self.text)
    }

    fn tree(&self) -> SqlResult<ast::Statement> {
        tree(&self.tokens, &self.whole)
    }
}

/// The syntax tree of a plan, in the syntax DataFusion takes.
fn parsed(tokens: &[TokenWithSpan], whole: &str) -> SqlResult<Parsed> {
    let mut statement = tree(tokens, whole)?;
    check::check(&statement, whole)?;
    clauses::refuse(&statement)?;
    clauses::end_recursions(&mut statement)?;
    windows::resolve(&mut statement)?;
    chains::balance(&mut statement);
    chains::check_subqueries(&statement)?;
    nothing::forget_arrays(&mut statement);
    rewrite::refuse_misread(&statement)?;
    rewrite::plain(&mut statement)?;
    // What was regrouped is a chain again.
    chains::balance(&mut statement);
    setops::rewrite(&mut statement)?;
    subqueries::rewrite(&mut statement)?;
    subqueries::count_in_lists(&mut statement)?;
    series::to_from(&mut statement)?;
    let locks = take_locks(&mut statement, tokens)?;
    if let ast::Statement::Explain { analyze, options, .. } = &mut statement {
        let named = |o: &ast::UtilityOption| o.name.value.eq_ignore_ascii_case("analyze");
        let on = |o: &ast::UtilityOption| {
            o.arg.as_ref().is_none_or(|arg| {
                let word = arg.to_string().to_lowercase();
                matches!(word.trim_matches('\''), "true" | "on" | "1")
            })
        };
        *analyze |= options.iter().flatten().any(|o| named(o) && on(o));
    }
    Ok(Parsed { statement, locks })
}

fn tree(tokens: &[TokenWithSpan], whole: &str) -> SqlResult<ast::Statement> {
    let tokens = tokens::plain(tokens);
    let mut parser = Parser::new(&Postgres)
        .with_recursion_limit(DEPTH_MAX)
        .with_tokens_with_locations(tokens.clone());
    let tree = parser.parse_statement().map_err(|e| tokens::syntax_error(&e, &tokens, whole))?;
    let next = parser.peek_token();
    if next.token != datafusion::sql::sqlparser::tokenizer::Token::EOF {
        return Err(tokens::error_near(&next, whole));
    }
    Ok(tree)
}

/// A locking clause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockClause {
    /// `OF` this table or alias; without, all tables.
    pub table: Option<String>,
    /// How strong.
    pub strength: LockStrength,
    /// What to do about rows that others hold.
    pub wait: LockWait,
}

/// Takes the locking clauses off a query.
fn take_locks(
    statement: &mut ast::Statement,
    tokens: &[TokenWithSpan],
) -> SqlResult<Vec<LockClause>> {
    let mut strengths = tokens::lock_strengths(tokens);
    let outer = match statement {
        ast::Statement::Query(query) => Some(query.as_mut()),
        ast::Statement::Explain { statement, .. } => match statement.as_mut() {
            ast::Statement::Query(query) => Some(query.as_mut()),
            _ => None,
        },
        _ => None,
    };
    let mut locks = Vec::new();
    if let Some(query) = outer {
        let clauses = std::mem::take(&mut query.locks);
        // Those of subqueries come before.
        let own = strengths.split_off(strengths.len().saturating_sub(clauses.len()));
        for (clause, strength) in clauses.into_iter().zip(own) {
            let wait = match clause.nonblock {
                None => LockWait::Block,
                Some(ast::NonBlock::Nowait) => LockWait::NoWait,
                Some(ast::NonBlock::SkipLocked) => LockWait::SkipLocked,
            };
            let table = clause.of.as_ref().map(crate::catalog::object_name).transpose()?;
            locks.push(LockClause { table, strength, wait });
        }
    }
    struct Inner;
    impl Visitor for Inner {
        type Break = ();
        fn pre_visit_query(&mut self, query: &ast::Query) -> ControlFlow<()> {
            if query.locks.is_empty() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        }
    }
    if Visit::visit(statement, &mut Inner).is_break() {
        return Err(SqlError::unsupported("a locking clause in a subquery"));
    }
    Ok(locks)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
