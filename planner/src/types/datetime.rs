//! Dates, times and intervals: text in and out, and calendar arithmetic.
//!
//! Dates are days and timestamps microseconds since 1970; the extremes of `i32` and `i64` are
//! `-infinity` and `infinity`. The calendar is the proleptic Gregorian one, as in PostgreSQL.

use super::zone::{self, Zone};
use crate::error::{SqlError, SqlResult, SqlState};

/// Microseconds of a second.
pub const SECOND: i64 = 1_000_000;
/// Microseconds of a day.
pub const DAY: i64 = 86_400 * SECOND;
/// Days from 1970-01-01 to 2000-01-01, where PostgreSQL's binary forms start.
pub const POSTGRES_EPOCH_DAYS: i32 = 10_957;

/// The first date and timestamp: 24 November 4714 BC.
const DAYS_MIN: i64 = -2_440_588;
/// After the last date: the year 5874898.
const DAYS_END: i64 = 2_145_031_949;
/// After the last timestamp: counted from 1970, 64 bits end in the year 294247 (PostgreSQL counts
/// from 2000 and goes thirty years further).
const MICROS_END: i64 = i64::MAX;

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

/// The name of a month, in lower case.
pub fn month_name(month: i64) -> &'static str {
    let at = usize::try_from(month - 1).unwrap_or(0).min(MONTHS.len() - 1);
    MONTHS[at]
}

/// An interval as PostgreSQL keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interval {
    /// Months; years are twelve of them.
    pub months: i32,
    /// Days, which need not be 24 hours long.
    pub days: i32,
    /// The rest, in microseconds.
    pub micros: i64,
}

fn invalid(ty: &str, text: &str) -> SqlError {
    SqlError::new(
        SqlState::INVALID_DATETIME_FORMAT,
        format!("invalid input syntax for type {ty}: \"{text}\""),
    )
}

fn field_out_of_range(text: &str) -> SqlError {
    SqlError::new(
        SqlState::DATETIME_FIELD_OVERFLOW,
        format!("date/time field value out of range: \"{text}\""),
    )
}

/// The error for a date or timestamp outside its range.
pub fn out_of_range(ty: &str) -> SqlError {
    SqlError::new(SqlState::DATETIME_FIELD_OVERFLOW, format!("{ty} out of range"))
}

/// Days since 1970 of a day; year 0 is 1 BC.
pub fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let of_era = y.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Year, month and day of a number of days since 1970.
pub fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let mp = (5 * of_year + 2) / 153;
    let day = of_year - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Days of a month.
pub fn days_in_month(year: i64, month: i64) -> i64 {
    let (next_year, next) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    days_from_civil(next_year, next, 1) - days_from_civil(year, month, 1)
}

/// What a date or timestamp in words says.
struct Stamp {
    days: i64,
    micros: i64,
    place: Option<Place>,
}

/// What a text says about where its clock hangs.
#[derive(Clone, Copy)]
enum Place {
    /// Seconds east of UTC.
    Offset(i64),
    Zone(Zone),
}

enum Parsed {
    Finite(Stamp),
    Infinity,
    NegativeInfinity,
}

/// A date from text.
pub fn parse_date(text: &str) -> SqlResult<i32> {
    match parse_stamp(text, "date")? {
        Parsed::Infinity => Ok(i32::MAX),
        Parsed::NegativeInfinity => Ok(i32::MIN),
        Parsed::Finite(stamp) => {
            if !(DAYS_MIN..DAYS_END).contains(&stamp.days) {
                return Err(SqlError::new(
                    SqlState::DATETIME_FIELD_OVERFLOW,
                    format!("date out of range: \"{text}\""),
                ));
            }
            i32::try_from(stamp.days).map_err(|_| field_out_of_range(text))
        }
    }
}

