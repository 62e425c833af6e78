//! The owners of row locks at this gateway: the leaders hear that they live, and circles of those
//! who wait for each other are found.
//!
//! A gateway with somebody who waits for more than a moment asks all nodes who waits for whom
//! there, and looks for a circle through its own. As long as a circle stands, everybody who comes
//! for one of its rows queues behind it, so it is looked for early. In each circle the youngest is
//! the victim: every gateway comes to the same one, and only its own ends its wait. What was seen
//! may be over a moment later; then somebody is refused who need not have been, which is safe.
//! Whoever has sent a prepare waits for no row lock, so it is never the victim (P13).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_proto::pb::node_request;
use quorate_proto::{Timestamp, TxnId, pb};
use quorate_txn::config::LOCK_KEEP_INTERVAL;

use super::Dist;
use super::listing::{LIST_TIMEOUT, Silent};
use super::locks::Owner;
use crate::runtime;

/// How often the owners are looked after.
const TICK: Duration = Duration::from_millis(50);
/// Who waits for longer may be in a circle.
const SUSPICIOUS_AFTER: Duration = Duration::from_millis(50);
/// For so many times the time that a look took there is no other, so that many who wait are not
/// listed all the time.
const REST: u32 = 9;
/// The longest time between two looks.
const REST_MAX: Duration = Duration::from_millis(400);
/// The owners of row locks at this gateway.
#[derive(Debug, Default)]
pub struct LockOwners {
    owners: Mutex<Owners>,
    /// Waits ended because of a deadlock.
    pub deadlocks: AtomicU64,
    /// Circles are being looked for.
    looking: AtomicBool,
    /// Nodes that a look does not wait long for.
    pub(super) silent: Silent,
}

#[derive(Debug, Default)]
struct Owners {
    by_id: BTreeMap<TxnId, Arc<Owner>>,
    watched: bool,
}

impl LockOwners {
    /// It has nothing any more.
    pub fn remove(&self, id: TxnId) {
        self.owners.lock().by_id.remove(&id);
    }

    fn all(&self) -> Vec<Arc<Owner>> {
        self.owners.lock().by_id.values().cloned().collect()
    }
}

/// One look at a time; given back however it ends.
struct Looking(Arc<Dist>);

impl Looking {
    fn begin(dist: &Arc<Dist>) -> Option<Self> {
        let other = dist.lock_owners.looking.swap(true, Ordering::Relaxed);
        (!other).then(|| Self(dist.clone()))
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.lock_owners.looking.store(false, Ordering::Relaxed);
    }
}

impl Dist {
    /// From now on an owner is looked after.
    pub(super) fn watch_locks(self: &Arc<Self>, owner: &Arc<Owner>) {
        let mut owners = self.lock_owners.owners.lock();
        owners.by_id.entry(owner.id).or_insert_with(|| owner.clone());
        if !std::mem::replace(&mut owners.watched, true) {
            drop(owners);
            let dist = self.clone();
            runtime::spawn_if_running(async move { dist.look_after_owners().await });
        }
    }

    /// As long as there are any.
    async fn look_after_owners(self: Arc<Self>) {
        let mut told = self.clock().monotonic();
        loop {
            runtime::pause(TICK).await;
            {
                let mut owners = self.lock_owners.owners.lock();
                if owners.by_id.is_empty() {
                    owners.watched = false;
                    return;
                }
            }
            let now = self.clock().monotonic();
            if now.saturating_sub(told) >= LOCK_KEEP_INTERVAL {
                told = now;
                self.keep_owners();
            }
            // In a task of its own: a node that does not answer must not keep the others from
            // hearing who lives.
            if let Some(looking) = Looking::begin(&self) {
                runtime::spawn_if_running(async move {
                    let dist = &looking.0;
                    if dist.find_deadlocks(now).await {
                        let took = dist.clock().monotonic().saturating_sub(now);
                        runtime::pause(took.saturating_mul(REST).min(REST_MAX)).await;
                    }
                });
            }
        }
    }

    /// Tells every node who lives. Nobody waits for it: a node that does not answer must not keep
    /// the others from hearing.
    fn keep_owners(self: &Arc<Self>) {
        let owner_ids: Vec<Bytes> =
            self.lock_owners.all().iter().map(|owner| owner.id.to_bytes()).collect();
        for node in self.sender().connector().nodes() {
            let (dist, owner_ids) = (self.clone(), owner_ids.clone());
            let request = node_request::Body::KeepLocks(pb::KeepLocksRequest { owner_ids });
            runtime::spawn_if_running(async move {
                let call = dist.sender().call(node, Vec::new(), Some(request), LIST_TIMEOUT);
                // The next one follows soon.
                let _ = runtime::within(LIST_TIMEOUT, call).await;
            });
        }
    }

