//! StockLevel (clause 2.8): how many items of the latest twenty orders are running out.

use super::{Draw, get};
use crate::db::{Conn, TxError};
use crate::error::BenchError;
use crate::runner::Ending;
use rand::Rng;
use tokio_postgres::Statement;
use tokio_postgres::types::Type;

/// How many of the latest orders are looked at.
const ORDERS: i32 = 20;

/// Where, and what counts as running out.
#[derive(Clone, Debug)]
pub struct Input {
    warehouse: i32,
    district: i32,
    threshold: i32,
}

/// Draws a threshold for the terminal's own district.
pub fn input(draw: &mut Draw<'_>, district: i32) -> Input {
    Input { warehouse: draw.warehouse, district, threshold: draw.rng.random_range(10..=20) }
}

/// Prepared statements.
pub struct Statements {
    district: Statement,
    count: Statement,
}

impl Statements {
    /// Prepares them.
    pub async fn prepare(conn: &Conn) -> Result<Self, BenchError> {
        const INT: Type = Type::INT4;
        Ok(Self {
            district: conn
                .prepare(
                    "SELECT d_next_o_id FROM district WHERE d_w_id = $1 AND d_id = $2",
                    &[INT, INT],
                )
                .await?,
            count: conn
                .prepare(
                    "SELECT count(DISTINCT s_i_id) FROM order_line \
                     JOIN stock ON s_w_id = $1 AND s_i_id = ol_i_id \
                     WHERE ol_w_id = $1 AND ol_d_id = $2 AND ol_o_id >= $3 AND ol_o_id < $4 \
                     AND s_quantity < $5",
                    &[INT, INT, INT, INT, INT],
                )
                .await?,
        })
    }
}

/// Carries it out.
pub async fn execute(conn: &Conn, sql: &Statements, input: &Input) -> Result<Ending, TxError> {
    let Input { warehouse, district, threshold } = input;
    conn.begin().await?;
    let row = conn.one("district", &sql.district, &[warehouse, district]).await?;
    let next: i32 = get(&row, 0)?;
    let oldest = next - ORDERS;
    let params = [warehouse, district, &oldest, &next, threshold].map(|value| value as _);
    let row = conn.one("count", &sql.count, &params).await?;
    let _running_out: i64 = get(&row, 0)?;
    conn.commit().await?;
    Ok(Ending::Committed)
}
