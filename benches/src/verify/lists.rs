//! The workload of lists: transactions append values, each of them new, and read whole lists.
//!
//! A list is a row `id, 'v,v,v'`. It is in use until it has some elements, then another takes its
//! place, so that texts stay short and rows keep coming into being.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;

use rand::Rng;
use rand::rngs::StdRng;

use super::schema::LISTS;
use super::session::{Attempt, Failure, Link, Rows, Told, commit};
use crate::args::Isolation;
use crate::history::{Key, Op, Outcome, Transaction, Value};

/// Each slot's lists have numbers of their own.
pub const KEYS_PER_SLOT: i64 = 1_000_000;
/// Appends sent to a list before another takes its place.
const APPENDS_PER_KEY: u32 = 48;
/// One of so many blocks is rolled back.
const ROLLBACK_OF: u32 = 25;
/// Operations of a transaction.
const OPS_MAX: usize = 5;

#[derive(Clone, Copy, Default)]
struct Slot {
    generation: i64,
    appends: u32,
}

struct State {
    slots: Vec<Slot>,
    next_value: i64,
}

fn key(slot: i64, generation: i64) -> Key {
    Key(slot * KEYS_PER_SLOT + generation)
}

/// Which lists are in use, and the next value.
pub struct Lists {
    state: Mutex<State>,
}

impl Lists {
    /// So many are in use at a time; none has an element yet.
    pub fn new(slots: usize) -> Self {
        assert!(slots > 0, "some list is in use");
        let state = State { slots: vec![Slot::default(); slots], next_value: 1 };
        Self { state: Mutex::new(state) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Every list that was ever in use.
    pub fn all(&self) -> Vec<Key> {
        let slots = self.state().slots.clone();
        let lists = (0..).zip(slots).flat_map(|(slot, Slot { generation, .. })| {
            (0..=generation).map(move |generation| key(slot, generation))
        });
        lists.collect()
    }

    fn draw(&self, rng: &mut StdRng) -> Key {
        let state = self.state();
        let slot = rng.random_range(0..state.slots.len());
        key(slot as i64, state.slots[slot].generation)
    }

    /// A list to append to, and a value.
    fn draw_append(&self, rng: &mut StdRng) -> (Key, Value) {
        let mut state = self.state();
        let slot = rng.random_range(0..state.slots.len());
        let value = state.next_value;
        state.next_value += 1;
        let used = &mut state.slots[slot];
        let key = key(slot as i64, used.generation);
        used.appends += 1;
        if used.appends == APPENDS_PER_KEY {
            *used = Slot { generation: used.generation + 1, appends: 0 };
        }
        (key, Value(value))
    }

    /// Draws a transaction for a level.
    pub fn draw_transaction(&self, level: Isolation, rng: &mut StdRng) -> ListTransaction {
        let in_block = rng.random_range(0..4) > 0;
        let count = if in_block { rng.random_range(1..=OPS_MAX) } else { 1 };
        let steps = (0..count).map(|_| self.draw_step(level, in_block, rng)).collect();
        let rolls_back = in_block && rng.random_range(0..ROLLBACK_OF) == 0;
        ListTransaction { level, steps, in_block, rolls_back, ops: Vec::new() }
    }

    fn draw_step(&self, level: Isolation, in_block: bool, rng: &mut StdRng) -> Step {
        match rng.random_range(0..10) {
            0..=2 => Step::Read(self.draw(rng), false),
            3 => Step::Read(self.draw(rng), in_block),
            4 => {
                let keys: Vec<Key> = (0..3).map(|_| self.draw(rng)).collect();
                Step::ReadSome(keys)
            }
            5 => Step::ReadSpan(self.draw(rng)),
            how => {
                let (key, value) = self.draw_append(rng);
                // Written back after a read, an append overwrites others where statements have
                // snapshots of their own.
                let whole = in_block && level != Isolation::ReadCommitted;
                let how = match how {
                    6 => How::Update,
                    7 => How::UpdateReturning,
                    8 if whole => How::ReadAndWrite,
                    _ => How::Upsert,
                };
                Step::Append(key, value, how)
            }
        }
    }
}

/// How a value is appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Upsert,
    Update,
    UpdateReturning,
    ReadAndWrite,
}

#[derive(Clone, Debug)]
enum Step {
    Append(Key, Value, How),
    /// Reads one list; `FOR UPDATE` if true.
    Read(Key, bool),
    /// Reads several lists in one statement.
    ReadSome(Vec<Key>),
    /// Reads every list; these are known.
    ReadAll(Vec<Key>),
    /// Reads this list and its neighbours, of which the next is not there yet.
    ReadSpan(Key),
}

/// A transaction: what it is to do, and what it has done.
pub struct ListTransaction {
    level: Isolation,
    steps: Vec<Step>,
    in_block: bool,
    rolls_back: bool,
    ops: Vec<Op>,
}

impl ListTransaction {
    /// A transaction of one statement that reads every list.
    pub fn read_all(level: Isolation, keys: Vec<Key>) -> Self {
        let steps = vec![Step::ReadAll(keys)];
        Self { level, steps, in_block: false, rolls_back: false, ops: Vec::new() }
    }

