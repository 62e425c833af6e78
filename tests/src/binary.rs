//! Binary values of the wire protocol, rendered as PostgreSQL would send them as text.
//!
//! With it one set of expected results checks both formats. The rendering assumes the settings
//! that [`crate::wire::WireClient`] asks for: `DateStyle` ISO, `TimeZone` UTC, hex bytea.

use std::fmt::Write as _;

/// Type OIDs, as in PostgreSQL's catalog.
pub mod oid {
    #![allow(missing_docs, reason = "each is PostgreSQL's name of the type")]
    pub const BOOL: u32 = 16;
    pub const BYTEA: u32 = 17;
    pub const NAME: u32 = 19;
    pub const INT8: u32 = 20;
    pub const INT2: u32 = 21;
    pub const INT4: u32 = 23;
    pub const TEXT: u32 = 25;
    pub const FLOAT4: u32 = 700;
    pub const FLOAT8: u32 = 701;
    pub const BPCHAR: u32 = 1042;
    pub const VARCHAR: u32 = 1043;
    pub const DATE: u32 = 1082;
    pub const TIMESTAMP: u32 = 1114;
    pub const TIMESTAMPTZ: u32 = 1184;
    pub const INTERVAL: u32 = 1186;
    pub const NUMERIC: u32 = 1700;
    pub const UUID: u32 = 2950;
}

/// Days from year 0, March 1st, to 2000-01-01, the epoch of the wire format.
const EPOCH_DAYS: i64 = 730_425;
const MICROS_PER_DAY: i64 = 86_400_000_000;

/// Whether [`to_text`] can render this type.
pub fn is_known(oid: u32) -> bool {
    use oid::*;
    matches!(
        oid,
        BOOL | BYTEA
            | INT8
            | INT2
            | INT4
            | TEXT
            | FLOAT4
            | FLOAT8
            | BPCHAR
            | VARCHAR
            | DATE
            | TIMESTAMP
            | TIMESTAMPTZ
            | NUMERIC
            | UUID
    )
}

/// Renders one binary value; an error says what is wrong with its bytes.
pub fn to_text(oid: u32, bytes: &[u8]) -> Result<String, String> {
    use oid::*;
    Ok(match oid {
        BOOL => match bytes {
            [0] => "f".into(),
            [1] => "t".into(),
            _ => return Err(format!("a bool of {bytes:?}")),
        },
        BYTEA => bytes.iter().fold("\\x".to_owned(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a string works");
            text
        }),
        INT2 => i16::from_be_bytes(fixed(bytes)?).to_string(),
        INT4 => i32::from_be_bytes(fixed(bytes)?).to_string(),
        INT8 => i64::from_be_bytes(fixed(bytes)?).to_string(),
        TEXT | BPCHAR | VARCHAR => {
            String::from_utf8(bytes.to_vec()).map_err(|error| error.to_string())?
        }
        FLOAT4 => {
            let value = f32::from_be_bytes(fixed(bytes)?);
            float(f64::from(value), format!("{value:e}"), format!("{value}"), 6)
        }
        FLOAT8 => {
            let value = f64::from_be_bytes(fixed(bytes)?);
            float(value, format!("{value:e}"), format!("{value}"), 15)
        }
        DATE => match i32::from_be_bytes(fixed(bytes)?) {
            i32::MAX => "infinity".into(),
            i32::MIN => "-infinity".into(),
            days => date(i64::from(days), ""),
        },
        TIMESTAMP => timestamp(i64::from_be_bytes(fixed(bytes)?), ""),
        TIMESTAMPTZ => timestamp(i64::from_be_bytes(fixed(bytes)?), "+00"),
        NUMERIC => numeric(bytes)?,
        UUID => uuid(fixed(bytes)?),
        _ => return Err(format!("type {oid} has no rendering")),
    })
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], String> {
    bytes.try_into().map_err(|_| format!("{} bytes where {N} belong", bytes.len()))
}

