//! The log's blocks on Linux: a file of the backing filesystem, or, outside of
//! it ([`path`]), a file of another filesystem, a block device, or an NVMe
//! namespace by its own commands ([`nvme`]).
//!
//! A file or block device is read and written with `O_DIRECT`, flushed by
//! `fdatasync(2)`: on a file whose blocks were all written once that is one flush
//! of the device's cache and no journal commit (the times of the file, which a
//! write changes, do not count for it). Never `RWF_DSYNC`, which a device may
//! answer with a write that passes its cache (FUA): other data in that cache,
//! which a group relies on, would stay there.
//!
//! Two system calls for write and flush, not one `io_uring_enter(2)` with both
//! linked: a kernel worker runs the linked flush, which costs more than a system
//! call (4 KiB on ext4 on a loop device, median: 47 against 124 us with a flush
//! that costs nothing, 193 against 235 us with 64 KiB and one of 80 us).
//!
//! One log has one daemon: `flock(2)` on the file, an exclusive claim on a device.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno as Os;

use self::atomic::AtomicWrites;
use self::nvme::Namespace;
use crate::error::{Errno, Result};
use crate::platform::{LOG_BLOCK_BYTES, LogBuffer, LogStore};

mod atomic;
mod inspect;
mod nvme;
mod path;

pub use self::inspect::{DeviceContent, inspect_device};
pub use self::path::LogPathError;

/// A log in a file or on a device.
pub struct LinuxLog {
    blocks: Blocks,
    bytes: u64,
    shares_device: bool,
}

/// What the blocks are of.
enum Blocks {
    File {
        file: OwnedFd,
        /// Past the page cache; else through it, to the same effect at a higher price.
        direct: bool,
        /// Only on block devices.
        atomic: Option<AtomicWrites>,
    },
    Nvme(Box<Namespace>),
}

impl LinuxLog {
    /// What blocks are read and written by, for status output.
    #[must_use]
    pub const fn mechanism(&self) -> &'static str {
        match &self.blocks {
            Blocks::File { direct: true, atomic: None, .. } => "direct I/O",
            Blocks::File { direct: true, atomic: Some(_), .. } => {
                "direct I/O, atomic where it fits"
            }
            Blocks::File { direct: false, .. } => "page cache",
            Blocks::Nvme(_) => "NVMe commands",
        }
    }

    /// Makes a log under a free name; `sync_name` makes the name durable.
    pub(super) fn make(
        dir: BorrowedFd<'_>,
        name: &OsStr,
        bytes: u64,
        shares_device: bool,
        sync_name: impl FnOnce() -> Result<()>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        if bytes == 0 || !bytes.is_multiple_of(LOG_BLOCK_BYTES as u64) {
            return Err(Errno::INVAL);
        }
        // Not yet O_DIRECT: if that is refused the file has been made all the same.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?;
        let made = Self::locked(file, shares_device).and_then(|mut log| {
            log.bytes = bytes;
            log.fill(progress)?;
            sync_name()?;
            Ok(log)
        });
        if made.is_err() {
            // Part of a log is of no use, and may hold the last free blocks.
            let _ = rustix::fs::unlinkat(dir, name, AtFlags::empty());
        }
        made
    }

    /// Opens a log that was made before.
    pub(super) fn open(dir: BorrowedFd<'_>, name: &OsStr, shares_device: bool) -> Result<Self> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = |access| rustix::fs::openat(dir, name, access | flags, Mode::empty());
        let file = match open(OFlags::RDWR) {
            // Good enough to see whether a recovery is due.
            Err(Os::ROFS) => open(OFlags::RDONLY)?,
            other => other?,
        };
        let stat = rustix::fs::fstat(&file)?;
        if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(Errno::INVAL);
        }
        Self::locked(file, shares_device)
    }

    /// Takes the lock on a regular file, and switches direct I/O on.
    fn locked(file: OwnedFd, shares_device: bool) -> Result<Self> {
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let bytes = whole_blocks(rustix::fs::fstat(&file)?.st_size.cast_unsigned());
        let direct = set_direct(&file)?;
        Ok(Self { blocks: Blocks::File { file, direct, atomic: None }, bytes, shares_device })
    }

    /// Writes every block of a file once and makes all of it durable.
    fn fill(&self, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let Blocks::File { file, .. } = &self.blocks else { return Err(Errno::INVAL) };
        // Asks for the room in one piece and refuses early if there is none.
        // Alone it would not do: the first write to each allocated block changes
        // metadata (an unwritten extent becomes a written one).
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, self.bytes) {
            Ok(()) | Err(Os::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        self.write_zeros(0, self.bytes, progress)?;
        Ok(rustix::fs::fsync(file)?)
    }
}

