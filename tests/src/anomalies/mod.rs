//! Anomaly scripts: a few sessions that take turns, at each isolation level, and what each step
//! must answer, on PostgreSQL and on Quorate. Whether the anomaly was *permitted* or *prevented* is
//! derived from what was answered; the script, and the table in `docs/isolation.md`, must say the
//! same.
//!
//! The format, line by line (`#` begins a comment line):
//!
//! ```text
//! anomaly: G0                      its name in the table
//! scenario: two rows crosswise     one way to it; a file may have several
//! remedy: FOR UPDATE               the scenario shows how to avoid it: it must be prevented
//! seen: T1 commits; final has 1|11 what must all be so for it to have been permitted; several
//!                                  such lines are alternatives
//! level: read committed, serializable
//! server: quorate                  the section is for one server alone
//! set: name = value                for each session of this section
//! begin: T1 T2                     each sends BEGIN
//! T1: UPDATE …                     a step: a session, and what it sends
//!   UPDATE 1                       what it must answer: a command tag, rows (`(no rows)`),
//!                                  `ERROR` and a SQLSTATE, or `blocks`: the server shows that it
//!                                  waits for a lock
//! T2 read: SELECT …                a step with a name, to speak of in `seen`
//!   postgres: 1|10                 what only one of the servers answers
//!   quorate: ERROR 40001
//!   because: …                     and why
//! T2 answers                       the step that blocked ends now
//! postgres T1: SET …               a step for one of the servers alone
//! final: SELECT …                  asked by another session at the end
//! verdict:                         `prevented`, or `permitted because …`; of a scenario without
//!                                  `seen` there is none
//! ```

mod page;
mod run;
mod script;

pub use page::{Table, reasons_missing};
pub use run::{Findings, Server, run_all};
pub use script::{Engine, LEVELS, Script, Verdict, all, parse};
