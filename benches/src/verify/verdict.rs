//! What a verification says at the end.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::clients::{PATIENCE, Shared};
use super::tally::by_name;
use crate::error::BenchError;
use crate::history::{self, Promise, Report, Transaction};
use crate::timeline::longest_gap;

/// What a verification comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conclusion {
    /// Everything was looked at and nothing found.
    Clean,
    /// Something was found that the level forbids. No finding rests on there having been a read at
    /// the end: that one is a reader like others, which began after everything else.
    Violation,
    /// The tables were not ours to the end, so what was found may be somebody else's doing.
    TablesTaken,
    /// There is nothing to judge.
    NothingDone,
    /// Nothing was found until the end, which could not be read: what is lost would show there.
    EndNotRead,
    /// Nothing was found, but a file that was asked for could not be written.
    FileNotWritten,
}

impl Conclusion {
    /// The status the command ends with: 0 clean, 1 a violation, 2 nothing can be said.
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Violation => 1,
            Self::TablesTaken | Self::NothingDone | Self::EndNotRead | Self::FileNotWritten => 2,
        }
    }

    fn of(facts: &Facts) -> Self {
        match facts {
            Facts { taken: true, .. } => Self::TablesTaken,
            Facts { found: 1.., .. } => Self::Violation,
            Facts { done: 0, .. } => Self::NothingDone,
            Facts { end_read: false, .. } => Self::EndNotRead,
            Facts { unwritten: 1.., .. } => Self::FileNotWritten,
            _ => Self::Clean,
        }
    }
}

/// What a conclusion is drawn from.
#[derive(Clone, Copy, Debug)]
struct Facts {
    /// Somebody else dropped the tables or made them anew.
    taken: bool,
    /// Findings.
    found: usize,
    /// Transactions acknowledged; of a history in a file, appends that happened.
    done: usize,
    /// Everything was read once more when all was over.
    end_read: bool,
    /// Files that could not be written.
    unwritten: usize,
}

/// What was found, with the figures.
pub struct Verdict {
    promise: Promise,
    transactions: usize,
    report: Report,
    work: Option<Work>,
    history: Option<PathBuf>,
    /// Why files could not be written.
    unwritten: Vec<String>,
}

/// What was done to find it.
struct Work {
    lines: Vec<String>,
    audits: u64,
    /// What the audits of the bank found.
    bank: Vec<String>,
    acknowledged: usize,
    taken: bool,
    end_read: bool,
}

impl Verdict {
    /// Of a history.
    pub fn of_history(
        promise: Promise,
        transactions: &[Transaction],
        history: Option<PathBuf>,
    ) -> Self {
        let report = history::check(transactions, promise);
        let (transactions, unwritten) = (transactions.len(), Vec::new());
        Self { promise, transactions, report, work: None, history, unwritten }
    }

    /// Of a run, of which everything was read once more at the end or not.
    pub fn of_run(
        promise: Promise,
        transactions: &[Transaction],
        shared: &Shared,
        worked: Duration,
        end_read: bool,
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
        let taken = shared.is_taken();
        let work = Work { lines, audits, bank, acknowledged: commits, taken, end_read };
        Self { work: Some(work), ..Self::of_history(promise, transactions, None) }
    }

    /// Says where the history is, and which files could not be written.
    pub fn with_files(self, history: Option<PathBuf>, unwritten: &[BenchError]) -> Self {
        let unwritten = unwritten.iter().map(BenchError::to_string).collect();
        Self { history, unwritten, ..self }
    }

    /// What it comes to.
    pub fn conclusion(&self) -> Conclusion {
        Conclusion::of(&match &self.work {
            Some(work) => Facts {
                taken: work.taken,
                found: self.found(),
                done: work.acknowledged,
                end_read: work.end_read,
                unwritten: self.unwritten.len(),
            },
            None => Facts {
                taken: false,
                found: self.found(),
                done: self.report.appended,
                end_read: true,
                unwritten: 0,
            },
        })
    }

    fn found(&self) -> usize {
        self.report.found + self.work.as_ref().map_or(0, |work| work.bank.len())
    }

