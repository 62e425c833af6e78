//! Cuts the tables into ranges by warehouse, with Quorate's `SPLIT AT`.

use super::Scale;
use super::schema::{INDEX_CUSTOMER_NAME, INDEX_ORDERS_CUSTOMER};
use crate::error::BenchError;
use tokio_postgres::Client;

/// Tables whose primary key begins with the warehouse.
const BY_WAREHOUSE: [&str; 7] =
    ["warehouse", "district", "customer", "new_order", "orders", "order_line", "stock"];

/// The statements that cut the tables: one range for each warehouse of each table and index, and
/// two for the items.
pub fn statements(scale: &Scale) -> Vec<String> {
    let cuts: Vec<String> = (1..=scale.warehouses).map(|w| format!("({w})")).collect();
    let cuts = cuts.join(", ");
    let mut statements =
        vec![format!("ALTER TABLE item SPLIT AT VALUES (1), ({})", scale.items / 2 + 1)];
    for table in BY_WAREHOUSE {
        statements.push(format!("ALTER TABLE {table} SPLIT AT VALUES {cuts}"));
    }
    for index in [INDEX_CUSTOMER_NAME, INDEX_ORDERS_CUSTOMER] {
        statements.push(format!("ALTER INDEX {index} SPLIT AT VALUES {cuts}"));
    }
    statements
}

/// Splits.
pub async fn split(client: &Client, scale: &Scale) -> Result<(), BenchError> {
    for sql in statements(scale) {
        let done = client.batch_execute(&sql).await;
        done.map_err(|error| BenchError::statement(sql, &error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_warehouse_makes_at_least_twelve_ranges() {
        let scale = Scale { warehouses: 1, items: 100_000, customers: 3_000 };
        let statements = statements(&scale);
        assert_eq!(statements[0], "ALTER TABLE item SPLIT AT VALUES (1), (50001)");
        assert_eq!(statements[1], "ALTER TABLE warehouse SPLIT AT VALUES (1)");
        let keywords = "VALUES ";
        let cuts: usize = statements
            .iter()
            .map(|sql| sql.split(keywords).nth(1).expect("has cuts").matches('(').count())
            .sum();
        assert!(cuts + 1 >= 12, "{cuts} cuts make {} ranges", cuts + 1);
    }
}
