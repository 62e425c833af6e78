//! The command line of `simulate`.

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
  --log LEVEL      what the nodes log goes to standard error: info, debug, …";

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
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
    pub log: Option<String>,
}

fn number(of: &str, text: Option<&String>) -> Result<u64, String> {
    let text = text.ok_or_else(|| format!("{of} needs a value"))?;
    text.trim().parse().map_err(|_| format!("{of}: {text:?} is no number"))
}

fn size(of: &str, text: Option<&String>) -> Result<usize, String> {
    usize::try_from(number(of, text)?).map_err(|e| format!("{of}: {e}"))
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
            faults: Duration::from_secs(30),
            plant: None,
            tail: 80,
            show_trace: false,
            log: None,
        };
        let (mut seeds, mut from, mut count, mut fresh, mut inside) = (vec![], 0, 0, 0, None);
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let of = argument.as_str();
            match of {
                "--seed" => seeds.push(number(of, rest.next())?),
                "--seeds" => {
                    let list = rest.next().ok_or("--seeds needs a value")?;
                    for seed in list.split(',') {
                        seeds.push(number(of, Some(&seed.to_owned()))?);
                    }
                }
                "--inside" => inside = Some(number(of, rest.next())?),
                "--from" => from = number(of, rest.next())?,
                "--count" => count = number(of, rest.next())?,
                "--fresh" => fresh = number(of, rest.next())?,
                "--jobs" => options.jobs = size(of, rest.next())?.max(1),
                "--seconds" => options.faults = Duration::from_secs(number(of, rest.next())?),
                "--tail" => options.tail = size(of, rest.next())?,
                "--trace" => options.show_trace = true,
                "--log" => options.log = rest.next().cloned(),
                "--plant" => {
                    let name = rest.next().ok_or("--plant needs a value")?;
                    let known =
                        || Plant::all().map(|plant| plant.name).collect::<Vec<_>>().join(", ");
                    let plant = Plant::of_name(name);
                    options.plant =
                        Some(plant.ok_or_else(|| format!("{name}: not among {}", known()))?);
                }
                "--help" => return Err(String::from("simulate: runs seeds of the simulator")),
                _ => return Err(format!("unknown option {of}")),
            }
        }
        seeds.extend(from..from + count);
        if seeds.is_empty() && fresh == 0 {
            fresh = 1;
        }
        seeds.extend((0..fresh).map(|_| super::process::fresh_seed()));
        options.task = match inside {
            Some(seed) => Task::Inside(seed),
            None => Task::Seeds(seeds),
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
        if let Some(filter) = &self.log {
            arguments.extend([String::from("--log"), filter.clone()]);
        }
        arguments
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
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert!(parse("--sead 7").is_err());
        assert!(parse("--seed x").is_err());
        assert!(parse("--plant nothing").is_err());
    }
}
