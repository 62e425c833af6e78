//! Planning of INSERT, UPDATE and DELETE, by turning each into a SELECT.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder};
use datafusion::sql::sqlparser::ast::{self, SetExpr};
use datafusion::sql::sqlparser::parser::Parser;

use super::conflict::{self, Conflict};
use super::{DmlKind, DmlPlan, Returning};
use crate::catalog::{ColumnDef, TableDef};
use crate::error::{SqlError, SqlResult, SqlState};
use crate::exec::values::{Rows, ValuesTable};
use crate::parse::dialect::Postgres;
use crate::plan::build::{Build, OWN_TABLE, Scope, parameter_index};
use crate::plan::meaning as semantics;
use crate::plan::rewrite::folded;
use crate::plan::table::KvTable;
use crate::types::PgType;

/// Parses SQL that this module wrote.
fn parse_own(sql: &str) -> SqlResult<ast::Statement> {
    let mut parsed = Parser::parse_sql(&Postgres, sql)?;
    match (parsed.pop(), parsed.is_empty()) {
        (Some(statement), true) => Ok(statement),
        _ => Err(SqlError::internal(format!("not one statement: {sql}"))),
    }
}

pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The SQL of a column's default.
fn default_sql(column: &ColumnDef) -> &str {
    column.default.as_ref().map_or("NULL", |default| default.sql.as_str())
}

fn is_default(expr: &ast::Expr) -> bool {
    matches!(expr, ast::Expr::Identifier(name)
        if name.quote_style.is_none() && name.value.eq_ignore_ascii_case("default"))
}

fn visible_column(table: &TableDef, name: &str) -> SqlResult<usize> {
    table.columns.iter().position(|c| !c.hidden && c.name == name).ok_or_else(|| {
        let message = format!("column \"{name}\" of relation \"{}\" does not exist", table.name);
        SqlError::new(SqlState::UNDEFINED_COLUMN, message)
    })
}

fn no_repeats(table: &TableDef, places: &[usize], update: bool) -> SqlResult<()> {
    for (i, place) in places.iter().enumerate() {
        if places[..i].contains(place) {
            let name = &table.columns[*place].name;
            if update {
                let message = format!("multiple assignments to same column \"{name}\"");
                return Err(SqlError::syntax(message));
            }
            let message = format!("column \"{name}\" specified more than once");
            return Err(SqlError::new(SqlState::DUPLICATE_COLUMN, message));
        }
    }
    Ok(())
}

/// Plans an INSERT.
pub fn insert(build: &mut Build<'_>, insert: ast::Insert) -> SqlResult<DmlPlan> {
    let ast::TableObject::TableName(name) = &insert.table else {
        return Err(SqlError::unsupported("INSERT into a function"));
    };
    if insert.overwrite || insert.partitioned.is_some() || insert.replace_into {
        return Err(SqlError::unsupported("this form of INSERT"));
    }
    let table = build.target(name)?;
    let alias = match &insert.table_alias {
        Some(alias) => folded(&alias.alias),
        None => table.name.clone(),
    };
    let mut places = Vec::new();
    for column in &insert.columns {
        places.push(visible_column(&table, &last_name(column))?);
    }
    let named = !places.is_empty();
    if !named {
        places = (0..table.columns.len()).filter(|i| !table.columns[*i].hidden).collect();
    }
    no_repeats(&table, &places, false)?;
    let source = insert_source(build, &table, &mut places, named, insert.source)?;
    let plan = insert_projection(build, &table, &places, source)?;
    let source = build.template(plan)?;
    let returning = returning(build, &table, insert.returning, &alias)?;
    let conflict = conflict::plan(build, &table, &alias, insert.on)?;
    Ok(DmlPlan { table, kind: DmlKind::Insert, source, assigned: vec![], returning, conflict })
}

fn last_name(name: &ast::ObjectName) -> String {
    name.0.last().and_then(|part| part.as_ident()).map(folded).unwrap_or_default()
}

