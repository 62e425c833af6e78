//! A node's settings, out of flags, environment and file, checked before anything is opened.

use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_benches::args::parse_duration;
use quorate_txn::config::check_max_clock_offset;
use serde::Deserialize;

use crate::args::StartArgs;

/// Default address for SQL.
pub const SQL_ADDR_DEFAULT: &str = "127.0.0.1:26257";
/// Default address for the other nodes.
pub const RPC_ADDR_DEFAULT: &str = "127.0.0.1:26258";

/// The settings of `quorate start`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartConfig {
    /// Folder of the data.
    pub data_dir: PathBuf,
    /// Where SQL is served.
    pub sql_addr: String,
    /// Where other nodes are served.
    pub rpc_addr: String,
    /// Where HTTP is served.
    pub http_addr: Option<String>,
    /// What clients shall use.
    pub advertise_sql_addr: Option<String>,
    /// What other nodes shall use.
    pub advertise_rpc_addr: Option<String>,
    /// First node of a new cluster.
    pub bootstrap: bool,
    /// Nodes to join.
    pub join: Vec<String>,
    /// Replicas of each range.
    pub replicas: usize,
    /// Bytes of disk kept free; `None`: the default share.
    pub disk_reserve: Option<u64>,
    /// Bytes of memory for cached blocks.
    pub cache_bytes: usize,
    /// Bytes of memory for joins, sorts and groups of all statements together.
    pub sql_memory_bytes: usize,
    /// How long old versions stay readable.
    pub gc_window: Duration,
    /// Size at which a range is split.
    pub range_bytes_max: u64,
    /// How far clocks may be apart; `None`: as the cluster has it.
    pub max_clock_offset: Option<Duration>,
}

