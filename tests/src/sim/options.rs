//! The command line of `simulate`.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::plants::Plant;

/// How to call it.
pub const USAGE: &str = "\
usage: simulate [--seed N | --seeds N,N,… | --from N --count K] [--fresh K]
  --seed, --seeds, --from … --count   seeds to run; without any: one fresh seed
  --fresh K        and K fresh seeds, printed
  --jobs K         so many processes at a time (default 1)
  --seconds S      how long things go wrong, in simulated time (default 30)
  --plant NAME     a mistake to be found (an unknown name lists them)
  --tail K         lines of the trace shown after a violation (default 80)
  --trace          show the tail of the trace in any case, with the Raft messages
  --log LEVEL      what the nodes log goes to standard error: error, warn, info, debug or trace
  --help           this text";

/// How long things go wrong unless somebody says.
const FAULTS_DEFAULT: Duration = Duration::from_secs(30);
/// The longest time that things may go wrong: what its six digits can say to a process.
const SECONDS_MAX: u64 = 999_999;
/// Seeds in one go: they are listed before the first is run.
const SEEDS_MAX: u64 = 1_000_000;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Tell how to call it.
    Help,
    /// Run this seed in this process.
    Inside(u64),
    /// Run these seeds, each in a process of its own.
    Seeds(Vec<u64>),
}

/// The options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// What is to be done.
    pub task: Task,
    /// Processes at a time.
    pub jobs: usize,
    /// How long things go wrong.
    pub faults: Duration,
    /// A mistake to be found.
    pub plant: Option<Plant>,
    /// Lines of the trace shown after a violation.
    pub tail: usize,
    /// Show them in any case.
    pub show_trace: bool,
    /// What the nodes log.
    pub log: Option<tracing::Level>,
}

fn number(of: &str, text: Option<&String>) -> Result<u64, String> {
    let text = text.ok_or_else(|| format!("{of} needs a value"))?;
    text.trim().parse().map_err(|_| format!("{of}: {text:?} is no number"))
}

fn number_within(
    of: &str,
    text: Option<&String>,
    allowed: RangeInclusive<u64>,
) -> Result<u64, String> {
    let number = number(of, text)?;
    let refusal = || format!("{of}: {number} is not from {} to {}", allowed.start(), allowed.end());
    allowed.contains(&number).then_some(number).ok_or_else(refusal)
}

fn size(of: &str, number: u64) -> Result<usize, String> {
    usize::try_from(number).map_err(|e| format!("{of}: {e}"))
}

fn plant(of: &str, text: Option<&String>) -> Result<Plant, String> {
    let name = text.ok_or_else(|| format!("{of} needs a value"))?;
    let known = || Plant::all().map(|plant| plant.name).collect::<Vec<_>>().join(", ");
    Plant::of_name(name).ok_or_else(|| format!("{name}: not among {}", known()))
}

fn level(of: &str, text: Option<&String>) -> Result<tracing::Level, String> {
    let text = text.ok_or_else(|| format!("{of} needs a value"))?;
    let refusal = |_| format!("{of}: {text:?} is none of error, warn, info, debug and trace");
    text.parse().map_err(refusal)
}

/// The seeds asked for.
#[derive(Default)]
struct Wanted {
    listed: Vec<u64>,
    from: Option<u64>,
    count: Option<u64>,
    fresh: u64,
}

impl Wanted {
    fn seeds(self) -> Result<Vec<u64>, String> {
        let mut seeds = self.listed;
        match (self.from, self.count) {
            (Some(from), Some(count)) => {
                let last = from.checked_add(count.saturating_sub(1)).ok_or_else(|| {
                    format!("--from {from} --count {count}: the last seed is {}", u64::MAX)
                })?;
                seeds.extend(from..=last);
            }
            (Some(_), None) => return Err(String::from("--from needs --count as well")),
            (None, Some(_)) => return Err(String::from("--count needs --from as well")),
            (None, None) => {}
        }
        let fresh = if seeds.is_empty() { self.fresh.max(1) } else { self.fresh };
        seeds.extend((0..fresh).map(|_| super::process::fresh_seed()));
        Ok(seeds)
    }
}