/// The rows an INSERT gives, before they are brought to the columns' types.
fn insert_source(
    build: &mut Build<'_>,
    table: &Arc<TableDef>,
    places: &mut Vec<usize>,
    named: bool,
    source: Option<Box<ast::Query>>,
) -> SqlResult<LogicalPlan> {
    let Some(mut query) = source else {
        places.clear();
        return Ok(LogicalPlanBuilder::empty(true).build()?);
    };
    if let SetExpr::Values(values) = query.body.as_mut() {
        let width = values.rows.first().map_or(0, |row| row.len());
        if values.rows.iter().any(|row| row.len() != width) {
            return Err(SqlError::syntax("VALUES lists must all be the same length"));
        }
        check_width(width, places, named)?;
        for row in &mut values.rows {
            for (expr, place) in row.iter_mut().zip(places.iter()) {
                let column = &table.columns[*place];
                if is_default(expr) {
                    *expr = parse_expr(default_sql(column))?;
                }
                float_text(expr, column.ty);
                build.expect(expr, column.ty);
            }
        }
    } else if let SetExpr::Select(select) = query.body.as_ref() {
        for (item, place) in select.projection.iter().zip(places.iter()) {
            if let ast::SelectItem::UnnamedExpr(expr) = item {
                build.expect(expr, table.columns[*place].ty);
            }
        }
    }
    values_as_query(&mut query)?;
    let plan = build.logical(ast::Statement::Query(query), Scope::default())?;
    check_width(plan.schema().fields().len(), places, named)?;
    coerce_literals(plan, table, places)
}

/// A number with an exponent is read by a float column as it stands.
fn float_text(expr: &mut ast::Expr, ty: PgType) {
    if matches!(ty, PgType::Float4 | PgType::Float8)
        && let Some(text) = crate::parse::rewrite::exponent(expr)
    {
        *expr = ast::Expr::value(ast::Value::SingleQuotedString(text));
    }
}

/// Whether there is a query in it.
fn has_query(part: &impl ast::Visit) -> bool {
    struct Queries;
    impl ast::Visitor for Queries {
        type Break = ();

        fn pre_visit_query(&mut self, _: &ast::Query) -> ControlFlow<()> {
            ControlFlow::Break(())
        }
    }
    part.visit(&mut Queries).is_break()
}

/// Rows with subqueries as a query: DataFusion computes VALUES before it runs them.
fn values_as_query(query: &mut ast::Query) -> SqlResult<()> {
    let SetExpr::Values(values) = query.body.as_ref() else { return Ok(()) };
    if !values.rows.iter().any(|row| row.iter().any(has_query)) {
        return Ok(());
    }
    let selects = values.rows.iter().map(|row| {
        let list: Vec<String> = row.iter().map(ToString::to_string).collect();
        format!("SELECT {}", list.join(", "))
    });
    let sql = selects.collect::<Vec<_>>().join(" UNION ALL ");
    if let ast::Statement::Query(as_query) = parse_own(&sql)? {
        query.body = as_query.body;
    }
    Ok(())
}

fn check_width(width: usize, places: &mut Vec<usize>, named: bool) -> SqlResult<()> {
    if width > places.len() {
        return Err(SqlError::syntax("INSERT has more expressions than target columns"));
    }
    if width < places.len() && named {
        return Err(SqlError::syntax("INSERT has more target columns than expressions"));
    }
    places.truncate(width);
    Ok(())
}

fn parse_expr(sql: &str) -> SqlResult<ast::Expr> {
    let mut parser = Parser::new(&Postgres).try_with_sql(sql)?;
    Ok(parser.parse_expr()?)
}

