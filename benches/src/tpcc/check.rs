//! The consistency conditions of clause 3.3.2, each as one query that counts violations.
//!
//! Condition 11 of the standard speaks of the initial data (2100 delivered orders in each
//! district); after a run its lasting form is checked: as many orders without a row in
//! `new_order` as have a carrier, and no fewer than at the beginning.

use super::Scale;
use super::load::delivered_orders;
use crate::error::BenchError;
use crate::report::CheckReport;
use tokio_postgres::{Client, SimpleQueryMessage};

/// When conditions are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Right after loading.
    Fresh,
    /// After transactions ran.
    Used,
}

/// One condition.
pub struct Condition {
    /// The clause.
    pub clause: &'static str,
    /// What must hold.
    pub name: &'static str,
    /// Counts violations.
    pub sql: String,
}

const C1: &str = "SELECT count(*) FROM warehouse \
    LEFT JOIN (SELECT d_w_id, sum(d_ytd) AS ytd FROM district GROUP BY d_w_id) d \
    ON d.d_w_id = w_id \
    WHERE d.ytd IS NULL OR w_ytd <> d.ytd";

const C2: &str = "SELECT count(*) FROM district \
    LEFT JOIN (SELECT o_w_id, o_d_id, max(o_id) AS newest FROM orders GROUP BY o_w_id, o_d_id) o \
    ON o.o_w_id = d_w_id AND o.o_d_id = d_id \
    LEFT JOIN (SELECT no_w_id, no_d_id, max(no_o_id) AS newest FROM new_order \
        GROUP BY no_w_id, no_d_id) n \
    ON n.no_w_id = d_w_id AND n.no_d_id = d_id \
    WHERE o.newest IS NULL OR d_next_o_id - 1 <> o.newest \
        OR (n.newest IS NOT NULL AND d_next_o_id - 1 <> n.newest)";

const C3: &str = "SELECT count(*) FROM (SELECT no_w_id, no_d_id, max(no_o_id) AS newest, \
        min(no_o_id) AS oldest, count(*) AS waiting FROM new_order GROUP BY no_w_id, no_d_id) n \
    WHERE n.newest - n.oldest + 1 <> n.waiting";

const C4: &str = "SELECT count(*) FROM \
    (SELECT o_w_id, o_d_id, sum(o_ol_cnt) AS lines FROM orders GROUP BY o_w_id, o_d_id) o \
    FULL JOIN (SELECT ol_w_id, ol_d_id, count(*) AS lines FROM order_line \
        GROUP BY ol_w_id, ol_d_id) l \
    ON l.ol_w_id = o.o_w_id AND l.ol_d_id = o.o_d_id \
    WHERE o.lines IS NULL OR l.lines IS NULL OR o.lines <> l.lines";

const C5: &str = "SELECT count(*) FROM orders \
    FULL JOIN new_order ON no_w_id = o_w_id AND no_d_id = o_d_id AND no_o_id = o_id \
    WHERE o_id IS NULL OR (o_carrier_id IS NULL AND no_o_id IS NULL) \
        OR (o_carrier_id IS NOT NULL AND no_o_id IS NOT NULL)";

const C6: &str = "SELECT count(*) FROM orders \
    FULL JOIN (SELECT ol_w_id, ol_d_id, ol_o_id, count(*) AS lines FROM order_line \
        GROUP BY ol_w_id, ol_d_id, ol_o_id) l \
    ON l.ol_w_id = o_w_id AND l.ol_d_id = o_d_id AND l.ol_o_id = o_id \
    WHERE o_id IS NULL OR l.lines IS NULL OR o_ol_cnt <> l.lines";

const C7: &str = "SELECT count(*) FROM order_line \
    LEFT JOIN orders ON o_w_id = ol_w_id AND o_d_id = ol_d_id AND o_id = ol_o_id \
    WHERE o_id IS NULL OR (ol_delivery_d IS NULL AND o_carrier_id IS NOT NULL) \
        OR (ol_delivery_d IS NOT NULL AND o_carrier_id IS NULL)";

const C8: &str = "SELECT count(*) FROM warehouse \
    LEFT JOIN (SELECT h_w_id, sum(h_amount) AS paid FROM history GROUP BY h_w_id) h \
    ON h.h_w_id = w_id \
    WHERE h.paid IS NULL OR w_ytd <> h.paid";

const C9: &str = "SELECT count(*) FROM district \
    LEFT JOIN (SELECT h_w_id, h_d_id, sum(h_amount) AS paid FROM history \
        GROUP BY h_w_id, h_d_id) h \
    ON h.h_w_id = d_w_id AND h.h_d_id = d_id \
    WHERE h.paid IS NULL OR d_ytd <> h.paid";

