//! DataFusion, set up once: functions, options, the order of passes; and the steps from a parsed
//! statement to an optimized logical plan and from that to a physical one.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use datafusion::arrow::datatypes::DataType;
use datafusion::catalog::default_table_source::{DefaultTableSource, provider_as_source};
use datafusion::catalog::{TableProvider, cte_worktable::CteWorkTable};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Result as DfResult, TableReference};
use datafusion::execution::disk_manager::DiskManagerBuilder;
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{SessionState, SessionStateBuilder, TaskContext};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{
    ContextProvider, ExprPlanner, RelationPlanner, TypePlanner,
};
use datafusion::logical_expr::{
    AggregateUDF, Expr, HigherOrderUDF, LogicalPlan, ScalarUDF, TableSource, WindowUDF,
};
use datafusion::optimizer::Optimizer;
use datafusion::optimizer::decorrelate_predicate_subquery::DecorrelatePredicateSubquery;
use datafusion::optimizer::scalar_subquery_to_join::ScalarSubqueryToJoin;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};
use datafusion::prelude::SessionConfig;
use datafusion::sql::planner::{ParserOptions, PlannerContext, SqlToRel};
use datafusion::sql::sqlparser::ast;

use super::apply;
use super::build::OWN_SCHEMA;
use super::nodes::Nodes;
use super::table::KvTable;
use crate::catalog::{CatalogSnapshot, IndexId, TableDef};
use crate::error::{SqlError, SqlResult, SqlState};
use crate::exec::concat::WithoutTasks;
use crate::exec::lock::SmallFirstPages;
use crate::exec::lookup::LookupJoins;
use crate::exec::run::ParameterUdf;
use crate::exec::values::{Rows, ValuesTable};
use crate::exec::yielding::Yielding;
use crate::exec::{RunCell, Slot};
use crate::infoschema;
use crate::plan::meaning as semantics;
use crate::types::PgType;

/// Polls that a future of the physical planner gets. It waits for nothing, and yields only to be
/// fair.
const PLANNING_POLLS_MAX: usize = 100_000;

/// What [`limit_memory`] was told.
static MEMORY: OnceLock<usize> = OnceLock::new();

/// Memory of all statements where nobody set it: in tests.
const MEMORY_BYTES_DEFAULT: usize = 1 << 30;

/// Temporary files of all statements together; beyond it they fail with `53200`.
const SPILL_BYTES_MAX: u64 = 1 << 30;

/// DataFusion's state and ours around it.
pub struct Engine {
    state: SessionState,
    task_context: Arc<TaskContext>,
    options: ParserOptions,
    /// The optimizer's rules that make joins of subqueries, and what they build upon.
    decorrelation: Optimizer,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Engine")
    }
}

fn config() -> SessionConfig {
    let mut config = SessionConfig::new()
        .with_target_partitions(1)
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(false);
    let options = config.options_mut();
    options.execution.planning_concurrency = 1;
    options.optimizer.enable_dynamic_filter_pushdown = false;
    options.optimizer.enable_topk_dynamic_filter_pushdown = false;
    options.optimizer.enable_join_dynamic_filter_pushdown = false;
    options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    options.optimizer.repartition_joins = false;
    options.optimizer.repartition_aggregations = false;
    options.optimizer.repartition_sorts = false;
    options.optimizer.repartition_windows = false;
    options.optimizer.expand_views_at_output = false;
    options.sql_parser.map_string_types_to_utf8view = false;
    options.sql_parser.parse_float_as_decimal = true;
    options.sql_parser.support_varchar_with_length = true;
    options.sql_parser.default_null_ordering = "nulls_max".into();
    config
}

/// DataFusion's physical rules with ours among them: lookup joins before the rules that settle
/// orders and limits, and no tasks at the end.
fn physical_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = PhysicalOptimizer::new().rules;
    // Pages of storage are where most plans yield; the others see to it themselves.
    rules.retain(|rule| rule.name() != "EnsureCooperative");
    let after_selection =
        rules.iter().position(|rule| rule.name() == "join_selection").map_or(0, |i| i + 1);
    rules.insert(after_selection, Arc::new(LookupJoins));
    let last = rules.len().saturating_sub(1);
    rules.insert(last, Arc::new(WithoutTasks));
    rules.insert(last + 1, Arc::new(SmallFirstPages));
    rules.insert(last + 2, Arc::new(Yielding));
    rules
}

/// What all statements of the process share: memory, and files for what does not fit into it.
fn runtime_env() -> DfResult<Arc<RuntimeEnv>> {
    let memory = MEMORY.get().copied().unwrap_or(MEMORY_BYTES_DEFAULT);
    let disk = DiskManagerBuilder::default().with_max_temp_directory_size(SPILL_BYTES_MAX);
    RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(GreedyMemoryPool::new(memory)))
        .with_disk_manager_builder(disk)
        .build_arc()
}