/// String literals in VALUES take the type of their column, as untyped literals do.
fn coerce_literals(
    plan: LogicalPlan,
    table: &TableDef,
    places: &[usize],
) -> SqlResult<LogicalPlan> {
    let LogicalPlan::Values(mut values) = plan else { return Ok(plan) };
    for row in &mut values.values {
        for (expr, place) in row.iter_mut().zip(places) {
            let ty = table.columns[*place].ty;
            let inner = match &*expr {
                Expr::Cast(cast) => cast.expr.as_ref(),
                other => other,
            };
            if let Expr::Literal(ScalarValue::Utf8(Some(text)), _) = inner
                && !ty.is_string()
            {
                let value = crate::types::text::from_text(text, ty.without_modifier())?;
                *expr = Expr::Literal(value, None);
            }
        }
    }
    // The columns' types follow from the rows again.
    let rows = values.values;
    let first = |i: usize| {
        rows.iter().map(|row| &row[i]).find(|e| !matches!(e, Expr::Literal(v, _) if v.is_null()))
    };
    let fields = places.iter().enumerate().map(|(i, place)| {
        let ty = match first(i) {
            Some(expr) => expr.get_type(&datafusion::common::DFSchema::empty())?,
            None => table.columns[*place].ty.arrow(),
        };
        Ok(datafusion::arrow::datatypes::Field::new(format!("column{}", i + 1), ty, true))
    });
    let schema = Schema::new(fields.collect::<SqlResult<Vec<_>>>()?);
    let schema = datafusion::common::DFSchema::try_from(schema)?;
    Ok(LogicalPlanBuilder::values_with_schema(rows, &Arc::new(schema))?.build()?)
}

/// All columns of the table, out of the given ones (brought to the columns' types) and defaults.
fn insert_projection(
    build: &mut Build<'_>,
    table: &Arc<TableDef>,
    places: &[usize],
    source: LogicalPlan,
) -> SqlResult<LogicalPlan> {
    let source = build.engine.analyze(source)?;
    let schema = Arc::clone(source.schema());
    let mut exprs = Vec::with_capacity(table.columns.len());
    for (i, column) in table.columns.iter().enumerate() {
        let expr = match places.iter().position(|place| *place == i) {
            Some(given) => {
                let field = schema.field(given);
                let expr = Expr::Column(Column::from(schema.qualified_field(given)));
                semantics::assignment_cast(expr, &PgType::of_field(field)?, column)?
            }
            None => default_expr(build, column)?,
        };
        exprs.push(expr.alias(&column.name));
    }
    Ok(LogicalPlanBuilder::from(source).project(exprs)?.build()?)
}

/// A column's default, brought to its type.
pub fn default_expr(build: &mut Build<'_>, column: &ColumnDef) -> SqlResult<Expr> {
    if column.default.is_none() {
        return Ok(Expr::Literal(ScalarValue::try_from(&column.ty.arrow())?, None));
    }
    let refuse = |what: &str| {
        let message = format!("cannot use {what} in DEFAULT expression");
        Err(SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, message))
    };
    let name = |expr: &ast::Expr| match expr {
        ast::Expr::Identifier(_) | ast::Expr::CompoundIdentifier(_) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let given = parse_expr(default_sql(column))?;
    if has_query(&given) {
        return refuse("subquery");
    }
    if ast::visit_expressions(&given, name).is_break() {
        return refuse("column reference");
    }
    let statement = parse_own(&format!("SELECT {}", default_sql(column)))?;
    let plan = build.logical(statement, Scope::default())?;
    let plan = build.engine.analyze(plan)?;
    let ty = PgType::of_field(plan.schema().field(0))?;
    let LogicalPlan::Projection(projection) = &plan else {
        return Err(SqlError::unsupported(format_args!("the default of \"{}\"", column.name)));
    };
    let expr = projection.expr[0].clone().unalias();
    if let Expr::Literal(ScalarValue::Utf8(Some(text)), _) = &expr
        && !column.ty.is_string()
    {
        return Ok(Expr::Literal(crate::types::text::from_text(text, column.ty)?, None));
    }
    semantics::assignment_cast(expr, &ty, column)
}

/// The plan of a RETURNING clause over rows of the table. Its subqueries see the tables as they
/// were before the statement.
fn returning(
    build: &mut Build<'_>,
    table: &Arc<TableDef>,
    items: Option<Vec<ast::SelectItem>>,
    alias: &str,
) -> SqlResult<Option<Returning>> {
    let Some(items) = items else { return Ok(None) };
    let list: Vec<_> = items.iter().map(ToString::to_string).collect();
    let sql = format!("SELECT {} FROM {OWN_TABLE} AS {}", list.join(", "), quoted(alias));
    let shown = table.visible_columns().map(|c| c.ty.field(&c.name, c.nullable));
    let schema = Arc::new(Schema::new(shown.collect::<Vec<_>>()));
    let rows = ValuesTable { schema, rows: Rows::Input(None) };
    let plan = build.logical(parse_own(&sql)?, Scope::of(rows))?;
    Ok(Some(Returning { rows: build.template(plan)?, reads_tables: has_query(&items) }))
}

