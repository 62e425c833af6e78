//! What tables and indexes there are, at one version: definitions, their rows in the system
//! keyspace, and the changes DDL makes to them.
//!
//! * [`defs`]: tables, columns, indexes.
//! * [`snapshot`]: all of them at one version, by name and by id.
//! * [`codec`]: the rows they are kept in.
//! * [`ddl`]: the statements that change them, as a pure function of a snapshot.
//! * [`ddl_parse`]: those statements from their syntax.
//! * [`describe`]: a key in words, for DETAIL lines.
//! * [`options`]: storage parameters of tables.

pub mod codec;
pub mod ddl;
pub mod ddl_parse;
pub mod defs;
pub mod describe;
pub mod options;
pub mod snapshot;

pub use codec::{
    catalog_span, decode_catalog, decode_table, decode_version, table_key, version_key,
};
pub use ddl::{CatalogChange, DdlOp, NewColumn, NewKey};
pub use ddl_parse::{ddl_op, object_name, pg_type, type_named};
pub use defs::{
    ColumnDef, ColumnId, DefaultExpr, IndexColumn, IndexDef, IndexId, IndexState, TableDef, TableId,
};
pub use describe::{KeyDescription, describe_key};
pub use options::TableOptions;
pub use snapshot::CatalogSnapshot;
