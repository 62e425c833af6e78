//! Long chains of operators: `a = 1 OR a = 2 OR …`, `1 + 1 + …`, `SELECT … UNION SELECT …`.
//!
//! sqlparser reads a chain in a loop, whatever its length, and makes a tree as deep as the chain is
//! long; who walks such a tree, or only drops it, uses up its stack. So chains are counted in the
//! tokens, before there is a tree, and ANDs and ORs, which programs do chain by the thousand, are
//! put into a balanced tree.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator as Op, Expr, Visit, VisitMut, Visitor, VisitorMut,
};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::tokens::position;
use crate::error::{SqlError, SqlResult, SqlState};

/// ANDs and ORs in a chain.
const CONDITIONS_MAX: usize = 10_000;
/// Other operators in a chain: planning takes cubic time, here a second or two.
const OPERATORS_MAX: usize = 300;
/// `UNION`, `INTERSECT` and `EXCEPT` in a chain.
const QUERIES_MAX: usize = 500;

/// Subqueries within the expressions of subqueries; with each level, DataFusion's checks of a plan
/// take twice as long.
const SUBQUERIES_DEEP_MAX: usize = 12;

/// A chain of ANDs or of ORs this long is put into a balanced tree.
const BALANCED_FROM: usize = 16;

/// What was counted within a pair of brackets.
#[derive(Default)]
struct Counted {
    conditions: usize,
    operators: usize,
    queries: usize,
}

impl Counted {
    fn within_limits(&self) -> bool {
        self.conditions <= CONDITIONS_MAX
            && self.operators <= OPERATORS_MAX
            && self.queries <= QUERIES_MAX
    }

    fn see(&mut self, token: &Token) {
        match token {
            Token::Comma | Token::SemiColon => (self.conditions, self.operators) = (0, 0),
            Token::Word(word) if word.quote_style.is_none() => self.see_word(word.keyword),
            Token::Period => {}
            operand if is_operand(operand) => {}
            _ => self.operators += 1,
        }
    }

    fn see_word(&mut self, word: Keyword) {
        match word {
            Keyword::AND | Keyword::OR => {
                self.conditions += 1;
                self.operators = 0;
            }
            Keyword::UNION | Keyword::INTERSECT | Keyword::EXCEPT => self.queries += 1,
            Keyword::SELECT
            | Keyword::FROM
            | Keyword::WHERE
            | Keyword::ON
            | Keyword::WHEN
            | Keyword::THEN
            | Keyword::ELSE => (self.conditions, self.operators) = (0, 0),
            Keyword::NOT
            | Keyword::IS
            | Keyword::IN
            | Keyword::LIKE
            | Keyword::ILIKE
            | Keyword::SIMILAR
            | Keyword::BETWEEN
            | Keyword::AT
            | Keyword::COLLATE
            | Keyword::OPERATOR
            | Keyword::NOTNULL => self.operators += 1,
            _ => {}
        }
    }
}

/// Whether a token is a name or a value.
fn is_operand(token: &Token) -> bool {
    matches!(
        token,
        Token::Word(_)
            | Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::NationalStringLiteral(_)
            | Token::EscapedStringLiteral(_)
            | Token::UnicodeStringLiteral(_)
            | Token::HexStringLiteral(_)
            | Token::DollarQuotedString(_)
            | Token::Placeholder(_)
    )
}

/// Whether what stands behind these tokens can only be an operand, whatever word it is: sqlparser
/// takes `a.end + a.end` and `1 + end + on` as names. Only FROM with a relation may follow a star.
fn wants_operand(tokens: &[TokenWithSpan], at: usize, word: Keyword) -> bool {
    let before = at.checked_sub(1).and_then(|before| tokens.get(before));
    match before.map(|token| &token.token) {
        Some(Token::Mul) => {
            let relation = tokens.get(at + 1).map(|token| &token.token);
            let relation = matches!(relation, Some(Token::Word(_) | Token::LParen));
            word != Keyword::FROM || !relation
        }
        Some(operand) if is_operand(operand) => false,
        Some(
            Token::LParen
            | Token::RParen
            | Token::LBracket
            | Token::RBracket
            | Token::Comma
            | Token::SemiColon,
        )
        | None => false,
        Some(_) => true,
    }
}

