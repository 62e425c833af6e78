//! The row locks of a transaction: got before rows are changed, kept over its attempts, given up
//! when the last of them is over. They make contenders queue; what keeps data right is the check at
//! commit, so a lock that is lost with its leader costs no more than another attempt.
//!
//! # Invariants
//! * Every key that may be locked or queued for at a leader is in `held`, `doubted` or `asked`:
//!   what the transaction leaves behind is given up, whatever it was cut off at.
//! * Giving up has a number above that of the request that got a lock, and below those that come
//!   later: it takes back the one, and never the others.
//! * An owner is in the registry while it holds or asks for rows: its gateway says that it lives.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_planner::error::SqlError;
use quorate_planner::kv::{LockStrength, LockWait};
use quorate_proto::pb::range_error::Kind;
use quorate_proto::pb::{range_request, range_response};
use quorate_proto::{Timestamp, TxnId, pb};
use quorate_txn::config::{LOCK_TTL, LOCK_WAIT};
use tokio::sync::Notify;

use super::errors::Change;
use super::sender::{ATTEMPT_TIMEOUT, Failure, Outgoing};
use super::{Dist, errors};
use crate::runtime;

/// Rows that a transaction locks at most; those beyond are only checked at commit.
pub const ROWS_LOCKED_MAX: usize = 20_000;
/// How long `NOWAIT` and `SKIP LOCKED` wait for locks that are being given up here.
const RELEASE_PATIENCE: Duration = Duration::from_millis(200);
/// How long it is tried to give up locks: longer than it takes until somebody leads again.
const UNLOCK_PATIENCE: Duration = LOCK_TTL.saturating_mul(2);
/// Pause between two attempts.
const UNLOCK_PAUSE: Duration = Duration::from_millis(20);
/// Rows that one request locks at most.
const ROWS_PER_REQUEST: usize = 512;

/// What a statement wants of rows.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// How strong.
    pub strength: LockStrength,
    /// What to do about rows that others hold.
    pub wait: LockWait,
    /// `lock_timeout`
    pub timeout: Option<Duration>,
    /// When the rows were read.
    pub read_at: Timestamp,
    /// Who is told to others.
    pub who: pb::LockOwner,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Locked {
    /// Rows somebody else holds (`SKIP LOCKED`).
    pub skipped: BTreeSet<Bytes>,
    /// A row that was changed after it was read.
    pub changed: Option<Change>,
    /// The newest such change.
    pub newest: Timestamp,
    /// Rounds of requests it took.
    pub rounds: u64,
}

/// Ends a wait: with its owner it forms a circle of those who wait for each other.
#[derive(Debug, Default)]
struct Doom {
    circle: Mutex<Option<Vec<pb::RowLock>>>,
    notify: Notify,
}

/// An owner of row locks, as its gateway knows it.
#[derive(Debug)]
pub struct Owner {
    /// Its id, over all attempts of the transaction.
    pub id: TxnId,
    state: Mutex<State>,
    doom: Doom,
}

#[derive(Debug, Default)]
struct State {
    held: BTreeMap<Bytes, LockStrength>,
    /// What an earlier attempt of the transaction held: asked for again before it counts.
    doubted: BTreeMap<Bytes, LockStrength>,
    /// Numbers the requests.
    sequence: u64,
    /// Keys that were not held before, in the order they were got: what a savepoint gives back.
    order: Vec<Bytes>,
    asked: Vec<Bytes>,
    /// Since when a request that may wait is on its way.
    waits_since: Option<Duration>,
    /// What that was last seen to wait for.
    waits_for: Option<pb::RowLock>,
    /// The last wait that was cut off.
    cut_off: Option<CutOff>,
}

/// A wait that was cut off.
#[derive(Debug, Clone)]
pub struct CutOff {
    /// The row that was waited for, or the first of several.
    pub key: Bytes,
    /// For how long.
    pub waited: Duration,
    /// Who was in the way, if anybody has looked.
    pub blockers: Vec<pb::LockOwner>,
}

