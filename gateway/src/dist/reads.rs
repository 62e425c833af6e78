//! What a transaction has read, so that its read timestamp can move forward when that is shown
//! unchanged (DESIGN §6), and so that locked rows are checked at commit (rule P9).

use std::collections::BTreeSet;

use bytes::Bytes;
use quorate_planner::kv::Span;
use quorate_proto::{Timestamp, pb};
use quorate_txn::keys::next_key;

use super::buffer::ENTRY_OVERHEAD;

/// Keys and spans remembered at most. Beyond it neighbours become one span: what lies between them
/// counts as read, which may refuse more than it must, and misses nothing.
pub const READS_REMEMBERED_MAX: usize = 20_000;
/// Bytes of their keys at most: they travel beside what a transaction writes.
const READ_BYTES_MAX: usize = 4 << 20;
/// So many neighbouring keys become one span.
const RUN: usize = 64;

/// Keys and spans a transaction has read, at its read timestamp.
#[derive(Debug, Default)]
pub struct ReadSet {
    keys: BTreeSet<Bytes>,
    /// By start; they may overlap.
    spans: BTreeSet<Span>,
    /// Of all of them.
    bytes: usize,
    count: u64,
}

fn cost(span: &Span) -> usize {
    span.start.len() + span.end.len()
}

impl ReadSet {
    /// Remembers point reads.
    pub fn add_keys(&mut self, keys: impl IntoIterator<Item = Bytes>) {
        self.count += 1;
        for key in keys {
            self.put_key(key);
        }
        self.bound();
    }

    /// Remembers what a page of a scan has covered; a scan that goes on extends its span.
    pub fn add_span(&mut self, span: Span) {
        self.count += 1;
        if span.is_empty() {
            return;
        }
        let mut span = span;
        if let Some(neighbour) = self.neighbour(&span) {
            self.spans.remove(&neighbour);
            self.bytes -= cost(&neighbour);
            if neighbour.end == span.start {
                span.start = neighbour.start;
            } else {
                span.end = neighbour.end;
            }
        }
        self.put_span(span);
        self.bound();
    }

    fn put_key(&mut self, key: Bytes) {
        let bytes = key.len();
        if self.keys.insert(key) {
            self.bytes += bytes;
        }
    }

    fn put_span(&mut self, span: Span) {
        let bytes = cost(&span);
        if self.spans.insert(span) {
            self.bytes += bytes;
        }
    }

    /// A span that ends where this one starts, or starts where it ends.
    fn neighbour(&self, span: &Span) -> Option<Span> {
        let from = |start: &Bytes| Span { start: start.clone(), end: Bytes::new() };
        let before = self.spans.range(..from(&span.start)).next_back();
        let after = self.spans.range(from(&span.end)..).next();
        let before = before.filter(|before| before.end == span.start);
        before.or(after.filter(|after| after.start == span.end)).cloned()
    }

    /// Takes over what another has read at the same time.
    pub fn absorb(&mut self, other: Self) {
        self.count += other.count;
        other.keys.into_iter().for_each(|key| self.put_key(key));
        other.spans.into_iter().for_each(|span| self.put_span(span));
        self.bound();
    }

    fn bound(&mut self) {
        loop {
            let count = self.keys.len() + self.spans.len();
            let fits = count <= READS_REMEMBERED_MAX && self.bytes <= READ_BYTES_MAX;
            if fits || count < 2 {
                return;
            }
            if self.keys.len() >= self.spans.len() {
                let keys: Vec<Bytes> = std::mem::take(&mut self.keys).into_iter().collect();
                self.spans.extend(keys.chunks(RUN).filter_map(|run| {
                    let (first, last) = (run.first()?, run.last()?);
                    Some(Span::new(first.clone(), next_key(last)))
                }));
            } else {
                let spans: Vec<Span> = std::mem::take(&mut self.spans).into_iter().collect();
                self.spans.extend(spans.chunks(2).filter_map(|pair| {
                    let end = pair.iter().map(|span| &span.end).max()?;
                    Some(Span::new(pair.first()?.start.clone(), end.clone()))
                }));
            }
            let keys: usize = self.keys.iter().map(Bytes::len).sum();
            self.bytes = keys + self.spans.iter().map(cost).sum::<usize>();
        }
    }

    /// How many reads were added: another number means that something is new.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether the key was read, or lies between keys that were.
    pub fn may_hold(&self, key: &Bytes) -> bool {
        let in_span = |span: &Span| span.start <= *key && *key < span.end;
        self.keys.contains(key) || self.spans.iter().any(in_span)
    }

