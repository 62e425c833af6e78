//! Time zones: their names, their offsets, and the one that text of `timestamptz` is read and
//! written in.
//!
//! Which zone a statement goes by is the session's `TimeZone`. Planning, evaluation and the wire
//! each say so for as long as they work on a thread ([`with`]); input and output functions ask
//! [`current`]. A plan holds the zone it was made with in its functions and in its cache key, so
//! that nothing depends on who polls it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::LazyLock;

use chrono::offset::LocalResult;
use chrono::{DateTime, NaiveDateTime, Offset, TimeZone};
use datafusion::arrow::array::timezone::Tz;
use parking_lot::Mutex;

use super::datetime::{self, DAY, Interval, SECOND};
use crate::error::{SqlError, SqlResult, SqlState};

/// Seconds of the largest offset from UTC that PostgreSQL takes (exclusive).
const OFFSET_END_SECS: i64 = 16 * 3600;

/// A time zone. Zones of one name are one value.
#[derive(Clone, Copy)]
pub struct Zone(&'static Known);

struct Known {
    name: String,
    kind: Kind,
}

enum Kind {
    /// Seconds east of UTC.
    Fixed(i64),
    Named(Tz),
}

/// The zones asked for so far. There are as many as the tz database has names.
static KNOWN: LazyLock<Mutex<BTreeMap<String, Zone>>> = LazyLock::new(Mutex::default);

static UTC: LazyLock<Zone> =
    LazyLock::new(|| known("UTC".into(), || Some(Kind::Fixed(0))).expect("always there"));

thread_local! {
    static CURRENT: Cell<Option<Zone>> = const { Cell::new(None) };
}

fn known(name: String, make: impl FnOnce() -> Option<Kind>) -> Option<Zone> {
    let mut zones = KNOWN.lock();
    if let Some(zone) = zones.get(&name) {
        return Some(*zone);
    }
    let kind = make()?;
    let zone = Zone(Box::leak(Box::new(Known { name: name.clone(), kind })));
    zones.insert(name, zone);
    Some(zone)
}

/// Abbreviations that are an offset and nothing more, in seconds east of UTC; those that mean one
/// thing only in PostgreSQL's default set.
const ABBREVIATIONS: &[(&str, i64)] = &[
    ("utc", 0),
    ("gmt", 0),
    ("z", 0),
    ("zulu", 0),
    ("ut", 0),
    ("wet", 0),
    ("bst", 3600),
    ("west", 3600),
    ("cet", 3600),
    ("met", 3600),
    ("mez", 3600),
    ("cest", 7200),
    ("mest", 7200),
    ("eet", 7200),
    ("sast", 7200),
    ("eest", 10_800),
    ("jst", 32_400),
    ("kst", 32_400),
    ("nzst", 43_200),
    ("nzdt", 46_800),
    ("hst", -36_000),
    ("akst", -32_400),
    ("akdt", -28_800),
    ("pst", -28_800),
    ("pdt", -25_200),
    ("mst", -25_200),
    ("mdt", -21_600),
    ("cst", -21_600),
    ("cdt", -18_000),
    ("est", -18_000),
    ("edt", -14_400),
    ("ast", -14_400),
    ("adt", -10_800),
    ("nst", -12_600),
    ("ndt", -9_000),
];

/// The offset of an abbreviation, in seconds east of UTC.
pub fn abbreviation(word: &str) -> Option<i64> {
    let lower = word.to_ascii_lowercase();
    ABBREVIATIONS.iter().find(|(name, _)| *name == lower).map(|(_, offset)| *offset)
}

impl Zone {
    /// The zone everything is in unless somebody says otherwise.
    pub fn utc() -> Self {
        *UTC
    }

    /// The zone of a name of the tz database, in any case.
    pub fn named(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("utc") {
            return Some(Self::utc());
        }
        // Fixed offsets are no names; arrow would take them.
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return None;
        }
        spellings(name).into_iter().find_map(|name| {
            let tz = name.parse::<Tz>().ok()?;
            known(name, || Some(Kind::Named(tz)))
        })
    }

    /// The zone that is always `seconds` east of UTC, shown as PostgreSQL shows it.
    pub fn fixed(seconds: i64) -> Option<Self> {
        if seconds.abs() >= OFFSET_END_SECS {
            return None;
        }
        let show = |seconds: i64| {
            let (sign, n) = if seconds < 0 { ('-', -seconds) } else { ('+', seconds) };
            let mut text = format!("{sign}{:02}", n / 3600);
            if n % 3600 != 0 {
                text.push_str(&format!(":{:02}", n / 60 % 60));
            }
            text
        };
        known(format!("<{}>{}", show(seconds), show(-seconds)), || Some(Kind::Fixed(seconds)))
    }

    /// The zone of a value of the setting `TimeZone`: a name, or hours east of UTC.
    pub fn of_setting(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Some(zone) = Self::named(text) {
            return Some(zone);
        }
        match text.parse::<f64>() {
            Ok(hours) if hours.abs() < 1000.0 => Self::fixed((hours * 3600.0).round() as i64),
            Ok(_) => None,
            Err(_) => Self::posix(text),
        }
    }

    /// A zone as POSIX writes it, without rules for summer: letters, or anything in angle brackets,
    /// and how far it is west of UTC.
    fn posix(text: &str) -> Option<Self> {
        let (name, offset) = match text.strip_prefix('<') {
            Some(rest) => rest.split_once('>')?,
            None => {
                let offset = text.trim_start_matches(|c: char| c.is_ascii_alphabetic());
                (&text[..text.len() - offset.len()], offset)
            }
        };
        if !text.starts_with('<') && !name.is_empty() && name.len() < 3 {
            return None;
        }
        let west = datetime::parse_offset(offset)?;
        known(text.to_owned(), || Some(Kind::Fixed(-west)))
    }

    /// The zone `AT TIME ZONE` names: an abbreviation, a name, or an offset as POSIX has it, that
    /// is west of UTC.
    pub fn of_text(text: &str) -> SqlResult<Self> {
        let text = text.trim();
        if let Some(seconds) = abbreviation(text)
            && let Some(zone) = Self::fixed(seconds)
        {
            return Ok(zone);
        }
        Self::named(text).or_else(|| Self::posix(text)).ok_or_else(|| {
            SqlError::new(
                SqlState::INVALID_PARAMETER_VALUE,
                format!("time zone \"{text}\" not recognized"),
            )
        })
    }

    /// Its name, as `SHOW TimeZone` shows it.
    pub fn name(self) -> &'static str {
        &self.0.name
    }

    /// Whether it is UTC itself.
    pub fn is_utc(self) -> bool {
        self == Self::utc()
    }

    /// Seconds east of UTC at an instant.
    pub fn offset_at(self, micros: i64) -> i64 {
        match &self.0.kind {
            Kind::Fixed(seconds) => *seconds,
            Kind::Named(tz) => {
                let at = tz.offset_from_utc_datetime(&naive(micros));
                i64::from(at.fix().local_minus_utc())
            }
        }
    }

    /// What clocks of the zone show at an instant.
    pub fn local(self, micros: i64) -> i64 {
        if is_infinite(micros) {
            return micros;
        }
        micros.saturating_add(self.offset_at(micros) * SECOND)
    }

    /// Seconds east of UTC when clocks of the zone show this. Of a time that they show twice it is
    /// the second, of one they skip the offset before.
    pub fn offset_of_local(self, local: i64) -> i64 {
        match &self.0.kind {
            Kind::Fixed(seconds) => *seconds,
            Kind::Named(tz) => match tz.offset_from_local_datetime(&naive(local)) {
                LocalResult::Single(at) | LocalResult::Ambiguous(_, at) => {
                    i64::from(at.fix().local_minus_utc())
                }
                LocalResult::None => self.offset_at(local.saturating_sub(DAY)),
            },
        }
    }

    /// The instant when clocks of the zone show this.
    pub fn instant(self, local: i64) -> SqlResult<i64> {
        if is_infinite(local) {
            return Ok(local);
        }
        let moved = local.checked_sub(self.offset_of_local(local) * SECOND);
        datetime::check_timestamp(moved.ok_or_else(|| datetime::out_of_range("timestamp"))?)
    }

    /// An instant moved by an interval: months and days by the zone's calendar, then the time.
    pub fn add_interval(self, micros: i64, by: Interval) -> SqlResult<i64> {
        if self.is_utc() || is_infinite(micros) {
            return datetime::add_interval(micros, by);
        }
        let mut moved = micros;
        let parts = [
            Interval { months: by.months, ..Interval::default() },
            Interval { days: by.days, ..Interval::default() },
        ];
        for part in parts.into_iter().filter(|part| *part != Interval::default()) {
            moved = self.instant(datetime::add_interval(self.local(moved), part)?)?;
        }
        datetime::add_interval(moved, Interval { micros: by.micros, ..Interval::default() })
    }
}

