//! Row locks: who holds a row for the rest of its transaction, and who queues for it. They are in
//! the leader's memory alone and lost with it, but for those it hands over to the next; what keeps
//! data right is the check at commit (P14). They are there so that contenders wait for their turn,
//! as in PostgreSQL.
//!
//! # Invariants
//! * *No two holders of a row conflict.*
//! * *Nobody overtakes*: a request is granted past those who queue only if its owner holds the row
//!   already. Else those who lock one row in turns would starve who wants it for itself.
//! * The first in a queue conflicts with a holder; rows without holders are not kept.
//! * An owner's requests are numbered; giving up takes back what was asked for before it, never
//!   what was asked for later: it may have been on its way for long.
//! * An owner is known exactly while it holds a row or queues for one.
//! * An owner that was not heard of for [`LOCK_TTL`] is taken for dead when it is in the way, and
//!   loses all it has here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use quorate_proto::{TxnId, pb};

use crate::config::LOCK_TTL;
use crate::keys::Pretty;
use crate::mistakes::Mistake;

/// How strong a row lock is, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// `FOR KEY SHARE`
    KeyShare,
    /// `FOR SHARE`
    Share,
    /// `FOR NO KEY UPDATE`, and writing a row
    NoKeyUpdate,
    /// `FOR UPDATE`, and deleting a row
    Update,
}

impl Mode {
    /// As it travels.
    pub fn from_pb(mode: pb::LockMode) -> Self {
        match mode {
            pb::LockMode::KeyShare => Self::KeyShare,
            pb::LockMode::Share => Self::Share,
            pb::LockMode::NoKeyUpdate => Self::NoKeyUpdate,
            pb::LockMode::Update => Self::Update,
        }
    }

    /// As it travels.
    pub fn to_pb(self) -> pb::LockMode {
        match self {
            Self::KeyShare => pb::LockMode::KeyShare,
            Self::Share => pb::LockMode::Share,
            Self::NoKeyUpdate => pb::LockMode::NoKeyUpdate,
            Self::Update => pb::LockMode::Update,
        }
    }

    /// What a write of a row needs.
    pub fn of_write(write: &pb::Write) -> Self {
        if write.delete { Self::Update } else { Self::NoKeyUpdate }
    }