    /// Whether it takes itself back.
    pub fn rolls_back(&self) -> bool {
        self.rolls_back
    }

    /// What is written down of it; it has no name yet.
    pub fn written(self, told: &Told, process: u64, node: u64, time_ns: Range<u64>) -> Transaction {
        let outcome = match told {
            Told::Acknowledged if self.rolls_back => Outcome::Aborted,
            Told::Acknowledged => Outcome::Committed,
            Told::Refused(_) => Outcome::Aborted,
            Told::Unknown(_) => Outcome::Unknown,
        };
        Transaction {
            id: 0,
            process,
            node,
            invoked_ns: time_ns.start,
            completed_ns: time_ns.end,
            one_statement: !self.in_block,
            ops: self.ops,
            outcome,
        }
    }

    async fn step(&mut self, step: &Step, link: &mut impl Link) -> Result<(), Failure> {
        match step {
            Step::Read(key, locks) => {
                let lock = if *locks { " FOR UPDATE" } else { "" };
                self.read(&[*key], &format!("id = {key}{lock}"), link).await
            }
            Step::ReadSome(keys) => {
                let list: Vec<String> = keys.iter().map(Key::to_string).collect();
                self.read(keys, &format!("id IN ({})", list.join(", ")), link).await
            }
            Step::ReadAll(keys) => self.read(keys, "id >= 0", link).await,
            Step::ReadSpan(key) => {
                let keys: Vec<Key> = (key.0 - 1..=key.0 + 1).map(Key).collect();
                let condition = format!("id BETWEEN {} AND {}", key.0 - 1, key.0 + 1);
                self.read(&keys, &condition, link).await
            }
            Step::Append(key, value, How::Upsert) => self.upsert(*key, *value, link).await,
            Step::Append(key, value, How::ReadAndWrite) => {
                self.read_and_write(*key, *value, link).await
            }
            Step::Append(key, value, how) => self.update(*key, *value, *how, link).await,
        }
    }

    async fn read(
        &mut self,
        keys: &[Key],
        condition: &str,
        link: &mut impl Link,
    ) -> Result<(), Failure> {
        let (rows, _) =
            link.run(&format!("SELECT id, items FROM {LISTS} WHERE {condition}")).await?;
        let mut found = lists_of(&rows);
        for key in keys {
            let values = found.get(key).cloned().unwrap_or_default();
            self.ops.push(Op::Read(*key, values));
        }
        keys.iter().for_each(|key| drop(found.remove(key)));
        // What nobody asked for will be found to be invented.
        self.ops.extend(found.into_iter().map(|(key, values)| Op::Read(key, values)));
        Ok(())
    }

