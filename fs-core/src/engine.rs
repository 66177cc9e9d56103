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
use crate::fence::log::LogFence;
use crate::fence::{BackingFence, SyncRequest};
use crate::lane::policy::WriterId;
use crate::lane::{Completion, Elsewhere, LaneConfig, LaneStatus, Lanes};
use crate::log::record::Change;
use crate::log::recovery::RecoveryReport;
use crate::log::{Log, LogConfig, LogStatus, Mark, OpenLogError, Progress};
use crate::platform::{Backing, ObjectKey};

mod at_risk;
mod committer;
mod handles;
mod nodes;
mod tree;

pub use self::at_risk::{AtRisk, FileAtRisk};
use self::committer::Committer;
pub use self::committer::CommitterStatus;
pub use self::nodes::NodeId;
pub use self::tree::{
    Deed, DirId, Entry, FileId, NameChange, NamesChanged, Owed, SyncOrder, Tree, TreeRecord,
};

/// A place in the stream of operations: log sequence number.
pub type Lsn = u64;

/// Settings of an engine.
#[derive(Debug, Clone, Default)]
pub struct EngineConfig {
    /// Limits and waiting rules of the lanes.
    pub lanes: LaneConfig,
    /// What was applied is committed about so often although nobody asks; `None`: never.
    pub commit_interval: Option<Duration>,
}

/// One engine: the stream and the lanes of a backing filesystem.
pub struct Engine<B: Backing> {
    lanes: Arc<Lanes<B>>,
    log: Option<Arc<Log<B>>>,
    filesystem_id: u64,
    /// The directory that may hold the engine's own; `None` if it cannot be asked.
    home_parent: Option<ObjectKey>,
    /// The backing filesystem keeps metadata in the order in which it was changed.
    keeps_order: bool,
    /// The last number given out. 1 is what objects start with: "changed by
    /// somebody before we knew it".
    stream: AtomicU64,
    /// Number of the last operation that moved a directory: such a move changes
    /// the moved directory too, whose node the operation does not know.
    dir_moved: AtomicU64,
    trees: Mutex<Vec<Weak<Tree<B>>>>,
    committer: Arc<Committer<B>>,
    /// For the committer's thread.
    this: Weak<Self>,
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
    /// What is committed although nobody waits.
    pub committer: CommitterStatus,
    /// The log's, if one is kept.
    pub log: Option<LogStatus>,
}

impl<B: Backing> Engine<B> {
    /// An engine without a log for the filesystem that `backing` is on.
    #[must_use]
    pub fn new(backing: &B, config: EngineConfig) -> Arc<Self> {
        let fence = Arc::new(BackingFence::new(backing.fencer()));
        let keeps_order = fence.keeps_order();
        Self::build(backing, config, |lanes| Lanes::new(fence, lanes), None, keeps_order)
    }

    /// An engine with a log, which lies in the directory `.lanefs` of `backing`
    /// unless it is given as `elsewhere`. What is in it is recovered first.
    ///
    /// # Errors
    /// See [`OpenLogError`].
    pub fn with_log(
        backing: &Arc<B>,
        config: EngineConfig,
        log: LogConfig,
        elsewhere: Option<B::Log>,
        progress: &mut dyn FnMut(Progress),
    ) -> std::result::Result<(Arc<Self>, Option<RecoveryReport>), OpenLogError> {
        let fence = Arc::new(BackingFence::new(backing.fencer()));
        let (log, report) =
            Log::open(Arc::clone(backing), Arc::clone(&fence), elsewhere, log, progress)?;
        let fence = Arc::new(LogFence::new(Arc::clone(&log), Arc::clone(backing), fence));
        let lanes = |lanes| Lanes::new(fence, lanes);
        Ok((Self::build(&**backing, config, lanes, Some(log), true), report))
    }

