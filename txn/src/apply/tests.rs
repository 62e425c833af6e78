//! Runs the golden scripts of the state machine: `testscripts/apply`.
//!
//! `txn t1 anchor=a start=5` names a transaction; commands then read like the protocol's. Numbers
//! are seconds on the clock. A write is `key=value`, a delete `key=-`; `read=` is when the keys
//! were read. Each command prints its answer, then the state.

use std::collections::BTreeMap;
use std::error::Error;

use bytes::Bytes;
use goldenscript::{Argument, Command, Context, Runner};
use quorate_proto::{Timestamp, TxnId, pb};
use test_each_file::test_each_path;

use crate::state::TxnMeta;
use crate::testing::MemView;

test_each_path! { in "txn/src/testscripts/apply" as scripts => run }

fn run(path: &std::path::Path) {
    goldenscript::run(&mut ApplyRunner::default(), path).expect("the script runs");
}

pub(crate) fn secs(text: &str) -> Result<Timestamp, Box<dyn Error>> {
    Ok(Timestamp(text.parse::<u64>()? << 32))
}

pub(crate) fn list(text: &str) -> Vec<Bytes> {
    let parts = text.split(',').filter(|part| !part.is_empty());
    parts.map(|part| Bytes::copy_from_slice(part.as_bytes())).collect()
}

/// Arguments by name; `writes` are those with one-letter names, in order.
#[derive(Default)]
pub(crate) struct Args {
    pub pos: Vec<String>,
    pub named: BTreeMap<String, String>,
    pub writes: Vec<(Bytes, String)>,
}

impl Args {
    pub fn of(command: &Command) -> Self {
        let mut args = Self::default();
        for arg in &command.args {
            match arg {
                Argument::KeyValue(key, value) if key.len() == 1 => {
                    let key = Bytes::copy_from_slice(key.as_bytes());
                    args.writes.push((key, value.clone()));
                }
                Argument::KeyValue(key, value) => {
                    args.named.insert(key.clone(), value.clone());
                }
                Argument::Positional(text) => args.pos.push(text.clone()),
                other => args.pos.push(other.to_string()),
            }
        }
        args
    }

    pub fn has(&self, flag: &str) -> bool {
        self.pos.iter().any(|p| p == flag)
    }

    pub fn ts(&self, name: &str) -> Result<Timestamp, Box<dyn Error>> {
        self.named.get(name).map_or(Ok(Timestamp::ZERO), |text| secs(text))
    }

    pub fn keys(&self, name: &str) -> Vec<Bytes> {
        self.named.get(name).map(|text| list(text)).unwrap_or_default()
    }

    pub fn verdict(&self) -> Result<Option<pb::Verdict>, Box<dyn Error>> {
        Ok(Some(pb::Verdict { committed_ts: self.ts("committed")?.0 }))
    }

    pub fn record(&self) -> i32 {
        i32::from(match self.named.get("record").map(String::as_str) {
            Some("staging") => pb::RecordKind::Staging,
            Some("preparing") => pb::RecordKind::Preparing,
            _ => pb::RecordKind::NoRecord,
        })
    }

    pub fn writes(&self) -> Result<Vec<pb::Write>, Box<dyn Error>> {
        let read_at = self.ts("read")?.0;
        let writes = self.writes.iter().map(|(key, value)| pb::Write {
            key: key.clone(),
            delete: value == "-",
            value: if value == "-" { Bytes::new() } else { Bytes::from(value.clone()) },
            read_at,
            must_be_absent: self.has("absent"),
        });
        Ok(writes.collect())
    }

    /// `check=x@4` or `check=a..c@4`.
    pub fn checks(&self) -> Result<Vec<pb::ReadCheck>, Box<dyn Error>> {
        let Some(text) = self.named.get("check") else {
            return Ok(Vec::new());
        };
        let (span, at) = text.split_once('@').ok_or("a check is span@read")?;
        let (start, end) = span.split_once("..").unwrap_or((span, ""));
        Ok(vec![pb::ReadCheck {
            start: Bytes::copy_from_slice(start.as_bytes()),
            end: Bytes::copy_from_slice(end.as_bytes()),
            read_at: secs(at)?.0,
        }])
    }
}

