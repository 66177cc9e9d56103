//! A log on the simulated disk: an ordinary empty file in the tree, so that it
//! can be listed, renamed and removed, whose content lies in [`LogBlocks`] of its
//! own. Reading the file as a file gives zeros.

use std::ffi::OsStr;
use std::sync::Arc;

use super::Disk;
use super::fence::FencePoint;
use super::image::{Content, Id};
use super::log_blocks::LogBlocks;
use super::names::Birth;
use super::state::State;
use crate::error::{Errno, Result};
use crate::platform::{LOG_BLOCK_BYTES, LogBuffer, LogStore};
use crate::types::{Caller, FileKind};

/// A log grows by so much between two calls that tell how far it is.
const GROWTH_BYTES: u64 = 1 << 20;

/// A log on the simulated disk.
pub struct SimLog {
    disk: Arc<Disk>,
    id: Id,
    bytes: u64,
}

impl SimLog {
    /// See [`crate::platform::Backing::make_log`]. A power cut meanwhile may
    /// leave a log that is shorter.
    pub(super) fn make(
        disk: &Arc<Disk>,
        dir: Id,
        name: &OsStr,
        bytes: u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        if bytes == 0 || !bytes.is_multiple_of(LOG_BLOCK_BYTES as u64) {
            return Err(Errno::INVAL);
        }
        let id = disk.state().make_log_file(dir, name)?;
        let log = Self { disk: Arc::clone(disk), id, bytes };
        let mut done = 0;
        while done < bytes {
            done = (done + GROWTH_BYTES).min(bytes);
            disk.state().grow_log(id, done)?;
            progress(done);
        }
        disk.state().sync_new_log(id, dir)?;
        Ok(log)
    }

    /// See [`crate::platform::Backing::open_log`]. `EINVAL` if the name stands
    /// for something that is no log.
    pub(super) fn open(disk: &Arc<Disk>, dir: Id, name: &OsStr) -> Result<Self> {
        let mut state = disk.state();
        let id = state.existing(dir, name)?;
        let size = state.attrs(id)?.size;
        if !state.logs.contains_key(&id) {
            return Err(Errno::INVAL);
        }
        state.hold(id);
        let bytes = size - size % LOG_BLOCK_BYTES as u64;
        Ok(Self { disk: Arc::clone(disk), id, bytes })
    }

    /// First block and number of blocks of a range, if it is aligned and within.
    fn blocks(&self, offset: u64, bytes: usize) -> Result<std::ops::Range<usize>> {
        let aligned =
            offset.is_multiple_of(LOG_BLOCK_BYTES as u64) && bytes.is_multiple_of(LOG_BLOCK_BYTES);
        let end = offset.checked_add(bytes as u64).filter(|&end| end <= self.bytes);
        match end {
            Some(end) if aligned => {
                Ok(offset as usize / LOG_BLOCK_BYTES..end as usize / LOG_BLOCK_BYTES)
            }
            _ => Err(Errno::INVAL),
        }
    }
}

impl LogStore for SimLog {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, buffer: &mut LogBuffer, offset: u64, bytes: usize) -> Result<()> {
        buffer.clear();
        let blocks = self.blocks(offset, bytes)?;
        let state = self.disk.state();
        let log = state.logs.get(&self.id).ok_or(Errno::STALE)?;
        for (block, target) in blocks.zip(buffer.grow(bytes).chunks_exact_mut(LOG_BLOCK_BYTES)) {
            // Grown bytes are zeros, as are blocks never written.
            if let Some(page) = log.page(block) {
                target.copy_from_slice(&page[..]);
            }
        }
        Ok(())
    }

    fn write(&self, data: &LogBuffer, offset: u64) -> Result<()> {
        let blocks = self.blocks(offset, data.len())?;
        self.disk.at(FencePoint::LogWrite);
        self.disk.state().write_log(self.id, blocks.start, data.bytes())
    }

    fn flush(&self) -> Result<()> {
        self.disk.at(FencePoint::LogFlush);
        self.disk.state().flush_log(self.id)?;
        self.disk.at(FencePoint::LogDurable);
        Ok(())
    }

    fn shares_device(&self) -> bool {
        !self.disk.state().options.log_elsewhere
    }
}

impl Drop for SimLog {
    fn drop(&mut self) {
        self.disk.state().let_go(self.id);
    }
}

impl State {
    /// Makes the file that stands for a log, and holds it open.
    fn make_log_file(&mut self, dir: Id, name: &OsStr) -> Result<Id> {
        let nobody_special = Caller { uid: 0, gid: 0, thread: 0 };
        let content = Content::File(std::collections::BTreeMap::new());
        let birth = Birth { kind: FileKind::Regular, perm: 0o600, device: (0, 0), content };
        let id = self.make(nobody_special, dir, name, birth)?;
        self.logs.insert(id, LogBlocks::default());
        self.hold(id);
        Ok(id)
    }

    fn grow_log(&mut self, id: Id, bytes: u64) -> Result<()> {
        self.node(id)?;
        self.writable()?;
        let now = self.now();
        self.running(id).logged_size = bytes;
        self.touch(id, now, |attrs| {
            attrs.size = bytes;
            attrs.mtime = now;
        });
        self.end_op();
        Ok(())
    }

    fn sync_new_log(&mut self, id: Id, dir: Id) -> Result<()> {
        self.start_sync()?;
        for id in [id, dir] {
            let position = self.running(id).changed;
            self.commit_object(id, position);
        }
        Ok(())
    }

    fn write_log(&mut self, id: Id, block: usize, data: &[u8]) -> Result<()> {
        if self.aborted {
            return Err(Errno::ROFS);
        }
        self.log_writes += 1;
        let fails = self.plans.log_write.strikes();
        let log = self.logs.get_mut(&id).ok_or(Errno::STALE)?;
        if fails {
            log.write_some(block, data, &mut self.random);
            return Err(Errno::IO);
        }
        log.write(block, data);
        Ok(())
    }

    fn flush_log(&mut self, id: Id) -> Result<()> {
        let fails = self.plans.log_flush.strikes();
        if self.aborted {
            return Err(Errno::IO);
        }
        if fails {
            self.fail_log_flush(id);
            return Err(Errno::IO);
        }
        if self.options.log_lie_one_in.is_some_and(|n| self.random.one_in(n)) {
            self.lies += 1;
            return Ok(());
        }
        self.log_flushes += 1;
        if self.options.log_elsewhere || self.options.log_flush_is_fua {
            self.flushes += 1;
            self.logs.get_mut(&id).ok_or(Errno::STALE)?.flush();
        } else {
            self.flush_cache();
        }
        Ok(())
    }

    /// A flush that did what it did before it failed: nothing may be taken for
    /// durable, and a later flush does not make up for it.
    fn fail_log_flush(&mut self, id: Id) {
        if let Some(log) = self.logs.get_mut(&id) {
            log.flush_some(&mut self.random);
        }
        if self.options.failed_flush_loses_data && !self.options.log_elsewhere {
            self.flush_cache_in_part();
        }
    }
}
