//! Batches, and the three ways to commit them: waiting, with a future, with a callback.

use std::collections::BTreeSet;
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::Native;
use super::error::{BatchError, FileError};
use super::execution::{Execution, Operation};
use super::path::{nothing_pending, resolve};
use super::queue::{Advanced, Closing, Job, Turn};
use super::shared::{Answer, BatchResult, Shared};
use super::turns::{Need, PathKey, Ticket};
use crate::engine::SyncOrder;
use crate::platform::Backing;

/// What a thread of the library does of one batch before it looks after others.
const SLICE_OPS: usize = 64;
const SLICE_BYTES: u64 = 1 << 20;

/// Operations that are carried out in order and committed together; made by
/// [`Files::batch`](super::Files::batch).
///
/// Nothing happens before one of the `commit` calls. The first operation that fails ends
/// the batch; those before it are done, and durable, when the error is told.
#[must_use = "a batch does nothing before it is committed"]
pub struct Batch<B: Backing = Native> {
    shared: Arc<Shared<B>>,
    operations: Vec<Operation>,
    bytes: u64,
}

impl<B: Backing> Batch<B> {
    pub(super) const fn new(shared: Arc<Shared<B>>) -> Self {
        Self { shared, operations: Vec::new(), bytes: 0 }
    }

    /// Puts a file with these bytes at a path, as [`Files::write`](super::Files::write).
    /// The bytes are not copied before they are written.
    pub fn write(
        mut self,
        path: impl Into<PathBuf>,
        bytes: impl AsRef<[u8]> + Send + 'static,
    ) -> Self {
        let length = bytes.as_ref().len() as u64;
        self.bytes += length;
        let (path, bytes) = (path.into(), Box::new(bytes));
        self.operations.push(Operation::Write { path, bytes, length });
        self
    }

    /// Removes a name, as [`Files::delete`](super::Files::delete).
    pub fn delete(mut self, path: impl Into<PathBuf>) -> Self {
        self.operations.push(Operation::Delete { path: path.into() });
        self
    }

    /// Puts a copy of a file at another path, as [`Files::copy`](super::Files::copy). What
    /// the batch has written before is what is copied.
    pub fn copy(mut self, from: impl Into<PathBuf>, to: impl Into<PathBuf>) -> Self {
        self.operations.push(Operation::Copy { from: from.into(), to: to.into() });
        self
    }

    /// Number of operations.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Carries the batch out on the calling thread and returns when it is durable. Waits
    /// first while the queue is full, and for earlier batches that name one of its paths.
    ///
    /// # Errors
    /// The first operation that failed; [`FileError::ShutdownInProgress`] if nothing was
    /// begun any more.
    ///
    /// ```
    /// # use fs_core::batch::{Files, FilesConfig, LogUse};
    /// # let place = tempfile::tempdir().unwrap();
    /// # let config = FilesConfig { log: LogUse::Never, ..FilesConfig::default() };
    /// # let files = Files::open(place.path(), config).unwrap();
    /// let batch = files.batch().write("a", "1").copy("missing", "b").write("c", "3");
    /// let error = batch.commit().unwrap_err();
    /// assert_eq!((error.failed_at, error.completed), (1, 1)); // "a" is there, and durable
    /// assert!(!place.path().join("c").exists()); // and "c" was not tried
    /// ```
    pub fn commit(self) -> Result<(), BatchError> {
        if self.is_empty() {
            return Ok(());
        }
        let (need, shared) = (self.need(), self.shared);
        let turn = shared.queue.enter_and_wait(need).map_err(|Closing| shutting_down())?;
        let mut execution = Execution::new(&shared);
        for operation in self.operations {
            execution.prepare(&operation);
        }
        let (answer, result) = Answer::awaited();
        let orders = apply(execution, turn, answer);
        shared.tree.submit(shared.caller(), orders, true);
        result().unwrap_or_else(|| Err(shutting_down()))
    }

