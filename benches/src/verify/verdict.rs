//! What a verification says at the end.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::clients::Shared;
use super::tally::by_name;
use crate::history::{self, Promise, Report, Transaction};
use crate::timeline::longest_gap;

/// What was found, with the figures.
pub struct Verdict {
    promise: Promise,
    transactions: usize,
    report: Report,
    work: Option<Work>,
    history: Option<PathBuf>,
}

/// What was done to find it.
struct Work {
    lines: Vec<String>,
    audits: u64,
    /// What the audits of the bank found.
    bank: Vec<String>,
}

impl Verdict {
    /// Of a history.
    pub fn of_history(
        promise: Promise,
        transactions: &[Transaction],
        history: Option<PathBuf>,
    ) -> Self {
        let report = history::check(transactions, promise);
        Self { promise, transactions: transactions.len(), report, work: None, history }
    }

    /// Of a run.
    pub fn of_run(
        promise: Promise,
        transactions: &[Transaction],
        shared: &Shared,
        worked: Duration,
    ) -> Self {
        let tally = shared.tally();
        let gap = longest_gap(&tally.commits_us, worked);
        let (audits, bank) = shared.bank.audits();
        let [acknowledged, refused, unknown] = shared.bank.books().figures();
        let seconds = worked.as_secs_f64();
        let commits = tally.commits_us.len();
        let lines = vec![
            format!("{seconds:.1} s at {} servers", shared.server_count()),
            format!("{commits} acknowledged, {:.0} each second", commits as f64 / seconds),
            format!("refused {}", by_name(&tally.refused)),
            format!("unknown {}", by_name(&tally.unknown)),
            format!(
                "the longest time without a commit was {:.3} s, after {:.1} s",
                gap.seconds, gap.start_s
            ),
            format!(
                "of these the bank: {acknowledged} acknowledged, {refused} refused or taken back, \
                 {unknown} unknown; {audits} audits"
            ),
        ];
        let verdict = Self::of_history(promise, transactions, None);
        Self { work: Some(Work { lines, audits, bank }), ..verdict }
    }

    /// Says where the history is.
    pub fn with_history(self, history: Option<PathBuf>) -> Self {
        Self { history, ..self }
    }

    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.report.is_clean() && self.work.as_ref().is_none_or(|work| work.bank.is_empty())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = self.promise.level.sql();
        if let Some(work) = &self.work {
            for line in &work.lines {
                writeln!(f, "{line}")?;
            }
        }
        writeln!(
            f,
            "history: {} transactions, {} happened ({} of them unknown), {} lists, \
             {} dependencies",
            self.transactions,
            self.report.happened,
            self.report.unknown_seen,
            self.report.lists,
            self.report.dependencies
        )?;
        if let Some(path) = &self.history {
            writeln!(f, "history in {}", path.display())?;
        }
        if self.is_clean() {
            return writeln!(f, "clean: nothing that {level} forbids was seen");
        }
        for finding in &self.report.findings {
            writeln!(f, "\n{finding}")?;
        }
        let mut found = self.report.found;
        if let Some(work) = &self.work {
            for finding in &work.bank {
                writeln!(f, "\nbank: {finding}")?;
            }
            found += work.bank.len();
            writeln!(f, "\n{} audits of the bank", work.audits)?;
        }
        writeln!(f, "\nVIOLATION: {found} findings that {level} forbids")
    }
}
