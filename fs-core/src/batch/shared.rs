//! What everything that belongs to one open directory shares.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};

use super::commit::BatchJob;
use super::config::FilesConfig;
use super::error::{BatchError, FileError};
use super::queue::Queue;
use super::temporary::OpenNote;
use crate::engine::{NodeId, Tree};
use crate::error::{Errno, Result};
use crate::platform::{Backing, LOG_BLOCK_BYTES};
use crate::types::Caller;

pub(super) struct Shared<B: Backing> {
    pub(super) tree: Arc<Tree<B>>,
    pub(super) config: FilesConfig,
    pub(super) queue: Arc<Queue<BatchJob<B>>>,
    pub(super) open_note: OpenNote,
    pub(super) counts: Counts,
    /// The process; the thread is filled in.
    caller: Caller,
    /// Why there is no log.
    no_log: Option<String>,
    /// Lets others open the directory.
    unlock: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

/// What whoever opened the directory adds.
#[derive(Default)]
pub(super) struct Opened {
    /// Why there is no log, if there is none.
    pub(super) no_log: Option<String>,
    /// Lets others open the directory.
    pub(super) unlock: Option<Box<dyn FnOnce() + Send>>,
}

/// What was done so far.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) solos: AtomicU64,
    pub(super) batches: AtomicU64,
    pub(super) batch_operations: AtomicU64,
    pub(super) direct_bytes: AtomicU64,
    pub(super) direct_refused: AtomicU64,
}

impl<B: Backing> Shared<B> {
    pub(super) fn new(
        tree: Arc<Tree<B>>,
        caller: Caller,
        config: FilesConfig,
        opened: Opened,
    ) -> Result<Arc<Self>> {
        let open_note = OpenNote::begin(&tree)?;
        let queue = Queue::new(&config);
        let Opened { no_log, unlock } = opened;
        let (counts, unlock) = (Counts::default(), Mutex::new(unlock));
        Ok(Arc::new(Self { tree, config, queue, open_note, counts, caller, no_log, unlock }))
    }

    /// The calling thread.
    pub(super) fn caller(&self) -> Caller {
        Caller { thread: thread_number(), ..self.caller }
    }

    pub(super) fn has_log(&self) -> bool {
        self.tree.engine().log().is_some()
    }

    pub(super) fn no_log(&self) -> Option<&str> {
        self.no_log.as_deref()
    }

    /// Notes how much of a content went past the page cache.
    pub(super) fn note_direct(&self, written: usize, bytes: usize) {
        self.counts.direct_bytes.fetch_add(written as u64, Ordering::Relaxed);
        let refused = written < bytes / LOG_BLOCK_BYTES * LOG_BLOCK_BYTES;
        self.counts.direct_refused.fetch_add(u64::from(refused), Ordering::Relaxed);
    }

    pub(super) fn unlock(&self) {
        let unlock = self.unlock.lock().unwrap_or_else(PoisonError::into_inner).take();
        unlock.into_iter().for_each(|unlock| unlock());
    }
}

/// A number for each thread: the lanes learn how soon one comes back.
fn thread_number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    thread_local! {
        static NUMBER: Cell<u32> = const { Cell::new(0) };
    }
    NUMBER.with(|number| {
        if number.get() == 0 {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}

/// Makes a directory's names durable, and waits.
pub(super) fn sync_dir<B: Backing>(tree: &Tree<B>, caller: Caller, dir: NodeId) -> Result<()> {
    let (sender, answer) = channel();
    let done = move |result| {
        let _ = sender.send(result);
    };
    tree.submit(caller, tree.orders_for_dir(dir, Box::new(done)), true);
    answer.recv().unwrap_or(Err(Errno::IO))
}

/// What a batch, or a single operation, ends with.
pub(super) type BatchResult = std::result::Result<(), BatchError>;

/// What a batch had to keep until it was answered: open files, nodes. Dropping it takes
/// system calls, which a thread that waits for the answer spares the one that leads: the
/// next group leaves earlier.
pub(super) type Leftovers = Option<Box<dyn Send>>;

/// Whoever is told of the result: exactly once, also if something panics on the way.
pub(super) struct Answer(Option<Box<dyn FnOnce(BatchResult, Leftovers) + Send>>);

impl Answer {
    /// Leftovers are dropped before `tell` is called.
    pub(super) fn new(tell: impl FnOnce(BatchResult) + Send + 'static) -> Self {
        Self::with_leftovers(move |result, leftovers| {
            drop(leftovers);
            tell(result);
        })
    }

    /// `tell` has the leftovers dropped, before anybody hears of the result.
    pub(super) fn with_leftovers(
        tell: impl FnOnce(BatchResult, Leftovers) + Send + 'static,
    ) -> Self {
        Self(Some(Box::new(tell)))
    }

    /// An answer to a thread, and how it waits for it.
    pub(super) fn awaited() -> (Self, impl FnOnce() -> Option<BatchResult>) {
        let (sender, answers) = channel();
        let answer = Self::with_leftovers(move |result, leftovers| {
            let _ = sender.send((result, leftovers));
        });
        (answer, move || answers.recv().ok().map(|(result, _leftovers)| result))
    }

    pub(super) fn give(self, result: BatchResult) {
        self.give_with(result, None);
    }

    pub(super) fn give_with(mut self, result: BatchResult, leftovers: Leftovers) {
        self.tell(result, leftovers);
    }

    fn tell(&mut self, result: BatchResult, leftovers: Leftovers) {
        if let Some(tell) = self.0.take() {
            tell(result, leftovers);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let source = FileError::Panicked("it was given up on its way".to_owned());
        self.tell(Err(BatchError { failed_at: 0, completed: 0, source }), None);
    }
}
