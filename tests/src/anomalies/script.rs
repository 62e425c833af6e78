//! What an anomaly script says.

use std::fmt;
use std::path::Path;

/// The levels that have a behaviour of their own.
pub const LEVELS: [&str; 3] = ["read committed", "repeatable read", "serializable"];

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// PostgreSQL.
    Postgres,
    /// Quorate.
    Quorate,
}

impl Engine {
    fn named(name: &str) -> Result<Engine, String> {
        let engines = [Engine::Postgres, Engine::Quorate];
        let found = engines.into_iter().find(|engine| engine.name() == name);
        found.ok_or_else(|| format!("`{name}` is no server"))
    }

    /// Its name in a script.
    fn name(self) -> &'static str {
        match self {
            Engine::Postgres => "postgres",
            Engine::Quorate => "quorate",
        }
    }
}

/// What came of an anomaly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It was not seen.
    Prevented,
    /// It was seen.
    Permitted,
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Verdict::Prevented => "prevented",
            Verdict::Permitted => "permitted",
        })
    }
}

/// Lines below a step, each for both servers or for one.
#[derive(Debug, Default)]
pub struct Expected {
    lines: Vec<(Option<Engine>, String)>,
    /// Why the servers differ.
    because: Option<String>,
}

impl Expected {
    /// What this server must answer.
    pub fn of(&self, engine: Engine) -> Vec<&str> {
        let lines = self.lines.iter().filter(|(only, _)| only.is_none_or(|only| only == engine));
        lines.map(|(_, line)| line.as_str()).collect()
    }

    fn differs(&self) -> bool {
        self.of(Engine::Postgres) != self.of(Engine::Quorate)
    }
}

/// What a step does.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// A session sends a statement.
    Send {
        /// Which session.
        session: String,
        /// The name of the step.
        label: Option<String>,
        /// The statement.
        sql: String,
    },
    /// A statement that blocked ends.
    Answer {
        /// Whose.
        session: String,
    },
    /// Another session asks for what is stored.
    Final {
        /// The statement.
        sql: String,
    },
    /// The verdict.
    Verdict,
}

/// A step and what must come of it.
#[derive(Debug)]
pub struct Step {
    /// Its line in the file.
    pub line: usize,
    /// The only server it is for.
    pub only: Option<Engine>,
    /// What it does.
    pub action: Action,
    /// What must come of it.
    pub expected: Expected,
}

/// A scenario at some levels.
#[derive(Debug, Default)]
pub struct Section {
    /// Its line in the file.
    pub line: usize,
    /// The levels, of [`LEVELS`].
    pub levels: Vec<String>,
    /// The only server it is for.
    pub only: Option<Engine>,
    /// `name = value`, for each session.
    pub settings: Vec<String>,
    /// The steps in order.
    pub steps: Vec<Step>,
}

/// One thing that must be so.
#[derive(Debug, PartialEq, Eq)]
pub enum Clause {
    /// The session's COMMIT was answered with COMMIT.
    Commits(String),
    /// A step answered this line, among others.
    Has(String, String),
    /// A step answered exactly these lines.
    Is(String, Vec<String>),
}

/// One way to an anomaly.
#[derive(Debug, Default)]
pub struct Scenario {
    /// In words.
    pub title: String,
    /// What it shows to help against the anomaly.
    pub remedy: Option<String>,
    /// It was permitted if all clauses of one of these are so.
    pub seen: Vec<Vec<Clause>>,
    /// The same steps at each level.
    pub sections: Vec<Section>,
}

/// A file.
#[derive(Debug, Default)]
pub struct Script {
    /// The name of the file.
    pub file: String,
    /// The anomaly; empty if the file shows something else.
    pub anomaly: String,
    /// The ways to it.
    pub scenarios: Vec<Scenario>,
}

impl Script {
    /// Reasons that its verdicts give why Quorate permits the anomaly.
    pub fn reasons(&self) -> Vec<String> {
        let sections = self.scenarios.iter().flat_map(|scenario| &scenario.sections);
        let steps = sections.flat_map(|section| &section.steps);
        let verdicts = steps.filter(|step| step.action == Action::Verdict);
        let lines = verdicts.flat_map(|step| step.expected.of(Engine::Quorate));
        lines
            .filter_map(|line| line.split_once("because ").map(|(_, why)| why.to_owned()))
            .collect()
    }
}

