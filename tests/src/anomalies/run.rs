//! Runs anomaly scripts.
//!
//! No step is decided by a pause: a statement has ended when its answer is there, and it blocks
//! when the server shows that it waits for a lock.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::script::{Action, Clause, Engine, Expected, Scenario, Script, Section, Step, Verdict};
use crate::wire::{Mode, Reply, Url, WireClient};

/// How long a statement may take to end or to block.
const STEP_LIMIT: Duration = Duration::from_secs(30);

/// How long a statement that should end may be seen waiting: what ended just before it may still be
/// giving up its locks.
const WAIT_LIMIT: Duration = Duration::from_secs(5);

/// How often the server is asked who waits.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

const BLOCKS: &str = "blocks";

/// A server, and how to reach it.
#[derive(Clone, Debug)]
pub struct Server {
    /// What it is.
    pub engine: Engine,
    /// Sessions go through these in turn.
    pub urls: Vec<String>,
    /// Statements run once the table is there, for example to cut it into ranges.
    pub layout: Vec<String>,
    /// Each step must answer what the script says. If not so, nothing must be seen that the script
    /// calls prevented: where rows lie may change who is refused.
    pub exactly: bool,
}

/// What the scripts showed of a server.
#[derive(Debug, Default)]
pub struct Findings {
    /// For each anomaly and level; permitted if any scenario was, those with a remedy aside.
    pub verdicts: BTreeMap<(String, String), Verdict>,
    /// How many scenarios ran.
    pub ran: usize,
    /// What was not as it should be.
    pub failures: Vec<String>,
}

/// A session and what it is at.
enum Session {
    Idle(WireClient),
    Busy { label: Option<String>, sql: String, task: JoinHandle<(WireClient, io::Result<Reply>)> },
}

/// Runs every scenario at every level.
///
/// # Errors
/// Of a connection that cannot be opened.
pub async fn run_all(server: &Server, scripts: &[Script]) -> io::Result<Findings> {
    let mut observer = connect(&server.urls[0]).await?;
    let table =
        ["DROP TABLE IF EXISTS test", "CREATE TABLE test (id int PRIMARY KEY, value int NOT NULL)"];
    for sql in table.into_iter().chain(server.layout.iter().map(String::as_str)) {
        ask(&mut observer, sql).await?;
    }
    let mut findings = Findings::default();
    for script in scripts {
        for scenario in &script.scenarios {
            let for_this = |section: &&Section| section.only.is_none_or(|e| e == server.engine);
            for section in scenario.sections.iter().filter(for_this) {
                for level in &section.levels {
                    let run = Run::begin(server, section, level, observer).await?;
                    let (failure, permitted, back) = run.finish(scenario, section).await?;
                    observer = back;
                    findings.ran += 1;
                    let place = format!("{}: {}, {level}", script.file, scenario.title);
                    findings.take(script, scenario, level, permitted);
                    findings.failures.extend(failure.map(|what| format!("{place}\n{what}")));
                }
            }
        }
        let failed = findings.failures.len();
        eprintln!("{}: {:?}, {failed} failures so far", script.file, server.engine);
    }
    ask(&mut observer, "DROP TABLE test").await?;
    Ok(findings)
}

impl Findings {
    fn take(&mut self, script: &Script, scenario: &Scenario, level: &str, seen: Verdict) {
        if scenario.remedy.is_some() || scenario.seen.is_empty() {
            return;
        }
        let key = (script.anomaly.clone(), level.to_owned());
        let verdict = self.verdicts.entry(key).or_insert(Verdict::Prevented);
        *verdict = seen.max(*verdict);
    }
}

async fn connect(url: &str) -> io::Result<WireClient> {
    WireClient::connect(&Url::parse(url)?).await
}

/// Lines of an answer.
async fn ask(client: &mut WireClient, sql: &str) -> io::Result<Vec<String>> {
    let asked = tokio::time::timeout(STEP_LIMIT, client.run(sql, Mode::Simple));
    let reply = asked.await.map_err(|_| io::Error::other(format!("no answer to {sql}")))??;
    match &reply.error {
        None => Ok(lines_of(&reply)),
        Some(error) => {
            Err(io::Error::other(format!("{sql}: {} {}", error.sqlstate(), error.message())))
        }
    }
}

