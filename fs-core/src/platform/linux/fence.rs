//! Fences on Linux: one journal commit for a group, many syncs at once, or one
//! sync of the whole filesystem.
//!
//! Where the journal keeps its order ([`marker`]) a group costs one commit.
//! Elsewhere its files are synced each. Those syncs must run *in parallel*: one after another, every late one
//! issues a device flush of its own (16 files: 17 flushes; in parallel: 2 to 3,
//! measured on ext4). io_uring hands each to a kernel worker without a thread of
//! ours; where it is not to be had, a small pool of threads does the same.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use self::marker::JournalMarker;
use self::ring::SyncRing;
use self::threads::SyncThreads;
use super::LinuxBacking;
use crate::error::{Errno, Result};
use crate::platform::{FenceMethod, Fencer, SyncTarget, WHOLE_FILE};
use crate::types::SyncKind;

mod marker;
mod ring;
mod threads;

pub(super) const EXT4_MAGIC: u64 = 0xef53;
pub(super) const XFS_MAGIC: u64 = 0x5846_5342;
pub(super) const BTRFS_MAGIC: u64 = 0x9123_683e;
pub(super) const FUSE_MAGIC: u64 = 0x6573_5546;

/// How a group of several files is made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FenceMechanism {
    /// One journal commit where the filesystem allows it, else parallel syncs
    /// by io_uring, else by threads.
    #[default]
    Auto,
    /// Parallel syncs by io_uring; by threads where it cannot be set up.
    Uring,
    /// Parallel syncs by threads.
    Threads,
}

/// Makes groups durable on one Linux filesystem.
pub struct LinuxFencer {
    parallel: Parallel,
    marker: Option<JournalMarker>,
    syncfs_works: bool,
    /// A sync that succeeded is believed when the inode can still be looked at, and a commit takes one
    /// flush.
    is_xfs: bool,
}

enum Parallel {
    Ring(Box<Mutex<SyncRing>>),
    Threads(SyncThreads),
}

impl LinuxFencer {
    pub(super) fn new(
        mechanism: FenceMechanism,
        filesystem_magic: u64,
        directory: &OwnedFd,
    ) -> Self {
        let ring = match mechanism {
            FenceMechanism::Threads => None,
            FenceMechanism::Auto | FenceMechanism::Uring => match SyncRing::new() {
                Ok(ring) => Some(ring),
                Err(error) => {
                    tracing::info!(%error, "no io_uring; groups are synced by threads");
                    None
                }
            },
        };
        let parallel = match ring {
            Some(ring) => Parallel::Ring(Box::new(Mutex::new(ring))),
            None => Parallel::Threads(SyncThreads::new()),
        };
        // `syncfs(2)` returns 0 and does nothing on a FUSE filesystem, does not flush
        // the device on XFS if there is no metadata to commit, and is unproven on
        // network and stacked filesystems: only where it was tried with power cuts.
        let syncfs_works = matches!(filesystem_magic, EXT4_MAGIC | BTRFS_MAGIC);
        let marker = match mechanism {
            FenceMechanism::Auto => JournalMarker::new(filesystem_magic, directory),
            FenceMechanism::Uring | FenceMechanism::Threads => None,
        };
        let is_xfs = filesystem_magic == XFS_MAGIC;
        Self { parallel, marker, syncfs_works, is_xfs }
    }

    /// Writes all data, then commits the journal once. If the commit cannot be
    /// made this way (the filesystem became read-only, say), each target is
    /// synced for itself and says what is wrong with it.
    fn run_shared_commit(&self, targets: &[SyncTarget<LinuxBacking>]) -> Vec<Result<()>> {
        let Some(marker) = &self.marker else { return self.run_parallel(targets) };
        let written = write_back(targets);
        match marker.commit() {
            Ok(()) => written,
            Err(error) => {
                tracing::warn!(%error, "the shared commit failed; syncing each file for itself");
                let synced = self.run_parallel(targets);
                written.into_iter().zip(synced).map(|(first, second)| first.and(second)).collect()
            }
        }
    }

    fn run_parallel(&self, targets: &[SyncTarget<LinuxBacking>]) -> Vec<Result<()>> {
        let mut results = match targets {
            [only] => vec![sync_one(only)],
            several => self.run_several(several),
        };
        if self.is_xfs {
            for (target, result) in targets.iter().zip(&mut results) {
                *result = result.and_then(|()| is_alive(target_fd(target)));
            }
        }
        results
    }

    fn run_several(&self, targets: &[SyncTarget<LinuxBacking>]) -> Vec<Result<()>> {
        let transferred = write_back(targets);
        let synced = match &self.parallel {
            Parallel::Ring(ring) => {
                ring.lock().unwrap_or_else(PoisonError::into_inner).sync_all(targets)
            }
            Parallel::Threads(threads) => threads.sync_all(targets),
        };
        // An error met while waiting for the transfer has been told to this
        // open file then, and its sync does not tell it again.
        transferred.into_iter().zip(synced).map(|(first, second)| first.and(second)).collect()
    }
}

