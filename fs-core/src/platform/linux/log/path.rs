//! A log outside of the backing directory: a file of a filesystem, a block device,
//! or an NVMe namespace by its character device.
//!
//! A device is claimed exclusively (`O_EXCL`), which fails while it, its whole
//! disk or a partition of it is mounted, is part of another device, or is the log
//! of another daemon; a file is locked. Nothing here knows what a log looks like,
//! except for its first bytes, which [`inspect`](super::inspect) is told.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, SeekFrom};
use rustix::io::Errno as Os;

use super::atomic::AtomicWrites;
use super::nvme::{self, Namespace};
use super::{Blocks, LinuxLog, whole_blocks};
use crate::error::{Errno, Result};
use crate::platform::{LOG_BLOCK_BYTES, LogStore};

/// Why a path cannot be a log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogPathError {
    /// There is nothing at the path.
    #[error("{0} does not exist: check the path")]
    Missing(PathBuf),
    /// There is something already.
    #[error("{0} exists already: name a new file, or remove that one")]
    Exists(PathBuf),
    /// There is neither a file nor a device.
    #[error("{0} is neither a regular file nor a block device (nor /dev/ngXnY of an NVMe)")]
    WrongKind(PathBuf),
    /// Somebody uses it.
    #[error(
        "{0} is in use: it is mounted, or a part of another device, or the log of \
         another lanefs; see `lsblk` and `lanefs status`"
    )]
    InUse(PathBuf),
    /// A power cut would take it.
    #[error("{0} is in memory (tmpfs) and would not survive a power cut: put the log on a disk")]
    Volatile(PathBuf),
    /// Blocks larger than the log's.
    #[error("{path} has blocks of {bytes} bytes; a log needs {LOG_BLOCK_BYTES} or less")]
    LargeBlocks {
        /// The device.
        path: PathBuf,
        /// Its logical blocks.
        bytes: u32,
    },
    /// A device that a log cannot use.
    #[error("{path} cannot be used: {reason}")]
    Unfit {
        /// The device.
        path: PathBuf,
        /// Why, and the remedy.
        reason: &'static str,
    },
    /// Less than was asked for.
    #[error("{path} has {bytes} bytes only: choose a smaller log or a larger device")]
    TooSmall {
        /// The device.
        path: PathBuf,
        /// What it has.
        bytes: u64,
    },
    /// Anything else.
    #[error("cannot use {path} as a log: {source}")]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: Errno,
    },
}

impl LogPathError {
    /// The same as an error number, for callers that have nothing better.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Missing(_) => Errno::NOENT,
            Self::Exists(_) => Errno::EXIST,
            Self::InUse(_) => Errno::from_raw(libc::EBUSY),
            Self::TooSmall { .. } => Errno::NOSPC,
            Self::WrongKind(_)
            | Self::Volatile(_)
            | Self::LargeBlocks { .. }
            | Self::Unfit { .. } => Errno::INVAL,
            Self::Io { source, .. } => *source,
        }
    }

    pub(super) fn of(path: &Path, source: Errno) -> Self {
        let path = path.to_owned();
        match source.raw() {
            libc::ENOENT => Self::Missing(path),
            libc::EEXIST => Self::Exists(path),
            libc::EBUSY | libc::EWOULDBLOCK => Self::InUse(path),
            _ => Self::Io { path, source },
        }
    }
}

type PathResult<T> = std::result::Result<T, LogPathError>;

/// At least so much of the beginning of a device is zeroed.
const DEVICE_HEAD_BYTES: u64 = 1 << 20;
/// How much of the end of a device is zeroed when a shorter log is made on it:
/// second partition tables and RAID labels lie there.
const DEVICE_END_BYTES: u64 = 1 << 20;

impl LinuxLog {
    /// Opens a log in a file or on a block device. `backing_device` is
    /// [`Backing::filesystem_id`](crate::platform::Backing::filesystem_id) of the
    /// backing directory.
    ///
    /// # Errors
    /// See [`LogPathError`].
    pub fn open_path(path: &Path, backing_device: u64) -> PathResult<Self> {
        let mut log = open_any(path)?;
        if let Blocks::File { file, .. } = &log.blocks {
            let shares = shares_device(file.as_fd(), backing_device);
            log.shares_device = shares.map_err(|e| LogPathError::of(path, e))?;
        }
        Ok(log)
    }

