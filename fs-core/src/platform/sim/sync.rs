//! Becoming durable: write-back, journal commits, and what a failure leaves.

use std::collections::BTreeSet;

use super::image::{Change, Id};
use super::state::State;
use crate::error::{Errno, Result};
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
        self.write_file(id, told)?;
        let running = self.running(id);
        let position = match kind {
            SyncKind::Full => running.changed,
            SyncKind::Data => running.changed_data,
        };
        self.commit_object(id, position);
        Ok(())
    }

    /// Writes a file's data and waits for it, as `sync_file_range(2)` with all
    /// flags: blocks and length are in the journal then, not committed.
    ///
    /// # Errors
    /// As [`Self::sync_file`].
    pub(super) fn write_file(&mut self, id: Id, told: &mut u64) -> Result<()> {
        self.node(id)?;
        let outcome = self.start_sync();
        if outcome.is_err() && !self.aborted {
            self.lose_data(id);
        }
        let known = self.running(id).errors.check(told);
        outcome.and(known)?;
        self.write_back(id);
        self.flush_data(id);
        Ok(())
    }

    /// Changes an inode that only the fencer knows, and syncs it: that commits
    /// all of a journal that keeps its order, and nothing of ours elsewhere.
    ///
    /// # Errors
    /// `EIO` if the sync fails.
    pub(super) fn commit_marker(&mut self) -> Result<()> {
        self.start_sync()?;
        if self.options.model.keeps_prefix() {
            self.commit_to(self.end());
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
            dirty.into_iter().for_each(|id| self.lose_data(id));
        }
        outcome?;
        self.sync_everything();
        Ok(())
    }

    /// Counts a sync and says whether it is the one that fails.
    fn start_sync(&mut self) -> Result<()> {
        self.syncs += 1;
        let left = self.fail_sync_in.map(|left| left - 1);
        self.fail_sync_in = left.filter(|&left| left > 0);
        if left == Some(0) || self.aborted { Err(Errno::IO) } else { Ok(()) }
    }

    // ---- data ----

    /// Gives delayed pages their blocks, and the journal the file's length: an
    /// entry that commits only after the data.
    pub(super) fn write_back(&mut self, id: Id) {
        let Some(node) = self.live.get(id) else { return };
        let (attrs, blocks) = (node.attrs, node.blocks().cloned().unwrap_or_default());
        let Some(running) = self.running.get_mut(&id) else { return };
        let delayed = std::mem::take(&mut running.delayed);
        if delayed.is_empty() && running.logged_size == attrs.size {
            return;
        }
        running.logged_size = attrs.size;
        let dirty = running.dirty.clone();
        // The journal's length is needed to read the data, though readers see
        // no change.
        let position = self.position();
        self.running(id).changed_data = position;
        for page in delayed {
            let block = blocks[&page];
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
            self.write_back(id);
        }
    }

    /// Everything that the file's dirty pages hold is on disk.
    fn flush_data(&mut self, id: Id) {
        let Some(blocks) = self.live.get(id).and_then(|node| node.blocks()) else { return };
        let Some(running) = self.running.get_mut(&id) else { return };
        for page in std::mem::take(&mut running.dirty) {
            if let Some(block) = blocks.get(&page).and_then(|block| self.blocks.get_mut(block)) {
                block.make_durable();
            }
        }
    }

    /// Write-back failed: the pages count as clean, whatever the disk holds.
    fn lose_data(&mut self, id: Id) {
        let running = self.running(id);
        running.dirty = BTreeSet::new();
        running.errors.report();
    }

    // ---- the journal ----

    /// Everything of the filesystem is on disk.
    pub(super) fn sync_everything(&mut self) {
        let ids: Vec<Id> = self.running.keys().copied().collect();
        for id in ids {
            self.write_back(id);
            self.flush_data(id);
        }
        self.commit_to(self.end());
    }

    /// Commits what a sync of this object promises.
    fn commit_object(&mut self, id: Id, position: u64) {
        if self.options.model.keeps_prefix() {
            return self.commit_to(position);
        }
        let running = self.running(id);
        running.synced = running.synced.max(position);
        self.commit_to(self.covered());
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
                }
            }
        }
        for block in freed {
            self.blocks.remove(&block);
        }
    }
}
