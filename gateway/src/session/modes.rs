//! The bounds of transactions, and what holds for each: level, read only, deferrable, the moment
//! of the past.

use std::time::Duration;

use quorate_planner::error::{SqlError, SqlState};
use quorate_planner::parse::{AsOf, IsolationLevel, SetValue, Statement, TxnModes};
use quorate_planner::types::zone;
use quorate_proto::Timestamp;

use super::commands::tag;
use super::{Open, Outcome, Session, State, micros};

/// What holds for a transaction; `AND CHAIN` hands it on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Modes {
    /// As the setting spells it.
    isolation: String,
    read_only: bool,
    deferrable: bool,
    as_of: Option<Timestamp>,
}

fn on_or_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn spelled(level: IsolationLevel) -> &'static str {
    match level {
        IsolationLevel::ReadCommitted => "read committed",
        IsolationLevel::RepeatableRead => "repeatable read",
        IsolationLevel::Serializable => "serializable",
    }
}

fn too_late(message: &str) -> SqlError {
    SqlError::new(SqlState::ACTIVE_SQL_TRANSACTION, message)
}

impl Session {
    pub(super) fn begin(&mut self, modes: &TxnModes) -> Result<Outcome, SqlError> {
        if self.in_block() {
            let text = "there is already a transaction in progress";
            self.warn(SqlState::ACTIVE_SQL_TRANSACTION, text);
        } else {
            self.state = match std::mem::replace(&mut self.state, State::Idle) {
                // What the same pipeline did before belongs to the block, as in Postgres.
                State::Implicit(open) if open.txn.as_of().is_some() => {
                    return Err(SqlError::unsupported("BEGIN after AS OF SYSTEM TIME in one text"));
                }
                State::Implicit(open) => {
                    open.txn.becomes_block();
                    State::Block(open)
                }
                _ => {
                    self.timeline_begins();
                    State::Block(self.begin_txn(true))
                }
            };
            // A change of the defaults is for those to come.
            let modes = Modes { as_of: None, ..self.modes() };
            self.take_over(&modes)?;
        }
        self.set_modes(modes, "transaction", true)?;
        Ok(tag("BEGIN"))
    }

