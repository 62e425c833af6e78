//! [`Batch`]: changes to the engine that become visible together.

use super::{Cf, KeySpan};

/// One change, borrowed from its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchOp<'a> {
    /// Sets a value.
    Put {
        /// Where.
        cf: Cf,
        /// The key.
        key: &'a [u8],
        /// Its new value.
        value: &'a [u8],
    },
    /// Removes a key, which need not exist.
    Delete {
        /// Where.
        cf: Cf,
        /// The key.
        key: &'a [u8],
    },
    /// Removes all keys of `[start, end)`.
    DeleteRange {
        /// Where.
        cf: Cf,
        /// Inclusive.
        start: &'a [u8],
        /// Exclusive; empty: unbounded.
        end: &'a [u8],
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Put,
    Delete,
    DeleteRange,
}

#[derive(Debug, Clone, Copy)]
struct Header {
    kind: Kind,
    cf: Cf,
    first_len: usize,
    second_len: usize,
}

/// Changes in order; all their bytes lie in one buffer.
///
/// # Invariants
/// * The lengths of all operations add up to the buffer's length.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    headers: Vec<Header>,
    data: Vec<u8>,
}

impl Batch {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a value.
    pub fn put(&mut self, cf: Cf, key: &[u8], value: &[u8]) {
        self.push(Kind::Put, cf, key, value);
    }

    /// Removes a key, which need not exist.
    pub fn delete(&mut self, cf: Cf, key: &[u8]) {
        self.push(Kind::Delete, cf, key, &[]);
    }

    /// Removes all keys of `[start, end)` of one family; an empty `end` is unbounded.
    pub fn delete_range(&mut self, cf: Cf, start: &[u8], end: &[u8]) {
        self.push(Kind::DeleteRange, cf, start, end);
    }

    /// Removes all rows of a span of user keys from all data families.
    pub fn delete_span(&mut self, span: &KeySpan) {
        for cf in Cf::DATA {
            self.delete_range(cf, &cf.bound(&span.start), &cf.bound(&span.end));
        }
    }

    fn push(&mut self, kind: Kind, cf: Cf, first: &[u8], second: &[u8]) {
        self.headers.push(Header { kind, cf, first_len: first.len(), second_len: second.len() });
        self.data.extend_from_slice(first);
        self.data.extend_from_slice(second);
    }

    /// The changes in the order they were added.
    pub fn ops(&self) -> impl Iterator<Item = BatchOp<'_>> {
        let mut at = 0;
        self.headers.iter().map(move |h| {
            let first = &self.data[at..at + h.first_len];
            let second = &self.data[at + h.first_len..at + h.first_len + h.second_len];
            at += h.first_len + h.second_len;
            let cf = h.cf;
            match h.kind {
                Kind::Put => BatchOp::Put { cf, key: first, value: second },
                Kind::Delete => BatchOp::Delete { cf, key: first },
                Kind::DeleteRange => BatchOp::DeleteRange { cf, start: first, end: second },
            }
        })
    }

    /// Appends another batch's changes.
    pub fn extend(&mut self, other: &Self) {
        self.headers.extend_from_slice(&other.headers);
        self.data.extend_from_slice(&other.data);
    }

    /// A mark to go back to with [`truncate`](Self::truncate).
    pub fn mark(&self) -> BatchMark {
        BatchMark { ops: self.headers.len(), bytes: self.data.len() }
    }

    /// Takes back every change added after the mark was taken.
    pub fn truncate(&mut self, mark: BatchMark) {
        self.headers.truncate(mark.ops);
        self.data.truncate(mark.bytes);
        assert_eq!(
            self.headers.iter().map(|h| h.first_len + h.second_len).sum::<usize>(),
            self.data.len(),
            "the lengths of all operations add up to the buffer's length"
        );
    }

    /// Drops all changes and keeps the memory.
    pub fn clear(&mut self) {
        self.headers.clear();
        self.data.clear();
    }

    /// How many changes.
    pub fn len(&self) -> usize {
        self.headers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty()
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }
}

/// A place in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchMark {
    ops: usize,
    bytes: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncate_takes_back_what_came_after_the_mark() {
        let mut batch = Batch::new();
        batch.put(Cf::Latest, b"a", b"1");
        let mark = batch.mark();
        batch.delete(Cf::Locks, b"bb");
        batch.delete_range(Cf::Txns, b"c", b"d");
        assert_eq!(batch.len(), 3);
        batch.truncate(mark);
        let ops: Vec<_> = batch.ops().collect();
        assert_eq!(ops, [BatchOp::Put { cf: Cf::Latest, key: b"a", value: b"1" }]);
        assert_eq!(batch.bytes(), 2);
    }
}
