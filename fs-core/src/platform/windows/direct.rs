//! Writing past the cache: through a second handle, because a handle is with or without for life.

use std::os::windows::io::OwnedHandle;

use windows_sys::Wdk::Storage::FileSystem as wdk;
use windows_sys::Win32::Storage::FileSystem::FILE_WRITE_DATA;

use super::nt::{self, Opening, Which};
use crate::error::{Errno, Result};
use crate::platform::{LOG_BLOCK_BYTES, LogBuffer};

/// Longest piece that is copied to an aligned place before it is written.
const PIECE_BYTES: usize = 1 << 20;

/// Writes whole blocks from the front of `data`; how many bytes. 0 where the filesystem refuses
/// it. What an earlier write has left in the cache is written out first by the filesystem.
pub(super) fn write(file: &OwnedHandle, data: &[u8], offset: u64) -> Result<usize> {
    let whole = data.len() / LOG_BLOCK_BYTES * LOG_BLOCK_BYTES;
    if whole == 0 || !offset.is_multiple_of(LOG_BLOCK_BYTES as u64) {
        return Ok(0);
    }
    let options = wdk::FILE_NON_DIRECTORY_FILE | wdk::FILE_NO_INTERMEDIATE_BUFFERING;
    let opening = Opening { options, ..Opening::existing(FILE_WRITE_DATA) };
    let Ok((direct, _)) = nt::open(file, Which::Itself, opening) else { return Ok(0) };
    let mut buffer = LogBuffer::new();
    let mut done = 0;
    for piece in data[..whole].chunks(PIECE_BYTES) {
        buffer.clear();
        buffer.extend(piece);
        match nt::write(&direct, buffer.bytes(), offset + done as u64) {
            Ok(bytes) => {
                done += bytes;
                if bytes < piece.len() {
                    return Ok(done);
                }
            }
            // Refused after all: the rest goes through the cache.
            Err(Errno::INVAL) => return Ok(done),
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
