//! The nine tables, from which `CREATE TABLE`, the loader's `INSERT` and its parameter types come.
//!
//! Standard columns and primary keys (clause 1.3); no foreign keys and no sequences, so that a
//! database without either takes the same statements. `history` has no key in the standard.

use tokio_postgres::types::Type;

/// Districts of a warehouse.
pub const DISTRICTS: i32 = 10;
/// Items of the standard's data.
pub const ITEMS: i32 = 100_000;
/// Customers of a district, and orders a district begins with.
pub const CUSTOMERS: i32 = 3_000;

/// A table.
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// Names and types of its columns, in order.
    pub columns: &'static [(&'static str, &'static str)],
    /// The primary key; empty for none.
    pub key: &'static [&'static str],
}

impl Table {
    /// The statement that creates it.
    pub fn create(&self) -> String {
        let mut parts: Vec<String> =
            self.columns.iter().map(|(name, ty)| format!("{name} {ty}")).collect();
        if !self.key.is_empty() {
            parts.push(format!("PRIMARY KEY ({})", self.key.join(", ")));
        }
        format!("CREATE TABLE {} ({})", self.name, parts.join(", "))
    }

    /// The types of the parameters of so many rows.
    pub fn types(&self, row_count: usize) -> Vec<Type> {
        let row = self.columns.iter().map(|(_, ty)| parameter_type(ty));
        row.cycle().take(row_count * self.columns.len()).collect()
    }
}

fn parameter_type(sql: &str) -> Type {
    let word: String = sql.chars().take_while(char::is_ascii_alphabetic).collect();
    match word.as_str() {
        "INTEGER" => Type::INT4,
        "NUMERIC" => Type::NUMERIC,
        "TIMESTAMP" => Type::TIMESTAMP,
        "CHAR" => Type::BPCHAR,
        "VARCHAR" => Type::VARCHAR,
        other => unreachable!("no column has type {other}"),
    }
}

/// `item`
pub const ITEM: Table = Table {
    name: "item",
    columns: &[
        ("i_id", "INTEGER NOT NULL"),
        ("i_im_id", "INTEGER"),
        ("i_name", "VARCHAR(24)"),
        ("i_price", "NUMERIC(5,2)"),
        ("i_data", "VARCHAR(50)"),
    ],
    key: &["i_id"],
};

/// `warehouse`
pub const WAREHOUSE: Table = Table {
    name: "warehouse",
    columns: &[
        ("w_id", "INTEGER NOT NULL"),
        ("w_name", "VARCHAR(10)"),
        ("w_street_1", "VARCHAR(20)"),
        ("w_street_2", "VARCHAR(20)"),
        ("w_city", "VARCHAR(20)"),
        ("w_state", "CHAR(2)"),
        ("w_zip", "CHAR(9)"),
        ("w_tax", "NUMERIC(4,4)"),
        ("w_ytd", "NUMERIC(12,2)"),
    ],
    key: &["w_id"],
};

/// `district`
pub const DISTRICT: Table = Table {
    name: "district",
    columns: &[
        ("d_w_id", "INTEGER NOT NULL"),
        ("d_id", "INTEGER NOT NULL"),
        ("d_name", "VARCHAR(10)"),
        ("d_street_1", "VARCHAR(20)"),
        ("d_street_2", "VARCHAR(20)"),
        ("d_city", "VARCHAR(20)"),
        ("d_state", "CHAR(2)"),
        ("d_zip", "CHAR(9)"),
        ("d_tax", "NUMERIC(4,4)"),
        ("d_ytd", "NUMERIC(12,2)"),
        ("d_next_o_id", "INTEGER"),
    ],
    key: &["d_w_id", "d_id"],
};

/// `customer`
pub const CUSTOMER: Table = Table {
    name: "customer",
    columns: &[
        ("c_w_id", "INTEGER NOT NULL"),
        ("c_d_id", "INTEGER NOT NULL"),
        ("c_id", "INTEGER NOT NULL"),
        ("c_first", "VARCHAR(16)"),
        ("c_middle", "CHAR(2)"),
        ("c_last", "VARCHAR(16)"),
        ("c_street_1", "VARCHAR(20)"),
        ("c_street_2", "VARCHAR(20)"),
        ("c_city", "VARCHAR(20)"),
        ("c_state", "CHAR(2)"),
        ("c_zip", "CHAR(9)"),
        ("c_phone", "CHAR(16)"),
        ("c_since", "TIMESTAMP"),
        ("c_credit", "CHAR(2)"),
        ("c_credit_lim", "NUMERIC(12,2)"),
        ("c_discount", "NUMERIC(4,4)"),
        ("c_balance", "NUMERIC(12,2)"),
        ("c_ytd_payment", "NUMERIC(12,2)"),
        ("c_payment_cnt", "INTEGER"),
        ("c_delivery_cnt", "INTEGER"),
        ("c_data", "VARCHAR(500)"),
    ],
    key: &["c_w_id", "c_d_id", "c_id"],
};