    /// Table 13.3 of PostgreSQL's manual (Explicit Locking, Row-Level Locks).
    pub fn conflicts(self, other: Self) -> bool {
        match (self.min(other), self.max(other)) {
            (_, Self::Update) => true,
            (weaker, Self::NoKeyUpdate) => weaker >= Self::Share,
            (_, Self::KeyShare | Self::Share) => false,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Claim {
    owner: TxnId,
    mode: Mode,
    since: Duration,
    /// Of the last request that asked for it.
    sequence: u64,
}

#[derive(Debug, Default)]
struct Row {
    holders: Vec<Claim>,
    queue: VecDeque<Claim>,
}

impl Row {
    fn held_by(&self, owner: TxnId) -> Option<Mode> {
        self.holders.iter().find(|claim| claim.owner == owner).map(|claim| claim.mode)
    }

    /// Who else holds it in a mode that conflicts.
    fn against(&self, owner: TxnId, mode: Mode) -> impl Iterator<Item = TxnId> + '_ {
        let others = self.holders.iter().filter(move |claim| claim.owner != owner);
        others.filter(move |claim| claim.mode.conflicts(mode)).map(|claim| claim.owner)
    }

    fn hold(&mut self, claim: Claim) {
        match self.holders.iter_mut().find(|held| held.owner == claim.owner) {
            Some(held) => {
                held.mode = held.mode.max(claim.mode);
                held.sequence = held.sequence.max(claim.sequence);
            }
            None => self.holders.push(claim),
        }
    }

    /// Grants from the front of the queue what can be.
    fn promote(&mut self, now: Duration, woken: &mut Vec<TxnId>) {
        while let Some(first) = self.queue.front().copied() {
            if self.against(first.owner, first.mode).next().is_some() {
                return;
            }
            self.queue.pop_front();
            self.hold(Claim { since: now, ..first });
            woken.push(first.owner);
        }
    }
}

#[derive(Debug)]
struct Known {
    who: pb::LockOwner,
    heard: Duration,
    keys: BTreeSet<Bytes>,
}

/// Holders that stand for all of many who share a row.
const BLOCKERS_MAX: usize = 16;

/// What asking for a row came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// It is held.
    Held,
    /// These hold it or queue right before (not all of many).
    Busy(Vec<TxnId>),
}

/// The row locks of a range. See the module for the invariants.
#[derive(Debug, Default)]
pub struct RowLocks {
    rows: BTreeMap<Bytes, Row>,
    /// The rows somebody queues for.
    contended: BTreeSet<Bytes>,
    owners: BTreeMap<TxnId, Known>,
}

impl RowLocks {
    /// Asks for a row; `queue`: takes a place in its queue if others are in the way. Asking again
    /// changes no place. Whoever got a row because dead owners were in the way is added to `woken`.
    pub fn ask(
        &mut self,
        key: &Bytes,
        (id, who, sequence): (TxnId, &pb::LockOwner, u64),
        mode: Mode,
        queue: bool,
        now: Duration,
        woken: &mut Vec<TxnId>,
    ) -> Asked {
        if Mistake::RowLocksForgotten.is_made() {
            return Asked::Held;
        }
        self.heard(id, now);
        let mut in_the_way = self.in_the_way(key, id, mode);
        if in_the_way.iter().any(|other| self.is_dead(*other, now)) {
            self.drop_dead(now, woken);
            in_the_way = self.in_the_way(key, id, mode);
        }
        let held = in_the_way.is_empty();
        if held || queue {
            let known = self.owners.entry(id).or_insert_with(|| Known {
                who: who.clone(),
                heard: now,
                keys: BTreeSet::new(),
            });
            known.who.clone_from(who);
            known.keys.insert(key.clone());
            let row = self.rows.entry(key.clone()).or_default();
            let claim = Claim { owner: id, mode, since: now, sequence };
            if held {
                row.hold(claim);
                // It may have queued for more before.
                row.queue.retain(|waiting| waiting.owner != id);
                row.promote(now, woken);
            } else if let Some(waiting) = row.queue.iter_mut().find(|claim| claim.owner == id) {
                waiting.mode = waiting.mode.max(mode);
                waiting.sequence = waiting.sequence.max(sequence);
            } else if row.held_by(id).is_some() {
                // It cannot let go before it has more: whoever is before it waits for it anyway.
                row.queue.push_front(claim);
            } else {
                row.queue.push_back(claim);
            }
            self.note_queue(key);
        }
        if held { Asked::Held } else { Asked::Busy(in_the_way) }
    }

    /// Who holds a row in a way that conflicts, and who queues for that right before the owner:
    /// those before wait for each other, so from one to the next all are found.
    fn in_the_way(&self, key: &[u8], owner: TxnId, mode: Mode) -> Vec<TxnId> {
        let Some(row) = self.rows.get(key) else { return Vec::new() };
        let own = row.held_by(owner);
        if own.is_some_and(|own| own >= mode) {
            return Vec::new();
        }
        let mut found: Vec<TxnId> = row.against(owner, mode).take(BLOCKERS_MAX).collect();
        if own.is_none() {
            let before = row.queue.iter().take_while(|claim| claim.owner != owner);
            found.extend(before.filter(|c| c.mode.conflicts(mode)).last().map(|c| c.owner));
        }
        found.dedup();
        found
    }

    /// Keeps `contended` right.
    fn note_queue(&mut self, key: &Bytes) {
        match self.rows.get(key).is_some_and(|row| !row.queue.is_empty()) {
            true => self.contended.insert(key.clone()),
            false => self.contended.remove(key),
        };
    }

