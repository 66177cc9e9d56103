//! A shared memory mapping of a file, with safe reads and writes.
//!
//! Programs that map files (databases, linkers, git) see a filesystem from a side that no read or
//! write shows. Tests copy bytes in and out and never hold a reference into the mapping, so that
//! another process changing the file is not a data race in this one's eyes.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ptr;

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};

/// The first bytes of a file, mapped readable, writable and shared.
pub struct SharedMapping {
    start: *mut c_void,
    length: usize,
}

impl SharedMapping {
    /// Maps the first `length` bytes. The file must be that long as long as the mapping is used:
    /// beyond its end a touch kills the process (SIGBUS).
    pub fn new(file: &File, length: usize) -> io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe { mmap(ptr::null_mut(), length, access, MapFlags::SHARED, file, 0) }?;
        Ok(SharedMapping { start, length })
    }

    /// A copy of `length` bytes from `offset`.
    pub fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        self.check(offset, length);
        let bytes = (offset..offset + length).map(|index| {
            // SAFETY: inside the mapping, by the check; volatile, because others change the file.
            unsafe { self.start.cast::<u8>().add(index).read_volatile() }
        });
        bytes.collect()
    }

    /// Stores `bytes` at `offset`.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        for (index, byte) in bytes.iter().enumerate() {
            // SAFETY: inside the mapping, by the check; volatile, so that the store happens now.
            unsafe { self.start.cast::<u8>().add(offset + index).write_volatile(*byte) };
        }
    }

    /// `msync(MS_SYNC)` of the whole mapping.
    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: exactly the range that `new` mapped.
        Ok(unsafe { msync(self.start, self.length, MsyncFlags::SYNC) }?)
    }

    fn check(&self, offset: usize, length: usize) {
        assert!(offset + length <= self.length, "{offset}+{length} is outside of {}", self.length);
    }
}

impl Drop for SharedMapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `new` mapped, and no reference into it was ever given out.
        let _ = unsafe { munmap(self.start, self.length) };
    }
}