    async fn upsert(
        &mut self,
        key: Key,
        value: Value,
        link: &mut impl Link,
    ) -> Result<(), Failure> {
        self.ops.push(Op::Append(key, value));
        let sql = format!(
            "INSERT INTO {LISTS} AS l VALUES ({key}, '{value}') \
             ON CONFLICT (id) DO UPDATE SET items = l.items || ',{value}'"
        );
        link.run(&sql).await.map(drop)
    }

    async fn update(
        &mut self,
        key: Key,
        value: Value,
        how: How,
        link: &mut impl Link,
    ) -> Result<(), Failure> {
        self.ops.push(Op::Append(key, value));
        let returning = if how == How::UpdateReturning { " RETURNING id, items" } else { "" };
        let sql =
            format!("UPDATE {LISTS} SET items = items || ',{value}' WHERE id = {key}{returning}");
        let (rows, touched) = link.run(&sql).await?;
        if touched == 0 {
            // Nothing was appended; but it was seen that there is no such list.
            self.ops.pop();
            self.ops.push(Op::Read(key, Vec::new()));
            if self.in_block {
                return self.upsert(key, value, link).await;
            }
        }
        self.ops.extend(lists_of(&rows).into_iter().map(|(key, values)| Op::Read(key, values)));
        Ok(())
    }

    async fn read_and_write(
        &mut self,
        key: Key,
        value: Value,
        link: &mut impl Link,
    ) -> Result<(), Failure> {
        self.read(&[key], &format!("id = {key}"), link).await?;
        let Some(Op::Read(_, values)) = self.ops.last() else { return Ok(()) };
        let mut items: Vec<String> = values.iter().map(Value::to_string).collect();
        items.push(value.to_string());
        let items = items.join(",");
        let sql = match values.is_empty() {
            true => format!("INSERT INTO {LISTS} VALUES ({key}, '{items}')"),
            false => format!("UPDATE {LISTS} SET items = '{items}' WHERE id = {key}"),
        };
        self.ops.push(Op::Append(key, value));
        link.run(&sql).await.map(drop)
    }
}

impl Attempt for ListTransaction {
    async fn send(&mut self, link: &mut impl Link) -> Result<(), Failure> {
        if self.in_block {
            link.run(self.level.begin()).await?;
        } else {
            link.commits();
        }
        for step in std::mem::take(&mut self.steps) {
            self.step(&step, link).await?;
        }
        match (self.in_block, self.rolls_back) {
            (false, _) => Ok(()),
            (true, false) => commit(link).await,
            (true, true) => link.run("ROLLBACK").await.map(drop),
        }
    }
}

/// What cannot be read as a list becomes a list with a value that nobody appends.
fn lists_of(rows: &Rows) -> BTreeMap<Key, Vec<Value>> {
    const NO_VALUE: i64 = -1;
    let number = |text: &str| text.parse().unwrap_or(NO_VALUE);
    let list = |row: &Vec<String>| {
        let [id, items] = &row[..] else { return (Key(NO_VALUE), vec![Value(NO_VALUE)]) };
        (Key(number(id)), items.split(',').map(|item| Value(number(item))).collect())
    };
    rows.iter().map(list).collect()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn lists_give_way_to_others_and_values_are_new() {
        let lists = Lists::new(16);
        let mut rng = StdRng::seed_from_u64(1);
        let drawn: Vec<(Key, Value)> = (0..5_000).map(|_| lists.draw_append(&mut rng)).collect();
        let values: std::collections::BTreeSet<Value> = drawn.iter().map(|(_, v)| *v).collect();
        assert_eq!(values.len(), drawn.len());
        let all = lists.all();
        assert!(drawn.iter().all(|(key, _)| all.contains(key)));
        assert!(all.len() > 5_000 / 48, "{}", all.len());
    }

    #[test]
    fn texts_that_are_no_lists_become_values_nobody_appends() {
        let rows =
            vec![vec!["3".to_owned(), "1,2".to_owned()], vec!["4".to_owned(), "".to_owned()]];
        let lists = lists_of(&rows);
        assert_eq!(lists[&Key(3)], [Value(1), Value(2)]);
        assert_eq!(lists[&Key(4)], [Value(-1)]);
    }
}