    /// The findings, and how many they are.
    fn write_findings(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.report.findings {
            writeln!(f, "\n{finding}")?;
        }
        if let Some(work) = &self.work {
            for finding in &work.bank {
                writeln!(f, "\nbank: {finding}")?;
            }
            writeln!(f, "\n{} audits of the bank", work.audits)?;
            if !work.end_read {
                writeln!(f, "the servers could not be read at the end; there may be more")?;
            }
        }
        let (found, level) = (self.found(), self.promise.level.sql());
        writeln!(f, "\nVIOLATION: {found} findings that {level} forbids")
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
        for why in &self.unwritten {
            writeln!(f, "{why}")?;
        }
        match self.conclusion() {
            Conclusion::Clean => writeln!(f, "clean: nothing that {level} forbids was seen"),
            Conclusion::Violation => self.write_findings(f),
            Conclusion::TablesTaken => writeln!(
                f,
                "no verdict: somebody else dropped or uses the tables of verify; if nobody did, \
                 the servers lost them"
            ),
            Conclusion::NothingDone => {
                writeln!(f, "no verdict: nothing was done: nothing can be said")
            }
            Conclusion::EndNotRead => writeln!(
                f,
                "no verdict: the servers could not be read at the end, within {} s; until then \
                 nothing that {level} forbids was seen",
                PATIENCE.as_secs()
            ),
            Conclusion::FileNotWritten => writeln!(
                f,
                "nothing that {level} forbids was seen, but not every file could be written"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Isolation;
    use crate::history::{Key, Op, Outcome, Value};

    const FINE: Facts = Facts { taken: false, found: 0, done: 9, end_read: true, unwritten: 0 };

    #[test]
    fn only_a_run_that_was_looked_at_to_the_end_is_clean() {
        for (facts, conclusion, status) in [
            (FINE, Conclusion::Clean, 0),
            (Facts { found: 1, ..FINE }, Conclusion::Violation, 1),
            (Facts { end_read: false, ..FINE }, Conclusion::EndNotRead, 2),
            (Facts { found: 1, end_read: false, ..FINE }, Conclusion::Violation, 1),
            (Facts { unwritten: 1, ..FINE }, Conclusion::FileNotWritten, 2),
            (Facts { found: 1, unwritten: 1, ..FINE }, Conclusion::Violation, 1),
            (Facts { done: 0, ..FINE }, Conclusion::NothingDone, 2),
            (Facts { found: 1, done: 0, ..FINE }, Conclusion::Violation, 1),
            (Facts { done: 0, end_read: false, ..FINE }, Conclusion::NothingDone, 2),
            (Facts { taken: true, ..FINE }, Conclusion::TablesTaken, 2),
            (Facts { taken: true, found: 1, ..FINE }, Conclusion::TablesTaken, 2),
        ] {
            assert_eq!(Conclusion::of(&facts), conclusion, "{facts:?}");
            assert_eq!(conclusion.exit_status(), status, "{facts:?}");
        }
    }

    /// Of a history in which 7 is appended, and this is what somebody read later, if anybody did.
    fn verdict(read: Option<&[i64]>, work: Option<Work>) -> Verdict {
        let append = Op::Append(Key(1), Value(7));
        let read = read.map(|values| values.iter().copied().map(Value).collect());
        let ops = [Some(append), read.map(|values| Op::Read(Key(1), values))];
        let done = |(id, op)| Transaction {
            id,
            process: id,
            node: 0,
            invoked_ns: id * 10,
            completed_ns: id * 10 + 5,
            one_statement: true,
            ops: vec![op],
            outcome: Outcome::Committed,
        };
        let history: Vec<Transaction> = (1..).zip(ops.into_iter().flatten()).map(done).collect();
        let promise = Promise { level: Isolation::ReadCommitted, clock_offset_ns_max: 0 };
        Verdict { work, ..Verdict::of_history(promise, &history, None) }
    }

    fn work(bank: &[&str], end_read: bool) -> Work {
        let bank = bank.iter().map(|finding| (*finding).to_owned()).collect();
        Work { lines: Vec::new(), audits: 3, bank, acknowledged: 2, taken: false, end_read }
    }

    #[test]
    fn what_was_found_is_said_where_the_end_could_not_be_read() {
        // What nobody has read since is not lost.
        for read in [Some(&[7][..]), None] {
            let clean = verdict(read, Some(work(&[], false)));
            assert_eq!(clean.conclusion(), Conclusion::EndNotRead);
            assert!(clean.to_string().contains("the servers could not be read at the end"));
        }
        for found in [
            verdict(Some(&[]), Some(work(&[], false))),
            verdict(Some(&[7]), Some(work(&["x"], false))),
        ] {
            assert_eq!(found.conclusion(), Conclusion::Violation);
            let said = found.to_string();
            assert!(said.contains("the servers could not be read at the end"), "{said}");
            assert!(said.contains("VIOLATION: 1 findings that READ COMMITTED forbids"), "{said}");
        }
    }

    #[test]
    fn what_was_found_is_said_where_a_file_could_not_be_written() {
        let why = BenchError::Usage(String::from("the disk is full"));
        let why = std::slice::from_ref(&why);
        let found = verdict(Some(&[]), Some(work(&[], true))).with_files(None, why);
        assert_eq!(found.conclusion(), Conclusion::Violation);
        let clean = verdict(Some(&[7]), Some(work(&[], true))).with_files(None, why);
        assert_eq!(clean.conclusion(), Conclusion::FileNotWritten);
        for verdict in [found, clean] {
            assert!(verdict.to_string().contains("the disk is full"), "{verdict}");
        }
    }

    #[test]
    fn findings_in_tables_of_somebody_else_are_not_told() {
        let work = Work { taken: true, ..work(&["x"], false) };
        let verdict = verdict(Some(&[]), Some(work));
        assert_eq!(verdict.conclusion(), Conclusion::TablesTaken);
        let said = verdict.to_string();
        assert!(said.contains("somebody else dropped or uses the tables"), "{said}");
        assert!(!said.contains("VIOLATION"), "{said}");
    }

    #[test]
    fn a_history_without_appends_says_nothing() {
        assert_eq!(verdict(Some(&[7]), None).conclusion(), Conclusion::Clean);
        let promise = Promise { level: Isolation::Serializable, clock_offset_ns_max: 0 };
        let nothing = Verdict::of_history(promise, &[], None);
        assert_eq!(nothing.conclusion(), Conclusion::NothingDone);
        assert!(nothing.to_string().contains("nothing was done"), "{nothing}");
    }
}
