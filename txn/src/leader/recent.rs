//! Who wrote keys lately, so that whoever comes too late can be told by whom. For people: it
//! decides nothing, and is forgotten with the leader.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use quorate_proto::{Timestamp, pb};

/// Writes remembered.
const WRITES_MAX: usize = 1_024;

/// The last writers of keys.
///
/// # Invariants
/// * Each key in `by_key` is in `order` with the same timestamp, so old ones are found by age.
/// * Nobody else has written a key in `by_key` since.
#[derive(Debug, Default)]
pub struct RecentWriters {
    by_key: HashMap<Bytes, (Timestamp, Arc<pb::LockOwner>)>,
    order: VecDeque<(Bytes, Timestamp)>,
}

impl RecentWriters {
    /// Somebody writes these keys, at this time or later. One that is not known makes them
    /// forgotten: nobody is named for what another did.
    pub fn note<'a>(
        &mut self,
        who: Option<&pb::LockOwner>,
        mut keys: impl ExactSizeIterator<Item = &'a Bytes>,
        ts: Timestamp,
    ) {
        while keys.len() > WRITES_MAX {
            keys.next().map(|key| self.by_key.remove(key));
        }
        let Some(who) = who.map(|who| Arc::new(who.clone())) else {
            keys.for_each(|key| {
                self.by_key.remove(key);
            });
            return;
        };
        for key in keys {
            // A part of the request would keep all of it.
            let key = Bytes::copy_from_slice(key);
            self.by_key.insert(key.clone(), (ts, who.clone()));
            self.order.push_back((key, ts));
        }
        while self.order.len() > WRITES_MAX {
            let Some((key, ts)) = self.order.pop_front() else { return };
            if self.by_key.get(&key).is_some_and(|(newest, _)| *newest == ts) {
                self.by_key.remove(&key);
            }
        }
    }

    /// Who made the event of a key, if that is known.
    pub fn writer(&self, key: &[u8], event: Timestamp) -> Option<&pb::LockOwner> {
        let (ts, who) = self.by_key.get(key)?;
        (*ts <= event).then_some(&**who)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(statement: &str) -> pb::LockOwner {
        pb::LockOwner { statement: statement.into(), ..pb::LockOwner::default() }
    }

    fn writer(recent: &RecentWriters, key: &str, at: u64) -> Option<String> {
        recent.writer(key.as_bytes(), Timestamp(at)).map(|who| who.statement.clone())
    }

    #[test]
    fn the_last_writer_of_a_key_is_known_and_old_ones_are_forgotten() {
        let mut recent = RecentWriters::default();
        let (a, b) = (Bytes::from("a"), Bytes::from("b"));
        recent.note(Some(&who("first")), [&a, &b].into_iter(), Timestamp(5));
        recent.note(Some(&who("second")), [&a].into_iter(), Timestamp(7));
        assert_eq!(writer(&recent, "a", 8).as_deref(), Some("second"));
        // An event before it was somebody else's.
        assert_eq!(writer(&recent, "a", 6), None);
        assert_eq!(writer(&recent, "b", 5).as_deref(), Some("first"));
        let others: Vec<Bytes> =
            (0..WRITES_MAX - 1).map(|n| Bytes::from(format!("k{n}"))).collect();
        recent.note(Some(&who("many")), others.iter(), Timestamp(9));
        assert_eq!(writer(&recent, "b", 5), None);
        assert_eq!(writer(&recent, "a", 8).as_deref(), Some("second"));
        recent.note(Some(&who("one more")), [&b].into_iter(), Timestamp(10));
        assert_eq!(writer(&recent, "a", 8), None);
        recent.note(None, [&b].into_iter(), Timestamp(11));
        assert_eq!(writer(&recent, "b", 12), None);
        assert!(recent.by_key.len() <= WRITES_MAX);
    }
}
