//! Expressions that sqlparser groups otherwise than PostgreSQL does, grouped as PostgreSQL does.
//!
//! `a IS DISTINCT FROM b AND c` is read by sqlparser as if the AND stood in brackets, `- a ^ b` as
//! if the power did. What the text has in brackets is a node of its own and is left alone.

use datafusion::sql::sqlparser::ast::{BinaryOperator as Op, Expr, UnaryOperator};

/// Regroups an expression; its children are left to the next visits.
pub(super) fn regroup(expr: &mut Expr) {
    if let Expr::UnaryOp { op: UnaryOperator::Minus, expr: inner } = expr
        && is_power(inner)
    {
        let power = take(inner);
        *expr = with_minus(power);
    }
    if swallows(expr) {
        let mut items = Vec::new();
        flatten(take(expr), &mut items);
        let mut items = items.into_iter().peekable();
        *expr = climb(&mut items, 0);
    }
}

fn take(expr: &mut Expr) -> Expr {
    std::mem::replace(expr, Expr::Tuple(vec![]))
}

fn is_power(expr: &Expr) -> bool {
    matches!(expr, Expr::BinaryOp { op: Op::PGExp, .. })
}

/// The leftmost base of a power gets the minus.
fn with_minus(expr: Expr) -> Expr {
    match expr {
        Expr::BinaryOp { left, op: Op::PGExp, right } => {
            Expr::BinaryOp { left: Box::new(with_minus(*left)), op: Op::PGExp, right }
        }
        base => Expr::UnaryOp { op: UnaryOperator::Minus, expr: Box::new(base) },
    }
}

fn is_logical(expr: &Expr) -> bool {
    matches!(expr, Expr::BinaryOp { op: Op::And | Op::Or, .. })
}

/// Whether an expression, up to its brackets, has an IS DISTINCT FROM that swallowed an AND or OR.
fn swallows(expr: &Expr) -> bool {
    match expr {
        Expr::BinaryOp { left, op: Op::And | Op::Or, right } => swallows(left) || swallows(right),
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => swallows(expr),
        Expr::IsDistinctFrom(left, right) | Expr::IsNotDistinctFrom(left, right) => {
            is_logical(right) || swallows(left) || swallows(right)
        }
        _ => false,
    }
}

/// A part of an expression as the text has it, from left to right.
#[expect(clippy::large_enum_variant, reason = "lives on the stack of one walk over a condition")]
enum Item {
    Operand(Expr),
    Not,
    And,
    Or,
    /// `true`: `IS NOT DISTINCT FROM`.
    Distinct(bool),
}

impl Item {
    /// How tightly an operator between two operands binds.
    fn strength(&self) -> u8 {
        match self {
            Item::Or => 1,
            Item::And => 2,
            Item::Distinct(_) => 4,
            Item::Operand(_) | Item::Not => 0,
        }
    }
}

/// What `NOT` takes behind it binds tighter than this.
const NOT_STRENGTH: u8 = 3;

fn flatten(expr: Expr, items: &mut Vec<Item>) {
    let mut pair = |left: Expr, item: Item, right: Expr| {
        flatten(left, items);
        items.push(item);
        flatten(right, items);
    };
    match expr {
        Expr::BinaryOp { left, op: Op::And, right } => pair(*left, Item::And, *right),
        Expr::BinaryOp { left, op: Op::Or, right } => pair(*left, Item::Or, *right),
        Expr::IsDistinctFrom(left, right) => pair(*left, Item::Distinct(false), *right),
        Expr::IsNotDistinctFrom(left, right) => pair(*left, Item::Distinct(true), *right),
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => {
            items.push(Item::Not);
            flatten(*expr, items);
        }
        operand => items.push(Item::Operand(operand)),
    }
}

fn climb(items: &mut std::iter::Peekable<impl Iterator<Item = Item>>, least: u8) -> Expr {
    let mut left = match items.next() {
        Some(Item::Operand(expr)) => expr,
        Some(Item::Not) => {
            let inner = climb(items, NOT_STRENGTH);
            Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(inner) }
        }
        _ => Expr::Tuple(vec![]),
    };
    while let Some(operator) = items.next_if(|item| item.strength() > least) {
        let right = climb(items, operator.strength());
        let (l, r) = (Box::new(left), Box::new(right));
        left = match operator {
            Item::And => Expr::BinaryOp { left: l, op: Op::And, right: r },
            Item::Distinct(false) => Expr::IsDistinctFrom(l, r),
            Item::Distinct(true) => Expr::IsNotDistinctFrom(l, r),
            _ => Expr::BinaryOp { left: l, op: Op::Or, right: r },
        };
    }
    left
}
