//! Which moments running transactions read: versions that one of them may see are kept (rule S1).

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use quorate_proto::Timestamp;

/// The moments that running transactions of this gateway read, with how many read each.
#[derive(Debug, Default)]
pub struct Running(Mutex<BTreeMap<Timestamp, usize>>);

/// A transaction that runs, until it is dropped.
#[derive(Debug)]
pub struct Reader {
    all: Arc<Running>,
    moment: Timestamp,
}

impl Running {
    /// A transaction reads this moment from now on.
    pub fn enter(self: &Arc<Self>, moment: Timestamp) -> Reader {
        *self.0.lock().entry(moment).or_default() += 1;
        Reader { all: self.clone(), moment }
    }

    /// The oldest moment that is read.
    pub fn oldest(&self) -> Option<Timestamp> {
        self.0.lock().first_key_value().map(|(moment, _)| *moment)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut all = self.all.0.lock();
        if let Some(count) = all.get_mut(&self.moment) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.moment);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_those_that_run_is_told() {
        let running = Arc::new(Running::default());
        assert_eq!(running.oldest(), None);
        let (late, early) = (running.enter(Timestamp(20)), running.enter(Timestamp(10)));
        let twin = running.enter(Timestamp(10));
        assert_eq!(running.oldest(), Some(Timestamp(10)));
        drop(early);
        assert_eq!(running.oldest(), Some(Timestamp(10)));
        drop(twin);
        assert_eq!(running.oldest(), Some(Timestamp(20)));
        drop(late);
        assert_eq!(running.oldest(), None);
    }
}
