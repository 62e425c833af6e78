//! Where PostgreSQL's meaning enters planning: the only place that asks the semantic pass for
//! anything.

pub use crate::semantics::plan::meaning;
pub use crate::semantics::{assignment_cast, checked, register};
