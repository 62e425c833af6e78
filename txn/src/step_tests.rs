//! Runs the golden scripts of the coordinator and of recovery: `testscripts/coordinator`,
//! `testscripts/recovery`.
//!
//! `commit t1 anchor=a start=5 a=1 b=2` and `recover t1 anchor=a start=5 met=b` begin a machine;
//! then each command is an input. `routed c1 "a b"` gives the groups, keys by letter, checks in
//! capitals. Numbers are seconds on the clock, `at` is monotonic milliseconds. Each command prints
//! the actions, then the machine's line.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use goldenscript::{Command, Context, Runner};
use quorate_proto::{pb, pb::range_error::Kind};
use test_each_file::test_each_path;

use crate::apply::tests::{Args, list, meta};
use crate::coordinator::{Coordinator, Plan};
use crate::recovery::Recovery;
use crate::state::Verdict;
use crate::step::{Action, CallId, Group, Input, TimerId};

test_each_path! { in "txn/src/testscripts/coordinator" as coordinator => run }
test_each_path! { in "txn/src/testscripts/recovery" as recovery => run }

fn run(path: &std::path::Path) {
    goldenscript::run(&mut StepRunner::default(), path).expect("the script runs");
}

enum Machine {
    Commit(Coordinator),
    Recover(Recovery),
}

#[derive(Default)]
struct StepRunner {
    machine: Option<Machine>,
    checks: Vec<pb::ReadCheck>,
    now: Duration,
}

fn call(args: &Args) -> Result<CallId, Box<dyn Error>> {
    let text = args.pos.first().ok_or("a call")?;
    Ok(CallId(text.trim_start_matches('c').parse()?))
}

fn reply(args: &Args, body: pb::range_response::Body) -> Result<Input, Box<dyn Error>> {
    Ok(Input::Reply(call(args)?, body))
}

fn error(args: &Args) -> Result<pb::RangeError, Box<dyn Error>> {
    let key = args.keys("key").pop().unwrap_or_default();
    let txn = || -> Result<pb::TxnMeta, Box<dyn Error>> {
        let mut holder = Args::default();
        holder.pos.push(args.named.get("by").ok_or("a holder")?.clone());
        holder.named = args.named.clone();
        Ok(meta(&holder)?.1.to_pb())
    };
    let what = args.pos.get(1).ok_or("an error")?;
    let kind = match what.as_str() {
        "conflict" => Kind::Conflict(pb::Conflict { key, ..Default::default() }),
        "exists" => Kind::AlreadyExists(pb::AlreadyExists { key }),
        "locked" => Kind::Locked(pb::Locked { key, txn: Some(txn()?), min_commit_ts: 0 }),
        "stale" => Kind::StaleRoute(pb::StaleRoute::default()),
        "unavailable" => Kind::Unavailable(pb::Unavailable::default()),
        "old" => Kind::TooOld(pb::TooOld::default()),
        "refused" => Kind::Refused(pb::Refused {}),
        other => return Err(format!("unknown error {other}").into()),
    };
    Ok(pb::RangeError::new(kind, what.clone()))
}

fn status(args: &Args) -> Result<pb::TxnStatus, Box<dyn Error>> {
    use pb::txn_status::State;
    let staging = || pb::StagingState { keys: args.keys("keys"), commit_start: 0 };
    let state = match args.pos.get(1).map(String::as_str) {
        Some("missing") => State::Missing(true),
        Some("staging") => State::Staging(staging()),
        Some("preparing") => State::Preparing(staging()),
        Some("decided") => State::Verdict(args.verdict()?.unwrap_or_default()),
        other => return Err(format!("unknown status {other:?}").into()),
    };
    Ok(pb::TxnStatus { state: Some(state) })
}

impl StepRunner {
    fn groups(&self, text: &str) -> Vec<Group> {
        let groups = text.split(' ').filter(|g| !g.is_empty());
        groups
            .map(|group| {
                let (checks, keys): (Vec<Bytes>, Vec<Bytes>) =
                    list(group).into_iter().partition(|k| k[0].is_ascii_uppercase());
                let lower = |k: &Bytes| k.to_ascii_lowercase();
                let checks =
                    self.checks.iter().filter(|c| checks.iter().any(|k| c.start == lower(k)));
                Group { keys, checks: checks.cloned().collect() }
            })
            .collect()
    }

