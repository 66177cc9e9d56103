//! Parallel syncs by a pool of threads, for kernels that give us no io_uring.
//!
//! Threads come when a group needs them and go when they have idled: an engine
//! without work costs none.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::{LinuxBacking, sync_one};
use crate::error::{Errno, Result};
use crate::platform::SyncTarget;

/// Most threads at once; beyond it a group's syncs take turns.
const THREADS_MAX: usize = 32;
/// A thread without work ends after this.
const IDLE_MAX: Duration = Duration::from_secs(5);

struct Job {
    index: usize,
    target: SyncTarget<LinuxBacking>,
    done: Sender<(usize, Result<()>)>,
}

/// A pool that grows with the groups and shrinks to nothing.
pub(super) struct SyncThreads {
    jobs: Sender<Job>,
    queue: Receiver<Job>,
    /// Threads that exist. Only grown under the lock, so that two leaders do
    /// not both start the same missing threads.
    count: Arc<AtomicUsize>,
    growing: Mutex<()>,
}

impl SyncThreads {
    pub(super) fn new() -> Self {
        let (jobs, queue) = unbounded();
        Self { jobs, queue, count: Arc::default(), growing: Mutex::new(()) }
    }

    /// Syncs all targets; results in their order. The caller takes part, so
    /// that a group makes progress even if no thread can be started.
    pub(super) fn sync_all(&self, targets: &[SyncTarget<LinuxBacking>]) -> Vec<Result<()>> {
        let mut results = vec![Err(Errno::IO); targets.len()];
        let (done, completions) = bounded(targets.len());
        self.grow(targets.len().saturating_sub(1));
        for (index, target) in targets.iter().enumerate() {
            let job = Job { index, target: target.clone(), done: done.clone() };
            self.jobs.send(job).expect("the pool holds the receiving end");
        }
        let mut missing = targets.len();
        while missing > 0 {
            crossbeam_channel::select_biased! {
                recv(self.queue) -> job => run(&job.expect("the pool holds the sending end")),
                recv(completions) -> completion => {
                    let (index, result) = completion.expect("`done` is alive in this frame");
                    results[index] = result;
                    missing -= 1;
                }
            }
        }
        results
    }

    fn grow(&self, wanted: usize) {
        let _growing = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        while self.count.load(Ordering::Acquire) < wanted.min(THREADS_MAX) {
            let (queue, count) = (self.queue.clone(), Arc::clone(&self.count));
            count.fetch_add(1, Ordering::AcqRel);
            let started = std::thread::Builder::new().name("lanefs-sync".into()).spawn(move || {
                while let Ok(job) = queue.recv_timeout(IDLE_MAX) {
                    run(&job);
                }
                count.fetch_sub(1, Ordering::AcqRel);
            });
            if let Err(error) = started {
                self.count.fetch_sub(1, Ordering::AcqRel);
                tracing::warn!(%error, "cannot start a sync thread; the others do its work");
                return;
            }
        }
    }
}

/// Runs one job and always answers it.
fn run(job: &Job) {
    let result = catch_unwind(AssertUnwindSafe(|| sync_one(&job.target)));
    let _ = job.done.send((job.index, result.unwrap_or(Err(Errno::IO))));
}
