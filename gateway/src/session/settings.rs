//! Session settings (`SET`, `SHOW`, `RESET`): a table of what is known, with what may be set.
//! A value that would have to change our behaviour and does not is refused, never ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use quorate_planner::error::{SqlError, SqlState};
use quorate_planner::parse::IsolationLevel;
use quorate_planner::types::Zone;

/// Bytes of the name that a client gives itself; the rest is cut off.
const NAME_BYTES_MAX: usize = 63;
/// Bytes of any other text.
const TEXT_BYTES_MAX: usize = 8 << 10;

/// How a setting's value is read.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Any text.
    Text,
    /// `on` or `off`.
    Bool,
    /// One of these, in any case; shown as written here.
    OneOf(&'static [&'static str]),
    /// A whole number between the two.
    Int(i64, i64),
    /// Milliseconds, or a number with a unit.
    Millis,
    /// A time zone.
    Zone,
    /// Cannot be set.
    Fixed,
}

struct Known {
    name: &'static str,
    kind: Kind,
    default: &'static str,
    /// The client is told its value at the start and after each change.
    reported: bool,
}

const fn known(name: &'static str, kind: Kind, default: &'static str) -> Known {
    Known { name, kind, default, reported: false }
}

const fn reported(name: &'static str, kind: Kind, default: &'static str) -> Known {
    Known { name, kind, default, reported: true }
}

const UTF8: Kind = Kind::OneOf(&["UTF8", "UTF-8", "unicode"]);
const ISO: Kind = Kind::OneOf(&["ISO, MDY", "ISO", "ISO, DMY", "ISO, YMD", "iso,mdy"]);
const ONLY_ON: Kind = Kind::OneOf(&["on", "true", "yes", "1"]);
/// As PostgreSQL's; `read uncommitted` runs as `read committed`.
const ISOLATION: Kind = Kind::OneOf(ISOLATION_LEVELS);
const ISOLATION_LEVELS: &[&str] =
    &["repeatable read", "read committed", "read uncommitted", "serializable"];

/// In the order of their names. A new row is all it takes to know one more.
const TABLE: &[Known] = &[
    reported("application_name", Kind::Text, ""),
    known("backslash_quote", Kind::Text, "safe_encoding"),
    known("bytea_output", Kind::OneOf(&["hex"]), "hex"),
    reported("client_encoding", UTF8, "UTF8"),
    known("client_min_messages", Kind::Text, "notice"),
    reported("DateStyle", ISO, "ISO, MDY"),
    known("default_transaction_deferrable", Kind::Bool, "off"),
    known("default_transaction_isolation", ISOLATION, "repeatable read"),
    reported("default_transaction_read_only", Kind::Bool, "off"),
    known("escape_string_warning", Kind::Bool, "on"),
    known("extra_float_digits", Kind::Int(-15, 3), "1"),
    known("idle_in_transaction_session_timeout", Kind::Millis, "0"),
    known("idle_session_timeout", Kind::Millis, "0"),
    reported("in_hot_standby", Kind::Fixed, "off"),
    reported("integer_datetimes", Kind::Fixed, "on"),
    reported("IntervalStyle", Kind::OneOf(&["postgres"]), "postgres"),
    reported("is_superuser", Kind::Fixed, "on"),
    known("jit", Kind::Bool, "off"),
    known("lc_collate", Kind::Fixed, "C"),
    known("lc_ctype", Kind::Fixed, "C.UTF-8"),
    known("lc_messages", Kind::Text, "C"),
    known("lock_timeout", Kind::Millis, "0"),
    known("max_clock_offset", Kind::Fixed, ""),
    known("max_identifier_length", Kind::Fixed, "63"),
    known("quorate.commit_token", Kind::Text, ""),
    known("quorate.repeat_statements", Kind::Bool, "on"),
    known("quorate.repeat_transactions", Kind::Bool, "on"),
    known("row_security", Kind::Bool, "on"),
    known("search_path", Kind::Text, "\"$user\", public"),
    reported("server_encoding", Kind::Fixed, "UTF8"),
    reported("server_version", Kind::Fixed, "15.0"),
    known("server_version_num", Kind::Fixed, "150000"),
    reported("session_authorization", Kind::Fixed, ""),
    reported("standard_conforming_strings", ONLY_ON, "on"),
    known("statement_timeout", Kind::Millis, "0"),
    known("synchronous_commit", ONLY_ON, "on"),
    reported("TimeZone", Kind::Zone, "UTC"),
    known("transaction_deferrable", Kind::Bool, "off"),
    known("transaction_isolation", ISOLATION, "repeatable read"),
    known("transaction_read_only", Kind::Bool, "off"),
];

