//! What becomes durable although nobody waits for it.
//!
//! Two clocks, one thread:
//! - the *commit interval*: what was applied and is durable neither by a sync nor by itself
//!   is committed about once in that time, for those who call `sync` or `syncfs`, which
//!   do not reach a front-end, and for those who call nothing;
//! - *late syncs*: what a sync request in the mode `relaxed` asked for.
//!
//! Architecture invariants:
//! - An idle engine costs nothing: the thread is started by what makes it necessary, sleeps
//!   without a timer when all is durable and no file is open for writing, and ends soon.
//!   (The kernel writes open files by itself, so these are looked at once in an interval.)
//! - Nobody is answered by this thread before something is durable, except in the mode
//!   `relaxed`, which is that.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Engine;
use crate::error::{Errno, Result};
use crate::fence::SyncRequest;
use crate::platform::Backing;

mod tick;

pub(super) use self::tick::Writers;

/// How long the thread stays with nothing to do.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// An error that came when nobody waited any more, for the next sync of the same open file.
pub(super) type LateError = Arc<Mutex<Option<Errno>>>;

/// Wakes and ends the thread.
pub(super) struct Committer<B: Backing> {
    state: Mutex<State<B>>,
    changed: Condvar,
    /// A look is due already, or none is wanted: whoever changes something need not tell.
    is_armed: AtomicBool,
    counts: Counts,
}

pub(super) struct State<B: Backing> {
    interval: Option<Duration>,
    /// When the next look is due.
    look_at: Option<Instant>,
    late: Vec<Late<B>>,
    running: bool,
    stopped: bool,
    /// Looks since the engine began, without a log: see `tick`.
    pub(super) plain: tick::PlainState,
}

struct Late<B: Backing> {
    request: SyncRequest<B>,
    start_at: Instant,
    due: Instant,
    error: LateError,
    /// The file was being rewritten when the sync was asked for: it ends that.
    rewriting: bool,
}

#[derive(Default)]
struct Counts {
    looks: AtomicU64,
    commits: AtomicU64,
    errors: AtomicU64,
    late_syncs: AtomicU64,
    late_errors: AtomicU64,
    missed: AtomicU64,
}

/// Figures of the committer, for `lanefs status`.
#[derive(Debug, Clone, Serialize)]
pub struct CommitterStatus {
    /// What was applied is committed at least so often, in milliseconds; `None`: never.
    pub interval_ms: Option<u64>,
    /// How often it was looked whether there is something to commit.
    pub looks: u64,
    /// How often there was.
    pub commits: u64,
    /// Commits that failed; they are tried again.
    pub errors: u64,
    /// Sync requests that were answered before they were durable (mode `relaxed`).
    pub late_syncs: u64,
    /// Of them, requests that failed later.
    pub late_errors: u64,
    /// Of them, requests that were durable later than was promised.
    pub late_syncs_missed: u64,
    /// Of them, requests that wait.
    pub late_syncs_waiting: usize,
}

impl<B: Backing> State<B> {
    /// What is to be committed within an interval is found and old enough within two of these.
    fn look_interval(&self) -> Option<Duration> {
        self.interval.map(|interval| interval / 2)
    }
}

impl<B: Backing> Committer<B> {
    pub(super) fn new(interval: Option<Duration>) -> Arc<Self> {
        let state = State {
            interval,
            look_at: None,
            late: Vec::new(),
            running: false,
            stopped: false,
            plain: tick::PlainState::default(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            is_armed: AtomicBool::new(interval.is_none()),
            counts: Counts::default(),
        })
    }

    /// Notes that something was applied that is not durable, or may be without our seeing it.
    pub(super) fn arm(self: &Arc<Self>, engine: &Weak<Engine<B>>) {
        // Whoever finds nothing to commit sets this back first and looks then, under the
        // locks under which things are applied.
        if self.is_armed.load(Ordering::SeqCst) || self.is_armed.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut state = self.lock();
        let Some(interval) = state.look_interval() else { return };
        state.look_at = Some(Instant::now() + interval);
        self.see_to_thread(&mut state, engine);
    }

    /// Sets how often is committed what nobody asks for; `None`: never.
    pub(super) fn set_interval(
        self: &Arc<Self>,
        interval: Option<Duration>,
        engine: &Weak<Engine<B>>,
    ) {
        let mut state = self.lock();
        state.interval = interval;
        state.look_at = None;
        self.is_armed.store(interval.is_none(), Ordering::SeqCst);
        drop(state);
        // What was applied meanwhile did not tell.
        self.arm(engine);
    }

    /// Has a request carried out that is answered already; it is to be durable in `delay`.
    /// Begins at half of that: the fence takes its time, too.
    pub(super) fn later(
        self: &Arc<Self>,
        request: SyncRequest<B>,
        delay: Duration,
        error: LateError,
        engine: &Weak<Engine<B>>,
    ) {
        self.counts.late_syncs.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        // One that waits is carried out sooner, and then covers what was done until now.
        if !state.late.iter().any(|late| Arc::ptr_eq(&late.error, &error)) {
            let now = Instant::now();
            let (start_at, due) = (now + delay / 2, now + delay);
            let rewriting = request.file.as_ref().is_some_and(|file| file.is_rewriting());
            state.late.push(Late { request, start_at, due, error, rewriting });
        }
        self.see_to_thread(&mut state, engine);
    }