    /// The checks that show everything unchanged since `read_at`.
    pub fn checks(&self, read_at: Timestamp) -> Vec<pb::ReadCheck> {
        let key = |key: &Bytes| pb::ReadCheck {
            start: key.clone(),
            end: Bytes::new(),
            read_at: read_at.0,
        };
        let span = |span: &Span| pb::ReadCheck {
            start: span.start.clone(),
            end: span.end.clone(),
            read_at: read_at.0,
        };
        self.keys.iter().map(key).chain(self.spans.iter().map(span)).collect()
    }
}

/// Rows that were locked and perhaps not written, each with when that was first so (rule P14).
///
/// # Invariants
/// * Each key is in `checks` once, and `keys` has all of them.
#[derive(Debug, Default)]
pub struct LockedRows {
    checks: Vec<pb::ReadCheck>,
    keys: BTreeSet<Bytes>,
    bytes: usize,
}

impl LockedRows {
    /// One more, unless it is there: it must be unchanged since the first time.
    pub fn add(&mut self, key: Bytes, read_at: Timestamp) {
        if self.keys.insert(key.clone()) {
            self.bytes += key.len() + ENTRY_OVERHEAD;
            self.checks.push(pb::ReadCheck { start: key, end: Bytes::new(), read_at: read_at.0 });
        }
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.checks.len()
    }

    /// Only so many, those that came first.
    pub fn truncate(&mut self, len: usize) {
        for check in self.checks.drain(len.min(self.checks.len())..) {
            self.bytes -= check.start.len() + ENTRY_OVERHEAD;
            self.keys.remove(&check.start);
        }
    }

    /// The checks that show them unchanged.
    pub fn checks(&self) -> Vec<pb::ReadCheck> {
        self.checks.clone()
    }

    /// What they cost.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_is_locked_again_is_checked_since_the_first_time() {
        let mut rows = LockedRows::default();
        rows.add(Bytes::from("a"), Timestamp(1));
        let one = rows.bytes();
        rows.add(Bytes::from("b"), Timestamp(2));
        for _ in 0..3 {
            rows.add(Bytes::from("a"), Timestamp(3));
        }
        assert_eq!((rows.count(), rows.bytes(), rows.checks()[0].read_at), (2, 2 * one, 1));
        rows.truncate(1);
        assert_eq!((rows.count(), rows.bytes()), (1, one));
        rows.add(Bytes::from("b"), Timestamp(4));
        assert_eq!(rows.checks()[1].read_at, 4);
        rows.truncate(0);
        assert_eq!((rows.count(), rows.bytes()), (0, 0));
    }

    #[test]
    fn long_keys_become_spans_sooner() {
        let mut reads = ReadSet::default();
        let key = |n: usize| Bytes::from(format!("{n:060000}"));
        for n in 0..300 {
            reads.add_keys([key(2 * n)]);
            reads.add_span(Span::new(key(2 * n), key(2 * n + 1)));
        }
        let bytes: usize =
            reads.checks(Timestamp(1)).iter().map(|c| c.start.len() + c.end.len()).sum();
        assert!(bytes <= READ_BYTES_MAX && bytes == reads.bytes, "{bytes} {}", reads.bytes);
        assert!((0..300).all(|n| reads.may_hold(&key(2 * n))));
    }

    #[test]
    fn pages_of_one_scan_become_one_span_in_both_directions() {
        let mut reads = ReadSet::default();
        reads.add_span(Span::new("a", "c"));
        reads.add_span(Span::new("c", "f"));
        assert_eq!(reads.checks(Timestamp(1)).len(), 1);
        reads.add_span(Span::new("x", "z"));
        reads.add_span(Span::new("u", "x"));
        let checks = reads.checks(Timestamp(1));
        assert_eq!(checks.len(), 2);
        assert_eq!((checks[1].start.as_ref(), checks[1].end.as_ref()), (&b"u"[..], &b"z"[..]));
    }

    #[test]
    fn it_holds_what_was_read() {
        let mut reads = ReadSet::default();
        reads.add_keys([Bytes::from("k")]);
        reads.add_span(Span::new("p", "r"));
        let held = |key: &'static str| reads.may_hold(&Bytes::from(key));
        assert!(held("k") && held("p") && held("qq"));
        assert!(!held("j") && !held("kk") && !held("r"));
    }

    #[test]
    fn too_many_reads_become_spans_that_hold_them_all() {
        let mut reads = ReadSet::default();
        let key = |n: u32| Bytes::copy_from_slice(&(n * 2).to_be_bytes());
        let many = u32::try_from(READS_REMEMBERED_MAX).unwrap() * 3;
        reads.add_keys((0..many).map(key));
        for n in (0..many).step_by(5) {
            reads.add_span(Span::new(key(n), key(n + 1)));
        }
        assert!(reads.checks(Timestamp(1)).len() <= READS_REMEMBERED_MAX);
        assert!((0..many).step_by(997).all(|n| reads.may_hold(&key(n))));
        assert!(!reads.may_hold(&Bytes::from_static(b"never read")));
    }
}
