//! Files that are written when a run is over, and opened before it begins: what cannot be written
//! is refused before anybody waits for it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::BenchError;

/// A file that will be written. What it holds stays there until then.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    file: File,
}

impl Output {
    /// Opens a file, which is made if it is not there.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn open(path: &Path) -> Result<Self, BenchError> {
        let path = path.to_path_buf();
        match OpenOptions::new().write(true).create(true).truncate(false).open(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(BenchError::File { path, source }),
        }
    }

    /// Opens a file if one is asked for.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn open_if_asked(path: Option<&PathBuf>) -> Result<Option<Self>, BenchError> {
        path.map(|path| Self::open(path)).transpose()
    }

    /// Writes this instead of what the file held; where it is.
    ///
    /// # Errors
    /// The system's, with the name of the file.
    pub fn write(
        self,
        content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<PathBuf, BenchError> {
        let Self { path, file } = self;
        match replace(&file, content) {
            Ok(()) => Ok(path),
            Err(source) => Err(BenchError::File { path, source }),
        }
    }
}

fn replace(file: &File, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    // A pipe or a device has no length.
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    let mut to = BufWriter::new(file);
    content(&mut to)?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_what_it_holds_until_it_is_written() {
        let folder = tempfile::tempdir().expect("makes a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, "of an earlier run").expect("writes");
        let output = Output::open(&path).expect("opens");
        assert_eq!(std::fs::read_to_string(&path).expect("reads"), "of an earlier run");
        assert_eq!(output.write(|to| to.write_all(b"new")).expect("writes"), path);
        assert_eq!(std::fs::read_to_string(&path).expect("reads"), "new");
    }

    #[test]
    fn a_path_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().expect("makes a folder");
        let path = folder.path().join("nowhere").join("file");
        let refused = Output::open_if_asked(Some(&path)).expect_err("there is no such folder");
        let said = refused.to_string();
        assert!(said.starts_with(&format!("cannot write {}: ", path.display())), "{said}");
        assert!(Output::open_if_asked(None).expect("nothing is asked for").is_none());
    }

    #[test]
    fn devices_can_be_written() {
        let output = Output::open(Path::new("/dev/null")).expect("opens");
        output.write(|to| to.write_all(b"nothing is kept")).expect("writes");
    }
}