/// A timestamp from text. With `zoned` an offset or zone counts, and without one the time is taken
/// in the session's zone; otherwise an offset is read and ignored.
pub fn parse_timestamp(text: &str, zoned: bool) -> SqlResult<i64> {
    let ty = if zoned { "timestamp with time zone" } else { "timestamp" };
    match parse_stamp(text, ty)? {
        Parsed::Infinity => Ok(i64::MAX),
        Parsed::NegativeInfinity => Ok(i64::MIN),
        Parsed::Finite(stamp) => {
            let range = || {
                SqlError::new(
                    SqlState::DATETIME_FIELD_OVERFLOW,
                    format!("timestamp out of range: \"{text}\""),
                )
            };
            let local = i128::from(stamp.days) * i128::from(DAY) + i128::from(stamp.micros);
            let place = stamp.place.unwrap_or_else(|| Place::Zone(zone::current()));
            let micros = match place {
                _ if !zoned => local,
                Place::Offset(offset) => local - i128::from(offset) * i128::from(SECOND),
                Place::Zone(zone) => {
                    let local = i64::try_from(local).map_err(|_| range())?;
                    i128::from(zone.instant(local).map_err(|_| range())?)
                }
            };
            let micros = i64::try_from(micros).map_err(|_| range())?;
            check_timestamp(micros).map_err(|_| range())
        }
    }
}

/// The timestamp, unless it is outside the range of the type.
pub fn check_timestamp(micros: i64) -> SqlResult<i64> {
    if !(DAYS_MIN * DAY..MICROS_END).contains(&micros) {
        return Err(out_of_range("timestamp"));
    }
    Ok(micros)
}

/// The date, unless it is outside the range of the type.
pub fn check_date(days: i64) -> SqlResult<i32> {
    if !(DAYS_MIN..DAYS_END).contains(&days) {
        return Err(out_of_range("date"));
    }
    i32::try_from(days).map_err(|_| out_of_range("date"))
}

fn parse_stamp(text: &str, ty: &str) -> SqlResult<Parsed> {
    let trimmed = text.trim();
    let lower = trimmed.to_ascii_lowercase();
    match lower.as_str() {
        "infinity" | "+infinity" => return Ok(Parsed::Infinity),
        "-infinity" => return Ok(Parsed::NegativeInfinity),
        "epoch" => {
            return Ok(Parsed::Finite(Stamp { days: 0, micros: 0, place: Some(Place::Offset(0)) }));
        }
        "now" | "today" | "tomorrow" | "yesterday" => {
            return Err(SqlError::unsupported(format_args!("the date/time input \"{trimmed}\"")));
        }
        _ => {}
    }
    let mut reader = StampReader { text, ty, date: None, time: None, place: None, bc: false };
    // An ISO `T` between date and time is a blank.
    let words = split_iso(&lower);
    let mut names = Vec::new();
    for word in words.split([' ', ',', '\t']).filter(|w| !w.is_empty()) {
        reader.word(word, &mut names)?;
    }
    if !names.is_empty() {
        reader.date = Some(named_date(&names).ok_or_else(|| invalid(ty, text))?);
    }
    let (year, month, day) = reader.date.ok_or_else(|| invalid(ty, text))?;
    if year == 0 {
        return Err(field_out_of_range(text));
    }
    let year = if reader.bc { 1 - year } else { year };
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return Err(field_out_of_range(text));
    }
    let days = days_from_civil(year, month, day);
    let micros = reader.time.unwrap_or(0);
    Ok(Parsed::Finite(Stamp { days, micros, place: reader.place }))
}

/// A `t` between two digits becomes a blank.
fn split_iso(lower: &str) -> String {
    let bytes = lower.as_bytes();
    let digit = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_digit);
    let at = (1..bytes.len()).find(|i| bytes[*i] == b't' && digit(i - 1) && digit(i + 1));
    match at {
        Some(i) => format!("{} {}", &lower[..i], &lower[i + 1..]),
        None => lower.to_owned(),
    }
}

struct StampReader<'a> {
    text: &'a str,
    ty: &'a str,
    date: Option<(i64, i64, i64)>,
    time: Option<i64>,
    place: Option<Place>,
    bc: bool,
}

