//! What a range's state machine keeps, typed: versions, intervals, locks and records, their
//! encodings, and the keys of the column families `history` and `txns`.
//!
//! `latest` and `locks` are keyed by the user key itself. `history` is keyed by (user key, end),
//! `txns` by (user key, transaction id), the user key escaped ([`keys::put_escaped`]): both sort
//! by user key, so they split, merge, stream and die with their range (rule P5).

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use quorate_proto::{Timestamp, TxnId, pb};

use crate::keys::{self, KeyError, Pretty};

/// Bytes of the state that do not decode: the disk lies, or a newer release wrote them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A key of `history` or `txns`.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A value that is no message of its kind.
    #[error("a {what} does not decode: {why}")]
    Value {
        /// The kind of value.
        what: &'static str,
        /// What the decoder said.
        why: String,
    },
}

fn decode<M: Message + Default>(what: &'static str, bytes: &[u8]) -> Result<M, DecodeError> {
    M::decode(bytes).map_err(|e| DecodeError::Value { what, why: e.to_string() })
}

fn broken(what: &'static str, why: &str) -> DecodeError {
    DecodeError::Value { what, why: why.to_string() }
}

/// 0 where the local clock is the timestamp itself, as it nearly always is.
fn pack_local(local: Timestamp, ts: Timestamp) -> u64 {
    if local == ts { 0 } else { local.0 }
}

fn unpack_local(local: u64, ts: u64) -> Timestamp {
    Timestamp(if local == 0 { ts } else { local })
}

// ---------------------------------------------------------------- transactions

/// What never changes once a prepare or one-range commit of an id was sent (rule P12).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TxnMeta {
    /// The transaction.
    pub id: TxnId,
    /// Its first written key; the record is kept there.
    pub anchor: Bytes,
    /// The gateway's clock when it first sent this id (rule P6).
    pub commit_start: Timestamp,
}

impl TxnMeta {
    /// From the wire; `None` if the id is not one.
    pub fn from_pb(meta: &pb::TxnMeta) -> Option<Self> {
        Some(Self {
            id: TxnId::from_bytes(&meta.txn_id)?,
            anchor: meta.anchor.clone(),
            commit_start: Timestamp(meta.commit_start),
        })
    }

    /// As it travels.
    pub fn to_pb(&self) -> pb::TxnMeta {
        pb::TxnMeta {
            txn_id: self.id.to_bytes(),
            anchor: self.anchor.clone(),
            commit_start: self.commit_start.0,
        }
    }

    /// Its place in the order of rule P13: who is less is older and may wait.
    pub fn age(&self) -> (Timestamp, TxnId) {
        (self.commit_start, self.id)
    }
}

impl fmt::Display for TxnMeta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} anchor={} start={}", self.id, Pretty(&self.anchor), self.commit_start)
    }
}

/// The end of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// All its writes happened at this timestamp.
    Committed(Timestamp),
    /// None of its writes happened.
    Aborted,
}

impl Verdict {
    /// From the wire.
    pub fn from_pb(verdict: &pb::Verdict) -> Self {
        match verdict.committed_ts {
            0 => Self::Aborted,
            ts => Self::Committed(Timestamp(ts)),
        }
    }

    /// As it travels.
    pub fn to_pb(self) -> pb::Verdict {
        let committed_ts = match self {
            Self::Committed(ts) => ts.0,
            Self::Aborted => 0,
        };
        pb::Verdict { committed_ts }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Committed(ts) => write!(f, "committed({ts})"),
            Self::Aborted => f.write_str("aborted"),
        }
    }
}

// ---------------------------------------------------------------- latest

/// The current version of a key (`latest`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// When it starts.
    pub commit_ts: Timestamp,
    /// The leader's clock when it was written (rule R3).
    pub local_ts: Timestamp,
    /// The row.
    pub value: Bytes,
}

impl Version {
    /// The value in `latest`.
    pub fn encode(&self) -> Vec<u8> {
        pb::VersionValue {
            commit_ts: self.commit_ts.0,
            local_ts: pack_local(self.local_ts, self.commit_ts),
            value: self.value.clone(),
        }
        .encode_to_vec()
    }

    /// From the value in `latest`.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let m: pb::VersionValue = decode("version", bytes)?;
        Ok(Self {
            commit_ts: Timestamp(m.commit_ts),
            local_ts: unpack_local(m.local_ts, m.commit_ts),
            value: m.value,
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.commit_ts, self.value.escape_ascii())?;
        if self.local_ts != self.commit_ts {
            write!(f, " local={}", self.local_ts)?;
        }
        Ok(())
    }
}

// ---------------------------------------------------------------- history

/// A version that was replaced or deleted: it lived in `[start, end)` (`history`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interval {
    /// Exclusive; part of the key.
    pub end: Timestamp,
    /// The leader's clock at the end (rule R3).
    pub end_local: Timestamp,
    /// Inclusive.
    pub start: Timestamp,
    /// The leader's clock at the start.
    pub start_local: Timestamp,
    /// The row.
    pub value: Bytes,
}

