//! Creates and fills the tables. The data depends on the seed alone, not on how many connections
//! load it: every job has a generator of its own.

mod rows;
mod value;
mod writer;

pub use rows::delivered_orders;
pub use writer::{LoadWith, placeholders};

use super::schema::{self, DISTRICTS};
use super::{Scale, TpccArgs, split};
use crate::db::connect;
use crate::error::{BenchError, explain};
use crate::progress::Progress;
use crate::runner::terminal_seed;
use crate::runtime::{spawn, wall_clock};
use crate::tpcc::random::NuRand;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;
use tokio_postgres::{Client, Config};
use writer::Writer;

/// Lines of an order, on average; only to tell the progress.
const LINES_PER_ORDER: u64 = 10;
/// A relation of that name exists already.
const CODE_DUPLICATE_TABLE: &str = "42P07";

/// A part of the data that one connection loads.
#[derive(Clone, Copy, Debug)]
enum Job {
    Items,
    /// The warehouse's row and its stock.
    Stock {
        warehouse: i32,
    },
    /// Districts and their customers, orders.
    District {
        warehouse: i32,
        district: i32,
    },
}

/// Creates the tables, splits them if asked to, and fills them.
pub async fn load(args: &TpccArgs, servers: &[Config], scale: Scale) -> Result<(), BenchError> {
    let client = connect(&servers[0]).await?;
    if args.drop {
        drop_tables(&client).await?;
    }
    create_tables(&client).await?;
    if args.split {
        split::split(&client, &scale).await?;
    }
    let jobs = Arc::new(jobs(&scale));
    let next = Arc::new(AtomicUsize::new(0));
    let progress = Arc::new(Progress::new("loading", expected_rows(&scale)));
    let now = wall_clock();
    let mut tasks = Vec::new();
    for connection in 0..args.load_connections as usize {
        let client = connect(&servers[connection % servers.len()]).await?;
        let (jobs, next) = (Arc::clone(&jobs), Arc::clone(&next));
        let (progress, args) = (Arc::clone(&progress), args.clone());
        tasks.push(spawn(async move {
            while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let batch = args.load_batch as usize;
                let writer = Writer::new(&client, &progress, batch, args.load_with);
                carry_out(*job, writer, args.common.seed, scale, now).await?;
            }
            Ok::<(), BenchError>(())
        }));
    }
    for task in tasks {
        task.await.map_err(|_| BenchError::Task("loading"))??;
    }
    progress.finish();
    analyze(&client).await;
    Ok(())
}

async fn drop_tables(client: &Client) -> Result<(), BenchError> {
    for table in schema::TABLES {
        let sql = format!("DROP TABLE IF EXISTS {}", table.name);
        let dropped = client.batch_execute(&sql).await;
        dropped.map_err(|error| BenchError::statement(sql, &error))?;
    }
    Ok(())
}

async fn create_tables(client: &Client) -> Result<(), BenchError> {
    let tables = schema::TABLES.iter().map(|table| table.create());
    for sql in tables.chain(schema::create_indexes()) {
        let Err(error) = client.batch_execute(&sql).await else {
            continue;
        };
        if error.code().is_some_and(|code| code.code() == CODE_DUPLICATE_TABLE) {
            let what = error.as_db_error().map_or("", |db| db.message());
            return Err(BenchError::Usage(format!(
                "{what}; use --no-load to run on the data that is there, --drop to replace it"
            )));
        }
        return Err(BenchError::statement(sql, &error));
    }
    Ok(())
}

fn jobs(scale: &Scale) -> Vec<Job> {
    let mut jobs = vec![Job::Items];
    for warehouse in 1..=scale.warehouses {
        jobs.push(Job::Stock { warehouse });
        jobs.extend((1..=DISTRICTS).map(|district| Job::District { warehouse, district }));
    }
    jobs
}

/// About how many rows there will be.
fn expected_rows(scale: &Scale) -> u64 {
    let [warehouses, items, customers] =
        [scale.warehouses, scale.items, scale.customers].map(|n| u64::from(n.unsigned_abs()));
    let districts = warehouses * u64::from(DISTRICTS.unsigned_abs());
    // Customer, history, order and lines for each customer, three tenths of a new order.
    let per_customer = 3 + LINES_PER_ORDER;
    items
        + warehouses * items
        + districts * customers * per_customer
        + districts * customers * 3 / 10
        + districts
        + warehouses
}

/// The number of a job, which makes its generator its own.
fn job_number(job: Job) -> usize {
    let number = match job {
        Job::Items => 0,
        Job::Stock { warehouse } => warehouse * (DISTRICTS + 1),
        Job::District { warehouse, district } => warehouse * (DISTRICTS + 1) + district,
    };
    usize::try_from(number).unwrap_or(0)
}

async fn carry_out(
    job: Job,
    mut writer: Writer<'_>,
    seed: u64,
    scale: Scale,
    now: SystemTime,
) -> Result<(), BenchError> {
    let mut rng = StdRng::seed_from_u64(terminal_seed(seed, job_number(job)));
    let rng = &mut rng;
    match job {
        Job::Items => {
            for item in 1..=scale.items {
                writer.add(&schema::ITEM, rows::item(rng, item)).await?;
            }
        }
        Job::Stock { warehouse } => {
            writer.add(&schema::WAREHOUSE, rows::warehouse(rng, &scale, warehouse)).await?;
            for item in 1..=scale.items {
                writer.add(&schema::STOCK, rows::stock(rng, warehouse, item)).await?;
            }
        }
        Job::District { warehouse, district } => {
            let row = rows::district(rng, &scale, warehouse, district);
            writer.add(&schema::DISTRICT, row).await?;
            load_customers(&mut writer, rng, scale, now, (warehouse, district)).await?;
            load_orders(&mut writer, rng, scale, now, (warehouse, district)).await?;
        }
    }
    writer.finish().await
}

async fn load_customers(
    writer: &mut Writer<'_>,
    rng: &mut StdRng,
    scale: Scale,
    now: SystemTime,
    (warehouse, district): (i32, i32),
) -> Result<(), BenchError> {
    let nurand = NuRand::for_load(rng);
    for customer in 1..=scale.customers {
        let id = (warehouse, district, customer);
        let (row, payment) = rows::customer(rng, &nurand, now, id);
        writer.add(&schema::CUSTOMER, row).await?;
        writer.add(&schema::HISTORY, payment).await?;
    }
    Ok(())
}

async fn load_orders(
    writer: &mut Writer<'_>,
    rng: &mut StdRng,
    scale: Scale,
    now: SystemTime,
    (warehouse, district): (i32, i32),
) -> Result<(), BenchError> {
    for (order, customer) in (1..).zip(rows::ordering_customers(rng, &scale)) {
        let id = (warehouse, district, order);
        let (row, lines, waiting) = rows::order(rng, &scale, now, id, customer);
        writer.add(&schema::ORDERS, row).await?;
        for line in lines {
            writer.add(&schema::ORDER_LINE, line).await?;
        }
        if let Some(row) = waiting {
            writer.add(&schema::NEW_ORDER, row).await?;
        }
    }
    Ok(())
}

/// Fresh statistics, where the server gathers them on demand.
async fn analyze(client: &Client) {
    if let Err(error) = client.batch_execute("ANALYZE").await {
        eprintln!("the server gathers no statistics on demand: {}", explain(&error));
    }
}