impl StampReader<'_> {
    fn invalid(&self) -> SqlError {
        invalid(self.ty, self.text)
    }

    fn word(&mut self, word: &str, names: &mut Vec<String>) -> SqlResult<()> {
        match word {
            "bc" => self.bc = true,
            "ad" => {}
            "am" | "pm" => {
                let time = self.time.ok_or_else(|| self.invalid())?;
                let hour = time / (3600 * SECOND);
                if !(1..=12).contains(&hour) {
                    return Err(field_out_of_range(self.text));
                }
                let shift = match (word, hour) {
                    ("am", 12) => -12,
                    ("pm", 1..=11) => 12,
                    _ => 0,
                };
                self.time = Some(time + shift * 3600 * SECOND);
            }
            _ if self.time.is_some() && word.starts_with(['+', '-']) => {
                self.place = Some(Place::Offset(self.offset(word)?));
            }
            _ if word.contains(':') => self.clock(word)?,
            _ if word.starts_with(|c: char| c.is_ascii_digit()) && self.date.is_none() => {
                match numeric_date(word) {
                    Some(date) => self.date = Some(date),
                    None => names.push(word.to_owned()),
                }
            }
            _ if self.place.is_none() && is_zone_like(word) => self.place = Some(self.zone(word)?),
            _ => names.push(word.to_owned()),
        }
        Ok(())
    }

    fn offset(&self, text: &str) -> SqlResult<i64> {
        parse_offset(text).ok_or_else(|| match offset_is_large(text) {
            true => SqlError::new(
                SqlState::INVALID_TIME_ZONE_DISPLACEMENT,
                format!("time zone displacement out of range: \"{}\"", self.text),
            ),
            false => self.invalid(),
        })
    }

    fn zone(&self, word: &str) -> SqlResult<Place> {
        if let Some(offset) = zone::abbreviation(word) {
            return Ok(Place::Offset(offset));
        }
        match Zone::named(word) {
            Some(zone) => Ok(Place::Zone(zone)),
            None if word.contains('/') => Err(SqlError::new(
                SqlState::INVALID_PARAMETER_VALUE,
                format!("time zone \"{word}\" not recognized"),
            )),
            None => Err(self.invalid()),
        }
    }

    fn clock(&mut self, word: &str) -> SqlResult<()> {
        if self.time.is_some() {
            return Err(self.invalid());
        }
        let end = word.find(['+', '-', 'z']).unwrap_or(word.len());
        let (clock, zone) = word.split_at(end);
        let (clock, half) = match clock.strip_suffix("am").or(clock.strip_suffix("pm")) {
            Some(rest) => (rest, Some(&clock[rest.len()..])),
            None => (clock, None),
        };
        self.time = Some(parse_clock(clock).ok_or_else(|| self.invalid())?);
        if self.time.is_some_and(|t| !(0..=DAY).contains(&t)) || clock_field_too_large(clock) {
            return Err(field_out_of_range(self.text));
        }
        if let Some(half) = half {
            self.word(half, &mut Vec::new())?;
        }
        match zone {
            "" => {}
            "z" => self.place = Some(Place::Offset(0)),
            zone => self.place = Some(Place::Offset(self.offset(zone)?)),
        }
        Ok(())
    }
}

fn clock_field_too_large(clock: &str) -> bool {
    let mut parts = clock.split(':').skip(1);
    let minute = parts.next().and_then(|m| m.parse::<f64>().ok()).unwrap_or(0.0);
    let second = parts.next().and_then(|s| s.parse::<f64>().ok()).unwrap_or(0.0);
    minute >= 60.0 || second > 60.0
}

/// `hh:mm[:ss[.ffffff]]` in microseconds.
fn parse_clock(clock: &str) -> Option<i64> {
    let mut parts = clock.split(':');
    let whole = |part: &str| {
        (!part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
            .then(|| part.parse::<i64>().ok())?
    };
    let hours = whole(parts.next()?)?;
    let minutes = whole(parts.next()?)?;
    let seconds = match parts.next() {
        Some(seconds) => parse_seconds(seconds)?,
        None => 0,
    };
    if parts.next().is_some() {
        return None;
    }
    hours
        .checked_mul(3600)?
        .checked_add(minutes.checked_mul(60)?)?
        .checked_mul(SECOND)?
        .checked_add(seconds)
}

/// `ss[.ffffff]` in microseconds, rounded to the nearest.
fn parse_seconds(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut micros = 0;
    for i in 0..6 {
        micros = micros * 10 + fraction.as_bytes().get(i).map_or(0, |b| i64::from(b - b'0'));
    }
    if fraction.as_bytes().get(6).is_some_and(|b| *b >= b'5') {
        micros += 1;
    }
    whole.checked_mul(SECOND)?.checked_add(micros)
}

/// Whether a word may name a zone: it has letters and is no part of a date.
fn is_zone_like(word: &str) -> bool {
    let letters = word.starts_with(|c: char| c.is_ascii_alphabetic());
    letters && month_named(word).is_none() && !is_day_name(word)
}

fn is_day_name(word: &str) -> bool {
    const DAYS: [&str; 7] =
        ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];
    word.len() >= 3 && DAYS.iter().any(|day| day.starts_with(word))
}

