//! A transaction's own writes, held at the gateway until commit and visible to its own reads.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use quorate_planner::error::{SqlError, SqlState};
use quorate_planner::kv::{Span, WriteOp};
use quorate_proto::{Timestamp, pb};

/// Bytes a transaction may buffer. Over it, `54000`: all of them may belong to one range, and then
/// its commit is one message and one entry of a log.
pub const BUFFER_BYTES_MAX: usize = 48 << 20;
const _: () = assert!(
    BUFFER_BYTES_MAX <= quorate_proto::client::MESSAGE_BYTES_MAX / 4 * 3,
    "what can be buffered can be committed"
);
/// Bytes of a transaction's buffer as it was at several moments. What these have in common counts
/// for each.
const KEPT_BYTES_MAX: usize = 256 << 20;
/// What an entry costs beside its key and value.
pub(super) const ENTRY_OVERHEAD: usize = 64;

/// Whether so many bytes can be committed.
///
/// # Errors
/// `54000` if they are too many.
pub fn check_size(bytes: usize) -> Result<(), SqlError> {
    if bytes <= BUFFER_BYTES_MAX {
        return Ok(());
    }
    let limit = BUFFER_BYTES_MAX >> 20;
    let message = format!("the transaction writes and locks more than {limit} MiB");
    Err(SqlError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, message)
        .with_hint("Split it into several transactions."))
}

/// One buffered write: the last of what the transaction did to the key, tested against the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buffered {
    /// `None`: deleted.
    pub value: Option<Bytes>,
    /// The first write of this key was an insert that expects no row.
    pub must_be_absent: bool,
    /// The read timestamp when the key was first written (rule P14).
    pub read_at: Timestamp,
}

/// Buffered writes in key order.
#[derive(Debug, Clone, Default)]
pub struct Written(BTreeMap<Bytes, Buffered>);

/// The writes of a transaction.
///
/// # Invariants
/// * The anchor is the first key that was written and not taken back. (Nothing was sent yet: P12
///   speaks of what a commit sends.)
/// * What a key expects of the committed state is fixed by its first write.
/// * While there is a mark, `undone` holds what every write since the first mark replaced.
#[derive(Debug, Default)]
pub struct WriteBuffer {
    /// Shared with those who see it as it was at some moment: the next write makes a copy then.
    writes: Arc<Written>,
    /// What [`Self::kept`] gave out, as long as somebody sees it, and its bytes.
    earlier: Vec<(Weak<Written>, usize)>,
    anchor: Option<Bytes>,
    bytes: usize,
    marked: bool,
    undone: Vec<(Bytes, Option<Buffered>)>,
}

/// A moment of a buffer that it can go back to.
#[derive(Debug, Clone)]
pub struct Mark {
    undone: usize,
    anchor: Option<Bytes>,
}

fn cost(key: &Bytes, value: Option<&Bytes>) -> usize {
    // The record of a commit in several ranges names each key once more.
    2 * key.len() + value.map_or(0, Bytes::len) + ENTRY_OVERHEAD
}

impl WriteBuffer {
    /// Adds a write at the transaction's current read timestamp.
    pub fn add(&mut self, op: WriteOp, read_at: Timestamp) {
        if self.anchor.is_none() {
            self.anchor = Some(op.key.clone());
        }
        if self.marked {
            let before = self.writes.0.get(&op.key).cloned();
            self.bytes += cost(&op.key, before.as_ref().and_then(|b| b.value.as_ref()));
            self.undone.push((op.key.clone(), before));
        }
        let value_len = op.value.as_ref().map_or(0, Bytes::len);
        let writes = &mut Arc::make_mut(&mut self.writes).0;
        match writes.get_mut(&op.key) {
            Some(buffered) => {
                self.bytes -= buffered.value.as_ref().map_or(0, Bytes::len);
                self.bytes += value_len;
                buffered.value = op.value;
            }
            None => {
                self.bytes += cost(&op.key, op.value.as_ref());
                let buffered =
                    Buffered { value: op.value, must_be_absent: op.must_be_absent, read_at };
                writes.insert(op.key, buffered);
            }
        }
    }

    /// A mark to go back to.
    pub fn mark(&mut self) -> Mark {
        self.marked = true;
        Mark { undone: self.undone.len(), anchor: self.anchor.clone() }
    }

