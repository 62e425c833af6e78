//! NewOrder (clause 2.4): a customer orders five to fifteen items.

use super::{Draw, get};
use crate::db::{Conn, TxError};
use crate::decimal::Decimal;
use crate::error::BenchError;
use crate::runner::Ending;
use crate::runtime::wall_clock;
use crate::tpcc::load::placeholders;
use crate::tpcc::random::percent;
use crate::tpcc::schema::{DISTRICTS, NEW_ORDER, ORDER_LINE, ORDERS};
use rand::Rng;
use std::ops::RangeInclusive;
use tokio_postgres::Statement;
use tokio_postgres::types::{ToSql, Type};

/// Lines of an order.
const LINES: RangeInclusive<usize> = 5..=15;
/// Lines supplied by another warehouse, in percent.
const REMOTE_PERCENT: u32 = 1;
/// Orders with an item that does not exist, in percent: they roll back.
const ROLLBACK_PERCENT: u32 = 1;

/// One line.
#[derive(Clone, Debug)]
pub struct Line {
    item: i32,
    supply_warehouse: i32,
    quantity: i32,
}

/// What is ordered.
#[derive(Clone, Debug)]
pub struct Input {
    warehouse: i32,
    district: i32,
    customer: i32,
    lines: Vec<Line>,
}

/// Draws an order. Lines are in the order of their items, so that two orders lock stock in the
/// same order and do not deadlock; an item that does not exist comes last, as the standard says.
pub fn input(draw: &mut Draw<'_>) -> Input {
    let district = draw.district();
    let customer = draw.nurand.customer(draw.rng, draw.scale.customers);
    let count = draw.rng.random_range(LINES);
    let mut lines: Vec<Line> = (0..count)
        .map(|_| Line {
            item: draw.nurand.item(draw.rng, draw.scale.items),
            supply_warehouse: if percent(draw.rng, REMOTE_PERCENT) {
                draw.other_warehouse()
            } else {
                draw.warehouse
            },
            quantity: draw.rng.random_range(1..=10),
        })
        .collect();
    lines.sort_by_key(|line| (line.item, line.supply_warehouse));
    if percent(draw.rng, ROLLBACK_PERCENT)
        && let Some(last) = lines.last_mut()
    {
        last.item = draw.scale.items + 1;
    }
    Input { warehouse: draw.warehouse, district, customer, lines }
}

/// Prepared statements.
pub struct Statements {
    warehouse: Statement,
    customer: Statement,
    district: Statement,
    order: Statement,
    new_order: Statement,
    item: Statement,
    /// By district: each has a column of its own.
    stock: Vec<Statement>,
    /// By number of lines, from the smallest.
    lines: Vec<Statement>,
}

impl Statements {
    /// Prepares them.
    pub async fn prepare(conn: &Conn) -> Result<Self, BenchError> {
        const INT: Type = Type::INT4;
        let mut stock = Vec::new();
        for district in 1..=DISTRICTS {
            let sql = format!(
                "UPDATE stock SET s_quantity = CASE WHEN s_quantity - $1 >= 10 \
                 THEN s_quantity - $1 ELSE s_quantity - $1 + 91 END, s_ytd = s_ytd + $1, \
                 s_order_cnt = s_order_cnt + 1, s_remote_cnt = s_remote_cnt + $2 \
                 WHERE s_w_id = $3 AND s_i_id = $4 \
                 RETURNING s_quantity, s_dist_{district:02}, s_data"
            );
            stock.push(conn.prepare(&sql, &[INT, INT, INT, INT]).await?);
        }
        let mut lines = Vec::new();
        for count in LINES {
            let sql = placeholders(&ORDER_LINE, count);
            lines.push(conn.prepare(&sql, &ORDER_LINE.types(count)).await?);
        }
        Ok(Self {
            warehouse: conn.prepare("SELECT w_tax FROM warehouse WHERE w_id = $1", &[INT]).await?,
            customer: conn
                .prepare(
                    "SELECT c_discount, c_last, c_credit FROM customer \
                     WHERE c_w_id = $1 AND c_d_id = $2 AND c_id = $3",
                    &[INT, INT, INT],
                )
                .await?,
            district: conn
                .prepare(
                    "UPDATE district SET d_next_o_id = d_next_o_id + 1 \
                     WHERE d_w_id = $1 AND d_id = $2 RETURNING d_next_o_id, d_tax",
                    &[INT, INT],
                )
                .await?,
            order: conn.prepare(&placeholders(&ORDERS, 1), &ORDERS.types(1)).await?,
            new_order: conn.prepare(&placeholders(&NEW_ORDER, 1), &NEW_ORDER.types(1)).await?,
            item: conn
                .prepare("SELECT i_price, i_name, i_data FROM item WHERE i_id = $1", &[INT])
                .await?,
            stock,
            lines,
        })
    }
}

