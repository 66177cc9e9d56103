//! References to objects, open files and open directories. Each keeps the disk,
//! and lets go of its inode when it is dropped.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Disk;
use super::image::Id;
use super::state::State;
use crate::error::{Errno, Result};
use crate::platform::OpenMode;
use crate::types::SyncKind;

/// A reference to an inode. It does not keep an inode without names alive,
/// unless it is pinned; then every use of it says `ESTALE`.
pub struct SimObject {
    pub(super) disk: Arc<Disk>,
    pub(super) id: Id,
    pinned: AtomicBool,
}

impl SimObject {
    pub(super) fn new(disk: &Arc<Disk>, id: Id) -> Self {
        Self { disk: Arc::clone(disk), id, pinned: AtomicBool::new(false) }
    }

    pub(super) fn pin(&self) -> Result<()> {
        let mut state = self.disk.state();
        state.node(self.id)?;
        if !self.pinned.swap(true, Ordering::Relaxed) {
            state.hold(self.id);
        }
        Ok(())
    }

    pub(super) fn unpin(&self) {
        if self.pinned.swap(false, Ordering::Relaxed) {
            self.disk.state().let_go(self.id);
        }
    }
}

impl Drop for SimObject {
    fn drop(&mut self) {
        self.unpin();
    }
}

/// An open file.
pub struct SimFile {
    disk: Arc<Disk>,
    id: Id,
    mode: OpenMode,
    /// The write-back errors that it has been told.
    told: AtomicU64,
}

impl SimFile {
    /// Opens an inode that is known to be one that can be opened.
    pub(super) fn new(disk: &Arc<Disk>, id: Id, mode: OpenMode) -> Self {
        let mut state = disk.state();
        state.hold(id);
        let told = AtomicU64::new(state.running(id).errors.sample());
        Self { disk: Arc::clone(disk), id, mode, told }
    }

    /// Its inode, if it was opened for reading.
    pub(super) fn readable(&self) -> Result<Id> {
        if self.mode.read || !self.mode.write { Ok(self.id) } else { Err(Errno::BADF) }
    }

    /// Its inode, if it was opened for writing.
    pub(super) fn writable(&self) -> Result<Id> {
        if self.mode.write { Ok(self.id) } else { Err(Errno::BADF) }
    }

    pub(super) const fn id(&self) -> Id {
        self.id
    }

    /// fsync or fdatasync.
    pub(super) fn sync(&self, kind: SyncKind) -> Result<()> {
        self.telling(|state, told| state.sync_file(self.id, kind, told))
    }

    /// Data written and waited for, nothing committed.
    pub(super) fn write_out(&self, within: &Range<u64>) -> Result<()> {
        self.telling(|state, told| state.write_file(self.id, within, told))
    }

    /// An error that this open file has not been told yet.
    pub(super) fn pending_error(&self) -> Result<()> {
        self.telling(|state, told| state.running(self.id).errors.check(told))
    }

    /// Runs a call that may tell this open file of a write-back error.
    fn telling(&self, call: impl FnOnce(&mut State, &mut u64) -> Result<()>) -> Result<()> {
        let mut state = self.disk.state();
        // Guarded by the lock on the state.
        let mut told = self.told.load(Ordering::Relaxed);
        let result = call(&mut state, &mut told);
        self.told.store(told, Ordering::Relaxed);
        result
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if self.mode.write {
            state.close_written(self.id);
        }
        state.let_go(self.id);
    }
}

/// An open directory. Its read position is the caller's.
pub struct SimDir {
    disk: Arc<Disk>,
    id: Id,
}

impl SimDir {
    pub(super) fn new(disk: &Arc<Disk>, id: Id) -> Self {
        disk.state().hold(id);
        Self { disk: Arc::clone(disk), id }
    }

    pub(super) const fn id(&self) -> Id {
        self.id
    }
}

impl Drop for SimDir {
    fn drop(&mut self) {
        self.disk.state().let_go(self.id);
    }
}
