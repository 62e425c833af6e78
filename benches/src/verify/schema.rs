//! The tables of a verification, and the mark that says whose they are.
//!
//! The marked table is the first to be dropped, and nobody makes one with another's mark: whoever
//! reads his own still has all the tables he made.

use tokio_postgres::{Client, Config};

use super::bank::{ACCOUNTS, BALANCE_INITIAL};
use super::clients::SLOTS;
use super::lists::KEYS_PER_SLOT;
use super::session::{Attempt, Failure, Link};
use super::{VerifyArgs, bank};
use crate::db::connect;
use crate::error::{BenchError, explain};

/// Which run the tables were made for.
pub const RUN: &str = "quorate_verify_run";
/// The lists.
pub const LISTS: &str = "quorate_verify_lists";
/// Their columns.
pub const LISTS_COLUMNS: &str = "id bigint PRIMARY KEY, items text NOT NULL";
/// The bank's accounts.
pub const ACCOUNTS_TABLE: &str = "quorate_verify_accounts";
/// Its ledger.
pub const LEDGER: &str = "quorate_verify_ledger";

/// In the order in which they are dropped and made.
const TABLES: [(&str, &str); 4] = [
    (RUN, "id bigint PRIMARY KEY, run text NOT NULL"),
    (LISTS, LISTS_COLUMNS),
    (ACCOUNTS_TABLE, "id bigint PRIMARY KEY, balance bigint NOT NULL"),
    (
        LEDGER,
        "id bigint PRIMARY KEY, payer bigint NOT NULL, payee bigint NOT NULL, \
         amount bigint NOT NULL",
    ),
];
/// What a server says of a table that is not there.
pub const CODE_NO_TABLE: &str = "42P01";
/// What it says of tables and rows that are there, or no longer, only if somebody else makes or
/// drops these tables, too.
const CODES_NOT_ALONE: [&str; 3] = [CODE_NO_TABLE, "42P07", "23505"];

