//! A flush of the backing filesystem's device and nothing else.
//!
//! `fdatasync(2)` of a file that has nothing to sync is that: ext4 and XFS flush
//! the device in case an overwrite of allocated blocks came before
//! (`ext4_sync_file`, `xfs_file_fsync`, Linux 6.18). It has to be a file that
//! nobody changes. On XFS a change of times by `futimens(2)` counts as one that
//! `fdatasync` must commit, since `xfs_setattr_nonsize` logs the whole inode; so
//! the file with the mark will not do. Ours has no name and is never changed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};

use super::log::data_sync;
use crate::error::Result;

/// The file that is synced, made when the first flush is wanted.
#[derive(Default)]
pub(super) struct DeviceFlush {
    file: OnceLock<Option<OwnedFd>>,
}

impl DeviceFlush {
    /// Flushes the device of the filesystem of `directory`. If no file could be
    /// made there, syncs `other`, which flushes too and may commit besides.
    pub(super) fn flush(&self, directory: BorrowedFd<'_>, other: BorrowedFd<'_>) -> Result<()> {
        let own = self.file.get_or_init(|| make(directory).ok());
        data_sync(own.as_ref().map_or(other, OwnedFd::as_fd))
    }
}

fn make(directory: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, c".", flags, Mode::RUSR)?;
    // Commits what made the file, so that no flush has to.
    rustix::fs::fsync(&file)?;
    Ok(file)
}
