//! From one statement to a plan template: names, parameter types, passes.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan, TableSource};
use datafusion::sql::sqlparser::ast;

use super::engine::{Engine, Names};
use super::instance::Template;
use super::rewrite;
use crate::catalog::{CatalogSnapshot, TableDef};
use crate::error::{SqlError, SqlResult, SqlState};
use crate::exec::Slot;
use crate::parse::LockClause;
use crate::types::PgType;

/// Parameters a statement may have (the wire protocol's limit).
const PARAMS_MAX: usize = 65_535;

/// A column of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutColumn {
    /// Its name.
    pub name: String,
    /// Its type, with the modifier if it is a plain column.
    pub ty: PgType,
    /// The table it is a column of; 0 if it is none.
    pub table_oid: u32,
    /// Which column of the table, from 1; 0 if it is none.
    pub column_no: i16,
}

/// What planning one statement knows and learns.
pub struct Build<'a> {
    /// DataFusion.
    pub engine: &'a Arc<Engine>,
    /// The tables.
    pub catalog: &'a Arc<CatalogSnapshot>,
    /// `current_database()`
    pub database: &'a str,
    /// Types of the parameters, as far as they are known.
    pub params: Vec<Option<PgType>>,
    /// Its locking clauses.
    pub locks: Vec<LockClause>,
    /// It reads a moment of the past.
    pub past: bool,
}

/// A schema that nothing is in but [`OWN_TABLE`].
pub const OWN_SCHEMA: &str = "quorate_own";
/// What [`Scope::own`] is called: no table that a client names is taken for it, in whatever
/// subquery.
pub const OWN_TABLE: &str = "\"quorate_own\".\"rows\"";

/// Names of one SELECT that are not in the catalog.
#[derive(Default)]
pub struct Scope {
    /// The table called [`OWN_TABLE`].
    pub own: Option<Arc<dyn TableSource>>,
}

impl Scope {
    /// With a table of the statement's own.
    pub fn of(own: impl TableProvider + 'static) -> Self {
        Self { own: Some(provider_as_source(Arc::new(own))) }
    }
}

