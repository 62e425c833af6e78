//! Statements that compute for long without waiting: others get their turn meanwhile, and a cancel
//! request is heard.
//!
//! Storage is waited for page by page, which is turn enough for most plans. What makes many rows
//! out of few (joins, series, recursion) can go on for hours between two pages, so it gives up its
//! turn every few batches ([`YieldExec`]). A nested loop may even need long for one batch, and look
//! at millions of pairs before it has one: it is polled where no other task waits for the thread
//! ([`in_place`]), and gives up its turn with each batch it takes. There tokio's own budget does
//! not count, so DataFusion's `CooperativeExec`, which relies on it, would never yield.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::Result as DfResult;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties,
    ReplaceChildrenOptions,
};
use futures::Stream;
use tokio::runtime::{Handle, RuntimeFlavor};

use super::apply::ApplyExec;

/// Batches in one turn.
const BATCHES_PER_TURN: u32 = 8;

/// Rows that a nested loop takes in one turn: it puts each beside all of its other side, and a page
/// of storage may have a hundred thousand.
const ROWS_SEARCHED_PER_TURN: usize = 1024;

/// What a node gives in one turn,
const GIVEN: Turn = Turn { batches: BATCHES_PER_TURN, rows: usize::MAX };
/// and what one that searches takes.
const SEARCHED: Turn = Turn { batches: 1, rows: ROWS_SEARCHED_PER_TURN };

/// The name of [`YieldExec`].
pub const YIELD: &str = "YieldExec";

/// Nodes that can make any number of rows out of a few.
const MULTIPLIES: [&str; 8] = [
    "ApplyExec",
    "CrossJoinExec",
    "HashJoinExec",
    "NestedLoopJoinExec",
    "RecursiveQueryExec",
    "SeriesExec",
    "SortMergeJoinExec",
    "UnnestExec",
];

/// Nodes that may look at any number of rows before they have one to give.
const SEARCHES: [&str; 2] = ["CrossJoinExec", "NestedLoopJoinExec"];

/// The rows of its input, with a pause for others every few batches.
#[derive(Debug)]
pub struct YieldExec {
    input: Arc<dyn ExecutionPlan>,
    turn: Turn,
}

/// What is given in one turn.
#[derive(Debug, Clone, Copy)]
struct Turn {
    batches: u32,
    /// Larger batches are cut.
    rows: usize,
}

impl DisplayAs for YieldExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Yield")
    }
}

impl ExecutionPlan for YieldExec {
    fn name(&self) -> &'static str {
        YIELD
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
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
        Ok(Arc::new(Self { input: children.swap_remove(0), turn: self.turn }))
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self { input: children.swap_remove(0), turn: self.turn }))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DfResult<SendableRecordBatchStream> {
        let inner = self.input.execute(partition, context)?;
        Ok(Box::pin(Turns { inner, turn: self.turn, left: self.turn.batches, rest: None }))
    }
}

/// A stream that is pending for a moment when its turn is over.
struct Turns {
    inner: SendableRecordBatchStream,
    turn: Turn,
    /// Batches that are left of the turn,
    left: u32,
    /// and rows of the last one that were not given yet.
    rest: Option<RecordBatch>,
}

impl Turns {
    /// The first part of a batch; what is over is kept.
    fn part(&mut self, batch: RecordBatch) -> RecordBatch {
        let (rows, most) = (batch.num_rows(), self.turn.rows);
        if rows <= most {
            return batch;
        }
        self.rest = Some(batch.slice(most, rows - most));
        batch.slice(0, most)
    }
}

impl Stream for Turns {
    type Item = DfResult<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.left == 0 {
            self.left = self.turn.batches;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.left -= 1;
        let next = match self.rest.take() {
            Some(rest) => Poll::Ready(Some(Ok(rest))),
            None => self.inner.as_mut().poll_next(cx),
        };
        next.map(|next| next.map(|batch| batch.map(|batch| self.part(batch))))
    }
}

impl RecordBatchStream for Turns {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }
}

/// Puts a [`YieldExec`] over what can make any number of rows, and under what searches for them.
#[derive(Debug, Default)]
pub struct Yielding;

impl PhysicalOptimizerRule for Yielding {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            if !MULTIPLIES.contains(&node.name()) {
                return Ok(Transformed::no(node));
            }
            let over =
                |input, turn| -> Arc<dyn ExecutionPlan> { Arc::new(YieldExec { input, turn }) };
            let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);
            let node = match SEARCHES.contains(&node.name()) {
                true => {
                    let inputs = node.children().into_iter().cloned();
                    let inputs = inputs.map(|input| over(input, SEARCHED)).collect();
                    node.replace_children(inputs, options)?
                }
                false => node,
            };
            Ok(Transformed::yes(over(node, GIVEN)))
        })
        .data()
    }

    fn name(&self) -> &str {
        "yielding"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Whether one poll of the plan may take long.
pub fn searches(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let query = plan.downcast_ref::<ApplyExec>().map(ApplyExec::query);
    SEARCHES.contains(&plan.name()) || plan.children().into_iter().chain(query).any(searches)
}

/// Does what may take long without waiting. Where the runtime has several threads, the tasks that
/// wait for this one move to another.
pub fn in_place<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current() {
        Ok(runtime) if runtime.runtime_flavor() == RuntimeFlavor::MultiThread => {
            tokio::task::block_in_place(work)
        }
        _ => work(),
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::Waker;

    use super::*;
    use crate::testing::MemDb;

    /// A count over a trillion pairs: the first poll comes back.
    #[test]
    fn a_long_join_gives_up_its_turn() {
        let db = MemDb::new();
        let sql =
            "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b";
        let mut answer = std::pin::pin!(db.run(sql));
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            assert!(answer.as_mut().poll(&mut context).is_pending());
        }
    }

    /// One that finds a pair in billions comes back while it looks for it.
    #[tokio::test]
    async fn a_join_that_finds_little_gives_up_its_turn_meanwhile() {
        let db = MemDb::new();
        db.run("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
        db.run("INSERT INTO t SELECT * FROM generate_series(1, 20000)").await.unwrap();
        db.run("CREATE TABLE u (id int PRIMARY KEY)").await.unwrap();
        db.run("INSERT INTO u VALUES (2), (3)").await.unwrap();
        let mut search = std::pin::pin!(db.run("SELECT 1 FROM u, t WHERE u.id + t.id = 2"));
        let mut context = Context::from_waker(Waker::noop());
        let mut turns = 0;
        while search.as_mut().poll(&mut context).is_pending() {
            turns += 1;
        }
        assert!(turns >= 20_000 / ROWS_SEARCHED_PER_TURN, "{turns} turns");
    }
}
