//! Runs the golden scripts of the leader: `testscripts/leader`.
//!
//! Requests are admitted and stay in flight until `apply #n`. Numbers are seconds on the clock;
//! `clock n` sets the hybrid clock, `at n` the monotonic one. Each command prints the answer, then
//! the leader's line.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use goldenscript::{Command, Context, Runner};
use quorate_proto::{Timestamp, pb};
use test_each_file::test_each_path;

use super::locking::{Locking, Progress};
use super::*;
use crate::apply::Span;
use crate::apply::tests::{Args, meta, secs, show};
use crate::testing::MemView;

test_each_path! { in "txn/src/testscripts/leader" as scripts => run }

fn run(path: &std::path::Path) {
    let mut runner = LeaderRunner {
        view: MemView::default(),
        leader: LeaderState::new(1, Duration::ZERO),
        flights: BTreeMap::new(),
        txns: BTreeMap::new(),
        clock: Timestamp::ZERO,
        now: Duration::ZERO,
        locking: BTreeMap::new(),
    };
    goldenscript::run(&mut runner, path).expect("the script runs");
}

struct LeaderRunner {
    view: MemView,
    leader: LeaderState,
    flights: BTreeMap<Ticket, pb::command::Body>,
    txns: BTreeMap<String, TxnMeta>,
    clock: Timestamp,
    now: Duration,
    locking: BTreeMap<TxnId, Progress>,
}

fn show_woken(woken: &[TxnId]) -> String {
    woken.iter().map(|id| format!(", wakes {id}")).collect()
}

impl LeaderRunner {
    fn txn(&self, args: &Args) -> Result<TxnMeta, Box<dyn Error>> {
        let name = args.pos.first().ok_or("a transaction")?;
        Ok(self.txns.get(name).ok_or("an unknown transaction")?.clone())
    }

    fn admit(&mut self, name: &str, args: &Args) -> Result<String, Box<dyn Error>> {
        let txn = Some(self.txn(args)?.to_pb());
        let ts = self.clock;
        let clock = &mut || ts;
        let (view, floors) = (&self.view, &self.view.floors);
        let admission = if name == "prepare" {
            let request = pb::PrepareRequest {
                txn,
                writes: args.writes()?,
                record: args.record(),
                keys: args.keys("keys"),
                lock_owner: self.owner(args),
                who: None,
            };
            self.leader.admit_prepare(&request, floors, view, clock, self.now)?
        } else {
            let (writes, checks) = (args.writes()?, args.checks()?);
            let request =
                pb::CommitRequest { txn, writes, checks, lock_owner: self.owner(args), who: None };
            self.leader.admit_commit(&request, floors, view, clock)?
        };
        Ok(match admission {
            Admission::Propose { ticket, body } => {
                let absent = match &body {
                    pb::command::Body::Prepare(m) => &m.writes,
                    pb::command::Body::Commit(m) => &m.writes,
                    _ => return Err("neither a prepare nor a commit".into()),
                };
                let absent = absent.iter().filter(|w| w.known_absent).count();
                self.flights.insert(ticket, body);
                format!("propose {ticket} known-absent={absent}")
            }
            Admission::Answer(answer) => format!("{}{}", show(&answer), show_writer(&answer)),
            Admission::Wait(waiting) => waiting.to_string(),
            Admission::ClockBehind { above } => format!("clock must pass {above}"),
        })
    }

    /// The row locks of a transaction that is named `owner`.
    fn owner(&self, args: &Args) -> Bytes {
        let named = args.named.get("owner").and_then(|name| self.txns.get(name));
        named.map(|txn| txn.id.to_bytes()).unwrap_or_default()
    }

