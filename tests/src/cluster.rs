//! A cluster of real `quorate start` processes on loopback, and the ways to maltreat it.
//!
//! Ports are chosen by the system at the first start and kept by a restart. What the processes
//! say goes to files; if the test fails, their ends are printed. Nothing outlives a [`Cluster`].

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use quorate_proto::{NodeService, RemoteNode, pb};

use crate::process::{pause, signal, wait_until_async};

/// How long a node of a debug build may take to serve.
pub const START_LIMIT: Duration = Duration::from_secs(90);

/// How long a node may drain after SIGTERM.
pub const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Replicas of a range unless the arguments say otherwise.
const REPLICAS_DEFAULT: usize = 3;

/// How far replicas may lie apart, in entries, while clients write.
const ENTRIES_APART_MAX: u64 = 200;

/// Lines of each log that a failed test prints.
const LOG_LINES_SHOWN: usize = 80;

/// The `quorate` binary: `QUORATE_BIN`, or built now, next to this test.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("QUORATE_BIN") {
        Some(path) => {
            let path = PathBuf::from(path);
            assert!(path.exists(), "QUORATE_BIN={} does not exist", path.display());
            path
        }
        None => build(),
    })
}

/// Builds the binary with the features the tests were built with, so that nothing is built twice.
fn build() -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    // target/debug/deps/all-123 → target/debug
    let profile = test.parent().and_then(Path::parent).expect("tests lie below the target folder");
    let target = profile.parent().expect("the profile's folder lies in the target folder");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--workspace", "--bins"]).current_dir(crate::tidy::root());
    command.env("CARGO_TARGET_DIR", target);
    if profile.ends_with("release") {
        command.arg("--release");
    }
    let status = command.status().expect("cargo can be run");
    assert!(status.success(), "building quorate failed");
    profile.join("quorate")
}

/// A test that starts nodes holds this as long as it runs: several clusters at once would starve
/// each other on a small machine, and starved nodes miss their deadlines.
pub async fn alone() -> tokio::sync::MutexGuard<'static, ()> {
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    ALONE.lock().await
}

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many nodes.
    pub nodes: usize,
    /// Further arguments of `quorate start`, for every node.
    pub args: Vec<String>,
    /// Environment of every node.
    pub env: Vec<(String, String)>,
    /// Where the temporary folder is made; the system's place by default.
    pub base: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Options {
        Options { nodes: 3, args: Vec::new(), env: Vec::new(), base: None }
    }
}

impl Options {
    /// So many nodes, ranges having so many replicas.
    pub fn replicated(nodes: usize, replicas: usize) -> Options {
        let args = vec!["--replicas".to_owned(), replicas.to_string()];
        Options { nodes, args, ..Options::default() }
    }

    /// What the arguments say of replicas.
    fn replicas(&self) -> usize {
        let flag = self.args.iter().position(|arg| arg == "--replicas");
        let value = flag.and_then(|at| self.args.get(at + 1)?.parse().ok());
        value.unwrap_or(REPLICAS_DEFAULT)
    }
}

/// One `quorate start` process, or the memory of one.
pub struct Node {
    name: String,
    folder: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    child: Option<Child>,
    sql: String,
    rpc: String,
}

/// Nodes in temporary folders; killed when dropped.
pub struct Cluster {
    nodes: Vec<Node>,
    folder: tempfile::TempDir,
    replicas: usize,
}

impl Cluster {
    /// Three nodes, serving and fully replicated.
    pub async fn three() -> Cluster {
        Cluster::start(Options::default()).await
    }

    /// Starts the nodes one after the other and waits until every range has all its replicas.
    pub async fn start(options: Options) -> Cluster {
        let base = options.base.clone().unwrap_or_else(std::env::temp_dir);
        let folder = tempfile::Builder::new().prefix("quorate-e2e-").tempdir_in(base);
        let folder = folder.expect("a temporary folder can be made");
        let mut cluster = Cluster { nodes: Vec::new(), folder, replicas: options.replicas() };
        for _ in 0..options.nodes {
            cluster.add_node(&options);
        }
        cluster.wait_until_replicated(START_LIMIT).await;
        cluster
    }

