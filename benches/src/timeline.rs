//! The committed transactions of each second, and the longest pause between two of them: what a
//! client sees of a node that was killed.

use crate::error::BenchError;
use crate::output::Output;
use serde::Serialize;
use std::time::Duration;

const MICROS_PER_SECOND: u64 = 1_000_000;

/// The longest time without a commit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gap {
    /// When it began, in seconds after measuring began.
    pub start_s: f64,
    /// How long it was.
    pub seconds: f64,
}

/// Finds the longest stretch of the measured time without a commit; its borders are commits or
/// the borders of the measured time itself.
pub fn longest_gap(commits_us: &[u64], measured: Duration) -> Gap {
    let end = u64::try_from(measured.as_micros()).unwrap_or(u64::MAX);
    let mut sorted: Vec<u64> = commits_us.iter().copied().filter(|at| *at <= end).collect();
    sorted.sort_unstable();
    sorted.push(end);
    let (mut previous, mut longest, mut start) = (0, 0, 0);
    for at in sorted {
        if at - previous > longest {
            (longest, start) = (at - previous, previous);
        }
        previous = at;
    }
    Gap { start_s: start as f64 / 1e6, seconds: longest as f64 / 1e6 }
}

/// Counts commits by second of the measured time.
pub fn per_second(commits_us: &[u64], measured: Duration) -> Vec<u64> {
    let seconds = usize::try_from(measured.as_micros().div_ceil(1_000_000)).unwrap_or(0);
    let mut counts = vec![0; seconds];
    for at in commits_us {
        let second = usize::try_from(at / MICROS_PER_SECOND).unwrap_or(usize::MAX);
        if let Some(count) = counts.get_mut(second) {
            *count += 1;
        }
    }
    counts
}

/// Writes one JSON object for each second: `{"second":3,"commits":812}`.
pub fn write(output: Output, counts: &[u64]) -> Result<(), BenchError> {
    let written = output.write(|to| {
        for (second, count) in counts.iter().enumerate() {
            writeln!(to, "{{\"second\":{second},\"commits\":{count}}}")?;
        }
        Ok(())
    });
    written.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_may_touch_the_borders() {
        let ten = Duration::from_secs(10);
        let gap = longest_gap(&[9_000_000, 1_000_000, 4_500_000], ten);
        assert_eq!(gap, Gap { start_s: 4.5, seconds: 4.5 });
        assert_eq!(longest_gap(&[9_000_000], ten), Gap { start_s: 0.0, seconds: 9.0 });
        assert_eq!(longest_gap(&[2_000_000], ten), Gap { start_s: 2.0, seconds: 8.0 });
        assert_eq!(longest_gap(&[], ten), Gap { start_s: 0.0, seconds: 10.0 });
    }

    #[test]
    fn seconds_without_a_commit_are_listed() {
        let counts = per_second(&[100, 999_999, 2_000_000], Duration::from_millis(3500));
        assert_eq!(counts, [2, 0, 1, 0]);
    }
}
