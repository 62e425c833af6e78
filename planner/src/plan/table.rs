//! A table of the catalog as DataFusion's planner sees it.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Constraint, Constraints, DFSchema, Result as DfResult};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::create_physical_expr;
use datafusion::physical_plan::ExecutionPlan;

use crate::catalog::TableDef;
use crate::error::SqlError;
use crate::exec::RunCell;
use crate::exec::access::{choose, conjuncts};
use crate::exec::fetch::RowReader;
use crate::exec::scan::ScanExec;

/// A stored table. Its columns are those of the definition, hidden ones last; a query sees hidden
/// ones only where a statement of ours asks for them.
#[derive(Debug, Clone)]
pub struct KvTable {
    /// The definition.
    pub table: Arc<TableDef>,
    /// The cell of the plan instance being built; none before.
    pub cell: Option<Arc<RunCell>>,
    schema: SchemaRef,
    constraints: Constraints,
}

impl KvTable {
    /// A table; `hidden`: with its hidden columns.
    pub fn new(table: Arc<TableDef>, hidden: bool) -> Self {
        let shown = table.columns.iter().filter(|c| hidden || !c.hidden);
        let fields: Vec<_> = shown.map(|c| c.ty.field(&c.name, c.nullable)).collect();
        let key = table.primary().columns.iter().map(|part| table.position(part.column));
        let key: Option<Vec<usize>> =
            key.map(|place| place.filter(|i| *i < fields.len())).collect();
        let constraints =
            Constraints::new_unverified(key.into_iter().map(Constraint::PrimaryKey).collect());
        Self { table, cell: None, schema: Arc::new(Schema::new(fields)), constraints }
    }
}

#[async_trait]
impl TableProvider for KvTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn constraints(&self) -> Option<&Constraints> {
        Some(&self.constraints)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> DfResult<Vec<TableProviderFilterPushDown>> {
        let takes = |filter: &&Expr| {
            if filter.is_volatile() {
                TableProviderFilterPushDown::Unsupported
            } else {
                TableProviderFilterPushDown::Exact
            }
        };
        Ok(filters.iter().map(takes).collect())
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let all = || (0..self.schema.fields().len()).collect();
        let output: Vec<usize> = projection.cloned().unwrap_or_else(all);
        let parts = conjuncts(filters);
        let place = |name: &str| self.table.columns.iter().position(|c| c.name == name);
        let mut needed = output.clone();
        let filtered = parts.iter().flat_map(Expr::column_refs);
        needed.extend(filtered.filter_map(|column| place(&column.name)));
        needed.sort_unstable();
        needed.dedup();
        let (path, answered) = choose(&self.table, &parts, &needed);
        let rest: Vec<Expr> = parts
            .into_iter()
            .enumerate()
            .filter(|(i, _)| !answered.contains(i))
            .map(|(_, expr)| expr)
            .collect();
        // Columns that only an answered conjunct names need not be decoded.
        let rest_names: Vec<_> = rest.iter().flat_map(Expr::column_refs).collect();
        let named = |i: &usize| rest_names.iter().any(|c| c.name == self.table.columns[*i].name);
        needed.retain(|i| output.contains(i) || named(i));
        let layout = Arc::new(RowReader::new(Arc::clone(&self.table), needed)?);
        let filter = conjunction(rest.into_iter().map(unqualified).collect::<DfResult<Vec<_>>>()?)
            .map(|expr| {
                let schema = DFSchema::try_from(layout.schema().as_ref().clone())?;
                let (props, context) = (ExecutionProps::new(), PhysicalPlanningContext::default());
                create_physical_expr(&expr, &schema, &props, &context)
            })
            .transpose()?;
        let places = output.iter().map(|i| {
            layout.place_of(*i).ok_or_else(|| SqlError::internal("a column is not decoded").into())
        });
        let places = places.collect::<DfResult<Vec<_>>>()?;
        let cell = self.cell.clone().unwrap_or_default();
        let scan = ScanExec::try_new(layout, path, filter, places, cell)?;
        Ok(Arc::new(scan.with_limit(limit)))
    }
}

/// The expression with columns of one table named without it.
fn unqualified(expr: Expr) -> DfResult<Expr> {
    use datafusion::common::Column;
    use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
    expr.transform(|expr| {
        Ok(match expr {
            Expr::Column(column) => {
                Transformed::yes(Expr::Column(Column::new_unqualified(column.name)))
            }
            other => Transformed::no(other),
        })
    })
    .data()
}
