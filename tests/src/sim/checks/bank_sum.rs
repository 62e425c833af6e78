//! The sum of all balances never changes, and each balance is what the ledger of the same moment
//! says it is: a transaction sees all of another or nothing. An account without a row has nothing.

use std::collections::BTreeMap;

use super::Seen;

/// What every account begins with.
pub const BALANCE_INITIAL: i64 = 1_000;

/// # Errors
/// What is wrong with the bank.
pub fn check(seen: &Seen, accounts: i64) -> Result<(), String> {
    let mut balances: BTreeMap<i64, i64> = (1..=accounts).map(|account| (account, 0)).collect();
    for (account, balance) in &seen.balances {
        *balances.get_mut(account).ok_or(format!("account {account} was seen"))? = *balance;
    }
    let sum: i64 = balances.values().sum();
    if sum != accounts * BALANCE_INITIAL {
        return Err(format!("the sum is {sum}, not {}", accounts * BALANCE_INITIAL));
    }
    let mut due: BTreeMap<i64, i64> = balances.keys().map(|id| (*id, BALANCE_INITIAL)).collect();
    for (number, transfer) in &seen.ledger {
        for (account, change) in [(transfer.from, -transfer.amount), (transfer.to, transfer.amount)]
        {
            *due.get_mut(&account).ok_or(format!("transfer {number} names {account}"))? += change;
        }
    }
    for (account, balance) in &balances {
        if due[account] != *balance {
            return Err(format!(
                "account {account} has {balance}, the ledger makes it {}",
                due[account]
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Transfer;
    use super::*;

    fn bank() -> Seen {
        let mut seen = Seen::default();
        seen.balances.extend([(1, BALANCE_INITIAL - 5), (2, BALANCE_INITIAL + 5)]);
        seen.ledger.insert(9, Transfer { from: 1, to: 2, amount: 5 });
        seen
    }

    #[test]
    fn half_a_transfer_is_found() {
        assert_eq!(check(&bank(), 2), Ok(()));
        let mut seen = bank();
        seen.balances.insert(1, BALANCE_INITIAL);
        assert!(check(&seen, 2).unwrap_err().contains("the sum is 2005"));
    }

    #[test]
    fn a_transfer_without_its_ledger_row_is_found() {
        let mut seen = bank();
        seen.ledger.clear();
        assert!(check(&seen, 2).unwrap_err().contains("account 1 has 995"));
    }

    #[test]
    fn a_missing_account_that_has_something_is_found() {
        assert!(check(&bank(), 3).is_err());
        let mut seen = bank();
        let (from, to, amount) = (1, 2, BALANCE_INITIAL - 5);
        seen.ledger.insert(10, Transfer { from, to, amount });
        seen.balances.extend([(1, 0), (2, 2 * BALANCE_INITIAL)]);
        assert_eq!(check(&seen, 2), Ok(()));
        seen.balances.remove(&1);
        assert_eq!(check(&seen, 2), Ok(()));
        seen.balances.remove(&2);
        assert!(check(&seen, 2).is_err());
    }
}