/// `54001` for a chain that is too long.
pub(super) fn check(tokens: &[TokenWithSpan], whole: &str) -> SqlResult<()> {
    let mut outer = Vec::new();
    let mut here = Counted::default();
    for (i, token) in tokens.iter().enumerate() {
        let word = match &token.token {
            Token::Word(word) if word.quote_style.is_none() => word.keyword,
            _ => Keyword::NoKeyword,
        };
        // CASE begins an operand; all other words that count would end one.
        let after_period = i > 0 && tokens[i - 1].token == Token::Period;
        let operand = wants_operand(tokens, i, word);
        if word != Keyword::NoKeyword && (after_period || operand && word != Keyword::CASE) {
            if matches!(word, Keyword::NOT) && !after_period {
                here.operators += 1;
            }
            continue;
        }
        match (&token.token, word) {
            (Token::LParen, _) | (_, Keyword::CASE) => outer.push(std::mem::take(&mut here)),
            (Token::LBracket, _) => {
                // Subscripts are a chain as well.
                here.operators += 1;
                if here.within_limits() {
                    outer.push(std::mem::take(&mut here));
                }
            }
            (Token::RParen | Token::RBracket, _) | (_, Keyword::END) => {
                here = outer.pop().unwrap_or_default();
            }
            (other, _) => here.see(other),
        }
        if !here.within_limits() {
            let limits = format!(
                "A chain may have {OPERATORS_MAX} operators, {CONDITIONS_MAX} conditions joined \
                 by AND and OR, and {QUERIES_MAX} queries joined by UNION, INTERSECT and EXCEPT."
            );
            let message = "stack depth limit exceeded";
            return Err(SqlError::new(SqlState::STATEMENT_TOO_COMPLEX, message)
                .with_detail(limits)
                .at(position(whole, token.span.start)));
        }
    }
    Ok(())
}

/// `54001` for subqueries that are nested too deeply within expressions.
pub(super) fn check_subqueries(statement: &ast::Statement) -> SqlResult<()> {
    struct Deep(usize);
    fn is_subquery(expr: &Expr) -> bool {
        matches!(
            expr,
            Expr::Subquery(_)
                | Expr::Exists { .. }
                | Expr::InSubquery { .. }
                | Expr::AnyOp { .. }
                | Expr::AllOp { .. }
        )
    }
    impl Visitor for Deep {
        type Break = ();

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            self.0 += usize::from(is_subquery(expr));
            if self.0 > SUBQUERIES_DEEP_MAX {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        }

        fn post_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            self.0 -= usize::from(is_subquery(expr));
            ControlFlow::Continue(())
        }
    }
    if Visit::visit(statement, &mut Deep(0)).is_continue() {
        return Ok(());
    }
    let limit = format!("Subqueries may stand {SUBQUERIES_DEEP_MAX} deep within expressions.");
    Err(SqlError::new(SqlState::STATEMENT_TOO_COMPLEX, "stack depth limit exceeded")
        .with_detail(limit))
}

/// Puts long chains of ANDs and of ORs into balanced trees, their conditions in the same order.
pub(super) fn balance(statement: &mut ast::Statement) {
    struct Balance;
    impl VisitorMut for Balance {
        type Break = ();

        fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            for op in [Op::And, Op::Or] {
                if is_long(expr, &op) {
                    let whole = std::mem::replace(expr, Expr::Tuple(Vec::new()));
                    *expr = balanced(links(whole, &op), &op);
                }
            }
            ControlFlow::Continue(())
        }
    }
    // It never breaks off.
    let _ = VisitMut::visit(statement, &mut Balance);
}

fn is_long(expr: &Expr, chained: &Op) -> bool {
    let mut at = expr;
    for _ in 0..BALANCED_FROM {
        match at {
            Expr::BinaryOp { left, op, .. } if op == chained => at = left,
            _ => return false,
        }
    }
    true
}

/// The links of a chain, in the order of the text.
fn links(whole: Expr, chained: &Op) -> Vec<Expr> {
    let mut links = Vec::new();
    let mut at = whole;
    loop {
        match at {
            Expr::BinaryOp { left, op, right } if op == *chained => {
                links.push(*right);
                at = *left;
            }
            first => {
                links.push(first);
                links.reverse();
                return links;
            }
        }
    }
}

fn balanced(mut links: Vec<Expr>, op: &Op) -> Expr {
    if links.len() > 1 {
        let right = links.split_off(links.len().div_ceil(2));
        let (left, right) = (balanced(links, op), balanced(right, op));
        return Expr::BinaryOp { left: Box::new(left), op: op.clone(), right: Box::new(right) };
    }
    links.pop().expect("a chain has a first link, and both halves of two or more have one")
}

