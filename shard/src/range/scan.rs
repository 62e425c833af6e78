//! Programs that run beside the data: the traits a SQL engine plugs in. The shard hands bytes over
//! and knows nothing of what they mean.

use bytes::Bytes;

/// Makes runs of programs.
pub trait ScanEngine: Send + Sync + 'static {
    /// Starts a program.
    ///
    /// # Errors
    /// Why it cannot run: the sender's fault.
    fn start(&self, program: &[u8]) -> Result<Box<dyn ScanRun>, String>;
}

/// One run of a program over the rows of a page.
pub trait ScanRun: Send {
    /// Takes the next row; `false`: it needs no more rows.
    ///
    /// # Errors
    /// Why the row cannot be processed.
    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<bool, String>;

    /// What it made of the rows. The last call.
    ///
    /// # Errors
    /// Why there is nothing.
    fn output(&mut self) -> Result<Bytes, String>;
}

/// Runs no programs: for nodes without SQL.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPrograms;

impl ScanEngine for NoPrograms {
    fn start(&self, _program: &[u8]) -> Result<Box<dyn ScanRun>, String> {
        Err(String::from("this node runs no scan programs"))
    }
}
