//! One journal commit for a whole group.
//!
//! ext4 and XFS write metadata changes to their journal in the order in which
//! they were made, and a sync of one inode commits the journal up to that
//! inode's last change. So an inode of ours, changed *after* everything that a
//! group wants durable and then synced, commits the group: one commit, two
//! device flushes, however many files. Syncing each file for itself costs more
//! even in parallel, because a sync that arrives when the commit has passed its
//! flush issues one of its own (3.2 flushes a group with 16 writers, measured).
//!
//! What must hold, and is checked here (`linux/ordered.rs`) or by the caller:
//! - The data of the group's files has been written and waited for. The flush
//!   before the commit block makes it durable, *because* journal and data share
//!   one device.
//! - The filesystem has a journal, with these rules: ext4 with an internal
//!   journal and without `fast_commit`, XFS without a separate log or real-time
//!   device. Not btrfs, whose tree log holds one inode's changes only.
//! - No `lazytime`, under which a sync of a file writes times that were kept
//!   back, and a sync of another file does not.
//!
//! The inode has no name (`O_TMPFILE`): nothing shows in the backing directory,
//! and after a crash the filesystem drops it as an orphan.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicI64, Ordering};

use rustix::fs::{Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};

use super::super::ordered;
use crate::error::Result;

/// The inode whose sync commits everything before it.
pub(super) struct JournalMarker {
    file: OwnedFd,
    commits: AtomicI64,
}

impl JournalMarker {
    /// A marker on the filesystem of `directory`, if that filesystem is one on
    /// which a marker's sync covers what came before.
    pub(super) fn new(filesystem_magic: u64, directory: &OwnedFd) -> Option<Self> {
        ordered::commits_in_order(filesystem_magic, directory.as_fd()).ok()?;
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, c".", flags, Mode::RUSR).ok()?;
        Some(Self { file, commits: AtomicI64::new(0) })
    }

    /// Makes durable every metadata change made on the filesystem before the
    /// call, and all data written to the device before it.
    pub(super) fn commit(&self) -> Result<()> {
        // A new value each time: an inode that does not change joins no
        // transaction, and its sync would commit nothing.
        let count = self.commits.fetch_add(1, Ordering::Relaxed);
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: count, tv_nsec: 0 },
        };
        rustix::fs::futimens(&self.file, &times)?;
        rustix::fs::fsync(self.file.as_fd())?;
        super::is_alive(self.file.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filesystems_without_an_ordered_journal_have_no_marker() {
        let directory = tempfile::tempdir().expect("scratch directory");
        let place = std::fs::File::open(directory.path()).expect("scratch directory").into();
        for magic in [super::super::BTRFS_MAGIC, super::super::FUSE_MAGIC, 0x0102_1994] {
            assert!(JournalMarker::new(magic, &place).is_none(), "{magic:x}");
        }
    }
}
