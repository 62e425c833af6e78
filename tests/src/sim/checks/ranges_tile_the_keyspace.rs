//! The ranges that are led cover every key once.

use quorate_proto::pb;

/// # Errors
/// Where a key is in no range or in two.
pub fn check(mut ranges: Vec<pb::RangeDescriptor>) -> Result<(), String> {
    ranges.sort_by(|a, b| a.start.cmp(&b.start));
    let Some(first) = ranges.first() else { return Err(String::from("there is no range")) };
    if !first.start.is_empty() {
        return Err(format!("keys below {:02x?} are in no range", &first.start[..]));
    }
    for pair in ranges.windows(2) {
        if pair[0].end != pair[1].start || pair[0].end.is_empty() {
            return Err(format!(
                "range {} ends at {:02x?}, range {} begins at {:02x?}",
                pair[0].range_id,
                &pair[0].end[..],
                pair[1].range_id,
                &pair[1].start[..]
            ));
        }
    }
    match ranges.last().is_some_and(|last| last.end.is_empty()) {
        true => Ok(()),
        false => Err(String::from("the last keys are in no range")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &'static str, end: &'static str) -> pb::RangeDescriptor {
        pb::RangeDescriptor { start: start.into(), end: end.into(), ..Default::default() }
    }

    #[test]
    fn gaps_and_overlaps_are_found() {
        assert_eq!(check(vec![range("m", ""), range("", "m")]), Ok(()));
        assert!(check(vec![range("", "m")]).is_err());
        assert!(check(vec![range("a", "")]).is_err());
        assert!(check(vec![range("", "m"), range("n", "")]).is_err());
        assert!(check(vec![range("", "n"), range("m", "")]).is_err());
        assert!(check(vec![range("", ""), range("m", "")]).is_err());
        assert!(check(Vec::new()).is_err());
    }
}
