//! [`Machine`]: the state machine of one replica, driven by the node's workers.
//!
//! `apply` is deterministic: it depends on the entry, the range's state and rows alone. It puts
//! changes into the batch of the pass; who waits is answered in `committed_visible`, when readers
//! can see them (rule P1).
//!
//! # Invariants
//! * A command changes nothing unless its term is the entry's and its version the range's (L4).
//! * `touched` holds every user key that entries of the unwritten batch may have changed: an entry
//!   that reads one of them is applied only after the batch was written.
//! * `refusals` holds every refusal that stands in the range, the unwritten ones included (P5).

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use prost::Message as _;
use quorate_proto::pb::command::Body as Command;
use quorate_proto::pb::range_response::Body as Answer;
use quorate_proto::{RangeId, TxnId, pb};
use quorate_txn::apply::{self, Mutation};
use quorate_txn::leader::LeaderState;
use quorate_txn::mistakes::Mistake;
use quorate_txn::state::{Lock, Record, RecordState, decode_record_key};

use super::errors;
use super::meta;
use super::metrics::RangeMetrics;
use super::replica::{Core, Ranges, Replica, Waiter, floors_of, span_of, version_of};
use crate::engine::{Batch, Cf, EngineSnapshot, KeySpan};
use crate::mvcc::{EngineView, apply_mutations};
use crate::raft::{
    Effect, GroupShared, Handover, LogEntry, MachineFactory, ProposeError, RangeMachine, RoleEvent,
};

/// Makes the machines of a node. Weak: the ranges hold the driver, and the driver this.
pub struct Factory(pub Weak<Ranges>);

impl Factory {
    fn ranges(&self) -> Arc<Ranges> {
        self.0.upgrade().expect("a node stops its workers before it drops its ranges")
    }
}

impl MachineFactory for Factory {
    fn create(&self, shared: Arc<GroupShared>, state: &pb::RangeState) -> Box<dyn RangeMachine> {
        let replica = Replica::new(self.ranges(), shared, state);
        let mut machine = Machine {
            replica: replica.clone(),
            refusals: HashSet::new(),
            touched: BTreeSet::new(),
            done: Vec::new(),
            row_locks: None,
            broken: None,
        };
        machine.count_refusals(state);
        self.ranges().add(&replica);
        self.ranges().events.routes_changed();
        Box::new(machine)
    }

    fn fatal(&self, range: Option<RangeId>, why: &str) {
        if let Some(ranges) = self.0.upgrade() {
            ranges.events.failed(range, why);
        }
    }
}

/// An applied entry whose batch is not visible yet.
struct Done {
    index: u64,
    term: u64,
    mutations: Vec<Mutation>,
    answer: Answer,
    /// It was a split: where, if it happened.
    split: Option<Option<Bytes>>,
    /// Routes are to be reported.
    news: bool,
}

/// See the module.
pub struct Machine {
    replica: Arc<Replica>,
    refusals: HashSet<(Bytes, TxnId)>,
    touched: BTreeSet<Bytes>,
    done: Vec<Done>,
    /// Row locks that the leader of this term has handed over.
    row_locks: Option<(u64, Vec<pb::OwnerRowLocks>)>,
    /// The rows could not be read outside `apply`: told at the next entry.
    broken: Option<String>,
}

/// What an entry does.
struct Work {
    mutations: Vec<Mutation>,
    answer: Answer,
    effect: Option<Effect>,
    split: Option<Option<Bytes>>,
    news: bool,
}

impl Work {
    fn answer(answer: Answer) -> Self {
        Self { mutations: Vec::new(), answer, effect: None, split: None, news: false }
    }

    fn error(error: pb::RangeError) -> Self {
        Self::answer(Answer::Error(error))
    }
}

impl Machine {
    fn node(&self) -> &Arc<Ranges> {
        &self.replica.node
    }

