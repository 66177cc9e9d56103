//! Open files and directories by the number that the front-end gave its kernel.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::error::{Errno, Result};

const SHARDS: usize = 16;

/// A table of open things; numbers are never used twice.
pub(super) struct HandleTable<T> {
    shards: [RwLock<HashMap<u64, Arc<T>>>; SHARDS],
    next: AtomicU64,
}

impl<T> HandleTable<T> {
    pub(super) fn new() -> Self {
        Self { shards: std::array::from_fn(|_| RwLock::default()), next: AtomicU64::new(1) }
    }

    pub(super) fn insert(&self, value: T) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut shard = self.shard(id).write().unwrap_or_else(PoisonError::into_inner);
        shard.insert(id, Arc::new(value));
        id
    }

    /// All open things with their numbers, and the number that the next one gets.
    pub(super) fn numbered(&self) -> (Vec<(u64, Arc<T>)>, u64) {
        let mut found = Vec::with_capacity(self.len());
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            found.extend(shard.iter().map(|(&id, value)| (id, Arc::clone(value))));
        }
        (found, self.next.load(Ordering::Relaxed))
    }

    /// Something that has its number already.
    pub(super) fn restore(&self, id: u64, value: T) {
        self.go_on_from(id + 1);
        let mut shard = self.shard(id).write().unwrap_or_else(PoisonError::into_inner);
        shard.insert(id, Arc::new(value));
    }

    /// Gives no number below this one.
    pub(super) fn go_on_from(&self, next: u64) {
        self.next.fetch_max(next, Ordering::Relaxed);
    }

    pub(super) fn get(&self, id: u64) -> Result<Arc<T>> {
        let shard = self.shard(id).read().unwrap_or_else(PoisonError::into_inner);
        shard.get(&id).cloned().ok_or(Errno::BADF)
    }

    pub(super) fn remove(&self, id: u64) -> Option<Arc<T>> {
        self.shard(id).write().unwrap_or_else(PoisonError::into_inner).remove(&id)
    }

    /// Those for which something holds.
    pub(super) fn all(&self, holds: impl Fn(&T) -> bool) -> Vec<Arc<T>> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            found.extend(shard.values().filter(|value| holds(value)).cloned());
        }
        found
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|s| s.read().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    fn shard(&self, id: u64) -> &RwLock<HashMap<u64, Arc<T>>> {
        &self.shards[(id % SHARDS as u64) as usize]
    }
}