impl Options {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self {
            task: Task::Seeds(Vec::new()),
            jobs: 1,
            faults: FAULTS_DEFAULT,
            plant: None,
            tail: 80,
            show_trace: false,
            log: None,
        };
        let (mut wanted, mut inside) = (Wanted::default(), None);
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let of = argument.as_str();
            match of {
                "--seed" => wanted.listed.push(number(of, rest.next())?),
                "--seeds" => {
                    let list = rest.next().ok_or("--seeds needs a value")?;
                    for seed in list.split(',') {
                        wanted.listed.push(number(of, Some(&seed.to_owned()))?);
                    }
                }
                "--inside" => inside = Some(number(of, rest.next())?),
                "--from" => wanted.from = Some(number(of, rest.next())?),
                "--count" => {
                    wanted.count = Some(number_within(of, rest.next(), 1..=SEEDS_MAX)?);
                }
                "--fresh" => wanted.fresh = number_within(of, rest.next(), 1..=SEEDS_MAX)?,
                "--jobs" => {
                    options.jobs = size(of, number_within(of, rest.next(), 1..=SEEDS_MAX)?)?;
                }
                "--seconds" => {
                    let seconds = number_within(of, rest.next(), 0..=SECONDS_MAX)?;
                    options.faults = Duration::from_secs(seconds);
                }
                "--tail" => options.tail = size(of, number(of, rest.next())?)?,
                "--trace" => options.show_trace = true,
                "--log" => options.log = Some(level(of, rest.next())?),
                "--plant" => options.plant = Some(plant(of, rest.next())?),
                "--help" | "-h" => {
                    options.task = Task::Help;
                    return Ok(options);
                }
                _ => return Err(format!("unknown option {of}")),
            }
        }
        options.task = match inside {
            Some(seed) => Task::Inside(seed),
            None => Task::Seeds(wanted.seeds()?),
        };
        Ok(options)
    }

    /// The arguments that make a process run one of the seeds; as long for every seed, so that the
    /// stack lies in the same place.
    pub fn for_process(&self, seed: u64) -> Vec<String> {
        let mut arguments = vec![
            String::from("--inside"),
            format!("{seed:020}"),
            String::from("--seconds"),
            format!("{:06}", self.faults.as_secs()),
            String::from("--tail"),
            format!("{:06}", self.tail),
        ];
        if let Some(plant) = self.plant {
            arguments.extend([String::from("--plant"), plant.name.to_owned()]);
        }
        if self.show_trace {
            arguments.push(String::from("--trace"));
        }
        if let Some(level) = self.log {
            arguments.extend([String::from("--log"), level.to_string()]);
        }
        arguments
    }

    /// The command that repeats the run of a seed. What is only shown of a run does not change it.
    pub fn again(&self, seed: u64) -> String {
        let mut arguments = Vec::new();
        if self.faults != FAULTS_DEFAULT {
            arguments.push(format!("--seconds {}", self.faults.as_secs()));
        }
        if let Some(plant) = self.plant {
            arguments.push(format!("--plant {}", plant.name));
        }
        match arguments.is_empty() {
            true => format!("make simulate SEED={seed}"),
            false => format!("make simulate SEED={seed} ARGS=\"{}\"", arguments.join(" ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options, String> {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        Options::parse(&words)
    }

    #[test]
    fn seeds_are_gathered_from_all_options() {
        let options = parse("--seeds 7,8 --from 20 --count 2 --jobs 3").unwrap();
        assert_eq!(options.task, Task::Seeds(vec![7, 8, 20, 21]));
        assert_eq!(options.jobs, 3);
        let Task::Seeds(fresh) = parse("").unwrap().task else { panic!("seeds") };
        assert_eq!(fresh.len(), 1);
    }

    #[test]
    fn a_process_gets_what_its_parent_was_given() {
        let options = parse("--seed 7 --seconds 5 --plant log-without-sync --tail 9").unwrap();
        let inner = Options::parse(&options.for_process(7)).unwrap();
        assert_eq!(inner.task, Task::Inside(7));
        assert_eq!((inner.plant, inner.faults), (options.plant, options.faults));
        assert_eq!(inner.tail, 9);
        let options = parse("--seed 7 --log debug --trace").unwrap();
        let inner = Options::parse(&options.for_process(7)).unwrap();
        assert_eq!((inner.log, inner.show_trace), (Some(tracing::Level::DEBUG), true));
    }

    #[test]
    fn a_seed_is_run_again_with_all_that_changes_its_run() {
        let again = |text: &str| parse(text).unwrap().again(7);
        assert_eq!(again(""), "make simulate SEED=7");
        assert_eq!(again("--from 1 --count 9 --jobs 2 --seconds 30"), "make simulate SEED=7");
        assert_eq!(again("--trace --tail 9 --log info"), "make simulate SEED=7");
        assert_eq!(again("--seconds 15"), "make simulate SEED=7 ARGS=\"--seconds 15\"");
        assert_eq!(
            again("--plant log-without-sync --fresh 2"),
            "make simulate SEED=7 ARGS=\"--plant log-without-sync\""
        );
        assert_eq!(
            again("--plant log-without-sync --seconds 0"),
            "make simulate SEED=7 ARGS=\"--seconds 0 --plant log-without-sync\""
        );
    }

    #[test]
    fn help_is_given_whatever_else_is_asked_for() {
        for text in ["--help", "-h", "--seed 7 --help", "--help --sead 7"] {
            assert_eq!(parse(text).unwrap().task, Task::Help, "{text}");
        }
    }

    #[test]
    fn the_last_seed_can_be_run_and_none_after_it() {
        let last = u64::MAX;
        let options = parse(&format!("--from {last} --count 1")).unwrap();
        assert_eq!(options.task, Task::Seeds(vec![last]));
        let refusal = parse(&format!("--from {last} --count 2")).unwrap_err();
        assert_eq!(refusal, format!("--from {last} --count 2: the last seed is {last}"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let refusal = |text: &str| parse(text).expect_err(text);
        assert_eq!(refusal("--from 7"), "--from needs --count as well");
        assert_eq!(refusal("--seed 1 --count 2"), "--count needs --from as well");
        assert_eq!(refusal("--from 7 --count 0"), "--count: 0 is not from 1 to 1000000");
        assert_eq!(refusal("--seconds 1000000"), "--seconds: 1000000 is not from 0 to 999999");
        for of in ["--fresh", "--jobs"] {
            assert_eq!(refusal(&format!("{of} 0")), format!("{of}: 0 is not from 1 to 1000000"));
        }
        let levels = "error, warn, info, debug and trace";
        assert_eq!(refusal("--log loud"), format!("--log: \"loud\" is none of {levels}"));
    }

    #[test]
    fn an_option_without_its_value_is_refused() {
        let with_value = ["seed", "seeds", "from", "count", "fresh", "jobs", "seconds", "plant"];
        for of in with_value.into_iter().chain(["tail", "log", "inside"]) {
            assert_eq!(parse(&format!("--{of}")), Err(format!("--{of} needs a value")));
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert!(parse("--sead 7").is_err());
        assert!(parse("--seed x").is_err());
        assert!(parse("--plant nothing").is_err());
    }
}
