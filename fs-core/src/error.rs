//! The one error type of the engine: the errno that the backing filesystem gave.
//!
//! Its numbers are the platform's own (`platform/native.rs`). On Windows, which has no errno,
//! those that the engine knows by name have Linux's number, and all others are the NTSTATUS itself, a
//! negative number: the front-end gives it back as it came.
//!
//! A program on the mount must see the error that it would have seen on the
//! backing directory, so nothing between the system call and the reply may
//! translate it. Richer errors (of the log, of recovery) wrap this one.

use std::fmt;

use crate::platform::native;

/// A system error number, as `errno(3)` has it. Never zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

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
    pub const TIMEDOUT: Self = Self(native::ETIMEDOUT);
    /// Not a directory.
    pub const NOTDIR: Self = Self(20);
    /// Is a directory.
    pub const ISDIR: Self = Self(21);
    /// Invalid argument.
    pub const INVAL: Self = Self(22);
    /// Result does not fit the caller's buffer.
    pub const RANGE: Self = Self(34);
    /// Too many symbolic links.
    pub const LOOP: Self = Self(native::ELOOP);
    /// The operation is not implemented here.
    pub const NOSYS: Self = Self(native::ENOSYS);
    /// The object named by a handle does not exist any more.
    pub const STALE: Self = Self(native::ESTALE);
    /// The backing filesystem does not support the operation.
    pub const OPNOTSUPP: Self = Self(native::EOPNOTSUPP);
    /// There is no such extended attribute.
    pub const NODATA: Self = Self(native::ENODATA);
    /// Argument list, or value of an extended attribute, too long.
    pub const TOOBIG: Self = Self(7);
    /// A resource is temporarily unavailable; the lock is held by somebody else.
    pub const WOULDBLOCK: Self = Self(native::EWOULDBLOCK);
    /// In use.
    pub const BUSY: Self = Self(16);
    /// The user's quota is used up.
    pub const DQUOT: Self = Self(native::EDQUOT);
    /// Interrupted by a signal.
    pub const INTR: Self = Self(4);
    /// No such device; the operation makes no sense for this kind of object.
    pub const NODEV: Self = Self(19);
    /// File too large.
    pub const FBIG: Self = Self(27);
    /// Read-only filesystem.
    pub const ROFS: Self = Self(30);
    /// Too many links.
    pub const MLINK: Self = Self(31);
    /// Name too long.
    pub const NAMETOOLONG: Self = Self(native::ENAMETOOLONG);
    /// Directory not empty.
    pub const NOTEMPTY: Self = Self(native::ENOTEMPTY);
    /// No space left.
    pub const NOSPC: Self = Self(28);
    /// Bad file descriptor.
    pub const BADF: Self = Self(9);

    /// Wraps a raw error number; one that no system call reports (zero; a negative one
    /// where there are no such numbers) becomes an input/output error rather than a false
    /// success.
    #[must_use]
    pub const fn from_raw(raw: i32) -> Self {
        if native::is_error(raw) { Self(raw) } else { Self::IO }
    }

    /// The number, for the front-end's reply.
    #[must_use]
    pub const fn raw(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        native::describe(*self, f)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({}: {self})", self.0)
    }
}

impl std::error::Error for Errno {}

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Self {
        native::of_io_error(&error)
    }
}

impl From<Errno> for std::io::Error {
    fn from(error: Errno) -> Self {
        native::to_io_error(error)
    }
}