    /// Takes back every write since a mark, which stays.
    pub fn back_to(&mut self, mark: &Mark) {
        if self.undone.len() == mark.undone {
            self.anchor.clone_from(&mark.anchor);
            return;
        }
        let writes = &mut Arc::make_mut(&mut self.writes).0;
        while self.undone.len() > mark.undone {
            let Some((key, before)) = self.undone.pop() else { break };
            self.bytes -= cost(&key, before.as_ref().and_then(|b| b.value.as_ref()));
            let now = match before {
                Some(before) => {
                    self.bytes += cost(&key, before.value.as_ref());
                    writes.insert(key.clone(), before)
                }
                None => writes.remove(&key),
            };
            self.bytes -= now.map_or(0, |now| cost(&key, now.value.as_ref()));
        }
        self.anchor.clone_from(&mark.anchor);
    }

    /// There is no mark any more.
    pub fn forget_marks(&mut self) {
        self.marked = false;
        for (key, before) in std::mem::take(&mut self.undone) {
            self.bytes -= cost(&key, before.as_ref().and_then(|b| b.value.as_ref()));
        }
    }

    /// The writes so far.
    pub fn written(&self) -> &Written {
        &self.writes
    }

    /// The writes so far, to be seen as they are now whatever comes. `None`: too much is kept so.
    pub fn kept(&mut self) -> Option<Arc<Written>> {
        self.earlier.retain(|(earlier, _)| earlier.strong_count() > 0);
        let present = Arc::downgrade(&self.writes);
        if self.earlier.iter().all(|(known, _)| !known.ptr_eq(&present)) {
            let earlier: usize = self.earlier.iter().map(|(_, bytes)| bytes).sum();
            if earlier + self.bytes > KEPT_BYTES_MAX {
                return None;
            }
            self.earlier.push((present, self.bytes));
        }
        Some(Arc::clone(&self.writes))
    }

    /// Whether the transaction has made the row.
    pub fn is_new(&self, key: &[u8]) -> bool {
        self.writes.0.get(key).is_some_and(|buffered| buffered.must_be_absent)
    }

    /// The keys of what was there before and changes.
    pub fn changed_keys(&self) -> Vec<Bytes> {
        let changed = self.writes.0.iter().filter(|(_, buffered)| !buffered.must_be_absent);
        changed.map(|(key, _)| key.clone()).collect()
    }

    /// The first written key.
    pub fn anchor(&self) -> Option<&Bytes> {
        self.anchor.as_ref()
    }

    /// About how much memory the writes hold.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many keys were written.
    pub fn len(&self) -> usize {
        self.writes.0.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.writes.0.is_empty()
    }

    /// Every key as the commit sends it.
    pub fn to_writes(&self) -> Vec<pb::Write> {
        let write = |(key, buffered): (&Bytes, &Buffered)| pb::Write {
            key: key.clone(),
            delete: buffered.value.is_none(),
            value: buffered.value.clone().unwrap_or_default(),
            read_at: buffered.read_at.0,
            must_be_absent: buffered.must_be_absent,
        };
        self.writes.0.iter().map(write).collect()
    }
}