/// Makes the tables for the run with this mark, through the first server that answers; whether it
/// is Quorate.
pub async fn prepare(
    servers: &[Config],
    args: &VerifyArgs,
    mark: &str,
) -> Result<bool, BenchError> {
    let mut failure = BenchError::Usage("no --url given".to_owned());
    for server in servers {
        match connect(server).await {
            Ok(client) => return make(&client, args, mark).await,
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn make(client: &Client, args: &VerifyArgs, mark: &str) -> Result<bool, BenchError> {
    // A setting of its own tells it from PostgreSQL.
    let is_quorate = client.simple_query("SHOW quorate.repeat_statements").await.is_ok();
    for (table, _) in TABLES {
        if args.reset {
            execute(client, &format!("DROP TABLE IF EXISTS {table}")).await?;
        } else if exists(client, table).await? {
            return Err(BenchError::Usage(format!(
                "the table {table} is there already, of an earlier run: --reset drops it"
            )));
        }
    }
    for (table, columns) in TABLES {
        execute(client, &format!("CREATE TABLE {table} ({columns})")).await?;
        if table == RUN {
            // At once, so that it is never unclear whose the others are.
            execute(client, &format!("INSERT INTO {RUN} VALUES (1, '{mark}')")).await?;
        }
    }
    let rows: Vec<String> = (0..ACCOUNTS).map(|id| format!("({id}, {BALANCE_INITIAL})")).collect();
    execute(client, &format!("INSERT INTO {ACCOUNTS_TABLE} VALUES {}", rows.join(", "))).await?;
    if args.split && is_quorate {
        for sql in splits() {
            execute(client, &sql).await?;
        }
    }
    Ok(is_quorate)
}

/// The statements that cut each table into four ranges.
fn splits() -> Vec<String> {
    let cut = |table: &str, at: &dyn Fn(i64) -> i64| {
        let places: Vec<String> = (1..4).map(|part| format!("({})", at(part))).collect();
        format!("ALTER TABLE {table} SPLIT AT VALUES {}", places.join(", "))
    };
    vec![
        cut(LISTS, &|part| part * SLOTS as i64 / 4 * KEYS_PER_SLOT),
        cut(ACCOUNTS_TABLE, &|part| part * ACCOUNTS / 4),
        cut(LEDGER, &|part| part * bank::NUMBERS_PER_CLIENT),
    ]
}

async fn exists(client: &Client, table: &str) -> Result<bool, BenchError> {
    match client.simple_query(&format!("SELECT 1 FROM {table} LIMIT 1")).await {
        Ok(_) => Ok(true),
        Err(error) if error.code().is_some_and(|code| code.code() == CODE_NO_TABLE) => Ok(false),
        Err(error) => Err(BenchError::statement(format!("looking for {table}"), &error)),
    }
}

async fn execute(client: &Client, sql: &str) -> Result<(), BenchError> {
    let done = client.batch_execute(sql).await;
    done.map_err(|error| match error.code() {
        Some(code) if CODES_NOT_ALONE.contains(&code.code()) => BenchError::Usage(format!(
            "somebody else makes or drops the tables of verify at the same time: {sql}: {}",
            explain(&error)
        )),
        _ => BenchError::statement(sql, &error),
    })
}

/// The mark of the run that the tables were made for, if one is there.
///
/// # Errors
/// Why it could not be read.
pub async fn read_mark(link: &mut impl Link) -> Result<Option<String>, Failure> {
    let (rows, _) = link.run(&format!("SELECT run FROM {RUN} WHERE id = 1")).await?;
    Ok(rows.into_iter().flatten().next())
}

/// A look at whether all tables are there, and whose they are. In statements outside of a block: in
/// a block Quorate goes by the catalog that its gateway knew when it began, and a gateway that was
/// cut off may not know new tables; outside it looks for them.
#[derive(Default)]
pub struct Look {
    /// The mark it found.
    pub mark: Option<String>,
}

impl Attempt for Look {
    async fn send(&mut self, link: &mut impl Link) -> Result<(), Failure> {
        for (table, _) in TABLES {
            link.run(&format!("SELECT id FROM {table} LIMIT 1")).await?;
        }
        self.mark = read_mark(link).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::session::Rows;
    use super::*;

    #[test]
    fn every_table_is_cut_between_rows_in_use() {
        let splits = splits();
        // The mark is one row.
        assert_eq!(splits.len(), TABLES.len() - 1);
        assert_eq!(
            splits[1],
            "ALTER TABLE quorate_verify_accounts SPLIT AT VALUES (5), (10), (15)"
        );
    }

    /// Answers as a server whose tables have this mark, or without one of them.
    struct Server {
        mark: &'static str,
        missing: &'static str,
    }

    impl Link for Server {
        fn commits(&mut self) {}

        async fn run(&mut self, sql: &str) -> Result<(Rows, u64), Failure> {
            if !self.missing.is_empty() && sql.contains(self.missing) {
                return Err(Failure(Some(CODE_NO_TABLE.to_owned())));
            }
            let rows = match sql.contains("SELECT run") {
                true => vec![vec![self.mark.to_owned()]],
                false => Vec::new(),
            };
            Ok((rows, 0))
        }
    }

    #[tokio::test]
    async fn a_look_finds_the_mark_and_each_table_that_is_gone() {
        let mut look = Look::default();
        let sent = look.send(&mut Server { mark: "1-a", missing: "" }).await;
        assert!(sent.is_ok() && look.mark.as_deref() == Some("1-a"));
        for (table, _) in TABLES {
            let sent = Look::default().send(&mut Server { mark: "1-a", missing: table }).await;
            let failure = sent.expect_err("a table is gone");
            assert_eq!(failure.0.as_deref(), Some(CODE_NO_TABLE), "{table}");
        }
    }
}
