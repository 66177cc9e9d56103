//! Between the kernel's and fuser's values and `fs_core`'s.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fs_core::engine::{Deed, FileId, NodeId};
use fs_core::error::{Errno, Result};
use fs_core::platform::{OpenMode, RenameMode};
use fs_core::types::{Attr, Caller, FileKind, SetAttr, SetTime, Time};
use fuser::{FileAttr, FileType, INodeNo, Request, TimeOrNow};

pub(super) fn node(ino: INodeNo) -> NodeId {
    NodeId(ino.0)
}

pub(super) fn errno(error: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(error.raw())
}

pub(super) fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), thread: request.pid() }
}

/// Flags of `renameat2(2)`.
pub(crate) fn rename_mode(flags: u32) -> Result<RenameMode> {
    let known = libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE | libc::RENAME_WHITEOUT;
    if flags & !known != 0 {
        return Err(Errno::INVAL);
    }
    Ok(RenameMode {
        no_replace: flags & libc::RENAME_NOREPLACE != 0,
        exchange: flags & libc::RENAME_EXCHANGE != 0,
        whiteout: flags & libc::RENAME_WHITEOUT != 0,
    })
}

/// How the engine shall open a file for these flags of `open(2)`.
pub(crate) fn open_mode(flags: i32) -> OpenMode {
    let access = flags & libc::O_ACCMODE;
    OpenMode {
        read: access != libc::O_WRONLY,
        write: access != libc::O_RDONLY,
        truncate: flags & libc::O_TRUNC != 0,
        no_atime: flags & libc::O_NOATIME != 0,
    }
}

/// What SETATTR has done. With a file that is open, its length is content to come.
pub(crate) fn attributes_set(id: NodeId, file: Option<FileId>, change: &SetAttr) -> Deed<'static> {
    match file {
        _ if change.size.is_none() => Deed::Attributes(id),
        Some(file) => Deed::Content(file),
        None => Deed::Cut(id),
    }
}

/// Major and minor number, from the kernel's 32-bit encoding (`new_encode_dev`).
pub(crate) fn device(encoded: u32) -> (u32, u32) {
    ((encoded >> 8) & 0xfff, (encoded & 0xff) | ((encoded >> 12) & 0xf_ff00))
}

/// The kernel's 32-bit encoding of a device number.
pub(super) fn encode_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// A time to set. fuser 0.18 decodes a time before 1970 with a fraction as
/// `epoch - (-secs + nanos)` instead of `epoch - (-secs) + nanos`; undone here.
pub(super) fn time(time: TimeOrNow) -> SetTime {
    let TimeOrNow::SpecificTime(time) = time else { return SetTime::Now };
    let time = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Time {
            secs: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            nanos: after.subsec_nanos(),
        },
        Err(before) => {
            let before = before.duration();
            let secs = i64::try_from(before.as_secs()).map_or(i64::MIN, |secs| -secs);
            Time { secs, nanos: before.subsec_nanos() }
        }
    };
    SetTime::At(time)
}

fn system_time(time: Time) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(time.nanos));
    let secs = Duration::from_secs(time.secs.unsigned_abs());
    let whole =
        if time.secs >= 0 { UNIX_EPOCH.checked_add(secs) } else { UNIX_EPOCH.checked_sub(secs) };
    whole.and_then(|whole| whole.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

/// The type bits of `st_mode`.
pub(super) fn type_bits(kind: FileKind) -> u32 {
    match kind {
        FileKind::Regular => libc::S_IFREG,
        FileKind::Directory => libc::S_IFDIR,
        FileKind::Symlink => libc::S_IFLNK,
        FileKind::Fifo => libc::S_IFIFO,
        FileKind::Socket => libc::S_IFSOCK,
        FileKind::CharDevice => libc::S_IFCHR,
        FileKind::BlockDevice => libc::S_IFBLK,
    }
}

/// A directory entry's type. Where the backing filesystem does not tell, a
/// regular file is said: fuser has no way to say "unknown".
pub(super) fn file_type(kind: Option<FileKind>) -> FileType {
    match kind {
        None | Some(FileKind::Regular) => FileType::RegularFile,
        Some(FileKind::Directory) => FileType::Directory,
        Some(FileKind::Symlink) => FileType::Symlink,
        Some(FileKind::Fifo) => FileType::NamedPipe,
        Some(FileKind::Socket) => FileType::Socket,
        Some(FileKind::CharDevice) => FileType::CharDevice,
        Some(FileKind::BlockDevice) => FileType::BlockDevice,
    }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(Some(attr.kind)),
        perm: attr.perm,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: encode_device(attr.rdev_major, attr.rdev_minor),
        blksize: attr.block_bytes,
        flags: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_the_encoding() {
        for (major, minor) in [(0, 0), (1, 3), (8, 255), (8, 256), (259, 1_048_575), (4095, 70_000)]
        {
            assert_eq!(device(encode_device(major, minor)), (major, minor));
        }
    }

    /// fuser 0.18 hands -1.5 s as "2 s before 1970, plus half a second
    /// backwards"; what is set must be what the program asked for.
    #[test]
    fn times_before_1970_are_what_was_asked_for() {
        let as_fuser_decodes =
            |secs: i64, nanos: u32| UNIX_EPOCH - Duration::new(secs.unsigned_abs(), nanos);
        for (secs, nanos) in [(-2, 500_000_000), (-1, 1), (-1, 0), (-86_400, 999_999_999)] {
            let given = TimeOrNow::SpecificTime(as_fuser_decodes(secs, nanos));
            assert_eq!(time(given), SetTime::At(Time { secs, nanos }));
        }
        let after = TimeOrNow::SpecificTime(UNIX_EPOCH + Duration::new(7, 5));
        assert_eq!(time(after), SetTime::At(Time { secs: 7, nanos: 5 }));
    }

    #[test]
    fn attributes_carry_times_before_1970() {
        let half_before = Time { secs: -1, nanos: 500_000_000 };
        assert_eq!(system_time(half_before), UNIX_EPOCH - Duration::from_millis(500));
    }
}
