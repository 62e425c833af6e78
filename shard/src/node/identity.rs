//! Who a node is and what it must not forget: kept in the Raft log's store, which is durable before
//! the engine is.

use std::time::Duration;

use bytes::Bytes;
use quorate_proto::{FORMAT_VERSION, NodeId, Timestamp, pb};
use quorate_txn::config::MAX_CLOCK_OFFSET;

use super::OpenError;
use crate::log::{LogBatch, LogError, LogStore};

const IDENTITY_KEY: &[u8] = b"node/identity";
const CLOCK_KEY: &[u8] = b"node/clock-bound";
const ADDRESSES_KEY: &[u8] = b"node/addresses";

/// Who a node is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    /// Of the folder.
    pub format: u32,
    /// 16 bytes.
    pub cluster_id: Vec<u8>,
    /// Its number in the cluster.
    pub node_id: NodeId,
    /// It began the cluster and has not finished that yet.
    pub bootstrapping: bool,
    /// How far clocks may be apart in its cluster. Folders from before it was a setting have the
    /// default.
    #[serde(default = "default_clock_offset_us")]
    pub max_clock_offset_us: u64,
}

fn default_clock_offset_us() -> u64 {
    clock_offset_us(MAX_CLOCK_OFFSET)
}

/// In the unit in which it is written down and sent.
pub fn clock_offset_us(offset: Duration) -> u64 {
    u64::try_from(offset.as_micros()).unwrap_or(u64::MAX)
}

impl Identity {
    /// Of a node of this release.
    pub fn new(
        cluster_id: &[u8],
        node_id: NodeId,
        bootstrapping: bool,
        max_clock_offset: Duration,
    ) -> Self {
        Self {
            format: FORMAT_VERSION,
            cluster_id: cluster_id.to_vec(),
            node_id,
            bootstrapping,
            max_clock_offset_us: clock_offset_us(max_clock_offset),
        }
    }

    /// How far clocks may be apart in its cluster.
    pub fn max_clock_offset(&self) -> Duration {
        Duration::from_micros(self.max_clock_offset_us)
    }

    /// Reads it; `None` in an empty folder.
    ///
    /// # Errors
    /// Written by a newer release, or damaged.
    pub fn load(log: &dyn LogStore) -> Result<Option<Self>, OpenError> {
        #[derive(serde::Deserialize)]
        struct Format {
            format: u32,
        }
        let Some(bytes) = log.meta(IDENTITY_KEY) else { return Ok(None) };
        let damaged = |e: serde_json::Error| OpenError::Damaged(format!("its identity: {e}"));
        let Format { format: found } = serde_json::from_slice(&bytes).map_err(damaged)?;
        if found > FORMAT_VERSION {
            return Err(OpenError::NewerFormat { found, known: FORMAT_VERSION });
        }
        serde_json::from_slice(&bytes).map(Some).map_err(damaged)
    }

    /// Writes it down.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn store(&self, log: &dyn LogStore) -> Result<(), LogError> {
        let bytes = serde_json::to_vec(self).map_err(|e| LogError::Failed(e.to_string()))?;
        put(log, IDENTITY_KEY, bytes.into())
    }
}

fn put(log: &dyn LogStore, key: &'static [u8], value: Bytes) -> Result<(), LogError> {
    let mut batch = LogBatch::new();
    batch.put_meta(Bytes::from_static(key), value);
    log.append(&mut batch)
}

/// The bound of the clock's readings so far (rule T3); zero in an empty folder.
pub fn load_clock_bound(log: &dyn LogStore) -> Timestamp {
    let bytes = log.meta(CLOCK_KEY);
    let number = bytes.and_then(|bytes| bytes[..].try_into().ok()).map(u64::from_be_bytes);
    Timestamp(number.unwrap_or_default())
}

/// Writes it down.
///
/// # Errors
/// [`LogError`].
pub fn store_clock_bound(log: &dyn LogStore, bound: Timestamp) -> Result<(), LogError> {
    put(log, CLOCK_KEY, Bytes::copy_from_slice(&bound.0.to_be_bytes()))
}

/// The addresses of nodes known last; none if they do not decode: they come again.
pub fn load_addresses(log: &dyn LogStore) -> Vec<pb::NodeInfo> {
    let bytes = log.meta(ADDRESSES_KEY).unwrap_or_default();
    <pb::JoinResponse as prost::Message>::decode(bytes).map(|m| m.nodes).unwrap_or_default()
}

/// Writes them down.
///
/// # Errors
/// [`LogError`].
pub fn store_addresses(log: &dyn LogStore, nodes: Vec<pb::NodeInfo>) -> Result<(), LogError> {
    let message = pb::JoinResponse { nodes, ..pb::JoinResponse::default() };
    put(log, ADDRESSES_KEY, prost::Message::encode_to_vec(&message).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::MemLog;

    #[test]
    fn identity_survives_and_a_newer_one_is_refused_by_name() {
        let log = MemLog::new();
        assert_eq!(Identity::load(&log).expect("empty"), None);
        let mut identity = Identity::new(&[7; 16], NodeId(3), true, Duration::from_millis(80));
        identity.store(&log).expect("in memory");
        log.crash();
        assert_eq!(Identity::load(&log).expect("written"), Some(identity.clone()));
        identity.format = FORMAT_VERSION + 1;
        identity.store(&log).expect("in memory");
        let error = Identity::load(&log).expect_err("newer");
        assert!(error.to_string().contains("newer release"), "{error}");
    }

    #[test]
    fn an_identity_from_before_the_setting_has_the_default_clock_offset() {
        let log = MemLog::new();
        let id = [7; 16];
        let old = serde_json::json!({
            "format": FORMAT_VERSION, "cluster_id": id, "node_id": 3, "bootstrapping": false,
        });
        put(&log, IDENTITY_KEY, old.to_string().into()).expect("in memory");
        let identity = Identity::load(&log).expect("it decodes").expect("written");
        assert_eq!(identity, Identity::new(&id, NodeId(3), false, MAX_CLOCK_OFFSET));
        assert_eq!(identity.max_clock_offset(), Duration::from_millis(250));
    }

    #[test]
    fn clock_bound_and_addresses_survive() {
        let log = MemLog::new();
        assert_eq!(load_clock_bound(&log), Timestamp::ZERO);
        store_clock_bound(&log, Timestamp(77)).expect("in memory");
        let node = pb::NodeInfo { node_id: 2, rpc_addr: "h:1".into(), ..Default::default() };
        store_addresses(&log, vec![node.clone()]).expect("in memory");
        log.crash();
        assert_eq!(load_clock_bound(&log), Timestamp(77));
        assert_eq!(load_addresses(&log), vec![node]);
    }
}
