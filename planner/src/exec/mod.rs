//! Execution: the physical nodes that read through a [`crate::kv::KvTxn`].
//!
//! * [`run`]: what one execution of a cached plan brings with it.
//! * [`access`]: which keys a scan reads, computed from parameter values.
//! * [`scan`]: the scan of a table through one of its indexes.
//! * [`fetch`]: reading rows and decoding them, shared by scans and joins.
//! * [`lookup`]: the join that looks its inner rows up by key.
//! * [`mod@concat`]: several inputs one after another, without tasks.
//! * [`apply`]: a query for each row of another.
//! * [`values`]: rows handed to a plan at execution.
//! * [`rows`]: VALUES with parameters.
//! * [`series`] makes `generate_series`.
//! * [`limit`]: LIMIT and OFFSET by parameters.
//! * [`lock`]: the row locks of a query.

pub mod access;
pub mod apply;
pub mod concat;
pub mod fetch;
pub mod limit;
pub mod lock;
pub mod lookup;
pub mod rows;
pub mod run;
pub mod scan;
pub mod series;
pub mod values;
pub mod yielding;

pub use run::{RunCell, RunState, SessionValues, Slot};
