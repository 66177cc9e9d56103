//! A log in memory. The fuzz targets use this file too.

use std::sync::{Mutex, MutexGuard, PoisonError};

use fs_core::error::{Errno, Result};
use fs_core::platform::{LOG_BLOCK_BYTES, LogBuffer, LogStore};

/// Blocks that can be read, written, and spoilt.
#[derive(Debug)]
pub struct MemoryStore {
    content: Mutex<Vec<u8>>,
    /// Reading here fails.
    pub unreadable: Option<u64>,
}

impl MemoryStore {
    pub fn new(content: Vec<u8>) -> Self {
        Self { content: Mutex::new(content), unreadable: None }
    }

    /// Everything, to be looked at or changed.
    pub fn content(&self) -> MutexGuard<'_, Vec<u8>> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogStore for MemoryStore {
    fn bytes(&self) -> u64 {
        self.content().len() as u64
    }

    fn read(&self, buffer: &mut LogBuffer, offset: u64, bytes: usize) -> Result<()> {
        assert!(offset.is_multiple_of(LOG_BLOCK_BYTES as u64), "offset {offset}");
        assert!(bytes.is_multiple_of(LOG_BLOCK_BYTES), "{bytes} bytes");
        buffer.clear();
        let end = offset + bytes as u64;
        if self.unreadable.is_some_and(|bad| (offset..end).contains(&bad)) {
            return Err(Errno::IO);
        }
        let content = self.content();
        buffer.extend(content.get(offset as usize..end as usize).ok_or(Errno::INVAL)?);
        Ok(())
    }

    fn write(&self, data: &LogBuffer, offset: u64) -> Result<()> {
        let mut content = self.content();
        let place = content.get_mut(offset as usize..).and_then(|rest| rest.get_mut(..data.len()));
        place.ok_or(Errno::INVAL)?.copy_from_slice(data.bytes());
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn shares_device(&self) -> bool {
        true
    }
}
