//! What a physical plan learns only when it is executed: parameters, the transaction, the session.
//!
//! A physical plan is built once and executed many times. Everything in it that differs from one
//! execution to the next reads a [`RunCell`], which belongs to one *instance* of the plan; an
//! instance is in use by one execution at a time (see [`crate::plan::instance`]), so that
//! concurrent executions never see each other's values, whatever thread polls them.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_plan::ExecutionPlan;
use parking_lot::Mutex;

use crate::error::{SqlError, SqlResult};
use crate::kv::KvTxn;
use crate::types::Zone;

/// Name of the function a parameter becomes in a physical plan.
pub const PARAMETER_FUNCTION: &str = "quorate_parameter";

/// Values that differ from session to session or statement to statement, beside parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionValues {
    /// `current_user`
    pub user: String,
    /// `current_database()`
    pub database: String,
    /// `pg_backend_pid()`
    pub backend_pid: i32,
    /// `now()`: microseconds since 1970 at the start of the transaction.
    pub txn_time_us: i64,
    /// `statement_timestamp()`: microseconds since 1970 at the start of the statement.
    pub statement_time_us: i64,
    /// `TimeZone`
    pub time_zone: Zone,
}

/// One execution of a plan instance.
#[derive(Debug)]
pub struct RunState {
    /// The transaction to read from and write to.
    pub txn: Arc<dyn KvTxn>,
    /// Values of `$1`, `$2`, …, in the types the statement was prepared with.
    pub params: Vec<ScalarValue>,
    /// The session.
    pub session: SessionValues,
    /// Rows handed to the plan: what `RETURNING` is computed over.
    pub input: Vec<RecordBatch>,
    /// For the query of an [`super::apply::Apply`]: slots and what the outer rows have there.
    pub outer: Vec<(usize, ScalarValue)>,
}

impl RunState {
    /// The execution of a query within this one, for an outer row whose values are in the slots
    /// from `first` on.
    pub fn with_outer(&self, first: usize, values: &[ScalarValue]) -> Self {
        let own = values.iter().cloned().enumerate().map(|(i, value)| (first + i, value));
        Self {
            txn: Arc::clone(&self.txn),
            params: self.params.clone(),
            session: self.session.clone(),
            input: vec![],
            outer: own.chain(self.outer.iter().cloned()).collect(),
        }
    }
}

/// The place where the nodes and expressions of one plan instance find their [`RunState`].
#[derive(Debug, Default)]
pub struct RunCell(Mutex<Option<Arc<RunState>>>);

impl RunCell {
    /// A cell for a new plan instance.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Starts an execution.
    pub fn set(&self, state: Arc<RunState>) {
        *self.0.lock() = Some(state);
    }

    /// Ends an execution.
    pub fn clear(&self) {
        *self.0.lock() = None;
    }

    /// The execution under way. There is none while a plan is being built: what depends on it
    /// fails then, and nothing is computed at planning time that may differ later.
    pub fn get(&self) -> SqlResult<Arc<RunState>> {
        self.0.lock().clone().ok_or_else(|| SqlError::internal("the plan is not being executed"))
    }
}

/// A value that is known only at execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Slot {
    /// `$n`, counted from 0.
    Param(usize),
    /// What a query reads of an outer row ([`super::apply::Apply`]), counted from 0.
    Outer(usize),
    /// `now()`
    TxnTime,
    /// `statement_timestamp()`
    StatementTime,
    /// `current_date`
    CurrentDate,
    /// `localtimestamp`
    LocalTimestamp,
    /// `current_user`
    User,
    /// `current_database()`
    Database,
    /// `pg_backend_pid()`
    BackendPid,
}

/// Nodes that keep nothing from one execution to the next but metrics.
const STATELESS: [&str; 18] = [
    "LockRowsExec",
    "ApplyExec",
    "ScanExec",
    "LookupJoinExec",
    "ConcatExec",
    "ParamLimitExec",
    "ValuesExec",
    "ParamValuesExec",
    "FilterExec",
    "ProjectionExec",
    "GlobalLimitExec",
    "LocalLimitExec",
    "PlaceholderRowExec",
    "EmptyExec",
    "UnionExec",
    "CoalesceBatchesExec",
    super::yielding::YIELD,
    "SortMergeJoinExec",
];

const MICROSECONDS_PER_DAY: i64 = 86_400_000_000;

impl Slot {
    /// All slots that are values of the session.
    pub const SESSION: [Slot; 7] = [
        Slot::TxnTime,
        Slot::StatementTime,
        Slot::CurrentDate,
        Slot::LocalTimestamp,
        Slot::User,
        Slot::Database,
        Slot::BackendPid,
    ];

