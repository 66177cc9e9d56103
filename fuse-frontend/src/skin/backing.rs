//! Backing ids: the kernel's numbers for files that it may read and write by itself.
//!
//! The two calls are made here and not through fuser, which ties them to a reply object
//! of its own and does not show the number; a reply through the ring has no such object.

#![expect(unsafe_code, reason = "FUSE_DEV_IOC_BACKING_OPEN and _CLOSE have no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use super::reply::Channel;

/// `struct fuse_backing_map`.
#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

/// `_IOW(229, 1, struct fuse_backing_map)`.
const BACKING_OPEN: libc::Ioctl = iow(1, size_of::<BackingMap>());
/// `_IOW(229, 2, uint32_t)`.
const BACKING_CLOSE: libc::Ioctl = iow(2, size_of::<u32>());

/// The number of an ioctl that takes a structure, for FUSE's type.
const fn iow(number: u32, bytes: usize) -> libc::Ioctl {
    const FUSE_TYPE: u32 = 229;
    const WRITE: u32 = 1;
    ((WRITE << 30) | ((bytes as u32) << 16) | (FUSE_TYPE << 8) | number) as libc::Ioctl
}

/// A backing id, ended when dropped.
pub(crate) struct Backing {
    channel: Arc<Channel>,
    number: u32,
}

impl Backing {
    /// Registers a file.
    ///
    /// # Errors
    /// `EPERM` without privilege, `ELOOP` on a backing that is stacked too deep.
    pub(super) fn register(channel: &Arc<Channel>, file: BorrowedFd<'_>) -> io::Result<Self> {
        let map = BackingMap { fd: file.as_raw_fd(), flags: 0, padding: 0 };
        // SAFETY: the call reads one `fuse_backing_map`, which outlives it; both
        // descriptors are borrowed, so they are open.
        let number =
            unsafe { libc::ioctl(channel.device().as_raw_fd(), BACKING_OPEN, &raw const map) };
        let number = u32::try_from(number).map_err(|_| io::Error::last_os_error())?;
        Ok(Self { channel: Arc::clone(channel), number })
    }

    /// A file that a predecessor of this program has registered: the number is the
    /// connection's, and lives as long as that.
    pub(super) fn resume(channel: &Arc<Channel>, number: u32) -> Self {
        Self { channel: Arc::clone(channel), number }
    }

    /// The kernel's number.
    pub(super) fn number(&self) -> u32 {
        self.number
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        // SAFETY: the call reads one u32, which outlives it; the device is open as
        // long as its channel. An error (the mount has ended) leaves nothing to do.
        unsafe {
            libc::ioctl(self.channel.device().as_raw_fd(), BACKING_CLOSE, &raw const self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_have_the_kernels_numbers() {
        assert_eq!((BACKING_OPEN, BACKING_CLOSE), (0x4010_e501, 0x4004_e502));
        assert_eq!(size_of::<BackingMap>(), 16);
    }
}