/// What is said of a single transaction.
const OF_A_TRANSACTION: &[&str] = &[
    "quorate.commit_token",
    "transaction_deferrable",
    "transaction_isolation",
    "transaction_read_only",
];

/// The settings of one session.
///
/// # Invariants
/// * `values` holds only names of the table, as the table spells them.
/// * `zone` is the zone that `TimeZone` names.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    values: Arc<BTreeMap<&'static str, String>>,
    at_start: BTreeMap<&'static str, String>,
    /// What a `ROLLBACK` puts back: values as they were when the transaction set them first.
    undo: Arc<BTreeMap<&'static str, Option<String>>>,
    /// What every end of the transaction puts back (`SET LOCAL`).
    local: Arc<BTreeSet<&'static str>>,
    changed: BTreeSet<&'static str>,
    /// The value of `TimeZone`.
    zone: Zone,
}

/// Settings as they were at a savepoint, shared until they are changed.
#[derive(Debug, Clone)]
pub struct Saved {
    values: Arc<BTreeMap<&'static str, String>>,
    undo: Arc<BTreeMap<&'static str, Option<String>>>,
    local: Arc<BTreeSet<&'static str>>,
}

fn find(name: &str) -> Result<&'static Known, SqlError> {
    if let Some(known) = TABLE.iter().find(|known| known.name == name) {
        return Ok(known);
    }
    let spelled = match name.to_ascii_lowercase().as_str() {
        "time zone" => String::from("timezone"),
        "names" => String::from("client_encoding"),
        "session characteristics as transaction isolation level" => {
            String::from("default_transaction_isolation")
        }
        other => other.to_string(),
    };
    TABLE.iter().find(|known| known.name.eq_ignore_ascii_case(&spelled)).ok_or_else(|| {
        SqlError::new(
            SqlState::UNDEFINED_OBJECT,
            format!("unrecognized configuration parameter \"{name}\""),
        )
    })
}

/// The name of a setting as `SHOW` spells it.
pub fn spelled(name: &str) -> Result<&'static str, SqlError> {
    find(name).map(|known| known.name)
}

impl SessionSettings {
    /// The defaults.
    pub fn new(user: &str, max_clock_offset: Duration) -> Self {
        Self {
            values: Arc::default(),
            at_start: BTreeMap::from([
                ("session_authorization", user.to_string()),
                ("max_clock_offset", format!("{}ms", max_clock_offset.as_millis())),
            ]),
            undo: Arc::default(),
            local: Arc::default(),
            changed: BTreeSet::new(),
            zone: Zone::utc(),
        }
    }

    /// A setting from the startup packet: `RESET` goes back to it.
    pub fn set_at_start(&mut self, name: &str, value: &str) -> Result<(), SqlError> {
        let known = find(name)?;
        if OF_A_TRANSACTION.contains(&known.name) {
            return Err(SqlError::new(
                SqlState::CANT_CHANGE_RUNTIME_PARAM,
                format!("parameter \"{}\" cannot be set during connection start", known.name),
            )
            .with_hint("It is of one transaction: set it there."));
        }
        let value = check(known, value)?;
        self.at_start.insert(known.name, value);
        self.find_zone();
        Ok(())
    }

    /// `SHOW name`
    pub fn get(&self, name: &str) -> Result<String, SqlError> {
        Ok(self.value(find(name)?))
    }

