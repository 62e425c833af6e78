//! What every [`LogStore`] must do, as checks that panic where it does not; run on each of them.

use quorate_proto::RangeId;
use raft::eraftpb::{Entry, HardState};

use super::{LogBatch, LogError, LogStore, Truncated, truncate};

const R1: RangeId = RangeId(1);
const R2: RangeId = RangeId(2);

/// Runs all checks; `open` makes a new, empty log.
///
/// # Panics
/// Where the log does not conform.
pub fn check(open: &mut dyn FnMut() -> Box<dyn LogStore>) {
    unknown_group_is_empty(&*open());
    groups_append_apart_in_one_batch(&*open());
    append_replaces_the_tail(&*open());
    entries_keep_to_bounds_and_size(&*open());
    compaction_keeps_the_last_term(&*open());
    reset_begins_after_the_snapshot(&*open());
    removed_group_leaves_nothing(&*open());
    facts_of_the_node_are_kept_apart(&*open());
    truncate_is_bounded_by_what_is_durable(&*open());
}

/// Entries `first..first + count` of a term, telling which they are.
pub fn entries(first: u64, count: u64, term: u64) -> Vec<Entry> {
    (first..first + count)
        .map(|index| Entry {
            index,
            term,
            data: format!("{term}/{index}").into_bytes().into(),
            ..Entry::default()
        })
        .collect()
}

fn hard_state(term: u64, commit: u64) -> HardState {
    HardState { term, vote: 1, commit, ..HardState::default() }
}

fn append(log: &dyn LogStore, range: RangeId, new: Vec<Entry>) {
    let mut batch = LogBatch::new();
    batch.append(range, new);
    log.append(&mut batch).expect("appends");
    assert!(batch.is_empty(), "append empties the batch");
}

fn bounds(log: &dyn LogStore, range: RangeId) -> (u64, u64) {
    let first = log.first_index(range).expect("reads");
    (first, log.last_index(range).expect("reads"))
}

fn terms(log: &dyn LogStore, range: RangeId) -> Vec<u64> {
    let (first, last) = bounds(log, range);
    let entries = log.entries(range, first, last + 1, None).expect("reads");
    let indexes: Vec<u64> = entries.iter().map(|entry| entry.index).collect();
    assert_eq!(indexes, (first..=last).collect::<Vec<_>>());
    for entry in &entries {
        assert_eq!(log.term(range, entry.index), Ok(entry.term));
        assert_eq!(entry.data, format!("{}/{}", entry.term, entry.index).as_bytes());
    }
    entries.iter().map(|entry| entry.term).collect()
}

fn unknown_group_is_empty(log: &dyn LogStore) {
    assert_eq!(bounds(log, R1), (1, 0));
    assert_eq!(log.term(R1, 0), Ok(0));
    assert_eq!(log.term(R1, 1), Err(LogError::Unavailable));
    assert_eq!(log.entries(R1, 1, 1, None), Ok(Vec::new()));
    assert_eq!(log.entries(R1, 1, 2, None), Err(LogError::Unavailable));
    assert_eq!(log.hard_state(R1), Ok(None));
    assert!(log.groups().is_empty());
    log.append(&mut LogBatch::new()).expect("an empty batch is fine");
}

fn groups_append_apart_in_one_batch(log: &dyn LogStore) {
    let mut batch = LogBatch::new();
    batch.append(R1, entries(1, 3, 1));
    batch.hard_state(R1, hard_state(1, 2));
    batch.append(R2, entries(1, 1, 5));
    batch.append(R1, entries(4, 2, 2));
    batch.append(R2, Vec::new());
    log.append(&mut batch).expect("appends");
    assert_eq!(terms(log, R1), [1, 1, 1, 2, 2]);
    assert_eq!(terms(log, R2), [5]);
    assert_eq!(log.hard_state(R1), Ok(Some(hard_state(1, 2))));
    assert_eq!(log.hard_state(R2), Ok(None));
    assert_eq!(log.groups(), [R1, R2]);
}

fn append_replaces_the_tail(log: &dyn LogStore) {
    append(log, R1, entries(1, 5, 1));
    append(log, R1, entries(3, 1, 2));
    assert_eq!(terms(log, R1), [1, 1, 2]);
    append(log, R1, entries(1, 2, 3));
    assert_eq!(terms(log, R1), [3, 3]);
    append(log, R1, entries(3, 1, 3));
    assert_eq!(terms(log, R1), [3, 3, 3]);
}

fn entries_keep_to_bounds_and_size(log: &dyn LogStore) {
    append(log, R1, entries(1, 10, 1));
    let count = |lo, hi, max| log.entries(R1, lo, hi, max).map(|found| found.len());
    assert_eq!(count(3, 7, None), Ok(4));
    assert_eq!(count(3, 7, Some(0)), Ok(1), "at least one");
    let two = 2 * u64::from(protobuf::Message::compute_size(&entries(3, 1, 1)[0]));
    assert_eq!(count(3, 7, Some(two)), Ok(2));
    assert_eq!(count(3, 7, Some(two - 1)), Ok(1));
    assert_eq!(count(3, 7, Some(1 << 30)), Ok(4));
    assert_eq!(count(11, 11, None), Ok(0));
    assert_eq!(count(10, 12, None), Err(LogError::Unavailable));
    assert_eq!(count(0, 2, None), Err(LogError::Compacted));
}

