//! What happened, in order: a hash over all of it, and the last lines as text.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use parking_lot::Mutex;

use super::system;

/// Lines kept.
const TAIL_LINES_MAX: usize = 4_000;

/// The 64-bit FNV-1a hash (Fowler, Noll, Vo).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// Takes bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// The hash of some bytes.
    pub fn of(bytes: &[u8]) -> u64 {
        let mut hash = Self::default();
        hash.update(bytes);
        hash.0
    }
}

#[derive(Default)]
struct State {
    hash: Fnv,
    events: u64,
    tail: VecDeque<(Duration, String)>,
    violation: Option<String>,
}

/// The trace of a run.
///
/// # Invariants
/// * The hash is of every event since the start, with its time.
/// * The first violation stays.
#[derive(Default)]
pub struct Trace {
    state: Mutex<State>,
    verbose: bool,
}

impl Trace {
    /// An empty trace; if verbose, it keeps details too, which are not part of the hash.
    pub fn new(verbose: bool) -> Self {
        Self { verbose, ..Self::default() }
    }

    /// Something happened.
    pub fn event(&self, what: impl fmt::Display) {
        let (now, line) = (system::now(), what.to_string());
        let mut state = self.state.lock();
        state.events += 1;
        state.hash.update(&now.as_nanos().to_be_bytes());
        state.hash.update(line.as_bytes());
        if state.tail.len() == TAIL_LINES_MAX {
            state.tail.pop_front();
        }
        state.tail.push_back((now, line));
    }

    /// What explains the event before, for people.
    pub fn detail(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            let mut state = self.state.lock();
            let line = what();
            state.tail.push_back((system::now(), line));
        }
    }

    /// Something happened that must not.
    pub fn violation(&self, what: impl fmt::Display) {
        let what = what.to_string();
        self.event(format_args!("VIOLATION {what}"));
        self.state.lock().violation.get_or_insert(what);
    }

    /// What must not have happened and did, if anything.
    pub fn violated(&self) -> Option<String> {
        self.state.lock().violation.clone()
    }

    /// The hash so far.
    pub fn hash(&self) -> u64 {
        self.state.lock().hash.0
    }

    /// How much has happened.
    pub fn events(&self) -> u64 {
        self.state.lock().events
    }

    /// The last lines.
    pub fn tail(&self, lines: usize) -> String {
        let state = self.state.lock();
        let skipped = state.tail.len().saturating_sub(lines);
        let mut text = String::new();
        for (at, line) in state.tail.iter().skip(skipped) {
            text += &format!("{:>10.3} {line}\n", at.as_secs_f64());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_of_every_event_in_order() {
        let hash = |events: &[&str]| {
            let trace = Trace::default();
            events.iter().for_each(|event| trace.event(event));
            trace.hash()
        };
        assert_eq!(hash(&["a", "b"]), hash(&["a", "b"]));
        assert_ne!(hash(&["a", "b"]), hash(&["b", "a"]));
        assert_ne!(hash(&["a"]), hash(&["a", "b"]));
        // The test vector of the algorithm's authors.
        assert_eq!(Fnv::of(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn the_first_violation_stays() {
        let trace = Trace::default();
        assert_eq!(trace.violated(), None);
        trace.violation("one");
        trace.violation("two");
        assert_eq!(trace.violated().as_deref(), Some("one"));
        assert!(trace.tail(1).contains("VIOLATION two"));
    }
}
