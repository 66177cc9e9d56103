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
//! What must hold, and is checked here or by the caller:
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
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};

use rustix::fs::{Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};

use super::{EXT4_MAGIC, XFS_MAGIC};
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
        let device = rustix::fs::fstat(directory).ok()?.st_dev;
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let journal = match filesystem_magic {
            EXT4_MAGIC => ext4_commits_in_order(major, minor),
            XFS_MAGIC => true,
            _ => false,
        };
        if !journal || !options_allow(&mount_options(major, minor)?) {
            return None;
        }
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
        Ok(rustix::fs::fsync(self.file.as_fd())?)
    }
}

/// Whether an ext4 has an internal journal and full commits only. What cannot
/// be found out counts as no.
fn ext4_commits_in_order(major: u32, minor: u32) -> bool {
    let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}"));
    let name = link.ok().and_then(|link| Some(link.file_name()?.to_str()?.to_owned()));
    let Some(name) = name else { return false };
    // jbd2 shows an internal journal as DEVICE-INODE (the journal is inode 8), an
    // external one under its own device's name, and no journal not at all.
    let internal = Path::new(&format!("/proc/fs/jbd2/{name}-8")).exists();
    internal && ext4_fast_commit(Path::new("/dev").join(name)) == Some(false)
}

/// Whether an ext4 was made with `fast_commit`, which no mount option shows. A
/// sync that meets a fast commit under way waits for it and returns, although
/// what came after its begin is not in it (`ext4_fc_commit`, Linux 6.18).
fn ext4_fast_commit(device: PathBuf) -> Option<bool> {
    /// `s_feature_compat` in the superblock, which begins at byte 1024.
    const FEATURE_COMPAT_OFFSET: u64 = 1024 + 0x5c;
    const COMPAT_FAST_COMMIT: u32 = 0x0400;
    let mut features = [0; 4];
    let device = std::fs::File::open(device).ok()?;
    device.read_exact_at(&mut features, FEATURE_COMPAT_OFFSET).ok()?;
    Some(u32::from_le_bytes(features) & COMPAT_FAST_COMMIT != 0)
}

/// Options of the mount and of the filesystem, from /proc/self/mountinfo: a
/// filesystem option may stand in either.
fn mount_options(major: u32, minor: u32) -> Option<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let device = format!("{major}:{minor}");
    let line = table.lines().find(|line| line.split(' ').nth(2) == Some(&*device))?;
    Some(format!("{},{}", line.split(' ').nth(5)?, line.split(' ').next_back()?))
}

fn options_allow(options: &str) -> bool {
    !options.split(',').any(|option| {
        let name = option.split('=').next().unwrap_or(option);
        matches!(name, "ro" | "lazytime" | "logdev" | "rtdev")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_under_which_one_commit_is_not_enough() {
        assert!(options_allow("rw,relatime,rw,data=ordered"));
        for option in ["lazytime", "logdev=/dev/sdb", "rtdev=/dev/sdc", "ro"] {
            assert!(!options_allow(&format!("rw,relatime,{option}")), "{option}");
        }
    }

    #[test]
    fn filesystems_without_an_ordered_journal_have_no_marker() {
        let directory = tempfile::tempdir().expect("scratch directory");
        let place = std::fs::File::open(directory.path()).expect("scratch directory").into();
        for magic in [super::super::BTRFS_MAGIC, super::super::FUSE_MAGIC, 0x0102_1994] {
            assert!(JournalMarker::new(magic, &place).is_none(), "{magic:x}");
        }
    }
}