    /// The placeholder that stands for the slot in a logical plan.
    pub fn placeholder(&self) -> String {
        match self {
            Slot::Param(i) => format!("${}", i + 1),
            Slot::Outer(i) => format!("$outer{i}"),
            Slot::TxnTime => "$now".into(),
            Slot::StatementTime => "$statement_timestamp".into(),
            Slot::CurrentDate => "$current_date".into(),
            Slot::LocalTimestamp => "$localtimestamp".into(),
            Slot::User => "$current_user".into(),
            Slot::Database => "$current_database".into(),
            Slot::BackendPid => "$pg_backend_pid".into(),
        }
    }

    /// The slot a placeholder stands for.
    pub fn parse(placeholder: &str) -> Option<Slot> {
        let name = placeholder.strip_prefix('$')?;
        if let Ok(n) = name.parse::<usize>() {
            return n.checked_sub(1).map(Slot::Param);
        }
        if let Some(n) = name.strip_prefix("outer") {
            return n.parse().ok().map(Slot::Outer);
        }
        Slot::SESSION.into_iter().find(|slot| slot.placeholder() == placeholder)
    }

    /// The slot's value in this execution.
    pub fn value(&self, state: &RunState) -> SqlResult<ScalarValue> {
        let zone = || Some(Arc::from("+00:00"));
        let session = &state.session;
        let local = || session.time_zone.local(session.txn_time_us);
        Ok(match self {
            Slot::Param(i) => state.params.get(*i).cloned().ok_or_else(|| {
                SqlError::internal(format!("there is no value for parameter ${}", i + 1))
            })?,
            Slot::Outer(i) => {
                let value = state.outer.iter().find(|(slot, _)| slot == i);
                value
                    .map(|(_, value)| value.clone())
                    .ok_or_else(|| SqlError::internal(format!("there is no outer value {i}")))?
            }
            Slot::TxnTime => ScalarValue::TimestampMicrosecond(Some(session.txn_time_us), zone()),
            Slot::StatementTime => {
                ScalarValue::TimestampMicrosecond(Some(session.statement_time_us), zone())
            }
            Slot::CurrentDate => ScalarValue::Date32(Some(
                i32::try_from(local().div_euclid(MICROSECONDS_PER_DAY)).unwrap_or(i32::MAX),
            )),
            Slot::LocalTimestamp => ScalarValue::TimestampMicrosecond(Some(local()), None),
            Slot::User => ScalarValue::Utf8(Some(session.user.clone())),
            Slot::Database => ScalarValue::Utf8(Some(session.database.clone())),
            Slot::BackendPid => ScalarValue::Int32(Some(session.backend_pid)),
        })
    }
}

/// The expression a placeholder becomes in a physical plan: it reads its instance's cell.
#[derive(Clone)]
pub struct ParameterUdf {
    slot: Slot,
    field: FieldRef,
    cell: Arc<RunCell>,
    signature: Signature,
}

impl ParameterUdf {
    /// The expression of `slot` in the instance that owns `cell`.
    pub fn new(slot: Slot, field: &Field, cell: Arc<RunCell>) -> Self {
        Self {
            slot,
            field: Arc::new(field.clone().with_nullable(true)),
            cell,
            signature: Signature::nullary(Volatility::Stable),
        }
    }

    /// Which value it reads.
    pub fn slot(&self) -> Slot {
        self.slot
    }
}

impl fmt::Debug for ParameterUdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.slot.placeholder())
    }
}

impl PartialEq for ParameterUdf {
    fn eq(&self, other: &Self) -> bool {
        self.slot == other.slot && self.field == other.field && Arc::ptr_eq(&self.cell, &other.cell)
    }
}

impl Eq for ParameterUdf {}

impl Hash for ParameterUdf {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.slot.hash(state);
    }
}

impl ScalarUDFImpl for ParameterUdf {
    fn name(&self) -> &str {
        PARAMETER_FUNCTION
    }

    fn schema_name(&self, _args: &[datafusion::logical_expr::Expr]) -> DfResult<String> {
        Ok(self.slot.placeholder())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> DfResult<DataType> {
        Ok(self.field.data_type().clone())
    }

    fn return_field_from_args(&self, _args: ReturnFieldArgs) -> DfResult<FieldRef> {
        Ok(Arc::clone(&self.field))
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        Ok(ColumnarValue::Scalar(self.slot.value(&*self.cell.get()?)?))
    }
}

/// Whether a plan can be executed again as it is. (The queries of its applies start anew anyway.)
pub fn is_stateless(plan: &Arc<dyn ExecutionPlan>) -> bool {
    STATELESS.contains(&plan.name()) && plan.children().into_iter().all(is_stateless)
}
