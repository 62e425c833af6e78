//! The replicated state of a range as the transaction commands see it, over a snapshot of the
//! engine, and their changes as a batch for it.

use bytes::Bytes;
use quorate_proto::{Timestamp, TxnId};
use quorate_txn::apply::{Event, Mutation, Span, StateView, ViewError};
use quorate_txn::keys;
use quorate_txn::state::{
    Interval, Lock, Record, Version, decode_record_key, history_key, record_key,
};

use super::read::{first_interval_after, interval_at, last_interval};
use super::version::read_version;
use super::{damaged, engine_failed};
use crate::engine::{Batch, Cf, EngineSnapshot, KeySpan};

/// The state of one range in a snapshot (rule R1).
pub struct EngineView<'a> {
    snapshot: &'a dyn EngineSnapshot,
    span: KeySpan,
    refusals_stand: bool,
}

impl<'a> EngineView<'a> {
    /// The range with these bounds.
    pub fn new(snapshot: &'a dyn EngineSnapshot, span: KeySpan) -> Self {
        Self { snapshot, span, refusals_stand: true }
    }

    /// Says, from a mirror in memory, whether any refusal stands in the range (rule P5).
    #[must_use]
    pub fn with_refusals(mut self, stand: bool) -> Self {
        self.refusals_stand = stand;
        self
    }

    fn decoded<T>(
        &self,
        cf: Cf,
        key: &[u8],
        decode: impl Fn(&[u8]) -> Result<T, ViewError>,
    ) -> Result<Option<T>, ViewError> {
        let mut found = None;
        self.snapshot
            .read(cf, key, &mut |bytes| found = Some(decode(bytes)))
            .map_err(engine_failed)?;
        found.transpose()
    }

    /// The key's first event in `(after, upto]`.
    fn event_of_key(
        &self,
        key: &Bytes,
        after: Timestamp,
        upto: Timestamp,
    ) -> Result<Option<Event>, ViewError> {
        let interval = first_interval_after(self.snapshot, key, after)?;
        let ts = match interval {
            Some(interval) => interval_event(&interval, after, upto),
            None => self
                .latest(key)?
                .map(|version| version.commit_ts)
                .filter(|ts| *ts > after && *ts <= upto),
        };
        Ok(ts.map(|ts| Event { key: key.clone(), ts }))
    }

    /// The least key in `latest` whose version starts in `(after, upto]`.
    fn first_start(
        &self,
        span: &Span,
        after: Timestamp,
        upto: Timestamp,
    ) -> Result<Option<Event>, ViewError> {
        let mut iter = self.snapshot.iter(Cf::Latest, &span.start, &span.end);
        iter.seek_first();
        while let Some((key, value)) = iter.item() {
            let ts = read_version(value, |version| version.commit_ts)?;
            if after < ts && ts <= upto {
                let key = Bytes::copy_from_slice(key);
                return Ok(Some(Event { key, ts }));
            }
            iter.next();
        }
        iter.status().map_err(engine_failed)?;
        Ok(None)
    }

    /// The least key in `history`, below `end`, with an event in `(after, upto]`.
    fn first_ended(
        &self,
        start: &[u8],
        end: &[u8],
        after: Timestamp,
        upto: Timestamp,
    ) -> Result<Option<Event>, ViewError> {
        let (lower, upper) = (Cf::History.bound(start), Cf::History.bound(end));
        let mut iter = self.snapshot.iter(Cf::History, &lower, &upper);
        iter.seek_first();
        while let Some((key, interval)) = interval_at(&*iter)? {
            // Ends rise within a key: the first one above `after` holds its first event.
            if let Some(ts) = interval_event(&interval, after, upto) {
                return Ok(Some(Event { key, ts }));
            }
            iter.next();
        }
        Ok(None)
    }
}

/// The first event of an interval in `(after, upto]`.
fn interval_event(interval: &Interval, after: Timestamp, upto: Timestamp) -> Option<Timestamp> {
    [interval.start, interval.end].into_iter().find(|ts| after < *ts && *ts <= upto)
}

