//! Reads of a past that is over for a while, at the replica of this node (rule R6): what the leader
//! has closed needs no lease, so the rows come from here. Whatever goes wrong, the leader is asked
//! as for any other read.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quorate_planner::error::SqlError;
use quorate_proto::pb::range_error::Kind;
use quorate_proto::pb::range_request::Body as Ask;
use quorate_proto::pb::range_response::Body as Answer;
use quorate_proto::{NodeId, Timestamp, pb};
use quorate_txn::clock::NodeClock;
use quorate_txn::config::FOLLOWER_READ_AGE;

use super::Dist;
use super::sender::{ATTEMPT_TIMEOUT, Failure, Outgoing, addressed};
use super::txn::Txn;

/// How long a replica that lags behind may take to answer, and a leader to close a moment.
const FOLLOWER_PATIENCE: Duration = Duration::from_millis(200);
/// One that did not manage that is left alone about the range for so long.
const SLOW_FOR: Duration = Duration::from_secs(5);
/// Ranges of which something is remembered at most.
const REMEMBERED_MAX: usize = 10_000;

/// What this gateway knows of reads at followers.
#[derive(Debug)]
pub struct Followers {
    /// What leaders have said they closed, by range. It stays true, whoever leads.
    closed: Mutex<BTreeMap<u64, pb::Closed>>,
    /// Until when a node is left alone about a range: as a follower it lags behind, or as a leader
    /// it cannot close a moment.
    slow_until: Mutex<BTreeMap<(u64, NodeId), Duration>>,
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

    /// Whether a node may be asked about a range again.
    fn may_answer(&self, range: u64, node: NodeId, now: Duration) -> bool {
        let mut slow = self.slow_until.lock();
        match slow.get(&(range, node)) {
            Some(until) if now < *until => false,
            Some(_) => {
                slow.remove(&(range, node));
                true
            }
            None => true,
        }
    }

    /// It could not answer in time.
    fn leave_alone(&self, range: u64, node: NodeId, until: Duration) {
        let mut slow = self.slow_until.lock();
        if slow.len() >= REMEMBERED_MAX {
            slow.clear();
        }
        slow.insert((range, node), until);
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

impl Dist {
    /// The node to ask if it need not lead: this one if it has a replica, else one that answers
    /// while the leader does not.
    fn follower(&self, route: &pb::RangeRoute) -> Option<NodeId> {
        let descriptor = route.descriptor.as_ref()?;
        let (leader, own) = (NodeId(route.leader_node_id), self.sender.connector().own());
        if own == Some(leader) {
            return None;
        }
        let now = self.clock().monotonic();
        let may = |node: &NodeId| {
            *node != leader && self.followers.may_answer(descriptor.range_id, *node, now)
        };
        let mut others = descriptor.replicas.iter().map(|r| NodeId(r.node_id)).filter(may);
        match others.clone().find(|node| own == Some(*node)) {
            Some(own) => Some(own),
            None if self.sender.is_doubted(leader) => {
                others.find(|node| !self.sender.is_doubted(*node))
            }
            None => None,
        }
    }

    /// What the leader of a range has closed at or after a moment, and whether it was asked.
    async fn closed(&self, route: &pb::RangeRoute, ts: Timestamp) -> (Option<pb::Closed>, bool) {
        let range = route.descriptor.as_ref().map_or(0, |range| range.range_id);
        let known = self.followers.closed(range, ts);
        let (leader, now) = (NodeId(route.leader_node_id), self.clock().monotonic());
        if known.is_some()
            || leader.0 == 0
            || self.sender.is_doubted(leader)
            || !self.followers.may_answer(range, leader, now)
        {
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
        let closed = self.followers.closed(range, ts);
        if closed.is_none() {
            self.followers.leave_alone(range, leader, self.clock().monotonic() + SLOW_FOR);
        }
        (closed, true)
    }

    /// The answer of a replica that need not lead, if it gives one, and whether the leader was
    /// asked first what it has closed.
    async fn by_follower(&self, request: &Outgoing, ts: Timestamp) -> (Option<Answer>, bool) {
        let Ok(route) = self.sender.route(&request.key).await else { return (None, false) };
        let Some(node) = self.follower(&route) else { return (None, false) };
        match self.closed(&route, ts).await {
            (Some(closed), asked) => {
                (self.ask_follower(node, &route, request, closed).await, asked)
            }
            (None, asked) => (None, asked),
        }
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
        // Where nobody leads, nobody else answers any sooner.
        let patience = match self.sender.is_doubted(NodeId(route.leader_node_id)) {
            true => ATTEMPT_TIMEOUT,
            false => FOLLOWER_PATIENCE,
        };
        let reply = self.sender.call_in_passing(node, asked, None, patience).await;
        let answer = reply.ok().and_then(|reply| reply.responses.into_iter().next()?.body);
        match answer {
            Some(answer @ (Answer::Read(_) | Answer::Scan(_))) => return Some(answer),
            Some(Answer::Error(error)) if !matches!(error.kind, Some(Kind::Unavailable(_))) => {
                tracing::debug!(%node, why = error.message, "a follower did not answer a read");
            }
            _ => {
                let range = route.descriptor.as_ref().map_or(0, |range| range.range_id);
                let until = self.clock().monotonic() + SLOW_FOR;
                self.followers.leave_alone(range, node, until);
                tracing::debug!(%node, range, "a follower lags behind");
            }
        }
        None
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
        let answers = self.answers(requests).await?;
        // One of them may have been on its way for long.
        self.check_clock()?;
        Ok(answers)
    }

    async fn answers(
        &self,
        requests: Vec<Outgoing>,
    ) -> Result<Vec<Result<Answer, Failure>>, SqlError> {
        let Self { dist, snapshot, counters, .. } = self;
        let observed = Some(&snapshot.observed);
        let by_leaders = |requests| {
            counters.rpc_rounds.fetch_add(1, Ordering::Relaxed);
            dist.sender().round_of(observed, requests, ATTEMPT_TIMEOUT)
        };
        let Some(past) = snapshot.past else { return Ok(by_leaders(requests).await) };
        self.check_past(requests.iter().map(key_read), past).await?;
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
        let (one, other) = (NodeId(1), NodeId(2));
        assert!(followers.may_answer(1, one, secs(0)));
        followers.leave_alone(1, one, secs(5));
        assert!(!followers.may_answer(1, one, secs(4)));
        assert!(followers.may_answer(2, one, secs(4)) && followers.may_answer(1, other, secs(4)));
        assert!(followers.may_answer(1, one, secs(5)) && followers.may_answer(1, one, secs(4)));
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
