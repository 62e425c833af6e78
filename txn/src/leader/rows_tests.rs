//! Row locks: what is granted to whom, and a model of the invariants under random requests.

use proptest::prelude::*;

use super::*;

const MODES: [Mode; 4] = [Mode::KeyShare, Mode::Share, Mode::NoKeyUpdate, Mode::Update];
const SECOND: Duration = Duration::from_secs(1);

fn who(id: u128) -> pb::LockOwner {
    pb::LockOwner { id: TxnId(id).to_bytes(), ..pb::LockOwner::default() }
}

struct Locks {
    rows: RowLocks,
    now: Duration,
}

impl Locks {
    fn new() -> Self {
        Self { rows: RowLocks::default(), now: Duration::ZERO }
    }

    fn ask(&mut self, id: u128, key: &'static str, mode: Mode) -> Asked {
        let key = Bytes::from(key);
        let woken = &mut Vec::new();
        self.rows.ask(&key, (TxnId(id), &who(id), 1), mode, true, self.now, woken)
    }

    fn release(&mut self, id: u128) -> Vec<u128> {
        self.rows.release(TxnId(id), self.now).into_iter().map(|id| id.0).collect()
    }

    fn shown(&self) -> String {
        self.rows.to_string()
    }
}

fn busy(ids: &[u128]) -> Asked {
    Asked::Busy(ids.iter().map(|id| TxnId(*id)).collect())
}

#[test]
fn modes_conflict_as_in_postgresql() {
    let table = MODES.map(|a| MODES.map(|b| u8::from(a.conflicts(b))));
    assert_eq!(table, [[0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]]);
}

#[test]
fn those_who_come_first_are_served_first() {
    let mut locks = Locks::new();
    assert_eq!(locks.ask(1, "a", Mode::Share), Asked::Held);
    assert_eq!(locks.ask(2, "a", Mode::Update), busy(&[1]));
    // It would fit beside the holder, and waits all the same.
    assert_eq!(locks.ask(3, "a", Mode::Share), busy(&[2]));
    assert_eq!(locks.ask(4, "a", Mode::Share), busy(&[2]));
    assert_eq!(locks.ask(2, "a", Mode::Update), busy(&[1]), "asking again keeps the place");
    assert_eq!(locks.release(1), [2]);
    assert_eq!(locks.ask(2, "a", Mode::Update), Asked::Held);
    assert_eq!(locks.release(2), [3, 4]);
    assert_eq!(locks.shown(), " | a rows: t3=Share t4=Share");
}

#[test]
fn a_holder_that_wants_more_is_not_behind_those_who_wait_for_it() {
    let mut locks = Locks::new();
    locks.ask(1, "a", Mode::Share);
    locks.ask(2, "a", Mode::Share);
    locks.ask(3, "a", Mode::NoKeyUpdate);
    assert_eq!(locks.ask(1, "a", Mode::Update), busy(&[2]));
    assert_eq!(locks.release(2), [1]);
    assert_eq!(locks.shown(), " | a rows: t1=Update < t3=NoKeyUpdate");
}

#[test]
fn who_gives_up_its_place_lets_others_pass() {
    let mut locks = Locks::new();
    locks.ask(1, "a", Mode::Share);
    locks.ask(2, "a", Mode::Update);
    locks.ask(3, "a", Mode::Share);
    assert_eq!(locks.release(2), [3]);
    assert!(locks.release(1).is_empty() && locks.release(3).is_empty());
    assert!(locks.rows.is_empty() && locks.shown().is_empty());
}

#[test]
fn a_dead_owner_loses_what_it_has_when_it_is_in_the_way() {
    let mut locks = Locks::new();
    locks.ask(1, "a", Mode::Update);
    locks.ask(1, "b", Mode::Update);
    locks.ask(2, "a", Mode::Update);
    locks.now = LOCK_TTL;
    assert_eq!(locks.ask(2, "a", Mode::Update), busy(&[1]));
    locks.rows.heard(TxnId(1), SECOND);
    locks.now = LOCK_TTL + SECOND;
    assert_eq!(locks.ask(2, "a", Mode::Update), busy(&[1]), "it was heard of");
    locks.now += Duration::from_millis(1);
    assert_eq!(locks.ask(2, "a", Mode::Update), Asked::Held);
    assert_eq!(locks.shown(), " | a rows: t2=Update");
}

/// An `Unlock` that was on its way for long does not take what was asked for after it.
#[test]
fn giving_up_takes_back_only_what_was_asked_for_before() {
    let mut locks = Locks::new();
    locks.ask(1, "a", Mode::Share);
    let keys = [Bytes::from("a")];
    assert!(locks.rows.give_up(TxnId(1), &keys, 1, locks.now).is_empty());
    assert_eq!(locks.shown(), " | a rows: t1=Share");
    locks.rows.give_up(TxnId(1), &keys, 2, locks.now);
    assert!(locks.rows.is_empty());
}

/// However many queue, each tells of the one before it, and nobody of all.
#[test]
fn a_long_queue_is_told_in_few_words() {
    let mut locks = Locks::new();
    for id in 1..=1_000 {
        locks.ask(id, "a", Mode::Update);
    }
    let waits = locks.rows.list_waits(usize::MAX, locks.now);
    assert_eq!(waits.len(), 999);
    assert!(waits.iter().all(|wait| wait.blockers.len() <= 2));
}

#[test]
fn rows_that_leave_by_a_split_are_forgotten() {
    let mut locks = Locks::new();
    locks.ask(1, "a", Mode::Update);
    locks.ask(1, "m", Mode::Update);
    locks.ask(2, "m", Mode::Update);
    locks.rows.truncate(b"m");
    assert_eq!(locks.shown(), " | a rows: t1=Update");
    assert!(locks.rows.who(TxnId(2)).is_none());
}