/// The same where other tables are joined: their columns are not kept until then.
fn returning_joined(
    build: &mut Build<'_>,
    table: &Arc<TableDef>,
    items: Option<Vec<ast::SelectItem>>,
    alias: &str,
    joined: bool,
) -> SqlResult<Option<Returning>> {
    let refused = || {
        SqlError::unsupported("RETURNING of the columns of other tables than the one that changes")
            .with_hint(format!("Columns of {} can be named, or all: {0}.*.", quoted(alias)))
    };
    let all = |item: &ast::SelectItem| matches!(item, ast::SelectItem::Wildcard(_));
    if joined && items.iter().flatten().any(all) {
        return Err(refused());
    }
    let unknown = [SqlState::UNDEFINED_TABLE, SqlState::UNDEFINED_COLUMN];
    returning(build, table, items, alias).map_err(|error| {
        match joined && unknown.contains(&error.sqlstate) {
            true => refused(),
            false => error,
        }
    })
}

/// The table of an UPDATE or DELETE, with its alias.
fn target_of(build: &Build<'_>, relation: &ast::TableFactor) -> SqlResult<(Arc<TableDef>, String)> {
    let ast::TableFactor::Table { name, alias, .. } = relation else {
        return Err(SqlError::syntax("a table is expected"));
    };
    let table = build.target(name)?;
    let alias = alias.as_ref().map_or_else(|| table.name.clone(), |alias| folded(&alias.name));
    Ok((table, alias))
}

fn all_columns(table: &TableDef, alias: &str) -> Vec<String> {
    let column = |c: &ColumnDef| format!("{}.{}", quoted(alias), quoted(&c.name));
    table
        .columns
        .iter()
        .enumerate()
        .map(|(i, c)| format!("{} AS \"quorate_old_{i}\"", column(c)))
        .collect()
}

/// The table that changes, with its hidden columns: other tables, and itself in a subquery, show
/// none, for `SELECT *`, NATURAL JOIN and EXCEPT would take them for columns like any other.
fn target_scope(table: &Arc<TableDef>) -> Scope {
    Scope::of(KvTable::new(Arc::clone(table), true))
}

/// Plans an UPDATE.
pub fn update(build: &mut Build<'_>, update: ast::Update) -> SqlResult<DmlPlan> {
    if !update.table.joins.is_empty() || update.limit.is_some() || update.or.is_some() {
        return Err(SqlError::unsupported("this form of UPDATE"));
    }
    let (table, alias) = target_of(build, &update.table.relation)?;
    let assignments = assignments(&table, update.assignments)?;
    let mut from = format!("FROM {OWN_TABLE} AS {}", quoted(&alias));
    let joined = update.from.is_some();
    match update.from {
        Some(ast::UpdateTableFromKind::BeforeSet(more))
        | Some(ast::UpdateTableFromKind::AfterSet(more)) => {
            for item in more {
                from.push_str(&format!(", {item}"));
            }
        }
        None => {}
    }
    if let Some(selection) = update.selection {
        from.push_str(&format!(" WHERE {selection}"));
    }
    let scope = target_scope(&table);
    let (plan, assigned) = changed_rows(build, &table, &alias, assignments, &from, scope)?;
    let source = build.template(plan)?;
    let returning = returning_joined(build, &table, update.returning, &alias, joined)?;
    let conflict = Conflict::Fail;
    Ok(DmlPlan { table, kind: DmlKind::Update, source, assigned, returning, conflict })
}