impl StateView for EngineView<'_> {
    fn latest(&self, key: &[u8]) -> Result<Option<Version>, ViewError> {
        self.decoded(Cf::Latest, key, |bytes| Version::decode(bytes).map_err(damaged("latest")))
    }

    fn newest_end(&self, key: &[u8]) -> Result<Option<Timestamp>, ViewError> {
        Ok(last_interval(self.snapshot, key)?.map(|interval| interval.end))
    }

    fn lock(&self, key: &[u8]) -> Result<Option<Lock>, ViewError> {
        self.decoded(Cf::Locks, key, |bytes| Lock::decode(bytes).map_err(damaged("locks")))
    }

    fn record(&self, key: &[u8], id: TxnId) -> Result<Option<Record>, ViewError> {
        self.decoded(Cf::Txns, &record_key(key, id), |bytes| {
            Record::decode(bytes).map_err(damaged("txns"))
        })
    }

    fn first_event_after(
        &self,
        span: &Span,
        after: Timestamp,
        upto: Timestamp,
    ) -> Result<Option<Event>, ViewError> {
        if span.end == keys::next_key(&span.start) {
            return self.event_of_key(&span.start, after, upto);
        }
        let started = self.first_start(span, after, upto)?;
        // History need not be searched beyond a key that is found already.
        let end = match &started {
            Some(event) => keys::next_key(&event.key),
            None => span.end.clone(),
        };
        let ended = self.first_ended(&span.start, &end, after, upto)?;
        Ok(match (started, ended) {
            (Some(started), Some(ended)) => {
                Some(if ended.key <= started.key { ended } else { started })
            }
            (started, ended) => started.or(ended),
        })
    }

    fn first_foreign_lock(
        &self,
        span: &Span,
        own: TxnId,
    ) -> Result<Option<(Bytes, Lock)>, ViewError> {
        let mut iter = self.snapshot.iter(Cf::Locks, &span.start, &span.end);
        iter.seek_first();
        while let Some((key, bytes)) = iter.item() {
            let lock = Lock::decode(bytes).map_err(damaged("locks"))?;
            if lock.txn.id != own {
                return Ok(Some((Bytes::copy_from_slice(key), lock)));
            }
            iter.next();
        }
        iter.status().map_err(engine_failed)?;
        Ok(None)
    }

    fn droppable_records(
        &self,
        floor: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Bytes, TxnId)>, ViewError> {
        let (lower, upper) = (Cf::Txns.bound(&self.span.start), Cf::Txns.bound(&self.span.end));
        let mut iter = self.snapshot.iter(Cf::Txns, &lower, &upper);
        let mut found = Vec::new();
        iter.seek_first();
        while let Some((key, bytes)) = iter.item() {
            if found.len() >= limit {
                break;
            }
            let record = Record::decode(bytes).map_err(damaged("txns"))?;
            if record.droppable_below(floor) {
                found.push(decode_record_key(key).map_err(damaged("txns"))?);
            }
            iter.next();
        }
        iter.status().map_err(engine_failed)?;
        Ok(found)
    }

    fn refusals_stand(&self) -> bool {
        self.refusals_stand
    }
}

/// Adds what the commands changed to a batch. Changes of the floors are the range state's:
/// `Floors::absorb`.
pub fn apply_mutations(mutations: &[Mutation], batch: &mut Batch) {
    for mutation in mutations {
        match mutation {
            Mutation::PutLatest { key, version } => {
                batch.put(Cf::Latest, key, &version.encode());
            }
            Mutation::RemoveLatest { key } => batch.delete(Cf::Latest, key),
            Mutation::PutInterval { key, interval } => {
                batch.put(Cf::History, &history_key(key, interval.end), &interval.encode());
            }
            Mutation::PutLock { key, lock } => batch.put(Cf::Locks, key, &lock.encode()),
            Mutation::RemoveLock { key } => batch.delete(Cf::Locks, key),
            Mutation::PutRecord { key, id, record } => {
                batch.put(Cf::Txns, &record_key(key, *id), &record.encode());
            }
            Mutation::RemoveRecord { key, id } => batch.delete(Cf::Txns, &record_key(key, *id)),
            Mutation::RaiseDeleteWatermark(_)
            | Mutation::RaiseSafePoint(_)
            | Mutation::RaiseTxnFloor(_) => {}
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