    pub(super) async fn commit(&mut self, chain: bool) -> Result<Outcome, SqlError> {
        self.only_in_a_block(chain, "COMMIT AND CHAIN")?;
        let modes = chain.then(|| self.modes());
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Block(open) => {
                let (plain, before) = (open.is_plain(), open.txn.clone());
                let token = open.token.clone();
                let result = self.commit_open(open).await;
                if let Err(error) = &result
                    && error.sqlstate == SqlState::SERIALIZATION_FAILURE
                    && self.keeps_block
                    && plain
                {
                    self.state = State::Block(self.begin_anew(&before, token, true));
                    return Err(error.clone());
                }
                // Whatever still holds its rows, a portal perhaps: they are others' now.
                before.end();
                self.settings.transaction_ended(result.is_ok());
                result?;
                self.chained(modes)?;
                Ok(tag("COMMIT"))
            }
            State::Failed(open) => {
                if let Some(open) = open {
                    open.txn.end();
                }
                self.settings.transaction_ended(false);
                self.chained(modes)?;
                Ok(tag("ROLLBACK"))
            }
            other @ (State::Idle | State::Implicit(_)) => {
                self.state = other;
                self.finish_implicit().await?;
                let text = "there is no transaction in progress";
                self.warn(SqlState::NO_ACTIVE_SQL_TRANSACTION, text);
                Ok(tag("COMMIT"))
            }
        }
    }

    pub(super) fn rollback(&mut self, chain: bool) -> Result<Outcome, SqlError> {
        self.only_in_a_block(chain, "ROLLBACK AND CHAIN")?;
        let modes = chain.then(|| self.modes());
        let before = std::mem::replace(&mut self.state, State::Idle);
        if let State::Block(open) | State::Failed(Some(open)) = &before {
            open.txn.end();
        }
        self.settings.transaction_ended(false);
        if matches!(before, State::Idle | State::Implicit(_)) {
            let text = "there is no transaction in progress";
            self.warn(SqlState::NO_ACTIVE_SQL_TRANSACTION, text);
        } else {
            self.current.rolled_back(self.monotonic());
            self.chained(modes)?;
        }
        Ok(tag("ROLLBACK"))
    }

    /// The connection ends: what is open is rolled back.
    pub fn leave(&mut self) {
        let before = std::mem::replace(&mut self.state, State::Idle);
        if let State::Implicit(open) | State::Block(open) | State::Failed(Some(open)) = before {
            open.txn.end();
        }
    }

    fn only_in_a_block(&self, chain: bool, what: &str) -> Result<(), SqlError> {
        if !chain || self.in_block() {
            return Ok(());
        }
        let message = format!("{what} can only be used in transaction blocks");
        Err(SqlError::new(SqlState::NO_ACTIVE_SQL_TRANSACTION, message))
    }

    /// `AND CHAIN`: another block begins at once, and what held for the last holds for it.
    fn chained(&mut self, modes: Option<Modes>) -> Result<(), SqlError> {
        let Some(modes) = modes else { return Ok(()) };
        self.timeline_begins();
        self.state = State::Block(self.begin_txn(true));
        self.take_over(&modes)
    }

    /// What holds for the open transaction, or for the next.
    pub(super) fn modes(&self) -> Modes {
        if let State::Failed(_) = &self.state {
            // Its settings may have been put back already.
            return self.failed_modes.clone();
        }
        let of = |name: &str| self.settings.get(name).unwrap_or_default();
        let mut isolation = of("transaction_isolation");
        let mut as_of = None;
        if let State::Implicit(open) | State::Block(open) = &self.state {
            as_of = open.txn.as_of();
            // Of one that is under way it is settled.
            let level = open.txn.isolation();
            if level != self.settings.isolation() {
                isolation = spelled(level).to_owned();
            }
        }
        Modes {
            isolation,
            read_only: self.settings.read_only(),
            deferrable: of("transaction_deferrable") == "on",
            as_of,
        }
    }

    /// They hold for the block that has just begun.
    fn take_over(&mut self, modes: &Modes) -> Result<(), SqlError> {
        let mut set = |name, value| self.settings.set(name, Some(value), true, true);
        set("transaction_isolation", modes.isolation.as_str())?;
        set("transaction_read_only", on_or_off(modes.read_only))?;
        set("transaction_deferrable", on_or_off(modes.deferrable))?;
        let State::Block(open) = &self.state else { return Ok(()) };
        open.txn.set_isolation(self.settings.isolation())?;
        modes.as_of.map_or(Ok(()), |moment| open.txn.set_as_of(moment))
    }

    pub(super) fn set_modes(
        &mut self,
        modes: &TxnModes,
        prefix: &str,
        local: bool,
    ) -> Result<(), SqlError> {
        if let Some(level) = modes.isolation {
            self.set_value(&format!("{prefix}_isolation"), Some(spelled(level)), local)?;
        }
        if let Some(as_of) = &modes.as_of {
            if prefix != "transaction" {
                return Err(SqlError::unsupported("AS OF SYSTEM TIME for all transactions"));
            }
            self.read_the_past(as_of)?;
        }
        let flags = [("read_only", modes.read_only), ("deferrable", modes.deferrable)];
        for (name, on) in flags {
            if let Some(on) = on {
                self.set_value(&format!("{prefix}_{name}"), Some(on_or_off(on)), local)?;
            }
        }
        Ok(())
    }

    /// Sets what holds for the open transaction alone. Outside of a block that is this statement.
    fn set_own(&mut self, name: &str, value: Option<&str>, local: bool) -> Result<(), SqlError> {
        let in_block = self.in_block();
        let mut settings = self.settings.clone();
        // A block does not follow the default any more.
        let default = settings.get(&format!("default_{name}"))?;
        let value = value.unwrap_or(&default);
        settings.set(name, Some(value), local, in_block)?;
        if !in_block {
            return Ok(());
        }
        if let State::Block(open) = &self.state {
            let isolation = settings.isolation();
            if name == "transaction_isolation" && isolation != open.txn.isolation() {
                if !open.savepoints.is_empty() {
                    let text =
                        "SET TRANSACTION ISOLATION LEVEL must not be called in a subtransaction";
                    return Err(too_late(text));
                }
                open.txn.set_isolation(isolation)?;
            }
            if self.settings.read_only() && !settings.read_only() {
                may_write_again(open)?;
            }
        }
        self.settings = settings;
        Ok(())
    }

    /// Sets a value, or the default.
    pub(super) fn set_value(
        &mut self,
        name: &str,
        value: Option<&str>,
        local: bool,
    ) -> Result<(), SqlError> {
        let lower = name.to_ascii_lowercase();
        match lower.as_str() {
            "transaction_isolation" | "transaction_read_only" | "transaction_deferrable" => {
                self.set_own(&lower, value, local)
            }
            // An implicit transaction is one, too: it ends with the text, or with `Sync`.
            _ => self.settings.set(name, value, local, true),
        }
    }

    pub(super) fn set(
        &mut self,
        name: &str,
        value: &SetValue,
        local: bool,
    ) -> Result<Outcome, SqlError> {
        let value = match value {
            SetValue::Default => None,
            SetValue::Values(values) => Some(values.join(", ")),
        };
        let of_block = name.to_ascii_lowercase().starts_with("transaction_");
        if (local && !self.in_list || of_block) && !self.in_block() {
            let what = if local { "SET LOCAL" } else { name };
            let text = format!("{what} can only be used in transaction blocks");
            self.warn(SqlState::NO_ACTIVE_SQL_TRANSACTION, text);
        }
        self.set_value(name, value.as_deref(), local)?;
        Ok(tag("SET"))
    }

    /// What `SHOW` says of a setting.
    pub(super) fn shown(&self, name: &str) -> Result<String, SqlError> {
        match name.eq_ignore_ascii_case("transaction_read_only") && self.is_of_the_past() {
            true => Ok(String::from("on")),
            false => self.settings.get(name),
        }
    }

    fn is_of_the_past(&self) -> bool {
        match &self.state {
            State::Implicit(open) | State::Block(open) => open.txn.as_of().is_some(),
            State::Idle | State::Failed(_) => false,
        }
    }

    pub(super) fn check_may_write(&self, what: &str) -> Result<(), SqlError> {
        if self.settings.read_only() || self.is_of_the_past() {
            return Err(SqlError::new(
                SqlState::READ_ONLY_SQL_TRANSACTION,
                format!("cannot execute {what} in a read-only transaction"),
            ));
        }
        Ok(())
    }

    /// A statement reads a moment of the past only as a transaction of its own: others that belong
    /// to the same one would read it too, without saying so.
    pub(super) fn settle_the_past(&self, statement: &Statement) -> Result<(), SqlError> {
        match (&statement.as_of, &self.state) {
            (Some(as_of), State::Implicit(_)) => self.read_the_past(as_of),
            (Some(_), _) => Err(too_late(
                "AS OF SYSTEM TIME of a block is said in its BEGIN or SET TRANSACTION",
            )),
            (None, State::Implicit(open)) if open.txn.as_of().is_some() => {
                Err(SqlError::unsupported(
                    "statements with and without AS OF SYSTEM TIME in one transaction",
                ))
            }
            (None, _) => Ok(()),
        }
    }

    /// `DEFERRABLE`: the first statement of a serializable transaction that only reads waits until
    /// it cannot fail because of others.
    pub(super) async fn defer(&self) -> Result<(), SqlError> {
        let (State::Implicit(open) | State::Block(open)) = &self.state else { return Ok(()) };
        let defers = self.settings.read_only()
            && open.txn.isolation() == IsolationLevel::Serializable
            && self.settings.get("transaction_deferrable")? == "on";
        if defers && !open.txn.has_begun() && open.txn.as_of().is_none() {
            open.txn.defer().await;
            self.gateway.check_clock()?;
        }
        Ok(())
    }

    /// Whether a statement reads a moment of the past.
    pub(super) fn reads_the_past(&self, statement: &Statement) -> bool {
        self.is_of_the_past() || statement.as_of.is_some()
    }

    /// The open transaction reads a moment of the past.
    fn read_the_past(&self, as_of: &AsOf) -> Result<(), SqlError> {
        let (State::Implicit(open) | State::Block(open)) = &self.state else { return Ok(()) };
        if !open.savepoints.is_empty() {
            return Err(too_late("AS OF SYSTEM TIME must be set before the first savepoint"));
        }
        let now = micros(self.gateway.dist().clock().physical());
        let moment = zone::with(self.settings.time_zone(), || as_of.moment(now))?;
        let since_1970 = u64::try_from(moment).unwrap_or(0);
        open.txn.set_as_of(Timestamp::from_duration(Duration::from_micros(since_1970)))
    }
}

/// Whether a block that was read only may become another.
fn may_write_again(open: &Open) -> Result<(), SqlError> {
    if !open.savepoints.is_empty() {
        return Err(too_late(
            "cannot set transaction read-write mode inside a read-only transaction",
        ));
    }
    if open.txn.has_begun() {
        return Err(too_late("transaction read-write mode must be set before any query"));
    }
    Ok(())
}
