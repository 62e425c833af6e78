//! Names in schema `pg_catalog`, which shells and drivers write out: functions, types, operators
//! and the default collation are found without it, so it is taken off before planning.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, DataType, Expr, Ident, ObjectName, Statement, VisitMut, VisitorMut,
};

use super::rewrite::folded;

const SCHEMA: &str = "pg_catalog";

/// Takes `pg_catalog` off the names of a statement, and `COLLATE pg_catalog.default` off its
/// expressions.
pub fn strip(statement: &mut Statement) {
    struct Strip;
    impl VisitorMut for Strip {
        type Break = ();

        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            strip_expr(expr);
            ControlFlow::Continue(())
        }
    }
    let _: ControlFlow<()> = VisitMut::visit(statement, &mut Strip);
}

fn strip_expr(expr: &mut Expr) {
    match expr {
        Expr::Function(call) => strip_name(&mut call.name),
        Expr::Cast { data_type: DataType::Custom(name, _), .. } => strip_name(name),
        Expr::BinaryOp { op, .. } => {
            if let BinaryOperator::PGCustomBinaryOperator(parts) = op
                && let [schema, symbol] = parts.as_slice()
                && schema.eq_ignore_ascii_case(SCHEMA)
                && let Some(plain) = operator(symbol)
            {
                *op = plain;
            }
        }
        Expr::Collate { expr: inner, collation } if is_default(collation) => {
            let inner = std::mem::replace(inner.as_mut(), Expr::Identifier(Ident::new("")));
            *expr = inner;
        }
        _ => {}
    }
}

fn strip_name(name: &mut ObjectName) {
    let qualified =
        name.0.len() == 2 && name.0[0].as_ident().is_some_and(|schema| folded(schema) == SCHEMA);
    if qualified {
        name.0.remove(0);
    }
}

/// Whether it is the collation all columns have.
fn is_default(collation: &ObjectName) -> bool {
    let parts: Vec<String> =
        collation.0.iter().filter_map(|part| part.as_ident()).map(folded).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    matches!(parts.as_slice(), ["default"] | [SCHEMA, "default"])
}

/// The operator of a symbol; `None` if it is left to be refused.
fn operator(symbol: &str) -> Option<BinaryOperator> {
    Some(match symbol {
        "~" => BinaryOperator::PGRegexMatch,
        "~*" => BinaryOperator::PGRegexIMatch,
        "!~" => BinaryOperator::PGRegexNotMatch,
        "!~*" => BinaryOperator::PGRegexNotIMatch,
        "=" => BinaryOperator::Eq,
        "<>" | "!=" => BinaryOperator::NotEq,
        "<" => BinaryOperator::Lt,
        "<=" => BinaryOperator::LtEq,
        ">" => BinaryOperator::Gt,
        ">=" => BinaryOperator::GtEq,
        "+" => BinaryOperator::Plus,
        "-" => BinaryOperator::Minus,
        "*" => BinaryOperator::Multiply,
        "/" => BinaryOperator::Divide,
        "%" => BinaryOperator::Modulo,
        "||" => BinaryOperator::StringConcat,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    fn stripped(sql: &str) -> String {
        let mut parsed = Parser::parse_sql(&PostgreSqlDialect {}, sql).expect("it parses");
        super::strip(&mut parsed[0]);
        parsed[0].to_string()
    }

    #[test]
    fn only_the_schema_of_the_system_is_taken_off() {
        for (sql, plain) in [
            ("SELECT pg_catalog.version()", "SELECT version()"),
            ("SELECT \"pg_catalog\".VERSION()", "SELECT VERSION()"),
            ("SELECT own.version()", "SELECT own.version()"),
            ("SELECT a FROM pg_catalog.pg_class", "SELECT a FROM pg_catalog.pg_class"),
            (
                "SELECT a FROM t WHERE a OPERATOR(pg_catalog.~) 'x' COLLATE pg_catalog.default",
                "SELECT a FROM t WHERE a ~ 'x'",
            ),
            ("SELECT a COLLATE \"de_DE\" FROM t", "SELECT a COLLATE \"de_DE\" FROM t"),
            (
                "SELECT (SELECT pg_catalog.lower(a::pg_catalog.text))",
                "SELECT (SELECT lower(a::text))",
            ),
        ] {
            assert_eq!(stripped(sql), plain, "{sql}");
        }
    }
}
