//! TPC-C as a workload: the mix, each terminal's home, and the think times (clause 5.2).

use super::Scale;
use super::random::NuRand;
use super::schema::DISTRICTS;
use super::txn::{Draw, delivery, new_order, order_status, payment, stock_level};
use crate::db::{Conn, TxError};
use crate::error::BenchError;
use crate::runner::{Ending, Kind, Workload};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use std::time::Duration;

const fn kind(name: &'static str, keying_s: u64, think_s: u64) -> Kind {
    let (keying, think_mean) = (Duration::from_secs(keying_s), Duration::from_secs(think_s));
    Kind { name, keying, think_mean }
}

/// The kinds, with keying and think times of clause 5.2.5.7.
pub const KINDS: [Kind; 5] = [
    kind("NewOrder", 18, 12),
    kind("Payment", 3, 12),
    kind("OrderStatus", 2, 10),
    kind("Delivery", 2, 5),
    kind("StockLevel", 2, 5),
];

/// Cards of each kind in a deck of a hundred (clause 5.2.3).
const CARDS: [usize; 5] = [45, 43, 4, 4, 4];
const _: () = assert!(CARDS[0] + CARDS[1] + CARDS[2] + CARDS[3] + CARDS[4] == 100);

/// TPC-C on data of a certain size.
pub struct Tpcc {
    /// The size.
    pub scale: Scale,
    /// The run's constants of the non-uniform distribution.
    pub nurand: NuRand,
}

/// A session's prepared statements.
pub struct Statements {
    new_order: new_order::Statements,
    payment: payment::Statements,
    order_status: order_status::Statements,
    delivery: delivery::Statements,
    stock_level: stock_level::Statements,
}

/// A terminal's home and its deck of cards.
pub struct Terminal {
    warehouse: i32,
    district: i32,
    deck: Vec<usize>,
}

/// One transaction's input.
pub enum Input {
    /// NewOrder
    NewOrder(new_order::Input),
    /// Payment
    Payment(payment::Input),
    /// OrderStatus
    OrderStatus(order_status::Input),
    /// Delivery
    Delivery(delivery::Input),
    /// StockLevel
    StockLevel(stock_level::Input),
}

impl Terminal {
    fn draw_card(&mut self, rng: &mut StdRng) -> usize {
        if self.deck.is_empty() {
            let cards = CARDS.iter().enumerate();
            self.deck = cards.flat_map(|(kind, count)| vec![kind; *count]).collect();
            self.deck.shuffle(rng);
        }
        self.deck.pop().unwrap_or(0)
    }
}

impl Workload for Tpcc {
    type Statements = Statements;
    type Terminal = Terminal;
    type Input = Input;

    fn name(&self) -> &'static str {
        "TPC-C"
    }

    fn kinds(&self) -> &'static [Kind] {
        &KINDS
    }

    async fn prepare(&self, conn: &Conn) -> Result<Statements, BenchError> {
        Ok(Statements {
            new_order: new_order::Statements::prepare(conn).await?,
            payment: payment::Statements::prepare(conn).await?,
            order_status: order_status::Statements::prepare(conn).await?,
            delivery: delivery::Statements::prepare(conn).await?,
            stock_level: stock_level::Statements::prepare(conn).await?,
        })
    }

    fn terminal(&self, index: usize, _: &mut StdRng) -> Terminal {
        let warehouses = usize::try_from(self.scale.warehouses).unwrap_or(1).max(1);
        let home = |number: usize| i32::try_from(number).unwrap_or(0) + 1;
        let districts = usize::try_from(DISTRICTS).unwrap_or(1);
        Terminal {
            warehouse: home(index % warehouses),
            district: home(index / warehouses % districts),
            deck: Vec::new(),
        }
    }

    fn next(&self, terminal: &mut Terminal, rng: &mut StdRng) -> (usize, Input) {
        let card = terminal.draw_card(rng);
        let warehouse = terminal.warehouse;
        let mut draw = Draw { scale: &self.scale, nurand: &self.nurand, warehouse, rng };
        let input = match card {
            0 => Input::NewOrder(new_order::input(&mut draw)),
            1 => Input::Payment(payment::input(&mut draw)),
            2 => Input::OrderStatus(order_status::input(&mut draw)),
            3 => Input::Delivery(delivery::input(&mut draw)),
            _ => Input::StockLevel(stock_level::input(&mut draw, terminal.district)),
        };
        (card, input)
    }

    async fn execute(
        &self,
        conn: &Conn,
        statements: &Statements,
        input: &Input,
    ) -> Result<Ending, TxError> {
        match input {
            Input::NewOrder(input) => new_order::execute(conn, &statements.new_order, input).await,
            Input::Payment(input) => payment::execute(conn, &statements.payment, input).await,
            Input::OrderStatus(input) => {
                order_status::execute(conn, &statements.order_status, input).await
            }
            Input::Delivery(input) => delivery::execute(conn, &statements.delivery, input).await,
            Input::StockLevel(input) => {
                stock_level::execute(conn, &statements.stock_level, input).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn a_deck_holds_the_standard_mix_and_homes_cover_all_warehouses() {
        let mut rng = StdRng::seed_from_u64(2);
        let scale = Scale { warehouses: 2, items: 100_000, customers: 3_000 };
        let nurand = NuRand::for_run(&mut rng);
        let tpcc = Tpcc { scale, nurand };
        let mut terminal = tpcc.terminal(3, &mut rng);
        assert_eq!((terminal.warehouse, terminal.district), (2, 2));
        let mut counts = [0; 5];
        for _ in 0..300 {
            counts[tpcc.next(&mut terminal, &mut rng).0] += 1;
        }
        assert_eq!(counts, CARDS.map(|count| count * 3));
    }
}
