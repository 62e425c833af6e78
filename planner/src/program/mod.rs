//! Scan programs: the part of a scan that runs beside the data (filter, projection, limit), as bytes
//! that a gateway sends with a scan and a node runs over the rows it reads.

use bytes::Bytes;

/// A program in the form it travels in. Parameters are already replaced by their values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanProgram {
    bytes: Bytes,
}

impl ScanProgram {
    /// A program from its bytes; they are looked at only when an engine starts it.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into() }
    }

    /// The bytes to send.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}
