//! Queries that run once for each row of another: correlated subqueries and LATERAL that no join
//! stands for.
//!
//! In the logical plan the node is an [`Apply`], in the physical one an [`ApplyExec`] (the operator
//! of Galindo-Legaria and Joshi, "Orthogonal Optimization of Subqueries and Aggregation", SIGMOD
//! 2001). What the query reads of the outer row are parameters of its own ([`Slot::Outer`]), so
//! that its keys are looked up like those of any statement with parameters.
//!
//! # Invariants
//!
//! * The query's plan has a cell of its own, filled for one outer row at a time.
//! * An answer is remembered only for the outer values it was computed from, and only within one
//!   execution: a statement reads one snapshot.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, FieldRef};
use datafusion::common::{DFSchema, DFSchemaRef, Result as DfResult, TableReference};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};

use super::run::Slot;
use crate::error::SqlResult;
use crate::types::PgType;

mod exec;
pub use exec::{ApplyExec, ApplyQuery};

/// What a row gets from its query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Gives {
    /// The only value, NULL if there is none; more than one row is `21000`.
    Value,
    /// Whether there is a row.
    Exists,
    /// Whether one of the query's truth values is true, NULL if none is but one is NULL: `IN`.
    Any,
    /// A row for each of the query's rows.
    Rows,
    /// The same, and one of NULLs if there are none.
    RowsOrNull,
}

/// For each row of the input, what a query gives for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Apply {
    /// The rows.
    pub input: Arc<LogicalPlan>,
    /// What the query reads of a row: `outer[i]` is its slot `first_slot + i`.
    pub outer: Vec<Expr>,
    /// See `outer`.
    pub first_slot: usize,
    /// The query, optimized.
    pub query: Arc<LogicalPlan>,
    /// What a row gets.
    pub gives: Gives,
    schema: DFSchemaRef,
}

impl Apply {
    /// An apply of a query.
    pub fn new(
        input: LogicalPlan,
        outer: Vec<Expr>,
        first_slot: usize,
        query: LogicalPlan,
        gives: Gives,
    ) -> SqlResult<Self> {
        let input = Arc::new(input);
        let mut fields: Vec<(Option<TableReference>, FieldRef)> =
            input.schema().iter().map(|(q, f)| (q.cloned(), Arc::clone(f))).collect();
        let name = Self::column_name(first_slot);
        match gives {
            Gives::Value => {
                let value = query.schema().field(0).as_ref().clone();
                fields.push((None, Arc::new(value.with_name(name).with_nullable(true))));
            }
            Gives::Exists => fields.push((None, Arc::new(PgType::Bool.field(&name, false)))),
            Gives::Any => fields.push((None, Arc::new(PgType::Bool.field(&name, true)))),
            Gives::Rows | Gives::RowsOrNull => {
                let nullable = |field: &Field| field.is_nullable() || gives == Gives::RowsOrNull;
                fields.extend(query.schema().iter().map(|(qualifier, field)| {
                    let field = field.as_ref().clone();
                    let nullable = nullable(&field);
                    (qualifier.cloned(), Arc::new(field.with_nullable(nullable)))
                }));
            }
        }
        let metadata = input.schema().metadata().clone();
        let schema = Arc::new(DFSchema::new_with_metadata(fields, metadata)?);
        Ok(Self { input, outer, first_slot, query: Arc::new(query), gives, schema })
    }

    /// The column a value comes in; nobody types its name.
    pub fn column_name(first_slot: usize) -> String {
        format!("quorate_apply_{first_slot}")
    }

    /// One more than the last slot of this apply and those in its query.
    pub fn next_slot(&self) -> usize {
        self.first_slot + self.outer.len().max(1)
    }
}

impl PartialOrd for Apply {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.first_slot.partial_cmp(&other.first_slot)
    }
}

impl UserDefinedLogicalNodeCore for Apply {
    fn name(&self) -> &str {
        "Apply"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.outer.clone()
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        let own = self.schema.fields().iter().skip(self.input.schema().fields().len());
        own.map(|field| field.name().clone()).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Apply: {:?}", self.gives)
    }

    fn with_exprs_and_inputs(
        &self,
        outer: Vec<Expr>,
        mut inputs: Vec<LogicalPlan>,
    ) -> DfResult<Self> {
        let query = self.query.as_ref().clone();
        Ok(Self::new(inputs.swap_remove(0), outer, self.first_slot, query, self.gives)?)
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let input = self.input.schema();
        let width = input.fields().len();
        let read = self.outer.iter().flat_map(Expr::column_refs);
        let mut needed: Vec<usize> =
            read.map(|column| input.index_of_column(column).ok()).collect::<Option<_>>()?;
        needed.extend(output_columns.iter().copied().filter(|i| *i < width));
        needed.sort_unstable();
        needed.dedup();
        Some(vec![needed])
    }
}

/// The first slot that no apply in a plan uses.
pub fn free_slot(plan: &LogicalPlan) -> DfResult<usize> {
    use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
    let mut free = 0;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Extension(extension) = node
            && let Some(apply) = extension.node.as_any().downcast_ref::<Apply>()
        {
            free = free.max(apply.next_slot());
        }
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::Placeholder(placeholder) = expr
                    && let Some(Slot::Outer(n)) = Slot::parse(&placeholder.id)
                {
                    free = free.max(n + 1);
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(free)
}

/// Answers of a query by the outer values it was asked with.
type Answers = HashMap<Vec<datafusion::common::ScalarValue>, datafusion::common::ScalarValue>;
