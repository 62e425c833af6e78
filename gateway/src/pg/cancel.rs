//! Cancel requests: a second connection names the first by its process id and secret.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use pgwire::messages::startup::SecretKey;
use tokio::sync::Notify;

/// The sessions that can be cancelled.
///
/// # Invariants
/// * A session is in the map exactly while its [`Registration`] lives.
#[derive(Default)]
pub struct CancelRegistry {
    sessions: Mutex<Sessions>,
}

#[derive(Default)]
struct Sessions {
    by_pid: HashMap<i32, (i32, Arc<Notify>)>,
    next_pid: i32,
}

/// A session's entry; it goes when this is dropped.
pub struct Registration {
    registry: Arc<CancelRegistry>,
    /// What the client is told as its backend's process id.
    pub pid: i32,
    /// What it must repeat to cancel.
    pub secret: i32,
    /// Woken by a cancel request, and when the node stops.
    pub cancelled: Arc<Notify>,
}

impl CancelRegistry {
    /// Gives a new session its process id and secret.
    pub fn register(self: &Arc<Self>, secret: i32) -> Registration {
        let cancelled = Arc::new(Notify::new());
        let mut sessions = self.sessions.lock();
        let pid = loop {
            sessions.next_pid = sessions.next_pid.checked_add(1).unwrap_or(1);
            if !sessions.by_pid.contains_key(&sessions.next_pid) {
                break sessions.next_pid;
            }
        };
        sessions.by_pid.insert(pid, (secret, cancelled.clone()));
        Registration { registry: self.clone(), pid, secret, cancelled }
    }

    /// Wakes the session if the secret is right; says nothing otherwise, as Postgres.
    pub fn cancel(&self, pid: i32, secret: &SecretKey) {
        let sessions = self.sessions.lock();
        if let Some((expected, cancelled)) = sessions.by_pid.get(&pid)
            && SecretKey::I32(*expected).eq_value(secret)
        {
            // Kept if the session is just where it cannot be interrupted: it hears of it soon.
            cancelled.notify_one();
        }
    }

    /// Wakes all sessions: they are to end.
    pub fn cancel_all(&self) {
        self.sessions.lock().by_pid.values().for_each(|(_, cancelled)| cancelled.notify_one());
    }

    /// How many sessions are open.
    pub fn len(&self) -> usize {
        self.sessions.lock().by_pid.len()
    }

    /// Whether no session is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.sessions.lock().by_pid.remove(&self.pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_secret_cancels() {
        let registry = Arc::new(CancelRegistry::default());
        let session = registry.register(7);
        let cancelled = session.cancelled.clone();
        let waiting = cancelled.notified();
        tokio::pin!(waiting);
        waiting.as_mut().enable();
        registry.cancel(session.pid, &SecretKey::I32(8));
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        registry.cancel(session.pid, &SecretKey::I32(7));
        assert!(futures::poll!(waiting.as_mut()).is_ready());
        drop(session);
        assert!(registry.is_empty());
    }
}
