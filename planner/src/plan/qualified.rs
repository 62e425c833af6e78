//! Names in schema `pg_catalog`, which shells and drivers write out: functions, types, operators
//! and the default collation are found without it, so it is taken off before planning.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, DataType, Expr, Ident, ObjectName, Statement, VisitMut, VisitorMut,
};

use datafusion::sql::sqlparser::parser::Parser;

use super::rewrite::folded;
use crate::catalog::CatalogSnapshot;
use crate::error::{SqlError, SqlResult, SqlState};
use crate::parse::dialect::Postgres;

const SCHEMA: &str = "pg_catalog";

/// Takes `pg_catalog` off the names of a statement, and `COLLATE pg_catalog.default` off its
/// expressions.
///
/// # Errors
/// `42P01` for a `'name'::regclass` that is compared and is no table.
pub fn strip(statement: &mut Statement, catalog: &CatalogSnapshot) -> SqlResult<()> {
    struct Strip<'a>(&'a CatalogSnapshot);
    impl VisitorMut for Strip<'_> {
        type Break = SqlError;

        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
            strip_expr(expr);
            match of_catalog(expr, self.0) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => ControlFlow::Break(error),
            }
        }
    }
    match VisitMut::visit(statement, &mut Strip(catalog)) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// Functions and casts that look something up in the catalog, as queries and numbers.
fn of_catalog(expr: &mut Expr, catalog: &CatalogSnapshot) -> SqlResult<()> {
    match expr {
        Expr::Function(call) => {
            let name = call.name.to_string().to_lowercase();
            let kind = match name.as_str() {
                "pg_get_indexdef" => "index",
                "pg_get_constraintdef" => "constraint",
                _ => return Ok(()),
            };
            let ast::FunctionArguments::List(list) = &call.args else { return Ok(()) };
            let Some(ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(oid))) =
                list.args.first()
            else {
                return Ok(());
            };
            *expr = parse(&format!(
                "(SELECT max(quorate_definition) AS {name} FROM pg_catalog.quorate_definitions \
                 WHERE quorate_oid = ({oid}) AND quorate_kind = '{kind}')"
            ))?;
        }
        Expr::BinaryOp { left, right, .. } => {
            for side in [left, right] {
                if let Some(oid) = relation_oid(side, catalog)? {
                    **side = parse(&format!("CAST({oid} AS oid)"))?;
                }
            }
        }
        Expr::Cast { expr: inner, data_type: DataType::Text, .. } => {
            if let Expr::Cast { expr: of, data_type: DataType::Custom(name, _), .. } =
                inner.as_ref()
                && name.to_string().eq_ignore_ascii_case("regtype")
            {
                *expr = parse(&format!("format_type({of}, NULL)"))?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn parse(text: &str) -> SqlResult<Expr> {
    let mut parser = Parser::new(&Postgres).try_with_sql(text)?;
    Ok(parser.parse_expr()?)
}

/// Tables of the system that clients name, with the oids they have in PostgreSQL.
const SYSTEM: [(&str, u32); 6] = [
    ("pg_class", 1259),
    ("pg_attribute", 1249),
    ("pg_type", 1247),
    ("pg_proc", 1255),
    ("pg_namespace", 2615),
    ("pg_constraint", 2606),
];

/// The oid of `'name'::regclass`.
fn relation_oid(expr: &Expr, catalog: &CatalogSnapshot) -> SqlResult<Option<u32>> {
    let text = match expr {
        Expr::Nested(inner) => return relation_oid(inner, catalog),
        Expr::Cast { expr, data_type: DataType::Regclass, .. } => match expr.as_ref() {
            Expr::Value(value) => match &value.value {
                ast::Value::SingleQuotedString(text) => text,
                _ => return Ok(None),
            },
            _ => return Ok(None),
        },
        _ => return Ok(None),
    };
    let mut parser = Parser::new(&Postgres).try_with_sql(text)?;
    let parts: Vec<String> = parser
        .parse_object_name(false)?
        .0
        .iter()
        .filter_map(|part| part.as_ident())
        .map(folded)
        .collect();
    let (schema, name) = match parts.as_slice() {
        [name] => (None, name),
        [schema, name] => (Some(schema.as_str()), name),
        _ => return Ok(None),
    };
    let own = matches!(schema, None | Some("public"));
    if let Some(table) = catalog.table(name).filter(|_| own) {
        return Ok(Some(super::table_oid(table.id)));
    }
    let system = SYSTEM.iter().find(|(known, _)| *known == name);
    match system.filter(|_| matches!(schema, None | Some(SCHEMA))) {
        Some((_, oid)) => Ok(Some(*oid)),
        None => Err(SqlError::new(
            SqlState::UNDEFINED_TABLE,
            format!("relation \"{text}\" does not exist"),
        )),
    }
}

fn strip_expr(expr: &mut Expr) {
    match expr {
        Expr::Function(call) => strip_name(&mut call.name),
        Expr::Cast { data_type, .. } => {
            if let DataType::Custom(name, _) = data_type {
                strip_name(name);
                if name.to_string().eq_ignore_ascii_case("regclass") {
                    *data_type = DataType::Regclass;
                } else if name.to_string().eq_ignore_ascii_case("text") {
                    *data_type = DataType::Text;
                }
            }
        }
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
    use datafusion::sql::sqlparser::parser::Parser;

    use crate::parse::dialect::Postgres;

    fn stripped(sql: &str) -> String {
        let mut parsed = Parser::parse_sql(&Postgres, sql).expect("it parses");
        let catalog = crate::testing::MemDb::new().catalog().expect("a catalog");
        super::strip(&mut parsed[0], &catalog).expect("it can be taken off");
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
                "SELECT (SELECT lower(a::TEXT))",
            ),
        ] {
            assert_eq!(stripped(sql), plain, "{sql}");
        }
    }
}
