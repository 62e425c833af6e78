//! A data disk that runs full: writes are refused before the reserve is gone, reads go on, and
//! everything recovers when space returns.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use quorate_tests::bank::{self, sqlstate};
use quorate_tests::cluster::{self, Cluster, Options};
use quorate_tests::process::wait_until_async;

/// Size of the disk.
const DISK_BYTES: u64 = 512 << 20;

/// What the node keeps free.
const RESERVE_BYTES: u64 = 128 << 20;

/// How long the node may take to notice.
const PATIENCE: Duration = Duration::from_secs(60);

/// A small file system in memory, unmounted when dropped.
struct Disk {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Disk {
    /// `None`, saying so, where this process may not mount.
    fn mount() -> Option<Disk> {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let path = folder.path().join("disk");
        std::fs::create_dir(&path).expect("a folder can be made");
        let size = format!("size={DISK_BYTES}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "quorate-test"])
            .arg(&path)
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("skipped: a full disk needs a file system of its own, and mount is refused");
            return None;
        }
        Some(Disk { path, _folder: folder })
    }

    /// Bytes that are free.
    fn free(&self) -> u64 {
        let output = Command::new("df").args(["--output=avail", "-B1"]).arg(&self.path).output();
        let text = String::from_utf8_lossy(&output.expect("df can be run").stdout).into_owned();
        let last = text.lines().last().unwrap_or_default().trim().to_owned();
        last.parse().expect("df prints a number")
    }

    /// Leaves this many bytes free.
    fn fill(&self, leave: u64) {
        let bytes = self.free().saturating_sub(leave);
        let status = Command::new("fallocate")
            .args(["-l", &bytes.to_string()])
            .arg(self.path.join("filler"))
            .status();
        assert!(status.expect("fallocate can be run").success());
    }

    fn relieve(&self) {
        std::fs::remove_file(self.path.join("filler")).expect("the filler is there");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.path).status().ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_serves_reads_and_recovers() {
    let _alone = cluster::alone().await;
    let Some(disk) = Disk::mount() else { return };
    let reserve = RESERVE_BYTES.to_string();
    let args = ["--replicas", "1", "--disk-reserve", &reserve].map(str::to_owned).to_vec();
    let base = Some(disk.path.clone());
    let mut cluster = Cluster::start(Options { nodes: 1, args, base, ..Options::default() }).await;
    let client = bank::connect(&cluster.url(0)).await.expect("the server answers");
    client.batch_execute("CREATE TABLE full (id int4 PRIMARY KEY, t text)").await.expect("made");
    client.batch_execute("INSERT INTO full VALUES (1, 'before')").await.expect("inserted");

    disk.fill(RESERVE_BYTES / 2);
    let mut id = 1;
    let mut last = String::new();
    wait_until_async("a write is refused", PATIENCE, async || {
        id += 1;
        let insert = format!("INSERT INTO full VALUES ({id}, 'meanwhile')");
        last = client.batch_execute(&insert).await.err().map(|e| sqlstate(&e)).unwrap_or_default();
        !last.is_empty()
    })
    .await;
    assert_eq!(last, "53100");
    let row = client.query_one("SELECT t FROM full WHERE id = 1", &[]).await.expect("reads go on");
    assert_eq!(row.get::<_, String>(0), "before");
    client.batch_execute("DELETE FROM full WHERE id = 1").await.expect("a delete makes room");
    assert!(disk.free() > 0, "the reserve is gone");

    // Even killed and started again on the full disk it serves reads.
    cluster.kill(0);
    cluster.restart(0);
    let client = bank::connect(&cluster.url(0)).await.expect("the server answers");
    client.query_one("SELECT count(*) FROM full", &[]).await.expect("reads go on");
    disk.relieve();
    wait_until_async("a write is accepted again", PATIENCE, async || {
        client.batch_execute("INSERT INTO full VALUES (0, 'after')").await.is_ok()
    })
    .await;
}