/// Sets how much memory the statements of this process may use together for joins, sorts and
/// groups, in bytes. Only the first call counts, and only before the first statement.
pub fn limit_memory(bytes: usize) {
    MEMORY.get_or_init(|| bytes);
}

impl Engine {
    /// Sets DataFusion up.
    pub fn new() -> SqlResult<Arc<Self>> {
        let state = SessionStateBuilder::new()
            .with_config(config())
            .with_default_features()
            .with_physical_optimizer_rules(physical_rules())
            .with_runtime_env(runtime_env()?)
            .build();
        let state = super::functions::register(state)?;
        let task_context = super::instance::task_context(&state);
        let mut options = ParserOptions::new();
        options.parse_float_as_decimal = true;
        options.support_varchar_with_length = true;
        options.map_string_types_to_utf8view = false;
        options.enable_ident_normalization = true;
        let decorrelation = Optimizer::with_rules(vec![
            Arc::new(SimplifyExpressions::new()),
            Arc::new(DecorrelatePredicateSubquery::new()),
            Arc::new(ScalarSubqueryToJoin::new()),
        ]);
        Ok(Arc::new(Self { state, task_context, options, decorrelation }))
    }

    /// The context all executions share.
    pub fn task_context(&self) -> Arc<TaskContext> {
        Arc::clone(&self.task_context)
    }

    /// DataFusion's state.
    pub fn state(&self) -> &SessionState {
        &self.state
    }

    /// From a statement of the parser to DataFusion's plan, before any pass.
    pub fn logical(
        &self,
        statement: ast::Statement,
        names: &Names<'_>,
        params: &[Option<PgType>],
    ) -> SqlResult<LogicalPlan> {
        let types = params.iter().map(|ty| ty.map(|ty| Arc::new(ty.field("", true)))).collect();
        let mut context = PlannerContext::new().with_prepare_param_data_types(types);
        let planner = SqlToRel::new_with_options(names, self.options);
        let plan = planner.sql_statement_to_plan_with_context(statement, &mut context)?;
        bind_session_functions(plan)
    }

    /// Our passes and DataFusion's over a plan: analysis, PostgreSQL's meaning, optimization.
    pub fn optimize(&self, plan: LogicalPlan) -> SqlResult<LogicalPlan> {
        let plan = self.analyze(plan)?;
        let rest = |plan| Ok(self.state.optimizer().optimize(plan, &self.state, |_, _| {})?);
        if !apply::has_subqueries(&plan)? {
            return rest(plan);
        }
        let joined = self.decorrelation.optimize(plan.clone(), &self.state, |_, _| {});
        let joined = joined.map_err(SqlError::from).and_then(apply::sound);
        // What it gets lost in are applies too.
        joined
            .and_then(|plan| rest(apply::after(plan, self)?))
            .or_else(|_| rest(apply::after(plan, self)?))
    }

    /// Analysis and PostgreSQL's meaning only: what the types of the result are.
    pub fn analyze(&self, plan: LogicalPlan) -> SqlResult<LogicalPlan> {
        let plan = apply::before(semantics::meaning(plan)?, self)?;
        super::rewrite::limits(semantics::checked(plan, &self.state)?)
    }

    /// A physical plan whose parameters read `cell`.
    pub fn physical(
        &self,
        logical: &LogicalPlan,
        cell: &Arc<RunCell>,
    ) -> SqlResult<Arc<dyn ExecutionPlan>> {
        let bound = bind(logical.clone(), cell)?;
        let planner = physical_planner(cell);
        Ok(run_to_end(planner.create_physical_plan(&bound, &self.state))??)
    }
}

/// The planner of a plan whose parameters read `cell`.
pub(super) fn physical_planner(cell: &Arc<RunCell>) -> DefaultPhysicalPlanner {
    let nodes = Nodes { cell: Arc::clone(cell) };
    DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(nodes)])
}

/// Runs a future that waits for nothing.
fn run_to_end<F: Future>(future: F) -> SqlResult<F::Output> {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..PLANNING_POLLS_MAX {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Ok(output);
        }
    }
    Err(SqlError::internal("planning waits for something"))
}

/// Gives placeholders and tables the cell of a plan instance.
pub(super) fn bind(plan: LogicalPlan, cell: &Arc<RunCell>) -> SqlResult<LogicalPlan> {
    let bound = plan.transform_up_with_subqueries(|node| {
        let mut changed = false;
        let node = match node {
            LogicalPlan::TableScan(mut scan) => {
                if let Some(source) = bound_source(&scan.source, cell) {
                    scan.source = source;
                    changed = true;
                }
                LogicalPlan::TableScan(scan)
            }
            other => other,
        };
        let mut node = node.map_expressions(|expr| bind_expr(expr, cell))?;
        node.transformed |= changed;
        Ok(node)
    });
    Ok(bound.data()?)
}

