//! The group lane's queue: who may run ([`turns`](super::turns)), and the threads for
//! those who brought none.
//!
//! A thread that waits for its batch carries it out itself, when it is its turn: its
//! concurrency is not taken away, and nobody is woken to do its work. Only batches whose
//! callers do not wait need threads of the library. Those are started when there is such
//! a batch, at most `shards`, and end after a while without one.
//!
//! A thread of the library works on several batches in turns, a slice of each, so that a
//! small batch is done while a large one is under way, even with a single thread. Those
//! that are applied at about the same time are submitted to the lanes together.
//!
//! Architecture invariants: jobs and gates are called without the lock; every batch that
//! was let in is given back ([`Turn`]), whatever panics.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::config::FilesConfig;
use super::turns::{Limits, Need, Ticket, Turns};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// How long a thread of the library waits for another batch before it ends.
const IDLE: Duration = Duration::from_secs(2);

/// Applied batches that a thread submits together at most.
const READY_MAX: usize = 256;

/// A batch that is carried out by a thread of the library.
pub(super) trait Job: Send + Sized + 'static {
    /// An applied batch, to be submitted.
    type Ready: Send;
    /// Does a slice of the work.
    fn advance(self, turn: Turn<Self>) -> Advanced<Self>;
    /// Submits batches that were applied.
    fn submit(ready: Vec<Self::Ready>);
    /// It will not be carried out, because the library is shutting down.
    fn refuse(self);
}

/// What became of a job.
pub(super) enum Advanced<J: Job> {
    /// There is more to do.
    More(J, Turn<J>),
    /// It is applied.
    Ready(J::Ready),
}

/// The right to run, from being let in until the batch is answered.
pub(super) struct Turn<J: Job> {
    queue: Arc<Queue<J>>,
    ticket: Ticket,
}

impl<J: Job> Turn<J> {
    /// The batch is about to be applied.
    pub(super) fn applying(&self) -> Applying<J> {
        Applying { queue: Arc::clone(&self.queue), ticket: self.ticket }
    }
}

impl<J: Job> Drop for Turn<J> {
    fn drop(&mut self) {
        drop(self.applying());
        self.queue.change(|turns| turns.answered(self.ticket));
    }
}

/// A batch that is being applied; when it is, others may follow at its paths.
pub(super) struct Applying<J: Job> {
    queue: Arc<Queue<J>>,
    ticket: Ticket,
}

impl<J: Job> Drop for Applying<J> {
    fn drop(&mut self) {
        self.queue.change(|turns| turns.applied(self.ticket));
    }
}

/// Where a thread waits for its turn.
#[derive(Default)]
struct Gate {
    state: Mutex<Option<std::result::Result<Ticket, Closing>>>,
    opened: Condvar,
}

impl Gate {
    fn open(&self, way: std::result::Result<Ticket, Closing>) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Some(way);
        self.opened.notify_one();
    }

    fn wait(&self) -> std::result::Result<Ticket, Closing> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match *state {
                Some(way) => return way,
                None => state = self.opened.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// The library is shutting down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Closing;

enum Who<J> {
    Thread(Arc<Gate>),
    Job(J),
}

/// The queue of one opened directory.
pub(super) struct Queue<J: Job> {
    state: Mutex<State<J>>,
    /// There is a job, or a thread shall end.
    work: Condvar,
    /// Something has ended or was let in.
    progress: Condvar,
    shards: usize,
    idle: Duration,
    spawn: Spawn,
}

/// Starts a thread.
type Spawn = fn(Box<dyn FnOnce() + Send>) -> std::io::Result<()>;

fn spawn(work: Box<dyn FnOnce() + Send>) -> std::io::Result<()> {
    std::thread::Builder::new().name("lanefs-batch".into()).spawn(work).map(drop)
}

struct State<J: Job> {
    turns: Turns<Who<J>>,
    /// Jobs whose turn it is.
    going: VecDeque<(Turn<J>, J)>,
    threads: usize,
    /// Of them, those without work.
    sleeping: usize,
    /// Single operations under way.
    solos: usize,
    closing: bool,
}

/// What a queue is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) batches: usize,
    pub(super) solos: usize,
    pub(super) ops: usize,
    pub(super) bytes: u64,
    pub(super) threads: usize,
}

