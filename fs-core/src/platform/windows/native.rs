//! Error numbers and names on Windows.
//!
//! The engine knows some errors by name; those have Linux's number here, whatever NTSTATUS they came
//! from. Every other NTSTATUS is kept as it is: it is negative, so the two cannot be confused, and
//! the front-end answers with what the filesystem said.

use std::ffi::OsStr;
use std::fmt;

use windows_sys::Win32::Foundation as nt;
use windows_sys::Win32::Foundation::{NTSTATUS, RtlNtStatusToDosError};

use crate::error::Errno;

/// `ELOOP`.
pub const ELOOP: i32 = 40;
/// `ENAMETOOLONG`.
pub const ENAMETOOLONG: i32 = 36;
/// `ENOSYS`.
pub const ENOSYS: i32 = 38;
/// `ENOTEMPTY`.
pub const ENOTEMPTY: i32 = 39;
/// `ENODATA`.
pub const ENODATA: i32 = 61;
/// `EOPNOTSUPP`.
pub const EOPNOTSUPP: i32 = 95;
/// `ETIMEDOUT`.
pub const ETIMEDOUT: i32 = 110;
/// `ESTALE`.
pub const ESTALE: i32 = 116;
/// `EDQUOT`.
pub const EDQUOT: i32 = 122;
/// `EWOULDBLOCK`.
pub const EWOULDBLOCK: i32 = 11;

/// An error that the engine knows: its name, the NTSTATUS that stands for it, and others that mean
/// the same to the engine.
struct Known(Errno, &'static str, NTSTATUS, &'static [NTSTATUS]);

const KNOWN: &[Known] = &[
    Known(Errno::PERM, "operation not permitted", nt::STATUS_PRIVILEGE_NOT_HELD, &[]),
    Known(
        Errno::NOENT,
        "no such file or directory",
        nt::STATUS_OBJECT_NAME_NOT_FOUND,
        &[nt::STATUS_OBJECT_PATH_NOT_FOUND, nt::STATUS_NO_SUCH_FILE],
    ),
    Known(
        Errno::IO,
        "input/output error",
        nt::STATUS_IO_DEVICE_ERROR,
        &[nt::STATUS_UNEXPECTED_IO_ERROR, nt::STATUS_DEVICE_DATA_ERROR],
    ),
    Known(Errno::NXIO, "no such place in the file", nt::STATUS_END_OF_FILE, &[]),
    Known(
        Errno::TOOBIG,
        "value too long",
        nt::STATUS_EA_TOO_LARGE,
        &[nt::STATUS_EA_LIST_INCONSISTENT],
    ),
    Known(Errno::BADF, "bad file handle", nt::STATUS_INVALID_HANDLE, &[]),
    Known(Errno::WOULDBLOCK, "locked by somebody else", nt::STATUS_LOCK_NOT_GRANTED, &[]),
    Known(Errno::ACCES, "access denied", nt::STATUS_ACCESS_DENIED, &[]),
    Known(Errno::BUSY, "in use", nt::STATUS_DEVICE_BUSY, &[]),
    Known(Errno::EXIST, "file exists", nt::STATUS_OBJECT_NAME_COLLISION, &[]),
    Known(Errno::XDEV, "on another filesystem", nt::STATUS_NOT_SAME_DEVICE, &[]),
    Known(Errno::NODEV, "no such device", nt::STATUS_NO_SUCH_DEVICE, &[]),
    Known(Errno::NOTDIR, "not a directory", nt::STATUS_NOT_A_DIRECTORY, &[]),
    Known(Errno::ISDIR, "is a directory", nt::STATUS_FILE_IS_A_DIRECTORY, &[]),
    Known(
        Errno::INVAL,
        "invalid argument",
        nt::STATUS_INVALID_PARAMETER,
        &[nt::STATUS_OBJECT_NAME_INVALID, nt::STATUS_INFO_LENGTH_MISMATCH],
    ),
    Known(Errno::FBIG, "file too large", nt::STATUS_FILE_TOO_LARGE, &[]),
    Known(Errno::NOSPC, "no space left", nt::STATUS_DISK_FULL, &[]),
    Known(Errno::DQUOT, "quota used up", nt::STATUS_QUOTA_EXCEEDED, &[]),
    Known(Errno::ROFS, "read-only filesystem", nt::STATUS_MEDIA_WRITE_PROTECTED, &[]),
    Known(Errno::MLINK, "too many links", nt::STATUS_TOO_MANY_LINKS, &[]),
    Known(
        Errno::RANGE,
        "does not fit the buffer",
        nt::STATUS_BUFFER_TOO_SMALL,
        &[nt::STATUS_BUFFER_OVERFLOW],
    ),
    Known(Errno::NAMETOOLONG, "name too long", nt::STATUS_NAME_TOO_LONG, &[]),
    Known(Errno::NOSYS, "not implemented", nt::STATUS_NOT_IMPLEMENTED, &[]),
    Known(Errno::NOTEMPTY, "directory not empty", nt::STATUS_DIRECTORY_NOT_EMPTY, &[]),
    Known(
        Errno::LOOP,
        "a symbolic link is in the way",
        nt::STATUS_REPARSE_POINT_NOT_RESOLVED,
        &[nt::STATUS_STOPPED_ON_SYMLINK],
    ),
    Known(
        Errno::NODATA,
        "no such attribute",
        nt::STATUS_NO_EAS_ON_FILE,
        &[nt::STATUS_NONEXISTENT_EA_ENTRY, nt::STATUS_NOT_A_REPARSE_POINT],
    ),
    Known(
        Errno::OPNOTSUPP,
        "not supported by the filesystem",
        nt::STATUS_NOT_SUPPORTED,
        &[nt::STATUS_INVALID_DEVICE_REQUEST, nt::STATUS_EAS_NOT_SUPPORTED],
    ),
    Known(Errno::TIMEDOUT, "the deadline passed", nt::STATUS_IO_TIMEOUT, &[]),
    Known(Errno::STALE, "the object is gone", nt::STATUS_FILE_INVALID, &[]),
];