/// Carries it out.
pub async fn execute(conn: &Conn, sql: &Statements, input: &Input) -> Result<Ending, TxError> {
    let Input { warehouse, district, customer, lines } = input;
    conn.begin().await?;
    let row = conn.one("warehouse", &sql.warehouse, &[warehouse]).await?;
    let _warehouse_tax: Decimal = get(&row, 0)?;
    let row = conn.one("customer", &sql.customer, &[warehouse, district, customer]).await?;
    let _discount: Decimal = get(&row, 0)?;
    let row = conn.one("district", &sql.district, &[warehouse, district]).await?;
    let order = get::<i32>(&row, 0)? - 1;
    let line_count = i32::try_from(lines.len()).unwrap_or(i32::MAX);
    let all_local = i32::from(lines.iter().all(|line| line.supply_warehouse == *warehouse));
    let now = wall_clock();
    let no_carrier: Option<i32> = None;
    let params: [&(dyn ToSql + Sync); 8] =
        [warehouse, district, &order, customer, &now, &no_carrier, &line_count, &all_local];
    conn.run(&sql.order, &params).await?;
    conn.run(&sql.new_order, &[warehouse, district, &order]).await?;
    let Some(filled) = fill(conn, sql, input).await? else {
        conn.rollback().await?;
        return Ok(Ending::RolledBack);
    };
    insert_lines(conn, sql, input, order, &filled).await?;
    conn.commit().await?;
    Ok(Ending::Committed)
}

/// What a line becomes: its amount and the district's information about the stock.
struct Filled {
    amount: Decimal,
    dist_info: String,
}

/// Takes each line's quantity from the stock; `None` if an item does not exist.
async fn fill(
    conn: &Conn,
    sql: &Statements,
    input: &Input,
) -> Result<Option<Vec<Filled>>, TxError> {
    let column = usize::try_from(input.district - 1).unwrap_or(0);
    let mut filled = Vec::with_capacity(input.lines.len());
    for line in &input.lines {
        let Some(row) = conn.first(&sql.item, &[&line.item]).await? else {
            return Ok(None);
        };
        let price: Decimal = get(&row, 0)?;
        let price = price
            .units(2)
            .ok_or_else(|| TxError::Missing(format!("price of item {} in cents", line.item)))?;
        let remote = i32::from(line.supply_warehouse != input.warehouse);
        let row = conn
            .one(
                "stock",
                &sql.stock[column],
                &[&line.quantity, &remote, &line.supply_warehouse, &line.item],
            )
            .await?;
        filled.push(Filled {
            amount: Decimal::cents(price * i64::from(line.quantity)),
            dist_info: get(&row, 1)?,
        });
    }
    Ok(Some(filled))
}

async fn insert_lines(
    conn: &Conn,
    sql: &Statements,
    input: &Input,
    order: i32,
    filled: &[Filled],
) -> Result<(), TxError> {
    let numbers: Vec<i32> = (1..).take(filled.len()).collect();
    let not_delivered: Option<std::time::SystemTime> = None;
    let mut params: Vec<&(dyn ToSql + Sync)> = Vec::new();
    for ((line, filled), number) in input.lines.iter().zip(filled).zip(&numbers) {
        params.extend([&input.warehouse as &(dyn ToSql + Sync), &input.district, &order, number]);
        params.extend([&line.item as &(dyn ToSql + Sync), &line.supply_warehouse]);
        params.extend([&not_delivered as &(dyn ToSql + Sync), &line.quantity]);
        params.extend([&filled.amount as &(dyn ToSql + Sync), &filled.dist_info]);
    }
    conn.run(&sql.lines[filled.len() - LINES.start()], &params).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tpcc::Scale;
    use crate::tpcc::random::NuRand;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn one_order_in_a_hundred_rolls_back_and_one_line_in_a_hundred_is_remote() {
        let mut rng = StdRng::seed_from_u64(11);
        let scale = Scale { warehouses: 3, items: 100_000, customers: 3_000 };
        let nurand = NuRand::for_run(&mut rng);
        let mut draw = Draw { scale: &scale, nurand: &nurand, warehouse: 2, rng: &mut rng };
        let orders: Vec<Input> = (0..20_000).map(|_| input(&mut draw)).collect();
        let unused = |order: &&Input| order.lines.iter().any(|line| line.item == 100_001);
        let rolled_back = orders.iter().filter(unused).count();
        assert!((130..270).contains(&rolled_back), "{rolled_back}");
        let lines: Vec<&Line> = orders.iter().flat_map(|order| &order.lines).collect();
        let remote = lines.iter().filter(|line| line.supply_warehouse != 2).count();
        let share = remote as f64 / lines.len() as f64;
        assert!((0.008..0.012).contains(&share), "{share}");
        assert!(orders.iter().all(|order| LINES.contains(&order.lines.len())));
    }
}