impl Owner {
    /// Since when it may be waiting.
    pub fn waits_since(&self) -> Option<Duration> {
        self.state.lock().waits_since
    }

    /// What the wait that began at `since` was seen to wait for.
    pub fn seen_waiting(&self, since: Duration, mut lock: pb::RowLock) {
        lock.blockers.truncate(1);
        let mut state = self.state.lock();
        if state.waits_since == Some(since) {
            state.waits_for = Some(lock);
        }
    }

    /// Comes back when its wait shall end. (One that came too late for an earlier wait does not
    /// count.)
    async fn doomed(&self) -> Vec<pb::RowLock> {
        loop {
            self.doom.notify.notified().await;
            if let Some(circle) = self.doom.circle.lock().take() {
                return circle;
            }
        }
    }

    /// Ends the wait that began at `since`, if it still waits.
    pub fn doom(&self, since: Duration, circle: Vec<pb::RowLock>) -> bool {
        let waits = self.waits_since() == Some(since);
        if waits {
            *self.doom.circle.lock() = Some(circle);
            self.doom.notify.notify_one();
        }
        waits
    }
}

/// Keys on their way into a leader's memory; given up if whoever asks is cut off.
struct Asking<'a> {
    locks: &'a Locks,
    since: Duration,
    /// It was answered.
    done: bool,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let now = self.locks.dist.clock().monotonic();
        let mut state = self.locks.owner.state.lock();
        let asked = std::mem::take(&mut state.asked);
        let seen = state.waits_for.take();
        if let (Some(since), false, Some(first)) =
            (state.waits_since.take(), self.done, asked.first())
        {
            let waited = now.saturating_sub(since);
            state.cut_off = Some(match seen {
                Some(lock) => CutOff { key: lock.key, waited, blockers: lock.blockers },
                None => CutOff { key: first.clone(), waited, blockers: Vec::new() },
            });
        }
        // One that it holds stays: it only asked for more.
        let known = |key: &Bytes| state.held.contains_key(key) || state.doubted.contains_key(key);
        let left: Vec<Bytes> = asked.into_iter().filter(|key| !known(key)).collect();
        drop(state);
        self.locks.give_up(left);
    }
}

/// The row locks of a transaction.
#[derive(Debug)]
pub struct Locks {
    dist: Arc<Dist>,
    owner: Arc<Owner>,
}

impl Drop for Locks {
    fn drop(&mut self) {
        self.release();
    }
}

impl Locks {
    /// None yet.
    pub fn new(dist: &Arc<Dist>) -> Self {
        let id = TxnId(runtime::random_u128());
        let owner = Owner { id, state: Mutex::default(), doom: Doom::default() };
        Self { dist: dist.clone(), owner: Arc::new(owner) }
    }

    /// The wait that was cut off last, once.
    pub fn cut_off(&self) -> Option<CutOff> {
        self.owner.state.lock().cut_off.take()
    }

    /// Whose they are, if there may be any.
    pub fn owner(&self) -> Option<TxnId> {
        let state = self.owner.state.lock();
        (!state.held.is_empty() || !state.doubted.is_empty()).then_some(self.owner.id)
    }

    /// Gives up everything: the transaction is over.
    pub fn release(&self) {
        let mut state = self.owner.state.lock();
        let (held, doubted) = (std::mem::take(&mut state.held), std::mem::take(&mut state.doubted));
        state.order.clear();
        drop(state);
        self.dist.lock_owners.remove(self.owner.id);
        self.give_up(held.into_keys().chain(doubted.into_keys()).collect());
    }

    /// The transaction is tried once more: it keeps what it has, so that it comes further, but each
    /// lock may have been lost, and is asked for again.
    pub fn doubt(&self) {
        let mut state = self.owner.state.lock();
        let held = std::mem::take(&mut state.held);
        state.doubted.extend(held);
        state.order.clear();
    }

    /// A moment to go back to.
    pub fn mark(&self) -> usize {
        self.owner.state.lock().order.len()
    }

