//! Functions of dates, timestamps and intervals. Instants are taken in the session's zone.

use super::cast::{of_number, string};
use super::function::{Call, Evaluator};
use super::strings::int;
use crate::error::{SqlError, SqlResult, SqlState};
use crate::keyenc::Datum;
use crate::types::datetime::{
    self, DAY, Interval, SECOND, civil_from_days, days_from_civil, days_in_month,
};
use crate::types::numeric::Numeric;
use crate::types::{PgType, Zone, zone};

/// What computes a function of time.
pub fn evaluator(name: &str) -> Option<Evaluator> {
    Some(match name {
        "date_trunc" => date_trunc,
        "extract" => extract,
        "date_part" => |call, v| {
            let value = field(call, v)?;
            Ok(value.map_or(Datum::Null, |n| Datum::Float8(n.to_f64())))
        },
        "make_date" => make_date,
        "to_timestamp" => |call, v| match call.types.len() {
            2 => super::format::to_timestamp(v),
            _ => to_timestamp(call, v),
        },
        "timezone" => at_time_zone,
        "make_timestamp" => make_timestamp,
        "date" => |_, v| Ok(super::cast::owned(v[0].clone())),
        "age" => age,
        "justify_days" | "justify_hours" | "justify_interval" => justify,
        "isfinite" => |call, v| {
            let n = int(&v[0])?;
            let extremes = match call.types[0] {
                PgType::Date => [i64::from(i32::MIN), i64::from(i32::MAX)],
                _ => [i64::MIN, i64::MAX],
            };
            Ok(Datum::Bool(!extremes.contains(&n)))
        },
        _ => return None,
    })
}

fn unknown_unit(unit: &str, ty: PgType) -> SqlError {
    SqlError::new(
        SqlState::INVALID_PARAMETER_VALUE,
        format!("unit \"{unit}\" not recognized for type {}", ty.sql_name()),
    )
}

fn date_trunc(call: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    let unit = string(&v[0])?.to_lowercase();
    if let Datum::Interval(value) = &v[1] {
        return Ok(Datum::Interval(trunc_interval(&unit, *value)?));
    }
    let micros = int(&v[1])?;
    if micros == i64::MAX || micros == i64::MIN {
        return Ok(Datum::Int(micros));
    }
    if call.ret == PgType::TimestampTz {
        let zone = zone::current();
        let local = zone.local(micros);
        let cut = trunc_local(&unit, local, call.ret)?;
        // Parts of a day are cut where the clock stands, whole days are looked up again.
        let part = matches!(
            unit.as_str(),
            "hour"
                | "minute"
                | "second"
                | "millisecond"
                | "milliseconds"
                | "microsecond"
                | "microseconds"
        );
        return Ok(Datum::Int(if part { cut - (local - micros) } else { zone.instant(cut)? }));
    }
    trunc_local(&unit, micros, call.ret).map(Datum::Int)
}

/// What a clock shows, cut to a unit.
fn trunc_local(unit: &str, micros: i64, ty: PgType) -> SqlResult<i64> {
    let days = micros.div_euclid(DAY);
    let (year, month, _) = civil_from_days(days);
    let day = |days: i64| Ok(days * DAY);
    let unit_micros = match unit {
        "microsecond" | "microseconds" => 1,
        "millisecond" | "milliseconds" => 1000,
        "second" => SECOND,
        "minute" => 60 * SECOND,
        "hour" => 3600 * SECOND,
        "day" => DAY,
        // Weeks begin on Monday; 1970-01-01 was a Thursday.
        "week" => return day(days - (days + 3).rem_euclid(7)),
        "month" => return day(days_from_civil(year, month, 1)),
        "quarter" => return day(days_from_civil(year, (month - 1) / 3 * 3 + 1, 1)),
        "year" => return day(days_from_civil(year, 1, 1)),
        "decade" => return day(days_from_civil(year.div_euclid(10) * 10, 1, 1)),
        "century" => return day(days_from_civil((year - 1).div_euclid(100) * 100 + 1, 1, 1)),
        "millennium" => return day(days_from_civil((year - 1).div_euclid(1000) * 1000 + 1, 1, 1)),
        _ => return Err(unknown_unit(unit, ty)),
    };
    Ok(micros.div_euclid(unit_micros) * unit_micros)
}

