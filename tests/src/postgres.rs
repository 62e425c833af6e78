//! A PostgreSQL server of our own, in a temporary folder on a free port.
//!
//! It is the judge of what SQL means: the same files run against it and against Quorate.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long `initdb` and the start may take together on a loaded machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long a fast shutdown may take before the server is killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Ports tried before giving up: another process may take one between our look and the start.
const PORT_ATTEMPTS: usize = 5;

/// A running server; stopped and its folder removed when dropped.
pub struct Postgres {
    server: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Postgres {
    /// Starts a server, or returns `None`, saying so loudly, where PostgreSQL 15 is not installed.
    ///
    /// Where `CI` is set a missing PostgreSQL is an error.
    pub fn start() -> io::Result<Option<Postgres>> {
        let Some(programs) = programs() else {
            let message = "PostgreSQL 15 is missing (Debian: apt-get install postgresql-15)";
            if std::env::var_os("CI").is_some() {
                return Err(io::Error::other(message));
            }
            eprintln!("skipped: {message}, so nothing is compared against it");
            return Ok(None);
        };
        let account = if is_root()? { Some(account("postgres")?) } else { None };
        let folder = tempfile::Builder::new().prefix("quorate-pg-").tempdir()?;
        if let Some((uid, gid)) = account {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid))?;
        }
        let data = folder.path().join("data");
        init(&programs, &data, account)?;
        for _ in 0..PORT_ATTEMPTS {
            let port = free_port()?;
            let mut server = serve(&programs, &data, port, account)?;
            if wait_until_ready(&mut server, &data)? {
                return Ok(Some(Postgres { server, port, _folder: folder }));
            }
        }
        let log = std::fs::read_to_string(data.join("log")).unwrap_or_default();
        Err(io::Error::other(format!("PostgreSQL does not start:\n{log}")))
    }

    /// Connection URL of the database every server starts with.
    pub fn url(&self) -> String {
        format!("postgres://quorate@127.0.0.1:{}/postgres", self.port)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        crate::process::signal(self.server.id(), "INT");
        let deadline = Instant::now() + STOP_LIMIT;
        while matches!(self.server.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                // Its children notice and exit by themselves.
                self.server.kill().ok();
                self.server.wait().ok();
                return;
            }
            crate::process::pause();
        }
    }
}

/// The folder of `initdb` and `postgres`.
fn programs() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("POSTGRES_BIN") {
        return Some(folder.into());
    }
    let packaged = PathBuf::from("/usr/lib/postgresql/15/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(packaged)
        .chain(std::env::split_paths(&path))
        .find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
}

fn is_root() -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata("/proc/self")?.uid() == 0)
}

/// User and group id of an account; PostgreSQL refuses to run as root.
fn account(name: &str) -> io::Result<(u32, u32)> {
    let accounts = std::fs::read_to_string("/etc/passwd")?;
    accounts
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&name))
        .and_then(|fields| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?)))
        .ok_or_else(|| io::Error::other(format!("no account named {name} to run PostgreSQL as")))
}

fn command(program: &Path, account: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(program);
    if let Some((uid, gid)) = account {
        command.uid(uid).gid(gid);
    }
    command.current_dir("/").stdin(Stdio::null());
    command
}

fn init(programs: &Path, data: &Path, account: Option<(u32, u32)>) -> io::Result<()> {
    let output = command(&programs.join("initdb"), account)
        .arg("--pgdata")
        .arg(data)
        .args(["--username=quorate", "--auth=trust", "--locale=C", "--encoding=UTF8", "--no-sync"])
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("initdb failed:\n{said}")))
}

fn serve(
    programs: &Path,
    data: &Path,
    port: u16,
    account: Option<(u32, u32)>,
) -> io::Result<Child> {
    let log = std::fs::File::create(data.join("log"))?;
    command(&programs.join("postgres"), account)
        .arg("-D")
        .arg(data)
        .arg("-k")
        .arg(data)
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-F"])
        .args(["-c", "timezone=UTC", "-c", "max_connections=100", "-c", "shared_buffers=32MB"])
        .args(["-c", "default_transaction_isolation=repeatable read"])
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
}

/// True once the server says that it is ready; false if it exited first.
fn wait_until_ready(server: &mut Child, data: &Path) -> io::Result<bool> {
    let deadline = Instant::now() + START_LIMIT;
    while Instant::now() < deadline {
        if server.try_wait()?.is_some() {
            return Ok(false);
        }
        // The server keeps its state in the last line of this file.
        let state = std::fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
        if state.lines().last().is_some_and(|line| line.trim() == "ready") {
            return Ok(true);
        }
        crate::process::pause();
    }
    server.kill()?;
    server.wait()?;
    Ok(false)
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
