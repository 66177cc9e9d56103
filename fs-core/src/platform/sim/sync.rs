//! Becoming durable: write-back, journal commits, and what a failure leaves.
//!
//! Write-out gives data to the device's cache; a flush makes it durable
//! (`device`). A journal commit flushes first, then writes its record.

use std::collections::BTreeSet;
use std::ops::Range;

use super::image::{Change, Id, Node, PAGE_BYTES};
use super::state::State;
use crate::error::{Errno, Result};
use crate::platform::WHOLE_FILE;
use crate::types::SyncKind;

impl State {
    // ---- what a sync request does ----

    /// Makes a file durable as the model promises. `told` is which write-back
    /// errors the open file knows of.
    ///
    /// # Errors
    /// `EIO` if write-back failed, now or since the open file was last told. A
    /// failed sync makes nothing durable, and the pages that it should have
    /// written count as clean.
    pub(super) fn sync_file(&mut self, id: Id, kind: SyncKind, told: &mut u64) -> Result<()> {
        self.write_file(id, &WHOLE_FILE, told)?;
        let running = self.running(id);
        let position = match kind {
            SyncKind::Full => running.changed,
            SyncKind::Data => running.changed_data,
        };
        self.commit_object(id, position);
        Ok(())
    }

    /// Writes a file's data within a range out and waits for it, as `sync_file_range(2)` with all
    /// flags: the data is in the device's cache then, blocks and length are in
    /// the journal, not committed. Part of a file that has nothing to write is no sync.
    ///
    /// # Errors
    /// As [`Self::sync_file`].
    pub(super) fn write_file(&mut self, id: Id, within: &Range<u64>, told: &mut u64) -> Result<()> {
        self.node(id)?;
        let is_whole = *within == WHOLE_FILE;
        let pages = self.dirty_within(id, within);
        let outcome = if is_whole || !pages.is_empty() { self.start_sync() } else { Ok(()) };
        if outcome.is_err() && !self.aborted {
            self.lose_data(id, &pages);
        }
        let known = self.running(id).errors.check(told);
        outcome.and(known)?;
        if is_whole {
            self.write_out(id);
        } else {
            self.write_out_some(id, &pages);
        }
        Ok(())
    }

    /// The dirty pages of a file that meet a range.
    pub(super) fn dirty_within(&mut self, id: Id, within: &Range<u64>) -> BTreeSet<u64> {
        let pages = within.start / PAGE_BYTES..within.end.div_ceil(PAGE_BYTES);
        self.running(id).dirty.range(pages).copied().collect()
    }

    /// Changes an inode that only the fencer knows, and syncs it: that commits
    /// all of a journal that keeps its order, and nothing of ours elsewhere.
    ///
    /// # Errors
    /// `EIO` if the sync fails.
    pub(super) fn commit_marker(&mut self) -> Result<()> {
        let fails = self.plans.commit.strikes();
        self.start_sync()?;
        if fails {
            return Err(Errno::IO);
        }
        if self.options.model.keeps_prefix() {
            self.commit_journal(self.end());
        } else {
            self.flush_cache();
        }
        Ok(())
    }

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// `EIO` if the sync fails; nothing is durable by it, and a later sync may
    /// succeed.
    pub(super) fn sync_dir(&mut self, id: Id) -> Result<()> {
        self.node(id)?;
        self.start_sync()?;
        let position = self.running(id).changed;
        self.commit_object(id, position);
        Ok(())
    }

    /// Makes everything durable, as `syncfs(2)`.
    ///
    /// # Errors
    /// `EIO` if it fails: dirty pages count as clean then, and every file that
    /// had any reports an error too.
    pub(super) fn sync_all(&mut self) -> Result<()> {
        let outcome = self.start_sync();
        if outcome.is_err() && !self.aborted {
            let dirty = self.running.iter().filter(|(_, running)| !running.dirty.is_empty());
            let dirty: Vec<Id> = dirty.map(|(&id, _)| id).collect();
            for id in dirty {
                let pages = self.dirty_within(id, &WHOLE_FILE);
                self.lose_data(id, &pages);
            }
        }
        outcome?;
        self.sync_everything();
        Ok(())
    }

    /// Counts a sync and says whether it is the one that fails.
    pub(super) fn start_sync(&mut self) -> Result<()> {
        self.syncs += 1;
        let fails = self.plans.sync.strikes();
        if fails || self.aborted { Err(Errno::IO) } else { Ok(()) }
    }

    // ---- data ----

    /// Gives the device all dirty pages of a file, which are clean then, and the
    /// journal their blocks and the file's length.
    pub(super) fn write_out(&mut self, id: Id) {
        let Some(running) = self.running.get_mut(&id) else { return };
        let dirty = std::mem::take(&mut running.dirty);
        // First: the journal's entry follows the data.
        self.give_pages(id, &dirty);
        self.allocate_all(id, &dirty);
    }

