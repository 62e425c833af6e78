//! sqlparser's PostgreSQL, without what makes it slow.

use std::any::TypeId;

use datafusion::sql::sqlparser::dialect::{Dialect, PostgreSqlDialect, Precedence};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};

/// PostgreSQL's dialect. With any expression as the name of an argument (`json_object('a': 1)`,
/// which we have not), sqlparser reads each argument of a call twice, the arguments within it four
/// times, and so on.
#[derive(Debug)]
pub struct Postgres;

const INNER: PostgreSqlDialect = PostgreSqlDialect {};

/// Answers that are PostgreSQL's.
macro_rules! same {
    ($($answer:ident),* $(,)?) => {
        $(fn $answer(&self) -> bool {
            INNER.$answer()
        })*
    };
}

impl Dialect for Postgres {
    fn dialect(&self) -> TypeId {
        INNER.dialect()
    }

    fn supports_named_fn_args_with_expr_name(&self) -> bool {
        false
    }

    fn identifier_quote_style(&self, identifier: &str) -> Option<char> {
        INNER.identifier_quote_style(identifier)
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        INNER.is_delimited_identifier_start(ch)
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        INNER.is_identifier_start(ch)
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        INNER.is_identifier_part(ch)
    }

    fn is_reserved_for_identifier(&self, kw: Keyword) -> bool {
        INNER.is_reserved_for_identifier(kw)
    }

    fn is_custom_operator_part(&self, ch: char) -> bool {
        INNER.is_custom_operator_part(ch)
    }

    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        INNER.get_next_precedence(parser)
    }

    fn prec_value(&self, prec: Precedence) -> u8 {
        INNER.prec_value(prec)
    }

    same! {
        supports_unicode_string_literal,
        supports_filter_during_aggregation,
        supports_group_by_expr,
        allow_extract_custom,
        allow_extract_single_quotes,
        supports_create_index_with_clause,
        supports_explain_with_utility_options,
        supports_listen_notify,
        supports_factorial_operator,
        supports_bitwise_shift_operators,
        supports_comment_on,
        supports_load_extension,
        supports_named_fn_args_with_colon_operator,
        supports_empty_projections,
        supports_nested_comments,
        supports_string_escape_constant,
        supports_numeric_literal_underscores,
        supports_array_typedef_with_brackets,
        supports_geometric_types,
        supports_set_names,
        supports_alter_column_type_using,
        supports_notnull_operator,
        supports_interval_options,
        supports_insert_table_alias,
        supports_create_table_like_parenthesized,
        supports_select_wildcard_with_alias,
        supports_comma_separated_trim,
        supports_xml_expressions,
        supports_comment_optimizer_hint,
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    /// Twice as long with each level, this would take days.
    #[test]
    fn calls_nest_deeply() {
        let sql = format!("SELECT {}1{}", "abs(".repeat(60), ")".repeat(60));
        let statement = parse(&sql).expect("tokens").remove(0);
        let parsed = statement.parse_literal().expect("parses");
        assert_eq!(parsed.statement.to_string(), sql);
    }

    #[test]
    fn arguments_may_still_be_named() {
        for operator in ["=>", ":="] {
            let sql = format!("SELECT f(a {operator} 1 + 1)");
            let parsed = parse(&sql).expect("tokens").remove(0).parse_literal().expect("parses");
            assert_eq!(parsed.statement.to_string(), sql);
        }
    }
}
