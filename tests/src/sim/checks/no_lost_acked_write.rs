//! What was acknowledged before a transaction began is seen by it, through any gateway; what was
//! refused is never seen; what is unknown may be either, but whole (see [`super::bank_sum`]).

use super::{Seen, Told};

/// `told`: what clients had been told when the transaction that saw this began.
///
/// # Errors
/// Which transfer is lost, altered or should not be there.
pub fn check(seen: &Seen, told: &Told) -> Result<(), String> {
    for (number, transfer) in &told.acknowledged {
        match seen.ledger.get(number) {
            None => return Err(format!("transfer {number} was acknowledged and is not there")),
            Some(other) if other != transfer => {
                return Err(format!("transfer {number} is {other:?}, it was {transfer:?}"));
            }
            Some(_) => {}
        }
    }
    match told.refused.iter().find(|number| seen.ledger.contains_key(number)) {
        Some(number) => Err(format!("transfer {number} was refused and is there")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Transfer;
    use super::*;

    const TRANSFER: Transfer = Transfer { from: 1, to: 2, amount: 5 };

    fn told() -> Told {
        let mut told = Told::default();
        told.acknowledged.insert(1, TRANSFER);
        told.refused.insert(2);
        told
    }

    #[test]
    fn a_lost_transfer_is_found() {
        let mut seen = Seen::default();
        assert!(check(&seen, &told()).unwrap_err().contains("1 was acknowledged"));
        seen.ledger.insert(1, Transfer { amount: 6, ..TRANSFER });
        assert!(check(&seen, &told()).is_err());
        seen.ledger.insert(1, TRANSFER);
        // One of which nobody was told anything may be there.
        seen.ledger.insert(3, TRANSFER);
        assert_eq!(check(&seen, &told()), Ok(()));
    }

    #[test]
    fn a_refused_transfer_that_happened_is_found() {
        let mut seen = Seen::default();
        seen.ledger.extend([(1, TRANSFER), (2, TRANSFER)]);
        assert!(check(&seen, &told()).unwrap_err().contains("2 was refused"));
    }
}