/// Whether it is an offset that only has too many hours or minutes.
fn offset_is_large(text: &str) -> bool {
    let body = text.trim_start_matches(['+', '-']);
    body.len() + 1 == text.len()
        && !body.is_empty()
        && body.bytes().all(|b| b.is_ascii_digit() || b == b':')
}

/// `±hh[:mm[:ss]]` or `±hhmm` in seconds.
pub fn parse_offset(text: &str) -> Option<i64> {
    let (sign, body) = match text.split_at_checked(1)? {
        ("+", body) => (1, body),
        ("-", body) => (-1, body),
        _ => return None,
    };
    let parts: Vec<&str> = if body.contains(':') {
        body.split(':').collect()
    } else if body.len() == 4 {
        vec![&body[..2], &body[2..]]
    } else {
        vec![body]
    };
    if parts.len() > 3 {
        return None;
    }
    let mut seconds = 0;
    for (i, part) in parts.iter().enumerate() {
        let value: i64 = part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())??;
        if (i == 0 && value > 15) || value > 59 {
            return None;
        }
        seconds += value * [3600, 60, 1][i];
    }
    Some(sign * seconds)
}

/// `YYYY-MM-DD`, `YYYYMMDD`, `MM/DD/YYYY`, `YYYY/MM/DD`, `DD-Mon-YYYY`.
fn numeric_date(word: &str) -> Option<(i64, i64, i64)> {
    if word.bytes().all(|b| b.is_ascii_digit()) {
        if word.len() != 8 {
            return None;
        }
        let number = |r: std::ops::Range<usize>| word[r].parse().ok();
        return Some((number(0..4)?, number(4..6)?, number(6..8)?));
    }
    let separator = word.chars().find(|c| !c.is_ascii_alphanumeric())?;
    if !matches!(separator, '-' | '/' | '.') {
        return None;
    }
    let parts: Vec<&str> = word.split(separator).collect();
    let [a, b, c] = parts.as_slice() else { return None };
    if let Some(month) = month_named(b) {
        return Some((year_of(c)?, month, a.parse().ok()?));
    }
    let number = |s: &str| s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse::<i64>().ok())?;
    if a.len() >= 3 {
        Some((number(a)?, number(b)?, number(c)?))
    } else {
        Some((year_of(c)?, number(a)?, number(b)?))
    }
}

fn year_of(text: &str) -> Option<i64> {
    let year: i64 = text.parse().ok()?;
    Some(match text.len() {
        2 if year < 70 => year + 2000,
        2 => year + 1900,
        _ => year,
    })
}

fn month_named(word: &str) -> Option<i64> {
    let at = MONTHS.iter().position(|m| word.len() >= 3 && m.starts_with(word))?;
    i64::try_from(at).ok().map(|m| m + 1)
}

/// `January 8 1999`, `8 Jan 1999`, `1999 Jan 8`; names of days are ignored.
fn named_date(names: &[String]) -> Option<(i64, i64, i64)> {
    let mut month = None;
    let mut numbers = Vec::new();
    for word in names {
        if let Some(found) = month_named(word) {
            month = Some(found);
        } else if word.bytes().all(|b| b.is_ascii_digit()) {
            numbers.push(word.as_str());
        } else {
            if !is_day_name(word) {
                return None;
            }
        }
    }
    let [a, b] = numbers.as_slice() else { return None };
    let (year, day) = if a.len() > 2 { (a, b) } else { (b, a) };
    Some((year_of(year)?, month?, day.parse().ok()?))
}

fn two(out: &mut Vec<u8>, n: i64) {
    out.push(b'0' + (n / 10 % 10) as u8);
    out.push(b'0' + (n % 10) as u8);
}

/// Writes a date without its era; tells whether it is BC.
fn write_civil(days: i64, out: &mut Vec<u8>) -> bool {
    let (year, month, day) = civil_from_days(days);
    let shown = if year > 0 { year } else { 1 - year };
    out.extend_from_slice(format!("{shown:04}-").as_bytes());
    two(out, month);
    out.push(b'-');
    two(out, day);
    year <= 0
}

