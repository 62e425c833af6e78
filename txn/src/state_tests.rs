//! Tests of the encodings of the state.

use super::*;
use proptest::prelude::*;

fn bytes() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(prop_oneof![Just(0u8), Just(0xff), any::<u8>()], 0..10)
        .prop_map(Bytes::from)
}

fn ts() -> impl Strategy<Value = Timestamp> {
    any::<u64>().prop_map(Timestamp)
}

/// A timestamp that is a reading: 0 stands for "the same" or "aborted" in the encodings.
fn reading() -> impl Strategy<Value = Timestamp> {
    (1..=u64::MAX).prop_map(Timestamp)
}

fn meta() -> impl Strategy<Value = TxnMeta> {
    (any::<u128>(), bytes(), ts()).prop_map(|(id, anchor, commit_start)| TxnMeta {
        id: TxnId(id),
        anchor,
        commit_start,
    })
}

fn record() -> impl Strategy<Value = Record> {
    let keys = || proptest::collection::vec(bytes(), 0..4);
    let state = prop_oneof![
        keys().prop_map(|keys| RecordState::Staging { keys }),
        keys().prop_map(|keys| RecordState::Preparing { keys }),
        (reading(), keys(), any::<bool>())
            .prop_map(|(ts, keys, one_range)| RecordState::Committed { ts, keys, one_range }),
        Just(RecordState::Aborted),
        Just(RecordState::Refused),
    ];
    (state, ts()).prop_map(|(state, commit_start)| Record { state, commit_start })
}

proptest! {
    #[test]
    fn version_comes_back(commit_ts in reading(), local_ts in reading(), value in bytes()) {
        let v = Version { commit_ts, local_ts, value };
        prop_assert_eq!(Version::decode(&v.encode()), Ok(v));
    }

    #[test]
    fn interval_comes_back(t in (reading(), reading(), reading(), reading()), value in bytes()) {
        let i = Interval { end: t.0, end_local: t.1, start: t.2, start_local: t.3, value };
        prop_assert_eq!(Interval::decode(i.end, &i.encode()), Ok(i));
    }

    #[test]
    fn lock_comes_back(txn in meta(), min in reading(), local in reading(),
                       value in proptest::option::of(bytes()), known_absent in any::<bool>()) {
        let lock = Lock { txn, min_commit_ts: min, local_ts: local, value, known_absent };
        prop_assert_eq!(Lock::decode(&lock.encode()), Ok(lock));
    }

    #[test]
    fn record_comes_back(record in record()) {
        prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
    }

    #[test]
    fn keys_come_back(key in bytes(), end in ts(), id in any::<u128>()) {
        prop_assert_eq!(decode_history_key(&history_key(&key, end)), Ok((key.clone(), end)));
        let id = TxnId(id);
        prop_assert_eq!(decode_record_key(&record_key(&key, id)), Ok((key, id)));
    }

    /// P5: both families sort by user key first.
    #[test]
    fn families_sort_by_user_key_then_by_the_rest(a in (bytes(), ts()), b in (bytes(), ts())) {
        prop_assert_eq!(history_key(&a.0, a.1).cmp(&history_key(&b.0, b.1)), a.cmp(&b));
        let id = |t: Timestamp| TxnId(u128::from(t.0));
        prop_assert_eq!(record_key(&a.0, id(a.1)).cmp(&record_key(&b.0, id(b.1))), a.cmp(&b));
    }

    /// P5: a bound of user keys cuts both families at the same place.
    #[test]
    fn families_split_by_user_key(
        key in bytes(), bound in bytes(), end in ts(), id in any::<u128>()
    ) {
        let left = key < bound;
        prop_assert_eq!(history_key(&key, end) < cf_bound(&bound), left);
        prop_assert_eq!(record_key(&key, TxnId(id)) < cf_bound(&bound), left);
    }

    #[test]
    fn any_bytes_decode_or_fail_without_a_panic(bytes in bytes()) {
        let _ = Version::decode(&bytes);
        let _ = Interval::decode(Timestamp(1), &bytes);
        let _ = Lock::decode(&bytes);
        let _ = Record::decode(&bytes);
        let _ = decode_history_key(&bytes);
        let _ = decode_record_key(&bytes);
    }
}

#[test]
fn lock_without_a_transaction_does_not_decode() {
    assert!(Lock::decode(&[]).is_err());
}

#[test]
fn record_of_an_unknown_state_does_not_decode() {
    let m = pb::RecordValue { state: 77, ..Default::default() };
    assert!(Record::decode(&m.encode_to_vec()).is_err());
}

/// P6: what goes below the floor, and what never does.
#[test]
fn staging_and_preparing_outlive_every_floor() {
    let at = |state| Record { state, commit_start: Timestamp(5) };
    let committed =
        |one_range| RecordState::Committed { ts: Timestamp(6), keys: vec![], one_range };
    let keys = vec![];
    let droppable = |state| at(state).droppable_below(Timestamp(6));
    assert!(!droppable(RecordState::Staging { keys: keys.clone() }));
    assert!(!droppable(RecordState::Preparing { keys }));
    assert!(!droppable(committed(false)));
    assert!(droppable(committed(true)));
    assert!(droppable(RecordState::Aborted));
    assert!(droppable(RecordState::Refused));
    assert!(!at(RecordState::Refused).droppable_below(Timestamp(5)));
}
