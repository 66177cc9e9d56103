//! The one error type of the engine: the errno that the backing filesystem gave.
//!
//! A program on the mount must see the error that it would have seen on the
//! backing directory, so nothing between the system call and the reply may
//! translate it. Richer errors (of the log, of recovery) wrap this one.

use std::fmt;

/// A system error number, as `errno(3)` has it. Never zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

/// What macOS calls `ENOATTR`.
#[cfg(target_os = "macos")]
const NODATA: i32 = libc::ENOATTR;
#[cfg(all(unix, not(target_os = "macos")))]
const NODATA: i32 = libc::ENODATA;

/// What nearly every call of the engine returns.
pub type Result<T> = std::result::Result<T, Errno>;

impl Errno {
    /// Operation not permitted.
    pub const PERM: Self = Self(1);
    /// No such file or directory.
    pub const NOENT: Self = Self(2);
    /// Input/output error: also what a lane answers when its fence died.
    pub const IO: Self = Self(5);
    /// No such place (`SEEK_DATA` behind the last data).
    pub const NXIO: Self = Self(6);
    /// Permission denied.
    pub const ACCES: Self = Self(13);
    /// File exists.
    pub const EXIST: Self = Self(17);
    /// The other object is on another filesystem.
    pub const XDEV: Self = Self(18);
    /// The deadline passed.
    #[cfg(unix)]
    pub const TIMEDOUT: Self = Self(libc::ETIMEDOUT);
    /// Not a directory.
    pub const NOTDIR: Self = Self(20);
    /// Is a directory.
    pub const ISDIR: Self = Self(21);
    /// Invalid argument.
    pub const INVAL: Self = Self(22);
    /// Result does not fit the caller's buffer.
    pub const RANGE: Self = Self(34);
    /// Too many symbolic links.
    #[cfg(unix)]
    pub const LOOP: Self = Self(libc::ELOOP);
    /// The operation is not implemented here.
    #[cfg(unix)]
    pub const NOSYS: Self = Self(libc::ENOSYS);
    /// The object named by a handle does not exist any more.
    #[cfg(unix)]
    pub const STALE: Self = Self(libc::ESTALE);
    /// The backing filesystem does not support the operation.
    #[cfg(unix)]
    pub const OPNOTSUPP: Self = Self(libc::EOPNOTSUPP);
    /// There is no such extended attribute.
    #[cfg(unix)]
    pub const NODATA: Self = Self(NODATA);
    /// No space left.
    pub const NOSPC: Self = Self(28);
    /// The filesystem is read-only.
    pub const ROFS: Self = Self(30);
    /// Bad file descriptor.
    pub const BADF: Self = Self(9);

    /// Wraps a raw error number; zero and negative numbers, which no system
    /// call reports, become an input/output error rather than a false success.
    #[must_use]
    pub const fn from_raw(raw: i32) -> Self {
        if raw > 0 { Self(raw) } else { Self::IO }
    }

    /// The number, for the front-end's reply.
    #[must_use]
    pub const fn raw(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&std::io::Error::from_raw_os_error(self.0), f)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({}: {self})", self.0)
    }
}

impl std::error::Error for Errno {}

impl From<rustix::io::Errno> for Errno {
    fn from(error: rustix::io::Errno) -> Self {
        Self::from_raw(error.raw_os_error())
    }
}

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Self {
        Self::from_raw(error.raw_os_error().unwrap_or(0))
    }
}

impl From<Errno> for std::io::Error {
    fn from(error: Errno) -> Self {
        Self::from_raw_os_error(error.0)
    }
}