    /// Starts one more node, which joins the first; its index.
    pub fn add_node(&mut self, options: &Options) -> usize {
        let index = self.nodes.len();
        let mut node = Node {
            name: format!("node{}", index + 1),
            folder: self.folder.path().to_owned(),
            args: options.args.clone(),
            env: options.env.clone(),
            child: None,
            sql: "127.0.0.1:0".into(),
            rpc: "127.0.0.1:0".into(),
        };
        let role = match self.nodes.first() {
            None => vec!["--bootstrap".to_owned()],
            Some(first) => vec!["--join".to_owned(), first.rpc.clone()],
        };
        let started = node.start(&role);
        self.nodes.push(node);
        started.unwrap_or_else(|error| panic!("node {} does not start: {error}", index + 1));
        index
    }

    /// Connection URL of a node.
    pub fn url(&self, index: usize) -> String {
        format!("postgres://quorate@{}/quorate", self.nodes[index].sql)
    }

    /// Connection URLs of all nodes.
    pub fn urls(&self) -> Vec<String> {
        (0..self.nodes.len()).map(|index| self.url(index)).collect()
    }

    /// Address where a node serves other nodes and `quorate admin`.
    pub fn rpc_addr(&self, index: usize) -> &str {
        &self.nodes[index].rpc
    }

    /// Data folder of a node.
    pub fn data_dir(&self, index: usize) -> PathBuf {
        self.nodes[index].data_dir()
    }

    /// Process id of a running node.
    pub fn pid(&self, index: usize) -> u32 {
        let child = self.nodes[index].child.as_ref();
        child.unwrap_or_else(|| panic!("node {} is not running", index + 1)).id()
    }

    /// Kills a node with SIGKILL and waits until it is gone.
    pub fn kill(&mut self, index: usize) {
        self.nodes[index].kill();
    }

    /// Starts a node again in the same folder, on the same ports.
    pub fn restart(&mut self, index: usize) {
        let started = self.nodes[index].start(&[]);
        started.unwrap_or_else(|error| panic!("node {} does not restart: {error}", index + 1));
    }

    /// Starts several nodes at once, as after a power cut, then waits for all of them: alone none
    /// of them may be able to serve.
    pub fn restart_together(&mut self, indexes: &[usize]) {
        let mut offsets = Vec::new();
        for index in indexes {
            let offset = self.nodes[*index].spawn(&[]);
            offsets.push(offset.unwrap_or_else(|error| panic!("node {}: {error}", index + 1)));
        }
        for (index, offset) in indexes.iter().zip(offsets) {
            let serving = self.nodes[*index].wait_until_serving(offset);
            serving.unwrap_or_else(|error| panic!("node {}: {error}", index + 1));
        }
    }

    /// Stops a node's process in its tracks (SIGSTOP).
    pub fn freeze(&self, index: usize) {
        assert!(signal(self.pid(index), "STOP"), "node {} is gone", index + 1);
    }

    /// Lets a frozen process go on (SIGCONT).
    pub fn thaw(&self, index: usize) {
        assert!(signal(self.pid(index), "CONT"), "node {} is gone", index + 1);
    }

    /// Sends SIGTERM and waits for the exit.
    pub fn terminate(&mut self, index: usize) -> ExitStatus {
        let pid = self.pid(index);
        assert!(signal(pid, "TERM"), "node {} is gone", index + 1);
        let mut child = self.nodes[index].child.take().expect("it has a pid, so it runs");
        wait_for_exit(&mut child, STOP_LIMIT)
            .unwrap_or_else(|| panic!("node {} did not exit within {STOP_LIMIT:?}", index + 1))
    }