/// A single operation under way.
pub(super) struct Solo<J: Job>(Arc<Queue<J>>);

impl<J: Job> Drop for Solo<J> {
    fn drop(&mut self) {
        self.0.lock().solos -= 1;
        self.0.progress.notify_all();
    }
}

impl<J: Job> Queue<J> {
    pub(super) fn new(config: &FilesConfig) -> Arc<Self> {
        Self::with(config, IDLE, spawn)
    }

    /// With `idle` zero a thread ends as soon as it has no work.
    fn with(config: &FilesConfig, idle: Duration, spawn: Spawn) -> Arc<Self> {
        let limits = Limits { ops: config.queue_ops_max, bytes: config.queue_bytes_max };
        let state = State {
            turns: Turns::new(limits),
            going: VecDeque::new(),
            threads: 0,
            sleeping: 0,
            solos: 0,
            closing: false,
        };
        let (work, progress) = (Condvar::new(), Condvar::new());
        let (state, shards) = (Mutex::new(state), config.shards);
        Arc::new(Self { state, work, progress, shards, idle, spawn })
    }

    /// Begins a single operation, which waits for nobody.
    pub(super) fn enter_solo(self: &Arc<Self>) -> std::result::Result<Solo<J>, Closing> {
        let mut state = self.lock();
        if state.closing {
            return Err(Closing);
        }
        state.solos += 1;
        Ok(Solo(Arc::clone(self)))
    }

    /// Waits for the calling thread's turn.
    pub(super) fn enter_and_wait(
        self: &Arc<Self>,
        need: Need,
    ) -> std::result::Result<Turn<J>, Closing> {
        let gate = Arc::new(Gate::default());
        self.enter(need, Who::Thread(Arc::clone(&gate))).map_err(|_| Closing)?;
        Ok(self.turn(gate.wait()?))
    }

    /// Has a job carried out when it is its turn; `None` if it was refused.
    pub(super) fn enter_job(self: &Arc<Self>, need: Need, job: J) -> Option<Ticket> {
        match self.enter(need, Who::Job(job)) {
            Ok(ticket) => Some(ticket),
            Err(who) => {
                refuse(who);
                None
            }
        }
    }

