//! The log's blocks on Linux.

use crate::error::{Errno, Result};
use crate::platform::{LogBuffer, LogStore};

/// A log in a file or on a block device.
pub struct LinuxLog {}

impl LogStore for LinuxLog {
    fn bytes(&self) -> u64 {
        0
    }

    fn read(&self, _buffer: &mut LogBuffer, _offset: u64, _bytes: usize) -> Result<()> {
        Err(Errno::NOSYS)
    }

    fn write(&self, _data: &LogBuffer, _offset: u64) -> Result<()> {
        Err(Errno::NOSYS)
    }

    fn flush(&self) -> Result<()> {
        Err(Errno::NOSYS)
    }

    fn shares_device(&self) -> bool {
        true
    }
}
