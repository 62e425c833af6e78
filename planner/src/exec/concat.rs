//! Several inputs one after another in one stream.
//!
//! DataFusion merges the partitions of a UNION by a task per input. Here a statement runs in the
//! task that polls it: no tasks that outlive a session, and the same order every time.

use std::fmt;
use std::sync::Arc;

use datafusion::common::Result as DfResult;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Distribution, EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties,
    PlanProperties, ReplaceChildrenOptions,
};
use futures::{StreamExt, stream};

/// The partitions of its input, one after another.
#[derive(Debug)]
pub struct ConcatExec {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    limit: Option<usize>,
}

impl ConcatExec {
    /// One stream of all partitions of `input`.
    pub fn new(input: Arc<dyn ExecutionPlan>, limit: Option<usize>) -> Self {
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(input.schema()),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        Self { input, properties, limit }
    }
}

impl DisplayAs for ConcatExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Concat")?;
        match self.limit {
            Some(limit) => write!(f, ": limit={limit}"),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for ConcatExec {
    fn name(&self) -> &'static str {
        "ConcatExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
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
        Ok(Arc::new(Self::new(children.swap_remove(0), self.limit)))
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(children.swap_remove(0), self.limit)))
    }

    fn execute(
        &self,
        _partition: usize,
        context: Arc<TaskContext>,
    ) -> DfResult<SendableRecordBatchStream> {
        let input = Arc::clone(&self.input);
        let count = input.output_partitioning().partition_count();
        let parts = stream::iter(0..count)
            .map(move |part| input.execute(part, Arc::clone(&context)))
            .flat_map(|part| match part {
                Ok(batches) => batches.left_stream(),
                Err(error) => stream::iter([Err(error)]).right_stream(),
            });
        let limited =
            stream::try_unfold((Box::pin(parts), self.limit), |(mut parts, left)| async move {
                if left == Some(0) {
                    return Ok(None);
                }
                let Some(batch) = parts.next().await.transpose()? else { return Ok(None) };
                let rows = left.map_or(batch.num_rows(), |left| left.min(batch.num_rows()));
                Ok(Some((batch.slice(0, rows), (parts, left.map(|left| left - rows)))))
            });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), limited)))
    }
}

/// Puts [`ConcatExec`] where DataFusion would start tasks to merge partitions.
#[derive(Debug, Default)]
pub struct WithoutTasks;

impl PhysicalOptimizerRule for WithoutTasks {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let plan = plan.transform_up(|node| {
            if let Some(merge) = node.downcast_ref::<CoalescePartitionsExec>() {
                let concat = ConcatExec::new(Arc::clone(merge.input()), merge.fetch());
                return Ok(Transformed::yes(Arc::new(concat) as Arc<dyn ExecutionPlan>));
            }
            if let Some(merge) = node.downcast_ref::<SortPreservingMergeExec>() {
                let concat = Arc::new(ConcatExec::new(Arc::clone(merge.input()), None));
                let sort = SortExec::new(merge.expr().clone(), concat).with_fetch(merge.fetch());
                return Ok(Transformed::yes(Arc::new(sort) as Arc<dyn ExecutionPlan>));
            }
            // Whoever wants one partition and still has several gets them one after another.
            let wanted = node.input_distribution_requirements();
            let single: Vec<bool> = wanted
                .per_child_distributions()
                .map(|d| matches!(d, Distribution::SinglePartition))
                .collect();
            let children = node.children();
            let many = |i: usize, child: &Arc<dyn ExecutionPlan>| {
                single.get(i) == Some(&true) && child.output_partitioning().partition_count() > 1
            };
            if !children.iter().enumerate().any(|(i, child)| many(i, child)) {
                return Ok(Transformed::no(node));
            }
            let children = children.into_iter().enumerate().map(|(i, child)| {
                if many(i, child) {
                    Arc::new(ConcatExec::new(Arc::clone(child), None)) as Arc<dyn ExecutionPlan>
                } else {
                    Arc::clone(child)
                }
            });
            let children = children.collect();
            let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
            Ok(Transformed::yes(node.replace_children(children, options)?))
        });
        // A statement reads one partition: the root has no more.
        let root = plan.data()?;
        if root.output_partitioning().partition_count() > 1 {
            return Ok(Arc::new(ConcatExec::new(root, None)));
        }
        Ok(root)
    }

    fn name(&self) -> &str {
        "without_tasks"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
