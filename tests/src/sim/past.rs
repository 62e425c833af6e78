//! One who looks back: reads the whole bank as it was some seconds ago, twice, through two nodes.
//! Both must see the same, whichever replicas answer (rule R6), and all that was acknowledged
//! before that moment.

use std::sync::Arc;
use std::time::Duration;

use quorate_txn::config::MAX_CLOCK_OFFSET;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::bank::{Bank, STUCK_AFTER};
use super::checks::{bank_sum, no_lost_acked_write};
use super::client::{Client, Failed};
use super::clock::OFFSET_MAX;
use super::machine::Up;
use super::runtime;
use super::system::{self, EPOCH};

/// How far back, in milliseconds: the last ones are mostly below the safe point, where windows are
/// short (rule R4).
const BACK_MS: [std::ops::Range<u64>; 4] = [1..40, 40..400, 400..6_000, 6_000..16_000];
/// What came too late is seen by the second look alone: longest pause before it.
const BETWEEN_MAX_MS: u64 = 800;
/// Longest pause between two moments.
const PAUSE_MAX_MS: u64 = 300;

impl Bank {
    /// One who looks back, until the bank stops.
    pub async fn look_back_on(self: Arc<Self>, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        while !self.stopped() {
            self.pause(rng.random_range(0..PAUSE_MAX_MS)).await;
            let back = BACK_MS[rng.random_range(0..BACK_MS.len())].clone();
            let back = Duration::from_millis(rng.random_range(back));
            let (one, other) = (self.up_from(rng.random()), self.up_from(rng.random()));
            let (Some(one), Some(other)) = (one, other) else { continue };
            // Before that, what was acknowledged has a timestamp below the moment on any clock.
            let before = system::now().saturating_sub(back + 2 * OFFSET_MAX);
            if before < self.opened_at() {
                continue;
            }
            let between = Duration::from_millis(rng.random_range(0..BETWEEN_MAX_MS));
            let looks = self.look_back([&one, &other], back, before, between);
            match runtime::within(STUCK_AFTER, looks).await {
                Some(Ok(())) => {}
                Some(Err(why)) => self.trace().event(format_args!("a look back: {why}")),
                None => self.trace().violation("a look back is stuck"),
            }
        }
    }

    async fn look_back(
        &self,
        nodes: [&Up; 2],
        back: Duration,
        before: Duration,
        between: Duration,
    ) -> Result<(), Failed> {
        let ago = format!(
            "SELECT at::text, extract(epoch FROM at)::text \
             FROM (SELECT now() - interval '{} seconds' AS at) AS past",
            back.as_secs_f64()
        );
        let (rows, _) = Client::connect(nodes[0])?.texts(&ago).await?;
        let row = rows.first().map(Vec::as_slice);
        let Some((moment, since_epoch)) = row.and_then(|row| match row {
            [moment, seconds] => Some((moment, seconds.parse().ok()?)),
            _ => None,
        }) else {
            self.trace().violation(format_args!("not a moment: {rows:?}"));
            return Ok(());
        };
        // The clock asked may lie further behind than the bound.
        let by_its_clock = Duration::from_secs_f64(since_epoch).saturating_sub(EPOCH + OFFSET_MAX);
        let known = before.min(by_its_clock);
        if known < self.opened_at() {
            return Ok(());
        }
        // The clock that gave its timestamp may have been further ahead than any should, and yet
        // agree with another's: where one has left the bound.
        let ahead = match self.a_clock_has_leapt() {
            true => MAX_CLOCK_OFFSET + OFFSET_MAX,
            false => OFFSET_MAX,
        };
        let moment_at = Duration::from_secs_f64(since_epoch).saturating_sub(EPOCH);
        let certain = moment_at.saturating_sub(ahead);
        let told = self.told_before(known.min(certain));
        let begin = format!("BEGIN AS OF SYSTEM TIME '{moment}'");
        let mut seen = Vec::new();
        for up in nodes {
            if !seen.is_empty() {
                runtime::pause(between).await;
            }
            let machine = up.life.machine;
            let (here, by_followers) = self.see(up, &begin).await?;
            for found in
                [bank_sum::check(&here, self.accounts()), no_lost_acked_write::check(&here, &told)]
            {
                if let Err(why) = found {
                    self.trace().violation(format_args!("{moment} via m{machine}: {why}"));
                }
            }
            let rows = here.ledger.len();
            self.trace().event(format_args!(
                "{moment} via m{machine}: {rows} transfers, {by_followers} pages of followers"
            ));
            self.note_look_back(by_followers);
            seen.push((machine, here));
        }
        if let [(one, first), (other, second)] = &seen[..]
            && first != second
        {
            self.trace().violation(format_args!(
                "{moment} is not the same via m{one} and m{other}: {first:?} and {second:?}"
            ));
        }
        Ok(())
    }
}
