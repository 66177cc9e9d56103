//! A shared memory mapping of a file, with safe reads and writes.
//!
//! Programs that map files (databases, linkers, git) see a filesystem from a side that no read or
//! write shows. Tests copy bytes in and out and never hold a reference into the mapping, so that
//! another process changing the file is not a data race in this one's eyes.

use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
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

/// Of the program `tests`: stores its standard input in a file through a mapping, and syncs that.
#[derive(Debug, clap::Args)]
pub struct StoreArgs {
    /// The file.
    path: PathBuf,
    /// Bytes of it that are mapped.
    length: usize,
    /// Where to store.
    offset: usize,
}

/// Has another process of this program store bytes through a mapping, and sync that.
///
/// A page fault on a mapping may wait for the disk, and keeps its process's memory map locked
/// meanwhile. Where the disk is served by this very process, its threads would wait for that lock
/// in turn as soon as they need memory: for ever.
///
/// # Errors
/// What the other process said.
pub fn store_elsewhere(path: &Path, length: usize, offset: usize, bytes: &[u8]) -> io::Result<()> {
    // The unit tests' own program has no such command, and no disk in it.
    if cfg!(test) {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let mapping = SharedMapping::new(&file, length)?;
        mapping.write(offset, bytes);
        return mapping.sync();
    }
    let mut child = Command::new(std::env::current_exe()?)
        .arg("store-mapped")
        .arg(path)
        .args([length.to_string(), offset.to_string()])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().expect("piped").write_all(bytes)?;
    let outcome = child.wait_with_output()?;
    if outcome.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&outcome.stderr);
    Err(io::Error::other(format!("a mapped store: {}: {}", outcome.status, said.trim())))
}

/// The other process's part.
///
/// # Errors
/// The file's, in words.
pub fn store(args: &StoreArgs) -> Result<(), String> {
    let stored = || {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes)?;
        let file = OpenOptions::new().read(true).write(true).open(&args.path)?;
        let mapping = SharedMapping::new(&file, args.length)?;
        mapping.write(args.offset, &bytes);
        mapping.sync()
    };
    stored().map_err(|error: io::Error| format!("{}: {error}", args.path.display()))
}
