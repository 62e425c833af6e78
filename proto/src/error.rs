//! What can go wrong with a call, sorted by what the caller must do about it.

use crate::pb::{self, range_error::Kind};

/// A call that got no answer. Whether the work was done is unknown unless [`CallError::unsent`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The node could not be reached and nothing was sent.
    #[error("node {node} cannot be reached: {why}")]
    Unreachable {
        /// Its address or id.
        node: String,
        /// What the connection attempt said.
        why: String,
    },
    /// It was sent and no answer came: the connection broke.
    #[error("connection to node {node} broke before it answered")]
    Broken {
        /// Its address or id.
        node: String,
    },
    /// It was sent and no answer came in time.
    #[error("node {node} did not answer within {timeout_ms} ms")]
    TimedOut {
        /// Its address or id.
        node: String,
        /// How long was waited.
        timeout_ms: u64,
    },
}

impl CallError {
    /// Nothing reached the node, so nothing was done.
    pub fn unsent(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// What the receiver of a [`pb::RangeError`] must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryClass {
    /// Send it again to the same place, after a while.
    Here,
    /// Correct the route (the cure is in the error, or locate again) and send it there.
    There,
    /// Ask about the transaction in the way first.
    AfterLookup,
    /// The transaction cannot go on as it is: move its timestamp, replay it or tell the client.
    Transaction,
    /// The input is at fault; the same request fails again.
    Never,
    /// A write may or may not have happened: repeat it under the same id, or report `40003`.
    Unknown,
}

impl pb::RangeError {
    /// An error of this kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { message: message.into(), kind: Some(kind) }
    }

    /// What to do about it. An error without a kind comes from a newer node: never retried.
    pub fn retry_class(&self) -> RetryClass {
        match &self.kind {
            Some(Kind::NotLeader(_) | Kind::StaleRoute(_)) => RetryClass::There,
            Some(Kind::Locked(_)) => RetryClass::AfterLookup,
            Some(Kind::Unavailable(_)) => RetryClass::Here,
            Some(
                Kind::Conflict(_)
                | Kind::Uncertain(_)
                | Kind::TooOld(_)
                | Kind::Refused(_)
                | Kind::Busy(_),
            ) => RetryClass::Transaction,
            Some(Kind::Unknown(_)) => RetryClass::Unknown,
            Some(
                Kind::AlreadyExists(_)
                | Kind::DiskFull(_)
                | Kind::Invalid(_)
                | Kind::ClockSkew(_)
                | Kind::WrongCluster(_),
            )
            | None => RetryClass::Never,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_without_a_kind_is_never_retried() {
        assert_eq!(pb::RangeError::default().retry_class(), RetryClass::Never);
    }

    #[test]
    fn only_an_unreachable_node_did_nothing() {
        let node = String::from("n1");
        assert!(CallError::Unreachable { node: node.clone(), why: String::new() }.unsent());
        assert!(!CallError::Broken { node: node.clone() }.unsent());
        assert!(!CallError::TimedOut { node, timeout_ms: 1 }.unsent());
    }
}
