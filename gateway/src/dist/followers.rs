//! Reads of a past that is over for a while, at the replica of this node (rule R6): what the leader
//! has closed needs no lease, so the rows come from here. Whatever goes wrong, the leader is asked
//! as for any other read.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quorate_planner::error::SqlError;
use quorate_proto::pb::range_request::Body as Ask;
use quorate_proto::pb::range_response::Body as Answer;
use quorate_proto::{NodeId, Timestamp, pb};
use quorate_txn::clock::NodeClock;
use quorate_txn::config::FOLLOWER_READ_AGE;

use super::sender::{ATTEMPT_TIMEOUT, Failure, Outgoing, Sender, addressed};
use super::txn::Txn;
use super::{Dist, errors};

/// How long a replica that lags behind may take to answer, and a leader to close a moment.
const FOLLOWER_PATIENCE: Duration = Duration::from_millis(200);
/// After that its followers are left alone for so long.
const FOLLOWER_PAUSE: Duration = Duration::from_secs(5);
/// Ranges of which something is remembered at most.
const REMEMBERED_MAX: usize = 10_000;

/// What this gateway knows of reads at followers.
#[derive(Debug)]
pub struct Followers {
    /// What leaders have said they closed, by range. It stays true, whoever leads.
    closed: Mutex<BTreeMap<u64, pb::Closed>>,
    /// Until when the followers of a range are left alone: they lag behind.
    slow_until: Mutex<BTreeMap<u64, Duration>>,
    /// Followers are asked for moments that are over for so long, in milliseconds.
    age_ms: AtomicU64,
}

impl Default for Followers {
    fn default() -> Self {
        let followers = Self {
            closed: Mutex::default(),
            slow_until: Mutex::default(),
            age_ms: AtomicU64::new(0),
        };
        followers.ask_for(FOLLOWER_READ_AGE);
        followers
    }
}

impl Followers {
    /// From now on they are asked for moments that are over for so long. What is right does not
    /// depend on it: the leader is asked first what it has closed.
    pub fn ask_for(&self, age: Duration) {
        let ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self.age_ms.store(ms, Ordering::Relaxed);
    }

    fn may_know(&self, moment: Timestamp, clock: &NodeClock) -> bool {
        let age = Duration::from_millis(self.age_ms.load(Ordering::Relaxed));
        moment <= clock.last().bound_before(age)
    }

    /// Whether the followers of a range may be asked again.
    fn may_answer(&self, range: u64, now: Duration) -> bool {
        let mut slow = self.slow_until.lock();
        match slow.get(&range) {
            Some(until) if now < *until => false,
            Some(_) => {
                slow.remove(&range);
                true
            }
            None => true,
        }
    }

    /// They did not answer.
    fn leave_alone(&self, range: u64, until: Duration) {
        let mut slow = self.slow_until.lock();
        if slow.len() >= REMEMBERED_MAX {
            slow.clear();
        }
        slow.insert(range, until);
    }

    fn closed(&self, range: u64, ts: Timestamp) -> Option<pb::Closed> {
        self.closed.lock().get(&range).copied().filter(|closed| ts.0 <= closed.ts)
    }

    /// Of two the later moment serves more.
    fn note(&self, range: u64, closed: pb::Closed) {
        let mut known = self.closed.lock();
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        let newest = known.entry(range).or_insert(closed);
        if newest.ts < closed.ts {
            *newest = closed;
        }
    }
}

impl Sender {
    /// The node to ask if it need not lead: this one if it has a replica, else one that answers
    /// while the leader does not.
    fn follower(&self, route: &pb::RangeRoute) -> Option<NodeId> {
        let leader = NodeId(route.leader_node_id);
        let replicas = &route.descriptor.as_ref()?.replicas;
        let mut others = replicas.iter().map(|r| NodeId(r.node_id)).filter(|node| *node != leader);
        let own = self.connector().own();
        if own == Some(leader) {
            return None;
        }
        match others.clone().find(|node| own == Some(*node)) {
            Some(own) => Some(own),
            None if self.is_doubted(leader) => others.find(|node| !self.is_doubted(*node)),
            None => None,
        }
    }
}

impl Dist {
    /// What the leader of a range has closed at or after a moment, and whether it was asked.
    async fn closed(&self, route: &pb::RangeRoute, ts: Timestamp) -> (Option<pb::Closed>, bool) {
        let range = route.descriptor.as_ref().map_or(0, |range| range.range_id);
        let known = self.followers.closed(range, ts);
        let leader = NodeId(route.leader_node_id);
        if known.is_some() || leader.0 == 0 || self.sender.is_doubted(leader) {
            return (known, false);
        }
        // Of exactly this range: another one may hold the key by now.
        let ask = Ask::CloseTimestamp(pb::CloseTimestampRequest { ts: ts.0 });
        let asked = vec![addressed(route, ask)];
        let reply = self.sender.call_in_passing(leader, asked, None, FOLLOWER_PATIENCE).await;
        if let Ok(pb::Reply { responses, .. }) = reply
            && let Some(Answer::CloseTimestamp(answer)) = responses.into_iter().find_map(|r| r.body)
            && let Some(closed) = answer.closed
        {
            self.followers.note(range, closed);
        }
        (self.followers.closed(range, ts), true)
    }

