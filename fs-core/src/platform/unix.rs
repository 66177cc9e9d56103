//! What Linux and macOS have in common: error numbers and names.

use std::ffi::OsStr;
use std::fmt;

pub use libc::{
    EDQUOT, ELOOP, ENAMETOOLONG, ENOSYS, ENOTEMPTY, EOPNOTSUPP, ESTALE, ETIMEDOUT, EWOULDBLOCK,
};

#[cfg(target_os = "macos")]
pub use libc::ENOATTR as ENODATA;
#[cfg(not(target_os = "macos"))]
pub use libc::ENODATA;

use crate::error::Errno;

/// Whether a system call may report this number.
#[must_use]
pub const fn is_error(raw: i32) -> bool {
    raw > 0
}

/// Writes the system's words for an error.
pub(crate) fn describe(error: Errno, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    fmt::Display::fmt(&to_io_error(error), f)
}

pub(crate) fn of_io_error(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

pub(crate) fn to_io_error(error: Errno) -> std::io::Error {
    std::io::Error::from_raw_os_error(error.raw())
}

impl From<rustix::io::Errno> for Errno {
    fn from(error: rustix::io::Errno) -> Self {
        Self::from_raw(error.raw_os_error())
    }
}

/// A name as the log has it.
#[must_use]
pub fn os_name(bytes: &[u8]) -> &OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}