/// A query of all columns of the rows that change, then the new values of the assigned ones.
pub(super) fn changed_rows(
    build: &mut Build<'_>,
    table: &Arc<TableDef>,
    alias: &str,
    assignments: Vec<(usize, ast::Expr)>,
    from: &str,
    scope: Scope,
) -> SqlResult<(LogicalPlan, Vec<usize>)> {
    let assigned: Vec<usize> = assignments.iter().map(|(place, _)| *place).collect();
    no_repeats(table, &assigned, true)?;
    let mut list = all_columns(table, alias);
    for (i, (place, expr)) in assignments.into_iter().enumerate() {
        let column = &table.columns[place];
        let mut expr = if is_default(&expr) { parse_expr(default_sql(column))? } else { expr };
        float_text(&mut expr, column.ty);
        build.expect(&expr, column.ty);
        let literal = untyped_literal(&expr).filter(|_| !column.ty.is_string());
        let text = match literal {
            Some(_) => format!("CAST({expr} AS {})", column.ty.without_modifier()),
            None if parameter_index(&expr).is_some() => {
                format!("CAST({expr} AS {})", column.ty.without_modifier())
            }
            None => format!("({expr})"),
        };
        list.push(format!("{text} AS \"quorate_new_{i}\""));
    }
    let sql = format!("SELECT {} {from}", list.join(", "));
    let plan = build.logical(parse_own(&sql)?, scope)?;
    let plan = build.engine.analyze(plan)?;
    let schema = Arc::clone(plan.schema());
    let mut exprs = Vec::new();
    for i in 0..schema.fields().len() {
        let expr = Expr::Column(Column::from(schema.qualified_field(i)));
        let expr = match i.checked_sub(table.columns.len()) {
            Some(n) => {
                let from = PgType::of_field(schema.field(i))?;
                let name = schema.field(i).name().clone();
                semantics::assignment_cast(expr, &from, &table.columns[assigned[n]])?.alias(name)
            }
            None => expr,
        };
        exprs.push(expr);
    }
    let plan = LogicalPlanBuilder::from(plan).project(exprs)?.build()?;
    Ok((plan, assigned))
}

/// A literal that takes its type from where it stands.
fn untyped_literal(expr: &ast::Expr) -> Option<&str> {
    match expr {
        ast::Expr::Value(value) => match &value.value {
            ast::Value::SingleQuotedString(text) => Some(text),
            _ => None,
        },
        ast::Expr::Nested(inner) => untyped_literal(inner),
        _ => None,
    }
}

pub(super) fn assignments(
    table: &TableDef,
    assignments: Vec<ast::Assignment>,
) -> SqlResult<Vec<(usize, ast::Expr)>> {
    let mut out = Vec::new();
    for assignment in assignments {
        match (assignment.target, assignment.value) {
            (ast::AssignmentTarget::ColumnName(name), value) => {
                out.push((visible_column(table, &last_name(&name))?, value));
            }
            (ast::AssignmentTarget::Tuple(names), ast::Expr::Tuple(values))
                if names.len() == values.len() =>
            {
                for (name, value) in names.iter().zip(values) {
                    out.push((visible_column(table, &last_name(name))?, value));
                }
            }
            _ => return Err(SqlError::unsupported("this form of SET in UPDATE")),
        }
    }
    Ok(out)
}

/// Plans a DELETE.
pub fn delete(build: &mut Build<'_>, delete: ast::Delete) -> SqlResult<DmlPlan> {
    let from = match &delete.from {
        ast::FromTable::WithFromKeyword(from) | ast::FromTable::WithoutKeyword(from) => from,
    };
    let [target] = from.as_slice() else {
        return Err(SqlError::syntax("DELETE names one table"));
    };
    if !target.joins.is_empty()
        || !delete.tables.is_empty()
        || !delete.order_by.is_empty()
        || delete.limit.is_some()
    {
        return Err(SqlError::unsupported("this form of DELETE"));
    }
    let (table, alias) = target_of(build, &target.relation)?;
    let list = all_columns(&table, &alias).join(", ");
    let mut sql = format!("SELECT {list} FROM {OWN_TABLE} AS {}", quoted(&alias));
    for item in delete.using.iter().flatten() {
        sql.push_str(&format!(", {item}"));
    }
    if let Some(selection) = &delete.selection {
        sql.push_str(&format!(" WHERE {selection}"));
    }
    let plan = build.logical(parse_own(&sql)?, target_scope(&table))?;
    let source = build.template(plan)?;
    let joined = delete.using.is_some();
    let returning = returning_joined(build, &table, delete.returning, &alias, joined)?;
    let (kind, conflict) = (DmlKind::Delete, Conflict::Fail);
    Ok(DmlPlan { table, kind, source, assigned: vec![], returning, conflict })
}
