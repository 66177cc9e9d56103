//! A simulated disk with a journaling filesystem on it, in memory.
//!
//! [`SimBacking`] is a [`Backing`] like any other: engine, lanes and fences run
//! on it unchanged. What it adds is the power cut: [`SimBacking::crash`] gives
//! the filesystem as it could be found after the power failed at this moment, as
//! often as wanted, each time another one for another seed. Nothing depends on a
//! clock, on threads or on the machine: one thread and the same seeds give the
//! same run.
//!
//! What may be lost is set by the [`DurabilityModel`]. The kernel can do things
//! by itself ([`SimOptions::flusher_one_in`], [`SimOptions::commit_one_in`]),
//! syncs and logs can fail ([`SimBacking::fail_sync`] and its like), and others
//! can act while a fence runs ([`SimBacking::on_fence`]). Bugs can be planted to
//! show that a test can fail: [`SimOptions`] has them at its end.
//!
//! How it works. Metadata is an image of all inodes, changed by small changes;
//! an operation is one journal entry of changes. There are two images: what
//! readers see, and what is durable; the journal leads from one to the other.
//! Data is in blocks, each with the versions that may be on the disk. Write-out
//! moves a version into the device's cache, a flush makes what is there durable,
//! a journal commit flushes first. A crash applies part of the journal to the
//! durable image and picks a version of every block. A log has blocks of its own
//! on the same device, or on another.
//!
//! What is not simulated: permission checks (they are made above the backing),
//! ACLs, access times, full disks, quotas, pages that leave memory after a
//! failed write-back, `fallocate` modes that move data, reading of devices,
//! pipes and sockets.
//!
//! | part | what is in it |
//! | --- | --- |
//! | `model` | what survives, and the settings |
//! | `image` | inodes and directories, and the changes of them |
//! | `blocks` | blocks and their versions |
//! | `state` | the running filesystem: journal, users, numbers, clock |
//! | `names`, `attr`, `data` | the operations |
//! | `sync` | write-back, commits, failures |
//! | `device` | the device's cache, and what the kernel does unasked |
//! | `log`, `log_blocks` | logs, and their blocks |
//! | `crash` | what a power cut leaves |
//! | `backing` | the door: each operation under the disk's lock |
//! | `handles`, `fence` | open files and directories; the fencer |

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::device::Plan;
use self::image::Id;
use self::state::State;
use super::{Found, ObjectKey};
use crate::error::Result;

mod attr;
mod backing;
mod blocks;
mod crash;
mod data;
mod device;
mod fence;
mod handles;
mod image;
mod log;
mod log_blocks;
mod model;
mod names;
mod random;
mod state;
mod sync;

pub use self::fence::{FenceHook, FencePoint, SimFencer};
pub use self::handles::{SimDir, SimFile, SimObject};
pub use self::log::SimLog;
pub use self::model::{DurabilityModel, STALE_BYTE, SimOptions};
pub use self::random::Random;

/// One disk with one filesystem.
struct Disk {
    state: Mutex<State>,
    hook: Mutex<Option<FenceHook>>,
}

impl Disk {
    fn new(state: State) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(state), hook: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls the hook.
    fn at(&self, point: FencePoint) {
        // A copy, so that the hook may sync and set another hook.
        let hook = self.hook.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(hook) = hook {
            hook(point);
        }
    }
}

/// A directory of a simulated filesystem and everything below it. A clone is
/// the same directory of the same filesystem.
#[derive(Clone)]
pub struct SimBacking {
    disk: Arc<Disk>,
    root: Id,
}

/// What happened on a simulated disk so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimFigures {
    /// Syncs that reached the disk: each file's, each directory's, each commit
    /// for a group, and each of everything.
    pub syncs: u64,
    /// Syncs that were answered without being done.
    pub lies: u64,
    /// Journal entries that are durable.
    pub committed_ops: u64,
    /// Journal entries that a power cut may lose.
    pub pending_ops: u64,
    /// Flushes of the device: two for a journal commit, one where there is
    /// nothing to commit, one for a log.
    pub flushes: u64,
    /// Writes of logs that were asked for.
    pub log_writes: u64,
    /// Flushes of logs that were done.
    pub log_flushes: u64,
    /// What the kernel did by itself: [`SimOptions::flusher_one_in`] and
    /// [`SimOptions::commit_one_in`].
    pub unasked: u64,
}

