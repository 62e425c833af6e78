//! OrderStatus (clause 2.6): a customer asks about the latest order.

use super::{Draw, Who, get, middle};
use crate::db::{Conn, TxError};
use crate::error::BenchError;
use crate::runner::Ending;
use tokio_postgres::Statement;
use tokio_postgres::types::Type;

/// Who asks.
#[derive(Clone, Debug)]
pub struct Input {
    warehouse: i32,
    district: i32,
    who: Who,
}

/// Draws a customer.
pub fn input(draw: &mut Draw<'_>) -> Input {
    Input { warehouse: draw.warehouse, district: draw.district(), who: draw.who() }
}

/// Prepared statements.
pub struct Statements {
    by_id: Statement,
    by_name: Statement,
    order: Statement,
    lines: Statement,
}

impl Statements {
    /// Prepares them.
    pub async fn prepare(conn: &Conn) -> Result<Self, BenchError> {
        const INT: Type = Type::INT4;
        Ok(Self {
            by_id: conn
                .prepare(
                    "SELECT c_id, c_balance, c_first, c_middle, c_last FROM customer \
                     WHERE c_w_id = $1 AND c_d_id = $2 AND c_id = $3",
                    &[INT, INT, INT],
                )
                .await?,
            by_name: conn
                .prepare(
                    "SELECT c_id, c_balance, c_first, c_middle, c_last FROM customer \
                     WHERE c_w_id = $1 AND c_d_id = $2 AND c_last = $3 ORDER BY c_first",
                    &[INT, INT, Type::VARCHAR],
                )
                .await?,
            order: conn
                .prepare(
                    "SELECT o_id, o_entry_d, o_carrier_id FROM orders \
                     WHERE o_w_id = $1 AND o_d_id = $2 AND o_c_id = $3 \
                     ORDER BY o_id DESC LIMIT 1",
                    &[INT, INT, INT],
                )
                .await?,
            lines: conn
                .prepare(
                    "SELECT ol_i_id, ol_supply_w_id, ol_quantity, ol_amount, ol_delivery_d \
                     FROM order_line WHERE ol_w_id = $1 AND ol_d_id = $2 AND ol_o_id = $3",
                    &[INT, INT, INT],
                )
                .await?,
        })
    }
}

/// Carries it out.
pub async fn execute(conn: &Conn, sql: &Statements, input: &Input) -> Result<Ending, TxError> {
    let Input { warehouse, district, who } = input;
    conn.begin().await?;
    let row = match who {
        Who::Id(customer) => {
            conn.one("customer", &sql.by_id, &[warehouse, district, customer]).await?
        }
        Who::LastName(name) => {
            let found = conn.rows(&sql.by_name, &[warehouse, district, name]).await?;
            middle(found)
                .ok_or_else(|| TxError::Missing(format!("no customer is called {name}")))?
        }
    };
    let customer: i32 = get(&row, 0)?;
    let row = conn.one("order", &sql.order, &[warehouse, district, &customer]).await?;
    let order: i32 = get(&row, 0)?;
    let lines = conn.rows(&sql.lines, &[warehouse, district, &order]).await?;
    if lines.is_empty() {
        return Err(TxError::Missing(format!("order {order} has no lines")));
    }
    conn.commit().await?;
    Ok(Ending::Committed)
}