    /// Whether there was anybody to look for.
    async fn find_deadlocks(self: &Arc<Self>, now: Duration) -> bool {
        let waits = |owner: Arc<Owner>| {
            let since = owner.waits_since()?;
            (now.saturating_sub(since) >= SUSPICIOUS_AFTER).then_some((owner, since))
        };
        let waiting: Vec<_> = self.lock_owners.all().into_iter().filter_map(waits).collect();
        if waiting.is_empty() {
            return false;
        }
        let graph = Graph::of(self.list_waits().await);
        for (owner, since) in waiting {
            if let Some(lock) = graph.wait_of(owner.id) {
                owner.seen_waiting(since, lock.clone());
            }
            if let Some(circle) = graph.circle_through(owner.id)
                && victim_of(&circle) == Some(owner.id)
                && owner.doom(since, circle)
            {
                self.lock_owners.deadlocks.fetch_add(1, Ordering::Relaxed);
            }
        }
        true
    }
}

/// The id of an owner.
pub fn id_of(owner: &pb::LockOwner) -> TxnId {
    TxnId::from_bytes(&owner.id).unwrap_or_default()
}

/// The youngest of those in a circle.
fn victim_of(circle: &[pb::RowLock]) -> Option<TxnId> {
    let owners = circle.iter().filter_map(|lock| lock.owner.as_ref());
    owners.map(|who| (Timestamp(who.began), id_of(who))).max().map(|(_, id)| id)
}

/// Who waits for whom.
struct Graph {
    /// By who waits: for what, and who is in the way.
    waits: BTreeMap<TxnId, Vec<(pb::RowLock, Vec<TxnId>)>>,
}

impl Graph {
    fn of(locks: Vec<pb::RowLock>) -> Self {
        let mut waits: BTreeMap<TxnId, Vec<(pb::RowLock, Vec<TxnId>)>> = BTreeMap::new();
        for lock in locks.into_iter().filter(|lock| !lock.granted) {
            let Some(id) = lock.owner.as_ref().map(id_of) else { continue };
            let blockers = lock.blockers.iter().map(id_of).collect();
            waits.entry(id).or_default().push((lock, blockers));
        }
        Self { waits }
    }

    /// What an owner waits for.
    fn wait_of(&self, owner: TxnId) -> Option<&pb::RowLock> {
        self.waits.get(&owner)?.first().map(|(lock, _)| lock)
    }

    /// The waits of a shortest circle through an owner, its own first.
    fn circle_through(&self, start: TxnId) -> Option<Vec<pb::RowLock>> {
        // Breadth first: by whom each was reached, and by which wait.
        let mut reached: BTreeMap<TxnId, (TxnId, &pb::RowLock)> = BTreeMap::new();
        let mut seen = BTreeSet::from([start]);
        let mut front = vec![start];
        while !front.is_empty() {
            let mut next = Vec::new();
            for from in front {
                for (lock, blockers) in self.waits.get(&from).into_iter().flatten() {
                    for to in blockers {
                        if *to == start {
                            let mut circle = vec![lock.clone()];
                            let mut at = from;
                            while let Some((before, lock)) = reached.get(&at) {
                                circle.push((*lock).clone());
                                at = *before;
                            }
                            circle.reverse();
                            return Some(circle);
                        }
                        if seen.insert(*to) {
                            reached.insert(*to, (from, lock));
                            next.push(*to);
                        }
                    }
                }
            }
            front = next;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(id: u128) -> pb::LockOwner {
        pb::LockOwner {
            id: TxnId(id).to_bytes(),
            began: u64::try_from(id).expect("a small number"),
            ..pb::LockOwner::default()
        }
    }

    fn wait(id: u128, blockers: &[u128]) -> pb::RowLock {
        pb::RowLock {
            owner: Some(who(id)),
            blockers: blockers.iter().map(|id| who(*id)).collect(),
            ..pb::RowLock::default()
        }
    }

    fn ids(circle: &[pb::RowLock]) -> Vec<u128> {
        circle.iter().filter_map(|lock| Some(id_of(lock.owner.as_ref()?).0)).collect()
    }

    #[test]
    fn the_shortest_circle_through_an_owner_is_found_and_its_youngest_is_the_victim() {
        let waits =
            [wait(1, &[2, 5]), wait(2, &[3]), wait(3, &[4, 1]), wait(4, &[1]), wait(5, &[])];
        let graph = Graph::of(waits.to_vec());
        let circle = graph.circle_through(TxnId(1)).expect("1 waits for 2, 3 and itself");
        assert_eq!(ids(&circle), [1, 2, 3]);
        assert_eq!(victim_of(&circle), Some(TxnId(3)));
        assert_eq!(ids(&graph.circle_through(TxnId(4)).expect("by 1, 2 and 3")), [4, 1, 2, 3]);
        assert!(graph.circle_through(TxnId(5)).is_none());
    }

    #[test]
    fn who_only_waits_for_a_circle_is_in_none() {
        let graph = Graph::of(vec![wait(1, &[2]), wait(2, &[1]), wait(3, &[1])]);
        assert!(graph.circle_through(TxnId(3)).is_none());
        assert!(graph.circle_through(TxnId(9)).is_none());
    }
}
