//! `AS OF SYSTEM TIME`: which moment of the past a statement or transaction reads. sqlparser does
//! not know it, so it is taken off the tokens.

use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};
use quorate_txn::config::FOLLOWER_READ_TIMESTAMP_LAG;

use super::tokens::{error_near, is_word};
use crate::error::{SqlError, SqlResult, SqlState};
use crate::types::PgType;
use crate::types::text::from_text;

const WORDS: [&str; 4] = ["as", "of", "system", "time"];
const DAY_US: i64 = 86_400_000_000;
/// As PostgreSQL takes a month where it must be a span of time.
const DAYS_PER_MONTH: i64 = 30;

/// The function that gives a moment followers can answer for.
const FOLLOWERS: &str = "follower_read_timestamp";

/// A moment of the past, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AsOf {
    /// In quotes.
    Text {
        /// What they hold.
        text: String,
        /// It says `INTERVAL`.
        interval: bool,
    },
    /// `follower_read_timestamp()`: a little before now.
    Followers,
}

/// The moment that begins at a token, and how many tokens it has.
fn at(tokens: &[TokenWithSpan], i: usize) -> Option<(AsOf, usize)> {
    let called = [Token::LParen, Token::RParen];
    if is_word(tokens.get(i), FOLLOWERS)
        && called
            .iter()
            .enumerate()
            .all(|(n, t)| tokens.get(i + 1 + n).is_some_and(|x| x.token == *t))
    {
        return Some((AsOf::Followers, 3));
    }
    let typed = ["interval", "timestamptz", "timestamp"];
    let named = typed.iter().find(|word| is_word(tokens.get(i), word));
    let place = i + usize::from(named.is_some());
    let Token::SingleQuotedString(text) = &tokens.get(place)?.token else { return None };
    let as_of = AsOf::Text { text: text.clone(), interval: named == Some(&"interval") };
    Some((as_of, place + 1 - i))
}

/// The moment after `AS OF SYSTEM TIME`, if these words are next, and how many tokens all have.
///
/// # Errors
/// `42601` if no moment follows.
pub fn read(tokens: &[TokenWithSpan], i: usize, whole: &str) -> SqlResult<Option<(AsOf, usize)>> {
    if !WORDS.iter().enumerate().all(|(n, word)| is_word(tokens.get(i + n), word)) {
        return Ok(None);
    }
    let first = i + WORDS.len();
    let Some((as_of, count)) = at(tokens, first) else {
        let end = TokenWithSpan::wrap(Token::EOF);
        let error = error_near(tokens.get(first).unwrap_or(&end), whole);
        return Err(error.with_hint(
            "AS OF SYSTEM TIME is followed by a timestamp or an interval in quotes, for instance \
             '-10s', or by follower_read_timestamp().",
        ));
    };
    Ok(Some((as_of, WORDS.len() + count)))
}

/// Takes `AS OF SYSTEM TIME` off a statement.
///
/// # Errors
/// `42601` if no moment follows; `0A000` for two different ones.
pub fn take(tokens: &mut Vec<TokenWithSpan>, whole: &str) -> SqlResult<Option<AsOf>> {
    let mut found: Option<AsOf> = None;
    let mut i = 0;
    while i < tokens.len() {
        let Some((as_of, count)) = read(tokens, i, whole)? else {
            i += 1;
            continue;
        };
        if found.as_ref().is_some_and(|found| *found != as_of) {
            return Err(SqlError::unsupported("more than one AS OF SYSTEM TIME in a statement"));
        }
        found = Some(as_of);
        tokens.drain(i..i + count);
    }
    Ok(found)
}

