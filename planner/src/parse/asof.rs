//! `AS OF SYSTEM TIME`: which moment of the past a statement or transaction reads. sqlparser does
//! not know it, so it is taken off the tokens.

use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};
use quorate_txn::config::FOLLOWER_READ_TIMESTAMP_LAG;

use super::tokens::{error_near, is_word, position};
use crate::error::{SqlError, SqlResult, SqlState};
use crate::types::PgType;
use crate::types::datetime::{Interval, parse_interval};
use crate::types::text::from_text;

const WORDS: [&str; 4] = ["as", "of", "system", "time"];
const SET_OPERATORS: [&str; 3] = ["union", "intersect", "except"];
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

/// Takes `AS OF SYSTEM TIME` off a statement, all of which reads that moment.
///
/// # Errors
/// `42601` if no moment follows; `0A000` for two different ones, and where it seems to speak of a
/// part of the statement: within brackets, or in some branches of a UNION only.
pub fn take(tokens: &mut Vec<TokenWithSpan>, whole: &str) -> SqlResult<Option<AsOf>> {
    let mut found: Option<AsOf> = None;
    let mut first = None;
    let (mut depth, mut i) = (0_usize, 0);
    // Whether each branch of a UNION says it.
    let mut branches = vec![false];
    while i < tokens.len() {
        match &tokens[i].token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            Token::Word(_) if depth == 0 && begins_branch(tokens, i) => branches.push(false),
            _ => {}
        }
        let Some((as_of, count)) = read(tokens, i, whole)? else {
            i += 1;
            continue;
        };
        let place = position(whole, tokens[i].span.start);
        if depth > 0 {
            return Err(of_a_part(place));
        }
        if found.as_ref().is_some_and(|found| *found != as_of) {
            let what = "more than one AS OF SYSTEM TIME in a statement";
            return Err(SqlError::unsupported(what).at(place));
        }
        first.get_or_insert(place);
        found = Some(as_of);
        if let Some(says) = branches.last_mut() {
            *says = true;
        }
        tokens.drain(i..i + count);
    }
    match first {
        Some(place) if branches.contains(&false) => Err(of_a_part(place)),
        _ => Ok(found),
    }
}

/// Whether a token is the UNION, INTERSECT or EXCEPT between two queries.
fn begins_branch(tokens: &[TokenWithSpan], i: usize) -> bool {
    let before = i.checked_sub(1).and_then(|i| tokens.get(i));
    let is_name = is_word(before, "as") || before.is_some_and(|t| t.token == Token::Period);
    !is_name && SET_OPERATORS.iter().any(|word| is_word(tokens.get(i), word))
}

fn of_a_part(place: usize) -> SqlError {
    SqlError::unsupported("AS OF SYSTEM TIME for a part of a statement").at(place).with_hint(
        "Say it once, after the FROM of the whole statement (in each branch of a UNION, the \
         same): all of it reads that moment.",
    )
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
    let span = parse_interval(text).map_err(|_| wrong())?;
    if minus_of_a_part(text) {
        let cure = match all_of_it(text) {
            Some(meant) => format!(" For all of this one, write '{meant}'."),
            None => String::new(),
        };
        return Err(wrong().with_hint(format!("A minus is for one part of an interval.{cure}")));
    }
    let days = i64::from(span.months) * DAYS_PER_MONTH + i64::from(span.days);
    Ok(days.saturating_mul(DAY_US).saturating_add(span.micros))
}

/// Whether a number without a sign follows one with a minus. To PostgreSQL `-1h30m` is half an hour
/// ago, but hardly to those who write it.
fn minus_of_a_part(text: &str) -> bool {
    let (mut minus, mut last) = (false, ' ');
    for c in text.chars() {
        if c.is_ascii_digit() && !last.is_ascii_digit() && !matches!(last, '.' | ':') {
            match last {
                '-' => minus = true,
                '+' => {}
                _ if minus => return true,
                _ => {}
            }
        }
        last = c;
    }
    false
}

/// An interval with a minus before each part.
fn all_of_it(text: &str) -> Option<String> {
    let span = parse_interval(&text.replace('-', "")).ok()?;
    let negative = Interval {
        months: span.months.checked_neg()?,
        days: span.days.checked_neg()?,
        micros: span.micros.checked_neg()?,
    };
    let mut out = Vec::new();
    negative.write(&mut out);
    String::from_utf8(out).ok().filter(|_| !text.contains("ago"))
}

#[cfg(test)]
mod tests {
    use super::super::{StatementKind, parse};

    const NOW_US: i64 = 1_800_000_000_000_000;

    #[test]
    fn it_is_taken_off_where_it_is_of_the_whole_statement() {
        for text in [
            "select * from t as of system time '-10s'",
            "select * from t as of system time interval '-10 seconds' where a = 1 order by b",
            "select * from t, u AS OF SYSTEM TIME '-00:00:10' limit 1",
            "explain select * from t as of system time '-10s'",
            "with c as (select 1) select * from c, t as of system time '-10s'",
            "select * from t as of system time '-10s' where a in (select b from u)",
            "select 1 as union from t as of system time '-10s'",
            "select a from t as of system time '-10s' union all \
             select a from u as of system time '-10s' except \
             select a from v as of system time '-10s' order by 1",
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

    #[test]
    fn a_part_of_a_statement_does_not_read_another_moment() {
        for text in [
            "with o as (select * from h as of system time '-1s') select h.v, o.v from h, o",
            "select * from h x, (select * from h as of system time '-1s') y",
            "select * from h where v in (select v from h as of system time '-1s')",
            "select (select v from h as of system time '-1s') from h as of system time '-1s'",
            "select v from h union all select v from h as of system time '-1s'",
            "select v from h as of system time '-1s' union all select v from h",
            "select v from h as of system time '-1s' except (select v from h)",
            "(select v from h as of system time '-1s')",
            "explain select v from h intersect select v from h as of system time '-1s'",
        ] {
            let error = parse(text).expect_err(text);
            assert_eq!(error.sqlstate.code(), "0A000", "{text}");
            let message = "AS OF SYSTEM TIME for a part of a statement is not supported";
            assert_eq!(error.message, message, "{text}");
            let place = text.find("as of system").expect("it says so") + 1;
            assert_eq!(error.position, Some(place), "{text}");
        }
    }

    #[test]
    fn a_minus_of_a_part_is_not_taken_for_one_of_all() {
        let moment = |span: &str| {
            let text = format!("select 1 from t as of system time '{span}'");
            let as_of = parse(&text).expect(&text).remove(0).as_of.expect("a moment");
            as_of.moment(NOW_US)
        };
        for (span, cure) in [
            ("-1h30m", "'-01:30:00'"),
            ("-9m59s", "'-00:09:59'"),
            ("-1 hour 30 minutes", "'-01:30:00'"),
            ("-1 day 02:00:00", "'-1 days -02:00:00'"),
        ] {
            let error = moment(span).expect_err(span);
            assert_eq!(error.sqlstate.code(), "22007", "{span}");
            let hint = error.hint.clone().expect("a hint");
            assert!(hint.contains(&format!("write {cure}.")), "{hint}");
        }
        for (span, seconds) in [
            ("-01:30:00", 5_400),
            ("-1h -30m", 5_400),
            ("1h30m ago", 5_400),
            ("-1.5h", 5_400),
            ("-1 day +02:00:00", 79_200),
        ] {
            assert_eq!(moment(span).expect(span), NOW_US - seconds * 1_000_000, "{span}");
        }
        assert_eq!(moment("1h30m").expect_err("the future").sqlstate.code(), "22023");
    }
}