pub(crate) fn meta(args: &Args) -> Result<(String, TxnMeta), Box<dyn Error>> {
    let name = args.pos.first().ok_or("a transaction has a name")?.clone();
    let id = TxnId(name.trim_start_matches('t').parse()?);
    let anchor = args.keys("anchor").pop().ok_or("a transaction has an anchor")?;
    Ok((name, TxnMeta { id, anchor, commit_start: args.ts("start")? }))
}

/// One line for an answer.
pub(crate) fn show(answer: &pb::range_response::Body) -> String {
    use pb::close_response::Outcome as Close;
    use pb::prepare_response::Outcome as Prepare;
    use pb::range_response::Body;
    use pb::txn_status::State;
    let verdict = |v: &pb::Verdict| crate::state::Verdict::from_pb(v).to_string();
    let status = |s: &pb::TxnStatus| match &s.state {
        Some(State::Missing(_)) => String::from("missing"),
        Some(State::Preparing(_)) => String::from("preparing"),
        Some(State::Staging(_)) => String::from("staging"),
        Some(State::Verdict(v)) => verdict(v),
        None => String::from("nothing"),
    };
    match answer {
        Body::Error(e) => format!("error: {}", e.message),
        Body::Prepare(m) => match &m.outcome {
            Some(Prepare::MinCommitTs(ts)) => format!("prepared {}", Timestamp(*ts)),
            Some(Prepare::Verdict(v)) => verdict(v),
            None => String::from("nothing"),
        },
        Body::Commit(m) => m.verdict.as_ref().map(verdict).unwrap_or_default(),
        Body::Verdict(m) => m.verdict.as_ref().map(verdict).unwrap_or_default(),
        Body::Close(m) => match &m.outcome {
            Some(Close::LockMinCommitTs(ts)) => format!("lock {}", Timestamp(*ts)),
            Some(Close::Refused(_)) => String::from("refused"),
            Some(Close::Status(s)) => status(s),
            None => String::from("nothing"),
        },
        Body::Lookup(m) => {
            let state = m.status.as_ref().map(status).unwrap_or_default();
            format!("{state} expired={}", m.expired)
        }
        Body::RaiseSafePoint(m) => format!("safe point {}", Timestamp(m.safe_point)),
        _ => String::from("ok"),
    }
}

#[derive(Default)]
struct ApplyRunner {
    view: MemView,
    /// What a split cut off.
    right: Option<MemView>,
    txns: BTreeMap<String, TxnMeta>,
}

impl ApplyRunner {
    fn body(&self, name: &str, args: &Args) -> Result<pb::command::Body, Box<dyn Error>> {
        use pb::command::Body;
        let meta = args.pos.first().and_then(|name| self.txns.get(name));
        let txn = meta.map(TxnMeta::to_pb);
        let txn_id = meta.map(|m| m.id.to_bytes()).unwrap_or_default();
        let anchor = meta.map(|m| m.anchor.clone()).unwrap_or_default();
        let logged = args.writes()?.into_iter().map(|w| pb::LoggedWrite {
            key: w.key,
            delete: w.delete,
            value: w.value,
            read_at: w.read_at,
            known_absent: args.has("known-absent"),
            must_be_absent: w.must_be_absent,
        });
        Ok(match name {
            "prepare" => Body::Prepare(pb::PrepareCommand {
                txn,
                writes: logged.collect(),
                record: args.record(),
                keys: args.keys("keys"),
                min_commit_ts: args.ts("min")?.0,
                local_ts: args.ts("min")?.0,
            }),
            "commit" => Body::Commit(pb::CommitCommand {
                txn,
                writes: logged.collect(),
                checks: args.checks()?,
                commit_ts: args.ts("ts")?.0,
                local_ts: args.ts("ts")?.0,
            }),
            "verdict" => Body::Verdict(pb::VerdictCommand {
                txn,
                verdict: args.verdict()?,
                resolve: args.keys("resolve"),
            }),
            "close" => Body::Close(pb::CloseCommand {
                txn,
                key: args.keys("key").pop().unwrap_or_default(),
                record: args.has("record"),
            }),
            "resolve" => Body::Resolve(pb::ResolveCommand {
                txn_id,
                keys: args.keys("keys"),
                verdict: args.verdict()?,
            }),
            "drop" => Body::DropRecord(pb::DropRecordCommand { txn_id, anchor }),
            "floors" => Body::RaiseFloors(pb::RaiseFloorsCommand {
                safe_point: args.ts("safe")?.0,
                txn_floor: args.ts("txn")?.0,
            }),
            other => return Err(format!("unknown command {other}").into()),
        })
    }
}

