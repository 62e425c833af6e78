//! `INSERT … ON CONFLICT`: which unique index decides, what happens to rows that meet another row
//! there.
//!
//! The rows of a statement are looked up in that index as the transaction sees it; at commit the
//! keys are checked again, so that a row somebody else has put there meanwhile is a conflict of
//! transactions (`40001`, `23505`) and never a lost update.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::{RecordBatch, UInt64Array};
use datafusion::arrow::compute::take_record_batch;
use datafusion::arrow::datatypes::Schema;
use datafusion::sql::sqlparser::ast::{self, Expr, Ident, VisitMut, VisitorMut};
use futures::StreamExt;

use super::plan::{assignments, changed_rows, quoted};
use super::run::Statement;
use super::write::{check_not_null, entries_of};
use crate::catalog::{IndexDef, IndexId, IndexState, TableDef};
use crate::error::{SqlError, SqlResult, SqlState};
use crate::exec::RunState;
use crate::exec::fetch::RowReader;
use crate::exec::scan::GETS_PER_REQUEST;
use crate::exec::values::{Rows, ValuesTable};
use crate::plan::build::{Build, OWN_TABLE, Scope};
use crate::plan::instance::Template;
use crate::plan::rewrite::folded;
use crate::row::primary_key_of_entry;

/// The name of the row that was to be inserted.
const EXCLUDED: &str = "excluded";

/// What an INSERT does with a row whose key is taken.
#[derive(Debug)]
pub enum Conflict {
    /// It fails.
    Fail,
    /// `DO NOTHING`; with a target, only where that index is in the way.
    Skip(Option<IndexId>),
    /// `DO UPDATE`
    Update(ConflictUpdate),
}

/// The update of the row that is there.
#[derive(Debug)]
pub struct ConflictUpdate {
    /// The index that decides.
    pub index: IndexId,
    /// Over the rows that are there and those that were to be inserted: the columns of the first,
    /// then the new values of the assigned ones.
    pub source: Arc<Template>,
    /// The assigned columns, as places in the table.
    pub assigned: Vec<usize>,
}

/// Plans an ON CONFLICT clause.
pub fn plan(
    build: &mut Build<'_>,
    table: &Arc<TableDef>,
    alias: &str,
    on: Option<ast::OnInsert>,
) -> SqlResult<Conflict> {
    let conflict = match on {
        None => return Ok(Conflict::Fail),
        Some(ast::OnInsert::OnConflict(conflict)) => conflict,
        Some(_) => return Err(SqlError::unsupported("ON DUPLICATE KEY")),
    };
    let index =
        conflict.conflict_target.as_ref().map(|target| arbiter(table, target)).transpose()?;
    let update = match conflict.action {
        ast::OnConflictAction::DoNothing => return Ok(Conflict::Skip(index)),
        ast::OnConflictAction::DoUpdate(update) => update,
    };
    let Some(index) = index else {
        let message = "ON CONFLICT DO UPDATE requires inference specification or constraint name";
        return Err(SqlError::syntax(message).with_hint("For example, ON CONFLICT (column_name)."));
    };
    let mut assigned = assignments(table, update.assignments)?;
    for (_, expr) in &mut assigned {
        rename_excluded(expr, table)?;
    }
    let mut from = format!("FROM {OWN_TABLE} AS {}", quoted(alias));
    if let Some(mut selection) = update.selection {
        rename_excluded(&mut selection, table)?;
        from.push_str(&format!(" WHERE {selection}"));
    }
    let rows = ValuesTable { schema: Arc::new(both_rows(table)), rows: Rows::Input(None) };
    let scope = Scope::of(rows);
    let (plan, assigned) = changed_rows(build, table, alias, assigned, &from, scope)?;
    Ok(Conflict::Update(ConflictUpdate { index, source: build.template(plan)?, assigned }))
}

/// The unique index a target names.
fn arbiter(table: &TableDef, target: &ast::ConflictTarget) -> SqlResult<IndexId> {
    let unique = |index: &&IndexDef| {
        (index.unique || index.id == IndexId::PRIMARY)
            && index.state == IndexState::Public
            && !(index.id == IndexId::PRIMARY && table.has_hidden_key())
    };
    match target {
        ast::ConflictTarget::Columns(names) => {
            let mut wanted = Vec::new();
            for name in names {
                let name = folded(name);
                let column = table.column_named(&name).ok_or_else(|| {
                    let message = format!("column \"{name}\" does not exist");
                    SqlError::new(SqlState::UNDEFINED_COLUMN, message)
                })?;
                wanted.push(column.id);
            }
            wanted.sort_unstable();
            wanted.dedup();
            let fits = |index: &&IndexDef| {
                let mut columns: Vec<_> = index.columns.iter().map(|c| c.column).collect();
                columns.sort_unstable();
                columns == wanted
            };
            let found = table.indexes.iter().filter(unique).find(fits);
            found.map(|index| index.id).ok_or_else(|| {
                SqlError::new(
                    SqlState::INVALID_COLUMN_REFERENCE,
                    "there is no unique or exclusion constraint matching the ON CONFLICT \
                     specification",
                )
            })
        }
        ast::ConflictTarget::OnConstraint(name) => {
            let name = name.0.last().and_then(|part| part.as_ident()).map(folded);
            let name = name.unwrap_or_default();
            let found =
                table.indexes.iter().filter(unique).find(|i| i.constraint && i.name == name);
            found.map(|index| index.id).ok_or_else(|| {
                let message =
                    format!("constraint \"{name}\" for table \"{}\" does not exist", table.name);
                SqlError::new(SqlState::UNDEFINED_OBJECT, message)
            })
        }
    }
}

