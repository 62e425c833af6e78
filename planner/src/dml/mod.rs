//! INSERT, UPDATE and DELETE: plans that compute rows, and what is written for them.
//!
//! Each statement is a query whose rows are the new (and old) values of the rows it touches, made
//! by the same passes as any other query, and a writer that checks constraints and buffers the
//! writes of the table and its indexes.
//!
//! * [`plan`]: from the parsed statement to a [`DmlPlan`].
//! * [`run`]: the execution of a [`DmlPlan`].
//! * [`mod@write`]: constraints, row and index writes.
//! * [`conflict`]: `ON CONFLICT`.
//! * [`backfill`]: the entries of an index for rows that are there already.

pub mod backfill;
pub mod conflict;
pub mod plan;
pub mod run;
pub mod write;

use std::sync::Arc;

use crate::catalog::TableDef;
use crate::plan::instance::Template;

/// What a statement does with the rows of its query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DmlKind {
    /// The query's columns are the table's.
    Insert,
    /// The query's columns are the table's before, then the new values of the assigned ones.
    Update,
    /// The query's columns are the table's.
    Delete,
}

impl DmlKind {
    /// Its name in messages and tags.
    pub fn command(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

/// A planned RETURNING clause.
#[derive(Debug)]
pub struct Returning {
    /// Its plan, over the rows written (or, for DELETE, removed).
    pub rows: Arc<Template>,
    /// There are queries in it.
    pub reads_tables: bool,
}

/// A planned statement that writes.
#[derive(Debug)]
pub struct DmlPlan {
    /// The table.
    pub table: Arc<TableDef>,
    /// What is done.
    pub kind: DmlKind,
    /// The rows.
    pub source: Arc<Template>,
    /// For UPDATE: the assigned columns, as places in the table.
    pub assigned: Vec<usize>,
    /// What RETURNING gives.
    pub returning: Option<Returning>,
    /// For INSERT: what happens to a row whose key is taken.
    pub conflict: conflict::Conflict,
}