    /// Indexes of the nodes that run.
    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|index| self.nodes[*index].child.is_some()).collect()
    }

    /// What a node says of itself and, as far as it has replicas of them, of its ranges.
    pub async fn status(&self, index: usize) -> Result<pb::StatusResponse, String> {
        status(&self.nodes[index].rpc).await
    }

    /// Waits until every range has as many replicas as it should, all of them having applied the
    /// same entries, and a leader that holds its lease.
    pub async fn wait_until_replicated(&self, limit: Duration) {
        self.wait_for_replicas(limit, 0).await;
    }

    /// The same while clients write: the replicas may lie a little apart.
    pub async fn wait_until_replicated_under_load(&self, limit: Duration) {
        self.wait_for_replicas(limit, ENTRIES_APART_MAX).await;
    }

    async fn wait_for_replicas(&self, limit: Duration, apart_max: u64) {
        let wanted = self.nodes.len().min(self.replicas);
        wait_until_async("every range is fully replicated", limit, async || {
            let mut ranges = std::collections::BTreeMap::<u64, Vec<pb::RangeStatus>>::new();
            let running = self.running();
            for index in &running {
                let Ok(status) = self.status(*index).await else {
                    return false;
                };
                for range in status.ranges {
                    let id = range.descriptor.as_ref().map_or(0, |found| found.range_id);
                    ranges.entry(id).or_default().push(range);
                }
            }
            let wanted = wanted.min(running.len());
            !ranges.is_empty()
                && ranges.values().all(|replicas| is_whole(replicas, wanted, apart_max))
        })
        .await;
    }

    /// The running node that leads the range with the most applied entries.
    pub async fn leader_of_the_busiest_range(&self) -> usize {
        let mut best = (0, 0);
        for index in self.running() {
            let Ok(status) = self.status(index).await else {
                continue;
            };
            for range in status.ranges.iter().filter(|range| range.leader) {
                best = best.max((range.applied, index));
            }
        }
        best.1
    }

    /// Resident memory of a node, in bytes.
    pub fn resident_bytes(&self, index: usize) -> u64 {
        resident_bytes(self.pid(index))
    }
}

fn is_whole(replicas: &[pb::RangeStatus], wanted: usize, apart_max: u64) -> bool {
    let furthest = replicas.iter().map(|range| range.applied).max().unwrap_or(0);
    let members = replicas.iter().filter_map(|range| range.descriptor.as_ref());
    replicas.len() >= wanted
        && replicas.iter().all(|range| range.applied + apart_max >= furthest)
        && replicas.iter().filter(|range| range.leader && range.lease).count() == 1
        && members.map(|descriptor| descriptor.replicas.len()).max() >= Some(wanted)
}

/// Asks the node at `rpc_addr` for its status.
pub async fn status(rpc_addr: &str) -> Result<pb::StatusResponse, String> {
    let request = pb::node_request::Body::Status(pb::StatusRequest { ranges: true });
    let call = pb::Call {
        node: Some(pb::NodeRequest { body: Some(request) }),
        timeout_ms: 5_000,
        ..pb::Call::default()
    };
    let reply = RemoteNode::new(rpc_addr).call(call).await.map_err(|error| error.to_string())?;
    match reply.node.and_then(|node| node.body) {
        Some(pb::node_response::Body::Status(status)) => Ok(status),
        Some(pb::node_response::Body::Error(error)) => Err(error.message),
        _ => Err(reply.error.map_or("no status in the reply".into(), |error| error.message)),
    }
}

/// Resident memory of a process, in bytes; 0 if it is gone.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Waits for an exit; `None` after the limit.
pub fn wait_for_exit(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let began = Instant::now();
    while began.elapsed() < limit {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        pause();
    }
    None
}

impl Node {
    fn data_dir(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    fn log(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }

    fn start(&mut self, role: &[String]) -> io::Result<()> {
        let offset = self.spawn(role)?;
        self.wait_until_serving(offset)
    }

    /// Starts the process; where in the log its words begin.
    fn spawn(&mut self, role: &[String]) -> io::Result<usize> {
        let log = OpenOptions::new().create(true).append(true).open(self.log())?;
        let offset = log.metadata()?.len() as usize;
        let mut command = Command::new(binary());
        command.arg("start").arg("--data-dir").arg(self.data_dir());
        command.args(["--sql-addr", &self.sql, "--rpc-addr", &self.rpc]);
        command.args(role).args(&self.args).envs(self.env.iter().cloned());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn()?);
        Ok(offset)
    }