impl Fencer<LinuxBacking> for LinuxFencer {
    fn supports(&self, method: FenceMethod) -> bool {
        match method {
            FenceMethod::Parallel => true,
            FenceMethod::WholeFs => self.syncfs_works,
            FenceMethod::SharedCommit => self.marker.is_some(),
        }
    }

    fn run(&self, method: FenceMethod, targets: &[SyncTarget<LinuxBacking>]) -> Vec<Result<()>> {
        match method {
            FenceMethod::Parallel => self.run_parallel(targets),
            FenceMethod::SharedCommit => self.run_shared_commit(targets),
            FenceMethod::WholeFs => match sync_filesystem(targets) {
                Ok(()) => targets.iter().map(pending_error).collect(),
                // Whose error it was only each file's own sync can tell, and it
                // does: the error stays with every open file until asked for.
                Err(error) => {
                    tracing::warn!(%error, "syncfs failed; syncing each file for itself");
                    self.run_parallel(targets)
                }
            },
        }
    }

    fn commit(&self) -> Result<()> {
        self.marker.as_ref().ok_or(Errno::NOSYS)?.commit()
    }

    fn commits_with_one_flush(&self) -> bool {
        self.is_xfs
    }

    fn mechanism(&self) -> &'static str {
        match (&self.marker, &self.parallel) {
            (Some(_), _) => "one journal commit",
            (None, Parallel::Ring(_)) => "io_uring",
            (None, Parallel::Threads(_)) => "threads",
        }
    }
}

fn target_fd(target: &SyncTarget<LinuxBacking>) -> BorrowedFd<'_> {
    match target {
        SyncTarget::File(file, _) => file.as_fd(),
        SyncTarget::Dir(dir) => dir.as_fd(),
    }
}

/// Whether the filesystem of an inode is still at work.
///
/// XFS may say that a sync went well when the write of its journal has failed (Linux 6.18, seen):
/// `xlog_cil_force_seq` takes a checkpoint that is not in the list of those under way for one
/// that is durable, and one that was aborted has left that list, too. By then the filesystem is
/// shut down, and a look at any inode says so.
fn is_alive(fd: BorrowedFd<'_>) -> Result<()> {
    rustix::fs::fstat(fd)?;
    Ok(())
}