    /// Has a thread of the library carry the batch out, and calls `done` when it is
    /// durable or has failed. Waits only while the queue is full.
    ///
    /// `done` is called once, by whatever thread finishes the group: it must be short,
    /// and must not wait for anything of this library.
    pub fn commit_then(self, done: impl FnOnce(Result<(), BatchError>) + Send + 'static) {
        if self.is_empty() {
            return done(Ok(()));
        }
        let queue = Arc::clone(&self.shared.queue);
        let (need, job) = self.into_job(Answer::new(done));
        if let Some(ticket) = queue.enter_job(need, job) {
            queue.wait_inside(ticket);
        }
    }

    /// A future that is ready when the batch is durable or has failed. It needs no
    /// runtime, and never waits or spins; a thread of the library does the work.
    ///
    /// The batch is queued when the future is polled first, which looks its paths up. A future that is dropped
    /// takes its batch back if that was not let into the queue yet, else it is carried out.
    ///
    /// ```
    /// # use std::{future::Future, pin::pin, sync::Arc, task::{Context, Poll, Wake}};
    /// # use fs_core::batch::{Files, FilesConfig, LogUse};
    /// # struct Unpark(std::thread::Thread);
    /// # impl Wake for Unpark { fn wake(self: Arc<Self>) { self.0.unpark() } }
    /// # fn block_on<F: Future>(future: F) -> F::Output {
    /// #     let mut future = pin!(future);
    /// #     let waker = Arc::new(Unpark(std::thread::current())).into();
    /// #     loop {
    /// #         match future.as_mut().poll(&mut Context::from_waker(&waker)) {
    /// #             Poll::Ready(output) => return output,
    /// #             Poll::Pending => std::thread::park(),
    /// #         }
    /// #     }
    /// # }
    /// # let place = tempfile::tempdir().unwrap();
    /// # let config = FilesConfig { log: LogUse::Never, ..FilesConfig::default() };
    /// # let files = Files::open(place.path(), config).unwrap();
    /// let both = async {
    ///     files.batch().write("a", "1").commit_async().await?;
    ///     files.batch().copy("a", "b").commit_async().await
    /// };
    /// block_on(both)?; // any executor will do
    /// assert_eq!(std::fs::read(place.path().join("b")).unwrap(), b"1");
    /// # Ok::<(), fs_core::batch::BatchError>(())
    /// ```
    pub fn commit_async(self) -> Committing<B> {
        let shared = Arc::clone(&self.shared);
        Committing { batch: Some(self), shared, ticket: None, slot: Arc::default() }
    }

    fn into_job(self, answer: Answer) -> (Need, BatchJob<B>) {
        let need = self.need();
        let operations = self.operations.into_iter();
        (need, BatchJob { shared: self.shared, operations, execution: None, answer })
    }

    /// What the queue is asked for.
    fn need(&self) -> Need {
        self.shared.counts.batches.fetch_add(1, Ordering::Relaxed);
        self.shared.counts.batch_operations.fetch_add(self.len() as u64, Ordering::Relaxed);
        let mut paths = BTreeSet::new();
        for operation in &self.operations {
            match operation {
                Operation::Write { path, .. } => self.note_path(path, true, &mut paths),
                Operation::Delete { path } => self.note_path(path, false, &mut paths),
                Operation::Copy { from, to } => {
                    self.note_path(from, true, &mut paths);
                    self.note_path(to, true, &mut paths);
                }
            }
        }
        Need { ops: self.len(), bytes: self.bytes, paths }
    }

    /// Notes the name that a path leads to now, and the links on the way: the same file
    /// by another path is the same name.
    fn note_path(&self, path: &Path, follows: bool, paths: &mut BTreeSet<PathKey>) {
        match resolve(&self.shared.tree, path, follows, &nothing_pending) {
            Ok(place) => {
                paths.insert(hash(&place.key()));
                paths.extend(place.links.iter().map(hash));
            }
            // It will fail in its turn, unless the directory comes meanwhile.
            Err(_) => {
                paths.insert(hash(&path));
            }
        }
    }
}

