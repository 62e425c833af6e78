//! The reserve of rule S5: raft-engine panics and RocksDB stops when the disk is full, so a node
//! refuses writes while there is still room for its log, flushes, compactions and deletes.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

/// The least default reserve.
pub const RESERVE_BYTES_MIN: u64 = 1 << 30;
/// The default reserve is at least this part of the disk, in percent.
pub const RESERVE_PERCENT: u64 = 5;
/// Writes are taken again only when free space is above the reserve by this part of the reserve,
/// in percent: not once per deleted row.
pub const RESUME_PERCENT: u64 = 10;

/// A disk's space, in bytes, as an unprivileged process may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// Free.
    pub free: u64,
    /// The whole disk.
    pub total: u64,
}

/// Where free space is asked; tests and the simulator have their own.
pub trait FreeSpace: Send + Sync + fmt::Debug {
    /// The space now.
    ///
    /// # Errors
    /// From the system.
    fn space(&self) -> io::Result<Space>;
}

/// The file system a folder is on.
#[derive(Debug)]
pub struct FolderSpace(PathBuf);

impl FolderSpace {
    /// Of this folder.
    pub fn new(dir: &Path) -> Self {
        Self(dir.to_owned())
    }
}

impl FreeSpace for FolderSpace {
    fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(&self.0)?;
        Ok(Space {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }
}

/// How much stays free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reserve {
    /// The larger of [`RESERVE_BYTES_MIN`] and [`RESERVE_PERCENT`].
    Default,
    /// So many bytes.
    Bytes(u64),
    /// A file of so many bytes that is held on the disk, so that other programs cannot use the
    /// reserve up; it is given back to the disk when the rest is full.
    Ballast {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
}

/// Whether writes are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskState {
    /// Yes.
    Ok,
    /// No: refuse writing proposals with `53100`; reads, deletes by TRUNCATE or DROP, log,
    /// flushes and compactions go on.
    ReserveReached {
        /// Bytes free when last looked.
        free: u64,
        /// Bytes that must stay free.
        reserve: u64,
    },
}

impl fmt::Display for DiskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::ReserveReached { free, reserve } => {
                write!(f, "the data disk has {free} bytes left and {reserve} are kept in reserve")
            }
        }
    }
}

/// Watches one disk.
///
/// # Invariants
/// * The ballast is on the disk exactly while the state is `Ok` (as far as the disk had room).
#[derive(Debug)]
pub struct DiskGuard {
    source: Arc<dyn FreeSpace>,
    reserve: Reserve,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: DiskState,
    ballast_held: bool,
}

impl DiskGuard {
    /// Looks at the disk for the first time and sets the ballast up.
    ///
    /// # Errors
    /// From the system.
    pub fn new(source: Arc<dyn FreeSpace>, reserve: Reserve) -> io::Result<Self> {
        let ballast_held = match &reserve {
            Reserve::Ballast { path, bytes } => {
                fs::metadata(path).is_ok_and(|file| file.len() == *bytes)
            }
            Reserve::Default | Reserve::Bytes(_) => false,
        };
        let state = DiskState::Ok;
        let guard = Self { source, reserve, inner: Mutex::new(Inner { state, ballast_held }) };
        guard.poll()?;
        Ok(guard)
    }

    /// The state when last looked; cheap.
    pub fn state(&self) -> DiskState {
        self.inner.lock().state
    }

    /// Looks at the disk. Call it about once a second and after a flush.
    ///
    /// # Errors
    /// From the system; the state stays as it was.
    pub fn poll(&self) -> io::Result<DiskState> {
        let mut inner = self.inner.lock();
        let space = self.source.space()?;
        let reserve = self.reserve_bytes(space);
        // What the ballast holds is free for us.
        let held = if inner.ballast_held { reserve } else { 0 };
        let free = match self.reserve {
            Reserve::Ballast { .. } => space.free.saturating_add(held),
            Reserve::Default | Reserve::Bytes(_) => space.free,
        };
        let resume_above = reserve.saturating_add(reserve / 100 * RESUME_PERCENT);
        let enough = match inner.state {
            DiskState::Ok => free > reserve,
            DiskState::ReserveReached { .. } => free > resume_above,
        };
        inner.state =
            if enough { DiskState::Ok } else { DiskState::ReserveReached { free, reserve } };
        self.set_ballast(&mut inner, enough)?;
        Ok(inner.state)
    }