    /// Carries out what is late, on this thread, and waits for it.
    pub(super) fn carry_late(&self, engine: &Engine<B>) {
        let late = std::mem::take(&mut self.lock().late);
        let (long, quick): (Vec<_>, Vec<_>) =
            late.into_iter().partition(|late| late.request.takes_long());
        self.carry_together(engine, quick);
        long.iter().for_each(|late| engine.lanes.write_ahead(&late.request));
        self.carry_together(engine, long);
    }

    fn carry_together(&self, engine: &Engine<B>, late: Vec<Late<B>>) {
        if late.is_empty() {
            return;
        }
        let (sender, answers) = channel();
        let count = late.len();
        // All are parked before one is carried out: they share a group.
        let mut duties = Vec::new();
        for Late { request, due, error, rewriting, .. } in late {
            let begun_since = request.file.as_ref().is_some_and(|f| f.is_rewriting() && !rewriting);
            // What was asked for is in the copy, which comes back until it is written anew.
            let request = if begun_since { SyncRequest::everything() } else { request };
            let sender = sender.clone();
            let done = move |result: Result<()>| {
                let missed = result.is_ok() && Instant::now() > due;
                if let Err(reason) = result {
                    *error.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
                }
                let _ = sender.send((result, missed));
            };
            duties.extend(engine.lanes.submit_deferred(0, request, Box::new(done)));
        }
        duties.into_iter().for_each(|duty| duty.run(&mut || {}));
        for (result, missed) in answers.iter().take(count) {
            self.counts.missed.fetch_add(u64::from(missed), Ordering::Relaxed);
            if let Err(error) = result {
                self.counts.late_errors.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, "a sync that was answered at once has failed");
            }
        }
    }

    pub(super) fn look_interval(&self) -> Option<Duration> {
        self.lock().look_interval()
    }

    /// Ends the thread; waits for it.
    pub(super) fn stop(&self, deadline: Duration) {
        let mut state = self.lock();
        state.stopped = true;
        self.changed.notify_all();
        let waited = self.changed.wait_timeout_while(state, deadline, |state| state.running);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Figures since the start.
    pub(super) fn status(&self) -> CommitterStatus {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let state = self.lock();
        CommitterStatus {
            interval_ms: state.interval.map(|interval| interval.as_millis() as u64),
            looks: count(&self.counts.looks),
            commits: count(&self.counts.commits),
            errors: count(&self.counts.errors),
            late_syncs: count(&self.counts.late_syncs),
            late_errors: count(&self.counts.late_errors),
            late_syncs_missed: count(&self.counts.missed),
            late_syncs_waiting: state.late.len(),
        }
    }

    fn see_to_thread(self: &Arc<Self>, state: &mut State<B>, engine: &Weak<Engine<B>>) {
        if state.running || state.stopped {
            self.changed.notify_all();
            return;
        }
        let (committer, engine) = (Arc::clone(self), Weak::clone(engine));
        let thread = std::thread::Builder::new().name("lanefs-interval".into());
        match thread.spawn(move || committer.run(&engine)) {
            Ok(_) => state.running = true,
            Err(error) => {
                tracing::warn!(%error, "no thread to commit what nobody asks for");
                // The next one who changes something tries again.
                state.look_at = None;
                self.is_armed.store(state.interval.is_none(), Ordering::SeqCst);
            }
        }
    }

    fn run(self: &Arc<Self>, engine: &Weak<Engine<B>>) {
        while let Some(work) = self.wait() {
            // Gone: then it has stopped us, or nobody is left whom anything was promised.
            let Some(engine) = engine.upgrade() else { continue };
            match work {
                Work::Late => self.carry_late(&engine),
                Work::Look => self.look(&engine),
            }
        }
    }

    /// Waits until there is something to do; `None`: the thread shall end.
    fn wait(&self) -> Option<Work> {
        let mut state = self.lock();
        let idle_until = Instant::now() + IDLE_MAX;
        loop {
            if state.stopped {
                state.running = false;
                self.changed.notify_all();
                return None;
            }
            let now = Instant::now();
            let late_at = state.late.iter().map(|late| late.start_at).min();
            if late_at.is_some_and(|at| at <= now) {
                return Some(Work::Late);
            }
            if state.look_at.is_some_and(|at| at <= now) {
                state.look_at = None;
                return Some(Work::Look);
            }
            let next = late_at.into_iter().chain(state.look_at).min();
            if next.is_none() && now >= idle_until {
                // Under the lock: whoever needs the thread from now on starts another.
                state.running = false;
                return None;
            }
            let wait = next.unwrap_or(idle_until).saturating_duration_since(now);
            (state, _) =
                self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Commits what is not durable, and sees to the next look.
    fn look(self: &Arc<Self>, engine: &Engine<B>) {
        self.counts.looks.fetch_add(1, Ordering::Relaxed);
        let comes_back = match engine.commit_applied() {
            Ok(looked) => {
                self.counts.commits.fetch_add(u64::from(looked.committed), Ordering::Relaxed);
                looked.comes_back
            }
            Err(error) => {
                self.counts.errors.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, "what was applied could not be committed; tried again");
                true
            }
        };
        if !comes_back {
            self.is_armed.store(false, Ordering::SeqCst);
            if !engine.has_unsynced() {
                return;
            }
            self.is_armed.store(true, Ordering::SeqCst);
        }
        let mut state = self.lock();
        state.look_at = state.look_interval().map(|interval| Instant::now() + interval);
        if state.interval.is_none() {
            self.is_armed.store(true, Ordering::SeqCst);
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Work {
    Late,
    Look,
}