impl Build<'_> {
    /// The table of a name in a statement that writes to it.
    pub fn target(&self, name: &ast::ObjectName) -> SqlResult<Arc<TableDef>> {
        let parts: Vec<String> =
            name.0.iter().filter_map(|part| part.as_ident()).map(rewrite::folded).collect();
        let (schema, table) = match parts.as_slice() {
            [table] => ("public", table),
            [schema, table] => (schema.as_str(), table),
            [_, schema, table] => (schema.as_str(), table),
            _ => return Err(SqlError::syntax("improper qualified name")),
        };
        if schema == "pg_catalog" || schema == "information_schema" {
            let message = format!("permission denied: \"{table}\" is a system catalog");
            return Err(SqlError::new(SqlState::INSUFFICIENT_PRIVILEGE, message));
        }
        let found = (schema == "public").then(|| self.catalog.table(table)).flatten();
        found.cloned().ok_or_else(|| {
            let message = format!("relation \"{name}\" does not exist");
            SqlError::new(SqlState::UNDEFINED_TABLE, message)
        })
    }

    /// DataFusion's plan of a query, with all parameter types settled.
    pub fn logical(&mut self, statement: ast::Statement, scope: Scope) -> SqlResult<LogicalPlan> {
        let mut statement = statement;
        super::qualified::strip(&mut statement, self.catalog)?;
        super::calls::check(&statement, self.engine.state())?;
        rewrite::name_columns(&mut statement);
        let mut names = Names::new(self.engine, self.catalog, self.database);
        names.past = self.past;
        names.own = scope.own;
        let set_operation = matches!(
            &statement,
            ast::Statement::Query(query)
                if matches!(query.body.as_ref(), ast::SetExpr::SetOperation { .. })
        );
        let plan = self.engine.logical(statement.clone(), &names, &self.params);
        let plan = plan.map_err(|error| match set_operation {
            true => of_set_operation(error),
            false => error,
        })?;
        if self.learn(&plan)? {
            return self.engine.logical(statement, &names, &self.params);
        }
        Ok(plan)
    }

    /// The template of a plan.
    pub fn template(&self, plan: LogicalPlan) -> SqlResult<Arc<Template>> {
        Template::new(Arc::clone(self.engine), self.engine.optimize(plan)?)
    }

    /// Sets the type of a parameter that a target column gives it.
    pub fn expect(&mut self, expr: &ast::Expr, ty: PgType) {
        if let Some(i) = parameter_index(expr) {
            if self.params.len() <= i {
                self.params.resize(i + 1, None);
            }
            let known = &mut self.params[i];
            if known.is_none_or(|ty| ty == PgType::Unknown) {
                // A numeric is rounded to its column's digits as it is bound.
                *known = Some(match ty {
                    PgType::Numeric(_) => ty,
                    other => other.without_modifier(),
                });
            }
        }
    }

    /// The types of all parameters.
    pub fn param_types(&self) -> Vec<PgType> {
        self.params.iter().map(|ty| ty.unwrap_or(PgType::Text)).collect()
    }

    /// Takes over what DataFusion found out about parameters; whether the plan must be made again.
    fn learn(&mut self, plan: &LogicalPlan) -> SqlResult<bool> {
        let mut found: Vec<(usize, Option<PgType>)> = Vec::new();
        plan.apply_with_subqueries(|node| {
            let limit = matches!(node, LogicalPlan::Limit(_));
            node.apply_expressions(|expr| {
                expr.apply(|expr| {
                    if let Expr::Cast(cast) = expr
                        && let Expr::Placeholder(inner) = cast.expr.as_ref()
                        && let Some(Slot::Param(i)) = Slot::parse(&inner.id)
                    {
                        found.push((i, PgType::of_field(&cast.field).ok()));
                    }
                    if let Expr::Placeholder(placeholder) = expr
                        && let Some(Slot::Param(i)) = Slot::parse(&placeholder.id)
                    {
                        let field = placeholder.field.as_ref();
                        let known = field.and_then(|field| PgType::of_field(field).ok());
                        // `varchar` has no operators of its own: it is compared as text.
                        let known = known.map(|ty| match ty {
                            PgType::Varchar(_) => PgType::Text,
                            other => other,
                        });
                        found.push((i, known.or(limit.then_some(PgType::Int8))));
                    }
                    Ok(TreeNodeRecursion::Continue)
                })
            })
        })?;
        let before = self.params.clone();
        for (i, ty) in found {
            if i >= PARAMS_MAX {
                let message = format!("there is no parameter ${}", i + 1);
                return Err(SqlError::new(SqlState::UNDEFINED_PARAMETER, message));
            }
            if self.params.len() <= i {
                self.params.resize(i + 1, None);
            }
            let known = &mut self.params[i];
            if known.is_none_or(|ty| ty == PgType::Unknown) {
                *known = ty.filter(|ty| *ty != PgType::Unknown).map(|ty| ty.without_modifier());
            }
        }
        // What nothing gave a type is text, as for PostgreSQL.
        for known in &mut self.params {
            if known.is_none_or(|ty| ty == PgType::Unknown) {
                *known = Some(PgType::Text);
            }
        }
        Ok(before != self.params)
    }

    /// The columns of a plan's result.
    pub fn columns(&self, template: &Template) -> SqlResult<Vec<OutColumn>> {
        let plan = template.logical().schema();
        let mut columns = Vec::new();
        for (i, field) in template.schema().fields().iter().enumerate() {
            let mut ty = PgType::of_field(field)?;
            if ty == PgType::Unknown {
                ty = PgType::Text;
            }
            let (qualifier, _) = plan.qualified_field(i);
            let origin = qualifier.and_then(|table| self.catalog.table(table.table()));
            let place = origin.and_then(|def| {
                let at = def.visible_columns().position(|c| c.name == *field.name())?;
                Some((super::table_oid(def.id), i16::try_from(at + 1).ok()?))
            });
            let (table_oid, column_no) = place.unwrap_or((0, 0));
            let name = rewrite::shown_name(field.name());
            columns.push(OutColumn { name, ty, table_oid, column_no });
        }
        Ok(columns)
    }
}

/// DataFusion takes a UNION for a SELECT DISTINCT when it speaks of ORDER BY.
fn of_set_operation(error: SqlError) -> SqlError {
    let begin = "For SELECT DISTINCT, ORDER BY expressions ";
    match error.message.strip_prefix(begin).and_then(|rest| rest.split(' ').next()) {
        Some(name) => {
            let message = format!("column \"{name}\" does not exist");
            SqlError::new(SqlState::UNDEFINED_COLUMN, message)
        }
        None => error,
    }
}

/// The parameter an expression is, counted from 0.
pub fn parameter_index(expr: &ast::Expr) -> Option<usize> {
    match expr {
        ast::Expr::Value(value) => match &value.value {
            ast::Value::Placeholder(id) => match Slot::parse(id)? {
                Slot::Param(i) if i < PARAMS_MAX => Some(i),
                _ => None,
            },
            _ => None,
        },
        ast::Expr::Nested(inner) => parameter_index(inner),
        _ => None,
    }
}
