//! What a session's transaction did and what it cost, statement by statement: `SHOW LAST
//! TRANSACTION`.

use std::sync::Arc;
use std::time::Duration;

use crate::dist::commit::Committed;
use crate::dist::costs::Costs;

/// Events remembered of a transaction; later ones are only counted.
const EVENTS_MAX: usize = 1_000;
/// Bytes of a statement's text up to which it is kept as it is.
const TEXT_SHARED_MAX: usize = 1_000;

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
    Commit(Committed),
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
    /// A statement is under way.
    running: bool,
}

impl Timeline {
    /// Of a transaction that begins now.
    pub fn begin(now: Duration) -> Self {
        Self { began: now, ..Self::default() }
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
        // Only its beginning is shown, and a transaction may have many.
        let text = match text.len() > TEXT_SHARED_MAX {
            true => Arc::from(crate::dist::errors::shortened(text)),
            false => text.clone(),
        };
        self.push(now, What::Statement(text), costs);
        self.running = true;
    }

    /// A statement goes on: mostly the last.
    pub fn resumed(&mut self) {
        self.running = true;
    }

    /// The last statement has ended: its rows were taken.
    pub fn ended(&mut self, now: Duration, costs: Costs) {
        self.running = false;
        if let Some(last) =
            self.events.last_mut().filter(|last| matches!(last.what, What::Statement(_)))
        {
            last.took = Some(now.saturating_sub(last.at));
            last.after = costs;
        }
    }

    /// A commit that began when `before` was what the transaction had cost: how it ended, now.
    pub fn commit(
        &mut self,
        (since, before): (Duration, Costs),
        (now, after): (Duration, Costs),
        done: Result<Committed, String>,
    ) {
        self.push(since, done.map_or_else(What::Failed, What::Commit), before);
        if let Some(last) = self.events.last_mut() {
            last.took = Some(now.saturating_sub(since));
            last.after = after;
        }
    }

    /// It was rolled back.
    pub fn rolled_back(&mut self, now: Duration) {
        self.push(now, What::RolledBack, Costs::default());
    }

    /// The statement under way has met an error: one that was told already is under way no more.
    pub fn failed(&mut self, now: Duration, error: String, costs: Costs) {
        if self.running {
            self.ended(now, costs);
            self.push(now, What::Failed(error), costs);
        }
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
        let what = match &event.what {
            What::Statement(text) => crate::dist::errors::shortened(text),
            What::Commit(Committed::Nothing) => String::from("COMMIT (nothing was written)"),
            What::Commit(Committed::InOneRange) => String::from("COMMIT (one range)"),
            What::Commit(Committed::InRanges) => String::from("COMMIT (many ranges)"),
            What::RolledBack => String::from("ROLLBACK"),
            What::Failed(error) => format!("failed: {error}"),
            What::RunAgain(why) => format!("run again: {why}"),
            What::LeftOut(count) => format!("{count} more events"),
        };
        let cost = event.after.since(&event.before);
        vec![
            millis(event.at.saturating_sub(self.began)),
            event.took.map(millis).unwrap_or_default(),
            what,
            cost.rpc_rounds.to_string(),
            cost.consensus_rounds.to_string(),
            cost.rows_read.to_string(),
            millis(cost.locking),
            millis(cost.clock_wait),
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
        let before = (ms(110), costs);
        costs.rpc_rounds += 1;
        costs.consensus_rounds += 1;
        costs.clock_wait += Duration::from_micros(5);
        timeline.commit(before, (ms(112), costs), Ok(Committed::InOneRange));
        let rows = timeline.rows();
        assert_eq!(
            rows[0],
            ["1.000", "3.000", "select 1", "2", "0", "0", "3.000", "0.000", "0", "0", "0"]
        );
        assert_eq!(rows[1][1..5], ["2.000", "COMMIT (one range)", "1", "1"]);
        assert_eq!(rows[1][7], "0.005");
    }

    #[test]
    fn what_failed_shows_what_it_has_cost_until_then() {
        let ms = Duration::from_millis;
        let mut timeline = Timeline::begin(ms(0));
        let mut costs = Costs::default();
        timeline.statement(ms(1), &Arc::from("select 1"), costs);
        costs.locking = ms(9);
        for _ in 0..2 {
            timeline.failed(ms(10), String::from("no"), costs);
        }
        timeline.resumed();
        timeline.failed(ms(10), String::from("no more"), costs);
        let before = costs;
        costs.consensus_rounds = 1;
        timeline.commit((ms(11), before), (ms(13), costs), Err(String::from("lost")));
        let rows = timeline.rows();
        assert_eq!(rows.len(), 4);
        assert_eq!(rows[0][1..3], ["9.000", "select 1"]);
        assert_eq!(rows[0][6], "9.000");
        assert_eq!(rows[1][2], "failed: no");
        assert_eq!(rows[2][2], "failed: no more");
        assert_eq!(rows[3][1..5], ["2.000", "failed: lost", "0", "1"]);
    }

    #[test]
    fn of_a_long_text_only_the_beginning_is_kept() {
        let text: Arc<str> = Arc::from(format!("select {}", "1, ".repeat(1_000)));
        let mut timeline = Timeline::default();
        timeline.statement(Duration::ZERO, &text, Costs::default());
        let What::Statement(kept) = &timeline.events[0].what else { panic!("a statement") };
        assert!(kept.len() < TEXT_SHARED_MAX);
        assert_eq!(timeline.rows()[0][2], crate::dist::errors::shortened(&text));
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