fn trunc_interval(unit: &str, value: Interval) -> SqlResult<Interval> {
    let months = |n: i32| Interval { months: value.months / n * n, days: 0, micros: 0 };
    let micros = |n: i64| Interval { micros: value.micros / n * n, ..value };
    Ok(match unit {
        "year" => months(12),
        "quarter" => months(3),
        "month" => months(1),
        "decade" => months(120),
        "century" => months(1200),
        "millennium" => months(12_000),
        "day" => Interval { micros: 0, ..value },
        "hour" => micros(3600 * SECOND),
        "minute" => micros(60 * SECOND),
        "second" => micros(SECOND),
        "millisecond" | "milliseconds" => micros(1000),
        "microsecond" | "microseconds" => value,
        "week" => return Err(SqlError::unsupported("unit \"week\" for type interval")),
        _ => return Err(unknown_unit(unit, PgType::Interval)),
    })
}

fn extract(call: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    match field(call, v)? {
        Some(value) => of_number(value, call.ret),
        None => Ok(Datum::Null),
    }
}

/// The field of a value; `None` for fields an infinite value has not.
fn field(call: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Option<Numeric>> {
    let unit = string(&v[0])?.to_lowercase();
    let ty = call.types[1];
    let exact = |micros: i64, scale: i8| Ok(Some(Numeric::of_decimal(i128::from(micros), scale)));
    if let Datum::Interval(value) = &v[1] {
        return interval_field(&unit, *value);
    }
    let raw = int(&v[1])?;
    let infinite = match ty {
        PgType::Date => raw == i64::from(i32::MAX) || raw == i64::from(i32::MIN),
        _ => raw == i64::MAX || raw == i64::MIN,
    };
    if infinite {
        return Err(SqlError::unsupported("a field of an infinite time"));
    }
    let shown = if ty == PgType::TimestampTz { zone::current().local(raw) } else { raw };
    let (days, time) = match ty {
        PgType::Date => (raw, 0),
        _ => (shown.div_euclid(DAY), shown.rem_euclid(DAY)),
    };
    if let Some(n) = day_field(&unit, days) {
        return Ok(Some(Numeric::of_int(n)));
    }
    if ty == PgType::Date {
        if unit == "epoch" {
            return Ok(Some(Numeric::of_int(days * 86_400)));
        }
        let known = matches!(
            unit.as_str(),
            "hour" | "minute" | "second" | "milliseconds" | "microseconds" | "timezone"
        );
        if known {
            return Err(SqlError::new(
                SqlState::FEATURE_NOT_SUPPORTED,
                format!("unit \"{unit}\" not supported for type date"),
            ));
        }
        return Err(unknown_unit(&unit, ty));
    }
    match unit.as_str() {
        "epoch" => exact(raw, 6),
        "timezone" | "timezone_hour" | "timezone_minute" if ty == PgType::TimestampTz => {
            let offset = (shown - raw) / SECOND;
            exact(
                match unit.as_str() {
                    "timezone" => offset,
                    "timezone_hour" => offset / 3600,
                    _ => offset / 60 % 60,
                },
                0,
            )
        }
        _ => time_field(&unit, time).ok_or_else(|| unknown_unit(&unit, ty)).map(Some),
    }
}

fn day_field(unit: &str, days: i64) -> Option<i64> {
    let (year, month, day) = civil_from_days(days);
    // 1 BC is year −1 to whoever asks.
    let shown = if year > 0 { year } else { year - 1 };
    let weekday = (days + 4).rem_euclid(7);
    Some(match unit {
        "year" | "years" | "y" => shown,
        "month" | "months" | "mon" => month,
        "day" | "days" | "d" => day,
        "quarter" => (month - 1) / 3 + 1,
        "dow" => weekday,
        "isodow" => {
            if weekday == 0 {
                7
            } else {
                weekday
            }
        }
        "doy" => days - days_from_civil(year, 1, 1) + 1,
        "week" => iso_week(days).1,
        "isoyear" => iso_week(days).0,
        "decade" => year.div_euclid(10),
        "century" => {
            if year > 0 {
                (year + 99) / 100
            } else {
                (year - 100) / 100
            }
        }
        "millennium" => {
            if year > 0 {
                (year + 999) / 1000
            } else {
                (year - 1000) / 1000
            }
        }
        _ => return None,
    })
}

/// Year and week of ISO 8601: the week of a day is that of its Thursday.
pub fn iso_week(days: i64) -> (i64, i64) {
    let thursday = days - (days + 3).rem_euclid(7) + 3;
    let (year, ..) = civil_from_days(thursday);
    (year, (thursday - days_from_civil(year, 1, 1)) / 7 + 1)
}

fn time_field(unit: &str, time: i64) -> Option<Numeric> {
    let minute = time % (60 * SECOND);
    Some(match unit {
        "hour" | "hours" | "h" => Numeric::of_int(time / (3600 * SECOND)),
        "minute" | "minutes" | "m" => Numeric::of_int(time / (60 * SECOND) % 60),
        "second" | "seconds" | "s" => Numeric::of_decimal(i128::from(minute), 6),
        "millisecond" | "milliseconds" => Numeric::of_decimal(i128::from(minute), 3),
        "microsecond" | "microseconds" => Numeric::of_int(minute),
        _ => return None,
    })
}

fn interval_field(unit: &str, value: Interval) -> SqlResult<Option<Numeric>> {
    let (years, months) = (i64::from(value.months / 12), i64::from(value.months % 12));
    Ok(Some(match unit {
        "year" | "years" => Numeric::of_int(years),
        "month" | "months" => Numeric::of_int(months),
        "quarter" => Numeric::of_int(months / 3 + 1),
        "decade" => Numeric::of_int(years / 10),
        "century" => Numeric::of_int(years / 100),
        "millennium" => Numeric::of_int(years / 1000),
        "day" | "days" => Numeric::of_int(i64::from(value.days)),
        "epoch" => {
            // Years of 365.25 days, months of 30.
            let days = i128::from(years) * 1461 * i128::from(DAY) / 4
                + (i128::from(months) * 30 + i128::from(value.days)) * i128::from(DAY);
            Numeric::of_decimal(days + i128::from(value.micros), 6)
        }
        "dow" | "isodow" | "doy" | "week" | "isoyear" | "timezone" => {
            return Err(SqlError::unsupported(format_args!("unit \"{unit}\" for type interval")));
        }
        _ => time_field(unit, value.micros).ok_or_else(|| unknown_unit(unit, PgType::Interval))?,
    }))
}

fn make_date(_: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    let (year, month, day) = (int(&v[0])?, int(&v[1])?, int(&v[2])?);
    let wrong = || {
        SqlError::new(
            SqlState::DATETIME_FIELD_OVERFLOW,
            format!("date field value out of range: {year}-{month:02}-{day:02}"),
        )
    };
    let of_year = if year < 0 { year + 1 } else { year };
    let inside = year != 0 && (1..=12).contains(&month) && day >= 1;
    if !inside || day > days_in_month(of_year, month) {
        return Err(wrong());
    }
    let days = days_from_civil(of_year, month, day);
    Ok(Datum::Int(i64::from(datetime::check_date(days)?)))
}

/// `AT TIME ZONE`: what clocks there show at an instant, or the instant when they show this.
fn at_time_zone(call: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    let there = match &v[0] {
        Datum::Interval(by) if by.months == 0 && by.days == 0 => Zone::fixed(by.micros / SECOND)
            .ok_or_else(|| {
                SqlError::new(SqlState::INVALID_PARAMETER_VALUE, "interval time zone out of range")
            })?,
        Datum::Interval(_) => {
            return Err(SqlError::new(
                SqlState::INVALID_PARAMETER_VALUE,
                "interval time zone must not include months or days",
            ));
        }
        name => Zone::of_text(string(name)?)?,
    };
    let time = int(&v[1])?;
    Ok(Datum::Int(match call.ret {
        PgType::Timestamp => there.local(time),
        _ => there.instant(time)?,
    }))
}

fn make_timestamp(call: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    let Datum::Int(days) = make_date(call, v)? else {
        return Err(SqlError::internal("a date is a number of days"));
    };
    let (hour, minute) = (int(&v[3])?, int(&v[4])?);
    let second = super::ops::float_arg(call, v, 5)?;
    let inside =
        (0..=24).contains(&hour) && (0..60).contains(&minute) && (0.0..=60.0).contains(&second);
    let micros = (second * SECOND as f64).round_ties_even() as i64;
    let time = (hour * 60 + minute) * 60 * SECOND + micros;
    if !inside || time > DAY {
        return Err(SqlError::new(
            SqlState::DATETIME_FIELD_OVERFLOW,
            format!("time field value out of range: {hour}:{minute:02}:{second:02}"),
        ));
    }
    Ok(Datum::Int(datetime::check_timestamp(days * DAY + time)?))
}

/// The difference of two times in years, months and days as a calendar counts them.
fn age(call: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    let local = |value: i64| match call.types[0] {
        PgType::TimestampTz => zone::current().local(value),
        _ => value,
    };
    let (a, b) = (int(&v[0])?, int(&v[1])?);
    if [a, b].iter().any(|t| *t == i64::MAX || *t == i64::MIN) {
        return Err(SqlError::unsupported("age of an infinite time"));
    }
    let (a, b) = (local(a), local(b));
    let backwards = a < b;
    let (late, early) = if backwards { (b, a) } else { (a, b) };
    let parts = |t: i64| (civil_from_days(t.div_euclid(DAY)), t.rem_euclid(DAY));
    let ((y1, m1, d1), t1) = parts(late);
    let ((y2, m2, d2), t2) = parts(early);
    let (mut months, mut days, mut micros) = ((y1 - y2) * 12 + m1 - m2, d1 - d2, t1 - t2);
    if micros < 0 {
        micros += DAY;
        days -= 1;
    }
    if days < 0 {
        // The month that is borrowed is that of the earlier time.
        days += days_in_month(y2, m2);
        months -= 1;
    }
    let sign = if backwards { -1 } else { 1 };
    let narrow = |n: i64| i32::try_from(n * sign).map_err(|_| datetime::out_of_range("interval"));
    Ok(Datum::Interval(Interval {
        months: narrow(months)?,
        days: narrow(days)?,
        micros: micros * sign,
    }))
}

/// Thirty days are a month, 24 hours a day.
fn justify(call: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    let Datum::Interval(value) = &v[0] else {
        return Err(SqlError::internal("an interval expected"));
    };
    let range = || datetime::out_of_range("interval");
    let narrow = |n: i64| i32::try_from(n).map_err(|_| range());
    let (mut months, mut days, mut micros) =
        (i64::from(value.months), i64::from(value.days), value.micros);
    let all = call.name == "justify_interval";
    if all || call.name == "justify_hours" {
        days += micros / DAY;
        micros %= DAY;
    }
    if all || call.name == "justify_days" {
        months += days / 30;
        days %= 30;
    }
    if all && months > 0 && (days < 0 || (days == 0 && micros < 0)) {
        days += 30;
        months -= 1;
    } else if all && months < 0 && (days > 0 || (days == 0 && micros > 0)) {
        days -= 30;
        months += 1;
    }
    if call.name != "justify_days" {
        if days > 0 && micros < 0 {
            micros += DAY;
            days -= 1;
        } else if days < 0 && micros > 0 {
            micros -= DAY;
            days += 1;
        }
    }
    if call.name == "justify_days" {
        if months > 0 && days < 0 {
            days += 30;
            months -= 1;
        } else if months < 0 && days > 0 {
            days -= 30;
            months += 1;
        }
    }
    Ok(Datum::Interval(Interval { months: narrow(months)?, days: narrow(days)?, micros }))
}

fn to_timestamp(call: &Call<'_>, v: &[Datum<'_>]) -> SqlResult<Datum<'static>> {
    let seconds = super::ops::float_arg(call, v, 0)?;
    if seconds.is_nan() {
        return Err(SqlError::new(SqlState::DATETIME_FIELD_OVERFLOW, "timestamp cannot be NaN"));
    }
    if seconds.is_infinite() {
        return Ok(Datum::Int(if seconds > 0.0 { i64::MAX } else { i64::MIN }));
    }
    let micros = (seconds * SECOND as f64).round_ties_even();
    if micros.abs() >= i64::MAX as f64 {
        return Err(datetime::out_of_range("timestamp"));
    }
    Ok(Datum::Int(datetime::check_timestamp(micros as i64)?))
}