    /// Rule P5: reads the refusals of the range into memory.
    fn count_refusals(&mut self, state: &pb::RangeState) {
        if Mistake::RefusalsUncounted.is_made() {
            return;
        }
        let span = span_of(&state.descriptor.clone().unwrap_or_default());
        let snapshot = self.replica.node.engine.snapshot();
        match read_refusals(&*snapshot, &span) {
            Ok(refusals) => self.refusals = refusals,
            Err(why) => self.broken = Some(why),
        }
        drop(snapshot);
        self.publish_refusals();
    }

    fn publish_refusals(&self) {
        self.replica.refusals.store(self.refusals.len(), Ordering::Release);
    }

    fn run(
        &mut self,
        entry: LogEntry<'_>,
        state: &mut pb::RangeState,
        batch: &mut Batch,
    ) -> Result<Work, String> {
        if let Some(why) = &self.broken {
            return Err(why.clone());
        }
        self.forget_row_locks(entry.term);
        let command = pb::Command::decode(entry.data).map_err(|e| e.to_string())?;
        let Some(body) = command.body else {
            return Err(String::from("a command this release does not know"));
        };
        let descriptor = state.descriptor.clone().unwrap_or_default();
        // Rule L4.
        let mut work = if command.term != entry.term && !Mistake::TermUnheeded.is_made() {
            Work::error(errors::not_leader(self.replica.range, None, Some(descriptor)))
        } else if command.epoch_version != version_of(&descriptor)
            && !Mistake::EpochUnheeded.is_made()
        {
            Work::error(errors::stale_route(self.replica.range, vec![descriptor]))
        } else {
            self.command(&body, entry, state, batch)?
        };
        if matches!(body, Command::Split(_)) && work.split.is_none() {
            work.split = Some(None);
        }
        Ok(work)
    }

    fn command(
        &mut self,
        body: &Command,
        entry: LogEntry<'_>,
        state: &mut pb::RangeState,
        batch: &mut Batch,
    ) -> Result<Work, String> {
        match body {
            Command::Split(split) => Ok(self.split(split, state)),
            Command::LeaseHandover(handover) => {
                self.row_locks = Some((entry.term, handover.row_locks.clone()));
                let handover = Handover {
                    max_read_ts: quorate_proto::Timestamp(handover.max_read_ts),
                    clock: quorate_proto::Timestamp(handover.clock),
                };
                let mut work = Work::error(errors::no_lease(self.replica.range));
                work.effect = Some(Effect::HandedOver(handover));
                Ok(work)
            }
            Command::MetaReport(_) | Command::Allocate(_) | Command::RegisterNode(_) => {
                let start = state.descriptor.as_ref().map(|d| d.start.clone());
                if !start.unwrap_or_default().is_empty() {
                    return Ok(Work::error(errors::invalid("not the meta range")));
                }
                let snapshot = self.replica.node.engine.snapshot();
                let answer = meta::apply(body, &*snapshot, batch)?;
                drop(snapshot);
                self.touched.insert(Bytes::new());
                let mut work = Work::answer(answer);
                work.news = true;
                Ok(work)
            }
            Command::Prepare(_)
            | Command::Commit(_)
            | Command::Verdict(_)
            | Command::Close(_)
            | Command::Resolve(_)
            | Command::DropRecord(_)
            | Command::RaiseFloors(_) => self.transaction(body, entry, state, batch),
        }
    }

    fn transaction(
        &mut self,
        body: &Command,
        entry: LogEntry<'_>,
        state: &mut pb::RangeState,
        batch: &mut Batch,
    ) -> Result<Work, String> {
        let span = span_of(&state.descriptor.clone().unwrap_or_default());
        let mut floors = floors_of(state);
        let node = self.replica.node.clone();
        let snapshot = node.engine.snapshot();
        let view = EngineView::new(&*snapshot, span).with_refusals(!self.refusals.is_empty());
        let applied = apply::apply(body, &floors, &view)
            .map_err(|e| format!("entry {} of {}: {e}", entry.index, self.replica.range))?;
        let mut bytes = i128::from(state.bytes);
        for mutation in &applied.mutations {
            floors.absorb(mutation);
            bytes += size_change(mutation);
            self.note(mutation);
        }
        state.bytes = u64::try_from(bytes.max(0)).unwrap_or(u64::MAX);
        state.safe_point = floors.safe_point.0;
        state.txn_floor = floors.txn_floor.0;
        state.delete_watermark = floors.delete_watermark.0;
        self.replica.raise_marks(state);
        apply_mutations(&applied.mutations, batch);
        let mut work = Work::answer(applied.answer);
        work.mutations = applied.mutations;
        Ok(work)
    }

