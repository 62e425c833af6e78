//! `LIMIT $1 OFFSET $2`: DataFusion wants both to be constants, so a limit by parameters is a node
//! of ours, in the logical plan ([`ParamLimit`]) and in the physical one ([`ParamLimitExec`]).

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchemaRef, Result as DfResult, ScalarValue};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::UserDefinedLogicalNodeCore;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties,
    PlanProperties, ReplaceChildrenOptions,
};
use futures::{StreamExt, stream};

use super::run::RunCell;
use crate::error::{SqlError, SqlResult, SqlState};
use crate::exec::access::Source;

/// `LIMIT` and `OFFSET` whose values are known at execution only.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ParamLimit {
    /// What is limited.
    pub input: Arc<LogicalPlan>,
    /// OFFSET
    pub skip: Option<Expr>,
    /// LIMIT
    pub fetch: Option<Expr>,
}

impl PartialOrd for ParamLimit {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.fetch.partial_cmp(&other.fetch)
    }
}

impl UserDefinedLogicalNodeCore for ParamLimit {
    fn name(&self) -> &str {
        "ParamLimit"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        self.skip.iter().chain(&self.fetch).cloned().collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("ParamLimit")
    }

    fn with_exprs_and_inputs(
        &self,
        exprs: Vec<Expr>,
        mut inputs: Vec<LogicalPlan>,
    ) -> DfResult<Self> {
        let mut exprs = exprs.into_iter();
        Ok(Self {
            input: Arc::new(inputs.swap_remove(0)),
            skip: self.skip.as_ref().and_then(|_| exprs.next()),
            fetch: self.fetch.as_ref().and_then(|_| exprs.next()),
        })
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![output_columns.to_vec()])
    }
}

/// Skips and stops at counts read at execution.
#[derive(Debug)]
pub struct ParamLimitExec {
    input: Arc<dyn ExecutionPlan>,
    skip: Option<Source>,
    fetch: Option<Source>,
    cell: Arc<RunCell>,
    properties: Arc<PlanProperties>,
}

impl ParamLimitExec {
    /// A limit over an input.
    pub fn new(
        input: Arc<dyn ExecutionPlan>,
        skip: Option<Source>,
        fetch: Option<Source>,
        cell: Arc<RunCell>,
    ) -> Self {
        let orders = input.equivalence_properties().clone();
        let equivalence = if input.output_partitioning().partition_count() == 1 {
            orders
        } else {
            EquivalenceProperties::new(input.schema())
        };
        let properties = Arc::new(PlanProperties::new(
            equivalence,
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        Self { input, skip, fetch, cell, properties }
    }

    fn count(&self, source: &Option<Source>, limit: bool) -> SqlResult<Option<usize>> {
        let Some(source) = source else { return Ok(None) };
        let value = source.value(&*self.cell.get()?)?;
        let number = match value {
            ScalarValue::Int16(n) => n.map(i64::from),
            ScalarValue::Int32(n) => n.map(i64::from),
            ScalarValue::Int64(n) => n,
            ScalarValue::Null => None,
            other => {
                return Err(SqlError::new(
                    SqlState::DATATYPE_MISMATCH,
                    format!("argument of LIMIT must be type bigint, not {}", other.data_type()),
                ));
            }
        };
        match number {
            None => Ok(None),
            Some(n) => usize::try_from(n).map(Some).map_err(|_| {
                let (state, word) = if limit {
                    (SqlState::INVALID_ROW_COUNT_IN_LIMIT, "LIMIT")
                } else {
                    (SqlState::INVALID_ROW_COUNT_IN_OFFSET, "OFFSET")
                };
                SqlError::new(state, format!("{word} must not be negative"))
            }),
        }
    }
}

impl DisplayAs for ParamLimitExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Limit")?;
        if let Some(skip) = &self.skip {
            write!(f, ": skip={skip}")?;
        }
        if let Some(fetch) = &self.fetch {
            write!(f, ": fetch={fetch}")?;
        }
        Ok(())
    }
}

impl ExecutionPlan for ParamLimitExec {
    fn name(&self) -> &'static str {
        "ParamLimitExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn input_distribution_requirements(
        &self,
    ) -> datafusion::physical_plan::InputDistributionRequirements {
        datafusion::physical_plan::InputDistributionRequirements::new(vec![
            datafusion::physical_expr::Distribution::SinglePartition,
        ])
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
    ) -> DfResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let input = children.swap_remove(0);
        let (skip, fetch) = (self.skip.clone(), self.fetch.clone());
        Ok(Arc::new(Self::new(input, skip, fetch, Arc::clone(&self.cell))))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        self.replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DfResult<SendableRecordBatchStream> {
        let skip = self.count(&self.skip, false)?.unwrap_or(0);
        let fetch = self.count(&self.fetch, true)?.unwrap_or(usize::MAX);
        let input = self.input.execute(partition, context)?;
        let limited = stream::try_unfold(
            (input, skip, fetch),
            |(mut input, mut skip, mut fetch)| async move {
                while fetch > 0 {
                    let Some(batch) = input.next().await.transpose()? else { break };
                    let skipped = skip.min(batch.num_rows());
                    skip -= skipped;
                    let rows = fetch.min(batch.num_rows() - skipped);
                    if rows > 0 {
                        fetch -= rows;
                        return Ok(Some((batch.slice(skipped, rows), (input, skip, fetch))));
                    }
                }
                Ok(None)
            },
        );
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), limited)))
    }
}
