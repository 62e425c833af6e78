//! What clients were told, counted.

use std::collections::BTreeMap;

use super::session::Told;

/// Counters of both workloads.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// When each acknowledgement came, in microseconds since the beginning.
    pub commits_us: Vec<u64>,
    /// Refused, by SQLSTATE.
    pub refused: BTreeMap<String, u64>,
    /// Unknown, by SQLSTATE.
    pub unknown: BTreeMap<String, u64>,
}

impl Tally {
    /// Counts a transaction.
    pub fn note(&mut self, told: &Told, at_us: u64) {
        match told {
            Told::Acknowledged => self.commits_us.push(at_us),
            Told::Refused(why) => *self.refused.entry(why.clone()).or_default() += 1,
            Told::Unknown(why) => *self.unknown.entry(why.clone()).or_default() += 1,
        }
    }
}

/// Counts by name in one line.
pub fn by_name(counts: &BTreeMap<String, u64>) -> String {
    let total: u64 = counts.values().sum();
    let parts: Vec<String> =
        counts.iter().map(|(name, count)| format!("{name}: {count}")).collect();
    match parts.is_empty() {
        true => String::from("0"),
        false => format!("{total} ({})", parts.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_summed_up_and_listed() {
        let mut tally = Tally::default();
        for why in ["40001", "40001", "23505"] {
            tally.note(&Told::Refused(why.to_owned()), 0);
        }
        assert_eq!(by_name(&tally.refused), "3 (23505: 1, 40001: 2)");
        assert_eq!(by_name(&tally.unknown), "0");
    }
}