/// What each customer owes for delivered lines, for conditions 10 and 12.
const DELIVERED: &str = "(SELECT o_w_id, o_d_id, o_c_id, sum(ol_amount) AS owed FROM orders \
    JOIN order_line ON ol_w_id = o_w_id AND ol_d_id = o_d_id AND ol_o_id = o_id \
    WHERE ol_delivery_d IS NOT NULL GROUP BY o_w_id, o_d_id, o_c_id) o \
    ON o.o_w_id = c_w_id AND o.o_d_id = c_d_id AND o.o_c_id = c_id";

/// What must hold, in the order of the clauses.
const NAMES: [&str; 12] = [
    "W_YTD = sum(D_YTD)",
    "D_NEXT_O_ID - 1 = max(O_ID) = max(NO_O_ID)",
    "max(NO_O_ID) - min(NO_O_ID) + 1 = rows of NEW_ORDER",
    "sum(O_OL_CNT) = rows of ORDER_LINE",
    "O_CARRIER_ID is null exactly for rows of NEW_ORDER",
    "O_OL_CNT = rows of ORDER_LINE of that order",
    "OL_DELIVERY_D is null exactly if O_CARRIER_ID is",
    "W_YTD = sum(H_AMOUNT)",
    "D_YTD = sum(H_AMOUNT)",
    "C_BALANCE = delivered OL_AMOUNT - H_AMOUNT",
    "orders less new orders = those with a carrier, not below the first",
    "C_BALANCE + C_YTD_PAYMENT = delivered OL_AMOUNT",
];

/// All conditions for data of this size at this moment.
pub fn conditions(scale: &Scale, moment: Moment) -> Vec<Condition> {
    let c10 = format!(
        "SELECT count(*) FROM customer LEFT JOIN {DELIVERED} \
         LEFT JOIN (SELECT h_c_w_id, h_c_d_id, h_c_id, sum(h_amount) AS paid FROM history \
            GROUP BY h_c_w_id, h_c_d_id, h_c_id) h \
         ON h.h_c_w_id = c_w_id AND h.h_c_d_id = c_d_id AND h.h_c_id = c_id \
         WHERE c_balance <> COALESCE(o.owed, 0) - COALESCE(h.paid, 0)"
    );
    let initial = delivered_orders(scale);
    let compare = if moment == Moment::Fresh { "<>" } else { "<" };
    let c11 = format!(
        "SELECT count(*) FROM (SELECT o_w_id, o_d_id, count(*) AS placed, \
            count(o_carrier_id) AS carried FROM orders GROUP BY o_w_id, o_d_id) o \
         LEFT JOIN (SELECT no_w_id, no_d_id, count(*) AS waiting FROM new_order \
            GROUP BY no_w_id, no_d_id) n \
         ON n.no_w_id = o.o_w_id AND n.no_d_id = o.o_d_id \
         WHERE o.placed - COALESCE(n.waiting, 0) <> o.carried \
            OR o.placed - COALESCE(n.waiting, 0) {compare} {initial}"
    );
    let c12 = format!(
        "SELECT count(*) FROM customer LEFT JOIN {DELIVERED} \
         WHERE c_balance + c_ytd_payment <> COALESCE(o.owed, 0)"
    );
    let c11_name = match moment {
        Moment::Fresh => "orders less new orders = those delivered by the loader",
        Moment::Used => NAMES[10],
    };
    let list: [(&str, &str, String); 12] = [
        ("3.3.2.1", NAMES[0], C1.to_owned()),
        ("3.3.2.2", NAMES[1], C2.to_owned()),
        ("3.3.2.3", NAMES[2], C3.to_owned()),
        ("3.3.2.4", NAMES[3], C4.to_owned()),
        ("3.3.2.5", NAMES[4], C5.to_owned()),
        ("3.3.2.6", NAMES[5], C6.to_owned()),
        ("3.3.2.7", NAMES[6], C7.to_owned()),
        ("3.3.2.8", NAMES[7], C8.to_owned()),
        ("3.3.2.9", NAMES[8], C9.to_owned()),
        ("3.3.2.10", NAMES[9], c10),
        ("3.3.2.11", c11_name, c11),
        ("3.3.2.12", NAMES[11], c12),
    ];
    list.map(|(clause, name, sql)| Condition { clause, name, sql }).into()
}

/// Counts the violations of one condition.
pub async fn violations(client: &Client, condition: &Condition) -> Result<i64, BenchError> {
    let doing = || format!("checking condition {}", condition.clause);
    let answer = client.simple_query(&condition.sql).await;
    let messages = answer.map_err(|error| BenchError::statement(doing(), &error))?;
    let count = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    });
    count.ok_or_else(|| BenchError::Statement {
        doing: doing(),
        reason: "the answer is not a count".to_owned(),
        code: None,
    })
}

/// Checks all conditions.
pub async fn check(
    client: &Client,
    scale: &Scale,
    moment: Moment,
) -> Result<Vec<CheckReport>, BenchError> {
    let mut reports = Vec::new();
    for condition in conditions(scale, moment) {
        reports.push(CheckReport {
            clause: condition.clause.to_owned(),
            name: condition.name.to_owned(),
            violations: violations(client, &condition).await?,
        });
    }
    Ok(reports)
}