    fn lock(&mut self, args: &Args) -> Result<String, Box<dyn Error>> {
        let id = self.txn(args)?.id;
        let word = |name: &str| args.named.get(name).map_or("", String::as_str);
        let mode = pb::LockMode::from_str_name(&word("mode").to_uppercase());
        let wait = pb::LockWait::from_str_name(&word("wait").to_uppercase());
        let request = pb::LockRequest {
            owner: Some(pb::LockOwner { id: id.to_bytes(), ..pb::LockOwner::default() }),
            keys: args.keys("keys"),
            mode: mode.unwrap_or(pb::LockMode::Update).into(),
            wait: wait.unwrap_or(pb::LockWait::Block).into(),
            read_at: args.ts("at")?.0,
            ..pb::LockRequest::default()
        };
        let progress = self.locking.entry(id).or_default();
        let (view, mut woken) = (&self.view, Vec::new());
        let step = self.leader.lock(&request, progress, view, self.now, &mut woken)?;
        let text = match step {
            Locking::Done(done) => {
                self.locking.remove(&id);
                let keys = |keys: &[Bytes]| String::from_utf8_lossy(&keys.join(&b' ')).into_owned();
                let (changed, skipped) = (keys(&done.changed), keys(&done.skipped));
                let writer = done.writer.and_then(|who| TxnId::from_bytes(&who.id));
                let by = writer.map(|id| format!(" by {id}")).unwrap_or_default();
                format!("locked changed=[{changed}]{by} skipped=[{skipped}]")
            }
            Locking::Queued { key, blockers } => {
                let ids = blockers.iter().filter_map(|who| TxnId::from_bytes(&who.id));
                let ids: Vec<String> = ids.map(|id| id.to_string()).collect();
                format!("queue at {} behind {}", crate::keys::Pretty(&key), ids.join(" "))
            }
            Locking::Wait(waiting) => waiting.to_string(),
            Locking::Refuse(error) => {
                self.locking.remove(&id);
                format!("error: {}", error.message)
            }
        };
        Ok(text + &show_woken(&woken))
    }

    fn replicate(
        &mut self,
        ticket: Option<Ticket>,
        body: &pb::command::Body,
    ) -> Result<String, Box<dyn Error>> {
        let applied = self.view.run(body)?;
        let woken = self.leader.applied(ticket, &applied.mutations, self.now);
        Ok(show(&applied.answer) + &show_woken(&woken))
    }

    fn read(&mut self, args: &Args) -> Result<String, Box<dyn Error>> {
        let keys = args.keys("keys");
        let (at, upto) = (args.ts("at")?, args.ts("upto")?);
        let observed = args.named.get("observed").map_or(Ok(Timestamp::ZERO), |at| secs(at))?;
        let asked = Window { read_ts: at, upto, observed };
        let own = args.pos.first().and_then(|name| self.txns.get(name)).map(|txn| txn.id);
        let span =
            args.named.get("span").and_then(|span| span.split_once("..")).map(|(s, e)| Span {
                start: Bytes::copy_from_slice(s.as_bytes()),
                end: Bytes::copy_from_slice(e.as_bytes()),
            });
        let what = span.as_ref().map_or(ReadSet::Keys(&keys), ReadSet::Span);
        Ok(match self.leader.begin_read(what, asked, own) {
            ReadStart::Clear(through) => {
                let through = through.iter().map(|lock| {
                    let value = self.view.read_through(&lock.key, at, &through);
                    let value = value.map(|value| String::from_utf8_lossy(&value).into_owned());
                    let key = crate::keys::Pretty(&lock.key);
                    format!(", {key}={} through {}", value.unwrap_or_default(), lock.txn)
                });
                format!("clear{}", through.collect::<String>())
            }
            ReadStart::Wait(waiting) => waiting.to_string(),
            ReadStart::Refuse(error) => format!("error: {}", error.message),
        })
    }

    fn ask(&mut self, name: &str, args: &Args) -> Result<String, Box<dyn Error>> {
        Ok(match name {
            "check" => {
                let request = pb::CheckRequest {
                    txn_id: self.txn(args)?.id.to_bytes(),
                    upto: args.ts("upto")?.0,
                    checks: args.checks()?,
                };
                match self.leader.check(&request, &self.view.floors, &self.view)? {
                    ReadStart::Clear(_) => String::from("clear"),
                    ReadStart::Wait(waiting) => waiting.to_string(),
                    ReadStart::Refuse(error) => format!("error: {}", error.message),
                }
            }
            "lookup" => {
                let txn = self.txn(args)?;
                let record = self.view.records.get(&(txn.anchor.clone(), txn.id));
                let answer = self.leader.lookup(&txn, record, self.now);
                show(
                    &answer.map_or_else(
                        pb::range_response::Body::Error,
                        pb::range_response::Body::Lookup,
                    ),
                )
            }
            "close" => match self.leader.close_at(args.ts("at")?) {
                Ok(true) => String::from("closed"),
                Ok(false) => String::from("not yet: a write is in flight"),
                Err(error) => format!("error: {}", error.message),
            },
            "hint" => {
                let (txn_id, keys) = (self.txn(args)?.id.to_bytes(), args.keys("keys"));
                let commit_ts = args.ts("committed")?.0;
                let told = self.leader.hint(&pb::HintRequest { txn_id, keys, commit_ts });
                told.map_or_else(|e| format!("error: {}", e.message), |()| String::from("told"))
            }
            "heartbeat" => {
                let id = self.txn(args)?.id;
                let answer = self.leader.heartbeat(id, self.now);
                answer.map_or_else(|e| e.message, |()| String::from("heard"))
            }
            other => return Err(format!("unknown command {other}").into()),
        })
    }

