//! What a session says of a statement to its transaction.

use std::sync::Arc;
use std::time::Duration;

/// What the session says of a statement.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The session's application.
    pub application: String,
    /// The statement's text.
    pub statement: Arc<str>,
    /// `lock_timeout`
    pub lock_timeout: Option<Duration>,
}

impl Default for Terms {
    fn default() -> Self {
        Self { application: String::new(), statement: Arc::from(""), lock_timeout: None }
    }
}