impl Interval {
    /// The lifetime of `version`, ended at `end`.
    pub fn ended(version: &Version, end: Timestamp, end_local: Timestamp) -> Self {
        Self {
            end,
            end_local,
            start: version.commit_ts,
            start_local: version.local_ts,
            value: version.value.clone(),
        }
    }

    /// Whether it is what a read at `ts` sees.
    pub fn visible_at(&self, ts: Timestamp) -> bool {
        self.start <= ts && ts < self.end
    }

    /// The value in `history`.
    pub fn encode(&self) -> Vec<u8> {
        pb::HistoryValue {
            start_ts: self.start.0,
            start_local_ts: pack_local(self.start_local, self.start),
            end_local_ts: pack_local(self.end_local, self.end),
            value: self.value.clone(),
        }
        .encode_to_vec()
    }

    /// From the end timestamp of the key and the value in `history`.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(end: Timestamp, bytes: &[u8]) -> Result<Self, DecodeError> {
        let m: pb::HistoryValue = decode("history interval", bytes)?;
        Ok(Self {
            end,
            end_local: unpack_local(m.end_local_ts, end.0),
            start: Timestamp(m.start_ts),
            start_local: unpack_local(m.start_local_ts, m.start_ts),
            value: m.value,
        })
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})={}", self.start, self.end, self.value.escape_ascii())
    }
}

/// The key in `history`. The interval that a read at `ts` may see is the first one at or after
/// `history_key(key, ts.next())`.
pub fn history_key(key: &[u8], end: Timestamp) -> Bytes {
    let mut out = BytesMut::with_capacity(key.len() + 12);
    keys::put_escaped(&mut out, key);
    out.put_u64(end.0);
    out.freeze()
}

/// The user key and end timestamp of a key in `history`.
///
/// # Errors
/// [`DecodeError`].
pub fn decode_history_key(bytes: &[u8]) -> Result<(Bytes, Timestamp), DecodeError> {
    let (key, rest) = keys::take_escaped(bytes)?;
    let end = rest.try_into().map_err(|_| KeyError { what: "a key of a history interval" })?;
    Ok((key, Timestamp(u64::from_be_bytes(end))))
}

/// Where the keys of `history` and of `txns` for user keys at or above `bound` begin. An empty
/// bound (the beginning, or beyond every key) stays empty.
pub fn cf_bound(bound: &[u8]) -> Bytes {
    if bound.is_empty() {
        return Bytes::new();
    }
    let mut out = BytesMut::with_capacity(bound.len() + 4);
    keys::put_escaped(&mut out, bound);
    out.freeze()
}

// ---------------------------------------------------------------- locks

/// A prepared write (`locks`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// Whose.
    pub txn: TxnMeta,
    /// The transaction commits no earlier. Never rewritten (rule P2).
    pub min_commit_ts: Timestamp,
    /// The leader's clock at prepare (rule R3).
    pub local_ts: Timestamp,
    /// The new value; `None` deletes.
    pub value: Option<Bytes>,
    /// The leader saw neither a version nor an ended interval (rule R5).
    pub known_absent: bool,
}

impl Lock {
    /// The value in `locks`.
    pub fn encode(&self) -> Vec<u8> {
        pb::LockValue {
            txn: Some(self.txn.to_pb()),
            min_commit_ts: self.min_commit_ts.0,
            local_ts: pack_local(self.local_ts, self.min_commit_ts),
            delete: self.value.is_none(),
            value: self.value.clone().unwrap_or_default(),
            known_absent: self.known_absent,
        }
        .encode_to_vec()
    }

    /// From the value in `locks`.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let m: pb::LockValue = decode("lock", bytes)?;
        let txn = m
            .txn
            .as_ref()
            .and_then(TxnMeta::from_pb)
            .ok_or_else(|| broken("lock", "it names no transaction"))?;
        Ok(Self {
            txn,
            min_commit_ts: Timestamp(m.min_commit_ts),
            local_ts: unpack_local(m.local_ts, m.min_commit_ts),
            value: (!m.delete).then_some(m.value),
            known_absent: m.known_absent,
        })
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} min={}", self.txn, self.min_commit_ts)?;
        match &self.value {
            Some(value) => write!(f, " put={}", value.escape_ascii()),
            None => f.write_str(" delete"),
        }
    }
}

// ---------------------------------------------------------------- txns

/// What is known of a transaction under one of its keys (`txns`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// How far it is.
    pub state: RecordState,
    /// For the transaction floor (rule P6).
    pub commit_start: Timestamp,
}

/// The states of a record; all but `Refused` stand at the anchor only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordState {
    /// Committed as soon as every key holds its lock.
    Staging {
        /// Every key of the transaction.
        keys: Vec<Bytes>,
    },
    /// Committed only by an explicit verdict (rule P9).
    Preparing {
        /// Every key of the transaction.
        keys: Vec<Bytes>,
    },
    /// Decided.
    Committed {
        /// The timestamp of all its writes.
        ts: Timestamp,
        /// The keys whose locks may still stand: none for a one-range commit, and none once all
        /// were confirmed resolved.
        keys: Vec<Bytes>,
        /// No lock was left behind: the record goes when the floor passes it (rules P6, P7).
        one_range: bool,
    },
    /// Decided.
    Aborted,
    /// Recovery closed this key: no lock of the transaction can come here any more (rule P3).
    Refused,
}

