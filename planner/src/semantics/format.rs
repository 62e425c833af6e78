//! `to_char`, `to_date` and `to_timestamp` of dates and times: patterns as PostgreSQL reads them.
//!
//! What is no pattern stands for itself. Patterns that are PostgreSQL's but not here are refused.

use super::cast::{of_string, string};
use super::function::{Call, Evaluator};
use super::strings::int;
use super::time::iso_week;
use crate::error::{SqlError, SqlResult, SqlState};
use crate::keyenc::Datum;
use crate::types::datetime::{
    self, DAY, SECOND, civil_from_days, days_from_civil, days_in_month, month_name,
};
use crate::types::{PgType, zone};

const DAYS: [&str; 7] =
    ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];

const ROMAN: [&str; 12] =
    ["I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII"];

/// Days from the Julian day 0 to 1970-01-01.
const JULIAN_EPOCH: i64 = 2_440_588;

/// Patterns, longer ones before their beginnings. Letters of the same case as here are matched in
/// any case where the value is a number.
const PATTERNS: &[&str] = &[
    "Y,YYY", "YYYY", "YYY", "YY", "Y", "IYYY", "IYY", "IY", "MONTH", "MON", "MM", "MI", "MS",
    "DAY", "DDD", "DD", "DY", "D", "IDDD", "ID", "IW", "I", "HH24", "HH12", "HH", "SSSSS", "SSSS",
    "SS", "US", "FF1", "FF2", "FF3", "FF4", "FF5", "FF6", "A.M.", "P.M.", "AM", "PM", "A.D.",
    "B.C.", "AD", "BC", "TZH", "TZM", "TZ", "OF", "WW", "W", "CC", "J", "Q", "RM",
];

