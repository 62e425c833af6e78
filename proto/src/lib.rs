//! The wire contract between Quorate's nodes: ids, messages, errors that cross nodes, and the
//! trait through which a gateway reaches a node's storage, in the same process or over tonic.
//!
//! * [`ids`]: newtypes for what travels as plain numbers and bytes.
//! * [`pb`]: the generated messages (`proto/*.proto`). They are plain Rust structs: a call to a
//!   node in the same process hands them over as they are, without encoding.
//! * [`NodeService`]: one call to a node; [`RemoteNode`] makes it over one tonic stream per node.
//! * [`error`]: what can go wrong on the way, sorted by what the caller must do.

pub mod client;
pub mod error;
pub mod ids;
pub mod service;

/// Messages and tonic code generated from `proto/*.proto`.
#[allow(missing_docs, clippy::all, clippy::disallowed_methods)]
pub mod pb {
    tonic::include_proto!("quorate.v1");
}

pub use client::RemoteNode;
pub use error::{CallError, RetryClass};
pub use ids::{NodeId, PeerId, RangeId, Timestamp, TxnId};
pub use service::{CallServer, Connector, NodeService};

/// Raised when a release changes what is on disk or on the wire in a way older ones cannot read.
pub const FORMAT_VERSION: u32 = 1;