/// Writes a date.
pub fn write_date(days: i32, out: &mut Vec<u8>) {
    match days {
        i32::MAX => out.extend_from_slice(b"infinity"),
        i32::MIN => out.extend_from_slice(b"-infinity"),
        days => {
            if write_civil(i64::from(days), out) {
                out.extend_from_slice(b" BC");
            }
        }
    }
}

fn write_clock(micros: i64, out: &mut Vec<u8>) {
    let seconds = micros / SECOND;
    let hours = seconds / 3600;
    if hours < 100 {
        two(out, hours)
    } else {
        out.extend_from_slice(hours.to_string().as_bytes())
    }
    out.push(b':');
    two(out, seconds / 60 % 60);
    out.push(b':');
    two(out, seconds % 60);
    let fraction = micros % SECOND;
    if fraction != 0 {
        let text = format!(".{fraction:06}");
        out.extend_from_slice(text.trim_end_matches('0').as_bytes());
    }
}

/// Writes a timestamp; with an offset (seconds east of UTC) as `timestamptz` there.
pub fn write_timestamp(micros: i64, offset_secs: Option<i64>, out: &mut Vec<u8>) {
    match micros {
        i64::MAX => return out.extend_from_slice(b"infinity"),
        i64::MIN => return out.extend_from_slice(b"-infinity"),
        _ => {}
    }
    let local = micros.saturating_add(offset_secs.unwrap_or(0) * SECOND);
    let bc = write_civil(local.div_euclid(DAY), out);
    out.push(b' ');
    write_clock(local.rem_euclid(DAY), out);
    if let Some(offset) = offset_secs {
        out.push(if offset < 0 { b'-' } else { b'+' });
        let offset = offset.abs();
        two(out, offset / 3600);
        if offset % 3600 != 0 {
            out.push(b':');
            two(out, offset / 60 % 60);
        }
        if offset % 60 != 0 {
            out.push(b':');
            two(out, offset % 60);
        }
    }
    if bc {
        out.extend_from_slice(b" BC");
    }
}

/// An interval from text: `1 year 2 mons -3 days 04:05:06.7`, `90 minutes`, `1 day ago`.
pub fn parse_interval(text: &str) -> SqlResult<Interval> {
    let wrong = || invalid("interval", text);
    let range = || {
        SqlError::new(
            SqlState::DATETIME_FIELD_OVERFLOW,
            format!("interval field value out of range: \"{text}\""),
        )
    };
    let lower = text.trim().to_ascii_lowercase();
    if lower.starts_with('p') {
        return Err(SqlError::unsupported("the ISO 8601 form of an interval"));
    }
    let mut total = [0f64; 3];
    let mut micros: i128 = 0;
    let spaced = space_units(&lower);
    let words: Vec<&str> = spaced.split_whitespace().filter(|w| *w != "@").collect();
    let (words, ago) = match words.split_last() {
        Some((&"ago", rest)) => (rest, true),
        _ => (words.as_slice(), false),
    };
    if words.is_empty() {
        return Err(wrong());
    }
    let mut i = 0;
    while i < words.len() {
        let word = words[i];
        if word.contains(':') {
            let body = word.trim_start_matches(['-', '+']);
            let clock = parse_clock(body).ok_or_else(wrong)?;
            micros += i128::from(if word.starts_with('-') { -clock } else { clock });
            i += 1;
            continue;
        }
        let count: f64 = word.parse().map_err(|_| wrong())?;
        // A number without a unit is seconds.
        let unit = words.get(i + 1).copied().unwrap_or("s");
        let (slot, factor) = interval_unit(unit).ok_or_else(wrong)?;
        match slot {
            2 => micros += (count * factor).round_ties_even() as i128,
            slot => {
                let exact = count * factor;
                total[slot] += exact.trunc();
                let rest = exact - exact.trunc();
                spill(slot, rest, &mut total, &mut micros);
            }
        }
        i += 2;
    }
    let sign = if ago { -1 } else { 1 };
    let narrow = |n: f64| {
        if n.abs() > f64::from(i32::MAX) { Err(range()) } else { Ok(n as i32 * sign) }
    };
    Ok(Interval {
        months: narrow(total[0])?,
        days: narrow(total[1])?,
        micros: i64::try_from(micros).map_err(|_| range())? * i64::from(sign),
    })
}

