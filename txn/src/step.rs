//! What the coordinator's and the recovery's step machines say to their driver and hear from it.
//!
//! The driver owns time, routes and the network. It carries out every [`Action`] in order, as
//! soon as it is returned, and reports each result as an [`Input`]. Results may come late, twice
//! or never; a machine ignores what it does not wait for any more.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use quorate_proto::{Timestamp, pb};

use crate::config::{RETRY_PAUSE_MAX, RETRY_PAUSE_MIN};
use crate::keys::Pretty;
use crate::state::Verdict;

/// One piece of work of a machine, through all its repetitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

impl CallId {
    /// Of a request whose answer nobody waits for.
    pub const NOBODYS: Self = Self(0);
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}", self.0)
    }
}

/// A timer of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimerId {
    /// The pause of a call is over.
    Retry(CallId),
    /// Say that the coordinator is alive (P11).
    Heartbeat,
    /// Stop trying to commit.
    Deadline,
    /// Stop trying to find out.
    GiveUp,
}

/// What lies in one range, as the router knows now.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Group {
    /// Of the keys asked about.
    pub keys: Vec<Bytes>,
    /// Of the checks asked about; spans that cross a border are cut there.
    pub checks: Vec<pb::ReadCheck>,
}

/// What a machine hears.
#[expect(
    clippy::large_enum_variant,
    reason = "replies are the common input; each is moved in once"
)]
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Begin.
    Start,
    /// The answer to [`Action::Route`]. Empty: the routes cannot be found now.
    Routed(CallId, Vec<Group>),
    /// The range's answer to [`Action::Send`].
    Reply(CallId, pb::range_response::Body),
    /// No answer came to [`Action::Send`]: whether it was done is not known.
    Failed {
        /// To what.
        call: CallId,
    },
    /// A timer is due.
    Timer(TimerId),
    /// The answer to [`Action::Clear`]: the verdict, once the lock is gone, or `None` while the
    /// transaction is undecided.
    Cleared(CallId, Option<Verdict>),
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Group these by range.
    Route {
        /// To report with.
        call: CallId,
        /// Keys.
        keys: Vec<Bytes>,
        /// Keys and spans that were read.
        checks: Vec<pb::ReadCheck>,
    },
    /// Send to the range that holds `key`. Errors that name a better route are taken in by the
    /// driver's range cache and reported too.
    Send {
        /// To report with.
        call: CallId,
        /// Any key of the range.
        key: Bytes,
        /// The request.
        body: pb::range_request::Body,
    },
    /// Report [`Input::Timer`] at monotonic time `at`. Setting a timer again moves it.
    SetTimer {
        /// Which.
        timer: TimerId,
        /// When.
        at: Duration,
    },
    /// Find the verdict of a lock in the way and have it resolved: run a
    /// [`crate::recovery::Recovery`] for it.
    Clear {
        /// To report with.
        call: CallId,
        /// The lock.
        lock: pb::Locked,
        /// May wait for an undecided transaction (P13); else asks once.
        wait: bool,
    },
    /// Have the anchor's record lose its keys, whenever it suits: every lock is confirmed resolved
    /// (rule P4), and nothing waits for it.
    DropLater(pb::DropRecordRequest),
    /// Tell the client. Comes once. Before the client hears of a commit, wait until the physical
    /// clock has passed its timestamp (T4).
    Answer(crate::coordinator::Outcome),
    /// Tell whoever met the lock. Comes once.
    Recovered(Option<Verdict>),
    /// Nothing is left to do.
    Done,
}

fn list(keys: &[Bytes]) -> String {
    let keys: Vec<_> = keys.iter().map(|key| Pretty(key).to_string()).collect();
    keys.join(",")
}

