//! The device's volatile cache, and what the kernel does by itself.
//!
//! Data that was written out is in the cache: a power cut may keep any version
//! of it, a flush makes it durable, and so does the flush with which every
//! journal commit begins. A failed flush of the log leaves it unknown.

use std::collections::BTreeSet;

use std::ops::Range;

use super::image::{BlockId, Id, PAGE_BYTES};
use super::state::State;
use crate::error::Result;
use crate::platform::WHOLE_FILE;

/// A block whose newest content the device was given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cached {
    pub(super) block: BlockId,
    /// Which version it was given.
    pub(super) serial: u64,
    /// Position of the journal's last entry then. An entry that is later and
    /// survives was committed after a flush that covered this block.
    pub(super) position: u64,
}

/// A failure that is to come.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Plan(u64);

impl Plan {
    /// The `nth` from now on fails; 0 for none.
    pub(super) const fn new(nth: u64) -> Self {
        Self(nth)
    }

    /// Whether this is the one.
    pub(super) const fn strikes(&mut self) -> bool {
        let strikes = self.0 == 1;
        self.0 = self.0.saturating_sub(1);
        strikes
    }
}

/// All failures that are to come.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Plans {
    pub(super) sync: Plan,
    pub(super) commit: Plan,
    pub(super) log_write: Plan,
    pub(super) log_flush: Plan,
}

impl State {
    /// Gives the device the newest content of these pages.
    pub(super) fn give_pages(&mut self, id: Id, pages: &BTreeSet<u64>) {
        let position = self.end();
        let Some(blocks) = self.live.get(id).and_then(|node| node.blocks()) else { return };
        for page in pages {
            let Some(&block) = blocks.get(page) else { continue };
            let Some(known) = self.blocks.get_mut(&block) else { continue };
            self.cache.push(Cached { block, serial: known.give(), position });
        }
    }

    /// Makes durable whatever the device was given, the log's writes too unless
    /// the log has a device of its own.
    pub(super) fn flush_cache(&mut self) {
        self.flushes += 1;
        for cached in self.cache.drain(..) {
            if let Some(block) = self.blocks.get_mut(&cached.block) {
                block.raise(cached.serial);
            }
        }
        if !self.options.log_elsewhere {
            self.logs.values_mut().for_each(super::log_blocks::LogBlocks::flush);
        }
    }

    /// A flush that fails: each block is durable, or still in the cache, or gone
    /// from there; what is gone comes back only when it is written again.
    pub(super) fn flush_cache_in_part(&mut self) {
        for cached in std::mem::take(&mut self.cache) {
            match self.random.below(3) {
                0 => {
                    if let Some(block) = self.blocks.get_mut(&cached.block) {
                        block.raise(cached.serial);
                    }
                }
                1 => self.cache.push(cached),
                _ => {}
            }
        }
    }

    /// A flush for somebody who asks, without a journal commit.
    ///
    /// # Errors
    /// `EIO` if it fails.
    pub(super) fn flush_device(&mut self) -> Result<()> {
        self.start_sync()?;
        self.flush_cache();
        Ok(())
    }

    /// What the kernel does after some operations, unasked: its flusher writes
    /// pages of a file, the journal commits.
    pub(super) fn act_unasked(&mut self) {
        if self.aborted {
            return;
        }
        let (flusher, commit) = (self.options.flusher_one_in, self.options.commit_one_in);
        if flusher.is_some_and(|n| self.random.one_in(n)) {
            let has_dirty = |id: &Id| !self.running[id].dirty.is_empty();
            let mut files: Vec<Id> = self.running.keys().copied().filter(has_dirty).collect();
            files.retain(|&id| self.live.get(id).is_some());
            if !files.is_empty() {
                let id = files[self.random.index(files.len())];
                self.write_some(id);
                self.unasked += 1;
            }
        }
        if commit.is_some_and(|n| self.random.one_in(n)) && !self.ops.is_empty() {
            self.commit_journal(self.end());
            self.unasked += 1;
        }
    }

    /// Writes some of a file's dirty pages out, or all.
    pub(super) fn write_some(&mut self, id: Id) {
        if self.random.one_in(2) {
            return self.write_out(id);
        }
        let Some(running) = self.running.get(&id) else { return };
        let some = running.dirty.iter().copied().filter(|_| self.random.one_in(2)).collect();
        self.write_out_some(id, &some);
    }

    /// Bytes of a file's dirty pages.
    pub(super) fn unwritten_bytes(&self, id: Id) -> u64 {
        self.running.get(&id).map_or(0, |running| running.dirty.len() as u64 * PAGE_BYTES)
    }

    /// Begins to write a file's dirty pages within a range.
    pub(super) fn start_write_back(&mut self, id: Id, within: &Range<u64>) -> Result<()> {
        self.node(id)?;
        if self.aborted || within.is_empty() || !self.random.one_in(2) {
            return Ok(());
        }
        if *within == WHOLE_FILE {
            self.write_some(id);
        } else {
            let pages = self.dirty_within(id, within);
            self.write_out_some(id, &pages);
        }
        Ok(())
    }
}