/// A piece of a format.
#[derive(Debug, Clone, PartialEq)]
enum Piece {
    /// A pattern as [`PATTERNS`] spells it, as it was typed, and its modifiers.
    Field { name: &'static str, typed: String, fill: bool, ordinal: Option<String> },
    /// Anything else.
    Text(String),
}

/// What computes a function of this module.
pub fn evaluator(name: &str) -> Option<Evaluator> {
    Some(match name {
        "to_char" => |call, v| match call.types[0] {
            PgType::Date | PgType::Timestamp | PgType::TimestampTz => {
                show(call, int(&v[0])?, string(&v[1])?).map(of_string)
            }
            _ => super::number_format::to_char(call, v),
        },
        "to_date" => |_, v| {
            let micros = read(string(&v[0])?, string(&v[1])?)?;
            let days = datetime::check_date(micros.div_euclid(DAY))?;
            Ok(Datum::Int(i64::from(days)))
        },
        _ => return None,
    })
}

/// `to_timestamp(text, format)`
pub fn to_timestamp(v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    let local = read(string(&v[0])?, string(&v[1])?)?;
    Ok(Datum::Int(zone::current().instant(local)?))
}

fn pieces(format: &str) -> Vec<Piece> {
    let mut out: Vec<Piece> = Vec::new();
    let mut text = String::new();
    let mut rest = format;
    let mut fill = true;
    while let Some(first) = rest.chars().next() {
        if let Some(tail) = rest.strip_prefix("FM").or(rest.strip_prefix("fm")) {
            fill = false;
            rest = tail;
            continue;
        }
        if first == '"' {
            let mut chars = rest[1..].char_indices();
            let mut end = rest.len();
            let mut escaped = false;
            for (i, c) in chars.by_ref() {
                if !escaped && c == '\\' {
                    escaped = true;
                    continue;
                }
                if !escaped && c == '"' {
                    end = i + 2;
                    break;
                }
                escaped = false;
                text.push(c);
            }
            rest = &rest[end..];
            continue;
        }
        if first == '\\' && rest[1..].starts_with('"') {
            text.push('"');
            rest = &rest[2..];
            continue;
        }
        let found = PATTERNS
            .iter()
            .find(|p| rest.get(..p.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(p)));
        let Some(name) = found else {
            text.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        if !text.is_empty() {
            out.push(Piece::Text(std::mem::take(&mut text)));
        }
        let typed = rest[..name.len()].to_owned();
        rest = &rest[name.len()..];
        let ordinal = rest.get(..2).filter(|s| s.eq_ignore_ascii_case("th")).map(str::to_owned);
        if ordinal.is_some() {
            rest = &rest[2..];
        }
        out.push(Piece::Field { name, typed, fill, ordinal });
        fill = true;
    }
    if !text.is_empty() {
        out.push(Piece::Text(text));
    }
    out
}

/// A name in the case of the pattern that was typed: `MONTH`, `Month` or `month`.
fn cased(name: &str, typed: &str) -> String {
    let mut letters = typed.chars();
    let first = letters.next().is_some_and(|c| c.is_ascii_uppercase());
    let second = letters.next().is_some_and(|c| c.is_ascii_uppercase());
    match (first, second) {
        (true, true) => name.to_ascii_uppercase(),
        (true, false) => {
            let mut out = name.to_owned();
            if let Some(begin) = out.get_mut(..1) {
                begin.make_ascii_uppercase();
            }
            out
        }
        _ => name.to_ascii_lowercase(),
    }
}

fn ordinal(n: i64, typed: &str) -> String {
    let n = n.abs();
    let ending = match (n % 10, n % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    if typed.starts_with('T') { ending.to_ascii_uppercase() } else { ending.to_owned() }
}

/// A time as it is shown.
struct Shown {
    year: i64,
    month: i64,
    day: i64,
    days: i64,
    micros: i64,
    /// Seconds east of UTC, of a `timestamptz`.
    offset: Option<i64>,
}

fn show(call: &Call<'_>, value: i64, format: &str) -> SqlResult<String> {
    let zone = zone::current();
    let infinite = match call.types[0] {
        PgType::Date => value == i64::from(i32::MAX) || value == i64::from(i32::MIN),
        _ => value == i64::MAX || value == i64::MIN,
    };
    if infinite {
        return Err(SqlError::unsupported("to_char of an infinite time"));
    }
    let (local, offset) = match call.types[0] {
        PgType::Date => (value * DAY, None),
        PgType::TimestampTz => (zone.local(value), Some(zone.offset_at(value))),
        _ => (value, None),
    };
    let days = local.div_euclid(DAY);
    let (year, month, day) = civil_from_days(days);
    let shown = Shown { year, month, day, days, micros: local.rem_euclid(DAY), offset };
    let mut out = String::new();
    for piece in pieces(format) {
        match piece {
            Piece::Text(text) => out.push_str(&text),
            Piece::Field { name, typed, fill, ordinal } => {
                shown.field(name, &typed, fill, ordinal.as_deref(), &mut out)?;
            }
        }
    }
    Ok(out)
}

impl Shown {
    fn field(
        &self,
        name: &str,
        typed: &str,
        fill: bool,
        th: Option<&str>,
        out: &mut String,
    ) -> SqlResult<()> {
        if let Some((value, width)) = self.number(name) {
            let width = if fill { width } else { 0 };
            out.push_str(&format!("{value:0width$}"));
            if let Some(th) = th {
                out.push_str(&ordinal(value, th));
            }
            return Ok(());
        }
        let text = self.word(name, typed, fill)?;
        out.push_str(&text);
        Ok(())
    }

    /// Fields that are numbers, and how many digits they have at least.
    fn number(&self, name: &str) -> Option<(i64, usize)> {
        let shown_year = if self.year > 0 { self.year } else { 1 - self.year };
        let (iso_year, week) = iso_week(self.days);
        let of_year = self.days - days_from_civil(self.year, 1, 1) + 1;
        let weekday = (self.days + 4).rem_euclid(7);
        let hour = self.micros / (3600 * SECOND);
        let half = if hour % 12 == 0 { 12 } else { hour % 12 };
        let fraction = self.micros % SECOND;
        Some(match name {
            "YYYY" => (shown_year, 4),
            "YYY" => (shown_year % 1000, 3),
            "YY" => (shown_year % 100, 2),
            "Y" => (shown_year % 10, 1),
            "IYYY" => (iso_year, 4),
            "IYY" => (iso_year % 1000, 3),
            "IY" => (iso_year % 100, 2),
            "I" => (iso_year % 10, 1),
            "MM" => (self.month, 2),
            "DDD" => (of_year, 3),
            "IDDD" => ((week - 1) * 7 + if weekday == 0 { 7 } else { weekday }, 3),
            "DD" => (self.day, 2),
            "D" => (weekday + 1, 1),
            "ID" => (if weekday == 0 { 7 } else { weekday }, 1),
            "HH24" => (hour, 2),
            "HH12" | "HH" => (half, 2),
            "MI" => (self.micros / (60 * SECOND) % 60, 2),
            "SS" => (self.micros / SECOND % 60, 2),
            "SSSS" | "SSSSS" => (self.micros / SECOND, 0),
            "MS" | "FF3" => (fraction / 1000, 3),
            "US" | "FF6" => (fraction, 6),
            "FF1" => (fraction / 100_000, 1),
            "FF2" => (fraction / 10_000, 2),
            "FF4" => (fraction / 100, 4),
            "FF5" => (fraction / 10, 5),
            "WW" => ((of_year - 1) / 7 + 1, 2),
            "W" => ((self.day - 1) / 7 + 1, 1),
            "IW" => (week, 2),
            "CC" if self.year > 0 => ((self.year + 99) / 100, 2),
            "J" => (self.days + JULIAN_EPOCH, 0),
            "Q" => ((self.month - 1) / 3 + 1, 1),
            _ => return None,
        })
    }

    fn word(&self, name: &str, typed: &str, fill: bool) -> SqlResult<String> {
        let weekday = DAYS[usize::try_from((self.days + 4).rem_euclid(7)).unwrap_or(0)];
        let padded = |text: String| if fill { format!("{text:<9}") } else { text };
        let hour = self.micros / (3600 * SECOND);
        let lower = typed.starts_with(|c: char| c.is_ascii_lowercase());
        let upper_or = |text: &str| {
            if lower { text.to_ascii_lowercase() } else { text.to_owned() }
        };
        Ok(match name {
            "MONTH" => padded(cased(month_name(self.month), typed)),
            "MON" => cased(&month_name(self.month)[..3], typed),
            "DAY" => padded(cased(weekday, typed)),
            "DY" => cased(&weekday[..3], typed),
            "AM" | "PM" => upper_or(if hour < 12 { "AM" } else { "PM" }),
            "A.M." | "P.M." => upper_or(if hour < 12 { "A.M." } else { "P.M." }),
            "AD" | "BC" => upper_or(if self.year > 0 { "AD" } else { "BC" }),
            "A.D." | "B.C." => upper_or(if self.year > 0 { "A.D." } else { "B.C." }),
            "Y,YYY" => {
                let year = if self.year > 0 { self.year } else { 1 - self.year };
                format!("{},{:03}", year / 1000, year % 1000)
            }
            "RM" => {
                let roman = upper_or(ROMAN[usize::try_from(self.month - 1).unwrap_or(0)]);
                if fill { format!("{roman:<4}") } else { roman }
            }
            "OF" | "TZH" | "TZM" => {
                let offset = self.offset.unwrap_or(0);
                let sign = if offset < 0 { '-' } else { '+' };
                let minutes = offset.abs() / 60 % 60;
                match name {
                    "TZM" => format!("{minutes:02}"),
                    "OF" if minutes != 0 => {
                        format!("{sign}{:02}:{minutes:02}", offset.abs() / 3600)
                    }
                    _ => format!("{sign}{:02}", offset.abs() / 3600),
                }
            }
            "TZ" if self.offset.is_none() => String::new(),
            "TZ" if zone::current().is_utc() => upper_or("UTC"),
            other => {
                return Err(SqlError::unsupported(format_args!("the pattern {other} of to_char")));
            }
        })
    }
}

/// What a text says, field by field.
#[derive(Default)]
struct Read {
    year: Option<i64>,
    month: Option<i64>,
    day: Option<i64>,
    of_year: Option<i64>,
    hour: Option<i64>,
    minute: i64,
    second: i64,
    micros: i64,
    afternoon: Option<bool>,
    bc: bool,
}

fn invalid(text: &str, name: &str) -> SqlError {
    SqlError::new(
        SqlState::INVALID_DATETIME_FORMAT,
        format!("invalid value \"{text}\" for \"{name}\""),
    )
}

fn out_of_range(text: &str) -> SqlError {
    SqlError::new(
        SqlState::DATETIME_FIELD_OVERFLOW,
        format!("date/time field value out of range: \"{text}\""),
    )
}

/// Microseconds since 1970 of a text that a format describes.
fn read(text: &str, format: &str) -> SqlResult<i64> {
    let mut found = Read::default();
    let mut rest = text.trim_start();
    let all = pieces(format);
    for (i, piece) in all.iter().enumerate() {
        match piece {
            Piece::Text(wanted) => {
                for c in wanted.chars() {
                    // Blanks and separators match each other; letters must be skipped over.
                    let Some(next) = rest.chars().next() else { break };
                    let separator = |c: char| !c.is_alphanumeric();
                    if separator(c) != separator(next) && separator(c) {
                        continue;
                    }
                    rest = &rest[next.len_utf8()..];
                }
            }
            Piece::Field { name, .. } => {
                rest = rest.trim_start();
                if rest.is_empty() {
                    break;
                }
                let digits_follow =
                    all.get(i + 1).is_some_and(|p| matches!(p, Piece::Field { .. }));
                rest = found.field(name, rest, digits_follow)?;
            }
        }
    }
    found.micros(text)
}

impl Read {
    /// Reads a field from the front of a text; answers what is left of it.
    fn field<'a>(&mut self, name: &str, text: &'a str, fixed: bool) -> SqlResult<&'a str> {
        let width = match name {
            "YYYY" => 4,
            "DDD" | "MS" | "YYY" => 3,
            "US" => 6,
            "YY" | "MM" | "DD" | "HH24" | "HH12" | "HH" | "MI" | "SS" => 2,
            "MON" | "MONTH" | "AM" | "PM" | "A.M." | "P.M." | "AD" | "BC" => {
                return self.word(name, text);
            }
            other => {
                return Err(SqlError::unsupported(format_args!(
                    "the pattern {other} of to_date and to_timestamp"
                )));
            }
        };
        // A year of four digits may have more where nothing else follows at once.
        let most = if name == "YYYY" && !fixed { text.len() } else { width };
        let digits: &str = {
            let end = text.bytes().take(most).take_while(u8::is_ascii_digit).count();
            &text[..end]
        };
        if digits.is_empty() {
            return Err(invalid(text.get(..width.min(text.len())).unwrap_or(text), name));
        }
        let value: i64 = digits.parse().map_err(|_| out_of_range(text))?;
        match name {
            "YYYY" => self.year = Some(value),
            "YYY" | "YY" => {
                let base = if value < 70 { 2000 } else { 1900 };
                self.year = Some(if digits.len() <= 2 { base + value } else { value + 1000 });
            }
            "MM" => self.month = Some(value),
            "DD" => self.day = Some(value),
            "DDD" => self.of_year = Some(value),
            "HH24" => self.hour = Some(value),
            "HH12" | "HH" => {
                if !(1..=12).contains(&value) {
                    return Err(SqlError::new(
                        SqlState::INVALID_DATETIME_FORMAT,
                        format!("hour \"{value}\" is invalid for the 12-hour clock"),
                    ));
                }
                self.hour = Some(value);
            }
            "MI" => self.minute = value,
            "SS" => self.second = value,
            _ => {
                let scale = 10i64.pow(6 - u32::try_from(digits.len()).unwrap_or(6));
                self.micros = value * scale;
            }
        }
        Ok(&text[digits.len()..])
    }

    /// Reads a name or half of the day from the front of a text.
    fn word<'a>(&mut self, name: &str, text: &'a str) -> SqlResult<&'a str> {
        if name.starts_with("MON") {
            let short = text.get(..3).map(str::to_ascii_lowercase).unwrap_or_default();
            let month = (1..=12).find(|m| month_name(*m)[..3] == short);
            let month = month.ok_or_else(|| invalid(text, name))?;
            self.month = Some(month);
            let full = month_name(month);
            let is_full = text.get(..full.len()).is_some_and(|t| t.eq_ignore_ascii_case(full));
            return Ok(if is_full && name == "MONTH" { &text[full.len()..] } else { &text[3..] });
        }
        let begin = text.get(..name.len()).unwrap_or("").to_ascii_lowercase();
        match begin.replace('.', "").as_str() {
            "am" => self.afternoon = Some(false),
            "pm" => self.afternoon = Some(true),
            "bc" => self.bc = true,
            "ad" => {}
            _ => return Err(invalid(text, name)),
        }
        Ok(&text[name.len()..])
    }

    fn micros(&self, text: &str) -> SqlResult<i64> {
        let year = match self.year {
            Some(0) => return Err(out_of_range(text)),
            Some(year) if self.bc => 1 - year,
            // Without a year it is 1 BC, as PostgreSQL counts.
            year => year.unwrap_or(0),
        };
        let days = match self.of_year {
            Some(n) if (1..=366).contains(&n) => days_from_civil(year, 1, 1) + n - 1,
            Some(_) => return Err(out_of_range(text)),
            None => {
                let (month, day) = (self.month.unwrap_or(1), self.day.unwrap_or(1));
                if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
                    return Err(out_of_range(text));
                }
                days_from_civil(year, month, day)
            }
        };
        let hour = match (self.hour.unwrap_or(0), self.afternoon) {
            (12, Some(false)) => 0,
            (hour, Some(true)) if hour < 12 => hour + 12,
            (hour, _) => hour,
        };
        if hour > 23 || self.minute > 59 || self.second > 59 {
            return Err(out_of_range(text));
        }
        let seconds = (hour * 60 + self.minute) * 60 + self.second;
        datetime::check_timestamp(days * DAY + seconds * SECOND + self.micros)
    }
}