#[cfg(test)]
mod tests {
    use super::super::{parse, tokens};
    use super::*;

    fn state_of(sql: &str) -> Option<SqlState> {
        let tokens = tokens::tokenize(sql).expect("tokens");
        check(&tokens, sql).err().map(|error| error.sqlstate)
    }

    #[test]
    fn chains_beyond_the_limits_are_54001_and_lists_are_not() {
        let too_complex = Some(SqlState::STATEMENT_TOO_COMPLEX);
        let chain = |link: &str, count: usize| format!("SELECT 1{}", link.repeat(count));
        for link in [" + 1", " || 'a'", "::int", " IS NULL", "[1]", " + CASE WHEN a THEN 1 END"] {
            assert_eq!(state_of(&chain(link, OPERATORS_MAX + 1)), too_complex, "{link}");
            assert_eq!(state_of(&chain(link, OPERATORS_MAX / 2)), None, "{link}");
        }
        assert_eq!(state_of(&chain(" OR a = 1", CONDITIONS_MAX + 1)), too_complex);
        assert_eq!(state_of(&chain(" OR a = 1", CONDITIONS_MAX)), None);
        assert_eq!(state_of(&chain(" UNION SELECT 1", QUERIES_MAX + 1)), too_complex);
        for list in [", 1 + 1", ", (1 + 1)", ", CASE WHEN a + 1 > 2 THEN 1 + 1 ELSE 2 + 2 END"] {
            assert_eq!(state_of(&chain(list, 3 * OPERATORS_MAX)), None, "{list}");
        }
    }

    #[test]
    fn subqueries_nest_up_to_a_limit() {
        let nested = |depth: usize| {
            let sql = format!("SELECT {}1{}", "(SELECT ".repeat(depth), ")".repeat(depth));
            let parsed = parse(&sql).expect("tokens").remove(0).parse_literal();
            parsed.err().map(|error| error.sqlstate)
        };
        assert_eq!(nested(SUBQUERIES_DEEP_MAX), None);
        assert_eq!(nested(SUBQUERIES_DEEP_MAX + 1), Some(SqlState::STATEMENT_TOO_COMPLEX));
    }

    #[test]
    fn words_that_stand_for_names_hide_no_chain() {
        let words = ["end", "on", "when", "from", "select", "and", "or", "case", "where", "then"];
        for word in words {
            for link in [format!(" + t.{word}"), format!(" + {word}"), format!(" * {word}")] {
                if link == " + case" || link == " * case" {
                    // Nests, which sqlparser limits.
                    continue;
                }
                let sql = format!("SELECT 1{}", link.repeat(OPERATORS_MAX + 1));
                assert_eq!(state_of(&sql), Some(SqlState::STATEMENT_TOO_COMPLEX), "{link}");
            }
        }
        let joins = " JOIN u ON t.a = u.a".repeat(OPERATORS_MAX + 1);
        assert_eq!(state_of(&format!("SELECT * FROM t{joins}")), None);
    }

    fn depth(expr: &Expr) -> usize {
        match expr {
            Expr::BinaryOp { left, right, op: Op::And | Op::Or } => {
                1 + depth(left).max(depth(right))
            }
            _ => 0,
        }
    }

    #[test]
    fn long_chains_become_balanced_trees_with_the_same_text() {
        for op in [" AND ", " OR "] {
            let links: Vec<String> = (0..1_000).map(|n| format!("a = {n}")).collect();
            let condition = links.join(op);
            let sql = format!("DELETE FROM t WHERE {condition}");
            let statement = parse(&sql).expect("parses").remove(0);
            let parsed = statement.parse_literal().expect("parses");
            let ast::Statement::Delete(delete) = parsed.statement else {
                panic!("a DELETE");
            };
            let selection = delete.selection.expect("it has a condition");
            assert_eq!(depth(&selection), 10);
            assert_eq!(selection.to_string(), condition);
        }
    }

    #[test]
    fn a_chain_that_was_regrouped_is_balanced_too() {
        let conditions = "a IS DISTINCT FROM 1 AND ".repeat(60) + "a = 2";
        let sql = format!("SELECT 1 FROM t WHERE {conditions}");
        let parsed = parse(&sql).expect("parses").remove(0).parse_literal().expect("parses");
        let ast::Statement::Query(query) = parsed.statement else {
            panic!("a query");
        };
        let select = query.body.as_select().expect("a SELECT");
        assert!(depth(select.selection.as_ref().expect("it has a condition")) < 10);
    }
}
