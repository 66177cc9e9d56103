//! Where the log lies: blocks of a file or device, past the page cache.

use crate::error::{Errno, Result};

/// Unit in which a log is read and written, and the alignment of its buffers:
/// no device known has larger logical blocks.
pub const LOG_BLOCK_BYTES: usize = 4096;

/// Written at a time while a log is made.
const ZEROS_BYTES_MAX: usize = 1 << 20;

/// Blocks that are written and flushed past every cache of the machine.
///
/// Offsets and lengths are multiples of [`LOG_BLOCK_BYTES`]; methods may be
/// called from any thread.
pub trait LogStore: Send + Sync + 'static {
    /// Length in bytes.
    fn bytes(&self) -> u64;

    /// Reads `bytes` at `offset`, replacing what `buffer` held.
    ///
    /// # Errors
    /// The device's; `buffer` is empty then.
    fn read(&self, buffer: &mut LogBuffer, offset: u64, bytes: usize) -> Result<()>;

    /// Writes `data` at `offset`; it is in the device then, but a power cut may
    /// take it, in whole or in part.
    ///
    /// # Errors
    /// The device's; any part of `data` may have been written.
    fn write(&self, data: &LogBuffer, offset: u64) -> Result<()>;

    /// Makes all writes that have returned durable. Where the log
    /// [shares its device](Self::shares_device) with the backing filesystem, so
    /// is everything else that the device had been given: one flush for both.
    ///
    /// # Errors
    /// The device's: nothing may be taken for durable.
    fn flush(&self) -> Result<()>;

    /// [`write`](Self::write) and [`flush`](Self::flush), in one system call
    /// where the platform can.
    ///
    /// # Errors
    /// As those.
    fn write_and_flush(&self, data: &LogBuffer, offset: u64) -> Result<()> {
        self.write(data, offset)?;
        self.flush()
    }

    /// Whether [`flush`](Self::flush) also flushes the backing filesystem's device.
    fn shares_device(&self) -> bool;

    /// Writes zeros `from` here `to` there, in pieces; after each, `progress` is told how many
    /// bytes are done.
    ///
    /// # Errors
    /// As [`write`](Self::write); a part is written.
    fn write_zeros(&self, from: u64, to: u64, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let mut zeros = LogBuffer::new();
        zeros.grow(ZEROS_BYTES_MAX);
        let mut done = from;
        while done < to {
            zeros.truncate((to - done).min(ZEROS_BYTES_MAX as u64) as usize);
            self.write(&zeros, done)?;
            done += zeros.len() as u64;
            progress(done - from);
        }
        Ok(())
    }

    /// Whether a range is inside the log and made of whole blocks.
    ///
    /// # Errors
    /// `EINVAL` if it is not.
    fn check_range(&self, offset: u64, bytes: usize) -> Result<()> {
        let aligned =
            offset.is_multiple_of(LOG_BLOCK_BYTES as u64) && bytes.is_multiple_of(LOG_BLOCK_BYTES);
        let inside = offset.checked_add(bytes as u64).is_some_and(|end| end <= self.bytes());
        if aligned && inside { Ok(()) } else { Err(Errno::INVAL) }
    }
}

/// Bytes that begin at a multiple of [`LOG_BLOCK_BYTES`] in memory, as direct
/// I/O wants them.
#[derive(Debug, Default)]
pub struct LogBuffer {
    /// What is in use begins at `start`, the first aligned byte.
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl LogBuffer {
    /// An empty buffer.
    #[must_use]
    pub const fn new() -> Self {
        Self { memory: Vec::new(), start: 0, length: 0 }
    }

    /// Number of bytes in use.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing is in use.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The bytes in use.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }

    /// The bytes in use, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }

    /// Forgets all bytes; keeps the memory.
    pub fn clear(&mut self) {
        self.length = 0;
    }

    /// Cuts to `length` bytes, if it is longer.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// Adds `count` zero bytes at the end and returns them.
    pub fn grow(&mut self, count: usize) -> &mut [u8] {
        self.reserve(count);
        let begin = self.start + self.length;
        self.length += count;
        let grown = &mut self.memory[begin..begin + count];
        grown.fill(0);
        grown
    }

    /// Adds bytes at the end.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        let begin = self.start + self.length;
        self.length += bytes.len();
        self.memory[begin..begin + bytes.len()].copy_from_slice(bytes);
    }

    /// Adds zeros up to a whole number of blocks.
    pub fn pad_to_block(&mut self) {
        let padded = self.length.next_multiple_of(LOG_BLOCK_BYTES);
        self.grow(padded - self.length);
    }

    fn reserve(&mut self, count: usize) {
        let needed = self.length + count;
        if needed <= self.memory.len().saturating_sub(self.start) {
            return;
        }
        let room = needed.max(2 * self.length).max(LOG_BLOCK_BYTES) + LOG_BLOCK_BYTES;
        let mut memory = vec![0; room];
        let start = memory.as_ptr().align_offset(LOG_BLOCK_BYTES);
        memory[start..start + self.length].copy_from_slice(self.bytes());
        self.memory = memory;
        self.start = start;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_and_keeps_its_bytes_while_it_grows() {
        let mut buffer = LogBuffer::new();
        let mut expected = Vec::new();
        for round in 1..200_usize {
            let piece = vec![round as u8; 37 * round];
            buffer.extend(&piece);
            expected.extend_from_slice(&piece);
            assert_eq!(buffer.bytes().as_ptr().align_offset(LOG_BLOCK_BYTES), 0);
        }
        assert_eq!(buffer.bytes(), expected);
        buffer.pad_to_block();
        assert!(buffer.len().is_multiple_of(LOG_BLOCK_BYTES));
        assert_eq!(&buffer.bytes()[..expected.len()], expected);
        assert!(buffer.bytes()[expected.len()..].iter().all(|&byte| byte == 0));
        buffer.truncate(10);
        // What comes after a cut must not show what stood there before.
        assert!(buffer.grow(5000).iter().all(|&byte| byte == 0));
    }
}