    fn wait_until_serving(&mut self, offset: usize) -> io::Result<()> {
        let began = Instant::now();
        loop {
            let text = std::fs::read_to_string(self.log())?;
            let said = text.get(offset..).unwrap_or_default();
            if let (Some(sql), Some(rpc)) = (announced(said, "sql: "), announced(said, "rpc: ")) {
                self.sql = host_and_port(&sql);
                self.rpc = host_and_port(&rpc);
                return Ok(());
            }
            let child = self.child.as_mut().ok_or_else(|| io::Error::other("not started"))?;
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Err(io::Error::other(format!("it exited ({status}), saying:\n{said}")));
            }
            if began.elapsed() > START_LIMIT {
                let message = format!("it does not serve after {START_LIMIT:?}, saying:\n{said}");
                return Err(io::Error::other(message));
            }
            pause();
        }
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// What follows the label on a whole line of its own.
fn announced(text: &str, label: &str) -> Option<String> {
    let end = text.rfind('\n')?;
    text[..end].lines().find_map(|line| line.strip_prefix(label)).map(|rest| rest.trim().to_owned())
}

/// `127.0.0.1:1` out of `127.0.0.1:1` or `postgres://user@127.0.0.1:1/database`.
fn host_and_port(address: &str) -> String {
    let rest = address.split("://").last().unwrap_or_default();
    let rest = rest.split('/').next().unwrap_or_default();
    rest.rsplit('@').next().unwrap_or_default().to_owned()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.kill();
        }
        if std::thread::panicking() {
            for node in &self.nodes {
                print_tail(&node.name, &node.log());
            }
        }
    }
}

fn print_tail(name: &str, log: &Path) {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(LOG_LINES_SHOWN);
    eprintln!("---- the end of {name}'s log ({} lines)", lines.len());
    for line in &lines[first..] {
        eprintln!("{line}");
    }
}

/// `quorate demo --no-shell`: a whole cluster in one process.
pub struct Demo {
    child: Child,
    url: String,
    folder: tempfile::TempDir,
}

impl Demo {
    /// Starts it with further arguments and waits for its connection URL.
    pub fn start(args: &[&str]) -> io::Result<Demo> {
        let folder = tempfile::Builder::new().prefix("quorate-demo-").tempdir()?;
        let log_path = folder.path().join("log");
        let log = File::create(&log_path)?;
        let mut command = Command::new(binary());
        command.args(["demo", "--no-shell"]).args(args);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut demo = Demo { child: command.spawn()?, url: String::new(), folder };
        let began = Instant::now();
        loop {
            let said = demo.log();
            if let Some(rest) = announced(&said, "postgres://") {
                demo.url = format!("postgres://{rest}");
                return Ok(demo);
            }
            if let Some(status) = demo.child.try_wait()? {
                return Err(io::Error::other(format!("demo exited ({status}), saying:\n{said}")));
            }
            if began.elapsed() > START_LIMIT {
                return Err(io::Error::other(format!("demo does not serve, saying:\n{said}")));
            }
            pause();
        }
    }

    /// Connection URL that it printed.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Sends SIGTERM and waits for the exit.
    pub fn terminate(&mut self) -> ExitStatus {
        assert!(signal(self.child.id(), "TERM"), "the demo is gone");
        wait_for_exit(&mut self.child, STOP_LIMIT)
            .unwrap_or_else(|| panic!("the demo did not exit within {STOP_LIMIT:?}"))
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            print_tail("the demo", &self.folder.path().join("log"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_from_whole_lines_only() {
        let text = "noise\nsql: postgres://quorate@127.0.0.1:7/quorate\nrpc: 127.0.0.1:8";
        let sql = announced(text, "sql: ").unwrap();
        assert_eq!(host_and_port(&sql), "127.0.0.1:7");
        assert_eq!(announced(text, "rpc: "), None);
        assert_eq!(host_and_port("127.0.0.1:8"), "127.0.0.1:8");
    }

    #[test]
    fn a_range_is_whole_when_its_replicas_agree_and_one_leads() {
        let replica = |applied, leader| pb::RangeStatus {
            descriptor: Some(pb::RangeDescriptor {
                replicas: vec![pb::Replica::default(); 3],
                ..pb::RangeDescriptor::default()
            }),
            leader,
            lease: leader,
            applied,
            ..pb::RangeStatus::default()
        };
        let whole = [replica(5, false), replica(5, true), replica(5, false)];
        assert!(is_whole(&whole, 3, 0));
        assert!(!is_whole(&whole[..2], 3, 0));
        assert!(!is_whole(&[replica(5, false), replica(5, true), replica(4, false)], 3, 0));
        assert!(!is_whole(&[replica(5, false), replica(5, false), replica(5, false)], 3, 0));
        assert!(!is_whole(&[replica(5, true), replica(5, true), replica(5, false)], 3, 0));
    }

    #[test]
    fn our_own_memory_can_be_read() {
        assert!(resident_bytes(std::process::id()) > 100_000);
    }
}