    /// As [`Self::write_out`], some of the dirty pages.
    pub(super) fn write_out_some(&mut self, id: Id, pages: &BTreeSet<u64>) {
        let (Some(running), Some(&last)) = (self.running.get_mut(&id), pages.last()) else {
            return;
        };
        running.dirty.retain(|page| !pages.contains(page));
        let delayed = pages.intersection(&running.delayed).copied().collect();
        running.delayed.retain(|page| !pages.contains(page));
        let reached = (last + 1) * PAGE_BYTES;
        let length = running.logged_size.max(reached);
        self.give_pages(id, pages);
        let size = self.live.get(id).map_or(0, |node| node.attrs.size);
        self.journal_blocks(id, delayed, length.min(size), pages);
    }

    /// Gives all delayed pages their blocks, and the journal the file's length:
    /// an entry that commits only after the data.
    pub(super) fn allocate_all(&mut self, id: Id, dirty: &BTreeSet<u64>) {
        let Some(size) = self.live.get(id).map(|node| node.attrs.size) else { return };
        let Some(running) = self.running.get_mut(&id) else { return };
        let delayed = std::mem::take(&mut running.delayed);
        self.journal_blocks(id, delayed, size, dirty);
    }

    /// Begins to write a file out whose pages stay dirty until somebody waits for
    /// them; a commit waits, unless their blocks are unwritten extents.
    pub(super) fn allocate_dirty(&mut self, id: Id) {
        let waits = !self.options.length_first;
        let dirty = if waits { self.running(id).dirty.clone() } else { BTreeSet::new() };
        self.allocate_all(id, &dirty);
    }

    fn journal_blocks(
        &mut self,
        id: Id,
        delayed: BTreeSet<u64>,
        length: u64,
        dirty: &BTreeSet<u64>,
    ) {
        let Ok(attrs) = self.attrs(id) else { return };
        let running = self.running(id);
        if delayed.is_empty() && running.logged_size == length {
            return;
        }
        running.logged_size = length;
        // The journal's length is needed to read the data, though readers see
        // no change.
        let position = self.position();
        self.running(id).changed_data = position;
        for page in delayed {
            let blocks = self.live.get(id).and_then(Node::blocks);
            let block =
                *blocks.and_then(|blocks| blocks.get(&page)).expect("a delayed page is mapped");
            self.change(Change::Map { id, page, block });
            // A page that a failed sync left behind is not written again.
            if dirty.contains(&page) {
                let serial = self.blocks[&block].latest().serial;
                self.floor(block, serial);
            }
        }
        self.change(Change::Attrs(id, attrs));
        self.push_op();
    }

    /// A file that was open for writing is closed: where the model says so, a
    /// file that had been cut to zero gets its blocks now.
    pub(super) fn close_written(&mut self, id: Id) {
        let flushes = self.options.model.flushes_on_replace() && !self.aborted;
        if flushes && std::mem::take(&mut self.running(id).flush_on_close) {
            self.allocate_dirty(id);
        }
    }

    /// Write-back failed: the pages count as clean, whatever the disk holds.
    fn lose_data(&mut self, id: Id, pages: &BTreeSet<u64>) {
        let running = self.running(id);
        running.dirty.retain(|page| !pages.contains(page));
        running.errors.report();
    }

    // ---- the journal ----

    /// Everything of the filesystem is on disk.
    pub(super) fn sync_everything(&mut self) {
        let ids: Vec<Id> = self.running.keys().copied().collect();
        ids.into_iter().for_each(|id| self.write_out(id));
        self.commit_journal(self.end());
    }

    /// Commits what a sync of this object promises.
    pub(super) fn commit_object(&mut self, id: Id, position: u64) {
        if self.options.model.keeps_prefix() {
            return self.commit_journal(position);
        }
        let running = self.running(id);
        running.synced = running.synced.max(position);
        self.flushes += 1;
        self.flush_cache();
        self.commit_to(self.covered());
    }

    /// Flushes the device, and commits the journal up to this position if it is
    /// not: the commit's record is another flush.
    pub(super) fn commit_journal(&mut self, position: u64) {
        self.flush_cache();
        if position > self.committed {
            self.flushes += 1;
            self.commit_to(position);
        }
    }

    /// Up to where all entries are covered whole by syncs of what they change,
    /// with `PosixMin`: those need not be kept.
    fn covered(&self) -> u64 {
        let is_covered = |change: &Change, position| {
            // Nobody syncs what is gone; whether it is, its last name decides,
            // whose removal is an earlier entry.
            self.live.get(change.subject()).is_none()
                || self.running.get(&change.subject()).is_some_and(|r| r.synced >= position)
        };
        let mut position = self.committed;
        for op in &self.ops {
            if !op.changes.iter().all(|change| is_covered(change, position + 1)) {
                break;
            }
            position += 1;
        }
        position
    }

    /// Commits the journal up to this position.
    fn commit_to(&mut self, position: u64) {
        let mut freed = Vec::new();
        while self.committed < position {
            let Some(op) = self.ops.pop_front() else { break };
            self.committed += 1;
            for (block, serial) in &op.floors {
                if let Some(block) = self.blocks.get_mut(block) {
                    block.raise(*serial);
                }
            }
            for change in &op.changes {
                self.durable.apply(change, &mut freed);
                if let Change::Gone(id) = change {
                    self.running.remove(id);
                    self.logs.remove(id);
                }
            }
        }
        for block in freed {
            self.blocks.remove(&block);
        }
    }
}