    fn value(&self, known: &Known) -> String {
        let set = self.values.get(known.name).or_else(|| self.at_start.get(known.name));
        match set {
            Some(value) => value.clone(),
            None => match known.name {
                "transaction_isolation" => self.get("default_transaction_isolation"),
                "transaction_read_only" => self.get("default_transaction_read_only"),
                "transaction_deferrable" => self.get("default_transaction_deferrable"),
                _ => Ok(known.default.to_string()),
            }
            .unwrap_or_default(),
        }
    }

    /// `SHOW ALL`
    pub fn all(&self) -> Vec<(&'static str, String)> {
        TABLE.iter().map(|known| (known.name, self.value(known))).collect()
    }

    /// `SET [LOCAL] name = value`; `None` is `DEFAULT`. In a transaction, a rollback undoes it.
    pub fn set(
        &mut self,
        name: &str,
        value: Option<&str>,
        local: bool,
        in_transaction: bool,
    ) -> Result<(), SqlError> {
        let known = find(name)?;
        let value = match (value, known.kind) {
            (_, Kind::Fixed) => return Err(cannot_be_changed(known)),
            (Some(value), _) => Some(check(known, value)?),
            (None, _) => None,
        };
        if local && !in_transaction {
            return Ok(());
        }
        if in_transaction {
            let before = self.values.get(known.name).cloned();
            Arc::make_mut(&mut self.undo).entry(known.name).or_insert(before);
            let of_transaction = Arc::make_mut(&mut self.local);
            if local {
                of_transaction.insert(known.name);
            } else {
                of_transaction.remove(known.name);
            }
        }
        let values = Arc::make_mut(&mut self.values);
        match value {
            Some(value) => values.insert(known.name, value),
            None => values.remove(known.name),
        };
        self.changed.insert(known.name);
        if known.name == "TimeZone" {
            self.find_zone();
        }
        Ok(())
    }

    fn find_zone(&mut self) {
        let named = self.get("TimeZone").ok().and_then(|name| Zone::of_setting(&name));
        self.zone = named.unwrap_or_default();
    }

    /// The session's time zone.
    pub fn time_zone(&self) -> Zone {
        self.zone
    }

    /// Whether a rollback would change any.
    pub fn can_be_undone(&self) -> bool {
        !self.undo.is_empty()
    }

    /// `RESET ALL`, `DISCARD ALL`: not of what is said of the transaction alone. The latter is no
    /// part of one, and nothing comes back after it.
    pub fn reset_all(&mut self, in_transaction: bool) {
        if !in_transaction {
            self.transaction_ended(true);
        }
        let of_session = |name: &&'static str| !OF_A_TRANSACTION.contains(name);
        let names: Vec<_> = self.values.keys().copied().filter(of_session).collect();
        for name in names {
            let before = Arc::make_mut(&mut self.values).remove(name);
            if in_transaction {
                Arc::make_mut(&mut self.undo).entry(name).or_insert(before);
                Arc::make_mut(&mut self.local).remove(name);
            }
            self.changed.insert(name);
        }
        self.find_zone();
    }

    /// The transaction ended: its `SET LOCAL` are undone, after a rollback its `SET` too.
    pub fn transaction_ended(&mut self, committed: bool) {
        let zone = self.undo.contains_key("TimeZone");
        for (name, before) in Arc::unwrap_or_clone(std::mem::take(&mut self.undo)) {
            if committed && !self.local.contains(name) && !OF_A_TRANSACTION.contains(&name) {
                continue;
            }
            let values = Arc::make_mut(&mut self.values);
            match before {
                Some(value) => values.insert(name, value),
                None => values.remove(name),
            };
            self.changed.insert(name);
        }
        self.local = Arc::default();
        if zone {
            self.find_zone();
        }
    }

    /// What the client is told at the start.
    pub fn reported(&self) -> Vec<(&'static str, String)> {
        let reported = TABLE.iter().filter(|known| known.reported);
        reported.map(|known| (known.name, self.value(known))).collect()
    }

