//! Which coordinators are taken for dead (rule P11), on the monotonic clock.

use std::collections::HashMap;
use std::time::Duration;

use quorate_proto::TxnId;

use crate::config::TXN_TTL;
use crate::mistakes::Mistake;

/// Entries above which old ones are thrown away. A lost entry only restarts its time.
const ENTRIES_MAX: usize = 10_000;

#[derive(Debug, Clone, Copy)]
struct Ear {
    last_heard: Duration,
    first_asked: Option<Duration>,
}

impl Ear {
    fn latest(&self) -> Duration {
        self.last_heard.max(self.first_asked.unwrap_or_default())
    }
}

/// When each coordinator was last heard of, and first asked about.
#[derive(Debug)]
pub struct Hearing {
    began: Duration,
    ears: HashMap<TxnId, Ear>,
}

impl Hearing {
    /// Of a leader that began to lead at `began`.
    pub fn new(began: Duration) -> Self {
        Self { began, ears: HashMap::new() }
    }

    /// The coordinator sent something.
    pub fn heard(&mut self, id: TxnId, now: Duration) {
        self.make_room(now);
        let ear = self.ears.entry(id).or_insert(Ear { last_heard: now, first_asked: None });
        ear.last_heard = ear.last_heard.max(now);
    }

    /// Somebody asks: whether the coordinator is taken for dead.
    pub fn expired(&mut self, id: TxnId, now: Duration) -> bool {
        self.make_room(now);
        let began = self.began;
        let ear = self.ears.entry(id).or_insert(Ear { last_heard: began, first_asked: None });
        ear.first_asked.get_or_insert(now);
        now >= self.expires_at(id) || Mistake::LivingExpired.is_made()
    }

    /// When it will be taken for dead, as known now.
    pub fn expires_at(&self, id: TxnId) -> Duration {
        let latest = self.ears.get(&id).map(Ear::latest).unwrap_or_default();
        latest.max(self.began) + TXN_TTL
    }

    /// It is decided.
    pub fn forget(&mut self, id: TxnId) {
        self.ears.remove(&id);
    }

    fn make_room(&mut self, now: Duration) {
        if self.ears.len() >= ENTRIES_MAX {
            self.ears.retain(|_, ear| ear.latest() + 5 * TXN_TTL > now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// P11: each of the three starts the time anew.
    #[test]
    fn expiry_counts_from_the_latest_of_three() {
        let id = TxnId(1);
        let mut hearing = Hearing::new(10 * SECOND);
        assert!(!hearing.expired(id, 11 * SECOND), "first asked at 11");
        assert!(!hearing.expired(id, 13 * SECOND - Duration::from_nanos(1)));
        assert!(hearing.expired(id, 13 * SECOND));
        hearing.heard(id, 13 * SECOND);
        assert!(!hearing.expired(id, 14 * SECOND), "heard at 13");
        assert!(hearing.expired(id, 15 * SECOND));
        let mut next = Hearing::new(15 * SECOND);
        assert!(!next.expired(id, 15 * SECOND), "began to lead at 15");
    }

    #[test]
    fn memory_stays_bounded_without_forgetting_the_living() {
        let mut hearing = Hearing::new(Duration::ZERO);
        for n in 0..ENTRIES_MAX {
            hearing.heard(TxnId(n as u128), Duration::ZERO);
        }
        hearing.heard(TxnId(u128::MAX), 60 * SECOND);
        assert_eq!(hearing.ears.len(), 1);
    }
}