/// An answer as scripts say it.
fn lines_of(reply: &Reply) -> Vec<String> {
    if let Some(error) = &reply.error {
        return vec![format!("ERROR {}", error.sqlstate())];
    }
    if reply.columns.is_none() {
        return vec![reply.tag.clone().unwrap_or_default()];
    }
    if reply.rows.is_empty() {
        return vec!["(no rows)".into()];
    }
    let value = |value: &Option<bytes::Bytes>| match value {
        None => "NULL".to_owned(),
        Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
    };
    reply.rows.iter().map(|row| row.iter().map(value).collect::<Vec<_>>().join("|")).collect()
}

/// What verdicts are derived from.
#[derive(Debug, Default)]
struct Observed {
    /// What the steps with names answered, errors aside.
    answers: BTreeMap<String, Vec<String>>,
    /// The sessions whose COMMIT was answered with COMMIT.
    committed: Vec<String>,
}

impl Observed {
    fn verdict(&self, scenario: &Scenario) -> Verdict {
        let holds = |clause: &Clause| match clause {
            Clause::Commits(name) => self.committed.contains(name),
            Clause::Has(step, line) => self.answers.get(step).is_some_and(|got| got.contains(line)),
            Clause::Is(step, lines) => self.answers.get(step) == Some(lines),
        };
        match scenario.seen.iter().any(|clauses| clauses.iter().all(holds)) {
            true => Verdict::Permitted,
            false => Verdict::Prevented,
        }
    }
}

/// One scenario at one level.
struct Run<'a> {
    server: &'a Server,
    level: &'a str,
    observer: WireClient,
    sessions: BTreeMap<String, Session>,
    observed: Observed,
    transcript: Vec<String>,
    /// The first thing that was not as the script says.
    failure: Option<String>,
}