impl Runner for ApplyRunner {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let args = Args::of(command);
        match command.name.as_str() {
            "txn" => {
                let (name, meta) = meta(&args)?;
                self.txns.insert(name, meta);
                return Ok(String::new());
            }
            "read" => {
                let key = args.pos.first().ok_or("a key")?;
                let value = self.view.read(key.as_bytes(), args.ts("at")?);
                return Ok(value.map_or(String::from("absent"), |v| v.escape_ascii().to_string()));
            }
            "split" => {
                let key = Bytes::from(args.pos.first().ok_or("a key")?.clone());
                self.right = Some(self.view.split_off(&key));
                return Ok(format!("{}", self.view));
            }
            "right" => {
                let right = self.right.take().ok_or("nothing was split off")?;
                self.right = Some(std::mem::replace(&mut self.view, right));
                return Ok(format!("{}", self.view));
            }
            _ => {}
        }
        let body = self.body(&command.name, &args)?;
        let applied = self.view.run(&body)?;
        Ok(format!("{}\n{}", show(&applied.answer), self.view))
    }
}

/// A command of another machine stops the node instead of being skipped.
#[test]
fn other_commands_are_not_applied() {
    let body = pb::command::Body::Allocate(pb::AllocateCommand { count: 1 });
    let result = MemView::default().run(&body);
    assert_eq!(result, Err(crate::apply::ApplyError::NotTxn));
}

fn logged(key: &'static str, read_at: u64) -> pb::LoggedWrite {
    pb::LoggedWrite {
        key: Bytes::from(key),
        value: Bytes::from("new"),
        read_at: read_at << 32,
        ..pb::LoggedWrite::default()
    }
}

fn commit(id: u128, ts: u64, writes: Vec<pb::LoggedWrite>) -> pb::command::Body {
    let anchor = writes[0].key.clone();
    let start = Timestamp(ts << 32);
    pb::command::Body::Commit(pb::CommitCommand {
        txn: Some(TxnMeta { id: TxnId(id), anchor, commit_start: start }.to_pb()),
        writes,
        checks: Vec::new(),
        commit_ts: ts << 32,
        local_ts: ts << 32,
    })
}

/// P14, S1: each key is tested against when it was read itself, and the oldest of those times
/// must not lie below the safe point.
#[test]
fn conflicts_are_tested_per_key_against_when_it_was_read() {
    let mut view = MemView::default();
    let answer = |view: &mut MemView, body| show(&view.run(&body).expect("it applies").answer);
    answer(&mut view, commit(1, 6, vec![logged("a", 5)]));
    answer(&mut view, commit(2, 8, vec![logged("b", 7)]));
    let read_before = commit(3, 9, vec![logged("a", 6), logged("b", 7)]);
    assert!(answer(&mut view, read_before).contains("key b was changed"));
    let read_after = commit(4, 9, vec![logged("a", 6), logged("b", 8)]);
    assert!(answer(&mut view, read_after).starts_with("committed"));
    let raise = pb::RaiseFloorsCommand { safe_point: 9 << 32, txn_floor: 0 };
    answer(&mut view, pb::command::Body::RaiseFloors(raise));
    let one_is_old = commit(5, 11, vec![logged("a", 10), logged("c", 8)]);
    assert!(answer(&mut view, one_is_old).contains("lies below the range's floor"));
    let none_is_old = commit(6, 11, vec![logged("a", 10), logged("c", 9)]);
    assert!(answer(&mut view, none_is_old).starts_with("committed"));
}

/// R5: a version that does not start above its key's newest event stops the node.
#[test]
fn a_version_below_the_newest_event_stops_the_node() {
    let mut view = MemView::default();
    view.run(&commit(1, 6, vec![logged("a", 5)])).expect("it applies");
    let result = view.run(&commit(2, 6, vec![logged("a", 6)]));
    assert!(matches!(result, Err(crate::apply::ApplyError::Invariant(_))), "{result:?}");
}
