//! The clock of the nodes in this process: the machine's, or for fault tests one that is wrong by
//! as much as a file says.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_proto::Timestamp;
use quorate_shard::node::SystemClock;
use quorate_txn::clock::PhysicalClock;

/// Names a file with a signed number of milliseconds, which are added to the wall clock.
pub const FILE_VARIABLE: &str = "QUORATE_TEST_CLOCK_FILE";
/// The file is read again after this at the earliest.
const READ_EVERY: Duration = Duration::from_millis(50);

/// The machine's clock, unless the environment asks for a wrong one.
pub fn of_this_process() -> Arc<dyn PhysicalClock> {
    match std::env::var_os(FILE_VARIABLE) {
        None => Arc::new(SystemClock),
        Some(file) => {
            let file = PathBuf::from(file);
            tracing::warn!(
                file = %file.display(),
                "{FILE_VARIABLE} is set: the wall clock is moved by what this file says, FOR TESTS"
            );
            Arc::new(ShiftedClock::new(file))
        }
    }
}

/// A wall clock that is wrong by what a file says; what counts time goes on as it should. A file
/// that is not there or holds no number shifts nothing.
#[derive(Debug)]
struct ShiftedClock {
    file: PathBuf,
    read: Mutex<Read>,
}

/// What the file said last, and when that was.
#[derive(Debug, Clone, Copy, Default)]
struct Read {
    ms: i64,
    at: Option<Duration>,
}

impl ShiftedClock {
    fn new(file: PathBuf) -> Self {
        Self { file, read: Mutex::default() }
    }

    fn shift_ms(&self) -> i64 {
        let now = SystemClock.monotonic();
        let mut read = self.read.lock();
        if read.at.is_none_or(|at| now.saturating_sub(at) >= READ_EVERY) {
            let text = std::fs::read_to_string(&self.file).unwrap_or_default();
            *read = Read { ms: text.trim().parse().unwrap_or(0), at: Some(now) };
        }
        read.ms
    }
}

impl PhysicalClock for ShiftedClock {
    fn now(&self) -> Timestamp {
        let ms = self.shift_ms();
        let by = Duration::from_millis(ms.unsigned_abs());
        let now = SystemClock.now();
        if ms < 0 { now.bound_before(by) } else { now.bound_after(by) }
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How far the wall clock is ahead of the machine's, to the second.
    fn ahead_s(clock: &ShiftedClock) -> i64 {
        let secs = |at: Timestamp| i64::try_from(at.to_duration().as_secs()).unwrap();
        secs(clock.now().bound_after(Duration::from_millis(500))) - secs(SystemClock.now())
    }

    /// Forgets when the file was read.
    fn written(clock: &ShiftedClock, text: &str) {
        std::fs::write(&clock.file, text).unwrap();
        clock.read.lock().at = None;
    }

    #[test]
    fn the_wall_clock_is_off_by_what_the_file_says_and_no_other_clock_is() {
        let folder = tempfile::tempdir().unwrap();
        let clock = ShiftedClock::new(folder.path().join("offset"));
        assert!((0..=1).contains(&ahead_s(&clock)), "no file");
        written(&clock, "100000\n");
        assert!((100..=101).contains(&ahead_s(&clock)));
        written(&clock, "-100000");
        assert!((-100..=-99).contains(&ahead_s(&clock)));
        written(&clock, "soon");
        assert!((0..=1).contains(&ahead_s(&clock)), "no number");
        let before = SystemClock.monotonic();
        written(&clock, "100000");
        assert!(clock.monotonic() - before < Duration::from_secs(60));
    }

    #[test]
    fn the_file_is_not_read_for_every_reading() {
        let folder = tempfile::tempdir().unwrap();
        let clock = ShiftedClock::new(folder.path().join("offset"));
        written(&clock, "100000");
        assert!(ahead_s(&clock) >= 100);
        // Read in the future, as far as the clock knows: not due.
        clock.read.lock().at = Some(SystemClock.monotonic() + Duration::from_secs(1000));
        std::fs::write(&clock.file, "0").unwrap();
        assert!(ahead_s(&clock) >= 100);
    }
}
