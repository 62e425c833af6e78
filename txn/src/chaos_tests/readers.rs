//! Readers of the small world: at a moment of the past, now, and at a closed moment.

use super::*;

/// Somebody who reads as of now, but not at once.
pub(super) struct Reader {
    began: Duration,
    read_ts: Timestamp,
    /// A reading of a leader's clock from after it began, and which node's (R3).
    observed: (u64, Timestamp),
}

impl World {
    /// Reads one key or all keys of a range, now or a little ago. What the leader lets through is
    /// remembered; what it does not, is met by somebody else.
    pub(super) fn read(&mut self) {
        let key = Bytes::from_static(KEYS[self.rng.below(KEYS.len())]);
        // The reader's own clock may be ahead too.
        let ahead = Duration::from_millis(self.rng.below(240) as u64);
        let ago = Duration::from_millis(self.rng.below(400) as u64);
        let ts = Timestamp::from_duration(self.now + ahead - ago);
        let whole = self.rng.percent(50);
        let at = self.range_of(&key);
        let range = &mut self.ranges[at];
        if ts < range.view.floors.safe_point {
            return;
        }
        range.clock.observe(ts, self.now);
        let span = Span { start: range.start.clone(), end: range.end.clone() };
        let one = [key];
        let what = if whole { ReadSet::Span(&span) } else { ReadSet::Keys(&one) };
        let start = range.leader.begin_read(what, Window::exactly(ts), None);
        let ReadStart::Clear(decided) = start else { return };
        for key in KEYS.map(Bytes::from_static) {
            if one[0] == key || (whole && range.contains(&key)) {
                let value = range.view.read_through(&key, ts, &decided);
                self.oracle.read(key, ts, value);
            }
        }
    }

    /// Somebody begins to read, or goes on, as of when it began, by the clock of some node. What
    /// was told committed before that is seen, or is uncertain (R2): nothing is read that is older.
    pub(super) fn read_now(&mut self) {
        if self.reader.is_none() && self.rng.percent(20) {
            let at = self.rng.below(self.ranges.len());
            self.begin_to_read(at);
        }
        if self.rng.percent(40)
            && let Some(reader) = self.reader.take()
        {
            self.go_on(&reader);
        }
    }

    /// Somebody has just chosen when to read, and hears of the clock of a range's leader.
    pub(super) fn begin_to_read(&mut self, at: usize) {
        let ahead = Duration::from_millis(self.rng.below(240) as u64);
        let read_ts = Timestamp::from_duration(self.now + ahead);
        let range = &mut self.ranges[at];
        let observed = (range.node, range.clock.now(self.now));
        self.reader = Some(Reader { began: self.now, read_ts, observed });
    }

    fn go_on(&mut self, reader: &Reader) {
        let key = Bytes::from_static(KEYS[self.rng.below(KEYS.len())]);
        let read_ts = reader.read_ts;
        let upto = match Mistake::WindowEmpty.is_made() {
            true => read_ts,
            false => read_ts.bound_after(MAX_CLOCK_OFFSET),
        };
        let at = self.range_of(&key);
        let range = &mut self.ranges[at];
        range.clock.observe(read_ts, self.now);
        let (node, observed) = reader.observed;
        let of_this = node == range.node || Mistake::ObservedElsewhere.is_made();
        let observed = if of_this { observed } else { Timestamp::ZERO };
        let window = range.leader.window(Window { read_ts, upto, observed });
        let asked = ReadSet::Keys(std::slice::from_ref(&key));
        let start = range.leader.begin_read(asked, window, None);
        let ReadStart::Clear(decided) = start else { return };
        if decided.iter().all(|lock| lock.key != key) && range.uncertain(&key, &window) {
            return;
        }
        for (id, told) in self.told.iter().filter(|(_, told)| **told < reader.began) {
            let Some(Outcome::Committed(ts)) = self.outcomes.get(id) else { continue };
            let value = Bytes::from(format!("t{}", id.0));
            let locked = self.ranges[at].view.locks.get(&key);
            // It may be a row already (P10).
            let locked = locked.filter(|lock| lock.value.as_ref() == Some(&value));
            let since = self.oracle.since(&key, &value).or(locked.map(|_| *ts));
            assert!(
                since.is_none_or(|since| since <= read_ts),
                "{id} was told at {told:?}, before {:?}, and is not seen at {read_ts}",
                reader.began
            );
        }
    }

    /// A leader closes a moment, and a follower that has applied what the leader has reads it (R6).
    pub(super) fn read_closed(&mut self) {
        let ago = Duration::from_millis(self.rng.below(200) as u64);
        let at = self.rng.below(self.ranges.len());
        let range = &mut self.ranges[at];
        let ts = range.clock.physical(self.now - ago);
        if ts < range.view.floors.safe_point || range.leader.close_at(ts) != Ok(true) {
            return;
        }
        for key in KEYS.map(Bytes::from_static).into_iter().filter(|key| range.contains(key)) {
            if range.view.locks.get(&key).is_none_or(|lock| lock.min_commit_ts > ts) {
                let value = range.view.read(&key, ts);
                self.oracle.read(key, ts, value);
            }
        }
    }
}

impl Range {
    /// Whether the first event after the read may have been before the reader (R2, R3).
    fn uncertain(&self, key: &Bytes, window: &Window) -> bool {
        let event = |ts, local| window.is_uncertain(ts, local);
        let latest = self.view.latest.get(key);
        let current = latest.is_some_and(|version| event(version.commit_ts, version.local_ts));
        current
            || self.view.history.iter().any(|((k, end), i)| {
                k == key && (event(i.start, i.start_local) || event(*end, i.end_local))
            })
    }
}