/// Every script, by file name.
///
/// # Panics
/// If one cannot be read or is wrong.
pub fn all() -> Vec<Script> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("anomalies");
    let entries = std::fs::read_dir(&folder).expect("the scripts can be listed");
    let mut scripts: Vec<Script> = entries
        .map(|entry| {
            let path = entry.expect("the scripts can be listed").path();
            let text = std::fs::read_to_string(&path).expect("a script is a text file");
            let file = path.file_name().expect("a listed file has a name").to_string_lossy();
            parse(&file, &text).unwrap_or_else(|error| panic!("{error}"))
        })
        .collect();
    scripts.sort_by(|a, b| a.file.cmp(&b.file));
    scripts
}

/// Reads a script.
///
/// # Errors
/// The line that makes no sense, and why.
pub fn parse(file: &str, text: &str) -> Result<Script, String> {
    let mut script = Script { file: file.to_owned(), ..Script::default() };
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let taken = match line.strip_prefix("  ") {
            Some(line) => script.take_expected(line.trim()),
            None => script.take_line(number, line.trim()),
        };
        taken.map_err(|why| format!("{file}:{number}: {why}"))?;
    }
    script.check()?;
    Ok(script)
}

/// `postgres rest` or `quorate rest`, with what separates them.
fn only(line: &str, separator: &str) -> (Option<Engine>, String) {
    for engine in [Engine::Postgres, Engine::Quorate] {
        let rest = line.strip_prefix(engine.name());
        if let Some(rest) = rest.and_then(|rest| rest.strip_prefix(separator)) {
            return (Some(engine), rest.trim().to_owned());
        }
    }
    (None, line.to_owned())
}

fn is_session(word: &str) -> bool {
    word.strip_prefix('T').is_some_and(|number| number.parse::<u8>().is_ok())
}

fn clause(text: &str) -> Result<Clause, String> {
    let words: Vec<&str> = text.splitn(3, ' ').map(str::trim).collect();
    match words.as_slice() {
        [session, "commits"] if is_session(session) => Ok(Clause::Commits((*session).to_owned())),
        [step, "has", line] => Ok(Clause::Has((*step).to_owned(), (*line).to_owned())),
        [step, "is", lines] => {
            Ok(Clause::Is((*step).to_owned(), lines.split(", ").map(str::to_owned).collect()))
        }
        _ => Err(format!("`{text}` is no condition")),
    }
}

impl Script {
    fn take_expected(&mut self, line: &str) -> Result<(), String> {
        let steps = self.scenarios.last_mut().and_then(|scenario| scenario.sections.last_mut());
        let step = steps.and_then(|section| section.steps.last_mut());
        let Some(step) = step else { return Err("an answer to no step".into()) };
        match line.strip_prefix("because: ") {
            Some(why) => step.expected.because = Some(why.to_owned()),
            None => step.expected.lines.push(only(line, ":")),
        }
        Ok(())
    }

