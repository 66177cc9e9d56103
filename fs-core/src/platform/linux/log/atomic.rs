//! Writes that a block device makes whole or not at all (`RWF_ATOMIC`, Linux 6.11).
//!
//! A log does not need them: a torn group is known by its checksum. Where they cost
//! nothing they spare recovery the question. Not for files: XFS makes a large
//! atomic write by writing elsewhere (6.16), which changes metadata.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::{Errno as Os, ReadWriteFlags};

use super::write_all;
use crate::error::Result;

/// What a device can write at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AtomicWrites {
    unit_bytes_min: u32,
    unit_bytes_max: u32,
}

impl AtomicWrites {
    /// Asks an open block device; `None` if it promises nothing.
    pub(super) fn of(device: BorrowedFd<'_>) -> Option<Self> {
        /// `STATX_WRITE_ATOMIC`.
        const WRITE_ATOMIC: u32 = 0x0001_0000;
        /// `struct statx`, of which older headers lack the end.
        #[repr(C, align(8))]
        struct Statx([u32; 64]);
        let mut stat = Statx([0; 64]);
        // SAFETY: the descriptor is open, the path is a valid empty C string, and
        // `struct statx` has 256 bytes on every platform (its tail is spare room).
        let result = unsafe {
            libc::statx(
                device.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                WRITE_ATOMIC,
                (&raw mut stat).cast(),
            )
        };
        // `stx_mask`, `stx_atomic_write_unit_min` and `_max` by their offsets.
        let (mask, min, max) = (stat.0[0], stat.0[0xa8 / 4], stat.0[0xac / 4]);
        let is_told = result == 0 && mask & WRITE_ATOMIC != 0 && max > 0;
        is_told.then_some(Self { unit_bytes_min: min, unit_bytes_max: max })
    }

    /// Whether a write can be atomic: a power of two at a multiple of itself
    /// (`generic_atomic_write_valid`).
    pub(super) fn fits(&self, bytes: usize, offset: u64) -> bool {
        bytes.is_power_of_two()
            && offset.is_multiple_of(bytes as u64)
            && (self.unit_bytes_min as usize..=self.unit_bytes_max as usize).contains(&bytes)
    }

    /// Writes `data`, which [fits](Self::fits), at once; piecewise if the device
    /// refuses after all.
    pub(super) fn write(self, file: BorrowedFd<'_>, data: &[u8], offset: u64) -> Result<()> {
        let flags = ReadWriteFlags::from_bits_retain(libc::RWF_ATOMIC.cast_unsigned());
        loop {
            match rustix::io::pwritev2(file, &[IoSlice::new(data)], offset, flags) {
                Ok(bytes) if bytes == data.len() => return Ok(()),
                // Never short by the rules; then not to be relied on either.
                Ok(_) | Err(Os::INVAL | Os::OPNOTSUPP) => return write_all(file, data, offset),
                Err(Os::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_at_their_multiples() {
        let atomic = AtomicWrites { unit_bytes_min: 4096, unit_bytes_max: 16384 };
        for (bytes, offset) in [(4096, 0), (4096, 4096), (8192, 8192), (16384, 1 << 40)] {
            assert!(atomic.fits(bytes, offset), "{bytes} at {offset}");
        }
        for (bytes, offset) in [(0, 0), (512, 0), (8192, 4096), (12288, 0), (32768, 0)] {
            assert!(!atomic.fits(bytes, offset), "{bytes} at {offset}");
        }
    }

    #[test]
    fn a_file_promises_nothing_or_powers_of_two() {
        let file = tempfile::tempfile().expect("scratch file");
        if let Some(atomic) = AtomicWrites::of(std::os::fd::AsFd::as_fd(&file)) {
            assert!(atomic.unit_bytes_min.is_power_of_two(), "{atomic:?}");
            assert!(atomic.unit_bytes_max.is_power_of_two(), "{atomic:?}");
        }
    }
}