fn compaction_keeps_the_last_term(log: &dyn LogStore) {
    append(log, R1, entries(1, 5, 1));
    append(log, R1, entries(6, 5, 2));
    truncate(log, R1, 4, 10).expect("truncates");
    assert_eq!(bounds(log, R1), (5, 10));
    assert_eq!(log.truncated(R1), Ok(Truncated { index: 4, term: 1 }));
    assert_eq!(log.term(R1, 4), Ok(1));
    assert_eq!(log.term(R1, 3), Err(LogError::Compacted));
    assert_eq!(log.entries(R1, 4, 6, None), Err(LogError::Compacted));
    truncate(log, R1, 2, 10).expect("what is gone already is no error");
    assert_eq!(terms(log, R1), [1, 2, 2, 2, 2, 2]);
    truncate(log, R1, 10, 10).expect("truncates");
    assert_eq!(bounds(log, R1), (11, 10));
    assert_eq!(log.term(R1, 10), Ok(2));
    append(log, R1, entries(11, 2, 3));
    assert_eq!(terms(log, R1), [3, 3]);
}

fn reset_begins_after_the_snapshot(log: &dyn LogStore) {
    for at in [100, 3] {
        let to = Truncated { index: at, term: 7 };
        let mut batch = LogBatch::new();
        batch.append(R1, entries(log.last_index(R1).expect("reads") + 1, 5, 1));
        batch.hard_state(R1, hard_state(7, at));
        batch.reset(R1, to);
        log.append(&mut batch).expect("appends");
        assert_eq!(bounds(log, R1), (at + 1, at));
        assert_eq!(log.truncated(R1), Ok(to));
        assert_eq!(log.hard_state(R1), Ok(Some(hard_state(7, at))), "reset keeps it");
        append(log, R1, entries(at + 1, 2, 8));
        assert_eq!(terms(log, R1), [8, 8]);
        let mut batch = LogBatch::new();
        batch.reset(R1, Truncated { index: at + 1, term: 8 });
        log.append(&mut batch).expect("appends");
        assert_eq!(log.hard_state(R1), Ok(Some(hard_state(7, at))), "also from before");
    }
}

fn removed_group_leaves_nothing(log: &dyn LogStore) {
    let mut batch = LogBatch::new();
    batch.append(R1, entries(1, 3, 1));
    batch.hard_state(R1, hard_state(1, 1));
    batch.append(R2, entries(1, 3, 1));
    log.append(&mut batch).expect("appends");
    truncate(log, R1, 2, 2).expect("truncates");
    batch.remove(R1);
    log.append(&mut batch).expect("appends");
    unknown_but(log, R2);
    batch.remove(R2);
    batch.append(R2, entries(1, 1, 9));
    log.append(&mut batch).expect("appends");
    assert_eq!(terms(log, R2), [9], "it can begin anew in the same batch");
}

fn unknown_but(log: &dyn LogStore, other: RangeId) {
    assert_eq!(bounds(log, R1), (1, 0));
    assert_eq!(log.hard_state(R1), Ok(None));
    assert_eq!(log.truncated(R1), Ok(Truncated::default()));
    assert_eq!(log.groups(), [other]);
}

fn facts_of_the_node_are_kept_apart(log: &dyn LogStore) {
    let mut batch = LogBatch::new();
    batch.put_meta(&b"b/1"[..], &b"one"[..]);
    batch.put_meta(&b"b/2"[..], &b"two"[..]);
    batch.put_meta(&b"a"[..], &b"zero"[..]);
    batch.put_meta(&b"c"[..], &b"three"[..]);
    log.append(&mut batch).expect("appends");
    assert!(log.groups().is_empty(), "they are no group");
    assert_eq!(log.meta(b"b/1").as_deref(), Some(&b"one"[..]));
    assert_eq!(log.meta(b"b"), None);
    let keys = |prefix: &[u8]| -> Vec<_> {
        let found = log.meta_with_prefix(prefix);
        found.into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(keys(b"b/"), ["b/1", "b/2"]);
    assert_eq!(keys(b""), ["a", "b/1", "b/2", "c"]);
    batch.delete_meta(&b"b/1"[..]);
    batch.put_meta(&b"b/2"[..], &b"new"[..]);
    log.append(&mut batch).expect("appends");
    assert_eq!(log.meta(b"b/1"), None);
    assert_eq!(log.meta(b"b/2").as_deref(), Some(&b"new"[..]));
}

fn truncate_is_bounded_by_what_is_durable(log: &dyn LogStore) {
    append(log, R1, entries(1, 5, 1));
    let beyond = std::panic::AssertUnwindSafe(|| truncate(log, R1, 4, 3));
    assert!(std::panic::catch_unwind(beyond).is_err(), "rule S3");
    assert_eq!(bounds(log, R1), (1, 5));
}
