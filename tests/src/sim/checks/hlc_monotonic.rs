//! A node's hybrid clock never goes back, not even over a restart (rules T2, T3).

use quorate_proto::Timestamp;

/// # Errors
/// The clock went back.
pub fn check(before: Timestamp, now: Timestamp) -> Result<(), String> {
    match now < before {
        true => Err(format!("the hybrid clock went back from {before} to {now}")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_goes_back_is_found() {
        assert_eq!(check(Timestamp(5), Timestamp(5)), Ok(()));
        assert!(check(Timestamp(5), Timestamp(4)).is_err());
    }
}
