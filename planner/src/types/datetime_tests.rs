//! Dates, timestamps and intervals in text, and the calendar.

use super::*;
use proptest::prelude::*;

fn shown(f: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    f(&mut out);
    String::from_utf8(out).expect("ASCII")
}

fn date(text: &str) -> String {
    parse_date(text).map_or_else(|e| e.sqlstate.to_string(), |d| shown(|out| write_date(d, out)))
}

fn stamp(text: &str) -> String {
    parse_timestamp(text, true)
        .map_or_else(|e| e.sqlstate.to_string(), |t| shown(|out| write_timestamp(t, Some(0), out)))
}

#[test]
fn dates_are_read_and_written() {
    assert_eq!(date("2024-02-29"), "2024-02-29");
    assert_eq!(date("20240115"), "2024-01-15");
    assert_eq!(date("January 8, 1999"), "1999-01-08");
    assert_eq!(date("8-Jan-1999"), "1999-01-08");
    assert_eq!(date("1/8/1999"), "1999-01-08");
    assert_eq!(date("0044-03-15 BC"), "0044-03-15 BC");
    assert_eq!(date("infinity"), "infinity");
    for text in ["2023-02-29", "2024-13-01", "2024-00-10"] {
        assert_eq!(date(text), "22008", "{text}");
    }
    assert_eq!(date("not a date"), "22007");
    assert_eq!(date(""), "22007");
}

#[test]
fn timestamps_are_read_and_written() {
    assert_eq!(stamp("2024-01-01 12:34:56.789"), "2024-01-01 12:34:56.789+00");
    assert_eq!(stamp("2024-01-01T01:02:03Z"), "2024-01-01 01:02:03+00");
    assert_eq!(stamp("2024-01-01 10:30+02"), "2024-01-01 08:30:00+00");
    assert_eq!(stamp("2024-01-01 10:30 -05:30"), "2024-01-01 16:00:00+00");
    assert_eq!(stamp("2024-01-01 00:00:00.1234567"), "2024-01-01 00:00:00.123457+00");
    assert_eq!(stamp("2024-01-01 24:00:00"), "2024-01-02 00:00:00+00");
    assert_eq!(stamp("2024-01-01 12:00 am"), "2024-01-01 00:00:00+00");
    assert_eq!(stamp("2024-01-01 25:00:00"), "22008");
    assert_eq!(stamp("2024-01-01 10:61:00"), "22008");
    assert_eq!(stamp("yesterdayish"), "22007");
}

#[test]
fn intervals_are_read_and_written() {
    let show = |text: &str| shown(|out| parse_interval(text).expect("valid").write(out));
    assert_eq!(show("1 year 2 mons -3 days 04:05:06.7"), "1 year 2 mons -3 days +04:05:06.7");
    assert_eq!(show("90 minutes"), "01:30:00");
    assert_eq!(show("36 hours"), "36:00:00");
    assert_eq!(show("1 week"), "7 days");
    assert_eq!(show("1.5 days"), "1 day 12:00:00");
    assert_eq!(show("1 day ago"), "-1 days");
    assert_eq!(show("1h30m15s"), "01:30:15");
    assert_eq!(show("1d12h"), "1 day 12:00:00");
    // A sign is of one part.
    assert_eq!(show("-1h30m"), "-00:30:00");
    assert_eq!(show("0"), "00:00:00");
    assert!(parse_interval("one day").is_err());
    assert!(parse_interval("1h-30m").is_err());
}

proptest! {
    #[test]
    fn days_survive_the_calendar(days in -2_000_000i64..2_000_000) {
        let (y, m, d) = civil_from_days(days);
        prop_assert_eq!(days_from_civil(y, m, d), days);
    }

    #[test]
    fn timestamps_survive_text(micros in -60_000_000_000_000_000i64..200_000_000_000_000_000) {
        let text = shown(|out| write_timestamp(micros, Some(0), out));
        prop_assert_eq!(parse_timestamp(&text, true).expect("own text"), micros);
    }

    #[test]
    fn random_text_does_no_harm(text in "\\PC{0,24}") {
        let _ = parse_date(&text);
        let _ = parse_timestamp(&text, true);
        let _ = parse_interval(&text);
    }
}