    /// Makes a log: a new file of `bytes`, or the first `bytes` of a block device
    /// (0 for all of it), zeroed. Whatever the device held is lost; see
    /// [`inspect_device`](super::inspect_device). Durable when it returns.
    /// `progress` is called with the bytes written so far. The value is good for
    /// writing the first blocks; to work with it, drop it and
    /// [open](Self::open_path) it.
    ///
    /// # Errors
    /// See [`LogPathError`].
    pub fn make_path(path: &Path, bytes: u64, progress: &mut dyn FnMut(u64)) -> PathResult<Self> {
        match kind_of(path) {
            Ok(FileType::BlockDevice | FileType::CharacterDevice) => {
                make_on_device(path, bytes, progress)
            }
            Ok(FileType::RegularFile) => Err(LogPathError::Exists(path.to_owned())),
            Ok(_) => Err(LogPathError::WrongKind(path.to_owned())),
            Err(LogPathError::Missing(_)) => make_file(path, bytes, progress),
            Err(error) => Err(error),
        }
    }
}

fn make_file(path: &Path, bytes: u64, progress: &mut dyn FnMut(u64)) -> PathResult<LinuxLog> {
    let failed = |source| LogPathError::of(path, source);
    let name = path.file_name().ok_or_else(|| LogPathError::WrongKind(path.to_owned()))?;
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = rustix::fs::open(parent, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
    refuse_memory(path, parent.as_fd())?;
    let sync_name = || Ok(rustix::fs::fsync(&parent)?);
    LinuxLog::make(parent.as_fd(), name, bytes, false, sync_name, progress).map_err(failed)
}

fn make_on_device(path: &Path, bytes: u64, progress: &mut dyn FnMut(u64)) -> PathResult<LinuxLog> {
    let mut log = open_any(path)?;
    let all = log.bytes;
    if bytes > all || all < LOG_BLOCK_BYTES as u64 {
        return Err(LogPathError::TooSmall { path: path.to_owned(), bytes: all });
    }
    let bytes = if bytes == 0 { all } else { whole_blocks(bytes) };
    let mut zeroed = || -> Result<()> {
        // Labels at the beginning, also those of what is larger than the log.
        let head = bytes.max(DEVICE_HEAD_BYTES).min(all);
        log.write_zeros(0, head, progress)?;
        log.write_zeros(all.saturating_sub(DEVICE_END_BYTES).max(head), all, &mut |_| {})?;
        log.flush()
    };
    zeroed().map_err(|source| LogPathError::of(path, source))?;
    log.bytes = bytes;
    Ok(log)
}

/// Opens a file or device for us alone.
fn open_any(path: &Path) -> PathResult<LinuxLog> {
    let failed = |source: Errno| LogPathError::of(path, source);
    let base = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match kind_of(path)? {
        FileType::RegularFile => {
            let file = rustix::fs::open(path, base, Mode::empty()).map_err(|e| failed(e.into()))?;
            expect_kind(path, &file, FileType::RegularFile)?;
            refuse_memory(path, file.as_fd())?;
            LinuxLog::locked(file, false).map_err(failed)
        }
        FileType::BlockDevice => {
            // Without a name to make, O_EXCL on a block device is the exclusive claim.
            let flags = base | OFlags::EXCL | OFlags::DIRECT;
            let file =
                rustix::fs::open(path, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
            expect_kind(path, &file, FileType::BlockDevice)?;
            let block = rustix::fs::ioctl_blksszget(&file).map_err(|e| failed(e.into()))?;
            if block as usize > LOG_BLOCK_BYTES {
                return Err(LogPathError::LargeBlocks { path: path.to_owned(), bytes: block });
            }
            let bytes = device_bytes(file.as_fd()).map_err(failed)?;
            let atomic = AtomicWrites::of(file.as_fd());
            let blocks = Blocks::File { file, direct: true, atomic };
            Ok(LinuxLog { blocks, bytes: whole_blocks(bytes), shares_device: false })
        }
        FileType::CharacterDevice if nvme::is_generic(path) => {
            let namespace = Namespace::open(path)?;
            let bytes = whole_blocks(namespace.bytes());
            // It is claimed as a whole: no filesystem is on it.
            Ok(LinuxLog { blocks: Blocks::Nvme(Box::new(namespace)), bytes, shares_device: false })
        }
        _ => Err(LogPathError::WrongKind(path.to_owned())),
    }
}

/// What a path stands for. Asked before opening: opening alone can do things to
/// some devices.
pub(super) fn kind_of(path: &Path) -> PathResult<FileType> {
    let stat = rustix::fs::stat(path).map_err(|e| LogPathError::of(path, e.into()))?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

fn expect_kind(path: &Path, file: &OwnedFd, kind: FileType) -> PathResult<()> {
    let stat = rustix::fs::fstat(file).map_err(|e| LogPathError::of(path, e.into()))?;
    match FileType::from_raw_mode(stat.st_mode) == kind {
        true => Ok(()),
        false => Err(LogPathError::WrongKind(path.to_owned())),
    }
}

fn refuse_memory(path: &Path, file: BorrowedFd<'_>) -> PathResult<()> {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    const RAMFS_MAGIC: u64 = 0x8584_58f6;
    let stat = rustix::fs::fstatfs(file).map_err(|e| LogPathError::of(path, e.into()))?;
    match stat.f_type as u64 {
        TMPFS_MAGIC | RAMFS_MAGIC => Err(LogPathError::Volatile(path.to_owned())),
        _ => Ok(()),
    }
}

/// Length of a block device.
pub(super) fn device_bytes(file: BorrowedFd<'_>) -> Result<u64> {
    Ok(rustix::fs::seek(file, SeekFrom::End(0))?)
}

/// Whether one flush of the log also flushes the device of the backing filesystem.
/// False wherever that cannot be shown: then both are flushed.
fn shares_device(file: BorrowedFd<'_>, backing_device: u64) -> Result<bool> {
    let stat = rustix::fs::fstat(file)?;
    if !FileType::from_raw_mode(stat.st_mode).is_block_device() {
        // A file of the same filesystem. On another filesystem of the same disk a
        // sync may end in the page cache of whatever lies between.
        return Ok(stat.st_dev == backing_device);
    }
    let (log, backing) = (whole_disk(stat.st_rdev), whole_disk(backing_device));
    Ok(log.is_some() && log == backing)
}

/// The disk of a partition, or the device itself if it is none. A flush of a
/// partition is one of its disk (`blkdev_issue_flush`, `blk_partition_remap`).
fn whole_disk(device: u64) -> Option<PathBuf> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let link = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    match link.join("partition").exists() {
        true => Some(link.parent()?.to_owned()),
        false => Some(link),
    }
}

/// Opens what is only to be looked at; a device is claimed while it is.
pub(super) fn open_to_read(path: &Path) -> PathResult<OwnedFd> {
    let base = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    if nvme::is_generic(path) {
        // The same bytes, read in the usual way.
        return open_to_read(&nvme::block_path(path)?);
    }
    let (kind, flags) = match kind_of(path)? {
        kind @ FileType::BlockDevice => (kind, base | OFlags::EXCL),
        kind @ FileType::RegularFile => (kind, base),
        _ => return Err(LogPathError::WrongKind(path.to_owned())),
    };
    let opened = loop {
        match rustix::fs::open(path, flags, Mode::empty()) {
            Err(Os::INTR) => {}
            other => break other,
        }
    };
    let file = opened.map_err(|e| LogPathError::of(path, e.into()))?;
    expect_kind(path, &file, kind)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::LogBuffer;

    #[test]
    fn a_file_elsewhere() {
        let place = tempfile::tempdir().expect("scratch directory");
        let path = place.path().join("log");
        assert!(matches!(LinuxLog::open_path(&path, 0), Err(LogPathError::Missing(_))));
        let made = LinuxLog::make_path(&path, 2 << 20, &mut |_| {}).expect("a log");
        assert!(matches!(LinuxLog::open_path(&path, 0), Err(LogPathError::InUse(_))));
        drop(made);
        let again = LinuxLog::make_path(&path, 2 << 20, &mut |_| {});
        assert!(matches!(again, Err(LogPathError::Exists(_))));
        let device = rustix::fs::stat(&path).expect("the log").st_dev;
        assert!(!LinuxLog::open_path(&path, device + 1).expect("the log").shares_device());
        let log = LinuxLog::open_path(&path, device).expect("the log");
        assert!(log.shares_device());
        assert_eq!(log.bytes(), 2 << 20);
        let mut data = LogBuffer::new();
        data.grow(4096).fill(1);
        log.write_and_flush(&data, 1 << 20).expect("a write");
        let mut read = LogBuffer::new();
        log.read(&mut read, 1 << 20, 4096).expect("a read");
        assert_eq!(read.bytes(), data.bytes());
    }

    #[test]
    fn what_cannot_be_a_log() {
        let place = tempfile::tempdir().expect("scratch directory");
        let open = |path: &str| LinuxLog::open_path(Path::new(path), 0);
        assert!(matches!(LinuxLog::open_path(place.path(), 0), Err(LogPathError::WrongKind(_))));
        assert!(matches!(open("/dev/null"), Err(LogPathError::WrongKind(_))));
        let make = |path: &Path| LinuxLog::make_path(path, 4096, &mut |_| {});
        assert!(matches!(make(place.path()), Err(LogPathError::WrongKind(_))));
        let missing = place.path().join("missing/log");
        assert!(matches!(make(&missing), Err(LogPathError::Missing(_))));
        if let Ok(memory) = tempfile::tempdir_in("/dev/shm") {
            let path = memory.path().join("log");
            assert!(matches!(make(&path), Err(LogPathError::Volatile(_))));
            assert!(!path.exists());
        }
    }
}
