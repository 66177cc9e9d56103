//! Open files: flags, and reads and writes that finish what they begin.

use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use rustix::io::Errno as Os;

use super::BackingOptions;
use crate::error::Result;
use crate::platform::OpenMode;

/// The flags with which the backing file is opened.
///
/// Never `O_APPEND`: offsets come from the kernel, which has serialised the
/// appenders, and a page of a shared mapping written back through such a
/// descriptor would land at the end of the file. Never `O_SYNC`: durability is
/// the lane's. Never `O_DIRECT`: request buffers are not aligned.
pub(super) fn open_flags(mode: OpenMode, options: BackingOptions) -> OFlags {
    let mut flags = match (mode.read, mode.write) {
        (_, false) => OFlags::RDONLY,
        (false, true) => OFlags::WRONLY,
        (true, true) => OFlags::RDWR,
    };
    flags |= OFlags::CLOEXEC;
    flags.set(OFlags::TRUNC, mode.truncate);
    flags.set(OFlags::NOATIME, mode.no_atime || options.no_atime);
    flags
}

/// Reads until the buffer is full or the file ends.
pub(super) fn read_full(file: &OwnedFd, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(file, &mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(bytes) => done += bytes,
            Err(Os::INTR) => {}
            // What was read before the error is good; the error comes again.
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

/// One `copy_file_range(2)`; the caller continues after a short copy.
pub(super) fn copy_range(
    source: (&OwnedFd, u64),
    target: (&OwnedFd, u64),
    bytes: u64,
) -> Result<u64> {
    let (mut from, mut to) = (source.1, target.1);
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    let copied =
        rustix::fs::copy_file_range(source.0, Some(&mut from), target.0, Some(&mut to), bytes)?;
    Ok(copied as u64)
}