    /// Keeps `touched` and `refusals` right.
    fn note(&mut self, mutation: &Mutation) {
        let key = match mutation {
            Mutation::PutRecord { key, id, record } => {
                match record.state {
                    RecordState::Refused => self.refusals.insert((key.clone(), *id)),
                    _ => self.refusals.remove(&(key.clone(), *id)),
                };
                key
            }
            Mutation::RemoveRecord { key, id } => {
                self.refusals.remove(&(key.clone(), *id));
                key
            }
            Mutation::PutLatest { key, .. }
            | Mutation::RemoveLatest { key }
            | Mutation::PutInterval { key, .. }
            | Mutation::PutLock { key, .. }
            | Mutation::RemoveLock { key } => key,
            Mutation::RaiseDeleteWatermark(_)
            | Mutation::RaiseSafePoint(_)
            | Mutation::RaiseTxnFloor(_) => return,
        };
        self.touched.insert(key.clone());
    }

    /// Another has taken over what was handed over in a term before this one.
    fn forget_row_locks(&mut self, term: u64) {
        if self.row_locks.as_ref().is_some_and(|(of_term, _)| *of_term < term)
            && self.replica.core.lock().leader.is_none()
        {
            self.row_locks = None;
        }
    }

    /// Cuts the range in two; both halves keep floors and watermark (rule L5).
    fn split(&mut self, split: &pb::SplitCommand, state: &mut pb::RangeState) -> Work {
        let left = state.descriptor.clone().unwrap_or_default();
        let inside = split.key > left.start && (left.end.is_empty() || split.key < left.end);
        if !inside || split.right_peer_ids.len() != left.replicas.len() {
            return Work::error(errors::stale_route(self.replica.range, vec![left]));
        }
        let mut epoch = left.epoch.unwrap_or_default();
        epoch.version += 1;
        let mut right = left.clone();
        right.range_id = split.right_range_id;
        right.start = split.key.clone();
        right.epoch = Some(epoch);
        for (replica, peer) in right.replicas.iter_mut().zip(&split.right_peer_ids) {
            replica.peer_id = *peer;
        }
        let mut cut = left;
        cut.end = split.key.clone();
        cut.epoch = Some(epoch);
        state.bytes /= 2;
        state.descriptor = Some(cut.clone());
        let right_state = pb::RangeState { descriptor: Some(right.clone()), ..state.clone() };
        self.refusals.retain(|(key, _)| *key < split.key);
        let answer = pb::SplitResponse { left: Some(cut), right: Some(right) };
        let mut work = Work::answer(Answer::Split(answer));
        work.effect =
            Some(Effect::Split { right: Box::new(right_state), handover: self.split_handover() });
        work.split = Some(Some(split.key.clone()));
        work.news = true;
        work
    }

    /// No lease read of the right half was served since the split was proposed (rule L5), so the
    /// greatest read timestamp is final for it.
    fn split_handover(&self) -> Option<Handover> {
        let core = self.replica.core.lock();
        let leader = core.leader.as_ref().filter(|leader| leader.serves())?;
        let max_read_ts = leader.max_read_ts();
        Some(Handover { max_read_ts, clock: self.node().clock.now() })
    }