fn sync_one(target: &SyncTarget<LinuxBacking>) -> Result<()> {
    loop {
        let result = match target {
            SyncTarget::File(file, SyncKind::Data) => rustix::fs::fdatasync(file.as_fd()),
            SyncTarget::File(file, SyncKind::Full) => rustix::fs::fsync(file.as_fd()),
            SyncTarget::Dir(dir) => rustix::fs::fsync(dir.as_fd()),
        };
        match result {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

fn sync_filesystem(targets: &[SyncTarget<LinuxBacking>]) -> Result<()> {
    let Some(first) = targets.first() else { return Ok(()) };
    Ok(rustix::fs::syncfs(target_fd(first))?)
}

/// Writes the data of all files of a group and waits for it, before anything is
/// committed: what the end of a write changes (ext4 converts unwritten extents)
/// then belongs to a transaction that the commit after it covers. Syncs that
/// wait each for its own data join two transactions or more.
fn write_back(targets: &[SyncTarget<LinuxBacking>]) -> Vec<Result<()>> {
    for target in targets {
        if let SyncTarget::File(file, _) = target {
            // Queues what it can, so that all files are under way at once. An
            // error is not lost: waiting reports it.
            let _ = start_write_back(file.as_fd());
        }
    }
    let wait = |target: &SyncTarget<LinuxBacking>| match target {
        SyncTarget::File(file, _) => finish_write_back(file.as_fd()),
        SyncTarget::Dir(_) => Ok(()),
    };
    targets.iter().map(wait).collect()
}

/// Queues the dirty pages of a file.
pub(super) fn start_write_back(file: BorrowedFd<'_>) -> Result<()> {
    sync_file_range(file, WHOLE_FILE, libc::SYNC_FILE_RANGE_WRITE)
}

/// Writes the dirty pages of a file and waits for them. All three flags together
/// also write pages that were dirtied again while they were under write-back,
/// which the first pass leaves out (`WB_SYNC_ALL`).
pub(super) fn finish_write_back(file: BorrowedFd<'_>) -> Result<()> {
    write_back_range(file, WHOLE_FILE)
}

/// Queues the dirty pages of a range.
pub(super) fn start_write_back_within(file: BorrowedFd<'_>, range: Range<u64>) -> Result<()> {
    if range.is_empty() {
        return Ok(());
    }
    sync_file_range(file, range, libc::SYNC_FILE_RANGE_WRITE)
}

/// Writes the dirty pages of a range, which may be empty, and waits for them.
pub(super) fn finish_write_back_within(file: BorrowedFd<'_>, range: Range<u64>) -> Result<()> {
    if range.is_empty() {
        // Any page: it tells the error.
        return sync_file_range(file, 0..1, libc::SYNC_FILE_RANGE_WAIT_BEFORE);
    }
    write_back_range(file, range)
}

/// The same for the pages of a range that is not empty.
pub(super) fn write_back_range(file: BorrowedFd<'_>, range: Range<u64>) -> Result<()> {
    let all = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    sync_file_range(file, range, all)
}

/// Waits for the pages of a file that are being written, and tells the error
/// that this open file has not been told yet (`file_check_and_advance_wb_err`).
/// With nothing under write-back there is no I/O.
fn pending_error(target: &SyncTarget<LinuxBacking>) -> Result<()> {
    match target {
        SyncTarget::File(file, _) => {
            sync_file_range(file.as_fd(), WHOLE_FILE, libc::SYNC_FILE_RANGE_WAIT_BEFORE)
        }
        // A directory's blocks are the journal's; syncfs reported their errors.
        SyncTarget::Dir(_) => Ok(()),
    }
}

fn sync_file_range(fd: BorrowedFd<'_>, range: Range<u64>, flags: u32) -> Result<()> {
    use std::os::fd::AsRawFd;
    let offset = i64::try_from(range.start).map_err(|_| Errno::INVAL)?;
    // 0 is all that follows.
    let bytes = i64::try_from(range.end - range.start).unwrap_or(0);
    loop {
        // SAFETY: plain numbers and an open descriptor.
        let result = unsafe { libc::sync_file_range(fd.as_raw_fd(), offset, bytes, flags) };
        if result == 0 {
            return Ok(());
        }
        let error = Errno::from(std::io::Error::last_os_error());
        if error.raw() != libc::EINTR {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::sync::Arc;

    fn targets(directory: &std::path::Path, files: usize) -> Vec<SyncTarget<LinuxBacking>> {
        let open = |i: usize| -> OwnedFd {
            let path = directory.join(format!("file{i}"));
            std::fs::write(&path, b"content").expect("scratch file");
            File::open(path).expect("scratch file").into()
        };
        (0..files)
            .map(|i| {
                let kind = if i % 2 == 0 { SyncKind::Data } else { SyncKind::Full };
                SyncTarget::File(Arc::new(open(i)), kind)
            })
            .collect()
    }

    /// Every method and mechanism gives one result for each target, in order,
    /// and a target that cannot be synced fails alone.
    #[test]
    fn one_result_for_each_target() {
        let directory = tempfile::tempdir().expect("scratch directory");
        for mechanism in [FenceMechanism::Uring, FenceMechanism::Threads] {
            let place = File::open(directory.path()).expect("scratch directory").into();
            let fencer = LinuxFencer::new(mechanism, EXT4_MAGIC, &place);
            for count in [0, 1, 2, 17, 300] {
                let mut group = targets(directory.path(), count);
                let results = fencer.run(FenceMethod::Parallel, &group);
                assert_eq!(results, vec![Ok(()); count], "{mechanism:?} {count}");
                if count > 1 {
                    // An O_PATH descriptor cannot be synced: EBADF, for it alone.
                    let path = rustix::fs::open(
                        directory.path(),
                        rustix::fs::OFlags::PATH,
                        rustix::fs::Mode::empty(),
                    );
                    let bad = Arc::new(path.expect("scratch directory"));
                    group[1] = SyncTarget::File(bad, SyncKind::Full);
                    let results = fencer.run(FenceMethod::Parallel, &group);
                    assert_eq!(results[1], Err(Errno::BADF), "{mechanism:?} {count}");
                    assert_eq!(results.iter().filter(|r| r.is_err()).count(), 1);
                }
            }
            assert_eq!(fencer.run(FenceMethod::WholeFs, &targets(directory.path(), 20)).len(), 20);
        }
    }

    /// A filesystem on which `syncfs` is a lie must never be synced by it.
    #[test]
    fn no_syncfs_on_fuse() {
        let directory = tempfile::tempdir().expect("scratch directory");
        let place = File::open(directory.path()).expect("scratch directory").into();
        let works = |magic| {
            let fencer = LinuxFencer::new(FenceMechanism::Threads, magic, &place);
            fencer.supports(FenceMethod::WholeFs)
        };
        assert!(!works(FUSE_MAGIC));
        assert!(!works(XFS_MAGIC));
        assert!(works(EXT4_MAGIC));
    }
}