fn is_infinite(micros: i64) -> bool {
    micros == i64::MAX || micros == i64::MIN
}

/// A time as `chrono` has it; times before or after its calendar are cut to its ends.
fn naive(micros: i64) -> NaiveDateTime {
    match DateTime::from_timestamp_micros(micros) {
        Some(time) => time.naive_utc(),
        None if micros > 0 => DateTime::<chrono::Utc>::MAX_UTC.naive_utc(),
        None => DateTime::<chrono::Utc>::MIN_UTC.naive_utc(),
    }
}

/// Spellings the tz database may have for a name typed in another case.
fn spellings(name: &str) -> Vec<String> {
    let title = |text: &str| {
        let mut out = String::with_capacity(text.len());
        let mut first = true;
        for c in text.chars() {
            out.push(if first { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() });
            first = matches!(c, '/' | '_' | '-');
        }
        out
    };
    let mut out = vec![name.to_owned(), title(name), name.to_ascii_uppercase()];
    if let Some((area, place)) = name.split_once('/') {
        // `US/Eastern`, `Etc/GMT+5`.
        out.push(format!("{}/{}", area.to_ascii_uppercase(), title(place)));
        out.push(format!("{}/{}", title(area), place.to_ascii_uppercase()));
    }
    out
}

impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for Zone {}

