//! A net under DataFusion and arrow: where they panic (an array whose offsets overflow, say), the
//! statement fails, not the session.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{SqlError, SqlResult, SqlState};

/// Does `work`; a panic becomes `54000` if something grew too large, else `XX000`. What `work`
/// changed must not be used after that.
pub fn guarded<T>(work: impl FnOnce() -> T) -> SqlResult<T> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| of_panic(panic.as_ref()))
}

fn of_panic(panic: &(dyn Any + Send)) -> SqlError {
    let said = panic.downcast_ref::<String>().map(String::as_str);
    let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    if said.contains("overflow") {
        let message = "the values of a step of the statement are too large together";
        return SqlError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, message)
            .with_detail("Rows are handled in batches, and a column of a batch holds 2 GiB.");
    }
    SqlError::internal(format!("the statement panicked: {said}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemDb;

    #[test]
    fn panics_are_errors() {
        let state = |message: &'static str| {
            let done: SqlResult<()> = guarded(|| std::panic::panic_any(message));
            done.expect_err("it panicked").sqlstate
        };
        assert_eq!(state("offset overflow"), SqlState::PROGRAM_LIMIT_EXCEEDED);
        assert_eq!(state("anything else"), SqlState::INTERNAL_ERROR);
        assert_eq!(guarded(|| 1).expect("no panic"), 1);
    }

    /// arrow panics when it repeats a value of a megabyte for each of 8,192 rows.
    #[tokio::test]
    async fn a_batch_that_is_too_large_fails_its_statement() {
        let db = MemDb::new();
        let sql = "SELECT string_agg(repeat('x', 1000000), ',') FROM generate_series(1, 100000)";
        let Err(error) = db.run(sql).await else {
            panic!("it has no result");
        };
        assert_eq!(error.sqlstate, SqlState::PROGRAM_LIMIT_EXCEEDED);
        assert!(db.run("SELECT 1").await.is_ok());
    }
}
