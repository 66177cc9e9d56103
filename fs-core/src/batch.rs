//! Crash-safe files for Rust programs: each write is old or new after a power cut, many
//! of them cost one flush, and no mount is needed.
//!
//! ```
//! use fs_core::batch::{Files, FilesConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let place = tempfile::tempdir()?;
//! # let dir = place.path();
//! let files = Files::open(dir, FilesConfig::default())?;
//! files.write("settings.json", b"{}")?; // durable when it returns
//! files
//!     .batch()
//!     .write("a.json", "new")
//!     .copy("a.json", "a.backup.json")
//!     .delete("old.json") // missing is fine
//!     .commit()?; // one flush for all of it
//! assert_eq!(std::fs::read(dir.join("a.backup.json"))?, b"new");
//! # Ok(())
//! # }
//! ```
//!
//! **Solo lane.** [`Files::write`], [`Files::delete`] and [`Files::copy`] run on the
//! caller's thread and wait for nobody; there is no queue and no thread. A write makes a
//! temporary file beside its target, gives it the target's owner, mode and attributes,
//! writes it back, renames it over the target, and asks the engine's lanes for one sync.
//! Calls of many threads at once therefore share their flushes, with each other and with
//! batches.
//!
//! **Group lane.** A [`Batch`] is carried out in order and made durable by one sync. Where
//! a log is kept it is all or nothing in a power cut. The queue bounds operations and bytes
//! and makes callers wait; batches that name a common path run in order, others side by
//! side. See [`Batch`] for the three ways to commit one.
//!
//! What is promised on which filesystem: `docs/library.md`. Why it is made so:
//! `docs/decisions/0015-batches.md`.
//!
//! | part | what is in it |
//! | --- | --- |
//! | `config`, `error` | settings and limits; what can go wrong |
//! | `path` | from a path to a directory and a name in it |
//! | `temporary`, `preserve` | new files, and what they take over from old ones |
//! | `execution` | preparing operations, and applying them together |
//! | `turns`, `queue` | who may run when; the threads for those who brought none |
//! | `commit` | batches, futures |
//! | `open` | the real filesystem |

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::Serialize;

pub use self::commit::{Batch, Committing};
pub use self::config::{
    FilesConfig, GROUP_OPS_MAX, HardLinks, LogUse, Method, QUEUE_BYTES_MAX, QUEUE_OPS_MAX,
    SHARDS_MAX, WINDOW_US_MAX,
};
pub use self::error::{BatchError, CloseError, ConfigError, FileError, OpenFilesError};
use self::execution::Execution;
use self::queue::Closing;
use self::shared::{Answer, Opened, Shared};
pub use self::temporary::TEMPORARY_PREFIX;
use crate::engine::{EngineStatus, Tree};
use crate::platform::Backing;
use crate::types::Caller;

mod commit;
mod config;
mod directories;
mod error;
mod execution;
mod open;
mod path;
mod preserve;
mod queue;
mod shared;
mod temporary;
mod turns;

/// The real filesystem of this platform.
pub type Native = crate::platform::NativeBacking;

/// How long [`Files`] waits for what is under way when it is dropped without
/// [`Files::close`].
const DROP_DEADLINE: Duration = Duration::from_secs(5);

/// A directory whose files are changed crash-safely; opened by [`Files::open`].
///
/// May be used by any number of threads at once; share it by reference or in an `Arc`.
/// The directory is locked for other openers, lanefs mounts included, until it is closed.
/// Reading needs no library: `std::fs` sees every change as soon as it is done.
pub struct Files<B: Backing = Native> {
    shared: Arc<Shared<B>>,
    closed: bool,
}

/// What a [`Files`] is doing and has done.
#[derive(Debug, Clone, Serialize)]
pub struct FilesStatus {
    /// Single operations so far.
    pub solos: u64,
    /// Batches so far, waiting ones included.
    pub batches: u64,
    /// Operations in them.
    pub batch_operations: u64,
    /// Batches that were let into the queue and are not answered.
    pub batches_under_way: usize,
    /// Operations in them; see [`FilesConfig::queue_ops_max`].
    pub queue_ops: usize,
    /// Bytes to be written in them; see [`FilesConfig::queue_bytes_max`].
    pub queue_bytes: u64,
    /// Threads of the library; none without work.
    pub threads: usize,
    /// Bytes written past the page cache.
    pub direct_bytes: u64,
    /// Files for which the filesystem refused that.
    pub direct_refused: u64,
    /// Why no log is kept, if none is.
    pub no_log: Option<String>,
    /// The engine, its lanes and its log.
    pub engine: EngineStatus,
}

impl<B: Backing> Files<B> {
    /// Serves the directory that a tree exports, on behalf of `caller`. Waiting rules and
    /// the log are the engine's: see [`FilesConfig::lanes`].
    ///
    /// # Errors
    /// A setting is out of its limits; leftovers of a crash cannot be looked for.
    pub fn on(
        tree: Arc<Tree<B>>,
        caller: Caller,
        config: FilesConfig,
    ) -> Result<Self, OpenFilesError> {
        Self::begin(tree, caller, config, Opened::default())
    }