    /// Somebody else whose lock stands against a write.
    pub fn against_write(&self, key: &[u8], owner: Option<TxnId>, mode: Mode) -> Option<TxnId> {
        // Id 0 is nobody's.
        let owner = owner.unwrap_or_default();
        self.rows.get(key)?.against(owner, mode).next()
    }

    /// Gives up what an owner has of these keys by requests before `sequence`; who got a row by it.
    pub fn give_up(
        &mut self,
        owner: TxnId,
        keys: &[Bytes],
        sequence: u64,
        now: Duration,
    ) -> Vec<TxnId> {
        let Some(known) = self.owners.get(&owner) else { return Vec::new() };
        let keys = keys.iter().filter(|key| known.keys.contains(*key)).cloned().collect();
        self.drop_claims(owner, keys, now, |claim| claim.sequence < sequence)
    }

    /// Takes everything from an owner; who got a row by it.
    pub fn release(&mut self, owner: TxnId, now: Duration) -> Vec<TxnId> {
        let Some(known) = self.owners.get(&owner) else { return Vec::new() };
        let keys = known.keys.iter().cloned().collect();
        self.drop_claims(owner, keys, now, |_| true)
    }

    fn drop_claims(
        &mut self,
        owner: TxnId,
        keys: Vec<Bytes>,
        now: Duration,
        which: impl Fn(&Claim) -> bool,
    ) -> Vec<TxnId> {
        let mut woken = Vec::new();
        for key in keys {
            let Some(row) = self.rows.get_mut(&key) else { continue };
            let stays = |claim: &Claim| claim.owner != owner || !which(claim);
            row.holders.retain(stays);
            row.queue.retain(stays);
            row.promote(now, &mut woken);
            let all = row.holders.iter().chain(&row.queue);
            let left = all.filter(|claim| claim.owner == owner).count();
            if row.holders.is_empty() {
                self.rows.remove(&key);
            }
            self.note_queue(&key);
            if left == 0
                && let Some(known) = self.owners.get_mut(&owner)
            {
                known.keys.remove(&key);
                if known.keys.is_empty() {
                    self.owners.remove(&owner);
                }
            }
        }
        woken
    }

    /// An owner is alive.
    pub fn heard(&mut self, owner: TxnId, now: Duration) {
        if let Some(known) = self.owners.get_mut(&owner) {
            known.heard = known.heard.max(now);
        }
    }

    fn is_dead(&self, owner: TxnId, now: Duration) -> bool {
        self.owners.get(&owner).is_some_and(|known| now > known.heard + LOCK_TTL)
    }

    /// Forgets owners that were not heard of; who got rows by it is added to `woken`.
    pub fn drop_dead(&mut self, now: Duration, woken: &mut Vec<TxnId>) {
        let dead: Vec<TxnId> =
            self.owners.keys().copied().filter(|id| self.is_dead(*id, now)).collect();
        for id in &dead {
            woken.extend(self.release(*id, now));
        }
        // One that got what another has left was dead itself.
        woken.retain(|id| !dead.contains(id));
    }

    /// Forgets the rows at or above `bound`, which left by a split.
    pub fn truncate(&mut self, bound: &[u8]) {
        self.rows.split_off(bound);
        self.contended.split_off(bound);
        self.owners.retain(|_, known| {
            known.keys.retain(|key| key.as_ref() < bound);
            !known.keys.is_empty()
        });
    }