    /// Waits until a batch was let in, or taken back.
    pub(super) fn wait_inside(&self, ticket: Ticket) {
        let mut state = self.lock();
        while state.turns.is_outside(ticket) {
            state = self.progress.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes a job back that was not let in yet.
    pub(super) fn cancel(self: &Arc<Self>, ticket: Ticket) {
        let mut state = self.lock();
        let Some((who, going)) = state.turns.cancel(ticket) else { return };
        self.start(state, going);
        // Its answer is dropped: nobody waits for it.
        drop(who);
    }

    /// Nothing begins any more; waits for what has begun. What is left at the deadline.
    pub(super) fn close(self: &Arc<Self>, deadline: Duration) -> Load {
        let end = Instant::now() + deadline;
        let mut state = self.lock();
        state.closing = true;
        let refused = state.turns.cancel_all();
        drop(state);
        self.progress.notify_all();
        self.work.notify_all();
        refused.into_iter().for_each(refuse);
        let mut state = self.lock();
        while state.turns.inside() + state.solos + state.threads > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.progress.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.load()
    }

    pub(super) fn load(&self) -> Load {
        self.lock().load()
    }

    // ---- within ----

    fn enter(self: &Arc<Self>, need: Need, who: Who<J>) -> std::result::Result<Ticket, Who<J>> {
        let mut state = self.lock();
        if state.closing {
            return Err(who);
        }
        let (ticket, going) = state.turns.enter(need, who);
        self.start(state, going);
        Ok(ticket)
    }

    fn change(self: &Arc<Self>, change: impl FnOnce(&mut Turns<Who<J>>) -> Vec<(Ticket, Who<J>)>) {
        let mut state = self.lock();
        let going = change(&mut state.turns);
        self.start(state, going);
        self.progress.notify_all();
    }

    /// Tells those whose turn it is.
    fn start(self: &Arc<Self>, mut state: MutexGuard<'_, State<J>>, going: Vec<(Ticket, Who<J>)>) {
        let mut gates = Vec::new();
        for (ticket, who) in going {
            match who {
                Who::Thread(gate) => gates.push((gate, ticket)),
                Who::Job(job) => state.going.push_back((self.turn(ticket), job)),
            }
        }
        let wanted = state.going.len().min(self.shards);
        let starts = wanted.saturating_sub(state.sleeping).min(self.shards - state.threads);
        state.threads += starts;
        let has_jobs = !state.going.is_empty();
        drop(state);
        if has_jobs {
            self.work.notify_all();
        }
        gates.into_iter().for_each(|(gate, ticket)| gate.open(Ok(ticket)));
        (0..starts).for_each(|_| self.start_thread());
    }

    fn start_thread(self: &Arc<Self>) {
        let queue = Arc::clone(self);
        if let Err(error) = (self.spawn)(Box::new(move || queue.work(true))) {
            tracing::warn!(%error, "no thread for batches; the caller's is used");
            self.work(false);
        }
    }

    /// What a thread of the library does; `waits` for work, or ends without.
    fn work(self: &Arc<Self>, waits: bool) {
        let mut ready = Vec::new();
        loop {
            match self.next(ready.is_empty(), waits) {
                Next::Job(turn, job) => {
                    let advanced = catch_unwind(AssertUnwindSafe(|| job.advance(turn)));
                    match advanced {
                        Ok(Advanced::More(job, turn)) => {
                            submit::<J>(&mut ready);
                            self.lock().going.push_back((turn, job));
                        }
                        Ok(Advanced::Ready(one)) => ready.push(one),
                        // Its answer was given when it was dropped.
                        Err(_) => tracing::error!("a batch panicked"),
                    }
                    if ready.len() >= READY_MAX {
                        submit::<J>(&mut ready);
                    }
                }
                Next::Nothing => submit::<J>(&mut ready),
                Next::End => break,
            }
        }
        self.progress.notify_all();
    }

    /// What a thread does next; one that has nothing to submit may end, after a while if
    /// it `waits`.
    fn next(&self, may_end: bool, waits: bool) -> Next<J> {
        let mut state = self.lock();
        let waits = waits && !self.idle.is_zero();
        if may_end && waits && state.going.is_empty() && !state.closing {
            state.sleeping += 1;
            let idle = |state: &mut State<J>| state.going.is_empty() && !state.closing;
            let waited = self.work.wait_timeout_while(state, self.idle, idle);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.sleeping -= 1;
        }
        match state.going.pop_front() {
            Some((turn, job)) => Next::Job(turn, job),
            None if may_end => {
                // Under the same lock: whoever brings a job now starts another thread.
                state.threads -= 1;
                Next::End
            }
            None => Next::Nothing,
        }
    }

    fn turn(self: &Arc<Self>, ticket: Ticket) -> Turn<J> {
        Turn { queue: Arc::clone(self), ticket }
    }

    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<J: Job> State<J> {
    fn load(&self) -> Load {
        let (ops, bytes) = self.turns.load();
        Load { batches: self.turns.inside(), solos: self.solos, ops, bytes, threads: self.threads }
    }
}

enum Next<J: Job> {
    Job(Turn<J>, J),
    Nothing,
    End,
}

fn submit<J: Job>(ready: &mut Vec<J::Ready>) {
    if !ready.is_empty() {
        J::submit(std::mem::take(ready));
    }
}

fn refuse<J: Job>(who: Who<J>) {
    match who {
        Who::Thread(gate) => gate.open(Err(Closing)),
        Who::Job(job) => job.refuse(),
    }
}

#[cfg(all(test, shuttle))]
mod shuttle_tests;
#[cfg(all(test, not(shuttle)))]
mod tests;