impl Hash for Zone {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name.hash(state);
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self::utc()
    }
}

/// The zone of what this thread is doing.
pub fn current() -> Zone {
    CURRENT.get().unwrap_or_else(Zone::utc)
}

/// Does something in a zone.
pub fn with<T>(zone: Zone, work: impl FnOnce() -> T) -> T {
    struct Back(Option<Zone>);
    impl Drop for Back {
        fn drop(&mut self) {
            CURRENT.set(self.0);
        }
    }
    let _back = Back(CURRENT.replace(Some(zone)));
    work()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PgType;
    use crate::types::text::{from_text, to_text};

    fn shown(zone: &str, text: &str) -> String {
        with(Zone::named(zone).expect("a zone"), || {
            let ty = PgType::TimestampTz;
            let value = from_text(text, ty).expect("valid");
            to_text(&value, ty).expect("text").expect("not NULL")
        })
    }

    #[test]
    fn names_are_found_in_any_case_and_shown_as_the_database_has_them() {
        for (typed, name) in [
            ("america/new_york", "America/New_York"),
            ("UTC", "UTC"),
            ("utc", "UTC"),
            ("us/eastern", "US/Eastern"),
            ("etc/gmt+5", "Etc/GMT+5"),
            ("Asia/Tokyo", "Asia/Tokyo"),
        ] {
            assert_eq!(Zone::named(typed).map(Zone::name), Some(name), "{typed}");
        }
        for none in ["Nowhere/Nothing", "", "+05:00", "-3"] {
            assert_eq!(Zone::named(none), None, "{none}");
        }
        assert_eq!(Zone::of_setting("-7").map(Zone::name), Some("<-07>+07"));
        assert_eq!(Zone::of_setting("5.5").map(Zone::name), Some("<+05:30>-05:30"));
        assert_eq!(Zone::of_setting("GMT-01:00").map(|z| z.offset_at(0)), Some(3600));
    }

    #[test]
    fn text_is_read_and_written_in_the_zone() {
        let york = "America/New_York";
        assert_eq!(shown(york, "2024-07-01 12:00:00"), "2024-07-01 12:00:00-04");
        assert_eq!(shown(york, "2024-01-01 12:00:00+00"), "2024-01-01 07:00:00-05");
        assert_eq!(shown(york, "2024-01-01 12:00 PST"), "2024-01-01 15:00:00-05");
        assert_eq!(shown(york, "2024-07-01 12:00 Europe/Berlin"), "2024-07-01 06:00:00-04");
        assert_eq!(shown("Asia/Kolkata", "2024-01-01 00:00Z"), "2024-01-01 05:30:00+05:30");
        assert_eq!(current(), Zone::utc(), "only as long as it is said");
    }

    #[test]
    fn a_time_shown_twice_is_the_second_and_a_skipped_one_goes_on() {
        let york = "America/New_York";
        assert_eq!(shown(york, "2024-11-03 01:30"), "2024-11-03 01:30:00-05");
        assert_eq!(shown(york, "2024-03-10 02:30"), "2024-03-10 03:30:00-04");
    }

    #[test]
    fn a_day_may_have_another_length() {
        let york = Zone::named("America/New_York").expect("a zone");
        let noon = york.instant(datetime::days_from_civil(2024, 3, 9) * DAY + DAY / 2).expect("it");
        let by = |days, hours: i64| Interval { months: 0, days, micros: hours * 3600 * SECOND };
        let after = |by| york.add_interval(noon, by).expect("in range") - noon;
        assert_eq!(after(by(1, 0)), DAY - 3600 * SECOND);
        assert_eq!(after(by(0, 24)), DAY);
    }
}
