//! The log's blocks on Windows: a file that is read and written past the cache
//! (FILE_FLAG_NO_BUFFERING), every write through the device's cache as well
//! (FILE_FLAG_WRITE_THROUGH), and flushed: write-through is a wish (FUA) that not every device
//! grants, and covers nothing that was written elsewhere.
//!
//! The file is written once from end to end, so that NTFS's valid data length reaches its end: a
//! write beyond that would be a change of metadata. Nobody else may open it meanwhile, not even to
//! read: that is the lock.

use std::ffi::OsStr;
use std::os::windows::io::OwnedHandle;

use windows_sys::Wdk::Storage::FileSystem as wdk;
use windows_sys::Win32::Storage::FileSystem as fs;

use super::nt::{self, Opening, Which};
use super::{READ, WRITE, attr};
use crate::error::{Errno, Result};
use crate::platform::{LOG_BLOCK_BYTES, LogBuffer, LogStore};

/// A log in a file.
pub struct WindowsLog {
    file: OwnedHandle,
    bytes: u64,
}

impl WindowsLog {
    pub(super) fn make(
        dir: &OwnedHandle,
        name: &OsStr,
        bytes: u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        if bytes == 0 || !bytes.is_multiple_of(LOG_BLOCK_BYTES as u64) {
            return Err(Errno::INVAL);
        }
        let file = open(dir, name, wdk::FILE_CREATE)?;
        let log = Self { file, bytes };
        match log.fill(progress) {
            Ok(()) => Ok(log),
            Err(error) => {
                // Part of a log is of no use, and may hold the last free clusters.
                let _ = nt::set(&log.file, wdk::FileDispositionInformation, &[1]);
                Err(error)
            }
        }
    }

    pub(super) fn open(dir: &OwnedHandle, name: &OsStr) -> Result<Self> {
        let file = open(dir, name, wdk::FILE_OPEN)?;
        let bytes = attr::length(&file)?;
        Ok(Self { file, bytes: bytes - bytes % LOG_BLOCK_BYTES as u64 })
    }

    fn fill(&self, progress: &mut dyn FnMut(u64)) -> Result<()> {
        // Refuses early if there is no room.
        attr::set_length(&self.file, self.bytes)?;
        self.write_zeros(0, self.bytes, progress)?;
        self.flush()
    }
}

fn open(dir: &OwnedHandle, name: &OsStr, disposition: u32) -> Result<OwnedHandle> {
    let opening = Opening {
        access: READ | WRITE | fs::DELETE,
        disposition,
        options: wdk::FILE_NON_DIRECTORY_FILE
            | wdk::FILE_NO_INTERMEDIATE_BUFFERING
            | wdk::FILE_WRITE_THROUGH,
        ..Opening::existing(0)
    };
    Ok(nt::open_alone(dir, Which::Name(name), opening)?.0)
}

impl LogStore for WindowsLog {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, buffer: &mut LogBuffer, offset: u64, bytes: usize) -> Result<()> {
        buffer.clear();
        self.check_range(offset, bytes)?;
        let read = nt::read(&self.file, buffer.grow(bytes), offset);
        match read {
            Ok(read) if read == bytes => Ok(()),
            other => {
                buffer.clear();
                Err(other.err().unwrap_or(Errno::IO))
            }
        }
    }

    fn write(&self, data: &LogBuffer, offset: u64) -> Result<()> {
        self.check_range(offset, data.len())?;
        let written = nt::write(&self.file, data.bytes(), offset)?;
        if written == data.len() { Ok(()) } else { Err(Errno::IO) }
    }

    fn flush(&self) -> Result<()> {
        nt::flush(&self.file)
    }

    /// A flush of one file is not said to flush what was written to others before.
    fn shares_device(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::Backing;
    use crate::platform::windows::{BackingOptions, WindowsBacking};

    const BYTES: u64 = 3 << 20;

    #[test]
    fn what_was_written_is_read_again() {
        let place = tempfile::tempdir().expect("scratch directory");
        let backing = WindowsBacking::open(place.path(), BackingOptions::default()).expect("it");
        let root = backing.root().expect("a root").object;
        let name = OsStr::new("log");
        let mut told = 0;
        let log = backing.make_log(&root, name, BYTES, &mut |bytes| told = bytes).expect("a log");
        assert_eq!((log.bytes(), told), (BYTES, BYTES));
        let mut data = LogBuffer::new();
        data.extend(&[7; 5000]);
        data.pad_to_block();
        log.write_and_flush(&data, 4096).expect("a write");
        let mut read = LogBuffer::new();
        log.read(&mut read, 0, 16384).expect("a read");
        assert!(read.bytes()[..4096].iter().all(|&byte| byte == 0));
        assert_eq!(&read.bytes()[4096..12288], data.bytes());
        // Not past the end, and nothing but whole blocks.
        assert_eq!(log.write(&data, BYTES - 4096), Err(Errno::INVAL));
        assert_eq!(log.write(&data, 512), Err(Errno::INVAL));
        assert_eq!(log.read(&mut read, BYTES, 4096), Err(Errno::INVAL));
        assert!(read.is_empty());
        // One owner.
        assert!(backing.open_log(&root, name).is_err());
        assert_eq!(backing.make_log(&root, name, BYTES, &mut |_| {}).err(), Some(Errno::EXIST));
        drop(log);
        let log = backing.open_log(&root, name).expect("the log is free");
        log.read(&mut read, 4096, 8192).expect("a read");
        assert_eq!(read.bytes(), data.bytes());
    }

    #[test]
    fn no_half_made_log() {
        let place = tempfile::tempdir().expect("scratch directory");
        let backing = WindowsBacking::open(place.path(), BackingOptions::default()).expect("it");
        let root = backing.root().expect("a root").object;
        // Longer than any file: one of 2^62 bytes was made on a tmpfs, under wine, and filled until
        // the machine had no memory left.
        let made = backing.make_log(&root, OsStr::new("log"), 1 << 63, &mut |_| {});
        assert!(made.is_err());
        assert!(!place.path().join("log").exists());
    }
}
