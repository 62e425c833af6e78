//! The physical nodes of our logical ones.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result as DfResult, internal_err};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{ExtensionPlanner, PhysicalPlanner};

use super::engine::bind;
use crate::error::{SqlError, SqlState};
use crate::exec::RunCell;
use crate::exec::access::Source;
use crate::exec::apply::{Apply, ApplyExec, ApplyQuery};
use crate::exec::limit::{ParamLimit, ParamLimitExec};
use crate::exec::lock::{LockRows, LockRowsExec};
use crate::exec::rows::{ParamValues, ParamValuesExec};
use crate::exec::series::{Series, SeriesExec};

/// Makes them.
#[derive(Debug)]
pub struct Nodes {
    /// The cell of the plan instance being built.
    pub cell: Arc<RunCell>,
}

#[async_trait]
impl ExtensionPlanner for Nodes {
    async fn plan_extension(
        &self,
        planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _logical_inputs: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        state: &dyn datafusion::catalog::Session,
        context: &PhysicalPlanningContext,
    ) -> DfResult<Option<Arc<dyn ExecutionPlan>>> {
        let any: &dyn std::any::Any = node.as_any();
        if let Some(values) = any.downcast_ref::<ParamValues>() {
            let values = ParamValuesExec::try_new(values, Arc::clone(&self.cell))?;
            return Ok(Some(Arc::new(values)));
        }
        if let Some(series) = any.downcast_ref::<Series>() {
            let none = DFSchema::empty();
            let args = series.args.iter();
            let args = args.map(|arg| planner.create_physical_expr(arg, &none, state, context));
            return Ok(Some(Arc::new(SeriesExec::new(series, args.collect::<DfResult<_>>()?))));
        }
        let [input] = physical_inputs else { return internal_err!("our nodes have one input") };
        if let Some(limit) = any.downcast_ref::<ParamLimit>() {
            return self.limit(limit, input).map(Some);
        }
        if let Some(lock) = any.downcast_ref::<LockRows>() {
            let keys = lock.keys.iter();
            let keys = keys
                .map(|key| planner.create_physical_expr(key, lock.input.schema(), state, context));
            let (keys, cell) = (keys.collect::<DfResult<_>>()?, Arc::clone(&self.cell));
            return Ok(Some(Arc::new(LockRowsExec::new(Arc::clone(input), lock, keys, cell))));
        }
        let Some(apply) = any.downcast_ref::<Apply>() else { return Ok(None) };
        let outer = apply.outer.iter();
        let outer = outer
            .map(|expr| planner.create_physical_expr(expr, apply.input.schema(), state, context));
        let outer = outer.collect::<DfResult<Vec<_>>>()?;
        let cell = RunCell::new();
        let query = bind(apply.query.as_ref().clone(), &cell)?;
        // Its nodes read the cell of its own: they are made by a planner of its own.
        let plan =
            super::engine::physical_planner(&cell).create_physical_plan(&query, state).await?;
        let query = ApplyQuery {
            plan,
            cell,
            outer,
            first_slot: apply.first_slot,
            gives: apply.gives,
            volatile: is_volatile(&apply.query)?,
        };
        let schema = Arc::clone(node.schema().inner());
        Ok(Some(Arc::new(ApplyExec::new(Arc::clone(input), query, Arc::clone(&self.cell), schema))))
    }
}

impl Nodes {
    fn limit(
        &self,
        limit: &ParamLimit,
        input: &Arc<dyn ExecutionPlan>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let source = |expr: &Option<Expr>| {
            expr.as_ref()
                .map(|expr| {
                    Source::of(expr).ok_or_else(|| {
                        SqlError::new(
                            SqlState::INVALID_COLUMN_REFERENCE,
                            "argument of LIMIT must not contain variables",
                        )
                    })
                })
                .transpose()
        };
        Ok(Arc::new(ParamLimitExec::new(
            Arc::clone(input),
            source(&limit.skip)?,
            source(&limit.fetch)?,
            Arc::clone(&self.cell),
        )))
    }
}

fn is_volatile(plan: &LogicalPlan) -> DfResult<bool> {
    let mut volatile = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            volatile |= expr.exists(|expr| Ok(expr.is_volatile_node()))?;
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(volatile)
}