/// The engine's error for an NTSTATUS that is one (negative: `NT_ERROR`, `NT_WARNING`).
#[must_use]
pub fn of_status(status: NTSTATUS) -> Errno {
    let known = KNOWN.iter().find(|known| known.2 == status || known.3.contains(&status));
    known.map_or(Errno::from_raw(status), |known| known.0)
}

/// The NTSTATUS for an error of the engine: the one that it came as, or one that means the same.
#[must_use]
pub fn to_status(error: Errno) -> NTSTATUS {
    if error.raw() < 0 {
        return error.raw();
    }
    let known = KNOWN.iter().find(|known| known.0 == error);
    known.map_or(nt::STATUS_UNEXPECTED_IO_ERROR, |known| known.2)
}

/// Win32's number for an error.
fn to_win32(error: Errno) -> u32 {
    // SAFETY: a function of its number alone.
    unsafe { RtlNtStatusToDosError(to_status(error)) }
}

/// Whether a number is an error's: a name of the engine's, or an NTSTATUS.
#[must_use]
pub const fn is_error(raw: i32) -> bool {
    raw != 0
}

pub(crate) fn describe(error: Errno, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match KNOWN.iter().find(|known| known.0 == error) {
        Some(known) => write!(f, "{} (NTSTATUS {:#010x})", known.1, to_status(error)),
        None => {
            let text = std::io::Error::from_raw_os_error(to_win32(error).cast_signed());
            write!(f, "{text} (NTSTATUS {:#010x})", to_status(error))
        }
    }
}

/// Errors of `std::io` are Win32's; all that this crate meets have an NTSTATUS of their own.
pub(crate) fn of_io_error(error: &std::io::Error) -> Errno {
    let code = error.raw_os_error().unwrap_or(0).cast_unsigned();
    let same = |known: &&Known| {
        let mut all = std::iter::once(&known.2).chain(known.3);
        // SAFETY: a function of its number alone.
        all.any(|&status| unsafe { RtlNtStatusToDosError(status) } == code)
    };
    let others = [nt::STATUS_SHARING_VIOLATION, nt::STATUS_CANNOT_DELETE];
    match KNOWN.iter().find(same) {
        Some(known) => known.0,
        // SAFETY: as above.
        None => others
            .into_iter()
            .find(|&status| unsafe { RtlNtStatusToDosError(status) } == code)
            .map_or(Errno::IO, Errno::from_raw),
    }
}

pub(crate) fn to_io_error(error: Errno) -> std::io::Error {
    std::io::Error::from_raw_os_error(to_win32(error).cast_signed())
}

/// A name as the log has it. Names that are not valid Unicode are refused where they come in
/// (`windows/nt.rs`), so none is in a log.
#[must_use]
pub fn os_name(bytes: &[u8]) -> &OsStr {
    std::str::from_utf8(bytes).map_or(OsStr::new("\u{fffd}"), OsStr::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_survive_the_way_through_the_engine() {
        for known in KNOWN {
            assert_eq!(of_status(known.2), known.0, "{}", known.1);
            assert_eq!(to_status(known.0), known.2, "{}", known.1);
            for &other in known.3 {
                assert_eq!(of_status(other), known.0, "{}", known.1);
            }
            assert!(known.2 < 0, "{}: a success is no error", known.1);
        }
        // One that the engine has no name for comes back as it went.
        for status in [nt::STATUS_SHARING_VIOLATION, nt::STATUS_DELETE_PENDING] {
            assert_eq!(to_status(of_status(status)), status);
        }
    }

    #[test]
    fn no_error_is_listed_twice() {
        let mut seen = std::collections::HashSet::new();
        for known in KNOWN {
            assert!(seen.insert(known.0.raw()), "{}", known.1);
            for status in std::iter::once(&known.2).chain(known.3) {
                assert!(seen.insert(*status), "{} {status:#x}", known.1);
            }
        }
    }

    #[test]
    fn errors_of_the_standard_library_are_known() {
        for (code, error) in [
            (2, Errno::NOENT),
            (3, Errno::NOENT),
            (5, Errno::ACCES),
            (112, Errno::NOSPC),
            (145, Errno::NOTEMPTY),
            (183, Errno::EXIST),
            (32, Errno::from_raw(nt::STATUS_SHARING_VIOLATION)),
        ] {
            assert_eq!(Errno::from(std::io::Error::from_raw_os_error(code)), error, "{code}");
        }
        assert_eq!(std::io::Error::from(Errno::NOENT).raw_os_error(), Some(2));
    }
}