    /// Reported settings that changed since the last call.
    pub fn take_changes(&mut self) -> Vec<(String, String)> {
        let changed = std::mem::take(&mut self.changed);
        let reported = TABLE.iter().filter(|k| k.reported && changed.contains(k.name));
        reported.map(|known| (known.name.to_string(), self.value(known))).collect()
    }

    fn is_on(&self, name: &str) -> bool {
        self.get(name).is_ok_and(|value| value == "on")
    }

    /// Whether the open transaction, or the next, may not write.
    pub fn read_only(&self) -> bool {
        self.is_on("transaction_read_only")
    }

    /// The level of the open transaction, or of the next.
    pub fn isolation(&self) -> IsolationLevel {
        match self.get("transaction_isolation").as_deref() {
            Ok("serializable") => IsolationLevel::Serializable,
            Ok("read committed" | "read uncommitted") => IsolationLevel::ReadCommitted,
            _ => IsolationLevel::RepeatableRead,
        }
    }

    /// Whether statements outside a block that lost a race are run again.
    pub fn repeats_statements(&self) -> bool {
        self.is_on("quorate.repeat_statements")
    }

    /// Whether blocks that lost a race are run again.
    pub fn repeats_transactions(&self) -> bool {
        self.is_on("quorate.repeat_transactions")
    }

    /// What a savepoint keeps of the settings.
    pub fn saved(&self) -> Saved {
        Saved { values: self.values.clone(), undo: self.undo.clone(), local: self.local.clone() }
    }

    /// Back to what a savepoint kept.
    pub fn back_to(&mut self, saved: &Saved) {
        let names = self.values.keys().chain(saved.values.keys());
        let changed = names.filter(|name| self.values.get(*name) != saved.values.get(*name));
        self.changed.extend(changed.copied().collect::<Vec<_>>());
        self.values.clone_from(&saved.values);
        self.undo.clone_from(&saved.undo);
        self.local.clone_from(&saved.local);
        self.find_zone();
    }

    /// Longest a statement waits for a lock.
    pub fn lock_timeout(&self) -> Option<Duration> {
        self.limit("lock_timeout")
    }

    /// What the client calls itself.
    pub fn application_name(&self) -> String {
        self.get("application_name").unwrap_or_default()
    }

    /// Longest a statement may take.
    pub fn statement_timeout(&self) -> Option<Duration> {
        self.limit("statement_timeout")
    }

    /// Longest a session may wait for its client, in a block or outside.
    pub fn idle_timeout(&self, in_block: bool) -> Option<Duration> {
        self.limit(if in_block {
            "idle_in_transaction_session_timeout"
        } else {
            "idle_session_timeout"
        })
    }

    fn limit(&self, name: &str) -> Option<Duration> {
        let millis = millis(&self.get(name).ok()?)?;
        (millis > 0).then(|| Duration::from_millis(millis))
    }
}

fn cannot_be_changed(known: &Known) -> SqlError {
    SqlError::new(
        SqlState::CANT_CHANGE_RUNTIME_PARAM,
        format!("parameter \"{}\" cannot be changed", known.name),
    )
}