/// `history`
pub const HISTORY: Table = Table {
    name: "history",
    columns: &[
        ("h_c_id", "INTEGER"),
        ("h_c_d_id", "INTEGER"),
        ("h_c_w_id", "INTEGER"),
        ("h_d_id", "INTEGER"),
        ("h_w_id", "INTEGER"),
        ("h_date", "TIMESTAMP"),
        ("h_amount", "NUMERIC(6,2)"),
        ("h_data", "VARCHAR(24)"),
    ],
    key: &[],
};

/// `new_order`
pub const NEW_ORDER: Table = Table {
    name: "new_order",
    columns: &[
        ("no_w_id", "INTEGER NOT NULL"),
        ("no_d_id", "INTEGER NOT NULL"),
        ("no_o_id", "INTEGER NOT NULL"),
    ],
    key: &["no_w_id", "no_d_id", "no_o_id"],
};

/// `orders` (the standard's ORDER, which is a reserved word)
pub const ORDERS: Table = Table {
    name: "orders",
    columns: &[
        ("o_w_id", "INTEGER NOT NULL"),
        ("o_d_id", "INTEGER NOT NULL"),
        ("o_id", "INTEGER NOT NULL"),
        ("o_c_id", "INTEGER"),
        ("o_entry_d", "TIMESTAMP"),
        ("o_carrier_id", "INTEGER"),
        ("o_ol_cnt", "INTEGER"),
        ("o_all_local", "INTEGER"),
    ],
    key: &["o_w_id", "o_d_id", "o_id"],
};

/// `order_line`
pub const ORDER_LINE: Table = Table {
    name: "order_line",
    columns: &[
        ("ol_w_id", "INTEGER NOT NULL"),
        ("ol_d_id", "INTEGER NOT NULL"),
        ("ol_o_id", "INTEGER NOT NULL"),
        ("ol_number", "INTEGER NOT NULL"),
        ("ol_i_id", "INTEGER"),
        ("ol_supply_w_id", "INTEGER"),
        ("ol_delivery_d", "TIMESTAMP"),
        ("ol_quantity", "INTEGER"),
        ("ol_amount", "NUMERIC(6,2)"),
        ("ol_dist_info", "CHAR(24)"),
    ],
    key: &["ol_w_id", "ol_d_id", "ol_o_id", "ol_number"],
};

/// `stock`
pub const STOCK: Table = Table {
    name: "stock",
    columns: &[
        ("s_w_id", "INTEGER NOT NULL"),
        ("s_i_id", "INTEGER NOT NULL"),
        ("s_quantity", "INTEGER"),
        ("s_dist_01", "CHAR(24)"),
        ("s_dist_02", "CHAR(24)"),
        ("s_dist_03", "CHAR(24)"),
        ("s_dist_04", "CHAR(24)"),
        ("s_dist_05", "CHAR(24)"),
        ("s_dist_06", "CHAR(24)"),
        ("s_dist_07", "CHAR(24)"),
        ("s_dist_08", "CHAR(24)"),
        ("s_dist_09", "CHAR(24)"),
        ("s_dist_10", "CHAR(24)"),
        ("s_ytd", "INTEGER"),
        ("s_order_cnt", "INTEGER"),
        ("s_remote_cnt", "INTEGER"),
        ("s_data", "VARCHAR(50)"),
    ],
    key: &["s_w_id", "s_i_id"],
};

/// All tables, in the order they are created.
pub const TABLES: [&Table; 9] =
    [&ITEM, &WAREHOUSE, &DISTRICT, &CUSTOMER, &HISTORY, &NEW_ORDER, &ORDERS, &ORDER_LINE, &STOCK];

/// Customers by name, for Payment and OrderStatus.
pub const INDEX_CUSTOMER_NAME: &str = "customer_name_idx";
/// A customer's latest order, for OrderStatus.
pub const INDEX_ORDERS_CUSTOMER: &str = "orders_customer_idx";

/// The statements that create the secondary indexes.
pub fn create_indexes() -> [String; 2] {
    [
        format!("CREATE INDEX {INDEX_CUSTOMER_NAME} ON customer (c_w_id, c_d_id, c_last, c_first)"),
        format!("CREATE INDEX {INDEX_ORDERS_CUSTOMER} ON orders (o_w_id, o_d_id, o_c_id, o_id)"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_has_a_parameter_type_and_every_key_a_column() {
        for table in TABLES {
            assert_eq!(table.types(1).len(), table.columns.len());
            for key in table.key {
                assert!(table.columns.iter().any(|(name, _)| name == key), "{}", table.name);
            }
        }
        assert_eq!(TABLES.iter().map(|table| table.columns.len()).sum::<usize>(), 92);
    }
}