    /// Gives up what was got since a moment.
    pub fn back_to(&self, mark: usize) {
        self.keep_since(mark, &BTreeSet::new());
    }

    /// Gives up what was got since a moment, but these.
    pub fn keep_since(&self, mark: usize, kept: &BTreeSet<Bytes>) {
        let mut state = self.owner.state.lock();
        if mark >= state.order.len() {
            return;
        }
        let since = state.order.split_off(mark);
        let (kept, gone): (Vec<Bytes>, Vec<Bytes>) =
            since.into_iter().partition(|key| kept.contains(key));
        state.order.extend(kept);
        for key in &gone {
            state.held.remove(key);
        }
        drop(state);
        self.give_up(gone);
    }

    /// A one-range commit was applied at the range of a key: it has ended the locks there.
    pub async fn ended_at(&self, key: &Bytes) {
        if self.owner().is_none() {
            return;
        }
        let Ok(route) = self.dist.sender().route(key).await else { return };
        let range = route.descriptor.unwrap_or_default();
        let mut state = self.owner.state.lock();
        let stays = |key: &Bytes| !super::ranges::covers(&range, key);
        state.held.retain(|key, _| stays(key));
        state.doubted.retain(|key, _| stays(key));
    }

    fn give_up(&self, keys: Vec<Bytes>) {
        if keys.is_empty() {
            return;
        }
        let (dist, owner_id) = (self.dist.clone(), self.owner.id.to_bytes());
        let sequence = self.next_sequence();
        let going_on = self.dist.releases.begin();
        runtime::spawn_if_running(self.dist.left_over.track_future(async move {
            let mut unlock = std::pin::pin!(dist.unlock(owner_id, keys, sequence));
            if runtime::within(RELEASE_PATIENCE, &mut unlock).await.is_none() {
                // Nobody waits for it any more.
                drop(going_on);
                unlock.await;
            }
        }));
    }

    fn next_sequence(&self) -> u64 {
        let mut state = self.owner.state.lock();
        state.sequence += 1;
        state.sequence
    }

    /// Locks rows; those it holds already cost nothing.
    ///
    /// # Errors
    /// `55P03` for rows others hold, `40P01` for a deadlock, and what a read may end with.
    pub async fn lock(&self, keys: &[Bytes], wanted: &Wanted) -> Result<Locked, SqlError> {
        let mut found = Locked::default();
        if wanted.wait != LockWait::Block {
            // A transaction that has ended here holds nothing any more, though its leader may not
            // have heard of it yet.
            runtime::within(RELEASE_PATIENCE, self.dist.releases.done()).await;
        }
        let mut keys: Vec<Bytes> = {
            let state = self.owner.state.lock();
            let room = ROWS_LOCKED_MAX.saturating_sub(state.held.len());
            if room < keys.len() && wanted.wait != LockWait::Block {
                // To leave out or refuse what others hold, it must be known.
                return Err(errors::too_many_locks());
            }
            let held = |key: &Bytes| state.held.get(key).is_some_and(|h| *h >= wanted.strength);
            keys.iter().filter(|key| !held(key)).take(room).cloned().collect()
        };
        // In one order for all, so that those who lock the same rows do not meet half-way.
        keys.sort_unstable();
        keys.dedup();
        if !keys.is_empty() {
            self.dist.watch_locks(&self.owner);
        }
        for some in keys.chunks(ROWS_PER_REQUEST) {
            self.lock_some(some.to_vec(), wanted, &mut found).await?;
        }
        Ok(found)
    }