/// The value as it is shown, if it may be set.
fn check(known: &Known, value: &str) -> Result<String, SqlError> {
    // Some drivers send the value as they would write it in SQL.
    let value = value.trim().trim_matches('\'');
    let invalid = || {
        SqlError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("invalid value for parameter \"{}\": \"{value}\"", known.name),
        )
    };
    match known.kind {
        // As PostgreSQL does: a name is cut off.
        Kind::Text if known.name == "application_name" => {
            Ok(value[..value.floor_char_boundary(NAME_BYTES_MAX)].to_string())
        }
        Kind::Text if value.len() > TEXT_BYTES_MAX => Err(SqlError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("the value of parameter \"{}\" is too long", known.name),
        )
        .with_detail(format!("It has {} bytes of at most {TEXT_BYTES_MAX}.", value.len()))),
        Kind::Text => Ok(value.to_string()),
        Kind::Fixed => Err(cannot_be_changed(known)),
        Kind::Bool => match value.to_ascii_lowercase().as_str() {
            "on" | "true" | "yes" | "1" | "t" => Ok(String::from("on")),
            "off" | "false" | "no" | "0" | "f" => Ok(String::from("off")),
            _ => Err(invalid()),
        },
        Kind::OneOf(values) => values
            .iter()
            .find(|allowed| allowed.eq_ignore_ascii_case(value))
            .map(|allowed| shown(known, values, allowed))
            .ok_or_else(|| {
                let wanted = values[0];
                if values == ISOLATION_LEVELS {
                    return invalid();
                }
                SqlError::new(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    format!("\"{}\" = \"{value}\" is not supported", known.name),
                )
                .with_hint(format!("Only \"{wanted}\" is."))
            }),
        Kind::Int(least, most) => {
            let number: i64 = value.parse().map_err(|_| invalid())?;
            (least..=most).contains(&number).then(|| number.to_string()).ok_or_else(invalid)
        }
        Kind::Zone => {
            Zone::of_setting(value).map(|zone| zone.name().to_string()).ok_or_else(invalid)
        }
        Kind::Millis => millis(value).map(spelled_millis).ok_or_else(|| {
            invalid().with_hint("Units are \"us\", \"ms\", \"s\", \"min\", \"h\" and \"d\".")
        }),
    }
}

/// Spellings of the only value are shown as that value.
fn shown(known: &Known, values: &[&str], allowed: &str) -> String {
    match known.name {
        "transaction_isolation" | "default_transaction_isolation" => allowed.to_string(),
        _ => values[0].to_string(),
    }
}

/// A span with a unit, rounded to milliseconds; without one it is milliseconds.
fn millis(value: &str) -> Option<u64> {
    let digits = value.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(value.len());
    let number: f64 = value[..digits].parse().ok()?;
    let unit = value[digits..].trim();
    let factor = match unit {
        "us" => 0.001,
        "" => 1.0,
        _ => MILLIS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor as f64)?,
    };
    let millis = (number * factor).round();
    (millis <= f64::from(i32::MAX)).then_some(millis as u64)
}

