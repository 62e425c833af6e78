//! Delivery (clause 2.7): the oldest waiting order of each district is delivered.

use super::{Draw, get};
use crate::db::{Conn, TxError};
use crate::decimal::Decimal;
use crate::error::BenchError;
use crate::runner::Ending;
use crate::runtime::wall_clock;
use crate::tpcc::schema::DISTRICTS;
use rand::Rng;
use tokio_postgres::Statement;
use tokio_postgres::types::Type;

/// Which warehouse delivers, and by whom.
#[derive(Clone, Debug)]
pub struct Input {
    warehouse: i32,
    carrier: i32,
}

/// Draws a carrier.
pub fn input(draw: &mut Draw<'_>) -> Input {
    Input { warehouse: draw.warehouse, carrier: draw.rng.random_range(1..=10) }
}

/// Prepared statements.
pub struct Statements {
    oldest: Statement,
    delete: Statement,
    order: Statement,
    lines: Statement,
    customer: Statement,
}

impl Statements {
    /// Prepares them.
    pub async fn prepare(conn: &Conn) -> Result<Self, BenchError> {
        const INT: Type = Type::INT4;
        Ok(Self {
            oldest: conn
                .prepare(
                    "SELECT no_o_id FROM new_order WHERE no_w_id = $1 AND no_d_id = $2 \
                     ORDER BY no_o_id LIMIT 1 FOR UPDATE",
                    &[INT, INT],
                )
                .await?,
            delete: conn
                .prepare(
                    "DELETE FROM new_order WHERE no_w_id = $1 AND no_d_id = $2 AND no_o_id = $3",
                    &[INT, INT, INT],
                )
                .await?,
            order: conn
                .prepare(
                    "UPDATE orders SET o_carrier_id = $1 \
                     WHERE o_w_id = $2 AND o_d_id = $3 AND o_id = $4 RETURNING o_c_id",
                    &[INT, INT, INT, INT],
                )
                .await?,
            lines: conn
                .prepare(
                    "UPDATE order_line SET ol_delivery_d = $1 \
                     WHERE ol_w_id = $2 AND ol_d_id = $3 AND ol_o_id = $4 RETURNING ol_amount",
                    &[Type::TIMESTAMP, INT, INT, INT],
                )
                .await?,
            customer: conn
                .prepare(
                    "UPDATE customer SET c_balance = c_balance + $1, \
                     c_delivery_cnt = c_delivery_cnt + 1 \
                     WHERE c_w_id = $2 AND c_d_id = $3 AND c_id = $4",
                    &[Type::NUMERIC, INT, INT, INT],
                )
                .await?,
        })
    }
}

/// Carries it out.
pub async fn execute(conn: &Conn, sql: &Statements, input: &Input) -> Result<Ending, TxError> {
    conn.begin().await?;
    for district in 1..=DISTRICTS {
        deliver(conn, sql, input, district).await?;
    }
    conn.commit().await?;
    Ok(Ending::Committed)
}

/// Delivers the oldest order of a district, if one is waiting.
async fn deliver(
    conn: &Conn,
    sql: &Statements,
    input: &Input,
    district: i32,
) -> Result<(), TxError> {
    let Input { warehouse, carrier } = input;
    let Some(row) = conn.first(&sql.oldest, &[warehouse, &district]).await? else {
        return Ok(());
    };
    let order: i32 = get(&row, 0)?;
    if conn.run(&sql.delete, &[warehouse, &district, &order]).await? == 0 {
        // READ COMMITTED: another delivery was faster; going on would deliver the order twice.
        return Err(TxError::Overtaken);
    }
    let params = [carrier, warehouse, &district, &order].map(|value| value as _);
    let row = conn.one("order", &sql.order, &params).await?;
    let customer: i32 = get(&row, 0)?;
    let now = wall_clock();
    let rows = conn.rows(&sql.lines, &[&now, warehouse, &district, &order]).await?;
    let mut owed = 0_i64;
    for row in &rows {
        let amount: Decimal = get(row, 0)?;
        let cents = amount.units(2);
        owed += cents.ok_or_else(|| TxError::Missing(format!("{amount} in cents")))?;
    }
    let owed = Decimal::cents(owed);
    let touched = conn.run(&sql.customer, &[&owed, warehouse, &district, &customer]).await?;
    if touched != 1 {
        return Err(TxError::Missing(format!("customer {customer} of order {order}")));
    }
    Ok(())
}
