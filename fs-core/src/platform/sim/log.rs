//! The log's blocks on the simulated disk.

use crate::error::{Errno, Result};
use crate::platform::{LogBuffer, LogStore};

/// A log on the simulated disk.
pub struct SimLog {}

impl LogStore for SimLog {
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
