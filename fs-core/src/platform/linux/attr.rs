//! Attributes: reading them and changing them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, StatxTimestamp, Timespec, Timestamps};

use super::caller::Privileges;
use super::object::proc_path;
use crate::error::{Errno, Result};
use crate::types::{Attr, Caller, FileKind, FsStats, SetAttr, SetTime, Time};

/// Largest block of a filesystem.
pub(super) const BLOCK_BYTES_MAX: u64 = 64 << 10;

/// A file's length, without asking a server for it: on a network filesystem each sync would wait for one
/// more answer.
pub(super) fn known_bytes(fd: BorrowedFd<'_>) -> u64 {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    rustix::fs::statx(fd, c"", flags, StatxFlags::SIZE).map_or(0, |found| found.stx_size)
}

/// Attributes of the object behind a descriptor, and its device number.
pub(super) fn stat_fd(fd: BorrowedFd<'_>) -> Result<(Attr, u64)> {
    let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
    let mode = u32::from(stat.stx_mode);
    let attr = Attr {
        ino: stat.stx_ino,
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        atime: time(stat.stx_atime),
        mtime: time(stat.stx_mtime),
        ctime: time(stat.stx_ctime),
        kind: kind(rustix::fs::FileType::from_raw_mode(mode)).ok_or(Errno::IO)?,
        perm: (mode & 0o7777) as u16,
        nlink: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        rdev_major: stat.stx_rdev_major,
        rdev_minor: stat.stx_rdev_minor,
        block_bytes: stat.stx_blksize,
    };
    Ok((attr, rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)))
}

fn time(stamp: StatxTimestamp) -> Time {
    Time { secs: stamp.tv_sec, nanos: stamp.tv_nsec }
}

/// Our name for a file type; `None` where the filesystem does not know it.
pub(super) fn kind(kind: rustix::fs::FileType) -> Option<FileKind> {
    use rustix::fs::FileType;
    Some(match kind {
        FileType::RegularFile => FileKind::Regular,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::CharacterDevice => FileKind::CharDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Unknown => return None,
    })
}

/// Applies a change: permission, owner, length, times, in the order in which
/// each leaves the others' result alone (a new owner clears set-user-id, a new
/// length sets the modification time).
pub(super) fn set_attr(
    privileges: Privileges,
    caller: Caller,
    fd: BorrowedFd<'_>,
    file: Option<&OwnedFd>,
    change: &SetAttr,
) -> Result<()> {
    if let Some(perm) = change.perm {
        // The kernel has removed set-group-id already where the caller may not
        // keep it (`setattr_prepare`); it must not be removed for our lack of it.
        let _keep = privileges.keep_setid();
        rustix::fs::chmod(proc_path(fd), Mode::from_raw_mode(perm & 0o7777))?;
    }
    if change.uid.is_some() || change.gid.is_some() {
        let _guard = privileges.enter_to_change(caller);
        let uid = change.uid.map(rustix::fs::Uid::from_raw);
        let gid = change.gid.map(rustix::fs::Gid::from_raw);
        rustix::fs::chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH)?;
    }
    if let Some(size) = change.size {
        let _guard = privileges.enter_to_change(caller);
        match file {
            Some(file) => rustix::fs::ftruncate(file, size)?,
            None => rustix::fs::ftruncate(open_to_write(fd)?, size)?,
        }
    }
    if change.atime.is_some() || change.mtime.is_some() {
        let times = Timestamps {
            last_access: timespec(change.atime),
            last_modification: timespec(change.mtime),
        };
        rustix::fs::utimensat(fd, c"", &times, AtFlags::EMPTY_PATH)?;
    }
    Ok(())
}

fn open_to_write(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(proc_path(fd), flags, Mode::empty())?)
}

/// Has the zeros behind a file's new end written to its last block.
///
/// XFS fills the rest of that block in the page cache only (`xfs_setattr_size`, Linux 6.18), and ext4
/// before its journal has the cut. With the length durable and the zeros not, what had been cut off is
/// there again after a power cut when the file has grown meanwhile, and its new length has reached
/// the journal by a page behind.
pub(super) fn write_zeros_at_end(fd: BorrowedFd<'_>, size: u64) {
    // Its own open file: errors that programs have not heard of stay theirs to hear.
    let range = size..size.next_multiple_of(BLOCK_BYTES_MAX);
    let written =
        open_to_write(fd).and_then(|file| super::fence::write_back_range(file.as_fd(), range));
    if let Err(error) = written {
        tracing::warn!(%error, "a file was cut, and the end of its last block cannot be written");
    }
}

fn timespec(time: Option<SetTime>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        Some(SetTime::At(time)) => Timespec { tv_sec: time.secs, tv_nsec: i64::from(time.nanos) },
    }
}

/// Fractions of a second that a mark may have: all that a time can hold.
const MARKS_PER_SECOND: u64 = 1_000_000_000;

/// Makes a number the modification time of a file. Seconds stay below what ext4
/// (2^34) and XFS (2^31 without bigtime) can store for 2 * 10^18 numbers.
pub(super) fn set_marker(file: &OwnedFd, number: u64) -> Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: Timespec {
            tv_sec: (number / MARKS_PER_SECOND).cast_signed(),
            tv_nsec: (number % MARKS_PER_SECOND).cast_signed(),
        },
    };
    Ok(rustix::fs::futimens(file, &times)?)
}

/// The number that [`set_marker`] stored.
pub(super) fn marker(file: &OwnedFd) -> Result<u64> {
    let time = stat_fd(file.as_fd())?.0.mtime;
    let number = u64::try_from(time.secs)
        .ok()
        .and_then(|secs| secs.checked_mul(MARKS_PER_SECOND)?.checked_add(u64::from(time.nanos)));
    // A time before 1970, or one that no number of ours gives.
    number.ok_or(Errno::RANGE)
}

/// Sizes of the filesystem that a descriptor is on.
pub(super) fn filesystem_stats(fd: BorrowedFd<'_>) -> Result<FsStats> {
    let stats = rustix::fs::fstatvfs(fd)?;
    Ok(FsStats {
        blocks: stats.f_blocks,
        blocks_free: stats.f_bfree,
        blocks_available: stats.f_bavail,
        files: stats.f_files,
        files_free: stats.f_ffree,
        block_bytes: stats.f_bsize as u32,
        fragment_bytes: stats.f_frsize as u32,
        name_bytes_max: stats.f_namemax as u32,
    })
}