impl Record {
    /// The verdict, if it is one.
    pub fn verdict(&self) -> Option<Verdict> {
        match &self.state {
            RecordState::Committed { ts, .. } => Some(Verdict::Committed(*ts)),
            RecordState::Aborted => Some(Verdict::Aborted),
            RecordState::Staging { .. } | RecordState::Preparing { .. } | RecordState::Refused => {
                None
            }
        }
    }

    /// Whether it goes when the transaction floor has passed it (rule P6).
    pub fn droppable_below(&self, floor: Timestamp) -> bool {
        let kind = match &self.state {
            RecordState::Committed { one_range, .. } => *one_range,
            RecordState::Aborted | RecordState::Refused => true,
            RecordState::Staging { .. } | RecordState::Preparing { .. } => false,
        };
        kind && self.commit_start < floor
    }

    /// The status that answers a look-up; a refusal at the anchor means that nothing can come.
    pub fn status(&self) -> pb::TxnStatus {
        use pb::txn_status::State;
        let staging = |keys: &Vec<Bytes>| pb::StagingState {
            keys: keys.clone(),
            commit_start: self.commit_start.0,
        };
        let state = match &self.state {
            RecordState::Staging { keys } => State::Staging(staging(keys)),
            RecordState::Preparing { keys } => State::Preparing(staging(keys)),
            RecordState::Committed { ts, .. } => State::Verdict(Verdict::Committed(*ts).to_pb()),
            RecordState::Aborted => State::Verdict(Verdict::Aborted.to_pb()),
            RecordState::Refused => State::Missing(true),
        };
        pb::TxnStatus { state: Some(state) }
    }

    /// The value in `txns`.
    pub fn encode(&self) -> Vec<u8> {
        use pb::record_value::State;
        let mut m = pb::RecordValue { commit_start: self.commit_start.0, ..Default::default() };
        match &self.state {
            RecordState::Staging { keys } => {
                m.set_state(State::Staging);
                m.keys = keys.clone();
            }
            RecordState::Preparing { keys } => {
                m.set_state(State::Preparing);
                m.keys = keys.clone();
            }
            RecordState::Committed { ts, keys, one_range } => {
                m.set_state(State::Committed);
                m.committed_ts = ts.0;
                m.keys = keys.clone();
                m.one_range = *one_range;
            }
            RecordState::Aborted => m.set_state(State::Aborted),
            RecordState::Refused => m.set_state(State::Refused),
        }
        m.encode_to_vec()
    }

    /// From the value in `txns`.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        use pb::record_value::State;
        let m: pb::RecordValue = decode("transaction record", bytes)?;
        let state = State::try_from(m.state)
            .map_err(|_| broken("transaction record", "its state is unknown"))?;
        let state = match state {
            State::Staging => RecordState::Staging { keys: m.keys },
            State::Preparing => RecordState::Preparing { keys: m.keys },
            State::Committed => RecordState::Committed {
                ts: Timestamp(m.committed_ts),
                keys: m.keys,
                one_range: m.one_range,
            },
            State::Aborted => RecordState::Aborted,
            State::Refused => RecordState::Refused,
        };
        Ok(Self { state, commit_start: Timestamp(m.commit_start) })
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, keys: &[Bytes]| -> fmt::Result {
            for (i, key) in keys.iter().enumerate() {
                write!(f, "{}{}", if i == 0 { " keys=" } else { "," }, Pretty(key))?;
            }
            Ok(())
        };
        match &self.state {
            RecordState::Staging { keys } => {
                f.write_str("staging")?;
                list(f, keys)?;
            }
            RecordState::Preparing { keys } => {
                f.write_str("preparing")?;
                list(f, keys)?;
            }
            RecordState::Committed { ts, keys, one_range } => {
                write!(f, "committed({ts})")?;
                list(f, keys)?;
                if *one_range {
                    f.write_str(" no-locks")?;
                }
            }
            RecordState::Aborted => f.write_str("aborted")?,
            RecordState::Refused => f.write_str("refused")?,
        }
        write!(f, " start={}", self.commit_start)
    }
}

/// The key in `txns`.
pub fn record_key(key: &[u8], id: TxnId) -> Bytes {
    let mut out = BytesMut::with_capacity(key.len() + 20);
    keys::put_escaped(&mut out, key);
    out.put_u128(id.0);
    out.freeze()
}

/// The user key and transaction of a key in `txns`.
///
/// # Errors
/// [`DecodeError`].
pub fn decode_record_key(bytes: &[u8]) -> Result<(Bytes, TxnId), DecodeError> {
    let (key, rest) = keys::take_escaped(bytes)?;
    let id = TxnId::from_bytes(rest).ok_or(KeyError { what: "a key of a transaction record" })?;
    Ok((key, id))
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