impl SimBacking {
    /// An empty filesystem, whose root directory belongs to root.
    #[must_use]
    pub fn new(options: SimOptions) -> Self {
        Self { disk: Disk::new(State::new(options, 0, 0)), root: Id::ROOT }
    }

    /// A directory of the same filesystem as a backing of its own.
    ///
    /// # Errors
    /// `ENOTDIR`, or `ESTALE` if it is gone.
    pub fn subtree(&self, directory: &SimObject) -> Result<Self> {
        self.disk.state().directory(directory.id)?;
        Ok(Self { disk: Arc::clone(&self.disk), root: directory.id })
    }

    /// The filesystem as a power cut at this moment could leave it, repaired and
    /// mounted: a filesystem of its own, with the same handles and settings and
    /// no open files. This one is left alone. The same seed at the same moment
    /// gives the same result.
    ///
    /// The backing that is returned is the root of the filesystem.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        Self { disk: Disk::new(self.disk.state().crash(seed)), root: Id::ROOT }
    }

    /// Has the `nth` sync from now on fail with `EIO` (1: the next). Its dirty
    /// pages count as clean afterwards, without being on disk, and every file
    /// that is open reports the error once, as on Linux. 0 takes the plan back.
    pub fn fail_sync(&self, nth: u64) {
        self.disk.state().plans.sync = Plan::new(nth);
    }

    /// As [`Self::fail_sync`], for journal commits of the fencer alone: nothing
    /// is durable by it, what was written out stays written out.
    pub fn fail_commit(&self, nth: u64) {
        self.disk.state().plans.commit = Plan::new(nth);
    }

    /// Has the `nth` write of a log from now on fail with `EIO`; any sectors of
    /// it are written nevertheless.
    pub fn fail_log_write(&self, nth: u64) {
        self.disk.state().plans.log_write = Plan::new(nth);
    }

    /// Has the `nth` flush of a log from now on fail with `EIO`. Of each block
    /// that it should have made durable the writes are durable, or still in the
    /// cache, or gone; [`SimOptions::failed_flush_loses_data`] says whether that
    /// goes for files too.
    pub fn fail_log_flush(&self, nth: u64) {
        self.disk.state().plans.log_flush = Plan::new(nth);
    }

    /// The journal fails for good: changes are refused with `EROFS`, syncs with
    /// `EIO`; what is durable stays.
    pub fn abort_journal(&self) {
        self.disk.state().aborted = true;
    }

    /// Has `hook` called within every fence: there a test can crash the disk, or
    /// bring more requests to the lanes. It must not drop the last reference to
    /// its own backing.
    pub fn on_fence(&self, hook: Option<FenceHook>) {
        *self.disk.hook.lock().unwrap_or_else(PoisonError::into_inner) = hook;
    }

    /// The key of an object, as [`Found::key`] had it.
    ///
    /// # Errors
    /// `ESTALE` if it is gone.
    pub fn key_of(&self, object: &SimObject) -> Result<ObjectKey> {
        self.disk.state().key(object.id)
    }

    /// What happened so far.
    #[must_use]
    pub fn figures(&self) -> SimFigures {
        let state = self.disk.state();
        SimFigures {
            syncs: state.syncs,
            lies: state.lies,
            committed_ops: state.committed,
            pending_ops: state.end() - state.committed,
            flushes: state.flushes,
            log_writes: state.log_writes,
            log_flushes: state.log_flushes,
            unasked: state.unasked,
        }
    }

    fn found(&self, state: &State, id: Id) -> Result<Found<Self>> {
        let (key, attr) = (state.key(id)?, state.node(id)?.attr());
        Ok(Found { key, object: SimObject::new(&self.disk, id), attr })
    }
}
