//! EXPLAIN and EXPLAIN ANALYZE: the physical plan as a tree of text.

use std::fmt::Write;
use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, StringArray};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayFormatType, ExecutionPlan};
use futures::{StreamExt, stream};

use super::build::OutColumn;
use super::{Body, ExecContext};
use crate::dml::{DmlKind, DmlPlan};
use crate::error::SqlResult;
use crate::exec::apply::ApplyExec;
use crate::exec::yielding;
use crate::kv::KvStats;
use crate::types::PgType;

/// The only column of EXPLAIN.
pub fn columns() -> Vec<OutColumn> {
    vec![OutColumn { name: "QUERY PLAN".into(), ty: PgType::Text, table_oid: 0, column_no: 0 }]
}

struct Node<'a>(&'a dyn ExecutionPlan);

impl std::fmt::Display for Node<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt_as(DisplayFormatType::Default, f)
    }
}

/// The lines of a plan: a node each, children further in.
fn tree(plan: &Arc<dyn ExecutionPlan>, depth: usize, lines: &mut Vec<String>) {
    if plan.name() == yielding::YIELD {
        return plan.children().into_iter().for_each(|child| tree(child, depth, lines));
    }
    let indent = if depth == 0 { String::new() } else { "  ".repeat(depth) + "->  " };
    lines.push(format!("{indent}{}", Node(plan.as_ref())));
    let query = plan.downcast_ref::<ApplyExec>().map(ApplyExec::query);
    for child in plan.children().into_iter().chain(query) {
        tree(child, depth + 1, lines);
    }
}

fn dml_line(plan: &DmlPlan) -> String {
    let word = match plan.kind {
        DmlKind::Insert => "Insert",
        DmlKind::Update => "Update",
        DmlKind::Delete => "Delete",
    };
    format!("{word} on {}", plan.table.name)
}

fn lines(body: &Body) -> SqlResult<Vec<String>> {
    let mut lines = Vec::new();
    match body {
        Body::Query(template) => template.with_plan(|plan| tree(plan, 0, &mut lines))?,
        Body::Dml(dml) => {
            lines.push(dml_line(dml));
            dml.source.with_plan(|plan| tree(plan, 1, &mut lines))?;
        }
        Body::Explain { inner, .. } => return self::lines(inner),
        Body::None => lines.push("Utility".into()),
    }
    Ok(lines)
}

/// Runs EXPLAIN.
pub(super) async fn execute(
    body: &Body,
    analyze: bool,
    context: ExecContext,
) -> SqlResult<SendableRecordBatchStream> {
    let mut lines = lines(body)?;
    if analyze {
        let txn = Arc::clone(&context.txn);
        let before = txn.stats();
        let rows = match body {
            Body::Query(template) => {
                let mut stream = template.execute(context.state())?;
                let mut rows = 0;
                while let Some(batch) = stream.next().await.transpose()? {
                    rows += batch.num_rows();
                }
                rows
            }
            Body::Dml(plan) => {
                let (tag, _) = crate::dml::run::run(plan, context.dml()).await?;
                tag.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
            }
            Body::Explain { .. } | Body::None => 0,
        };
        lines.push(analysis(rows, &txn.stats().since(&before)));
    }
    let schema: SchemaRef = Arc::new(Schema::new(vec![PgType::Text.field("QUERY PLAN", false)]));
    let batch =
        RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(StringArray::from(lines))])?;
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream::iter([Ok(batch)]))))
}

fn analysis(rows: usize, cost: &KvStats) -> String {
    let mut line = String::new();
    let _ = write!(
        line,
        "Actual: rows={rows}, ranges={}, rpc_rounds={}, consensus_rounds={}, rows_read={}",
        cost.ranges, cost.rpc_rounds, cost.consensus_rounds, cost.rows_read
    );
    line
}