impl LogStore for LinuxLog {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, buffer: &mut LogBuffer, offset: u64, bytes: usize) -> Result<()> {
        buffer.clear();
        self.check_range(offset, bytes)?;
        let read = match &self.blocks {
            Blocks::File { file, .. } => read_all(file.as_fd(), buffer.grow(bytes), offset),
            Blocks::Nvme(namespace) => namespace.read(buffer.grow(bytes), offset),
        };
        if read.is_err() {
            buffer.clear();
        }
        read
    }

    fn write(&self, data: &LogBuffer, offset: u64) -> Result<()> {
        self.check_range(offset, data.len())?;
        match &self.blocks {
            Blocks::File { file, atomic, .. } => {
                let atomic = atomic.as_ref().filter(|atomic| atomic.fits(data.len(), offset));
                match atomic {
                    Some(atomic) => atomic.write(file.as_fd(), data.bytes(), offset),
                    None => write_all(file.as_fd(), data.bytes(), offset),
                }
            }
            Blocks::Nvme(namespace) => namespace.write(data.bytes(), offset),
        }
    }

    fn flush(&self) -> Result<()> {
        match &self.blocks {
            Blocks::File { file, .. } => data_sync(file.as_fd()),
            Blocks::Nvme(namespace) => namespace.flush(),
        }
    }

    fn write_and_flush(&self, data: &LogBuffer, offset: u64) -> Result<()> {
        match &self.blocks {
            Blocks::File { .. } => {
                self.write(data, offset)?;
                self.flush()
            }
            Blocks::Nvme(namespace) => {
                self.check_range(offset, data.len())?;
                namespace.write_and_flush(data.bytes(), offset)
            }
        }
    }

    fn shares_device(&self) -> bool {
        self.shares_device
    }
}

const fn whole_blocks(bytes: u64) -> u64 {
    bytes - bytes % LOG_BLOCK_BYTES as u64
}

/// Switches direct I/O on; false where the filesystem has none.
fn set_direct(file: &OwnedFd) -> Result<bool> {
    let flags = rustix::fs::fcntl_getfl(file)? | OFlags::DIRECT;
    match rustix::fs::fcntl_setfl(file, flags) {
        Ok(()) => Ok(true),
        Err(Os::INVAL) => {
            tracing::warn!("no direct I/O for the log; it goes through the page cache");
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

fn write_all(file: BorrowedFd<'_>, data: &[u8], offset: u64) -> Result<()> {
    let mut done = 0;
    while done < data.len() {
        match rustix::io::pwrite(file, &data[done..], offset + done as u64) {
            Ok(0) => return Err(Errno::IO),
            Ok(bytes) => done += bytes,
            Err(Os::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn read_all(file: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(file, &mut buffer[done..], offset + done as u64) {
            Ok(0) => return Err(Errno::IO),
            Ok(bytes) => done += bytes,
            Err(Os::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// `fdatasync(2)`; on a file or device without dirty pages, one flush.
pub(super) fn data_sync(file: BorrowedFd<'_>) -> Result<()> {
    loop {
        match rustix::fs::fdatasync(file) {
            Err(Os::INTR) => {}
            other => return Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 3 << 20;

    fn make(directory: &std::fs::File, name: &str) -> Result<LinuxLog> {
        let mut told = 0;
        let log = LinuxLog::make(
            directory.as_fd(),
            OsStr::new(name),
            BYTES,
            true,
            || Ok(rustix::fs::fsync(directory)?),
            &mut |bytes| told = bytes,
        )?;
        assert_eq!(told, BYTES);
        Ok(log)
    }

    #[test]
    fn what_was_written_is_read_again() {
        let place = tempfile::tempdir().expect("scratch directory");
        let directory = std::fs::File::open(place.path()).expect("scratch directory");
        let log = make(&directory, "log").expect("a log");
        assert_eq!(log.bytes(), BYTES);
        let mut data = LogBuffer::new();
        data.extend(&[7; 5000]);
        data.pad_to_block();
        log.write_and_flush(&data, 4096).expect("a write");
        let mut read = LogBuffer::new();
        read.extend(b"replaced");
        log.read(&mut read, 0, 16384).expect("a read");
        assert_eq!(read.len(), 16384);
        assert!(read.bytes()[..4096].iter().all(|&byte| byte == 0));
        assert_eq!(&read.bytes()[4096..12288], data.bytes());
        assert!(read.bytes()[12288..].iter().all(|&byte| byte == 0));

        // Not past the end, and nothing but whole blocks.
        assert_eq!(log.write(&data, BYTES - 4096), Err(Errno::INVAL));
        assert_eq!(log.write(&data, 512), Err(Errno::INVAL));
        assert_eq!(log.read(&mut read, BYTES, 4096), Err(Errno::INVAL));
        assert!(read.is_empty());
        assert_eq!(log.read(&mut read, 0, 100), Err(Errno::INVAL));

        drop(log);
        let log = LinuxLog::open(directory.as_fd(), OsStr::new("log"), true).expect("the log");
        log.read(&mut read, 4096, 8192).expect("a read");
        assert_eq!(read.bytes(), data.bytes());
    }

    #[test]
    fn a_log_has_one_owner() {
        let place = tempfile::tempdir().expect("scratch directory");
        let directory = std::fs::File::open(place.path()).expect("scratch directory");
        let log = make(&directory, "log").expect("a log");
        let open = || LinuxLog::open(directory.as_fd(), OsStr::new("log"), true);
        assert_eq!(open().err().map(Errno::raw), Some(libc::EWOULDBLOCK));
        assert_eq!(make(&directory, "log").err(), Some(Errno::EXIST));
        drop(log);
        open().expect("the log is free");
    }

    /// A log that does not fit leaves nothing behind.
    #[test]
    fn no_half_made_log() {
        let place = tempfile::tempdir().expect("scratch directory");
        let directory = std::fs::File::open(place.path()).expect("scratch directory");
        let far_too_many = 1 << 60;
        let name = OsStr::new("log");
        let made =
            LinuxLog::make(directory.as_fd(), name, far_too_many, true, || Ok(()), &mut |_| {});
        assert!(made.is_err());
        assert!(!place.path().join("log").exists());
    }
}