fn hash(what: &impl Hash) -> PathKey {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

fn shutting_down() -> BatchError {
    BatchError { failed_at: 0, completed: 0, source: FileError::ShutdownInProgress }
}

/// Applies what was prepared, and lets others follow.
fn apply<B: Backing>(
    execution: Execution<B>,
    turn: Turn<BatchJob<B>>,
    answer: Answer,
) -> Vec<SyncOrder<B>> {
    let _applying = turn.applying();
    execution.apply(Answer::with_leftovers(move |result, leftovers| {
        // The turn ends before anybody hears of it, who may wait for room then; and after
        // the files, so that whoever waits for all turns finds none open.
        answer.give_with(result, Some(Box::new((leftovers, turn))));
    }))
}

/// A batch that a thread of the library carries out.
pub(super) struct BatchJob<B: Backing> {
    shared: Arc<Shared<B>>,
    operations: std::vec::IntoIter<Operation>,
    /// Since the first slice.
    execution: Option<Execution<B>>,
    answer: Answer,
}

impl<B: Backing> Job for BatchJob<B> {
    type Ready = (Arc<Shared<B>>, Vec<SyncOrder<B>>);

    fn advance(mut self, turn: Turn<Self>) -> Advanced<Self> {
        let mut execution = self.execution.take().unwrap_or_else(|| Execution::new(&self.shared));
        let mut bytes = 0;
        for _ in 0..SLICE_OPS {
            let Some(operation) = self.operations.next() else { break };
            bytes += operation.bytes();
            execution.prepare(&operation);
            if bytes >= SLICE_BYTES || execution.has_failed() {
                break;
            }
        }
        if self.operations.len() > 0 && !execution.has_failed() {
            self.execution = Some(execution);
            return Advanced::More(self, turn);
        }
        let orders = apply(execution, turn, self.answer);
        Advanced::Ready((self.shared, orders))
    }

    fn submit(ready: Vec<Self::Ready>) {
        let Some(shared) = ready.first().map(|(shared, _)| Arc::clone(shared)) else { return };
        let orders = ready.into_iter().flat_map(|(_, orders)| orders).collect();
        shared.tree.submit(shared.caller(), orders, false);
    }

    fn refuse(self) {
        self.answer.give(Err(shutting_down()));
    }
}

/// A batch on its way; see [`Batch::commit_async`].
#[must_use = "a future does nothing before it is polled"]
pub struct Committing<B: Backing = Native> {
    batch: Option<Batch<B>>,
    shared: Arc<Shared<B>>,
    ticket: Option<Ticket>,
    slot: Arc<Slot>,
}

/// Where a result is put, and whom to wake then.
#[derive(Default)]
struct Slot(Mutex<(Option<BatchResult>, Option<Waker>)>);

impl Slot {
    fn lock(&self) -> MutexGuard<'_, (Option<BatchResult>, Option<Waker>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, result: BatchResult) {
        let mut state = self.lock();
        state.0 = Some(result);
        let waker = state.1.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }
}

impl<B: Backing> Future for Committing<B> {
    type Output = Result<(), BatchError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Before the batch may be done.
        self.slot.lock().1 = Some(context.waker().clone());
        if let Some(batch) = self.batch.take() {
            if batch.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let slot = Arc::clone(&self.slot);
            let (need, job) = batch.into_job(Answer::new(move |result| slot.put(result)));
            self.ticket = self.shared.queue.enter_job(need, job);
        }
        let result = self.slot.lock().0.take();
        result.map_or(Poll::Pending, Poll::Ready)
    }
}

impl<B: Backing> Drop for Committing<B> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.shared.queue.cancel(ticket);
        }
    }
}
