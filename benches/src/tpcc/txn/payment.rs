//! Payment (clause 2.5): a customer pays, at home or in another warehouse.

use super::{Draw, Who, get, middle};
use crate::db::{Conn, TxError};
use crate::decimal::Decimal;
use crate::error::BenchError;
use crate::runner::Ending;
use crate::runtime::wall_clock;
use crate::tpcc::load::placeholders;
use crate::tpcc::random::percent;
use crate::tpcc::schema::{DISTRICTS, HISTORY};
use rand::Rng;
use tokio_postgres::Statement;
use tokio_postgres::types::{ToSql, Type};

/// Customers who pay in another warehouse than their own, in percent.
const REMOTE_PERCENT: u32 = 15;
/// The credit of customers whose payments are noted in their data.
const BAD_CREDIT: &str = "BC";
/// Length of a customer's data.
const DATA_LENGTH_MAX: usize = 500;

/// Who pays what, and where.
#[derive(Clone, Debug)]
pub struct Input {
    warehouse: i32,
    district: i32,
    customer_warehouse: i32,
    customer_district: i32,
    who: Who,
    amount: Decimal,
}

/// Draws a payment.
pub fn input(draw: &mut Draw<'_>) -> Input {
    let district = draw.district();
    let remote = draw.scale.warehouses > 1 && percent(draw.rng, REMOTE_PERCENT);
    let (customer_warehouse, customer_district) = if remote {
        (draw.other_warehouse(), draw.rng.random_range(1..=DISTRICTS))
    } else {
        (draw.warehouse, district)
    };
    Input {
        warehouse: draw.warehouse,
        district,
        customer_warehouse,
        customer_district,
        who: draw.who(),
        amount: Decimal::cents(draw.rng.random_range(100..=500_000)),
    }
}

/// Prepared statements.
pub struct Statements {
    warehouse: Statement,
    district: Statement,
    by_name: Statement,
    customer: Statement,
    data: Statement,
    set_data: Statement,
    history: Statement,
}

impl Statements {
    /// Prepares them.
    pub async fn prepare(conn: &Conn) -> Result<Self, BenchError> {
        const INT: Type = Type::INT4;
        const NUM: Type = Type::NUMERIC;
        Ok(Self {
            warehouse: conn
                .prepare(
                    "UPDATE warehouse SET w_ytd = w_ytd + $1 WHERE w_id = $2 \
                     RETURNING w_name, w_street_1, w_street_2, w_city, w_state, w_zip",
                    &[NUM, INT],
                )
                .await?,
            district: conn
                .prepare(
                    "UPDATE district SET d_ytd = d_ytd + $1 WHERE d_w_id = $2 AND d_id = $3 \
                     RETURNING d_name, d_street_1, d_street_2, d_city, d_state, d_zip",
                    &[NUM, INT, INT],
                )
                .await?,
            by_name: conn
                .prepare(
                    "SELECT c_id FROM customer \
                     WHERE c_w_id = $1 AND c_d_id = $2 AND c_last = $3 ORDER BY c_first",
                    &[INT, INT, Type::VARCHAR],
                )
                .await?,
            customer: conn
                .prepare(
                    "UPDATE customer SET c_balance = c_balance - $1, \
                     c_ytd_payment = c_ytd_payment + $1, c_payment_cnt = c_payment_cnt + 1 \
                     WHERE c_w_id = $2 AND c_d_id = $3 AND c_id = $4 \
                     RETURNING c_credit, c_first, c_middle, c_last, c_street_1, c_street_2, \
                     c_city, c_state, c_zip, c_phone, c_since, c_credit_lim, c_discount, c_balance",
                    &[NUM, INT, INT, INT],
                )
                .await?,
            data: conn
                .prepare(
                    "SELECT c_data FROM customer WHERE c_w_id = $1 AND c_d_id = $2 AND c_id = $3",
                    &[INT, INT, INT],
                )
                .await?,
            set_data: conn
                .prepare(
                    "UPDATE customer SET c_data = $1 \
                     WHERE c_w_id = $2 AND c_d_id = $3 AND c_id = $4",
                    &[Type::VARCHAR, INT, INT, INT],
                )
                .await?,
            history: conn.prepare(&placeholders(&HISTORY, 1), &HISTORY.types(1)).await?,
        })
    }
}

/// Carries it out.
pub async fn execute(conn: &Conn, sql: &Statements, input: &Input) -> Result<Ending, TxError> {
    let Input { warehouse, district, amount, .. } = input;
    let (c_warehouse, c_district) = (&input.customer_warehouse, &input.customer_district);
    conn.begin().await?;
    let row = conn.one("warehouse", &sql.warehouse, &[amount, warehouse]).await?;
    let warehouse_name: String = get(&row, 0)?;
    let row = conn.one("district", &sql.district, &[amount, warehouse, district]).await?;
    let district_name: String = get(&row, 0)?;
    let customer = &match &input.who {
        Who::Id(customer) => *customer,
        Who::LastName(name) => {
            let found = conn.rows(&sql.by_name, &[c_warehouse, c_district, name]).await?;
            let row = middle(found)
                .ok_or_else(|| TxError::Missing(format!("no customer is called {name}")))?;
            get(&row, 0)?
        }
    };
    let params: [&(dyn ToSql + Sync); 4] = [amount, c_warehouse, c_district, customer];
    let row = conn.one("customer", &sql.customer, &params).await?;
    if get::<&str>(&row, 0)? == BAD_CREDIT {
        let row = conn.one("customer", &sql.data, &[c_warehouse, c_district, customer]).await?;
        let old: &str = get(&row, 0)?;
        let mut data =
            format!("{customer} {c_district} {c_warehouse} {district} {warehouse} {amount} {old}");
        data.truncate(DATA_LENGTH_MAX);
        let params: [&(dyn ToSql + Sync); 4] = [&data, c_warehouse, c_district, customer];
        conn.run(&sql.set_data, &params).await?;
    }
    let note = format!("{warehouse_name}    {district_name}");
    let now = wall_clock();
    let params: [&(dyn ToSql + Sync); 8] =
        [customer, c_district, c_warehouse, district, warehouse, &now, amount, &note];
    conn.run(&sql.history, &params).await?;
    conn.commit().await?;
    Ok(Ending::Committed)
}