#[test]
fn a_write_meets_holders_and_not_those_who_queue() {
    let mut locks = Locks::new();
    locks.ask(1, "a", Mode::KeyShare);
    locks.ask(2, "a", Mode::Update);
    let against = |owner, mode| locks.rows.against_write(b"a", owner, mode);
    assert_eq!(against(None, Mode::NoKeyUpdate), None);
    assert_eq!(against(None, Mode::Update), Some(TxnId(1)));
    assert_eq!(against(Some(TxnId(1)), Mode::Update), None);
}

impl RowLocks {
    /// Who holds what.
    fn held(&self) -> BTreeSet<(Bytes, TxnId, Mode)> {
        let of_row = |(key, row): (&Bytes, &Row)| {
            let held = row.holders.iter().map(|claim| (key.clone(), claim.owner, claim.mode));
            held.collect::<Vec<_>>()
        };
        self.rows.iter().flat_map(of_row).collect()
    }

    fn check(&self) {
        for (key, row) in &self.rows {
            for (i, a) in row.holders.iter().enumerate() {
                for b in &row.holders[i + 1..] {
                    assert!(a.owner != b.owner && !a.mode.conflicts(b.mode), "{self}");
                }
            }
            assert!(!row.holders.is_empty(), "nobody holds it and somebody queues: {self}");
            assert_eq!(self.contended.contains(key), !row.queue.is_empty(), "{self}");
            if let Some(first) = row.queue.front() {
                assert!(row.against(first.owner, first.mode).next().is_some(), "{self}");
            }
            for claim in row.holders.iter().chain(&row.queue) {
                assert!(self.owners[&claim.owner].keys.contains(key), "{self}");
            }
        }
        for (id, known) in &self.owners {
            assert!(!known.keys.is_empty());
            for key in &known.keys {
                let row = &self.rows[key];
                assert!(row.holders.iter().chain(&row.queue).any(|claim| claim.owner == *id));
            }
        }
    }
}

/// What is held goes on; who queues asks again; a commit that is under way ends its locks.
#[test]
fn the_next_leader_goes_on_with_what_is_held() {
    let mut old = Locks::new();
    old.now = 9 * SECOND;
    assert_eq!(old.ask(1, "a", Mode::Share), Asked::Held);
    assert_eq!(old.ask(2, "a", Mode::Share), Asked::Held);
    assert_eq!(old.ask(3, "a", Mode::Update), busy(&[1, 2]));
    assert_eq!(old.ask(4, "b", Mode::NoKeyUpdate), Asked::Held);
    let handed = old.rows.hand_over(1000, &BTreeSet::from([TxnId(4)]), old.now);
    let mut next = Locks::new();
    next.rows.take_over(&handed, next.now);
    next.rows.check();
    let held = old.shown();
    let held = held.split_once(" < ").expect("one queues").0;
    assert_eq!(next.shown(), held);
    assert_eq!(next.ask(3, "a", Mode::Update), busy(&[1, 2]));
    // Given up before the request that got it: that came late.
    assert_eq!(next.rows.give_up(TxnId(1), &[Bytes::from("a")], 1, next.now), []);
    assert_eq!(next.release(1), []);
    assert_eq!(next.release(2), [3]);
    let all = old.rows.hand_over(1000, &BTreeSet::new(), old.now);
    let room = all.iter().take(1).map(prost::Message::encoded_len).sum();
    assert_eq!(old.rows.hand_over(room, &BTreeSet::new(), old.now), all[..1]);
    let late = old.now + LOCK_TTL + SECOND;
    assert_eq!(old.rows.hand_over(1000, &BTreeSet::new(), late), []);
}

proptest! {
    /// Random requests, releases, splits and deaths keep the invariants, and whoever was told that
    /// it got a row has it.
    #[test]
    fn requests_in_any_order_keep_the_invariants(
        steps in prop::collection::vec((0..9u8, 1..6u128, 0..4usize, 0..4usize), 1..200)
    ) {
        const KEYS: [&str; 4] = ["a", "b", "m", "z"];
        let mut locks = Locks::new();
        for (what, id, key, mode) in steps {
            let key = Bytes::from(KEYS[key]);
            let mut woken = Vec::new();
            match what {
                0..=4 => {
                    let (owner, queue) = ((TxnId(id), &who(id), 1), what > 0);
                    let mode = MODES[mode];
                    let asked = locks.rows.ask(&key, owner, mode, queue, locks.now, &mut woken);
                    let held = locks.rows.rows.get(&key).and_then(|row| row.held_by(TxnId(id)));
                    assert_eq!(asked == Asked::Held, held.is_some_and(|held| held >= mode));
                }
                5 => woken = locks.rows.give_up(TxnId(id), &[key], 2, locks.now),
                6 => woken = locks.rows.release(TxnId(id), locks.now),
                7 if mode == 1 => {
                    let mut next = RowLocks::default();
                    locks.rows.drop_dead(locks.now, &mut woken);
                    let handed = locks.rows.hand_over(1 << 20, &BTreeSet::new(), locks.now);
                    next.take_over(&handed, locks.now);
                    assert_eq!(next.held(), locks.rows.held());
                    locks.rows = next;
                }
                7 if mode == 0 => locks.rows.truncate(&key),
                _ => locks.now += SECOND,
            }
            for id in woken {
                let rows = &locks.rows.rows;
                assert!(rows.values().any(|row| row.held_by(id).is_some()));
            }
            locks.rows.check();
        }
    }
}
