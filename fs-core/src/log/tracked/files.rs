//! All tracked files of an engine, by key.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::{Start, Synced, Tracked};
use crate::engine::Lsn;
use crate::platform::{Backing, ObjectKey};
use crate::types::Attr;

const SHARDS: usize = 16;

/// A file that nobody has open for writing.
pub(crate) struct Closed<B: Backing> {
    file: Arc<Tracked<B>>,
    /// How often it had been opened.
    openings: u64,
}

/// All tracked files of an engine.
pub(crate) struct TrackedFiles<B: Backing> {
    shards: [Mutex<HashMap<ObjectKey, Arc<Tracked<B>>>>; SHARDS],
    hasher: RandomState,
}

impl<B: Backing> TrackedFiles<B> {
    pub(crate) fn new() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new() }
    }

    /// The file with this key, if programs write it.
    pub(crate) fn find(&self, key: &ObjectKey) -> Option<Arc<Tracked<B>>> {
        let key = key.portable();
        self.shard(&key).get(&key).cloned()
    }

    /// Notes an opening for writing. What `start` says is taken for true if the file
    /// was not tracked: nobody has written it since all was durable.
    pub(crate) fn opened(&self, key: &ObjectKey, start: impl FnOnce() -> Start) -> Arc<Tracked<B>> {
        let key = key.portable();
        let mut shard = self.shard(&key);
        let file = shard.entry(key).or_insert_with(|| Arc::new(Tracked::new(key, start()))).clone();
        let mut state = file.lock();
        state.writers += 1;
        state.openings += 1;
        if std::mem::take(&mut state.clean) {
            state.durable_at = Instant::now();
        }
        drop(state);
        file
    }

    /// Notes that an opening for writing has ended, with the file in the state that
    /// `attr` describes, as far as that is known.
    pub(crate) fn closed(&self, file: &Tracked<B>, attr: Option<&Attr>) {
        let mut state = file.lock();
        state.writers -= 1;
        state.clean = attr.is_some_and(|attr| state.synced == Some(Synced::from(attr)));
    }

    /// Forgets a file whose last name is gone, and which nobody has open.
    pub(crate) fn removed(&self, key: &ObjectKey) {
        let key = key.portable();
        let mut shard = self.shard(&key);
        if shard.get(&key).is_some_and(|file| file.lock().writers == 0) {
            shard.remove(&key);
        }
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Arc<Tracked<B>>> {
        self.shards
            .iter()
            .flat_map(|shard| {
                let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
                shard.values().cloned().collect::<Vec<_>>()
            })
            .collect()
    }

    /// Forgets those of `files`, all of them closed, that have nothing left in the
    /// log, which begins behind `kept_from`. They must have been `clean` when they
    /// were closed, or everything was synced since they were listed.
    pub(crate) fn forget_closed(&self, files: &[Closed<B>], synced: bool, kept_from: Lsn) {
        for Closed { file, openings } in files {
            let mut shard = self.shard(&file.key);
            let state = file.lock();
            // Opened and closed again since, it may have been written.
            let synced = synced && state.openings == *openings;
            let in_log = state.logged.is_some_and(|logged| logged.lsn > kept_from);
            let durable = state.clean || synced;
            // Without a copy, and synced, a rewrite has ended durably.
            let rewrite = state.rewrite.as_ref();
            let rewriting = rewrite.is_some_and(|rewrite| rewrite.copy.is_some() || !synced);
            let idle = state.writers == 0 && !rewriting && state.delayed.is_nothing();
            if idle && durable && state.live.is_empty() && !in_log {
                drop(state);
                shard.remove(&file.key);
            }
        }
    }

    /// Those that nobody has open for writing.
    pub(crate) fn closed_files(&self) -> Vec<Closed<B>> {
        let closed = |file: Arc<Tracked<B>>| {
            let (writers, openings) = {
                let state = file.lock();
                (state.writers, state.openings)
            };
            (writers == 0).then_some(Closed { file, openings })
        };
        self.all().into_iter().filter_map(closed).collect()
    }

    /// Number of tracked files.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    fn shard(&self, key: &ObjectKey) -> MutexGuard<'_, HashMap<ObjectKey, Arc<Tracked<B>>>> {
        let shard = self.hasher.hash_one(key) as usize % SHARDS;
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::sim::SimBacking;

    /// A file that was opened, written and closed while everything was synced was forgotten
    /// with those that the sync had covered: a rename over another file then did not know that
    /// its content was not durable.
    #[test]
    fn a_file_that_is_written_during_a_sync_of_everything_stays_tracked() {
        let files = TrackedFiles::<SimBacking>::new();
        let key = |ino| ObjectKey { dev: 0, ino, handle: ([0; 40], 0, 0) };
        for ino in [1, 2] {
            let file = files.opened(&key(ino), Start::default);
            files.closed(&file, None);
        }
        let closed = files.closed_files();
        assert_eq!(closed.len(), 2);
        // Everything is synced now; meanwhile:
        let file = files.opened(&key(2), Start::default);
        files.closed(&file, None);
        files.forget_closed(&closed, true, 0);
        assert!(files.find(&key(1)).is_none(), "the sync has covered it");
        assert!(files.find(&key(2)).is_some(), "nobody knows whether the sync has covered it");
    }
}
