//! Open files: flags, and reads and writes that finish what they begin.

use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use rustix::io::Errno as Os;

use super::BackingOptions;
use crate::error::Result;
use crate::platform::{LOG_BLOCK_BYTES, LogBuffer, OpenMode};

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

/// Longest piece that is copied to an aligned place before it is written past the
/// page cache.
const DIRECT_PIECE_BYTES: usize = 1 << 20;

/// Takes `O_DIRECT` back from an open file: whoever reads through it later has no
/// aligned buffers.
struct Direct<'a> {
    file: &'a OwnedFd,
    before: OFlags,
}

impl<'a> Direct<'a> {
    /// `None` where the filesystem refuses it.
    fn set(file: &'a OwnedFd) -> Option<Self> {
        let before = rustix::fs::fcntl_getfl(file).ok()?;
        rustix::fs::fcntl_setfl(file, before | OFlags::DIRECT).ok()?;
        Some(Self { file, before })
    }
}

impl Drop for Direct<'_> {
    fn drop(&mut self) {
        // Only flags that it had.
        let _ = rustix::fs::fcntl_setfl(self.file, self.before - OFlags::DIRECT);
    }
}

/// Writes whole blocks from the front of `data` past the page cache; how many bytes.
/// The descriptor is the one that the file was made with: a filesystem that refuses
/// `O_DIRECT` refuses a flag here, and no file is left behind by an open that failed.
pub(super) fn write_direct(file: &OwnedFd, data: &[u8], offset: u64) -> Result<usize> {
    let whole = data.len() / LOG_BLOCK_BYTES * LOG_BLOCK_BYTES;
    let aligned_offset = offset.is_multiple_of(LOG_BLOCK_BYTES as u64);
    let Some(_direct) = (whole > 0 && aligned_offset).then(|| Direct::set(file)).flatten() else {
        return Ok(0);
    };
    let mut buffer = LogBuffer::new();
    let mut done = 0;
    for piece in data[..whole].chunks(DIRECT_PIECE_BYTES) {
        let piece = if piece.as_ptr().addr().is_multiple_of(LOG_BLOCK_BYTES) {
            piece
        } else {
            buffer.clear();
            buffer.extend(piece);
            buffer.bytes()
        };
        let mut written = 0;
        while written < piece.len() {
            match rustix::io::pwrite(file, &piece[written..], offset + (done + written) as u64) {
                Ok(0) => return Ok(done + written),
                Ok(bytes) => written += bytes,
                Err(Os::INTR) => {}
                // Refused after all, or a short write has ended within a block: the
                // rest goes through the page cache.
                Err(Os::INVAL) => return Ok(done + written),
                Err(error) => return Err(error.into()),
            }
        }
        done += written;
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