    fn begin(
        tree: Arc<Tree<B>>,
        caller: Caller,
        config: FilesConfig,
        opened: Opened,
    ) -> Result<Self, OpenFilesError> {
        config.check()?;
        Ok(Self { shared: Shared::new(tree, caller, config, opened)?, closed: false })
    }

    /// Puts a file with these bytes at a path, in place of the file there, if there is
    /// one. After a power cut the old content is there or the new, whole; the new when
    /// this has returned.
    ///
    /// Paths are relative to the opened directory, and so are symbolic links on the way.
    /// If the last component is one, the file is replaced that it leads to. What the new
    /// file keeps of the old one: `docs/library.md`.
    ///
    /// # Errors
    /// See [`FileError`]. The old content is there then, except after
    /// [`FileError::NotDurable`].
    pub fn write(&self, path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> Result<(), FileError> {
        self.solo(|execution| execution.write(path.as_ref(), bytes.as_ref()))
    }

    /// Removes a name that is not a directory's, durably. A name that is missing, or whose
    /// directory is, is no error. A symbolic link is removed itself.
    ///
    /// # Errors
    /// See [`FileError`].
    pub fn delete(&self, path: impl AsRef<Path>) -> Result<(), FileError> {
        self.solo(|execution| execution.delete(path.as_ref()))
    }

    /// Puts a copy of a file at another path, as [`Self::write`] with its content. A file
    /// that was not there before gets the permission bits of the one copied, less the
    /// umask. Blocks are shared where the filesystem can.
    ///
    /// # Errors
    /// See [`FileError`]. The copy is of no single moment if others write the file
    /// meanwhile.
    pub fn copy(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<(), FileError> {
        self.solo(|execution| execution.copy(from.as_ref(), to.as_ref()))
    }

    /// Begins a batch.
    pub fn batch(&self) -> Batch<B> {
        Batch::new(Arc::clone(&self.shared))
    }

    /// Ends everything: operations that come from now on are refused
    /// ([`FileError::ShutdownInProgress`]), those that have begun are waited for, the log
    /// is emptied, and the directory may be opened by others.
    ///
    /// # Errors
    /// The deadline, for all of it together, has passed; or the last sync failed.
    pub fn close(mut self, deadline: Duration) -> Result<(), CloseError> {
        self.closed = true;
        self.shut_down(deadline)
    }

    /// Figures, for people and tests.
    #[must_use]
    pub fn status(&self) -> FilesStatus {
        let (load, counts) = (self.shared.queue.load(), &self.shared.counts);
        FilesStatus {
            solos: counts.solos.load(Ordering::Relaxed),
            batches: counts.batches.load(Ordering::Relaxed),
            batch_operations: counts.batch_operations.load(Ordering::Relaxed),
            batches_under_way: load.batches,
            queue_ops: load.ops,
            queue_bytes: load.bytes,
            threads: load.threads,
            direct_bytes: counts.direct_bytes.load(Ordering::Relaxed),
            direct_refused: counts.direct_refused.load(Ordering::Relaxed),
            no_log: self.shared.no_log().map(str::to_owned),
            engine: self.shared.tree.engine().status(),
        }
    }

    /// Runs a single operation on this thread.
    fn solo(
        &self,
        operation: impl FnOnce(&mut Execution<B>) -> Result<(), FileError>,
    ) -> Result<(), FileError> {
        let shared = &self.shared;
        let solo = shared.queue.enter_solo();
        let _solo = solo.map_err(|Closing| FileError::ShutdownInProgress)?;
        shared.counts.solos.fetch_add(1, Ordering::Relaxed);
        let mut execution = Execution::new(shared);
        operation(&mut execution)?;
        let (answer, result) = Answer::awaited();
        let orders = execution.apply(answer);
        shared.tree.submit(shared.caller(), orders, true);
        let result = result().expect("an answer is given, whatever happens");
        result.map_err(|error| error.source)
    }

    fn shut_down(&self, deadline: Duration) -> Result<(), CloseError> {
        let end = Instant::now() + deadline;
        let left = self.shared.queue.close(deadline);
        if left.batches + left.solos > 0 {
            let (batches, solos) = (left.batches, left.solos);
            return Err(CloseError::StillBusy { batches, solos });
        }
        let (tree, engine) = (&self.shared.tree, self.shared.tree.engine());
        self.shared.open_note.end(tree);
        let left = end.saturating_duration_since(Instant::now());
        if self.shared.has_log() {
            engine.close(left).map_err(CloseError::Sync)?;
        } else {
            // All that was answered is durable. Whoever leads is about to return.
            engine.drain(left);
        }
        self.shared.unlock();
        Ok(())
    }
}

impl<B: Backing> Drop for Files<B> {
    fn drop(&mut self) {
        if !self.closed
            && let Err(error) = self.shut_down(DROP_DEADLINE)
        {
            tracing::warn!(%error, "the library was not closed properly");
        }
    }
}
