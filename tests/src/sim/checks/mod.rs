//! Safety properties, one module each, with a test that makes it fire. They are pure: what they
//! look at is handed to them.

pub mod bank_sum;
pub mod hlc_monotonic;
pub mod no_lost_acked_write;
pub mod one_leaseholder;
pub mod ranges_tile_the_keyspace;
pub mod replicas_agree;

use std::collections::{BTreeMap, BTreeSet};

/// A transfer, as the ledger has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// The account that pays.
    pub from: i64,
    /// The account that gets it.
    pub to: i64,
    /// How much.
    pub amount: i64,
}

/// The bank as one transaction saw it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Balance of each account.
    pub balances: BTreeMap<i64, i64>,
    /// Each transfer that was made, by its number.
    pub ledger: BTreeMap<i64, Transfer>,
}

/// What clients were told so far.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// Transfers that were acknowledged.
    pub acknowledged: BTreeMap<i64, Transfer>,
    /// Transfers that certainly were not made.
    pub refused: BTreeSet<i64>,
}