impl<'a> Run<'a> {
    async fn begin(
        server: &'a Server,
        section: &Section,
        level: &'a str,
        mut observer: WireClient,
    ) -> io::Result<Run<'a>> {
        for sql in ["DELETE FROM test", "INSERT INTO test VALUES (1, 10), (2, 20)"] {
            ask(&mut observer, sql).await?;
        }
        let mut run = Run {
            server,
            level,
            observer,
            sessions: BTreeMap::new(),
            observed: Observed::default(),
            transcript: Vec::new(),
            failure: None,
        };
        for step in &section.steps {
            if let Action::Send { session, .. } = &step.action
                && !run.sessions.contains_key(session)
            {
                let client = run.open(session, section).await?;
                run.sessions.insert(session.clone(), Session::Idle(client));
            }
        }
        Ok(run)
    }

    async fn open(&self, name: &str, section: &Section) -> io::Result<WireClient> {
        let urls = &self.server.urls;
        let mut client = connect(&urls[self.sessions.len() % urls.len()]).await?;
        let mut settings = vec![
            format!("application_name = '{name}'"),
            format!("default_transaction_isolation = '{}'", self.level),
        ];
        settings.extend(section.settings.iter().cloned());
        for setting in settings {
            ask(&mut client, &format!("SET {setting}")).await?;
        }
        Ok(client)
    }

    /// What went wrong, what was seen, and the observer.
    async fn finish(
        mut self,
        scenario: &Scenario,
        section: &Section,
    ) -> io::Result<(Option<String>, Verdict, WireClient)> {
        let mut seen = Verdict::Prevented;
        for step in &section.steps {
            if step.only.is_some_and(|only| only != self.server.engine) {
                continue;
            }
            match &step.action {
                Action::Send { session, label, sql } => {
                    self.send(session, label.clone(), sql).await?;
                    let got = self.ended_or_blocked(session, blocks(step, self.server)).await?;
                    self.note(step, session, sql, got);
                }
                Action::Answer { session } => {
                    let got = self.ended_or_blocked(session, false).await?;
                    self.note(step, session, "answers", got);
                }
                Action::Final { sql } => {
                    let lines = ask(&mut self.observer, sql).await?;
                    self.observed.answers.insert("final".into(), lines.clone());
                    self.note(step, "final", sql, Some(lines));
                }
                Action::Verdict => {
                    seen = self.observed.verdict(scenario);
                    let said = said(&step.expected, self.server.engine);
                    let failure = misjudged(said, seen, scenario, self.server.exactly);
                    let failure = failure.map(|what| format!("line {}: {what}", step.line));
                    self.failure = self.failure.take().or(failure);
                }
            }
        }
        // Those first whom others may wait for.
        let sessions = std::mem::take(&mut self.sessions).into_iter();
        let (idle, busy): (Vec<_>, Vec<_>) =
            sessions.partition(|(_, session)| matches!(session, Session::Idle(_)));
        for (name, session) in idle.into_iter().chain(busy) {
            self.close(&name, session).await?;
        }
        let transcript = self.transcript.join("\n");
        let failure = self.failure.map(|what| format!("{transcript}\n{what}"));
        Ok((failure, seen, self.observer))
    }

    /// Sends a statement; one before it must have ended by then.
    async fn send(&mut self, name: &str, label: Option<String>, sql: &str) -> io::Result<()> {
        if matches!(self.sessions.get(name), Some(Session::Busy { .. })) {
            self.ended_or_blocked(name, false).await?;
        }
        let Some(Session::Idle(mut client)) = self.sessions.remove(name) else {
            return Err(self.stuck(name, sql));
        };
        let text = sql.to_owned();
        let task = tokio::spawn(async move {
            let reply = client.run(&text, Mode::Simple).await;
            (client, reply)
        });
        let busy = Session::Busy { label, sql: sql.to_owned(), task };
        self.sessions.insert(name.to_owned(), busy);
        Ok(())
    }

    fn stuck(&self, name: &str, what: &str) -> io::Error {
        let (level, transcript) = (self.level, self.transcript.join("\n"));
        io::Error::other(format!("{level}: {name} still waits: {what}\n{transcript}"))
    }

    /// Waits until a session's statement has ended, or blocks; `None` if it has ended before.
    /// `may_block`: it is not waited any longer once it is seen waiting.
    async fn ended_or_blocked(
        &mut self,
        name: &str,
        may_block: bool,
    ) -> io::Result<Option<Vec<String>>> {
        let Some(Session::Busy { label, sql, mut task }) = self.sessions.remove(name) else {
            // `exactly` is off and the step has answered at once.
            return Ok(None);
        };
        let began = Instant::now();
        loop {
            if let Ok(ended) = tokio::time::timeout(POLL_INTERVAL, &mut task).await {
                let (client, reply) = ended.map_err(io::Error::other)?;
                let reply = reply?;
                self.sessions.insert(name.to_owned(), Session::Idle(client));
                return Ok(Some(self.answered(name, label, &sql, &reply)));
            }
            let patient = !may_block && began.elapsed() < WAIT_LIMIT;
            if !patient && self.waits(name).await? {
                self.sessions.insert(name.to_owned(), Session::Busy { label, sql, task });
                return Ok(Some(vec![BLOCKS.into()]));
            }
            if began.elapsed() > STEP_LIMIT {
                return Err(self.stuck(name, &sql));
            }
        }
    }

    /// Remembers what a statement answered.
    fn answered(
        &mut self,
        name: &str,
        label: Option<String>,
        sql: &str,
        reply: &Reply,
    ) -> Vec<String> {
        let lines = lines_of(reply);
        if reply.error.is_none() {
            self.observed.answers.extend(label.map(|label| (label, lines.clone())));
        }
        if sql == "COMMIT" && lines == ["COMMIT"] {
            self.observed.committed.push(name.to_owned());
        }
        if let Some(error) = &reply.error {
            self.transcript.push(format!("    ({})", error.message()));
        }
        lines
    }

    /// Whether the server shows that a session waits for a lock.
    async fn waits(&mut self, name: &str) -> io::Result<bool> {
        let sql = match self.server.engine {
            Engine::Quorate => "SHOW LOCKS".to_owned(),
            Engine::Postgres => format!(
                "SELECT 1 FROM pg_stat_activity \
                 WHERE application_name = '{name}' AND wait_event_type = 'Lock'"
            ),
        };
        let asked = tokio::time::timeout(STEP_LIMIT, self.observer.run(&sql, Mode::Simple));
        let reply = asked.await.map_err(io::Error::other)??;
        if self.server.engine == Engine::Postgres {
            return Ok(!reply.rows.is_empty());
        }
        let columns = reply.columns.unwrap_or_default();
        let place = |name: &str| columns.iter().position(|column| column.name == name);
        let (Some(state), Some(application)) = (place("state"), place("application")) else {
            return Err(io::Error::other("SHOW LOCKS has other columns"));
        };
        Ok(reply.rows.iter().any(|row| {
            row[state].as_deref() == Some(b"waits".as_slice())
                && row[application].as_deref() == Some(name.as_bytes())
        }))
    }

    /// Compares a step's answer with what it must be.
    fn note(&mut self, step: &Step, who: &str, what: &str, got: Option<Vec<String>>) {
        let got = got.unwrap_or_else(|| vec!["(it has answered before)".into()]);
        self.transcript.push(format!("{:4} {who}: {what}\n       {}", step.line, got.join(" ")));
        let expected = step.expected.of(self.server.engine);
        if self.server.exactly && got != expected && self.failure.is_none() {
            self.failure = Some(format!("line {}: expected {}", step.line, expected.join(" ")));
        }
    }

    /// Ends a session, so that the next scenario meets nothing of it.
    async fn close(&mut self, name: &str, session: Session) -> io::Result<()> {
        let mut client = match session {
            Session::Idle(client) => client,
            Session::Busy { task, .. } => {
                let (client, _) = tokio::time::timeout(STEP_LIMIT, task)
                    .await
                    .map_err(|_| self.stuck(name, "at the end"))?
                    .map_err(io::Error::other)?;
                client
            }
        };
        ask(&mut client, "ROLLBACK").await.map(|_| ())
    }
}

