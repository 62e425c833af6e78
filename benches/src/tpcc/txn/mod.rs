//! The five transactions: their input, their statements, and how they are carried out.

pub mod delivery;
pub mod new_order;
pub mod order_status;
pub mod payment;
pub mod stock_level;

use crate::db::TxError;
use crate::tpcc::Scale;
use crate::tpcc::random::{NuRand, percent};
use crate::tpcc::schema::DISTRICTS;
use rand::Rng;
use rand::rngs::StdRng;
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

/// Share of Payment and OrderStatus that know the customer's last name only, in percent.
const BY_NAME_PERCENT: u32 = 60;

/// What inputs are drawn from.
pub struct Draw<'a> {
    /// The size of the data.
    pub scale: &'a Scale,
    /// Constants of the non-uniform distribution.
    pub nurand: &'a NuRand,
    /// The terminal's warehouse.
    pub warehouse: i32,
    /// The terminal's generator.
    pub rng: &'a mut StdRng,
}

/// How a customer is known.
#[derive(Clone, Debug)]
pub enum Who {
    /// By number.
    Id(i32),
    /// By last name: the one in the middle, by first name.
    LastName(String),
}

impl Draw<'_> {
    fn district(&mut self) -> i32 {
        self.rng.random_range(1..=DISTRICTS)
    }

    fn who(&mut self) -> Who {
        if percent(self.rng, BY_NAME_PERCENT) {
            Who::LastName(self.nurand.last_name(self.rng, self.scale.customers))
        } else {
            Who::Id(self.nurand.customer(self.rng, self.scale.customers))
        }
    }

    /// Another warehouse than the terminal's, if there is one.
    fn other_warehouse(&mut self) -> i32 {
        if self.scale.warehouses == 1 {
            return self.warehouse;
        }
        let drawn = self.rng.random_range(1..self.scale.warehouses);
        if drawn >= self.warehouse { drawn + 1 } else { drawn }
    }
}

/// The customer in the middle of those found by last name (clause 2.5.2.2: n/2, rounded up).
fn middle(rows: Vec<Row>) -> Option<Row> {
    let position = rows.len().div_ceil(2).checked_sub(1)?;
    rows.into_iter().nth(position)
}

/// A column's value; a type other than expected is an error of the server, not of ours.
fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, TxError> {
    row.try_get(column).map_err(TxError::Db)
}
