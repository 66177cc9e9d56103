//! Directory streams with the backing filesystem's own offsets.
//!
//! An offset given out is the filesystem's cookie for "after this entry", so a
//! reader can continue at it while entries come and go, however large the
//! directory. What one system call returned beyond a reader's buffer is kept
//! for the next call instead of being read again.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{RawDir, SeekFrom};

use super::attr;
use crate::error::Result;
use crate::types::DirEntry;

/// Bytes that one `getdents64(2)` may return: some hundred entries.
const BATCH_BYTES: usize = 32 * 1024;

/// An open directory.
pub struct Dir {
    fd: OwnedFd,
    stream: Mutex<Stream>,
}

#[derive(Default)]
struct Stream {
    /// Entries that the system call returned and no reader has taken.
    ahead: VecDeque<DirEntry>,
    /// Offset of the first of them; where the descriptor stands if there are none.
    ahead_offset: u64,
}

impl Dir {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self { fd, stream: Mutex::default() }
    }

    /// Visits entries from `offset`; see [`crate::platform::Backing::read_dir`].
    pub(super) fn read(&self, offset: u64, visit: &mut dyn FnMut(DirEntry) -> bool) -> Result<()> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        // Offset 0 is a rewind, which must see what has come since (POSIX rewinddir).
        if offset == 0 || offset != stream.ahead_offset {
            stream.ahead.clear();
            stream.ahead_offset = offset;
            rustix::fs::seek(&self.fd, SeekFrom::Start(offset))?;
        }
        loop {
            while let Some(entry) = stream.ahead.front() {
                let next_offset = entry.next_offset;
                if !visit(entry.clone()) {
                    return Ok(());
                }
                stream.ahead.pop_front();
                stream.ahead_offset = next_offset;
            }
            if !self.read_ahead(&mut stream)? {
                return Ok(());
            }
        }
    }

    /// One system call's worth of entries; false at the end of the directory.
    fn read_ahead(&self, stream: &mut Stream) -> Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); BATCH_BYTES];
        let mut batch = RawDir::new(&self.fd, &mut buffer);
        loop {
            let Some(entry) = batch.next() else { return Ok(!stream.ahead.is_empty()) };
            let entry = entry?;
            stream.ahead.push_back(DirEntry {
                name: OsStr::from_bytes(entry.file_name().to_bytes()).to_owned(),
                ino: entry.ino(),
                kind: attr::kind(entry.file_type()),
                next_offset: entry.next_entry_cookie(),
            });
            if batch.is_buffer_empty() {
                return Ok(true);
            }
        }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
