//! Planned statements, kept by what decides their plan.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// A map that forgets what was used longest ago once it is full.
///
/// # Invariants
///
/// * It never holds more than its capacity, nor more text than `TEXT_BYTES_MAX`.
#[derive(Debug)]
pub struct PlanCache<K, V> {
    entries: Mutex<Entries<K, V>>,
    capacity: usize,
    clock: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Debug)]
struct Entries<K, V> {
    map: HashMap<K, Entry<V>>,
    text: usize,
}

#[derive(Debug)]
struct Entry<V> {
    value: Arc<V>,
    used: u64,
    text: usize,
}

/// Bytes of text whose plans are kept: plans are several times as large.
const TEXT_BYTES_MAX: usize = 16 << 20;

/// How often something was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStats {
    /// Looked up and found.
    pub hits: u64,
    /// Looked up and not found.
    pub misses: u64,
    /// Held now.
    pub entries: usize,
}

impl<K: Hash + Eq + Clone, V> PlanCache<K, V> {
    /// An empty cache of at most `capacity` (at least one) entries.
    pub fn new(capacity: usize) -> Self {
        Self {
            entries: Mutex::new(Entries { map: HashMap::new(), text: 0 }),
            capacity: capacity.max(1),
            clock: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// What is kept under a key.
    pub fn get(&self, key: &K) -> Option<Arc<V>> {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        let mut entries = self.entries.lock();
        match entries.map.get_mut(key) {
            Some(entry) => {
                entry.used = now;
                self.hits.fetch_add(1, Ordering::Relaxed);
                Some(Arc::clone(&entry.value))
            }
            None => {
                self.misses.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    /// Keeps a value that was made of so many bytes of text. Of two that were made at the same time
    /// the first stays.
    pub fn insert(&self, key: K, value: Arc<V>, text: usize) -> Arc<V> {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        let Entries { map, text: kept } = &mut *self.entries.lock();
        if let Some(entry) = map.get(&key) {
            return Arc::clone(&entry.value);
        }
        if text > TEXT_BYTES_MAX {
            return value;
        }
        while map.len() >= self.capacity || *kept + text > TEXT_BYTES_MAX {
            // An eighth at once, so that a full cache is not sorted for every statement.
            let mut ages: Vec<u64> = map.values().map(|entry| entry.used).collect();
            ages.sort_unstable();
            let limit = ages[ages.len() / 8];
            map.retain(|_, entry| entry.used > limit);
            *kept = map.values().map(|entry| entry.text).sum();
        }
        *kept += text;
        map.insert(key, Entry { value: Arc::clone(&value), used: now, text });
        assert!(map.len() <= self.capacity, "it never holds more than its capacity");
        value
    }

    /// Counters.
    pub fn stats(&self) -> CacheStats {
        CacheStats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            entries: self.entries.lock().map.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_cache_forgets_what_was_used_longest_ago() {
        let cache = PlanCache::new(8);
        for n in 0..8 {
            cache.insert(n, Arc::new(n), 1);
        }
        assert_eq!(cache.get(&0).as_deref(), Some(&0));
        cache.insert(8, Arc::new(8), 1);
        assert_eq!(cache.get(&0).as_deref(), Some(&0), "used lately");
        assert_eq!(cache.get(&1), None, "used longest ago");
        assert!(cache.stats().entries <= 8);
    }

    #[test]
    fn long_texts_push_out_others_and_none_fills_it_beyond_its_bound() {
        let cache = PlanCache::new(100);
        for n in 0..10 {
            cache.insert(n, Arc::new(n), 1);
        }
        cache.insert(10, Arc::new(10), TEXT_BYTES_MAX + 1);
        assert_eq!(cache.get(&10), None);
        cache.insert(11, Arc::new(11), TEXT_BYTES_MAX - 2);
        assert_eq!(cache.get(&11).as_deref(), Some(&11));
        assert_eq!(cache.get(&9).as_deref(), Some(&9), "used last of those before");
        assert!(cache.stats().entries <= 3);
        cache.insert(12, Arc::new(12), TEXT_BYTES_MAX);
        assert_eq!(cache.stats().entries, 1);
    }

    #[test]
    fn the_first_of_two_values_for_a_key_stays() {
        let cache = PlanCache::new(4);
        cache.insert("k", Arc::new(1), 1);
        assert_eq!(*cache.insert("k", Arc::new(2), 1), 1);
        let stats = cache.stats();
        assert_eq!((stats.hits, stats.misses, stats.entries), (0, 0, 1));
    }
}