    fn finish(&mut self, core: &mut Core, done: Done) -> Option<(Waiter, Answer)> {
        let waiter = claim(core, done.index, done.term);
        let ticket = waiter.as_ref().and_then(|waiter| waiter.ticket);
        let now = self.node().clock.monotonic();
        if let Some(leader) = core.leader.as_mut() {
            let woken = leader.applied(ticket, &done.mutations, now);
            core.parked.wake(&woken);
            if let Some(split) = done.split {
                if let Some(key) = split {
                    leader.split_off(&key);
                    core.parked.wake_all();
                    RangeMetrics::inc(&self.node().metrics.splits);
                }
                core.splitting = None;
            }
        }
        waiter.map(|waiter| (waiter, done.answer))
    }

    /// Tells everybody whose entry is in the log that its outcome is not known.
    fn give_up_waiters(&self, core: &mut Core, why: &str) {
        for (_, (_, token)) in std::mem::take(&mut core.by_index) {
            if let Some(waiter) = core.waiters.remove(&token) {
                RangeMetrics::inc(&self.node().metrics.unknown);
                // Whoever asked may have stopped waiting.
                let _ = waiter.answer.send(Answer::Error(errors::unknown(why)));
            }
        }
    }

    fn rebuild(&mut self, term: u64, state: &pb::RangeState) {
        let span = span_of(&state.descriptor.clone().unwrap_or_default());
        let node = self.replica.node.clone();
        let snapshot = node.engine.snapshot();
        match read_locks(&*snapshot, &span) {
            Ok(locks) => {
                let mut leader = LeaderState::new(term, node.clock.monotonic());
                if !Mistake::LocksNotRebuilt.is_made() {
                    leader.rebuild(locks);
                }
                self.replica.core.lock().leader = Some(leader);
            }
            Err(why) => {
                node.events.failed(Some(self.replica.range), &why);
                self.broken = Some(why);
            }
        }
    }
}

/// Who waits for the entry, if it is the one that was proposed.
fn claim(core: &mut Core, index: u64, term: u64) -> Option<Waiter> {
    let (proposed_in, token) = core.by_index.remove(&index)?;
    let waiter = core.waiters.remove(&token)?;
    if proposed_in == term {
        return Some(waiter);
    }
    let error = errors::unavailable("another leader's entry took the place of the command");
    // Whoever asked may have stopped waiting.
    let _ = waiter.answer.send(Answer::Error(error));
    None
}

/// About what a mutation adds to the bytes in `latest`. An interval is kept exactly when a version
/// leaves `latest`.
fn size_change(mutation: &Mutation) -> i128 {
    let size = |key: &Bytes, value: &Bytes| (key.len() + value.len()) as i128;
    match mutation {
        Mutation::PutLatest { key, version } => size(key, &version.value),
        Mutation::PutInterval { key, interval } => -size(key, &interval.value),
        _ => 0,
    }
}

fn read_refusals(
    snapshot: &dyn EngineSnapshot,
    span: &KeySpan,
) -> Result<HashSet<(Bytes, TxnId)>, String> {
    let (lower, upper) = (Cf::Txns.bound(&span.start), Cf::Txns.bound(&span.end));
    let mut iter = snapshot.iter(Cf::Txns, &lower, &upper);
    let mut found = HashSet::new();
    iter.seek_first();
    while let Some((key, value)) = iter.item() {
        let record = Record::decode(value).map_err(|e| e.to_string())?;
        if record.state == RecordState::Refused {
            found.insert(decode_record_key(key).map_err(|e| e.to_string())?);
        }
        iter.next();
    }
    iter.status().map_err(|e| e.to_string())?;
    Ok(found)
}

fn read_locks(snapshot: &dyn EngineSnapshot, span: &KeySpan) -> Result<Vec<(Bytes, Lock)>, String> {
    let mut iter = snapshot.iter(Cf::Locks, &span.start, &span.end);
    let mut found = Vec::new();
    iter.seek_first();
    while let Some((key, value)) = iter.item() {
        let lock = Lock::decode(value).map_err(|e| e.to_string())?;
        found.push((Bytes::copy_from_slice(key), lock));
        iter.next();
    }
    iter.status().map_err(|e| e.to_string())?;
    Ok(found)
}