    async fn lock_some(
        &self,
        keys: Vec<Bytes>,
        wanted: &Wanted,
        found: &mut Locked,
    ) -> Result<(), SqlError> {
        let since = self.dist.clock().monotonic();
        let mut asking = Asking { locks: self, since, done: false };
        {
            let mut state = self.owner.state.lock();
            state.asked.clone_from(&keys);
            state.waits_since = (wanted.wait == LockWait::Block).then_some(since);
            (state.waits_for, state.cut_off) = (None, None);
            *self.owner.doom.circle.lock() = None;
        }
        let mut left = keys;
        let mut patience = None;
        while !left.is_empty() {
            found.rounds += 1;
            // Who may wait asks one range after the other, all in one order: else two would each
            // get the rows in one range and queue for the other's.
            let rest = match wanted.wait {
                LockWait::Block => self.beyond_first_range(&mut left).await?,
                LockWait::NoWait | LockWait::SkipLocked => Vec::new(),
            };
            let answers = self.ask(&left, wanted, asking.since).await?;
            left = Vec::new();
            for (keys, answer) in answers {
                match answer {
                    Ok(range_response::Body::Lock(locked)) => {
                        self.got(keys, wanted.strength, locked, found);
                    }
                    Ok(_) => return Err(SqlError::internal("a lock was answered wrongly")),
                    Err(failure) => {
                        self.overcome(failure, wanted, &asking, &mut patience).await?;
                        left.extend(keys);
                    }
                }
            }
            left.extend(rest);
        }
        asking.done = true;
        Ok(())
    }

    /// Cuts the keys, which are sorted, at the end of the range that holds the first.
    async fn beyond_first_range(&self, keys: &mut Vec<Bytes>) -> Result<Vec<Bytes>, SqlError> {
        let Some(first) = keys.first() else { return Ok(Vec::new()) };
        let route = self.dist.sender().route(first).await;
        let range = route.map_err(|e| self.dist.read_error(e))?.descriptor.unwrap_or_default();
        let inside = keys.iter().take_while(|key| super::ranges::covers(&range, key)).count();
        Ok(keys.split_off(inside.max(1)))
    }

    /// Asks each range for its rows; a deadlock ends the wait.
    async fn ask(
        &self,
        keys: &[Bytes],
        wanted: &Wanted,
        since: Duration,
    ) -> Result<Vec<(Vec<Bytes>, Result<range_response::Body, Failure>)>, SqlError> {
        let places = (0..keys.len()).collect();
        let groups = self.dist.group_keys(keys, places).await?;
        let waited = self.dist.clock().monotonic().saturating_sub(since);
        let wait = wanted.timeout.map_or(LOCK_WAIT, |limit| {
            LOCK_WAIT.min(limit.saturating_sub(waited)).max(Duration::from_millis(1))
        });
        let sequence = self.next_sequence();
        let mut rows = Vec::with_capacity(groups.len());
        let mut requests = Vec::with_capacity(groups.len());
        for (key, members) in groups {
            let some: Vec<Bytes> = members.into_iter().map(|i| keys[i].clone()).collect();
            let body = range_request::Body::Lock(pb::LockRequest {
                owner: Some(pb::LockOwner { id: self.owner.id.to_bytes(), ..wanted.who.clone() }),
                keys: some.clone(),
                mode: i32::from(mode(wanted.strength)),
                wait: i32::from(wait_of(wanted.wait)),
                wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
                read_at: wanted.read_at.0,
                sequence,
            });
            rows.push(some);
            requests.push(Outgoing { key, body });
        }
        let answers = tokio::select! {
            answers = self.dist.sender().round(requests, ATTEMPT_TIMEOUT) => answers,
            circle = self.owner.doomed() => return Err(errors::deadlock(&self.dist, &circle)),
        };
        Ok(rows.into_iter().zip(answers).collect())
    }

    fn got(
        &self,
        keys: Vec<Bytes>,
        strength: LockStrength,
        locked: pb::LockResponse,
        found: &mut Locked,
    ) {
        let skipped: BTreeSet<Bytes> = locked.skipped.into_iter().collect();
        let mut state = self.owner.state.lock();
        for key in keys.into_iter().filter(|key| !skipped.contains(key)) {
            state.doubted.remove(&key);
            match state.held.get_mut(&key) {
                Some(held) => *held = (*held).max(strength),
                None => {
                    state.order.push(key.clone());
                    state.held.insert(key, strength);
                }
            }
        }
        drop(state);
        found.skipped.extend(skipped);
        found.newest = found.newest.max(Timestamp(locked.newest));
        let writer = locked.writer;
        let change = locked.changed.into_iter().next().map(|key| Change { key, writer });
        found.changed = found.changed.take().or(change);
    }

