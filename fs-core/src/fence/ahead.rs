//! Writing a file in place ahead of the group that makes it durable.
//!
//! A group takes as long as the slowest of its files, and everybody who syncs anything waits for it:
//! a program that synced a new file of 256 MiB kept all others waiting for 200 ms, on a disk on
//! which the bare filesystem answered them within 4 (seen). So such a file is written
//! first, by a thread of its own, and its request comes to the group with next to nothing left.
//!
//! How much is unwritten cannot be asked each time: `cachestat(2)` looks at every cached page, 7 ms for
//! 1 GiB in small ones (Linux 6.18). So it is guessed: from what the file has grown, and from how long
//! it took the last times. A wrong guess costs a thread's start, or a group that takes longer.
//!
//! It is only a write-back, as the kernel may begin one at any time. The group does all that it does for
//! others, and tells the error: here the file is opened anew, because an open file is told of an error once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::log::{OURSELVES, READ};
use crate::platform::{Backing, ObjectKey};

/// Less than this is never worth a thread.
pub(crate) const AHEAD_BYTES_MIN: u64 = 1 << 20;
/// A sync that takes less holds nobody up, however fast the device flushes.
const SLOW_MIN: Duration = Duration::from_millis(2);
/// As is one that takes so many times what a group takes usually.
const SLOW_RATIO: u32 = 4;
/// Syncs that are taken for slow ones after one that was; each that turns out quick makes it one less.
const SLOW_SYNCS: u32 = 8;
/// Times that a file is written before it goes to its group all the same: its program goes on writing.
const PASSES_MAX: u32 = 4;

/// What is remembered of a file's syncs.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// The file's length at the last one.
    synced_bytes: AtomicU64,
    /// Syncs that count as slow ones.
    slow_syncs: AtomicU32,
}

/// A file that is asked to be synced, for writing it ahead.
pub struct Ahead<B: Backing> {
    backing: Arc<B>,
    key: ObjectKey,
    pace: Arc<Pace>,
    /// The file's length when it was asked for.
    bytes: u64,
}

impl<B: Backing> Ahead<B> {
    pub(crate) fn new(backing: &Arc<B>, key: ObjectKey, pace: &Arc<Pace>, bytes: u64) -> Self {
        Self { backing: Arc::clone(backing), key, pace: Arc::clone(pace), bytes }
    }

    /// Whether writing it is likely to take long.
    pub(crate) fn takes_long(&self) -> bool {
        let synced = || self.pace.synced_bytes.load(Ordering::Relaxed);
        let grown = || self.bytes.saturating_sub(synced());
        self.bytes > AHEAD_BYTES_MIN
            && (self.pace.slow_syncs.load(Ordering::Relaxed) > 0 || grown() > AHEAD_BYTES_MIN)
    }

    /// Writes it in place, until what is left is little. What cannot be opened is left to its group.
    ///
    /// # Errors
    /// It could not be written: some of it is lost. Its group finds that out, too.
    pub(crate) fn write(&self) -> Result<()> {
        let found = self.backing.by_key(&self.key);
        let file = found.and_then(|found| self.backing.open(OURSELVES, &found.object, READ));
        let Ok(file) = file else { return Ok(()) };
        for pass in 0..PASSES_MAX {
            let start = Instant::now();
            self.backing.finish_write_back(&file)?;
            if start.elapsed() < SLOW_MIN {
                if pass == 0 {
                    let less = |syncs: u32| syncs.checked_sub(1);
                    let slow_syncs = &self.pace.slow_syncs;
                    let _ = slow_syncs.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
                }
                break;
            }
        }
        Ok(())
    }

    /// Notes that a group with it took so long, where groups usually take `usual`.
    pub(crate) fn synced(&self, took: Duration, usual: Option<Duration>) {
        self.pace.synced_bytes.store(self.bytes, Ordering::Relaxed);
        let is_slow = usual.is_some_and(|usual| took > SLOW_MIN.max(SLOW_RATIO * usual));
        if is_slow && self.bytes > AHEAD_BYTES_MIN {
            self.pace.slow_syncs.store(SLOW_SYNCS, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::sim::{DurabilityModel, SimBacking, SimOptions};

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_has_grown_and_what_was_slow_takes_long() {
        let backing = Arc::new(SimBacking::new(SimOptions::new(DurabilityModel::Ext4Ordered, 1)));
        let key = backing.root().expect("a root").key;
        let pace = Arc::default();
        let file = |bytes| Ahead::new(&backing, key, &pace, bytes);
        let (usual, ms) = (Some(Duration::from_millis(1)), Duration::from_millis);
        assert!(!file(MIB).takes_long());
        assert!(file(MIB + 1).takes_long(), "all of it is new");
        file(5 * MIB).synced(ms(4), usual);
        assert!(!file(6 * MIB).takes_long() && !file(4 * MIB).takes_long());
        assert!(file(6 * MIB + 1).takes_long());

        // Overwritten, and that took a hundred times what groups take.
        file(5 * MIB).synced(ms(100), usual);
        for _ in 0..SLOW_SYNCS {
            assert!(file(5 * MIB).takes_long());
            // Nothing is dirty here.
            assert_eq!(file(5 * MIB).write(), Ok(()));
            file(5 * MIB).synced(ms(1), usual);
        }
        assert!(!file(5 * MIB).takes_long(), "it was quick often enough");
        file(5 * MIB).synced(ms(100), Some(ms(30)));
        assert!(!file(5 * MIB).takes_long(), "everything takes long here");
        file(MIB).synced(ms(100), usual);
        assert!(!file(MIB).takes_long(), "a small file that others held up");
    }
}
