//! Checkpoints: one journal commit of the backing filesystem, after which the log
//! up to there is not needed.
//!
//! Data of durable groups is in place already, but for what waits for its blocks
//! (`waiting`), which is written first. The rest is a commit of what the journal has
//! anyhow, two flushes. (The backing filesystem makes the same commit by itself every
//! few seconds, unseen by us.)
//! It is made when the log is half full, when comparing live pages has cost as much
//! as a commit would, and some seconds after the first group.
//!
//! The thread exists only while the log holds something.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Log;
use crate::error::Result;
use crate::log::tracked::Closed;
use crate::platform::Backing;

/// Tracked files that nobody has open; beyond that everything is synced, so that
/// they can be forgotten.
const CLOSED_FILES_MAX: usize = 32_768;

/// Wakes and ends the background thread.
pub(super) struct Checkpointer {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    running: bool,
    wanted: bool,
    stopped: bool,
    /// Time spent on comparing live pages since the last checkpoint.
    comparing: Duration,
    /// Time that the last checkpoint took until what had been left out was in place; the wait for
    /// a group that was under way is in it.
    placing: Duration,
}

impl Checkpointer {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: Condvar::new() })
    }

    /// No checkpoint begins any more; waits until the thread has ended.
    pub(super) fn stop(&self, deadline: Duration) {
        let mut state = self.lock();
        state.stopped = true;
        self.changed.notify_all();
        let waited = self.changed.wait_timeout_while(state, deadline, |state| state.running);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a checkpoint is due; false if none will be.
    fn wait(&self, interval: Duration) -> bool {
        let state = self.lock();
        let due = |state: &mut State| !state.wanted && !state.stopped;
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, interval, due)
            .unwrap_or_else(PoisonError::into_inner);
        state.wanted = false;
        !state.stopped
    }

    /// Ends the thread, unless it is wanted again.
    fn may_end(&self, log_is_empty: bool) -> bool {
        let mut state = self.lock();
        if state.stopped || (log_is_empty && !state.wanted) {
            state.running = false;
            self.changed.notify_all();
            return true;
        }
        false
    }
}

impl<B: Backing> Log<B> {
    /// Notes a group and what it cost; sees to it that a checkpoint follows.
    /// `commit` is twice what a journal commit is expected to take, for fewer flushes. Comparing
    /// grows with the square of the groups since the last checkpoint: the sum of both is least
    /// when it has taken as long as a checkpoint does.
    pub(crate) fn note_group(
        self: &Arc<Self>,
        comparing: Duration,
        commit: Duration,
        used_ratio: f64,
    ) {
        let mut state = self.checkpointer.lock();
        state.comparing += comparing;
        let urgent = used_ratio > 0.5 || state.comparing > commit.max(commit / 2 + state.placing);
        if !self.config.background {
            return;
        }
        if urgent && !state.wanted {
            state.wanted = true;
            state.comparing = Duration::ZERO;
            self.checkpointer.changed.notify_all();
        }
        self.see_to_thread(&mut state);
    }

    /// A file is protected while it is rewritten: not for longer than some seconds.
    pub(crate) fn watch_rewrites(self: &Arc<Self>) {
        if self.config.background {
            self.see_to_thread(&mut self.checkpointer.lock());
        }
    }

    fn see_to_thread(self: &Arc<Self>, state: &mut State) {
        if state.running || state.stopped {
            return;
        }
        let log = Arc::clone(self);
        let thread = std::thread::Builder::new().name("lanefs-checkpoint".into());
        match thread.spawn(move || log.run_checkpoints()) {
            Ok(_) => state.running = true,
            // The log fills up, and then groups become commits: slower, as safe.
            Err(error) => tracing::warn!(%error, "no thread for checkpoints"),
        }
    }

    fn run_checkpoints(self: &Arc<Self>) {
        let mut interval = self.config.checkpoint_interval;
        while self.checkpointer.wait(interval) {
            self.settle_old_rewrites();
            interval = match self.checkpoint() {
                Ok(()) => self.config.checkpoint_interval,
                Err(error) => {
                    tracing::error!(%error, "a checkpoint failed; the log is kept");
                    self.config.checkpoint_interval * 2
                }
            };
            let is_empty = self.lock_writer().is_empty() && !self.has_rewrites();
            if self.checkpointer.may_end(is_empty) {
                return;
            }
        }
        self.checkpointer.may_end(true);
    }

    /// Makes everything that is durable in the log durable in the backing directory.
    ///
    /// # Errors
    /// The commit's, or the log device's: the log keeps what it has.
    pub fn checkpoint(&self) -> Result<()> {
        let start = Instant::now();
        // Data of groups up to here has been written in place, or waits for its blocks; a group
        // under way is left out.
        let through = self.lock_writer().last_lsn();
        let files = self.files.all();
        let closed = self.files.closed_files();
        let sync_all = closed.len() > CLOSED_FILES_MAX;
        if !sync_all && self.lock_writer().is_checkpointed() {
            return self.settle_tail(&closed);
        }
        let commit = || if sync_all { self.backing.sync_all() } else { self.fence.commit() };
        let placed = self.place_waiting();
        self.checkpointer.lock().placing = start.elapsed();
        let committed = placed.and_then(|()| commit());
        if let Err(error) = committed {
            self.counts.checkpoint_errors.fetch_add(1, Ordering::Relaxed);
            if !self.config.bugs.free_after_failed_checkpoint {
                return Err(error);
            }
        }
        files.iter().for_each(|file| file.checkpointed(through));
        let freed = {
            let mut writer = self.lock_writer();
            let noted = writer.checkpointed(through);
            noted.inspect_err(|&error| self.give_up(&super::device_error(error)))?;
            self.note_tail(&writer);
            writer.durable_tail_lsn()
        };
        self.files.forget_closed(&closed, sync_all, freed);
        self.home.marks.remove_through(&*self.backing, freed)?;
        self.counts.checkpoints.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(through, elapsed = ?start.elapsed(), "checkpoint");
        Ok(())
    }

    /// Nothing came since the last checkpoint: makes durable that the log is empty,
    /// if no group's flush has done it.
    fn settle_tail(&self, closed: &[Closed<B>]) -> Result<()> {
        let freed = {
            let mut writer = self.lock_writer();
            if !writer.is_empty() {
                writer.flush().inspect_err(|&error| self.give_up(&super::device_error(error)))?;
            }
            self.note_tail(&writer);
            writer.durable_tail_lsn()
        };
        self.files.forget_closed(closed, false, freed);
        self.home.marks.remove_through(&*self.backing, freed)
    }
}
