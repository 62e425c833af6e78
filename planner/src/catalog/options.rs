//! Storage parameters of tables: `WITH (…)` and `ALTER TABLE … SET (…)`. One means something here,
//! `gc_window`; those of PostgreSQL that tell its storage what to do are taken and do nothing.

use datafusion::common::ScalarValue;
use serde::{Deserialize, Serialize};

use crate::error::{SqlError, SqlResult, SqlState};
use crate::types::PgType;
use crate::types::text::from_text;

/// How long old versions of a table's rows stay readable.
pub const GC_WINDOW: &str = "gc_window";
/// The least window, in seconds: what a transaction may have to be compared with stays that long.
const GC_WINDOW_MIN_S: u64 = quorate_txn::config::TXN_FLOOR_LAG.as_secs();
/// The greatest: ten years.
const GC_WINDOW_MAX_S: u64 = 10 * 365 * DAY_S;
const DAY_S: u64 = 86_400;
/// As PostgreSQL takes a month where it must be a span of time.
const DAYS_PER_MONTH: i64 = 30;
/// Parameters of PostgreSQL that say nothing here (chapter "CREATE TABLE" of its manual).
const WITHOUT_EFFECT: [&str; 6] = [
    "fillfactor",
    "parallel_workers",
    "toast_tuple_target",
    "user_catalog_table",
    "log_autovacuum_min_duration",
    "vacuum_index_cleanup",
];
/// And those that begin so.
const WITHOUT_EFFECT_PREFIXES: [&str; 3] = ["autovacuum_", "vacuum_", "toast."];

/// What a statement sets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TableOptions {
    /// The window in seconds; `Some(None)`: the cluster's again.
    pub gc_window_s: Option<Option<u64>>,
}

impl TableOptions {
    /// Takes one parameter; no value resets it.
    ///
    /// # Errors
    /// `22023` for one that does not exist or a value it cannot have.
    pub fn take(&mut self, name: &str, value: Option<&str>) -> SqlResult<()> {
        let name = name.to_lowercase();
        if name == GC_WINDOW {
            if self.gc_window_s.is_some() {
                return Err(invalid(format!("parameter \"{name}\" specified more than once")));
            }
            self.gc_window_s = Some(value.map(seconds).transpose()?);
            return Ok(());
        }
        if name == "oids" && matches!(value, Some("false" | "off" | "no" | "0") | None) {
            return Ok(());
        }
        let known = WITHOUT_EFFECT.contains(&name.as_str())
            || WITHOUT_EFFECT_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        match known {
            true => Ok(()),
            false => Err(invalid(format!("unrecognized parameter \"{name}\""))),
        }
    }
}

fn invalid(message: String) -> SqlError {
    SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message)
}

/// A window: a number of seconds, or an interval.
fn seconds(text: &str) -> SqlResult<u64> {
    let wrong = || {
        invalid(format!("invalid value for parameter \"{GC_WINDOW}\": \"{text}\""))
            .with_hint("It is a number of seconds or an interval, for instance '1 hour'.")
    };
    let seconds = match (text.trim().parse::<u64>(), from_text(text, PgType::Interval)) {
        (Ok(seconds), _) => seconds,
        (_, Ok(ScalarValue::IntervalMonthDayNano(Some(span)))) => {
            let days = i64::from(span.months) * DAYS_PER_MONTH + i64::from(span.days);
            let parts =
                i128::from(days) * i128::from(DAY_S) * 1_000_000_000 + i128::from(span.nanoseconds);
            u64::try_from(parts / 1_000_000_000).map_err(|_| wrong())?
        }
        _ => return Err(wrong()),
    };
    if (GC_WINDOW_MIN_S..=GC_WINDOW_MAX_S).contains(&seconds) {
        return Ok(seconds);
    }
    Err(wrong().with_detail(format!(
        "Valid values are between {GC_WINDOW_MIN_S} and {GC_WINDOW_MAX_S} seconds."
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_a_number_of_seconds_or_an_interval() {
        for (text, expected) in
            [("90", 90), ("1 hour", 3_600), ("00:10:00", 600), ("2 days 1 minute", 172_860)]
        {
            assert_eq!(seconds(text).expect(text), expected);
        }
        for text in ["29", "29 seconds", "-1 hour", "soon", "", "11 years", "9999999999999999999"] {
            assert_eq!(seconds(text).expect_err(text).sqlstate.code(), "22023");
        }
    }

    #[test]
    fn parameters_of_postgres_do_nothing_and_others_do_not_exist() {
        let mut options = TableOptions::default();
        for name in ["fillfactor", "AUTOVACUUM_enabled", "toast.autovacuum_enabled"] {
            options.take(name, Some("70")).expect(name);
        }
        assert_eq!(options, TableOptions::default());
        assert!(options.take("ttl", Some("1")).is_err());
        assert!(options.take("oids", Some("true")).is_err());
        options.take("oids", Some("false")).expect("as it was long ago");
        options.take("GC_Window", None).expect("reset");
        assert_eq!(options.gc_window_s, Some(None));
        assert!(options.take("gc_window", Some("60")).is_err(), "it was said already");
    }
}