    /// What stood in the way is gone, or it shall be asked again; else the error.
    async fn overcome(
        &self,
        failure: Failure,
        wanted: &Wanted,
        asking: &Asking<'_>,
        patience: &mut Option<Duration>,
    ) -> Result<(), SqlError> {
        let now = self.dist.clock().monotonic();
        let waited = now.saturating_sub(asking.since);
        match failure {
            Failure::Range(pb::RangeError { kind: Some(Kind::Busy(busy)), .. }) => {
                if wanted.wait == LockWait::NoWait {
                    return Err(errors::not_available(&self.dist, &busy, None));
                }
                if wanted.timeout.is_some_and(|limit| waited >= limit) {
                    return Err(errors::not_available(&self.dist, &busy, Some(waited)));
                }
                *patience = None;
                Ok(())
            }
            Failure::Range(pb::RangeError { kind: Some(Kind::Locked(locked)), .. }) => {
                tokio::select! {
                    cleared = self.dist.clear_lock(&locked) => cleared,
                    circle = self.owner.doomed() => Err(errors::deadlock(&self.dist, &circle)),
                    () = until(wanted.timeout, waited) => {
                        let busy = pb::Busy { key: locked.key.clone(), blockers: Vec::new() };
                        Err(errors::not_available(&self.dist, &busy, wanted.timeout))
                    }
                }
            }
            failure if failure.curable() => {
                let since = *patience.get_or_insert(now);
                if now.saturating_sub(since) > super::txn::READ_PATIENCE {
                    return Err(self.dist.read_error(failure));
                }
                runtime::pause(Duration::from_millis(10)).await;
                Ok(())
            }
            failure => Err(self.dist.read_error(failure)),
        }
    }
}

impl Dist {
    /// Gives up row locks, until whoever leads has heard it: they may just be handed over. What is
    /// left behind in the end dies by itself.
    async fn unlock(self: Arc<Self>, owner_id: Bytes, keys: Vec<Bytes>, sequence: u64) {
        let places = (0..keys.len()).collect();
        let Ok(groups) = self.group_keys(&keys, places).await else { return };
        let request = |(key, members): (Bytes, Vec<usize>)| {
            let keys = members.into_iter().map(|i| keys[i].clone()).collect();
            let unlock = pb::UnlockRequest { owner_id: owner_id.clone(), keys, sequence };
            Outgoing { key, body: range_request::Body::Unlock(unlock) }
        };
        let ends = self.clock().monotonic() + UNLOCK_PATIENCE;
        let mut left: Vec<Outgoing> = groups.into_iter().map(request).collect();
        loop {
            let answers = self.sender().round(left.clone(), ATTEMPT_TIMEOUT).await;
            let lost = left.into_iter().zip(answers).filter(|(_, answer)| answer.is_err());
            left = lost.map(|(request, _)| request).collect();
            if left.is_empty() || self.clock().monotonic() > ends {
                return;
            }
            runtime::pause(UNLOCK_PAUSE).await;
        }
    }
}

/// The rest of a limit; for ever without one.
async fn until(limit: Option<Duration>, waited: Duration) {
    match limit {
        Some(limit) => runtime::pause(limit.saturating_sub(waited)).await,
        None => std::future::pending().await,
    }
}

fn mode(strength: LockStrength) -> pb::LockMode {
    match strength {
        LockStrength::KeyShare => pb::LockMode::KeyShare,
        LockStrength::Share => pb::LockMode::Share,
        LockStrength::NoKeyUpdate => pb::LockMode::NoKeyUpdate,
        LockStrength::Update => pb::LockMode::Update,
    }
}

fn wait_of(wait: LockWait) -> pb::LockWait {
    match wait {
        LockWait::Block => pb::LockWait::Block,
        LockWait::NoWait => pb::LockWait::Nowait,
        LockWait::SkipLocked => pb::LockWait::SkipLocked,
    }
}
