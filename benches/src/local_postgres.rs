//! Starts a throw-away PostgreSQL, to test and to compare against.

use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Where Debian and Ubuntu put the server.
const DEFAULT_BIN: &str = "/usr/lib/postgresql/15/bin";
/// The user a server is started as when we are root, which PostgreSQL refuses to run as.
const SERVER_USER: &str = "postgres";
/// Attempts to find a port nobody takes before the server does.
const ATTEMPTS_MAX: u32 = 5;

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A PostgreSQL server with data of its own; stopped and removed when dropped.
pub struct LocalPostgres {
    bin: PathBuf,
    data: PathBuf,
    port: u16,
}

impl LocalPostgres {
    /// Starts a server on a free port of the loopback interface. `Ok(None)` if PostgreSQL is not
    /// installed; says so on standard error, loudly, since a test is about to skip itself.
    pub fn start() -> Result<Option<Self>, String> {
        let Some(bin) = find_bin() else {
            eprintln!("SKIPPED: PostgreSQL 15 is not installed (looked in {DEFAULT_BIN})");
            return Ok(None);
        };
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("quorate-postgres-{}-{number}", std::process::id());
        let mut server = Self { bin, data: std::env::temp_dir().join(name), port: 0 };
        let data = server.data.display().to_string();
        server
            .tool("initdb", &["-D", &data, "-U", SERVER_USER, "-A", "trust", "-N", "-E", "UTF8"])?;
        let mut last = String::new();
        for _ in 0..ATTEMPTS_MAX {
            server.port = free_port().map_err(|error| error.to_string())?;
            let settings = format!(
                "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
                 -c fsync=off -c max_connections=100",
                server.port
            );
            let log = format!("{data}/log");
            match server.tool("pg_ctl", &["-D", &data, "-w", "-l", &log, "-o", &settings, "start"])
            {
                Ok(_) => return Ok(Some(server)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The address of its database `postgres`.
    pub fn url(&self) -> String {
        format!("postgres://{SERVER_USER}@127.0.0.1:{}/postgres", self.port)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id of the server, for reading its CPU time.
    pub fn pid(&self) -> Option<u32> {
        let text = std::fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        text.lines().next()?.parse().ok()
    }

    /// Ends all sessions and starts again on the same port.
    pub fn restart(&self) -> Result<(), String> {
        let data = self.data.display().to_string();
        // Without a log of its own the server would keep our pipe open, and us waiting for its end.
        let log = format!("{data}/log");
        let restart = ["-D", &data, "-w", "-m", "immediate", "-l", &log, "restart"];
        self.tool("pg_ctl", &restart).map(drop)
    }

    /// Lets a role in with a password only (scram-sha-256).
    pub fn require_password(&self, role: &str) -> Result<(), String> {
        let file = self.data.join("pg_hba.conf");
        let before = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
        let rule = format!("host all {role} 127.0.0.1/32 scram-sha-256\n");
        std::fs::write(&file, rule + &before).map_err(|error| error.to_string())?;
        let data = self.data.display().to_string();
        self.tool("pg_ctl", &["-D", &data, "reload"]).map(drop)
    }

    fn tool(&self, name: &str, arguments: &[&str]) -> Result<Output, String> {
        let output = as_server_user(&self.bin.join(name))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .current_dir("/")
            .output()
            .map_err(|error| format!("{name}: {error}"))?;
        if output.status.success() {
            return Ok(output);
        }
        Err(format!("{name} failed: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

impl Drop for LocalPostgres {
    fn drop(&mut self) {
        let data = self.data.display().to_string();
        let stop = ["-D", &data, "-w", "-m", "immediate", "stop"];
        if self.port != 0
            && let Err(error) = self.tool("pg_ctl", &stop)
        {
            eprintln!("PostgreSQL in {data} was not stopped: {error}");
        }
        if let Err(error) = std::fs::remove_dir_all(&self.data) {
            eprintln!("{data} was not removed: {error}");
        }
    }
}

fn find_bin() -> Option<PathBuf> {
    let has_server = |bin: &Path| bin.join("initdb").is_file() && bin.join("pg_ctl").is_file();
    let default = PathBuf::from(DEFAULT_BIN);
    if has_server(&default) {
        return Some(default);
    }
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let found = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    has_server(&found).then_some(found)
}

fn as_server_user(program: &Path) -> Command {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0);
    if !is_root {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", SERVER_USER, "--"]).arg(program);
    command
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
