//! Records of committed transactions that nobody needs any more: every lock was confirmed resolved.
//! They lose their keys (rule P4) some at a time, so that this costs a commit next to nothing.
//! Whose answer is lost is sent once more; what is forgotten here, by a crash or for want of room,
//! is found by the sweep of its range.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_proto::pb;
use quorate_proto::pb::range_request::Body;
use quorate_txn::config::ATTEMPT_TIMEOUT;

use super::Dist;
use super::sender::Outgoing;
use crate::runtime;

/// How long they wait for each other.
const DROP_AFTER: Duration = Duration::from_millis(500);
/// Sent in one round at most.
const ROUND_MAX: usize = 256;
/// Waiting at most; more are left to the sweep.
const WAITING_MAX: usize = 20_000;

/// Records that wait.
#[derive(Debug, Default)]
pub(super) struct Drops(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Waiting>,
    /// A task sends them.
    sending: bool,
}

#[derive(Debug, Clone)]
struct Waiting {
    record: pb::DropRecordRequest,
    /// It was sent, and the answer was lost or an error.
    again: bool,
}

impl Drops {
    fn add(&self, records: impl IntoIterator<Item = Waiting>) {
        let mut state = self.0.lock();
        let room = WAITING_MAX.saturating_sub(state.waiting.len());
        state.waiting.extend(records.into_iter().take(room));
    }

    fn take(&self) -> Vec<Waiting> {
        let mut state = self.0.lock();
        let count = state.waiting.len().min(ROUND_MAX);
        let taken: Vec<_> = state.waiting.drain(..count).collect();
        state.sending = !taken.is_empty();
        taken
    }
}

impl Dist {
    /// Drops a record soon.
    pub(super) fn drop_later(self: &Arc<Self>, record: pb::DropRecordRequest) {
        self.drops.add([Waiting { record, again: false }]);
        if !std::mem::replace(&mut self.drops.0.lock().sending, true) {
            let dist = self.clone();
            runtime::spawn_if_running(async move { dist.drop_records().await });
        }
    }

    /// Until none is left.
    async fn drop_records(&self) {
        loop {
            runtime::pause(DROP_AFTER).await;
            let taken = self.drops.take();
            if taken.is_empty() {
                return;
            }
            let request = |waiting: &Waiting| Outgoing {
                key: waiting.record.anchor.clone(),
                body: Body::DropRecord(waiting.record.clone()),
            };
            let requests = taken.iter().map(request).collect();
            let answers = self.sender().round(requests, ATTEMPT_TIMEOUT).await;
            let lost = taken.into_iter().zip(answers).filter(|(_, answer)| answer.is_err());
            let lost = lost.map(|(waiting, _)| waiting).filter(|waiting| !waiting.again);
            self.drops.add(lost.map(|waiting| Waiting { again: true, ..waiting }));
        }
    }
}