/// A fraction of a month is days of 30, a fraction of a day is time.
fn spill(slot: usize, rest: f64, total: &mut [f64; 3], micros: &mut i128) {
    let days = if slot == 0 { rest * 30.0 } else { rest };
    if slot == 0 {
        total[1] += days.trunc();
    }
    let part = if slot == 0 { days - days.trunc() } else { days };
    *micros += (part * DAY as f64).round() as i128;
}

/// `1d12h` becomes `1 d 12 h`.
fn space_units(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 4);
    let mut last = ' ';
    for c in text.chars() {
        let unit = c.is_ascii_alphabetic() && (last.is_ascii_digit() || last == '.');
        if unit || (c.is_ascii_digit() && last.is_ascii_alphabetic()) {
            out.push(' ');
        }
        out.push(c);
        last = c;
    }
    out
}

/// Which field a unit goes to (months, days, microseconds) and how many of them it is.
fn interval_unit(unit: &str) -> Option<(usize, f64)> {
    const SECOND_F: f64 = SECOND as f64;
    Some(match unit {
        "millennium" | "millennia" | "mil" | "mils" => (0, 12_000.0),
        "century" | "centuries" | "cent" | "c" => (0, 1200.0),
        "decade" | "decades" | "dec" => (0, 120.0),
        "year" | "years" | "yr" | "yrs" | "y" => (0, 12.0),
        "month" | "months" | "mon" | "mons" => (0, 1.0),
        "week" | "weeks" | "w" => (1, 7.0),
        "day" | "days" | "d" => (1, 1.0),
        "hour" | "hours" | "hr" | "hrs" | "h" => (2, 3600.0 * SECOND_F),
        "minute" | "minutes" | "min" | "mins" | "m" => (2, 60.0 * SECOND_F),
        "second" | "seconds" | "sec" | "secs" | "s" => (2, SECOND_F),
        "millisecond" | "milliseconds" | "msec" | "msecs" | "ms" => (2, 1000.0),
        "microsecond" | "microseconds" | "usec" | "usecs" | "us" => (2, 1.0),
        _ => return None,
    })
}

impl Interval {
    /// What intervals are compared by: months of 30 days, days of 24 hours.
    pub fn order(&self) -> i128 {
        let days = i128::from(self.months) * 30 + i128::from(self.days);
        days * i128::from(DAY) + i128::from(self.micros)
    }

    /// Writes it in the style `postgres`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let mut negative_before = false;
        let mut part = |n: i64, unit: &str, out: &mut Vec<u8>| {
            if n == 0 {
                return;
            }
            let blank = if out.len() > start { " " } else { "" };
            let plus = if negative_before && n > 0 { "+" } else { "" };
            let plural = if n == 1 { "" } else { "s" };
            out.extend_from_slice(format!("{blank}{plus}{n} {unit}{plural}").as_bytes());
            negative_before = n < 0;
        };
        part(i64::from(self.months / 12), "year", out);
        part(i64::from(self.months % 12), "mon", out);
        part(i64::from(self.days), "day", out);
        if self.micros != 0 || out.len() == start {
            if out.len() > start {
                out.push(b' ');
            }
            if self.micros < 0 {
                out.push(b'-');
            } else if negative_before {
                out.push(b'+');
            }
            write_interval_clock(self.micros, out);
        }
    }
}

fn write_interval_clock(micros: i64, out: &mut Vec<u8>) {
    let micros = micros.unsigned_abs();
    write_clock(i64::try_from(micros).unwrap_or(i64::MAX), out);
}

/// A timestamp moved by an interval: first the months (the day is cut to the month's length),
/// then the days, then the time.
pub fn add_interval(micros: i64, by: Interval) -> SqlResult<i64> {
    if micros == i64::MAX || micros == i64::MIN {
        return Ok(micros);
    }
    let range = || out_of_range("timestamp");
    let mut days = micros.div_euclid(DAY);
    let time = micros.rem_euclid(DAY);
    if by.months != 0 {
        let (year, month, day) = civil_from_days(days);
        let months = year * 12 + (month - 1) + i64::from(by.months);
        let (year, month) = (months.div_euclid(12), months.rem_euclid(12) + 1);
        days = days_from_civil(year, month, day.min(days_in_month(year, month)));
    }
    let total = (i128::from(days) + i128::from(by.days)) * i128::from(DAY)
        + i128::from(time)
        + i128::from(by.micros);
    check_timestamp(i64::try_from(total).map_err(|_| range())?)
}

#[cfg(test)]
#[path = "datetime_tests.rs"]
mod tests;