fn blocks(step: &Step, server: &Server) -> bool {
    !server.exactly || step.expected.of(server.engine) == [BLOCKS]
}

/// The verdict that a script states.
fn said(expected: &Expected, engine: Engine) -> Option<Verdict> {
    match expected.of(engine).as_slice() {
        ["prevented"] => Some(Verdict::Prevented),
        [line] if line.starts_with("permitted because ") => Some(Verdict::Permitted),
        _ => None,
    }
}

/// What is wrong with the verdict that a script states, given what was seen.
fn misjudged(
    said: Option<Verdict>,
    seen: Verdict,
    scenario: &Scenario,
    exactly: bool,
) -> Option<String> {
    match said {
        None => Some("the verdict is neither `prevented` nor `permitted because …`".into()),
        // What a level permits need not happen wherever the rows lie.
        Some(said) if said != seen && (exactly || seen == Verdict::Permitted) => {
            Some(format!("it was {seen}, not {said}"))
        }
        Some(Verdict::Permitted) if scenario.remedy.is_some() => {
            Some("a remedy that does not help".into())
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost_update() -> Scenario {
        let read = Clause::Is("read".into(), vec!["1|10".into()]);
        let commits = Clause::Commits("T1".into());
        let stored = Clause::Has("final".into(), "1|12".into());
        Scenario { seen: vec![vec![read, commits], vec![stored]], ..Scenario::default() }
    }

    fn observed(read: &[&str], committed: &[&str], stored: &[&str]) -> Observed {
        let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
        let answers = [("read".to_owned(), lines(read)), ("final".to_owned(), lines(stored))];
        Observed { answers: answers.into(), committed: lines(committed) }
    }

    #[test]
    fn a_verdict_is_what_was_seen() {
        let scenario = lost_update();
        let verdict = |observed: Observed| observed.verdict(&scenario);
        assert_eq!(verdict(observed(&["1|10"], &["T1"], &[])), Verdict::Permitted);
        assert_eq!(verdict(observed(&["1|11"], &["T2"], &["1|12", "2|20"])), Verdict::Permitted);
        assert_eq!(verdict(observed(&["1|10"], &["T2"], &[])), Verdict::Prevented);
        assert_eq!(verdict(observed(&["1|10", "2|20"], &["T1"], &["2|1"])), Verdict::Prevented);
        assert_eq!(verdict(Observed::default()), Verdict::Prevented);
    }

    #[test]
    fn a_wrong_verdict_is_a_failure() {
        use Verdict::{Permitted, Prevented};
        let scenario = lost_update();
        let fails = |said, seen, exactly| misjudged(said, seen, &scenario, exactly).is_some();
        assert!(
            fails(Some(Prevented), Permitted, true) && fails(Some(Prevented), Permitted, false)
        );
        assert!(
            fails(Some(Permitted), Prevented, true) && !fails(Some(Permitted), Prevented, false)
        );
        assert!(!fails(Some(Permitted), Permitted, true) && fails(None, Prevented, true));
        let remedy = Scenario { remedy: Some("FOR UPDATE".into()), ..lost_update() };
        assert!(misjudged(Some(Permitted), Permitted, &remedy, true).is_some());
        assert!(misjudged(Some(Prevented), Prevented, &remedy, true).is_none());
    }
}
