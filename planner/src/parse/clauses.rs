//! Clauses that sqlparser takes and DataFusion leaves out in silence, refused; and the ends of
//! queries in `WITH RECURSIVE`, put where DataFusion sees them.
//!
//! The patterns name every field: what a new sqlparser adds is looked at before it compiles.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, Cte, Query, Select, SetExpr, SetOperator, Statement, TableAlias, TableFactor,
    TableFunctionArgs, Visit, VisitMut, Visitor, VisitorMut,
};

use crate::error::{SqlError, SqlResult};
use crate::plan::rewrite::folded;

/// Refuses them.
pub(super) fn refuse(statement: &Statement) -> SqlResult<()> {
    match Visit::visit(statement, &mut Clauses) {
        ControlFlow::Break(what) => Err(SqlError::unsupported(what)),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Clauses;

type Flow = ControlFlow<&'static str>;

/// Refuses the first clause that is there.
fn none_of(clauses: &[(&'static str, bool)]) -> Flow {
    match clauses.iter().find(|(_, there)| *there) {
        Some((clause, _)) => ControlFlow::Break(*clause),
        None => ControlFlow::Continue(()),
    }
}

impl Visitor for Clauses {
    type Break = &'static str;

    fn pre_visit_statement(&mut self, statement: &Statement) -> Flow {
        let aliased = |factor: &TableFactor| {
            let columns = |alias: &TableAlias| !alias.columns.is_empty();
            matches!(factor, TableFactor::Table { alias: Some(alias), .. } if columns(alias))
        };
        let (output, target) = match statement {
            Statement::Insert(insert) if insert.or.is_some() => {
                return ControlFlow::Break("INSERT OR …");
            }
            Statement::Insert(insert) => (insert.output.is_some(), None),
            Statement::Update(update) => (update.output.is_some(), Some(&update.table)),
            Statement::Delete(delete) => {
                let (ast::FromTable::WithFromKeyword(from) | ast::FromTable::WithoutKeyword(from)) =
                    &delete.from;
                (delete.output.is_some(), from.first())
            }
            _ => (false, None),
        };
        none_of(&[
            ("OUTPUT", output),
            ("an alias with columns", target.is_some_and(|target| aliased(&target.relation))),
        ])
    }

    fn pre_visit_query(&mut self, query: &Query) -> Flow {
        let Query {
            with,
            body: _,
            order_by: _,
            limit_clause: _,
            fetch,
            locks: _,
            for_clause,
            settings,
            format_clause,
            pipe_operators,
        } = query;
        let typed = |cte: &Cte| has_types(&cte.alias);
        none_of(&[
            ("FETCH … WITH TIES", fetch.as_ref().is_some_and(|fetch| fetch.with_ties)),
            ("FETCH … PERCENT", fetch.as_ref().is_some_and(|fetch| fetch.percent)),
            ("FOR XML, FOR JSON and FOR BROWSE", for_clause.is_some()),
            ("SETTINGS", settings.is_some()),
            ("FORMAT", format_clause.is_some()),
            ("a pipe", !pipe_operators.is_empty()),
            ("a type in an alias", with.iter().flat_map(|with| &with.cte_tables).any(typed)),
        ])
    }

    fn pre_visit_select(&mut self, select: &Select) -> Flow {
        let Select {
            select_token: _,
            optimizer_hints: _,
            distinct: _,
            select_modifiers,
            top,
            top_before_distinct: _,
            projection: _,
            exclude,
            into,
            from: _,
            lateral_views,
            prewhere,
            selection: _,
            connect_by,
            group_by,
            cluster_by,
            distribute_by,
            sort_by,
            having: _,
            named_window: _,
            // This works.
            qualify: _,
            window_before_qualify: _,
            value_table_mode,
            flavor: _,
        } = select;
        let (ast::GroupByExpr::All(modifiers) | ast::GroupByExpr::Expressions(_, modifiers)) =
            group_by;
        none_of(&[
            ("a modifier of SELECT", select_modifiers.is_some() || value_table_mode.is_some()),
            ("TOP", top.is_some()),
            ("EXCLUDE in a select list", exclude.is_some()),
            ("SELECT INTO", into.is_some()),
            ("LATERAL VIEW", !lateral_views.is_empty()),
            ("PREWHERE", prewhere.is_some()),
            ("CONNECT BY", !connect_by.is_empty()),
            ("GROUP BY with a modifier", !modifiers.is_empty()),
            ("CLUSTER BY", !cluster_by.is_empty()),
            ("DISTRIBUTE BY", !distribute_by.is_empty()),
            ("SORT BY", !sort_by.is_empty()),
        ])
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> Flow {
        let alias = match factor {
            TableFactor::Table { alias, .. } => {
                table(factor)?;
                alias
            }
            TableFactor::Derived { sample, alias, lateral: _, subquery: _ } => {
                none_of(&[("TABLESAMPLE", sample.is_some())])?;
                alias
            }
            TableFactor::Function { args, with_ordinality, alias, lateral: _, name: _ } => {
                none_of(&[("WITH ORDINALITY", *with_ordinality)])?;
                arguments(args)?;
                alias
            }
            TableFactor::UNNEST { with_offset, with_ordinality, alias, .. } => {
                none_of(&[("WITH OFFSET", *with_offset), ("WITH ORDINALITY", *with_ordinality)])?;
                alias
            }
            TableFactor::NestedJoin { alias, table_with_joins: _ } => alias,
            TableFactor::TableFunction { .. } => return ControlFlow::Break("TABLE (…) in FROM"),
            TableFactor::JsonTable { .. } => return ControlFlow::Break("JSON_TABLE"),
            TableFactor::OpenJsonTable { .. } => return ControlFlow::Break("OPENJSON"),
            TableFactor::XmlTable { .. } => return ControlFlow::Break("XMLTABLE"),
            TableFactor::Pivot { .. } => return ControlFlow::Break("PIVOT"),
            TableFactor::Unpivot { .. } => return ControlFlow::Break("UNPIVOT"),
            TableFactor::MatchRecognize { .. } => return ControlFlow::Break("MATCH_RECOGNIZE"),
            TableFactor::SemanticView { .. } => return ControlFlow::Break("SEMANTIC_VIEW"),
        };
        none_of(&[("a type in an alias", alias.as_ref().is_some_and(has_types))])
    }
}

/// Refuses what may stand behind the name of a table, or of a function in FROM.
fn table(factor: &TableFactor) -> Flow {
    let TableFactor::Table {
        name: _,
        alias: _,
        args,
        with_hints,
        version,
        with_ordinality,
        partitions,
        json_path,
        sample,
        index_hints,
    } = factor
    else {
        return ControlFlow::Continue(());
    };
    if let Some(TableFunctionArgs { args, settings }) = args {
        none_of(&[("SETTINGS", settings.is_some())])?;
        arguments(args)?;
    }
    none_of(&[
        ("TABLESAMPLE", sample.is_some()),
        ("WITH ORDINALITY", *with_ordinality),
        ("a hint behind a table", !with_hints.is_empty() || !index_hints.is_empty()),
        ("a version of a table", version.is_some()),
        ("PARTITION behind a table", !partitions.is_empty()),
        ("a path behind a table", json_path.is_some()),
    ])
}

/// DataFusion takes named arguments of a function in FROM in the order they stand in.
fn arguments(args: &[ast::FunctionArg]) -> Flow {
    let named = |arg: &ast::FunctionArg| !matches!(arg, ast::FunctionArg::Unnamed(_));
    none_of(&[("a named argument of a function in FROM", args.iter().any(named))])
}

fn has_types(alias: &TableAlias) -> bool {
    alias.columns.iter().any(|column| column.data_type.is_some())
}

/// Of a UNION in `WITH RECURSIVE`, DataFusion sees the branches only. Without a recursion it is put
/// one level down, with its ORDER BY, LIMIT and WITH; with one these are refused, as PostgreSQL
/// refuses the first two.
pub(super) fn end_recursions(statement: &mut Statement) -> SqlResult<()> {
    struct Recursions;
    impl VisitorMut for Recursions {
        type Break = &'static str;

        fn pre_visit_query(&mut self, query: &mut Query) -> Flow {
            let recursive = query.with.as_mut().filter(|with| with.recursive);
            for cte in recursive.into_iter().flat_map(|with| &mut with.cte_tables) {
                let union = SetOperator::Union;
                if !matches!(&*cte.query.body, SetExpr::SetOperation { op, .. } if *op == union) {
                    continue;
                }
                match lost(&cte.query) {
                    Some(what) if refers_to_itself(cte) => return ControlFlow::Break(what),
                    Some(_) => one_level_down(&mut cte.query),
                    None => {}
                }
            }
            ControlFlow::Continue(())
        }
    }
    match VisitMut::visit(statement, &mut Recursions) {
        ControlFlow::Break(what) => {
            Err(SqlError::unsupported(format_args!("{what} in a recursive query")))
        }
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// What of a query would be left out.
fn lost(query: &Query) -> Option<&'static str> {
    let parts = [
        ("WITH", query.with.is_some()),
        ("ORDER BY", query.order_by.is_some()),
        ("LIMIT or OFFSET", query.limit_clause.is_some()),
        ("FETCH", query.fetch.is_some()),
    ];
    parts.into_iter().find(|(_, there)| *there).map(|(what, _)| what)
}

fn refers_to_itself(cte: &Cte) -> bool {
    struct Names<'a>(&'a str);
    impl Visitor for Names<'_> {
        type Break = ();

        fn pre_visit_relation(&mut self, relation: &ast::ObjectName) -> ControlFlow<()> {
            match relation.0.as_slice() {
                [part] if part.as_ident().is_some_and(|name| folded(name) == self.0) => {
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            }
        }
    }
    Visit::visit(&cte.query, &mut Names(&folded(&cte.alias.name))).is_break()
}

fn one_level_down(query: &mut Query) {
    *query = Query {
        with: None,
        body: Box::new(SetExpr::Query(Box::new(query.clone()))),
        order_by: None,
        limit_clause: None,
        fetch: None,
        locks: vec![],
        for_clause: None,
        settings: None,
        format_clause: None,
        pipe_operators: vec![],
    };
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use super::super::parse;
    use crate::error::SqlState;
    use crate::testing::MemDb;

    fn refused(text: &str) -> String {
        let parsed = parse(text).and_then(|all| all[0].parse_plan());
        let error = parsed.expect_err(text);
        assert_eq!(error.sqlstate, SqlState::FEATURE_NOT_SUPPORTED, "{text}");
        error.message.trim_end_matches(" is not supported").to_owned()
    }

    #[test]
    fn clauses_nobody_would_carry_out_are_refused() {
        for (text, what) in [
            ("select count(*) from p tablesample bernoulli (0)", "TABLESAMPLE"),
            ("select * from t, p as q tablesample system (10) repeatable (1)", "TABLESAMPLE"),
            ("select * from (select 1) as q tablesample (1 rows)", "TABLESAMPLE"),
            ("select 1 where exists (select 1 from p tablesample system (1))", "TABLESAMPLE"),
            ("update t set a = 1 from p tablesample system (1)", "TABLESAMPLE"),
            ("delete from t using p tablesample system (1)", "TABLESAMPLE"),
            ("explain select * from p tablesample system (1)", "TABLESAMPLE"),
            ("select * from generate_series(1, 2) with ordinality", "WITH ORDINALITY"),
            ("select * from t, lateral f(a) with ordinality", "WITH ORDINALITY"),
            ("select * from unnest(array[1]) with ordinality", "WITH ORDINALITY"),
            ("select * from t with (nolock)", "a hint behind a table"),
            ("select * from f(b => 1, a => 2)", "a named argument of a function in FROM"),
            ("select * from t as x (a int)", "a type in an alias"),
            ("with x (a int) as (select 1) select * from x", "a type in an alias"),
            ("select top 1 * from t", "TOP"),
            ("select a into u from t", "SELECT INTO"),
            ("select * from t lateral view explode(a) x as y", "LATERAL VIEW"),
            ("select * from t where true connect by a = b", "CONNECT BY"),
            ("select a from t group by a grouping sets ((a), ())", "GROUP BY with a modifier"),
            ("select a from t cluster by a", "CLUSTER BY"),
            ("select a from t distribute by a", "DISTRIBUTE BY"),
            ("select a from t sort by a", "SORT BY"),
            ("select a from t fetch first 2 rows with ties", "FETCH … WITH TIES"),
            ("select a from t fetch first 2 percent rows only", "FETCH … PERCENT"),
            ("select a from t for xml auto", "FOR XML, FOR JSON and FOR BROWSE"),
            ("select a from t for json auto", "FOR XML, FOR JSON and FOR BROWSE"),
            ("select * from t pivot (sum(a) for b in ('x'))", "PIVOT"),
            ("insert or replace into t values (1)", "INSERT OR …"),
            ("update t as x (b) set a = 1", "an alias with columns"),
            ("delete from t as x (b)", "an alias with columns"),
        ] {
            assert_eq!(refused(text), what, "{text}");
        }
    }

    #[test]
    fn clauses_of_others_are_no_syntax() {
        for text in [
            "select a from t prewhere a = 1",
            "select a from t settings x = 1",
            "select a from t format null",
            "select a from t limit 1, 2",
            "select a from t limit 1 by a",
            "select a from t partition (p)",
            "select a from t for system_time as of 'x'",
            "select a from t order by a with fill",
            "select * exclude (a) from t",
            "select a from t group by a with rollup",
            "from t select a",
            "select a from t |> limit 1",
        ] {
            let parsed = parse(text).and_then(|all| all[0].parse_plan());
            assert_eq!(parsed.expect_err(text).sqlstate, SqlState::SYNTAX_ERROR, "{text}");
        }
    }

    fn rows(db: &MemDb, sql: &str) -> Vec<String> {
        let answer = block_on(db.run(sql)).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let cell = |cell: &Option<String>| cell.clone().unwrap_or_else(|| "NULL".into());
        let row = |row: &Vec<Option<String>>| row.iter().map(cell).collect::<Vec<_>>().join("|");
        answer.rows.iter().map(row).collect()
    }

    #[test]
    fn the_end_of_a_union_in_with_recursive_counts() {
        let db = MemDb::new();
        let sql = "with recursive x (n) as (select 1 union all select 2 order by 1 desc limit 1) \
                   select n from x";
        assert_eq!(rows(&db, sql), ["2"]);
        let sql = "with recursive x as (with y as (select 3 as n) select n from y union select 3) \
                   select n from x";
        assert_eq!(rows(&db, sql), ["3"]);
        let sql = "with recursive x (n) as (select 1 union all select n + 1 from x where n < 3) \
                   select n from x order by n";
        assert_eq!(rows(&db, sql), ["1", "2", "3"]);
        for end in ["limit 2", "order by 1", "offset 1"] {
            let what = refused(&format!(
                "with recursive x (n) as (select 1 union all select n + 1 from x where n < 3 \
                 {end}) select * from x"
            ));
            assert!(what.ends_with("in a recursive query"), "{what}");
        }
    }

    #[test]
    fn qualify_works() {
        let sql = "select n from generate_series(1, 3) as s (n) \
                   qualify row_number() over (order by n desc) = 1";
        assert_eq!(rows(&MemDb::new(), sql), ["3"]);
    }
}