fn excluded_name(place: usize) -> String {
    format!("quorate_excluded_{place}")
}

/// Columns of the row that is there, then of the row that was to be inserted.
fn both_rows(table: &TableDef) -> Schema {
    let own = table.columns.iter().map(|c| c.ty.field(&c.name, true));
    let excluded =
        table.columns.iter().enumerate().map(|(i, c)| c.ty.field(excluded_name(i), true));
    Schema::new(own.chain(excluded).collect::<Vec<_>>())
}

/// `excluded.a` as the column it is in [`both_rows`].
fn rename_excluded(expr: &mut Expr, table: &TableDef) -> SqlResult<()> {
    struct Rename<'a>(&'a TableDef, usize);
    impl VisitorMut for Rename<'_> {
        type Break = SqlError;

        fn pre_visit_table_factor(&mut self, of: &mut ast::TableFactor) -> ControlFlow<SqlError> {
            let ast::TableFactor::Table { name, alias, .. } = of else {
                return ControlFlow::Continue(());
            };
            let last = || name.0.last().and_then(|part| part.as_ident());
            let name = alias.as_ref().map(|alias| &alias.name).or_else(last);
            match name.is_some_and(|name| folded(name) == EXCLUDED) {
                // Its columns would be taken for those of the row that was to be inserted.
                true => ControlFlow::Break(SqlError::unsupported(
                    "a table called \"excluded\" within ON CONFLICT",
                )),
                false => ControlFlow::Continue(()),
            }
        }

        fn pre_visit_query(&mut self, _: &mut ast::Query) -> ControlFlow<SqlError> {
            self.1 += 1;
            ControlFlow::Continue(())
        }

        fn post_visit_query(&mut self, _: &mut ast::Query) -> ControlFlow<SqlError> {
            self.1 -= 1;
            ControlFlow::Continue(())
        }

        fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
            // Both rows have all the columns.
            if let Expr::Identifier(ident) = expr
                && self.1 == 0
                && self.0.column_named(&folded(ident)).is_some()
            {
                let message = format!("column reference \"{}\" is ambiguous", folded(ident));
                return ControlFlow::Break(SqlError::new(SqlState::AMBIGUOUS_COLUMN, message));
            }
            ControlFlow::Continue(())
        }

        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
            let Expr::CompoundIdentifier(parts) = expr else { return ControlFlow::Continue(()) };
            let [table, column] = parts.as_slice() else { return ControlFlow::Continue(()) };
            if folded(table) != EXCLUDED {
                return ControlFlow::Continue(());
            }
            let name = folded(column);
            let place = self.0.columns.iter().position(|c| !c.hidden && c.name == name);
            let Some(place) = place else {
                let message = format!("column {EXCLUDED}.{name} does not exist");
                return ControlFlow::Break(SqlError::new(SqlState::UNDEFINED_COLUMN, message));
            };
            *expr = Expr::Identifier(Ident::with_quote('"', excluded_name(place)));
            ControlFlow::Continue(())
        }
    }
    match VisitMut::visit(expr, &mut Rename(table, 0)) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

