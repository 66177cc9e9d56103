//! The log's blocks on macOS: a file, read and written past the page cache (`F_NOCACHE`), flushed by
//! `F_FULLFSYNC`. One log has one daemon: `flock(2)`.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno as Os;

use super::fence::full_sync;
use crate::error::{Errno, Result};
use crate::platform::{LOG_BLOCK_BYTES, LogBuffer, LogStore};

/// Written at a time while a log is made.
const MAKE_PIECE_BYTES: usize = 1 << 20;

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
        let mut zeros = LogBuffer::new();
        zeros.grow(MAKE_PIECE_BYTES);
        let mut done = 0;
        while done < self.bytes {
            zeros.truncate((self.bytes - done).min(MAKE_PIECE_BYTES as u64) as usize);
            self.write(&zeros, done)?;
            done += zeros.len() as u64;
            progress(done);
        }
        self.flush()
    }

    fn check(&self, offset: u64, bytes: usize) -> Result<()> {
        let aligned =
            offset.is_multiple_of(LOG_BLOCK_BYTES as u64) && bytes.is_multiple_of(LOG_BLOCK_BYTES);
        let inside = offset.checked_add(bytes as u64).is_some_and(|end| end <= self.bytes);
        if aligned && inside { Ok(()) } else { Err(Errno::INVAL) }
    }
}

impl LogStore for MacLog {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, buffer: &mut LogBuffer, offset: u64, bytes: usize) -> Result<()> {
        buffer.clear();
        self.check(offset, bytes)?;
        match read_full(&self.file, buffer.grow(bytes), offset) {
            Ok(read) if read == bytes => Ok(()),
            other => {
                buffer.clear();
                Err(other.err().unwrap_or(Errno::IO))
            }
        }
    }

    fn write(&self, data: &LogBuffer, offset: u64) -> Result<()> {
        self.check(offset, data.len())?;
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

/// Reads until the buffer is full or the file ends.
pub(super) fn read_full(file: &OwnedFd, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(file, &mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(bytes) => done += bytes,
            Err(Os::INTR) => {}
            Err(_) if done > 0 => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}

/// Writes all of `data`, or as much as fits before an error.
pub(super) fn write_full(file: &OwnedFd, data: &[u8], offset: u64) -> Result<usize> {
    let mut done = 0;
    while done < data.len() {
        match rustix::io::pwrite(file, &data[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(bytes) => done += bytes,
            Err(Os::INTR) => {}
            Err(_) if done > 0 => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}
