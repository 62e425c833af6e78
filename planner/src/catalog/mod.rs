//! What tables and indexes there are, at one version: definitions, their rows in the system
//! keyspace, and the changes DDL makes to them.
//!
//! * [`defs`]: tables, columns, indexes.

pub mod defs;

pub use defs::{
    ColumnDef, ColumnId, DefaultExpr, IndexColumn, IndexDef, IndexId, IndexState, TableDef, TableId,
};