    /// What is held, for the next leader, within about so many bytes, those first who hold little;
    /// and nothing of these owners, whose commit ends their locks. Who queues asks there again.
    pub fn hand_over(
        &self,
        bytes_max: usize,
        ending: &BTreeSet<TxnId>,
        now: Duration,
    ) -> Vec<pb::OwnerRowLocks> {
        let alive = |id: &TxnId| !ending.contains(id) && !self.is_dead(*id, now);
        let mut owners: Vec<_> = self.owners.iter().filter(|(id, _)| alive(id)).collect();
        owners.sort_by_key(|(_, known)| known.keys.len());
        let (mut left, mut handed) = (bytes_max, Vec::new());
        for (id, known) in owners {
            let held = |key: &Bytes| {
                let claim = self.rows.get(key)?.holders.iter().find(|claim| claim.owner == *id)?;
                let mode = i32::from(claim.mode.to_pb());
                Some(pb::HeldRowLock { key: key.clone(), mode, sequence: claim.sequence })
            };
            let owner = Some(known.who.clone());
            let held = known.keys.iter().filter_map(held).collect();
            let locks = pb::OwnerRowLocks { owner, held };
            match left.checked_sub(locks.encoded_len()) {
                Some(rest) => left = rest,
                None => break,
            }
            if !locks.held.is_empty() {
                handed.push(locks);
            }
        }
        handed
    }

    /// Takes over what the leader before has handed over. It may have ended since: then its gateway
    /// says so, or speaks of its owner no more.
    pub fn take_over(&mut self, handed: &[pb::OwnerRowLocks], now: Duration) {
        for pb::OwnerRowLocks { owner, held } in handed {
            let who = owner.as_ref();
            let Some((id, who)) = who.and_then(|who| Some((TxnId::from_bytes(&who.id)?, who)))
            else {
                continue;
            };
            for lock in held {
                let (mode, owner) = (Mode::from_pb(lock.mode()), (id, who, lock.sequence));
                self.ask(&lock.key, owner, mode, false, now, &mut Vec::new());
            }
        }
    }

    /// Whether nobody has anything here.
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// Who somebody is, if it holds or queues here.
    pub fn who(&self, owner: TxnId) -> Option<&pb::LockOwner> {
        self.owners.get(&owner).map(|known| &known.who)
    }

    /// Every lock as it is told to people: of each row holders, then the queue.
    pub fn list(&self, limit: usize, now: Duration) -> Vec<pb::RowLock> {
        let of_row = |(key, row): (&Bytes, &Row)| {
            let holders = row.holders.iter().map(|claim| self.told(key, claim, true, now));
            let queue = row.queue.iter().map(|claim| self.told(key, claim, false, now));
            holders.chain(queue).collect::<Vec<_>>()
        };
        self.rows.iter().flat_map(of_row).take(limit).collect()
    }

    /// Who waits for whom, in as few words as finding a circle takes.
    pub fn list_waits(&self, limit: usize, now: Duration) -> Vec<pb::RowLock> {
        let rows = self.contended.iter().filter_map(|key| Some((key, self.rows.get(key)?)));
        let waits = rows.flat_map(|(key, row)| row.queue.iter().map(move |claim| (key, claim)));
        waits.take(limit).map(|(key, claim)| self.told(key, claim, false, now)).collect()
    }

    fn told(&self, key: &Bytes, claim: &Claim, granted: bool, now: Duration) -> pb::RowLock {
        let blockers = match granted {
            true => Vec::new(),
            false => self.in_the_way(key, claim.owner, claim.mode),
        };
        // Of the first it is told who that is: a waiter that is cut off says so.
        let told = |(place, id): (usize, &TxnId)| match (place, self.who(*id)) {
            (0, Some(who)) => who.clone(),
            _ => pb::LockOwner { id: id.to_bytes(), ..pb::LockOwner::default() },
        };
        let age = now.saturating_sub(claim.since).as_millis();
        pb::RowLock {
            key: key.clone(),
            owner: self.who(claim.owner).cloned(),
            mode: i32::from(claim.mode.to_pb()),
            granted,
            age_ms: u64::try_from(age).unwrap_or(u64::MAX),
            blockers: blockers.iter().enumerate().map(told).collect(),
        }
    }
}

/// Part of the leader's line.
impl fmt::Display for RowLocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, row) in &self.rows {
            write!(f, " | {} rows:", Pretty(key))?;
            for claim in &row.holders {
                write!(f, " {}={:?}", claim.owner, claim.mode)?;
            }
            for claim in &row.queue {
                write!(f, " < {}={:?}", claim.owner, claim.mode)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