    /// The answer of a replica that need not lead, if it gives one, and whether the leader was asked
    /// first what it has closed.
    async fn by_follower(&self, request: &Outgoing, ts: Timestamp) -> (Option<Answer>, bool) {
        let Ok(route) = self.sender.route(&request.key).await else { return (None, false) };
        let range = route.descriptor.as_ref().map_or(0, |range| range.range_id);
        let now = self.clock().monotonic();
        let node = self.sender.follower(&route).filter(|_| self.followers.may_answer(range, now));
        let Some(node) = node else { return (None, false) };
        let (closed, asked) = self.closed(&route, ts).await;
        let answer = match closed {
            Some(closed) => self.ask_follower(node, &route, request, closed).await,
            None => None,
        };
        if answer.is_none() && closed.is_some() | asked {
            self.followers.leave_alone(range, self.clock().monotonic() + FOLLOWER_PAUSE);
        }
        (answer, asked)
    }

    async fn ask_follower(
        &self,
        node: NodeId,
        route: &pb::RangeRoute,
        request: &Outgoing,
        closed: pb::Closed,
    ) -> Option<Answer> {
        let mut body = request.body.clone();
        match &mut body {
            Ask::Read(read) => read.closed = Some(closed),
            Ask::Scan(scan) => scan.closed = Some(closed),
            _ => return None,
        }
        let asked = vec![addressed(route, body)];
        let reply = self.sender.call_in_passing(node, asked, None, FOLLOWER_PATIENCE).await.ok()?;
        match reply.responses.into_iter().next()?.body? {
            answer @ (Answer::Read(_) | Answer::Scan(_)) => Some(answer),
            other => {
                tracing::debug!(%node, ?other, "a follower did not answer a read");
                None
            }
        }
    }
}

impl Txn {
    /// Reads at followers where they can answer, and in one round at leaders.
    ///
    /// # Errors
    /// `72000` for a moment outside of a table's window, `40001` if the clock was off since the
    /// transaction began; what a range says is in the answers.
    pub(super) async fn read_round(
        &self,
        requests: Vec<Outgoing>,
    ) -> Result<Vec<Result<Answer, Failure>>, SqlError> {
        self.check_clock()?;
        let Self { dist, snapshot, counters, .. } = self;
        let observed = Some(&snapshot.observed);
        let by_leaders = |requests| {
            counters.rpc_rounds.fetch_add(1, Ordering::Relaxed);
            dist.sender().round_of(observed, requests, ATTEMPT_TIMEOUT)
        };
        let Some(past) = snapshot.past else { return Ok(by_leaders(requests).await) };
        self.hold_versions(past.moment);
        for request in &requests {
            errors::check_window(dist, key_read(request), past)?;
        }
        if !dist.followers.may_know(past.moment, dist.clock()) {
            return Ok(by_leaders(requests).await);
        }
        let asked = requests.iter().map(|request| dist.by_follower(request, past.moment));
        let (answers, asked): (Vec<_>, Vec<_>) =
            futures::future::join_all(asked).await.into_iter().unzip();
        let found = answers.iter().flatten().count() as u64;
        counters.follower_reads.fetch_add(found, Ordering::Relaxed);
        let rounds = u64::from(found > 0) + u64::from(asked.contains(&true));
        counters.rpc_rounds.fetch_add(rounds, Ordering::Relaxed);
        let mut answers: Vec<Option<Result<Answer, Failure>>> =
            answers.into_iter().map(|answer| answer.map(Ok)).collect();
        let left = requests.into_iter().zip(&answers).filter(|(_, answer)| answer.is_none());
        let left: Vec<Outgoing> = left.map(|(request, _)| request).collect();
        if !left.is_empty() {
            let round = by_leaders(left).await;
            let open = answers.iter_mut().filter(|answer| answer.is_none());
            open.zip(round).for_each(|(open, answer)| *open = Some(answer));
        }
        let lost = || Err(Failure::Lost { sent: true, why: String::from("no answer") });
        Ok(answers.into_iter().map(|answer| answer.unwrap_or_else(lost)).collect())
    }
}

/// A key that is read. (That of a request may be another table's: it says where a range begins.)
fn key_read(request: &Outgoing) -> &[u8] {
    match &request.body {
        Ask::Read(read) => read.keys.first().unwrap_or(&request.key),
        Ask::Scan(scan) => &scan.start,
        _ => &request.key,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn the_window_of_the_table_that_is_read_counts() {
        let scan =
            pb::ScanRequest { start: Bytes::from("b1"), reverse: true, ..Default::default() };
        let request = Outgoing { key: Bytes::from("a7"), body: Ask::Scan(scan) };
        assert_eq!(key_read(&request), b"b1");
        let read = pb::ReadRequest { keys: vec![Bytes::from("b2")], ..Default::default() };
        let request = Outgoing { key: Bytes::from("a7"), body: Ask::Read(read) };
        assert_eq!(key_read(&request), b"b2");
    }

    #[test]
    fn followers_that_lag_are_left_alone_for_a_while() {
        let (followers, secs) = (Followers::default(), Duration::from_secs);
        assert!(followers.may_answer(1, secs(0)));
        followers.leave_alone(1, secs(5));
        assert!(!followers.may_answer(1, secs(4)) && followers.may_answer(2, secs(4)));
        assert!(followers.may_answer(1, secs(5)) && followers.may_answer(1, secs(4)));
    }

    #[test]
    fn a_closed_moment_serves_what_is_not_later() {
        let followers = Followers::default();
        followers.note(1, pb::Closed { ts: 10, index: 3 });
        followers.note(1, pb::Closed { ts: 8, index: 2 });
        let closed = |ts| followers.closed(1, Timestamp(ts)).map(|closed| closed.index);
        assert_eq!((closed(9), closed(10), closed(11)), (Some(3), Some(3), None));
        assert_eq!(followers.closed(2, Timestamp(1)), None);
    }
}