    fn take_line(&mut self, number: usize, line: &str) -> Result<(), String> {
        let (key, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.trim();
        match key {
            "anomaly" => self.anomaly = value.to_owned(),
            "scenario" => {
                let scenario = Scenario { title: value.to_owned(), ..Scenario::default() };
                self.scenarios.push(scenario);
            }
            "remedy" => self.scenario()?.remedy = Some(value.to_owned()),
            "seen" => {
                let clauses: Result<_, _> =
                    value.split(';').map(|text| clause(text.trim())).collect();
                self.scenario()?.seen.push(clauses?);
            }
            "level" => {
                let levels: Vec<String> = value.split(", ").map(str::to_owned).collect();
                if let Some(unknown) = levels.iter().find(|name| !LEVELS.contains(&name.as_str())) {
                    return Err(format!("`{unknown}` is no level"));
                }
                let section = Section { line: number, levels, ..Section::default() };
                self.scenario()?.sections.push(section);
            }
            "server" => self.section()?.only = Some(Engine::named(value)?),
            "set" => self.section()?.settings.push(value.to_owned()),
            "begin" => {
                for session in value.split(' ') {
                    let begin = format!("{session}: BEGIN");
                    self.take_step(number, &begin)?;
                    self.take_expected("BEGIN")?;
                }
            }
            _ => self.take_step(number, line)?,
        }
        Ok(())
    }

    fn take_step(&mut self, line: usize, text: &str) -> Result<(), String> {
        let (only, text) = only(text, " ");
        let (who, rest) = text.split_once(':').unwrap_or((&text, ""));
        let sql = rest.trim().to_owned();
        let words: Vec<&str> = who.split(' ').collect();
        let action = match words.as_slice() {
            ["verdict"] => Action::Verdict,
            ["final"] => Action::Final { sql },
            [session, "answers"] if is_session(session) => {
                Action::Answer { session: (*session).to_owned() }
            }
            [session, label @ ..] if is_session(session) && label.len() < 2 && !sql.is_empty() => {
                let label = label.first().map(|label| (*label).to_owned());
                Action::Send { session: (*session).to_owned(), label, sql }
            }
            _ => return Err(format!("`{text}` is no step")),
        };
        self.section()?.steps.push(Step { line, only, action, expected: Expected::default() });
        Ok(())
    }

    fn scenario(&mut self) -> Result<&mut Scenario, String> {
        self.scenarios.last_mut().ok_or_else(|| "it stands in no scenario".into())
    }

    fn section(&mut self) -> Result<&mut Section, String> {
        let section = self.scenario()?.sections.last_mut();
        section.ok_or_else(|| "it stands at no level".into())
    }

    fn check(&self) -> Result<(), String> {
        for scenario in &self.scenarios {
            for section in &scenario.sections {
                let wrong = |why: &str| Err(format!("{}:{}: {why}", self.file, section.line));
                let verdicts = section.steps.iter().filter(|s| s.action == Action::Verdict);
                if verdicts.count() != usize::from(!scenario.seen.is_empty()) {
                    return wrong("one verdict for what is seen, none for what is not");
                }
                let differs = section.steps.iter().any(|step| step.expected.differs());
                let explained = section.steps.iter().any(|step| step.expected.because.is_some());
                if differs && !explained {
                    return wrong("the servers differ, and no `because` says why");
                }
                if let Some(label) = scenario.labels().find(|label| !section.names(label)) {
                    return wrong(&format!("no step is named `{label}`"));
                }
            }
        }
        Ok(())
    }
}

impl Scenario {
    /// The steps that `seen` speaks of.
    fn labels(&self) -> impl Iterator<Item = &String> {
        self.seen.iter().flatten().filter_map(|clause| match clause {
            Clause::Commits(_) => None,
            Clause::Has(label, _) | Clause::Is(label, _) => Some(label),
        })
    }
}

impl Section {
    fn names(&self, name: &str) -> bool {
        self.steps.iter().any(|step| match &step.action {
            Action::Send { label, .. } => label.as_deref() == Some(name),
            Action::Final { .. } => name == "final",
            Action::Answer { .. } | Action::Verdict => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "anomaly: X
scenario: one
seen: T1 commits; read has 1|11
seen: final is 1|11, 2|21
level: read committed, serializable
begin: T1
T1 read: SELECT 1
  1|10
T1: COMMIT
  postgres: ROLLBACK
  quorate: COMMIT
  because: it differs
final: SELECT 2
verdict:
  permitted because so it is
";

    #[test]
    fn a_script_is_read() {
        let script = parse("x.txt", GOOD).unwrap();
        let scenario = &script.scenarios[0];
        assert_eq!(scenario.seen[0][1], Clause::Has("read".into(), "1|11".into()));
        assert_eq!(
            scenario.seen[1][0],
            Clause::Is("final".into(), vec!["1|11".into(), "2|21".into()])
        );
        let section = &scenario.sections[0];
        assert_eq!(section.levels, ["read committed", "serializable"]);
        assert_eq!(section.steps.len(), 5);
        assert_eq!(section.steps[2].expected.of(Engine::Postgres), ["ROLLBACK"]);
        assert_eq!(section.steps[2].expected.of(Engine::Quorate), ["COMMIT"]);
        assert_eq!(script.reasons(), ["so it is"]);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let wrong = |from: &str, to: &str| parse("x.txt", &GOOD.replace(from, to)).unwrap_err();
        assert!(wrong("serializable", "strict").starts_with("x.txt:5: `strict` is no level"));
        assert!(wrong("has 1|11", "smells").contains("is no condition"));
        assert!(wrong("T1 read:", "T1 other:").contains("no step is named `read`"));
        assert!(wrong("  because: it differs\n", "").contains("no `because` says why"));
        assert!(wrong("verdict:\n  permitted because so it is\n", "").contains("one verdict"));
        assert!(wrong("begin: T1", "begin: me").contains("is no step"));
    }
}
