//! The engine: one for each backing filesystem, shared by every mount on it.
//!
//! An [`Engine`] owns the lanes; a [`Tree`] is a directory that one mount
//! exports. Sync requests of all trees travel in the same groups.
//!
//! Operations are applied to the backing directory at once, unsynced, and
//! numbered in the engine's *stream* after they were applied and before they
//! are answered. So whoever reads the number later knows that the operation
//! is in the backing filesystem; a directory whose last change is durable by
//! its number needs no I/O to be synced again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use serde::Serialize;

use crate::error::{Errno, Result};
use crate::fence::BackingFence;
use crate::lane::{LaneConfig, LaneStatus, Lanes};
use crate::platform::Backing;

mod handles;
mod nodes;
mod tree;

pub use self::nodes::NodeId;
pub use self::tree::{DirId, Entry, FileId, Tree};

/// A place in the stream of operations: log sequence number.
pub type Lsn = u64;

/// Settings of an engine.
#[derive(Debug, Clone, Default)]
pub struct EngineConfig {
    /// Limits and waiting rules of the lanes.
    pub lanes: LaneConfig,
}

/// One engine: the stream and the lanes of a backing filesystem.
pub struct Engine<B: Backing> {
    lanes: Lanes<B>,
    filesystem_id: u64,
    /// The last number given out. 1 is what objects start with: "changed by
    /// somebody before we knew it".
    stream: AtomicU64,
    /// Number of the last operation that moved a directory: such a move changes
    /// the moved directory too, whose node the operation does not know.
    dir_moved: AtomicU64,
    trees: Mutex<Vec<Weak<B>>>,
}

/// Figures of an engine, for `lanefs status`.
#[derive(Debug, Clone, Serialize)]
pub struct EngineStatus {
    /// Number of the last operation applied.
    pub lsn: Lsn,
    /// Trees that this engine serves.
    pub trees: usize,
    /// How groups become durable.
    pub fence: &'static str,
    /// What carries out the syncs of a group.
    pub mechanism: &'static str,
    /// The lanes' figures.
    pub lanes: LaneStatus,
}

impl<B: Backing> Engine<B> {
    /// An engine for the filesystem that `backing` is on.
    #[must_use]
    pub fn new(backing: &B, config: EngineConfig) -> Arc<Self> {
        Arc::new(Self {
            lanes: Lanes::new(BackingFence::new(backing.fencer()), config.lanes),
            filesystem_id: backing.filesystem_id(),
            stream: AtomicU64::new(1),
            dir_moved: AtomicU64::new(1),
            trees: Mutex::default(),
        })
    }

    /// Adds a directory of the same filesystem, to be exported by a mount.
    ///
    /// # Errors
    /// `EXDEV` if the directory is on another filesystem: its syncs could not
    /// share this engine's fences. Otherwise what the backing directory says.
    pub fn add_tree(self: &Arc<Self>, backing: B) -> Result<Arc<Tree<B>>> {
        if backing.filesystem_id() != self.filesystem_id {
            return Err(Errno::XDEV);
        }
        let backing = Arc::new(backing);
        let tree = Tree::new(Arc::clone(self), Arc::clone(&backing))?;
        let mut trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        trees.retain(|tree| tree.strong_count() > 0);
        trees.push(Arc::downgrade(&backing));
        Ok(Arc::new(tree))
    }

    /// Waits for parked requests (at most `deadline`), then makes everything
    /// applied so far durable.
    ///
    /// # Errors
    /// `ETIMEDOUT` if requests were still parked at the deadline; else the
    /// error of the filesystem's sync. Nothing is undone in either case.
    pub fn flush(&self, deadline: Duration) -> Result<()> {
        let drained = self.lanes.drain(deadline);
        let trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // One filesystem: syncing it once syncs every tree.
        if let Some(backing) = trees.iter().find_map(Weak::upgrade) {
            backing.sync_all()?;
        }
        if drained { Ok(()) } else { Err(Errno::TIMEDOUT) }
    }

    /// Figures since the start.
    pub fn status(&self) -> EngineStatus {
        let trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        EngineStatus {
            lsn: self.stream.load(Ordering::Acquire),
            trees: trees.iter().filter(|tree| tree.strong_count() > 0).count(),
            fence: "backing",
            mechanism: self.lanes.mechanism(),
            lanes: self.lanes.status(),
        }
    }

    /// Numbers an operation that has been applied.
    fn number(&self) -> Lsn {
        self.stream.fetch_add(1, Ordering::AcqRel) + 1
    }
}