/// Whether the command reads nothing that the unwritten batch may have changed.
fn reads_untouched(command: &Command, touched: &BTreeSet<Bytes>) -> bool {
    let clean = |key: &Bytes| !touched.contains(key);
    let anchor = |txn: &Option<pb::TxnMeta>| txn.as_ref().is_none_or(|txn| clean(&txn.anchor));
    let clean_span = |check: &pb::ReadCheck| {
        let span = apply::Span::of_check(check);
        !touched.range(span.start.clone()..).next().is_some_and(|key| span.contains(key))
    };
    match command {
        Command::Prepare(c) => {
            anchor(&c.txn) && c.writes.iter().all(|w| clean(&w.key)) && c.keys.iter().all(clean)
        }
        Command::Commit(c) => {
            anchor(&c.txn)
                && c.writes.iter().all(|w| clean(&w.key))
                && c.checks.iter().all(clean_span)
        }
        Command::Verdict(c) => anchor(&c.txn) && c.resolve.iter().all(clean),
        Command::Close(c) => anchor(&c.txn) && clean(&c.key),
        Command::Resolve(c) => c.keys.iter().all(clean),
        Command::DropRecord(c) => clean(&c.anchor),
        Command::Split(_) | Command::LeaseHandover(_) => true,
        Command::RaiseFloors(_)
        | Command::MetaReport(_)
        | Command::Allocate(_)
        | Command::RegisterNode(_) => touched.is_empty(),
    }
}

impl RangeMachine for Machine {
    fn apply(
        &mut self,
        entry: LogEntry<'_>,
        state: &mut pb::RangeState,
        batch: &mut Batch,
    ) -> Vec<Effect> {
        match self.run(entry, state, batch) {
            Err(why) => vec![Effect::Fatal(why)],
            Ok(work) => {
                self.done.push(Done {
                    index: entry.index,
                    term: entry.term,
                    mutations: work.mutations,
                    answer: work.answer,
                    split: work.split,
                    news: work.news,
                });
                work.effect.into_iter().collect()
            }
        }
    }

    fn needs_written(&mut self, entry: LogEntry<'_>) -> bool {
        let command = pb::Command::decode(entry.data).ok().and_then(|command| command.body);
        // What does not decode stops the node in `apply`.
        !command.is_some_and(|command| reads_untouched(&command, &self.touched))
    }

    fn committed_visible(&mut self, _applied: u64, state: &pb::RangeState) {
        self.touched.clear();
        self.publish_refusals();
        let done = std::mem::take(&mut self.done);
        let mut news = false;
        let mut answers = Vec::with_capacity(done.len());
        let replica = self.replica.clone();
        {
            let mut core = replica.core.lock();
            core.state.clone_from(state);
            for done in done {
                news |= done.news;
                answers.extend(self.finish(&mut core, done));
            }
            if news {
                replica.node.describe(replica.range, state.descriptor.clone());
            }
        }
        replica.rows_are_back();
        for (waiter, answer) in answers {
            // Whoever asked may have stopped waiting.
            let _ = waiter.answer.send(answer);
        }
        replica.changed.notify_waiters();
        if news {
            replica.node.events.routes_changed();
        }
    }

    fn proposed(&mut self, token: u64, index: u64, term: u64) {
        let mut core = self.replica.core.lock();
        if core.waiters.contains_key(&token) {
            core.by_index.insert(index, (term, token));
        }
    }

    fn rejected(&mut self, token: u64, why: ProposeError) {
        let mut core = self.replica.core.lock();
        let Some(waiter) = core.waiters.remove(&token) else { return };
        if let (Some(leader), Some(ticket)) = (core.leader.as_mut(), waiter.ticket) {
            leader.release(ticket);
        }
        if waiter.split {
            core.splitting = None;
        }
        drop(core);
        let error = errors::not_proposed(self.replica.range, why);
        // Whoever asked may have stopped waiting.
        let _ = waiter.answer.send(Answer::Error(error));
        self.replica.changed.notify_waiters();
    }