    fn command(&mut self, name: &str, args: &Args) -> Result<String, Box<dyn Error>> {
        use pb::command::Body;
        let first = args.pos.first().cloned().unwrap_or_default();
        Ok(match name {
            "txn" => {
                let (name, meta) = meta(args)?;
                self.txns.insert(name, meta);
                return Ok(String::new());
            }
            "clock" => {
                self.clock = secs(&first)?;
                return Ok(String::new());
            }
            "at" => {
                self.now = Duration::from_secs(first.parse()?);
                return Ok(String::new());
            }
            "prepare" | "commit" => self.admit(name, args)?,
            "apply" => {
                let ticket = Ticket(first.trim_start_matches('#').parse()?);
                let body = self.flights.remove(&ticket).ok_or("nothing in flight")?;
                self.replicate(Some(ticket), &body)?
            }
            "lose" => {
                let ticket = Ticket(first.trim_start_matches('#').parse()?);
                format!("released {}", self.leader.release(ticket))
            }
            "verdict" => {
                let (txn, verdict) = (Some(self.txn(args)?.to_pb()), args.verdict()?);
                self.replicate(
                    None,
                    &Body::Verdict(pb::VerdictCommand { txn, verdict, resolve: Vec::new() }),
                )?
            }
            "resolve" => {
                let command = pb::ResolveCommand {
                    txn_id: self.txn(args)?.id.to_bytes(),
                    keys: args.keys("keys"),
                    verdict: args.verdict()?,
                };
                self.replicate(None, &Body::Resolve(command))?
            }
            "floors" => {
                let (safe_point, txn_floor) = (args.ts("safe")?.0, args.ts("txn")?.0);
                let command = pb::RaiseFloorsCommand { safe_point, txn_floor };
                self.replicate(None, &Body::RaiseFloors(command))?
            }
            "read" => self.read(args)?,
            "lock" => self.lock(args)?,
            "unlock" => {
                let id = self.txn(args)?.id;
                let woken = self.leader.rows.release(id, self.now);
                format!("unlocked{}", show_woken(&woken))
            }
            "check" | "lookup" | "heartbeat" | "hint" | "close" => self.ask(name, args)?,
            "elect" => {
                self.leader = LeaderState::new(args.named["term"].parse()?, self.now);
                self.flights.clear();
                self.leader.rebuild(self.view.locks.clone());
                String::from("elected")
            }
            "ready" => {
                let clock = args.named.get("clock").map(|clock| secs(clock)).transpose()?;
                self.leader.ready(secs(&first)?, clock);
                String::from("ready")
            }
            "give-up" => format!("hands over {}", self.leader.give_up()),
            "split" => {
                self.leader.split_off(first.as_bytes());
                String::from("split")
            }
            other => return Err(format!("unknown command {other}").into()),
        })
    }
}

/// Who is named for a conflict.
fn show_writer(answer: &pb::range_response::Body) -> String {
    use pb::range_error::Kind;
    let pb::range_response::Body::Error(error) = answer else { return String::new() };
    let Some(Kind::Conflict(conflict)) = &error.kind else { return String::new() };
    let writer = conflict.writer.as_ref().and_then(|who| TxnId::from_bytes(&who.id));
    writer.map(|id| format!(" by {id}")).unwrap_or_default()
}

impl Runner for LeaderRunner {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let answer = self.command(&command.name, &Args::of(command))?;
        if answer.is_empty() {
            return Ok(answer);
        }
        Ok(format!("{answer}\n{}", self.leader))
    }
}