/// Units of spans, the longest first, in milliseconds.
const MILLIS: &[(&str, u64)] =
    &[("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)];

/// In the longest unit of which it is a whole number, as PostgreSQL shows it.
fn spelled_millis(millis: u64) -> String {
    match MILLIS.iter().find(|(_, factor)| millis.is_multiple_of(*factor)) {
        Some((unit, factor)) if millis > 0 => format!("{}{unit}", millis / factor),
        _ => millis.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> SessionSettings {
        SessionSettings::new("u", Duration::from_millis(250))
    }

    #[test]
    fn a_name_is_cut_off_and_a_longer_text_refused() {
        let mut s = settings();
        s.set("application_name", Some(&"ä".repeat(40)), false, false).unwrap();
        assert_eq!(s.application_name(), "ä".repeat(31));
        let long = "x".repeat(TEXT_BYTES_MAX + 1);
        let error = s.set("search_path", Some(&long), false, false).unwrap_err();
        assert_eq!(error.sqlstate, SqlState::INVALID_PARAMETER_VALUE);
        s.set("search_path", Some(&long[1..]), false, false).unwrap();
    }

    #[test]
    fn a_rollback_undoes_set_and_a_commit_only_set_local() {
        let mut s = settings();
        s.set("application_name", Some("a"), false, true).unwrap();
        s.set("extra_float_digits", Some("3"), true, true).unwrap();
        s.transaction_ended(true);
        assert_eq!(s.get("application_name").unwrap(), "a");
        assert_eq!(s.get("extra_float_digits").unwrap(), "1");
        s.set("application_name", Some("b"), false, true).unwrap();
        s.transaction_ended(false);
        assert_eq!(s.get("application_name").unwrap(), "a");
    }

    #[test]
    fn what_would_change_nothing_is_refused() {
        let mut s = settings();
        let state = |r: Result<(), SqlError>| r.unwrap_err().sqlstate;
        let refused = SqlState::FEATURE_NOT_SUPPORTED;
        assert_eq!(state(s.set("standard_conforming_strings", Some("off"), false, false)), refused);
        let chaos = s.set("default_transaction_isolation", Some("chaos"), false, false);
        assert_eq!(state(chaos), SqlState::INVALID_PARAMETER_VALUE);
        assert_eq!(state(s.set("nonsense", Some("1"), false, false)), SqlState::UNDEFINED_OBJECT);
        let fixed = s.set("server_version", Some("16"), false, false);
        assert_eq!(state(fixed), SqlState::CANT_CHANGE_RUNTIME_PARAM);
        let of_node = s.set("max_clock_offset", Some("1s"), false, false);
        assert_eq!(state(of_node), SqlState::CANT_CHANGE_RUNTIME_PARAM);
        s.reset_all(false);
        assert_eq!(s.get("max_clock_offset").unwrap(), "250ms");
    }

    #[test]
    fn a_time_zone_is_found_by_name_and_goes_with_its_transaction() {
        let mut s = settings();
        let wrong = s.set("TimeZone", Some("Nowhere/Nothing"), false, false).unwrap_err();
        assert_eq!(wrong.sqlstate, SqlState::INVALID_PARAMETER_VALUE);
        s.set("timezone", Some("europe/berlin"), false, false).unwrap();
        assert_eq!(s.get("TimeZone").unwrap(), "Europe/Berlin");
        assert_eq!(s.time_zone().name(), "Europe/Berlin");
        s.set("timezone", Some("Asia/Tokyo"), true, true).unwrap();
        assert_eq!(s.time_zone().name(), "Asia/Tokyo");
        s.transaction_ended(true);
        assert_eq!(s.time_zone().name(), "Europe/Berlin");
        s.reset_all(false);
        assert!(s.time_zone().is_utc());
    }

    #[test]
    fn timeouts_take_units() {
        let mut s = settings();
        for (given, shown, millis) in [
            ("2s", "2s", 2_000),
            ("0.5s", "500ms", 500),
            ("90000", "90s", 90_000),
            ("1500us", "2ms", 2),
            ("2147483647", "2147483647ms", 2_147_483_647),
        ] {
            s.set("statement_timeout", Some(given), false, false).unwrap();
            assert_eq!(s.get("statement_timeout").unwrap(), shown);
            assert_eq!(s.statement_timeout(), Some(Duration::from_millis(millis)));
        }
        for wrong in ["2147483648", "-1", "1 fortnight", "", "."] {
            let state = s.set("lock_timeout", Some(wrong), false, false).unwrap_err().sqlstate;
            assert_eq!(state, SqlState::INVALID_PARAMETER_VALUE, "{wrong}");
        }
        s.set("statement_timeout", Some("0"), false, false).unwrap();
        assert_eq!(s.get("statement_timeout").unwrap(), "0");
        assert_eq!(s.statement_timeout(), None);
        s.set("statement_timeout", None, false, false).unwrap();
        assert_eq!(s.statement_timeout(), None);
    }

    #[test]
    fn reported_settings_are_told_once_when_they_change() {
        let mut s = settings();
        assert!(s.reported().contains(&("session_authorization", String::from("u"))));
        s.set("application_name", Some("x"), false, false).unwrap();
        let told = (String::from("application_name"), String::from("x"));
        assert_eq!(s.take_changes(), [told]);
        assert!(s.take_changes().is_empty());
    }

    #[test]
    fn the_table_is_sorted_and_names_are_unique() {
        let names: Vec<String> = TABLE.iter().map(|k| k.name.to_ascii_lowercase()).collect();
        assert!(names.is_sorted());
        assert!(names.windows(2).all(|w| w[0] != w[1]));
    }
}
