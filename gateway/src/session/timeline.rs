//! What a session's transaction did and what it cost, statement by statement: `SHOW LAST
//! TRANSACTION`.

use std::sync::Arc;
use std::time::Duration;

use crate::dist::commit::Committed;
use crate::dist::costs::Costs;

/// Events remembered of a transaction; later ones are only counted.
const EVENTS_MAX: usize = 1_000;

/// The columns it is shown in.
pub const COLUMNS: &[&str] = &[
    "at_ms",
    "took_ms",
    "event",
    "rpc_rounds",
    "consensus_rounds",
    "rows_read",
    "lock_ms",
    "clock_wait_ms",
    "moved",
    "begun_again",
    "follower_reads",
];

#[derive(Debug, Clone)]
enum What {
    Statement(Arc<str>),
    /// The commit, and what it cost if it came to its end.
    Commit(Option<Committed>),
    RolledBack,
    Failed(String),
    RunAgain(&'static str),
    LeftOut(usize),
}

#[derive(Debug, Clone)]
struct Event {
    at: Duration,
    took: Option<Duration>,
    what: What,
    /// What the transaction had cost before, and after.
    before: Costs,
    after: Costs,
}

/// The events of a transaction.
#[derive(Debug, Clone, Default)]
pub struct Timeline {
    began: Duration,
    events: Vec<Event>,
}

impl Timeline {
    /// Of a transaction that begins now.
    pub fn begin(now: Duration) -> Self {
        Self { began: now, events: Vec::new() }
    }

    fn push(&mut self, at: Duration, what: What, costs: Costs) {
        if self.events.len() < EVENTS_MAX {
            self.events.push(Event { at, took: None, what, before: costs, after: costs });
            return;
        }
        match self.events.last_mut() {
            Some(Event { what: What::LeftOut(count), .. }) => *count += 1,
            _ => self.events.push(Event {
                at,
                took: None,
                what: What::LeftOut(1),
                before: costs,
                after: costs,
            }),
        }
    }

    /// A statement begins.
    pub fn statement(&mut self, now: Duration, text: &Arc<str>, costs: Costs) {
        self.push(now, What::Statement(text.clone()), costs);
    }

    /// The last statement has ended: its rows were taken.
    pub fn ended(&mut self, now: Duration, costs: Costs) {
        if let Some(last) = self.events.last_mut()
            && matches!(last.what, What::Statement(_))
        {
            last.took = Some(now.saturating_sub(last.at));
            last.after = costs;
        }
    }

    /// A commit that began at `since`.
    pub fn commit(&mut self, since: Duration, now: Duration, done: Option<Committed>) {
        self.push(since, What::Commit(done), Costs::default());
        if let Some(last) = self.events.last_mut() {
            last.took = Some(now.saturating_sub(since));
        }
    }

    /// It was rolled back.
    pub fn rolled_back(&mut self, now: Duration) {
        self.push(now, What::RolledBack, Costs::default());
    }

    /// It met an error.
    pub fn failed(&mut self, now: Duration, error: String) {
        self.push(now, What::Failed(error), Costs::default());
    }

    /// What came before is run again.
    pub fn run_again(&mut self, now: Duration, why: &'static str) {
        self.push(now, What::RunAgain(why), Costs::default());
    }

    /// The rows it is shown as.
    pub fn rows(&self) -> Vec<Vec<String>> {
        self.events.iter().map(|event| self.row(event)).collect()
    }

    fn row(&self, event: &Event) -> Vec<String> {
        let (what, consensus, clock_wait) = match &event.what {
            What::Statement(text) => (crate::dist::errors::shortened(text), 0, Duration::ZERO),
            What::Commit(Some(done)) => {
                let ranges = if done.one_range { "one range" } else { "many ranges" };
                (format!("COMMIT ({ranges})"), done.consensus_rounds, done.clock_wait)
            }
            What::Commit(None) => (String::from("COMMIT (nothing was written)"), 0, Duration::ZERO),
            What::RolledBack => (String::from("ROLLBACK"), 0, Duration::ZERO),
            What::Failed(error) => (format!("failed: {error}"), 0, Duration::ZERO),
            What::RunAgain(why) => (format!("run again: {why}"), 0, Duration::ZERO),
            What::LeftOut(count) => (format!("{count} more events"), 0, Duration::ZERO),
        };
        let cost = event.after.since(&event.before);
        vec![
            millis(event.at.saturating_sub(self.began)),
            event.took.map(millis).unwrap_or_default(),
            what,
            cost.rpc_rounds.to_string(),
            consensus.to_string(),
            cost.rows_read.to_string(),
            millis(cost.locking),
            millis(clock_wait + cost.clock_wait),
            cost.moves.to_string(),
            cost.begun_again.to_string(),
            cost.follower_reads.to_string(),
        ]
    }
}

/// With three digits of a millisecond.
fn millis(span: Duration) -> String {
    format!("{}.{:03}", span.as_millis(), span.as_micros() % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_shows_what_it_has_cost() {
        let ms = Duration::from_millis;
        let mut timeline = Timeline::begin(ms(100));
        let mut costs = Costs { rpc_rounds: 5, ..Costs::default() };
        timeline.statement(ms(101), &Arc::from("select 1"), costs);
        costs.rpc_rounds = 7;
        costs.locking = ms(3);
        timeline.ended(ms(104), costs);
        let done = Committed {
            one_range: true,
            consensus_rounds: 1,
            clock_wait: Duration::from_micros(5),
        };
        timeline.commit(ms(110), ms(112), Some(done));
        let rows = timeline.rows();
        assert_eq!(
            rows[0],
            ["1.000", "3.000", "select 1", "2", "0", "0", "3.000", "0.000", "0", "0", "0"]
        );
        assert_eq!(rows[1][2..5], ["COMMIT (one range)", "0", "1"]);
        assert_eq!(rows[1][7], "0.005");
    }

    #[test]
    fn a_long_transaction_is_cut_off() {
        let mut timeline = Timeline::default();
        for _ in 0..EVENTS_MAX + 5 {
            timeline.rolled_back(Duration::ZERO);
        }
        assert_eq!(timeline.rows().len(), EVENTS_MAX + 1);
        assert_eq!(timeline.rows()[EVENTS_MAX][2], "5 more events");
    }
}