impl Statement<'_> {
    /// Inserts the rows whose keys are free, in their order, and updates where they are not.
    pub(super) async fn upsert(
        &mut self,
        batch: RecordBatch,
        update: &ConflictUpdate,
    ) -> SqlResult<()> {
        let keys = self.arbiter_keys(&batch, update.index)?;
        let found = self.found(&keys, update.index).await?;
        let mut from = 0;
        while from < batch.num_rows() {
            let met = found[from].is_some();
            let end = (from..batch.num_rows())
                .find(|at| found[*at].is_some() != met)
                .unwrap_or(batch.num_rows());
            let rows = batch.slice(from, end - from);
            if met {
                let old: Vec<(Bytes, Bytes)> = found[from..end].iter().flatten().cloned().collect();
                self.update_met(&old, &rows, update).await?;
            } else {
                self.put(&rows)?;
            }
            from = end;
        }
        Ok(())
    }

    /// The key of each row in an index; none where a NULL makes it unlike any other.
    fn arbiter_keys(
        &mut self,
        batch: &RecordBatch,
        index: IndexId,
    ) -> SqlResult<Vec<Option<Bytes>>> {
        let mut keys = Vec::with_capacity(batch.num_rows());
        for at in 0..batch.num_rows() {
            let entries = entries_of(&self.plan.table, batch, at)?;
            let own = entries.into_iter().find(|(_, _, id, own)| *id == index && *own);
            let key = own.map(|(key, ..)| key);
            if let Some(key) = &key
                && !self.met.insert(key.clone())
            {
                return Err(SqlError::new(
                    SqlState::CARDINALITY_VIOLATION,
                    "ON CONFLICT DO UPDATE command cannot affect row a second time",
                )
                .with_hint(
                    "Ensure that no rows proposed for insertion within the same command have \
                     duplicate constrained values.",
                ));
            }
            keys.push(key);
        }
        Ok(keys)
    }

    /// The stored rows under the keys.
    async fn found(
        &self,
        keys: &[Option<Bytes>],
        index: IndexId,
    ) -> SqlResult<Vec<Option<(Bytes, Bytes)>>> {
        let entries = self.get(keys).await?;
        if index == IndexId::PRIMARY {
            return Ok(entries);
        }
        let table = self.plan.table.as_ref();
        let index =
            table.index(index).ok_or_else(|| SqlError::internal("the index of a plan is gone"))?;
        let mut rows = Vec::with_capacity(entries.len());
        for entry in &entries {
            rows.push(match entry {
                Some((key, value)) => Some(primary_key_of_entry(table, index, key, value)?),
                None => None,
            });
        }
        self.get(&rows).await
    }

    async fn get(&self, keys: &[Option<Bytes>]) -> SqlResult<Vec<Option<(Bytes, Bytes)>>> {
        let mut found = vec![None; keys.len()];
        let wanted: Vec<(usize, Bytes)> =
            keys.iter().enumerate().filter_map(|(i, key)| Some((i, key.clone()?))).collect();
        for some in wanted.chunks(GETS_PER_REQUEST) {
            let keys = some.iter().map(|(_, key)| key.clone()).collect();
            let values = self.context.txn.get(keys).await?;
            for ((i, key), value) in some.iter().zip(values) {
                found[*i] = value.map(|value| (key.clone(), value));
            }
        }
        Ok(found)
    }

    async fn update_met(
        &mut self,
        old: &[(Bytes, Bytes)],
        rows: &RecordBatch,
        update: &ConflictUpdate,
    ) -> SqlResult<()> {
        let table = &self.plan.table;
        check_not_null(table, rows)?;
        let reader = RowReader::new(Arc::clone(table), (0..table.columns.len()).collect())?;
        let old = reader.decode(old)?;
        let columns = old.columns().iter().chain(rows.columns()).cloned().collect();
        let input = RecordBatch::try_new(Arc::new(both_rows(table)), columns)?;
        let state = RunState {
            txn: Arc::clone(&self.context.txn),
            params: self.context.params.clone(),
            session: self.context.session.clone(),
            input: vec![input],
            outer: vec![],
        };
        let mut stream = update.source.execute(state)?;
        while let Some(batch) = stream.next().await.transpose()? {
            if batch.num_rows() > 0 {
                self.change(&batch, &update.assigned).await?;
            }
        }
        Ok(())
    }

    /// The rows that meet none in an index, or in any.
    pub(super) async fn without_conflicts(
        &mut self,
        batch: RecordBatch,
        index: Option<IndexId>,
    ) -> SqlResult<RecordBatch> {
        let mut keys = Vec::new();
        for at in 0..batch.num_rows() {
            let entries = entries_of(&self.plan.table, &batch, at)?;
            let own = entries.into_iter().filter(|e| e.3 && index.is_none_or(|id| id == e.2));
            keys.extend(own.map(|e| (at, e.0)));
        }
        let wanted: Vec<Option<Bytes>> = keys.iter().map(|(_, key)| Some(key.clone())).collect();
        let there = self.get(&wanted).await?;
        let mut kept = Vec::new();
        let mut pairs = keys.into_iter().zip(there).peekable();
        for at in 0..batch.num_rows() {
            let mut own = Vec::new();
            let mut clash = false;
            while let Some(((_, key), there)) = pairs.next_if(|((row, _), _)| *row == at) {
                clash |= there.is_some() || self.met.contains(&key) || self.given.contains(&key);
                own.push(key);
            }
            if !clash {
                self.met.extend(own);
                kept.push(at as u64);
            }
        }
        Ok(take_record_batch(&batch, &UInt64Array::from(kept))?)
    }
}
