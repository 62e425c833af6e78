//! The tables of a verification.

use tokio_postgres::{Client, Config};

use super::bank::{ACCOUNTS, BALANCE_INITIAL};
use super::clients::SLOTS;
use super::lists::KEYS_PER_SLOT;
use super::{VerifyArgs, bank};
use crate::db::connect;
use crate::error::BenchError;

/// The lists.
pub const LISTS: &str = "quorate_verify_lists";
/// Their columns.
pub const LISTS_COLUMNS: &str = "id bigint PRIMARY KEY, items text NOT NULL";
/// The bank's accounts.
pub const ACCOUNTS_TABLE: &str = "quorate_verify_accounts";
/// Its ledger.
pub const LEDGER: &str = "quorate_verify_ledger";

const TABLES: [(&str, &str); 3] = [
    (LISTS, LISTS_COLUMNS),
    (ACCOUNTS_TABLE, "id bigint PRIMARY KEY, balance bigint NOT NULL"),
    (
        LEDGER,
        "id bigint PRIMARY KEY, payer bigint NOT NULL, payee bigint NOT NULL, \
         amount bigint NOT NULL",
    ),
];
/// What a server says of a table that is not there.
const CODE_NO_TABLE: &str = "42P01";

/// Makes the tables through the first server that answers; whether it is Quorate.
pub async fn prepare(servers: &[Config], args: &VerifyArgs) -> Result<bool, BenchError> {
    let mut failure = BenchError::Usage("no --url given".to_owned());
    for server in servers {
        match connect(server).await {
            Ok(client) => return make(&client, args).await,
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn make(client: &Client, args: &VerifyArgs) -> Result<bool, BenchError> {
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
    done.map_err(|error| BenchError::statement(sql, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_is_cut_between_rows_in_use() {
        let splits = splits();
        assert_eq!(splits.len(), TABLES.len());
        assert_eq!(
            splits[1],
            "ALTER TABLE quorate_verify_accounts SPLIT AT VALUES (5), (10), (15)"
        );
    }
}