    fn role_changed(&mut self, event: RoleEvent, state: &pb::RangeState) {
        match event {
            RoleEvent::Elected { term } => {
                let began = self.node().clock.monotonic();
                let mut core = self.replica.core.lock();
                core.forget_leader();
                core.leader = Some(LeaderState::new(term, began));
            }
            RoleEvent::CaughtUp { term } => self.rebuild(term, state),
            RoleEvent::Serving { term, max_read_ts, handed_over, .. } => {
                let clock = handed_over.map(|handover| handover.clock);
                let now = self.node().clock.monotonic();
                let row_locks = self.row_locks.take().filter(|(of_term, _)| of_term + 1 == term);
                if let Some(leader) = self.replica.core.lock().leader.as_mut() {
                    if let Some((_, row_locks)) = row_locks {
                        leader.rows.take_over(&row_locks, now);
                    }
                    leader.ready(max_read_ts, clock);
                }
                self.node().events.routes_changed();
            }
            RoleEvent::Surrendered { .. } => {
                if let Some(leader) = self.replica.core.lock().leader.as_mut() {
                    leader.give_up();
                }
            }
            RoleEvent::Lost { .. } => {
                let mut core = self.replica.core.lock();
                core.forget_leader();
                core.splitting = None;
                self.give_up_waiters(&mut core, "the leader lost its term before it was applied");
            }
        }
        self.replica.changed.notify_waiters();
    }

    fn replicas_changed(&mut self, state: &pb::RangeState) {
        let replica = &self.replica;
        replica.core.lock().state.clone_from(state);
        replica.node.describe(replica.range, state.descriptor.clone());
        replica.changed.notify_waiters();
        replica.node.events.routes_changed();
    }

    fn rows_leave(&mut self) {
        self.replica.rows_leave();
    }

    fn snapshot_installed(&mut self, state: &pb::RangeState) {
        self.done.clear();
        self.touched.clear();
        self.count_refusals(state);
        let replica = self.replica.clone();
        replica.raise_marks(state);
        {
            let mut core = replica.core.lock();
            core.state.clone_from(state);
            core.forget_leader();
            self.give_up_waiters(&mut core, "a snapshot took the place of the log");
        }
        replica.rows_are_back();
        replica.node.describe(replica.range, state.descriptor.clone());
        replica.changed.notify_waiters();
    }

    fn hand_over(&mut self, term: u64, state: &pb::RangeState) -> Vec<u8> {
        let mut core = self.replica.core.lock();
        let max_read_ts = core.leader.as_mut().map(LeaderState::give_up).unwrap_or_default();
        // A commit that is not in the log by now will be refused, and needs its locks.
        let tokens = core.by_index.values().filter(|(of_term, _)| *of_term == term);
        let logged = tokens.filter_map(|(_, token)| core.waiters.get(token)?.ticket);
        let now = self.node().clock.monotonic();
        let row_locks = core.leader.as_ref().map(|l| l.hand_over_row_locks(logged, now));
        let handover = pb::LeaseHandoverCommand {
            max_read_ts: max_read_ts.0,
            clock: self.node().clock.now().0,
            row_locks: row_locks.unwrap_or_default(),
        };
        pb::Command {
            term,
            epoch_version: state.descriptor.as_ref().map_or(0, version_of),
            body: Some(Command::LeaseHandover(handover)),
        }
        .encode_to_vec()
    }

    fn destroyed(&mut self) {
        let replica = self.replica.clone();
        {
            let mut core = replica.core.lock();
            core.forget_leader();
            self.give_up_waiters(&mut core, "the replica was removed");
        }
        replica.node.remove(&replica);
        replica.changed.notify_waiters();
    }
}
