//! Where PostgreSQL's meaning enters planning: the only place that asks the semantic pass for
//! anything.

pub use crate::semantics::{analyze, assignment_cast, register};