/// Why the settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or cannot be read.
    #[error("cannot read {path}: {why}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// The file is no TOML, or names a setting that does not exist.
    #[error("{path}: {why}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong, with its place.
        why: String,
    },
    /// A setting that has no default is not given.
    #[error("{0} must be given (as --{0}, or in the settings file)")]
    Missing(&'static str),
    /// A value outside what is allowed.
    #[error("{name}: {why}")]
    Invalid {
        /// Which setting.
        name: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

/// The settings file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    data_dir: Option<PathBuf>,
    sql_addr: Option<String>,
    rpc_addr: Option<String>,
    http_addr: Option<String>,
    advertise_sql_addr: Option<String>,
    advertise_rpc_addr: Option<String>,
    #[serde(default)]
    bootstrap: bool,
    #[serde(default)]
    join: Vec<String>,
    replicas: Option<u32>,
    disk_reserve: Option<u64>,
    cache_bytes: Option<u64>,
    sql_memory_bytes: Option<u64>,
    gc_window_s: Option<u64>,
    range_bytes_max: Option<u64>,
    max_clock_offset: Option<String>,
}

impl File {
    /// Written as in the flag.
    fn max_clock_offset(&self) -> Result<Option<Duration>, ConfigError> {
        let parsed = self.max_clock_offset.as_deref().map(parse_duration).transpose();
        parsed.map_err(|why| ConfigError::Invalid { name: MAX_CLOCK_OFFSET, why })
    }
}

/// The name of the flag.
const MAX_CLOCK_OFFSET: &str = "max-clock-offset";
/// Smallest size at which a range may be split.
const RANGE_BYTES_MIN: u64 = 64 << 10;
/// Least size of the block cache.
const CACHE_BYTES_MIN: usize = 8 << 20;
/// The block cache's share of the machine's memory where none is given, and its bounds.
const CACHE_SHARE_DEFAULT: u64 = 16;
const CACHE_BYTES_DEFAULT: std::ops::RangeInclusive<u64> = 64 << 20..=4 << 30;
/// Least memory for statements, and what they get where none is given: a share of the machine's.
const SQL_MEMORY_BYTES_MIN: usize = 16 << 20;
const SQL_MEMORY_SHARE_DEFAULT: u64 = 4;
const SQL_MEMORY_BYTES_DEFAULT_MIN: u64 = 256 << 20;

impl StartConfig {
    /// Settles every setting.
    ///
    /// # Errors
    /// [`ConfigError`], in words for the one who started the node.
    pub fn settle(args: StartArgs) -> Result<Self, ConfigError> {
        let file = match &args.config {
            Some(path) => read(path)?,
            None => File::default(),
        };
        let max_clock_offset = args.max_clock_offset.or(file.max_clock_offset()?);
        let or = |flag: Option<String>, file: Option<String>| flag.or(file);
        let join = if args.join.is_empty() { file.join } else { args.join };
        let config = Self {
            data_dir: args.data_dir.or(file.data_dir).ok_or(ConfigError::Missing("data-dir"))?,
            sql_addr: or(args.sql_addr, file.sql_addr)
                .unwrap_or_else(|| SQL_ADDR_DEFAULT.to_string()),
            rpc_addr: or(args.rpc_addr, file.rpc_addr)
                .unwrap_or_else(|| RPC_ADDR_DEFAULT.to_string()),
            http_addr: or(args.http_addr, file.http_addr),
            advertise_sql_addr: or(args.advertise_sql_addr, file.advertise_sql_addr),
            advertise_rpc_addr: or(args.advertise_rpc_addr, file.advertise_rpc_addr),
            bootstrap: args.bootstrap || (file.bootstrap && join.is_empty()),
            join,
            replicas: args.replicas.or(file.replicas).unwrap_or(3) as usize,
            disk_reserve: args.disk_reserve.or(file.disk_reserve),
            cache_bytes: cache_bytes(args.cache_bytes.or(file.cache_bytes)),
            sql_memory_bytes: sql_memory_bytes(args.sql_memory_bytes.or(file.sql_memory_bytes)),
            gc_window: Duration::from_secs(
                args.gc_window_s
                    .or(file.gc_window_s)
                    .unwrap_or(quorate_txn::config::SAFE_POINT_LAG.as_secs()),
            ),
            range_bytes_max: args.range_bytes_max.or(file.range_bytes_max).unwrap_or(256 << 20),
            max_clock_offset,
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let invalid = |name, why: &str| Err(ConfigError::Invalid { name, why: why.to_string() });
        let addresses = [
            ("sql-addr", Some(&self.sql_addr)),
            ("rpc-addr", Some(&self.rpc_addr)),
            ("http-addr", self.http_addr.as_ref()),
            ("advertise-sql-addr", self.advertise_sql_addr.as_ref()),
            ("advertise-rpc-addr", self.advertise_rpc_addr.as_ref()),
        ];
        let joined = self.join.iter().map(|addr| ("join", Some(addr)));
        for (name, addr) in addresses.into_iter().chain(joined) {
            if let Some(addr) = addr {
                let port = addr.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
                if !matches!(port, Some(Ok(_))) {
                    return invalid(name, &format!("\"{addr}\" is not host:port"));
                }
            }
        }
        if !matches!(self.replicas, 1 | 3 | 5 | 7) {
            return invalid("replicas", "1, 3, 5 or 7");
        }
        if self.cache_bytes < CACHE_BYTES_MIN {
            return invalid("cache-bytes", "at least 8388608");
        }
        if self.sql_memory_bytes < SQL_MEMORY_BYTES_MIN {
            return invalid("sql-memory-bytes", "at least 16777216");
        }
        if self.range_bytes_max < RANGE_BYTES_MIN {
            return invalid("range-bytes-max", "at least 65536");
        }
        if self.gc_window < quorate_txn::config::TXN_FLOOR_LAG {
            let least = quorate_txn::config::TXN_FLOOR_LAG.as_secs();
            return invalid("gc-window-s", &format!("at least {least}"));
        }
        check_clock_offset(self.max_clock_offset)
    }
}

/// Refuses a `max_clock_offset` that no cluster may have.
fn check_clock_offset(given: Option<Duration>) -> Result<(), ConfigError> {
    let checked = given.map_or(Ok(()), check_max_clock_offset);
    checked.map_err(|why| ConfigError::Invalid { name: MAX_CLOCK_OFFSET, why })
}

fn cache_bytes(given: Option<u64>) -> usize {
    let bytes = given.unwrap_or_else(|| {
        let share = machine_memory().unwrap_or(0) / CACHE_SHARE_DEFAULT;
        share.clamp(*CACHE_BYTES_DEFAULT.start(), *CACHE_BYTES_DEFAULT.end())
    });
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Bytes of memory for the joins, sorts and groups of all statements, given or by default.
pub fn sql_memory_bytes(given: Option<u64>) -> usize {
    let bytes = given.unwrap_or_else(|| {
        let share = machine_memory().unwrap_or(0) / SQL_MEMORY_SHARE_DEFAULT;
        share.max(SQL_MEMORY_BYTES_DEFAULT_MIN)
    });
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Bytes of memory of this machine; `None` where the system does not tell in Linux's way.
fn machine_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

fn read(path: &Path) -> Result<File, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|why| ConfigError::Unreadable { path: path.to_path_buf(), why })?;
    toml::from_str(&text)
        .map_err(|e| ConfigError::Malformed { path: path.to_path_buf(), why: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(dir: &str) -> StartArgs {
        StartArgs { data_dir: Some(PathBuf::from(dir)), ..StartArgs::default() }
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("node.toml");
        std::fs::write(&file, "sql_addr = \"h:1\"\nrpc_addr = \"h:2\"\nreplicas = 5\n").unwrap();
        let config = StartConfig::settle(StartArgs {
            config: Some(file),
            sql_addr: Some(String::from("h:9")),
            ..args("d")
        })
        .unwrap();
        assert_eq!((config.sql_addr.as_str(), config.rpc_addr.as_str()), ("h:9", "h:2"));
        assert_eq!((config.replicas, config.range_bytes_max), (5, 256 << 20));
    }

    #[test]
    fn the_clock_offset_has_a_unit_and_bounds_and_no_default_of_the_nodes_own() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("node.toml");
        let settle = |flag, text: &str| {
            std::fs::write(&file, text).unwrap();
            let max_clock_offset = flag;
            StartConfig::settle(StartArgs {
                config: Some(file.clone()),
                max_clock_offset,
                ..args("d")
            })
        };
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(settle(None, "").unwrap().max_clock_offset, None);
        let in_file = "max_clock_offset = \"80ms\"";
        assert_eq!(settle(None, in_file).unwrap().max_clock_offset, ms(80));
        assert_eq!(settle(ms(500), in_file).unwrap().max_clock_offset, ms(500));
        for (flag, text) in [(ms(501), ""), (ms(0), ""), (None, "max_clock_offset = \"1s\"")] {
            let said = settle(flag, text).unwrap_err().to_string();
            assert!(said.contains("max-clock-offset: ") && said.contains("500ms"), "{said}");
        }
        let said = settle(None, "max_clock_offset = \"soon\"").unwrap_err().to_string();
        assert!(said.contains("max-clock-offset: not a time"), "{said}");
    }

    #[test]
    fn the_cache_takes_a_share_of_the_memory_within_bounds() {
        let default = StartConfig::settle(args("d")).unwrap().cache_bytes as u64;
        assert!(CACHE_BYTES_DEFAULT.contains(&default), "{default}");
        let given = StartArgs { cache_bytes: Some(9 << 20), ..args("d") };
        assert_eq!(StartConfig::settle(given).unwrap().cache_bytes, 9 << 20);
    }

    #[test]
    fn mistakes_are_named() {
        let bad = |args: StartArgs| StartConfig::settle(args).unwrap_err().to_string();
        assert!(bad(StartArgs::default()).contains("data-dir"));
        let addr = StartArgs { sql_addr: Some(String::from("nowhere")), ..args("d") };
        assert!(bad(addr).contains("\"nowhere\" is not host:port"));
        let small = StartArgs { cache_bytes: Some(1), ..args("d") };
        assert!(bad(small).contains("cache-bytes: at least"));
        let small = StartArgs { sql_memory_bytes: Some(1), ..args("d") };
        assert!(bad(small).contains("sql-memory-bytes: at least"));
        assert!(bad(StartArgs { replicas: Some(2), ..args("d") }).contains("1, 3, 5 or 7"));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("node.toml");
        std::fs::write(&file, "sqladdr = \"h:1\"\n").unwrap();
        let unknown = bad(StartArgs { config: Some(file), ..args("d") });
        assert!(unknown.contains("sqladdr"), "{unknown}");
    }
}
