//! What a transaction has read, so that its read timestamp can move forward when that is shown
//! unchanged (DESIGN §6), and so that locked rows are checked at commit (rule P9).

use std::collections::BTreeSet;

use bytes::Bytes;
use quorate_planner::kv::Span;
use quorate_proto::{Timestamp, pb};

/// Reads remembered at most. Beyond it the read timestamp cannot move forward any more.
pub const READS_REMEMBERED_MAX: usize = 20_000;

/// Keys and spans a transaction has read, at its read timestamp.
#[derive(Debug, Default)]
pub struct ReadSet {
    keys: BTreeSet<Bytes>,
    spans: BTreeSet<Span>,
    overflowed: bool,
    count: u64,
}

impl ReadSet {
    /// Remembers point reads.
    pub fn add_keys(&mut self, keys: impl IntoIterator<Item = Bytes>) {
        self.count += 1;
        if !self.overflowed {
            self.keys.extend(keys);
            self.bound();
        }
    }

    /// Remembers what a page of a scan has covered; a scan that goes on extends its span.
    pub fn add_span(&mut self, span: Span) {
        self.count += 1;
        if self.overflowed || span.is_empty() {
            return;
        }
        let mut span = span;
        let before =
            self.spans.iter().find(|s| s.end == span.start || s.start == span.end).cloned();
        if let Some(neighbour) = before {
            self.spans.remove(&neighbour);
            if neighbour.end == span.start {
                span.start = neighbour.start;
            } else {
                span.end = neighbour.end;
            }
        }
        self.spans.insert(span);
        self.bound();
    }

    fn bound(&mut self) {
        if self.keys.len() + self.spans.len() > READS_REMEMBERED_MAX {
            self.overflowed = true;
            self.keys.clear();
            self.spans.clear();
        }
    }

    /// How many reads were added: another number means that something is new.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether the transaction has read nothing.
    pub fn is_empty(&self) -> bool {
        !self.overflowed && self.keys.is_empty() && self.spans.is_empty()
    }

    /// Whether the key was read; true also if that was forgotten.
    pub fn may_hold(&self, key: &Bytes) -> bool {
        let in_span = |span: &Span| span.start <= *key && *key < span.end;
        self.overflowed || self.keys.contains(key) || self.spans.iter().any(in_span)
    }

    /// The checks that show everything unchanged since `read_at`; `None` if it was too much to
    /// remember.
    pub fn checks(&self, read_at: Timestamp) -> Option<Vec<pb::ReadCheck>> {
        if self.overflowed {
            return None;
        }
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
        Some(self.keys.iter().map(key).chain(self.spans.iter().map(span)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_one_scan_become_one_span_in_both_directions() {
        let mut reads = ReadSet::default();
        reads.add_span(Span::new("a", "c"));
        reads.add_span(Span::new("c", "f"));
        assert_eq!(reads.checks(Timestamp(1)).unwrap().len(), 1);
        reads.add_span(Span::new("x", "z"));
        reads.add_span(Span::new("u", "x"));
        let checks = reads.checks(Timestamp(1)).unwrap();
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
    fn too_many_reads_are_forgotten_and_said_to_be() {
        let mut reads = ReadSet::default();
        let keys = 0..=u32::try_from(READS_REMEMBERED_MAX).unwrap();
        reads.add_keys(keys.map(|n| Bytes::copy_from_slice(&n.to_be_bytes())));
        assert!(!reads.is_empty());
        assert!(reads.checks(Timestamp(1)).is_none());
        assert!(reads.may_hold(&Bytes::from("never read")));
    }
}