impl AsOf {
    /// The moment, in microseconds since 1970: a timestamp in the zone of the session, or an
    /// interval before now.
    ///
    /// # Errors
    /// `22007` if it is neither; `22023` for the future.
    pub fn moment(&self, now_us: i64) -> SqlResult<i64> {
        let (text, interval) = match self {
            AsOf::Text { text, interval } => (text, *interval),
            AsOf::Followers => {
                let lag = i64::try_from(FOLLOWER_READ_TIMESTAMP_LAG.as_micros());
                return Ok(now_us.saturating_sub(lag.unwrap_or(i64::MAX)));
            }
        };
        let stamp = || match from_text(text, PgType::TimestampTz).ok()? {
            ScalarValue::TimestampMicrosecond(at, _) => at,
            _ => None,
        };
        let moment = match if interval { None } else { stamp() } {
            Some(at) => at,
            None => now_us.saturating_add(interval_us(text)?),
        };
        if moment > now_us {
            let message = format!("AS OF SYSTEM TIME '{text}' is in the future");
            return Err(SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message)
                .with_hint("An interval is negative, for instance '-10s'."));
        }
        Ok(moment)
    }
}

fn interval_us(text: &str) -> SqlResult<i64> {
    let wrong = || {
        let message = format!("invalid input syntax for AS OF SYSTEM TIME: \"{text}\"");
        SqlError::new(SqlState::INVALID_DATETIME_FORMAT, message)
    };
    match from_text(text, PgType::Interval).map_err(|_| wrong())? {
        ScalarValue::IntervalMonthDayNano(Some(span)) => {
            let days = i64::from(span.months) * DAYS_PER_MONTH + i64::from(span.days);
            Ok(days.saturating_mul(DAY_US).saturating_add(span.nanoseconds / 1_000))
        }
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{StatementKind, parse};

    const NOW_US: i64 = 1_800_000_000_000_000;

    #[test]
    fn it_is_taken_off_wherever_it_stands() {
        for text in [
            "select * from t as of system time '-10s'",
            "select * from t as of system time interval '-10 seconds' where a = 1 order by b",
            "select * from t, u AS OF SYSTEM TIME '-00:00:10' limit 1",
            "explain select * from t as of system time '-10s'",
        ] {
            let statement = parse(text).expect(text).pop().expect("one");
            let as_of = statement.as_of.clone().expect(text);
            assert_eq!(as_of.moment(NOW_US).expect(text), NOW_US - 10_000_000);
            statement.parse_plan().expect(text);
            statement.parse_literal().expect(text);
        }
        let statement = parse("select 1 as of").expect("a name").pop().expect("one");
        assert!(statement.as_of.is_none());
    }

    #[test]
    fn a_timestamp_is_the_moment_itself() {
        let text = "begin as of system time '2026-11-26 01:02:03+00'";
        let StatementKind::Begin(modes) = parse(text).expect(text).remove(0).kind else {
            panic!("BEGIN")
        };
        let at = modes.as_of.expect("a moment").moment(NOW_US).expect("it is past");
        assert_eq!(at, 1_795_654_923_000_000);
    }

    #[test]
    fn followers_are_read_a_little_before_now() {
        let text = "select * from t as of system time follower_read_timestamp() where a = 1";
        let statement = parse(text).expect(text).remove(0);
        let at = statement.as_of.as_ref().expect("a moment").moment(NOW_US).expect("it is past");
        assert_eq!(at, NOW_US - 5_000_000);
        statement.parse_plan().expect(text);
    }

    #[test]
    fn what_is_no_moment_of_the_past_is_refused() {
        let state = |text: &str| {
            let statement = parse(text).map(|mut all| all.remove(0));
            let moment = statement.and_then(|s| s.as_of.expect(text).moment(NOW_US));
            moment.expect_err(text).sqlstate.code().to_owned()
        };
        assert_eq!(state("select 1 from t as of system time '10s'"), "22023");
        assert_eq!(state("select 1 from t as of system time 'soon'"), "22007");
        assert_eq!(state("select 1 from t as of system time now()"), "42601");
        assert_eq!(state("select 1 from t as of system time"), "42601");
        let two = "select 1 from t as of system time '-1s', u as of system time '-2s'";
        assert_eq!(state(two), "0A000");
    }
}