fn request(body: &pb::range_request::Body) -> String {
    use pb::range_request::Body;
    let verdict = |v: &Option<pb::Verdict>| v.as_ref().map(|v| Verdict::from_pb(v).to_string());
    let of_writes = |w: &[pb::Write]| list(&w.iter().map(|w| w.key.clone()).collect::<Vec<_>>());
    match body {
        Body::Prepare(m) => match m.record() {
            pb::RecordKind::NoRecord => format!("prepare {}", of_writes(&m.writes)),
            pb::RecordKind::Staging => format!("prepare staging {}", of_writes(&m.writes)),
            pb::RecordKind::Preparing => format!("prepare preparing {}", of_writes(&m.writes)),
        },
        Body::Commit(m) => {
            format!("commit {} checks={}", of_writes(&m.writes), m.checks.len())
        }
        Body::Verdict(m) => {
            let what = verdict(&m.verdict).unwrap_or_default();
            match m.resolve.is_empty() {
                true => format!("verdict {what}"),
                false => format!("verdict {what} resolve={}", list(&m.resolve)),
            }
        }
        Body::Close(m) if m.record => String::from("close record"),
        Body::Close(m) => format!("close {}", Pretty(&m.key)),
        Body::Resolve(m) => {
            format!("resolve {} {}", list(&m.keys), verdict(&m.verdict).unwrap_or_default())
        }
        Body::Lookup(m) => format!("lookup wait={}ms", m.wait_ms),
        Body::Check(m) => format!("check {} upto={}", m.checks.len(), Timestamp(m.upto)),
        Body::DropRecord(_) => String::from("drop record"),
        Body::Heartbeat(_) => String::from("heartbeat"),
        Body::Hint(m) => format!("hint {} committed={}", list(&m.keys), Timestamp(m.commit_ts)),
        Body::Read(_)
        | Body::Scan(_)
        | Body::Split(_)
        | Body::TransferLeader(_)
        | Body::ChangeReplicas(_)
        | Body::RaiseSafePoint(_)
        | Body::Lock(_)
        | Body::Unlock(_)
        | Body::CloseTimestamp(_) => String::from("not a transaction's"),
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route { call, keys, checks } => {
                write!(f, "{call} route {} checks={}", list(keys), checks.len())
            }
            Self::Send { call, key, body } => {
                write!(f, "{call} to {}: {}", Pretty(key), request(body))
            }
            Self::SetTimer { timer, at } => write!(f, "timer {timer:?} at {}ms", at.as_millis()),
            Self::Clear { call, lock, wait } => {
                write!(f, "{call} clear {} wait={wait}", Pretty(&lock.key))
            }
            Self::DropLater(record) => write!(f, "drop later {}", Pretty(&record.anchor)),
            Self::Answer(outcome) => write!(f, "answer {outcome}"),
            Self::Recovered(Some(verdict)) => write!(f, "recovered {verdict}"),
            Self::Recovered(None) => f.write_str("undecided"),
            Self::Done => f.write_str("done"),
        }
    }
}

/// What must be done after an error that says nothing about the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Group again, then send.
    Route,
    /// Send again after a pause.
    Pause,
}

/// How to go on after this error; `None` if the transaction is concerned.
pub(crate) fn repeat_after(error: &pb::RangeError) -> Option<Repeat> {
    use quorate_proto::RetryClass;
    match error.retry_class() {
        RetryClass::There => Some(Repeat::Route),
        RetryClass::Here | RetryClass::Unknown => Some(Repeat::Pause),
        RetryClass::AfterLookup | RetryClass::Transaction | RetryClass::Never => None,
    }
}

/// The calls a machine waits for.
///
/// # Invariants
/// * A call id is never used for two pieces of work, so a late report never meets another one.
#[derive(Debug)]
pub(crate) struct Calls<W> {
    next: u64,
    open: BTreeMap<CallId, (W, u32)>,
    /// The longest pause before a repetition.
    pub pause_max: Duration,
}

impl<W> Default for Calls<W> {
    fn default() -> Self {
        Self { next: 1, open: BTreeMap::new(), pause_max: RETRY_PAUSE_MAX }
    }
}

impl<W> Calls<W> {
    pub fn id(&mut self) -> CallId {
        let id = CallId(self.next);
        self.next += 1;
        id
    }

    pub fn add(&mut self, work: W) -> CallId {
        let id = self.id();
        self.open.insert(id, (work, 0));
        id
    }

    pub fn get(&self, id: CallId) -> Option<&W> {
        self.open.get(&id).map(|(work, _)| work)
    }

    pub fn remove(&mut self, id: CallId) -> Option<W> {
        self.open.remove(&id).map(|(work, _)| work)
    }

    pub fn clear(&mut self) {
        self.open.clear();
    }

    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub fn works(&self) -> impl Iterator<Item = (&CallId, &W)> {
        self.open.iter().map(|(id, (work, _))| (id, work))
    }

    /// The timer for the next repetition: pauses double up to the longest.
    pub fn pause(&mut self, id: CallId, now: Duration) -> Option<Action> {
        let (_, attempts) = self.open.get_mut(&id)?;
        let pause = RETRY_PAUSE_MIN.saturating_mul(1 << (*attempts).min(16));
        *attempts += 1;
        Some(Action::SetTimer { timer: TimerId::Retry(id), at: now + pause.min(self.pause_max) })
    }
}

#[cfg(test)]
#[path = "step_tests.rs"]
mod tests;
