//! Physical plans that are built once and executed many times.
//!
//! A [`Template`] is an optimized logical plan with placeholders. It makes [`Instance`]s: physical
//! plans whose parameters read the instance's own cell. An execution takes an instance out of the
//! template's pool and puts it back when its stream is dropped; concurrent executions have one
//! each.
//!
//! # Invariants
//!
//! * An instance is either in the pool or in use by one execution, never both.
//! * The cell of an instance in the pool is empty.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::Result as DfResult;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use futures::Stream;
use parking_lot::Mutex;

use super::engine::Engine;
use super::guard::guarded;
use crate::error::SqlResult;
use crate::exec::run::is_stateless;
use crate::exec::{RunCell, RunState, yielding};

/// Instances a template keeps for the next executions.
const POOL_MAX: usize = 16;

/// Executions after which an instance is built anew: its nodes add metrics with each of them.
const USES_MAX: u32 = 256;

/// What plans are made from.
#[derive(Debug)]
pub struct Template {
    engine: Arc<Engine>,
    logical: LogicalPlan,
    schema: SchemaRef,
    pool: Mutex<Vec<Instance>>,
    built: AtomicU64,
}

/// A physical plan and the cell its parameters read.
#[derive(Debug)]
pub struct Instance {
    /// The plan.
    pub plan: Arc<dyn ExecutionPlan>,
    cell: Arc<RunCell>,
    stateless: bool,
    searches: bool,
    uses: u32,
}

impl Instance {
    fn new(plan: Arc<dyn ExecutionPlan>, cell: Arc<RunCell>) -> Self {
        let (stateless, searches) = (is_stateless(&plan), yielding::searches(&plan));
        Self { plan, cell, stateless, searches, uses: 0 }
    }
}

impl Template {
    /// A template of an optimized plan; builds its first instance, so that what cannot be executed
    /// is refused now.
    pub fn new(engine: Arc<Engine>, logical: LogicalPlan) -> SqlResult<Arc<Self>> {
        let cell = RunCell::new();
        let plan = engine.physical(&logical, &cell)?;
        let first = Instance::new(plan, cell);
        Ok(Arc::new(Self {
            schema: first.plan.schema(),
            engine,
            logical,
            pool: Mutex::new(vec![first]),
            built: AtomicU64::new(1),
        }))
    }

    /// The columns that come out.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The optimized plan.
    pub fn logical(&self) -> &LogicalPlan {
        &self.logical
    }

    /// How many instances were built so far.
    pub fn built(&self) -> u64 {
        self.built.load(Ordering::Relaxed)
    }

    /// Looks at a physical plan of the template.
    pub fn with_plan<T>(&self, look: impl FnOnce(&Arc<dyn ExecutionPlan>) -> T) -> SqlResult<T> {
        let instance = self.take()?;
        let answer = look(&instance.plan);
        self.give_back(instance);
        Ok(answer)
    }

    fn take(&self) -> SqlResult<Instance> {
        if let Some(instance) = self.pool.lock().pop() {
            return Ok(instance);
        }
        let cell = RunCell::new();
        let plan = self.engine.physical(&self.logical, &cell)?;
        self.built.fetch_add(1, Ordering::Relaxed);
        Ok(Instance::new(plan, cell))
    }

    fn give_back(&self, mut instance: Instance) {
        instance.cell.clear();
        instance.uses += 1;
        if instance.uses >= USES_MAX {
            return;
        }
        if !instance.stateless {
            match reset_plan_states(Arc::clone(&instance.plan)) {
                Ok(plan) => instance.plan = plan,
                Err(_) => return,
            }
        }
        let mut pool = self.pool.lock();
        if pool.len() < POOL_MAX {
            pool.push(instance);
        }
    }

    /// Executes the plan. The instance is given back when the stream is dropped.
    pub fn execute(self: &Arc<Self>, state: RunState) -> SqlResult<PlanStream> {
        let mut loan = Loan { template: Arc::clone(self), instance: Some(self.take()?) };
        let instance = loan.instance.as_mut().expect("just put there");
        instance.cell.set(Arc::new(state));
        let plan = Arc::clone(&instance.plan);
        let stream = plan.execute(0, self.engine.task_context())?;
        let searches = instance.searches;
        Ok(PlanStream { stream, plan, searches, failed: false, loan })
    }
}

/// An instance in use; dropping it gives the instance back.
#[derive(Debug)]
struct Loan {
    template: Arc<Template>,
    instance: Option<Instance>,
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(instance) = self.instance.take() {
            self.template.give_back(instance);
        }
    }
}

/// The rows of one execution.
pub struct PlanStream {
    // Dropped before the loan: nothing polls an instance that is back in the pool.
    stream: SendableRecordBatchStream,
    plan: Arc<dyn ExecutionPlan>,
    searches: bool,
    failed: bool,
    loan: Loan,
}

impl PlanStream {
    /// The plan that is being executed, for its metrics.
    pub fn plan(&self) -> &Arc<dyn ExecutionPlan> {
        &self.plan
    }
}

impl Stream for PlanStream {
    type Item = DfResult<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        debug_assert!(
            self.failed || self.loan.instance.is_some(),
            "an instance in use is not in the pool"
        );
        if self.failed {
            return Poll::Ready(None);
        }
        let searches = self.searches;
        let mut poll = || self.stream.as_mut().poll_next(cx);
        match guarded(|| if searches { yielding::in_place(poll) } else { poll() }) {
            Ok(polled) => polled,
            Err(error) => {
                // What it left behind is in no state to be used again.
                self.failed = true;
                self.loan.instance = None;
                Poll::Ready(Some(Err(error.into())))
            }
        }
    }
}

impl RecordBatchStream for PlanStream {
    fn schema(&self) -> SchemaRef {
        self.stream.schema()
    }
}

/// A context for executions: everything of ours is in the cell, so that all share one.
pub(super) fn task_context(state: &datafusion::execution::SessionState) -> Arc<TaskContext> {
    Arc::new(TaskContext::from(state))
}