impl Written {
    /// What the transaction wrote to this key: `Some(None)` is its own delete.
    pub fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        self.0.get(key).map(|buffered| buffered.value.clone())
    }

    /// Whether any key of the span was written.
    pub fn touches(&self, span: &Span) -> bool {
        self.in_span(span).next().is_some()
    }

    /// Own writes in the span, in key order.
    pub fn in_span(&self, span: &Span) -> impl DoubleEndedIterator<Item = (&Bytes, &Buffered)> {
        let end = if span.is_empty() { &span.start } else { &span.end };
        let bounds = (Bound::Included(span.start.as_ref()), Bound::Excluded(end.as_ref()));
        self.0.range::<[u8], _>(bounds)
    }

    /// Lays own writes over rows read from storage. `covered` is what `rows` speak for, in the
    /// order of the scan.
    pub fn overlay(
        &self,
        rows: Vec<(Bytes, Bytes)>,
        covered: &Span,
        reverse: bool,
    ) -> Vec<(Bytes, Bytes)> {
        let mut merged: BTreeMap<Bytes, Bytes> = rows.into_iter().collect();
        for (key, buffered) in self.in_span(covered) {
            match &buffered.value {
                Some(value) => merged.insert(key.clone(), value.clone()),
                None => merged.remove(key),
            };
        }
        if reverse { merged.into_iter().rev().collect() } else { merged.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ts(n: u64) -> Timestamp {
        Timestamp(n)
    }

    #[test]
    fn an_insert_after_an_own_delete_expects_what_the_delete_expected() {
        let mut buffer = WriteBuffer::default();
        buffer.add(WriteOp::delete("k"), ts(1));
        buffer.add(WriteOp::insert("k", "v"), ts(2));
        let writes = buffer.to_writes();
        assert_eq!(writes.len(), 1);
        assert!(!writes[0].must_be_absent && !writes[0].delete);
        assert_eq!(writes[0].read_at, 1);
    }

    #[test]
    fn a_delete_after_an_own_insert_still_expects_absence() {
        let mut buffer = WriteBuffer::default();
        buffer.add(WriteOp::insert("k", "v"), ts(1));
        buffer.add(WriteOp::delete("k"), ts(1));
        let writes = buffer.to_writes();
        assert!(writes[0].must_be_absent && writes[0].delete);
        assert_eq!(buffer.written().get(b"k"), Some(None));
    }

    #[test]
    fn own_writes_lie_over_stored_rows_in_both_directions() {
        let mut buffer = WriteBuffer::default();
        buffer.add(WriteOp::put("b", "new"), ts(1));
        buffer.add(WriteOp::delete("c"), ts(1));
        buffer.add(WriteOp::put("z", "outside"), ts(1));
        let stored =
            || ["a", "c", "d"].map(|k| (Bytes::from(k), Bytes::from("old"))).into_iter().collect();
        let span = Span::new("a", "m");
        let keys = |rows: Vec<(Bytes, Bytes)>| {
            rows.into_iter()
                .map(|(k, _)| String::from_utf8(k.to_vec()).unwrap())
                .collect::<String>()
        };
        assert_eq!(keys(buffer.written().overlay(stored(), &span, false)), "abd");
        assert_eq!(keys(buffer.written().overlay(stored(), &span, true)), "dba");
    }

    #[test]
    fn what_was_kept_stays_as_it_was() {
        let mut buffer = WriteBuffer::default();
        let mark = buffer.mark();
        buffer.add(WriteOp::put("k", "1"), ts(1));
        let kept = buffer.kept().expect("little is kept");
        buffer.add(WriteOp::put("k", "2"), ts(1));
        buffer.add(WriteOp::put("l", "2"), ts(1));
        assert_eq!(kept.get(b"k"), Some(Some("1".into())));
        assert_eq!(kept.get(b"l"), None);
        buffer.back_to(&mark);
        assert_eq!(kept.get(b"k"), Some(Some("1".into())));
        assert!(buffer.is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut buffer = WriteBuffer::default();
        for i in 0..100_000_u32 {
            buffer.add(WriteOp::put(i.to_be_bytes().to_vec(), ""), ts(1));
        }
        let mut kept = Vec::new();
        while let Some(now) = buffer.kept().filter(|_| kept.len() < 100) {
            // The present is kept once, however many see it.
            kept.extend([now, buffer.kept().expect("it is kept already")]);
            buffer.add(WriteOp::put("k", ""), ts(1));
        }
        assert!((4..100).contains(&kept.len()), "after {}", kept.len());
        kept.clear();
        assert!(buffer.kept().is_some());
    }

    #[test]
    fn the_anchor_is_the_first_written_key() {
        let mut buffer = WriteBuffer::default();
        buffer.add(WriteOp::put("m", "1"), ts(1));
        buffer.add(WriteOp::put("a", "1"), ts(1));
        assert_eq!(buffer.anchor(), Some(&Bytes::from("m")));
    }

    #[test]
    fn what_was_written_since_a_mark_is_taken_back() {
        let mut buffer = WriteBuffer::default();
        let first = buffer.mark();
        buffer.add(WriteOp::put("m", "1"), ts(1));
        let (writes, bytes) = (buffer.to_writes(), buffer.bytes());
        let second = buffer.mark();
        for _ in 0..2 {
            buffer.add(WriteOp::put("m", "22"), ts(2));
            buffer.add(WriteOp::insert("a", "1"), ts(2));
            buffer.add(WriteOp::delete("m"), ts(2));
            buffer.back_to(&second);
            assert_eq!((buffer.to_writes(), buffer.bytes()), (writes.clone(), bytes));
            assert_eq!(buffer.anchor(), Some(&Bytes::from("m")));
        }
        buffer.back_to(&first);
        assert_eq!((buffer.len(), buffer.bytes(), buffer.anchor()), (0, 0, None));
        buffer.add(WriteOp::put("z", "1"), ts(3));
        buffer.forget_marks();
        assert_eq!((buffer.bytes(), buffer.anchor()), (3 + ENTRY_OVERHEAD, Some(&"z".into())));
    }

    #[test]
    fn bytes_are_accounted_when_a_value_is_replaced() {
        let mut buffer = WriteBuffer::default();
        buffer.add(WriteOp::put("k", vec![0; 100]), ts(1));
        buffer.add(WriteOp::put("k", vec![0; 10]), ts(1));
        assert_eq!(buffer.bytes(), 2 + 10 + ENTRY_OVERHEAD);
    }
}