    fn reserve_bytes(&self, space: Space) -> u64 {
        match &self.reserve {
            Reserve::Default => RESERVE_BYTES_MIN.max(space.total / 100 * RESERVE_PERCENT),
            Reserve::Bytes(bytes) | Reserve::Ballast { bytes, .. } => *bytes,
        }
    }

    fn set_ballast(&self, inner: &mut Inner, hold: bool) -> io::Result<()> {
        let Reserve::Ballast { path, bytes } = &self.reserve else {
            return Ok(());
        };
        if hold && !inner.ballast_held {
            write_ballast(path, *bytes)?;
            inner.ballast_held = true;
        } else if !hold && inner.ballast_held {
            fs::remove_file(path)?;
            inner.ballast_held = false;
        }
        Ok(())
    }
}

/// Makes a file whose blocks are allocated, not a sparse one.
fn write_ballast(path: &Path, bytes: u64) -> io::Result<()> {
    let file = fs::File::create(path)?;
    let allocated = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes);
    if let Err(error) = allocated {
        // A partial file would be taken for the whole reserve later.
        drop(file);
        fs::remove_file(path)?;
        return Err(error.into());
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct FakeSpace(Mutex<Space>);

    impl FakeSpace {
        fn set(&self, free: u64) {
            *self.0.lock() = Space { free, total: 1000 << 30 };
        }
    }

    impl FreeSpace for FakeSpace {
        fn space(&self) -> io::Result<Space> {
            Ok(*self.0.lock())
        }
    }

    #[test]
    fn default_reserve_is_the_larger_of_a_gibibyte_and_five_percent() {
        let source = Arc::new(FakeSpace::default());
        source.set(51 << 30);
        let guard = DiskGuard::new(source.clone(), Reserve::Default).expect("fake");
        assert_eq!(guard.state(), DiskState::Ok);
        source.set(49 << 30);
        assert_eq!(guard.state(), DiskState::Ok, "the state is of the last look");
        let reached = guard.poll().expect("fake");
        assert!(matches!(reached, DiskState::ReserveReached { free, .. } if free == 49 << 30));
        *source.0.lock() = Space { free: 1 << 29, total: 10 << 30 };
        let small = DiskGuard::new(source, Reserve::Default).expect("fake");
        let want = DiskState::ReserveReached { free: 1 << 29, reserve: 1 << 30 };
        assert_eq!(small.state(), want);
    }

    #[test]
    fn writes_are_taken_again_only_well_above_the_reserve() {
        let source = Arc::new(FakeSpace::default());
        source.set(1000);
        let guard = DiskGuard::new(source.clone(), Reserve::Bytes(1000)).expect("fake");
        assert_ne!(guard.state(), DiskState::Ok);
        source.set(1050);
        assert_ne!(guard.poll().expect("fake"), DiskState::Ok);
        source.set(1101);
        assert_eq!(guard.poll().expect("fake"), DiskState::Ok);
        source.set(1050);
        assert_eq!(guard.poll().expect("fake"), DiskState::Ok);
    }

    #[test]
    fn ballast_is_given_back_when_the_rest_is_full_and_taken_again() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("ballast");
        let source = Arc::new(FakeSpace::default());
        source.set(1 << 20);
        let reserve = Reserve::Ballast { path: path.clone(), bytes: 1 << 16 };
        let guard = DiskGuard::new(source.clone(), reserve).expect("fake");
        assert_eq!(fs::metadata(&path).expect("made").len(), 1 << 16);
        source.set(0);
        assert_ne!(guard.poll().expect("fake"), DiskState::Ok);
        assert!(!path.exists());
        // Its own blocks coming back do not end the shortage.
        source.set(1 << 16);
        assert_ne!(guard.poll().expect("fake"), DiskState::Ok);
        source.set(1 << 17);
        assert_eq!(guard.poll().expect("fake"), DiskState::Ok);
        assert!(path.exists());
    }

    #[test]
    fn folder_space_is_the_file_systems() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let space = FolderSpace::new(dir.path()).space().expect("it exists");
        assert!(space.free <= space.total && space.total > 0);
        assert!(FolderSpace::new(&dir.path().join("missing")).space().is_err());
    }
}