    fn input(&mut self, name: &str, args: &Args) -> Result<Input, Box<dyn Error>> {
        use pb::range_response::Body;
        match name {
            "routed" => {
                let text = args.pos.get(1).ok_or("groups")?;
                Ok(Input::Routed(call(args)?, self.groups(text)))
            }
            "prepared" => {
                let ts = args.ts("min")?.0;
                let outcome = Some(pb::prepare_response::Outcome::MinCommitTs(ts));
                reply(args, Body::Prepare(pb::PrepareResponse { outcome }))
            }
            "prepare-decided" => {
                let verdict = args.verdict()?.unwrap_or_default();
                let outcome = Some(pb::prepare_response::Outcome::Verdict(verdict));
                reply(args, Body::Prepare(pb::PrepareResponse { outcome }))
            }
            "committed" => {
                reply(args, Body::Commit(pb::CommitResponse { verdict: args.verdict()? }))
            }
            "stands" => reply(
                args,
                Body::Verdict(pb::VerdictResponse {
                    verdict: args.verdict()?,
                    resolved: !args.has("unresolved"),
                }),
            ),
            "resolved" => reply(args, Body::Resolve(pb::ResolveResponse {})),
            "dropped" => reply(args, Body::DropRecord(pb::DropRecordResponse {})),
            "checked" => reply(args, Body::Check(pb::CheckResponse {})),
            "looked" => {
                let (status, expired) = (Some(status(args)?), args.has("expired"));
                reply(args, Body::Lookup(pb::LookupResponse { status, expired }))
            }
            "closed" => {
                use pb::close_response::Outcome;
                let outcome = match args.pos.get(1).map(String::as_str) {
                    Some("lock") => Outcome::LockMinCommitTs(args.ts("min")?.0),
                    Some("refused") => Outcome::Refused(true),
                    _ => Outcome::Status(status(args)?),
                };
                reply(args, Body::Close(pb::CloseResponse { outcome: Some(outcome) }))
            }
            "error" => reply(args, Body::Error(error(args)?)),
            "failed" => Ok(Input::Failed { call: call(args)? }),
            "cleared" => {
                let verdict = args.verdict()?.map(|v| Verdict::from_pb(&v));
                let undecided = args.has("undecided");
                Ok(Input::Cleared(call(args)?, verdict.filter(|_| !undecided)))
            }
            "retry" => Ok(Input::Timer(TimerId::Retry(call(args)?))),
            "heartbeat" => Ok(Input::Timer(TimerId::Heartbeat)),
            "deadline" => Ok(Input::Timer(TimerId::Deadline)),
            "give-up" => Ok(Input::Timer(TimerId::GiveUp)),
            other => Err(format!("unknown input {other}").into()),
        }
    }

    fn begin(&mut self, name: &str, args: &Args) -> Result<(), Box<dyn Error>> {
        let txn = meta(args)?.1;
        self.machine = Some(if name == "commit" {
            self.checks = args.checks()?;
            let (writes, checks) = (args.writes()?, self.checks.clone());
            Machine::Commit(Coordinator::new(Plan {
                txn,
                writes,
                checks,
                lock_owner: None,
                who: None,
            }))
        } else if let Some(verdict) = args.verdict()?.filter(|_| args.has("record")) {
            let verdict = Verdict::from_pb(&verdict);
            Machine::Recover(Recovery::of_record(txn, args.keys("keys"), verdict))
        } else {
            let met = args.keys("met").pop().ok_or("the key where the lock was met")?;
            Machine::Recover(Recovery::new(txn, met, args.has("wait")))
        });
        Ok(())
    }
}

impl Runner for StepRunner {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let args = Args::of(command);
        let input = match command.name.as_str() {
            "at" => {
                self.now = Duration::from_millis(args.pos.first().ok_or("a time")?.parse()?);
                return Ok(String::new());
            }
            name @ ("commit" | "recover") => {
                self.begin(name, &args)?;
                Input::Start
            }
            name => self.input(name, &args)?,
        };
        let (actions, line) = match self.machine.as_mut().ok_or("no machine")? {
            Machine::Commit(m) => (m.step(self.now, input), m.to_string()),
            Machine::Recover(m) => (m.step(self.now, input), m.to_string()),
        };
        let mut out: Vec<String> = actions.iter().map(Action::to_string).collect();
        out.push(format!("= {line}"));
        Ok(out.join("\n"))
    }
}