fn bound_source(
    source: &Arc<dyn TableSource>,
    cell: &Arc<RunCell>,
) -> Option<Arc<dyn TableSource>> {
    let any: &dyn std::any::Any = source.as_ref();
    let provider = &any.downcast_ref::<DefaultTableSource>()?.table_provider;
    if let Some(table) = provider.downcast_ref::<KvTable>() {
        let mut table = table.clone();
        table.cell = Some(Arc::clone(cell));
        return Some(provider_as_source(Arc::new(table)));
    }
    let table = provider.downcast_ref::<ValuesTable>()?;
    let Rows::Input(_) = table.rows else { return None };
    let rows = Rows::Input(Some(Arc::clone(cell)));
    Some(provider_as_source(Arc::new(ValuesTable { schema: Arc::clone(&table.schema), rows })))
}

fn bind_expr(expr: Expr, cell: &Arc<RunCell>) -> DfResult<Transformed<Expr>> {
    expr.transform_up(|expr| {
        let Expr::Placeholder(placeholder) = &expr else { return Ok(Transformed::no(expr)) };
        let (Some(slot), Some(field)) = (Slot::parse(&placeholder.id), &placeholder.field) else {
            let message = format!("could not determine data type of parameter {}", placeholder.id);
            return Err(SqlError::new(SqlState::INDETERMINATE_DATATYPE, message).into());
        };
        let function = ParameterUdf::new(slot, field, Arc::clone(cell));
        Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(
            Arc::new(ScalarUDF::new_from_impl(function)),
            vec![],
        ))))
    })
}

/// Functions that read the session become placeholders, so that no pass computes them early.
fn bind_session_functions(plan: LogicalPlan) -> SqlResult<LogicalPlan> {
    let bound = plan.transform_up_with_subqueries(|node| {
        node.map_expressions(|expr| expr.transform_up(super::functions::session_placeholder))?
            .map_data(|node| node.recompute_schema())
    });
    Ok(bound.data()?)
}

/// What names in a statement stand for.
pub struct Names<'a> {
    engine: &'a Engine,
    catalog: &'a Arc<CatalogSnapshot>,
    database: &'a str,
    /// A table of the statement's own ([`OWN_TABLE`](super::build::OWN_TABLE)).
    pub own: Option<Arc<dyn TableSource>>,
    /// Whether a moment of the past is read.
    pub past: bool,
}

impl<'a> Names<'a> {
    /// The names of a catalog.
    pub fn new(engine: &'a Engine, catalog: &'a Arc<CatalogSnapshot>, database: &'a str) -> Self {
        Self { engine, catalog, database, own: None, past: false }
    }

    fn find(&self, name: &TableReference) -> DfResult<Arc<dyn TableSource>> {
        let table = name.table();
        if let (Some(OWN_SCHEMA), Some(own)) = (name.schema(), &self.own) {
            return Ok(Arc::clone(own));
        }
        let missing = || {
            let full = match name.schema() {
                Some(schema) => format!("{schema}.{table}"),
                None => table.to_owned(),
            };
            let message = format!("relation \"{full}\" does not exist");
            SqlError::new(SqlState::UNDEFINED_TABLE, message)
        };
        if matches!(name.schema(), None | Some("public"))
            && let Some(def) = self.catalog.table(table)
        {
            let def = if self.past { Arc::new(without_indexes(def)) } else { Arc::clone(def) };
            let provider = KvTable::new(def, false);
            return Ok(provider_as_source(Arc::new(provider)));
        }
        let schema = name.schema().unwrap_or("pg_catalog");
        let provider: Arc<dyn TableProvider> = Arc::new(
            infoschema::table(schema, table, self.catalog, self.database)?.ok_or_else(missing)?,
        );
        Ok(provider_as_source(provider))
    }
}

/// The table with its primary key alone: other indexes may be younger than what is read.
fn without_indexes(table: &TableDef) -> TableDef {
    let mut table = table.clone();
    table.indexes.retain(|index| index.id == IndexId::PRIMARY);
    table
}

impl ContextProvider for Names<'_> {
    fn get_table_source(&self, name: TableReference) -> DfResult<Arc<dyn TableSource>> {
        self.find(&name)
    }

    fn create_cte_work_table(
        &self,
        name: &str,
        schema: datafusion::arrow::datatypes::SchemaRef,
    ) -> DfResult<Arc<dyn TableSource>> {
        Ok(provider_as_source(Arc::new(CteWorkTable::new(name, schema))))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        self.engine.state.expr_planners()
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        self.engine.state.relation_planners()
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Arc::new(crate::semantics::TypeNames))
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.engine.state.scalar_functions().get(name).cloned()
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.engine.state.higher_order_functions().get(name).cloned()
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.engine.state.aggregate_functions().get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.engine.state.window_functions().get(name).cloned()
    }

    fn get_variable_type(&self, _variable_names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        self.engine.state.config_options()
    }

    fn udf_names(&self) -> Vec<String> {
        self.engine.state.scalar_functions().keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        self.engine.state.higher_order_functions().keys().cloned().collect()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.engine.state.aggregate_functions().keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        self.engine.state.window_functions().keys().cloned().collect()
    }
}