/// Shortest digits that read back the same, with an exponent where C's `%g` has one.
fn float(value: f64, scientific: String, plain: String, exponent_end: i32) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        return plain;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value == 0.0 || (-4..exponent_end).contains(&exponent) {
        return plain;
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

/// A civil date of the proleptic Gregorian calendar, `suffix` standing before ` BC`.
fn date(days: i64, suffix: &str) -> String {
    let days = days + EPOCH_DAYS;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    if year > 0 {
        format!("{year:04}-{month:02}-{day:02}{suffix}")
    } else {
        format!("{:04}-{month:02}-{day:02}{suffix} BC", 1 - year)
    }
}

fn timestamp(micros: i64, zone: &str) -> String {
    match micros {
        i64::MAX => return "infinity".into(),
        i64::MIN => return "-infinity".into(),
        _ => {}
    }
    let of_day = micros.rem_euclid(MICROS_PER_DAY);
    let (seconds, fraction) = (of_day / 1_000_000, of_day % 1_000_000);
    let mut time = format!(" {:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if fraction != 0 {
        let digits = format!("{fraction:06}");
        write!(time, ".{}", digits.trim_end_matches('0')).expect("writing to a string works");
    }
    time.push_str(zone);
    date(micros.div_euclid(MICROS_PER_DAY), &time)
}

fn numeric(bytes: &[u8]) -> Result<String, String> {
    let words: Vec<u16> = bytes
        .chunks(2)
        .map(|pair| fixed(pair).map(u16::from_be_bytes))
        .collect::<Result<_, _>>()?;
    let [count, weight, sign, scale, digits @ ..] = words.as_slice() else {
        return Err("a numeric without its header".into());
    };
    if usize::from(*count) != digits.len() {
        return Err(format!("a numeric of {count} digits that has {}", digits.len()));
    }
    match sign {
        0xC000 => return Ok("NaN".into()),
        0xD000 => return Ok("Infinity".into()),
        0xF000 => return Ok("-Infinity".into()),
        0 | 0x4000 => {}
        _ => return Err(format!("a numeric of sign {sign:#x}")),
    }
    let weight = i32::from(*weight as i16);
    let scale = usize::from(*scale);
    let digit = |position: i32| -> u16 {
        usize::try_from(position).ok().and_then(|index| digits.get(index)).copied().unwrap_or(0)
    };
    let mut text = String::new();
    for position in 0..=weight {
        write!(text, "{:04}", digit(position)).expect("writing to a string works");
    }
    let mut whole = text.trim_start_matches('0').to_owned();
    if whole.is_empty() {
        whole.push('0');
    }
    let mut fraction = String::new();
    let mut position = weight + 1;
    while fraction.len() < scale {
        // A negative position is a group of zeros between the point and the first digit.
        write!(fraction, "{:04}", digit(position)).expect("writing to a string works");
        position += 1;
    }
    fraction.truncate(scale);
    let sign = if *sign == 0x4000 { "-" } else { "" };
    let point = if scale > 0 { "." } else { "" };
    Ok(format!("{sign}{whole}{point}{fraction}"))
}

fn uuid(bytes: [u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        write!(text, "{byte:02x}").expect("writing to a string works");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[u16]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn numerics_keep_their_scale() {
        let cases: [(&[u16], &str); 7] = [
            (&[0, 0, 0, 0], "0"),
            (&[0, 0, 0, 2], "0.00"),
            (&[1, 0, 0, 2, 12], "12.00"),
            (&[2, 0, 0x4000, 2, 1, 5000], "-1.50"),
            (&[1, 1, 0, 0, 1], "10000"),
            (&[1, 0xFFFF, 0, 4, 1], "0.0001"),
            (&[1, 0xFFFE, 0, 8, 12], "0.00000012"),
        ];
        for (input, expected) in cases {
            assert_eq!(to_text(oid::NUMERIC, &words(input)).unwrap(), expected);
        }
        assert!(to_text(oid::NUMERIC, &words(&[2, 0, 0, 0, 1])).is_err());
    }

    #[test]
    fn dates_around_the_epoch_leap_days_and_before_christ() {
        let text = |days: i32| to_text(oid::DATE, &days.to_be_bytes()).unwrap();
        assert_eq!(text(0), "2000-01-01");
        assert_eq!(text(59), "2000-02-29");
        assert_eq!(text(-1), "1999-12-31");
        assert_eq!(text(-730_119), "0001-01-01");
        assert_eq!(text(-730_120), "0001-12-31 BC");
        assert_eq!(text(i32::MAX), "infinity");
    }

    #[test]
    fn timestamps_drop_trailing_zeros_of_the_fraction() {
        let text = |micros: i64| to_text(oid::TIMESTAMPTZ, &micros.to_be_bytes()).unwrap();
        assert_eq!(text(1_500_000), "2000-01-01 00:00:01.5+00");
        assert_eq!(text(-1), "1999-12-31 23:59:59.999999+00");
    }

    #[test]
    fn floats_switch_to_an_exponent_where_postgres_does() {
        let text = |value: f64| to_text(oid::FLOAT8, &value.to_be_bytes()).unwrap();
        assert_eq!(text(1.0), "1");
        assert_eq!(text(1e14), "100000000000000");
        assert_eq!(text(1e15), "1e+15");
        assert_eq!(text(0.0001), "0.0001");
        assert_eq!(text(0.00001), "1e-05");
        assert_eq!(text(-0.0), "-0");
    }

    #[test]
    fn wrong_lengths_are_errors() {
        assert!(to_text(oid::INT4, &[1, 2]).is_err());
        assert!(to_text(oid::UUID, &[0; 15]).is_err());
        assert!(to_text(oid::BOOL, &[7]).is_err());
        assert!(to_text(oid::INTERVAL, &[]).is_err());
    }
}
