//! The same world without faults, but with many transactions at once on few keys: here all must get
//! on, and nobody alive is taken for dead (P11, P13).

use super::*;

/// Transactions of a run, and how many steps lie between the beginnings of two.
const COUNT: u128 = 40;
const STEPS_BETWEEN: usize = 3;
/// Longest step.
const STEP_MAX_MS: usize = 5;
/// A transaction that takes longer stands still: nothing is lost here.
const STUCK_AFTER: Duration = Duration::from_secs(3);

impl World {
    fn kind_step(&mut self) {
        self.now += Duration::from_millis(1 + self.rng.below(STEP_MAX_MS) as u64);
        let due =
            |(timer, at): (&(MachineNo, TimerId), &Duration)| (*at <= self.now).then_some(*timer);
        for (machine, timer) in self.timers.iter().filter_map(due).collect::<Vec<_>>() {
            if self.timers.remove(&(machine, timer)).is_some() {
                self.input(machine, Input::Timer(timer));
            }
        }
        for at in 0..self.ranges.len() {
            while !self.ranges[at].log.is_empty() {
                self.apply_one(at);
            }
        }
        let mut messages = std::mem::take(&mut self.messages);
        messages.extend(std::mem::take(&mut self.held).into_iter().map(|(_, message)| message));
        while !messages.is_empty() {
            let next = self.rng.below(messages.len());
            let message = messages.swap_remove(next);
            self.check_that_nobody_alive_is_closed(&message);
            self.deliver(message);
        }
    }

    /// P11: all heartbeats arrive here, so nobody decides for a coordinator that is at work.
    fn check_that_nobody_alive_is_closed(&self, message: &Message) {
        use pb::range_request::Body;
        let Message::Request(sender, _, _, body) = message else { return };
        let txn = match body {
            Body::Close(close) => close.txn.as_ref(),
            Body::Verdict(verdict) => verdict.txn.as_ref(),
            _ => return,
        };
        let txn = txn.and_then(TxnMeta::from_pb).expect("whoever decides says for whom");
        let commits = |machine: &Machine| matches!(machine, Machine::Commit(m) if *m.txn() == txn);
        let by_another = matches!(self.machines[*sender], Machine::Recover(..));
        let alive = self.machines.iter().any(commits) && !self.outcomes.contains_key(&txn.id);
        assert!(!(by_another && alive), "{} is closed by another and lives", txn.id);
    }
}

/// Runs a seed; how many committed.
pub(super) fn run_kindly(seed: u64) -> usize {
    let mut world = World::new(seed);
    world.calm = true;
    world.patient = true;
    let (mut begun, mut step) = (Vec::new(), 0);
    while (begun.len() as u128) < COUNT || world.outcomes.len() < begun.len() {
        if step % STEPS_BETWEEN == 0 && (begun.len() as u128) < COUNT {
            let id = begun.len() as u128 + 1;
            world.begin_txn(id, Timestamp::from_duration(world.now));
            begun.push(world.now);
        }
        step += 1;
        world.kind_step();
        world.read();
        for (id, since) in (1..).zip(&begun) {
            let ended = world.outcomes.contains_key(&TxnId(id));
            assert!(ended || world.now - *since < STUCK_AFTER, "{} stands still", TxnId(id));
        }
    }
    world.settle();
    world.check();
    let known = |outcome: &Outcome| !matches!(outcome, Outcome::Unknown);
    assert!(world.outcomes.values().all(known), "nothing was lost: all is known");
    world.outcomes.values().filter(|outcome| matches!(outcome, Outcome::Committed(_))).count()
}

/// And the keys are fought for: what is seen here is seen where transactions meet.
#[test]
fn without_faults_all_get_on() {
    let committed: usize = (0..200).map(run_kindly).sum();
    println!("{committed} of {} committed", 200 * COUNT);
    assert!(committed > 1_100, "{committed} committed");
}
