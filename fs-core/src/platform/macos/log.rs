//! The log's blocks on macOS: a file, read and written past the page cache (`F_NOCACHE`), flushed by
//! `F_FULLFSYNC`. One log has one daemon: `flock(2)`.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};

use super::fence::full_sync;
use crate::error::{Errno, Result};
use crate::platform::unix_io::{read_full, write_full};
use crate::platform::{LOG_BLOCK_BYTES, LogBuffer, LogStore};

/// A log in a file.
pub struct MacLog {
    file: OwnedFd,
    bytes: u64,
}

impl MacLog {
    pub(super) fn make(
        dir: BorrowedFd<'_>,
        name: &OsStr,
        bytes: u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        if bytes == 0 || !bytes.is_multiple_of(LOG_BLOCK_BYTES as u64) {
            return Err(Errno::INVAL);
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?;
        let made = Self::locked(file).and_then(|mut log| {
            log.bytes = bytes;
            log.fill(progress)?;
            Ok(log)
        });
        if made.is_err() {
            let _ = rustix::fs::unlinkat(dir, name, AtFlags::empty());
        }
        made
    }

    pub(super) fn open(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Self::locked(rustix::fs::openat(dir, name, flags, Mode::empty())?)
    }

    fn locked(file: OwnedFd) -> Result<Self> {
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        // SAFETY: an open descriptor, and a number as the command wants it.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_NOCACHE, 1) } == -1 {
            return Err(std::io::Error::last_os_error().into());
        }
        let bytes = rustix::fs::fstat(&file)?.st_size.cast_unsigned();
        Ok(Self { file, bytes: bytes - bytes % LOG_BLOCK_BYTES as u64 })
    }

    fn fill(&self, progress: &mut dyn FnMut(u64)) -> Result<()> {
        self.write_zeros(0, self.bytes, progress)?;
        self.flush()
    }
}

impl LogStore for MacLog {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, buffer: &mut LogBuffer, offset: u64, bytes: usize) -> Result<()> {
        buffer.clear();
        self.check_range(offset, bytes)?;
        match read_full(&self.file, buffer.grow(bytes), offset) {
            Ok(read) if read == bytes => Ok(()),
            other => {
                buffer.clear();
                Err(other.err().unwrap_or(Errno::IO))
            }
        }
    }

    fn write(&self, data: &LogBuffer, offset: u64) -> Result<()> {
        self.check_range(offset, data.len())?;
        let written = write_full(&self.file, data.bytes(), offset)?;
        if written == data.len() { Ok(()) } else { Err(Errno::IO) }
    }

    fn flush(&self) -> Result<()> {
        full_sync(self.file.as_fd())
    }

    fn shares_device(&self) -> bool {
        true
    }
}
