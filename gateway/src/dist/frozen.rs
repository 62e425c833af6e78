//! A transaction as it is at some moment: what it writes later is not seen by a statement whose
//! rows are still being fetched, as for the command ids of PostgreSQL.

use quorate_planner::error::{SqlError, SqlState};

use super::buffer::Written;
use super::txn::Txn;

impl Txn {
    /// A handle of the current statement that does not see what is written from now on.
    ///
    /// # Errors
    /// `53200` if too much is kept for such handles.
    pub fn as_it_is(&self) -> Result<Self, SqlError> {
        let kept = self.own.lock().buffer.kept().ok_or_else(|| {
            SqlError::new(
                SqlState::OUT_OF_MEMORY,
                "too much of what the transaction has written is kept for its open portals",
            )
            .with_hint("Close portals, or fetch all their rows, before it writes more.")
        })?;
        Ok(Self {
            dist: self.dist.clone(),
            own: self.own.clone(),
            locks: self.locks.clone(),
            snapshot: self.snapshot.clone(),
            current: self.current.clone(),
            counters: self.counters.clone(),
            frozen: Some(kept),
            ..*self
        })
    }

    /// Looks at what this handle sees of the transaction's own writes.
    pub(super) fn written<T>(&self, look: impl FnOnce(&Written) -> T) -> T {
        match &self.frozen {
            Some(frozen) => look(frozen),
            None => look(self.own.lock().buffer.written()),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use quorate_planner::kv::{KvTxn as _, ScanRequest, Span, WriteOp};

    use crate::dist::Txn;
    use crate::dist::tests::{cluster, write};

    #[tokio::test]
    async fn a_frozen_handle_sees_what_was_written_before_and_no_more() {
        let (_, dist) = cluster();
        write(&dist, &["a", "b", "c"], "0").await.unwrap();
        let txn = Txn::begin(dist, true);
        txn.write(WriteOp::put("b", "1")).unwrap();
        let mark = txn.mark();
        let frozen = txn.frozen().unwrap();
        txn.write(WriteOp::put("b", "2")).unwrap();
        txn.write(WriteOp::delete("c")).unwrap();
        txn.write(WriteOp::insert("d", "2")).unwrap();
        for _ in 0..2 {
            let page = frozen.scan(ScanRequest::all(Span::new("a", "z"))).await.unwrap();
            let row = |key, value| (Bytes::from_static(key), Bytes::from_static(value));
            assert_eq!(page.rows, [row(b"a", b"0"), row(b"b", b"1"), row(b"c", b"0")]);
            let values = frozen.get(vec!["b".into(), "d".into()]).await.unwrap();
            assert_eq!(values, [Some("1".into()), None]);
            txn.back_to(&mark);
            txn.write(WriteOp::delete("b")).unwrap();
        }
        assert_eq!(txn.get(vec!["b".into()]).await.unwrap(), [None]);
    }
}