    fn build(
        backing: &B,
        config: EngineConfig,
        lanes: impl FnOnce(LaneConfig) -> Lanes<B>,
        log: Option<Arc<Log<B>>>,
        keeps_order: bool,
    ) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            lanes: Arc::new(lanes(config.lanes)),
            log,
            keeps_order,
            filesystem_id: backing.filesystem_id(),
            home_parent: backing.root().ok().map(|root| root.key),
            stream: AtomicU64::new(1),
            dir_moved: AtomicU64::new(1),
            trees: Mutex::default(),
            committer: Committer::new(config.commit_interval),
            this: Weak::clone(this),
        })
    }

    /// Adds a directory of the same filesystem, to be exported by a mount.
    ///
    /// # Errors
    /// `EXDEV` if the directory is on another filesystem: its syncs could not
    /// share this engine's fences. Otherwise what the backing directory says.
    pub fn add_tree(self: &Arc<Self>, backing: impl Into<Arc<B>>) -> Result<Arc<Tree<B>>> {
        let backing = backing.into();
        if backing.filesystem_id() != self.filesystem_id {
            return Err(Errno::XDEV);
        }
        let tree = Arc::new(Tree::new(Arc::clone(self), backing)?);
        let mut trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        trees.retain(|tree| tree.strong_count() > 0);
        trees.push(Arc::downgrade(&tree));
        Ok(tree)
    }

    /// Has groups led by a thread of the front-end's choice, for a front-end whose own
    /// threads must not wait for the disk. See [`Lanes::lead_elsewhere`].
    pub fn lead_elsewhere(&self, run: Elsewhere<B>) {
        self.lanes.lead_elsewhere(run);
    }

    /// Sets how often is committed what was applied although nobody asks; `None`: never.
    pub fn set_commit_interval(&self, interval: Option<Duration>) {
        self.committer.set_interval(interval, &self.this);
    }

    /// Notes that something was applied, or that a file may be written.
    fn unsynced(&self) {
        self.committer.arm(&self.this);
    }

    /// Waits for parked requests (at most `deadline`), then makes everything
    /// applied so far durable.
    ///
    /// # Errors
    /// `ETIMEDOUT` if requests were still parked at the deadline; else the
    /// error of the filesystem's sync. Nothing is undone in either case.
    pub fn flush(&self, deadline: Duration) -> Result<()> {
        self.committer.carry_late(self);
        let drained = self.lanes.drain(deadline);
        match &self.log {
            Some(log) => log.finish(false)?,
            None => self.sync_backing()?,
        }
        if drained { Ok(()) } else { Err(Errno::TIMEDOUT) }
    }

    /// Waits until no sync request is parked or under way, at most `deadline`; whether
    /// that is so.
    pub fn drain(&self, deadline: Duration) -> bool {
        self.lanes.drain(deadline)
    }

    /// As [`Self::flush`], for an engine that is used no more: the log is empty and
    /// says so, and the background thread has ended.
    ///
    /// # Errors
    /// As [`Self::flush`]; the log is kept then, and the next start recovers.
    pub fn close(&self, deadline: Duration) -> Result<()> {
        self.committer.stop(deadline);
        let Some(log) = &self.log else { return self.flush(deadline) };
        self.committer.carry_late(self);
        let drained = self.lanes.drain(deadline);
        log.stop(deadline);
        log.finish(true)?;
        if drained { Ok(()) } else { Err(Errno::TIMEDOUT) }
    }

    /// Whether a file is being rewritten all or nothing: it was cut, and its new content is
    /// not all there.
    pub fn has_rewrites(&self) -> bool {
        self.log.as_ref().is_some_and(|log| log.has_rewrites())
    }

    /// The log, if one is kept.
    pub fn log(&self) -> Option<&Arc<Log<B>>> {
        self.log.as_ref()
    }

    /// Whether the backing filesystem keeps metadata in the order in which it was
    /// changed, over a power cut too.
    #[must_use]
    pub const fn keeps_order(&self) -> bool {
        self.keeps_order
    }

    /// Figures since the start.
    pub fn status(&self) -> EngineStatus {
        let trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        let log = self.log.as_ref().map(|log| log.status());
        let in_use = log.as_ref().is_some_and(|log| log.failure.is_none());
        EngineStatus {
            lsn: self
                .log
                .as_ref()
                .map_or_else(|| self.stream.load(Ordering::Acquire), |log| log.last_lsn()),
            trees: trees.iter().filter(|tree| tree.strong_count() > 0).count(),
            fence: if in_use { "log" } else { "backing" },
            mechanism: self.lanes.mechanism(),
            lanes: self.lanes.status(),
            committer: self.committer.status(),
            log,
        }
    }

    /// Applies an operation and numbers it. With a log, `prepare` runs in front of
    /// it with its number, and `describe` tells the log what was done.
    fn apply<T>(
        &self,
        prepare: impl FnOnce(&Log<B>, Lsn) -> Result<Option<Mark>>,
        operation: impl FnOnce() -> Result<T>,
        describe: impl FnOnce(&Log<B>, Lsn, &T, &mut Vec<Change>),
    ) -> Result<(T, Lsn)> {
        let Some(log) = &self.log else {
            let value = operation()?;
            let lsn = self.stream.fetch_add(1, Ordering::SeqCst) + 1;
            self.unsynced();
            return Ok((value, lsn));
        };
        let applied = log.apply(prepare, operation, describe)?;
        self.unsynced();
        if applied.is_overdue {
            self.submit_overdue();
        }
        Ok((applied.value, applied.lsn))
    }

    /// So much waits for a group that one is due. Nobody waits for it; whoever comes next
    /// finds less to do.
    fn submit_overdue(&self) {
        let request = (SyncRequest::everything(), Box::new(|_| {}) as Completion);
        self.submit_own(0, vec![request], false);
    }

    /// [`Lanes::submit_own`]; a new thread leads when nobody else is there.
    fn submit_own(&self, writer: WriterId, orders: Vec<SyncOrder<B>>, waits: bool) {
        let relieve = || {
            let lanes = Arc::clone(&self.lanes);
            let thread = std::thread::Builder::new().name("lanefs-lead".into());
            thread.spawn(move || lanes.go_on_leading()).is_ok()
        };
        self.lanes.submit_own(writer, orders, waits, &relieve);
    }
}

impl<B: Backing> Drop for Engine<B> {
    fn drop(&mut self) {
        // Perhaps by its own thread, which then ends.
        self.committer.stop(Duration::ZERO);
        if let Some(log) = &self.log {
            log.stop(Duration::from_secs(5));
        }
    }
}
