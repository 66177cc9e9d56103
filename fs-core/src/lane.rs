//! The lanes: how sync requests travel to the fence.
//!
//! A request that finds the device idle and nobody to wait for is carried by
//! its own thread, alone: the *solo lane*. Requests that come while a fence
//! runs, or while one is held for writers that are about to return, leave
//! together: the *group lane*. Both are one piece of code, because a solo
//! request is a group of one that never waited.
//!
//! Architecture invariants:
//! - A waiting request is a parked completion, never a parked thread. The
//!   thread that brings a request to an idle lane becomes the leader and
//!   carries groups until none is pending; no thread is kept for it. A front-end
//!   whose threads must not block takes that [`Duty`] and runs it elsewhere. Threads of
//!   a program that uses the library hand the lead over (`handover`).
//! - At most one group is under way at a time, so completions of an earlier
//!   group are called before a later one leaves. (Requests past a full queue are
//!   carried beside it, each by the thread that brought it.)
//! - Every completion is called exactly once, also when a fence panics.
//! - When to wait is decided by [`policy`], which is pure.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use self::handover::Waiter;
use self::policy::{CohortPolicy, Decision, Nanos, PolicyConfig, WriterId};
use self::stats::LaneStats;
pub use self::stats::LaneStatus;
use crate::error::{Errno, Result};
use crate::fence::{FenceOutcome, GroupFence, SyncRequest, Way};
use crate::platform::Backing;
use crate::sync::{Condvar, Mutex, MutexGuard};

mod ahead;
mod duty;
mod handover;
pub mod policy;
mod stats;

pub use self::duty::Duty;

/// Called with the result of a sync request, from the leader's thread.
pub type Completion = Box<dyn FnOnce(Result<()>) + Send>;

/// Limits and waiting rules of the lanes.
#[derive(Debug, Clone)]
pub struct LaneConfig {
    /// When a group waits, and for whom.
    pub policy: PolicyConfig,
    /// Requests that may be parked at once; one more is carried out alone by
    /// the thread that brings it, which slows its bringer down: back-pressure.
    pub queue_ops_max: usize,
    /// A planted bug, so that tests of durability can be seen to fail: one
    /// request in this many is answered at once, without a fence.
    pub lie_one_in: Option<u64>,
}

impl Default for LaneConfig {
    fn default() -> Self {
        Self { policy: PolicyConfig::default(), queue_ops_max: 65_536, lie_one_in: None }
    }
}

/// The lanes of one engine.
pub struct Lanes<B: Backing> {
    fence: Arc<dyn GroupFence<B>>,
    config: LaneConfig,
    started: Instant,
    state: Mutex<State<B>>,
    /// Wakes the leader while it holds a group.
    leave: Condvar,
    /// Wakes who waits for the lanes to be empty.
    empty: Condvar,
    /// Takes duties off the threads that bring requests, if somebody does.
    elsewhere: OnceLock<Elsewhere<B>>,
}

/// Runs a duty on a thread that may block.
pub type Elsewhere<B> = Box<dyn Fn(Duty<B>) + Send + Sync>;

struct State<B: Backing> {
    policy: CohortPolicy,
    pending: VecDeque<Parked<B>>,
    /// A thread carries groups at the moment.
    leading: bool,
    /// Requests that are carried past the full queue at the moment.
    alone: usize,
    /// Requests whose files are written before they are parked.
    ahead: usize,
    /// The leader holds a group back.
    holding: bool,
    /// Threads that wait for requests of their own, longest first: they may lead.
    waiters: VecDeque<Arc<Waiter>>,
    stats: LaneStats,
}

struct Parked<B: Backing> {
    request: SyncRequest<B>,
    done: Completion,
}

/// What is left to do for requests that were brought.
struct Brought<B: Backing> {
    /// Nobody led: it is for the bringer to lead, or to have somebody do it.
    leads: bool,
    /// Requests that the queue had no room for.
    beyond: Vec<Parked<B>>,
}

impl<B: Backing> Lanes<B> {
    /// Lanes that lead to `fence`.
    pub fn new(fence: Arc<dyn GroupFence<B>>, config: LaneConfig) -> Self {
        let state = State {
            policy: CohortPolicy::new(config.policy.clone()),
            pending: VecDeque::new(),
            leading: false,
            alone: 0,
            ahead: 0,
            holding: false,
            waiters: VecDeque::new(),
            stats: LaneStats::new(),
        };
        Self {
            fence,
            config,
            started: Instant::now(),
            state: Mutex::new(state),
            leave: Condvar::new(),
            empty: Condvar::new(),
            elsewhere: OnceLock::new(),
        }
    }

    /// From now on nobody leads who only brought a request: `run` is given the duty.
    /// The first call counts.
    pub fn lead_elsewhere(&self, run: Elsewhere<B>) {
        let _ = self.elsewhere.set(run);
    }

    /// Makes durable what is requested and then calls `done`. Returns at once if
    /// another thread leads, if duties are run elsewhere, or if the request takes long; else
    /// the calling thread leads until nothing is pending.
    pub fn submit(
        self: &Arc<Self>,
        writer: WriterId,
        request: impl Into<SyncRequest<B>>,
        done: Completion,
    ) {
        let mut order = Some((request.into(), done));
        if let Some((request, done)) = order.take_if(|(request, _)| request.takes_long()) {
            order = self.submit_later(writer, request, done);
        }
        let Some((request, done)) = order else { return };
        if let Some(duty) = self.submit_deferred(writer, request, done) {
            self.see_to(duty);
        }
    }

    /// Runs a duty, elsewhere if somebody takes it.
    fn see_to(&self, duty: Duty<B>) {
        match self.elsewhere.get() {
            Some(run) => run(duty),
            None => duty.run(&mut || {}),
        }
    }

    /// As [`Self::submit`], but never blocks: what the calling thread would have to
    /// do is returned, for a thread that may block.
    pub fn submit_deferred(
        self: &Arc<Self>,
        writer: WriterId,
        request: impl Into<SyncRequest<B>>,
        done: Completion,
    ) -> Option<Duty<B>> {
        let parked = Parked { request: request.into(), done };
        let Brought { leads, beyond } = self.park(writer, [parked], None);
        if leads {
            Some(Duty::lead(Arc::clone(self)))
        } else if beyond.is_empty() {
            None
        } else {
            Some(Duty::carry_alone(Arc::clone(self), beyond))
        }
    }

    /// Parks requests as far as there is room, with the thread that waits for them.
    fn park(
        &self,
        writer: WriterId,
        requests: impl IntoIterator<Item = Parked<B>>,
        waiter: Option<Arc<Waiter>>,
    ) -> Brought<B> {
        let (mut beyond, mut lies) = (Vec::new(), Vec::new());
        let mut keeps_others_out = false;
        let mut state = self.lock();
        let now = self.now();
        for parked in requests {
            state.stats.requests += 1;
            if self.config.lie_one_in.is_some_and(|n| state.stats.requests.is_multiple_of(n)) {
                lies.push(parked.done);
            } else if state.pending.len() >= self.config.queue_ops_max {
                state.stats.overflows += 1;
                state.alone += 1;
                beyond.push(parked);
            } else {
                keeps_others_out |= parked.request.keeps_others_out;
                state.pending.push_back(parked);
                state.policy.arrived(writer, now);
            }
        }
        state.waiters.extend(waiter);
        let leads = !state.leading && !state.pending.is_empty();
        state.leading |= leads;
        // The newcomer looks for the leader whether the group is complete, so
        // that the leader is woken once for a group and not once a request.
        if state.holding && (keeps_others_out || state.policy.decide(now) == Decision::Go) {
            state.holding = false;
            self.leave.notify_one();
        }
        drop(state);
        lies.into_iter().for_each(|done| complete(done, Ok(())));
        Brought { leads, beyond }
    }

    /// Waits until no request is parked or under way; false after `deadline`.
    pub fn drain(&self, deadline: Duration) -> bool {
        let state = self.lock();
        let busy = |state: &mut State<B>| {
            let is_carrying = state.leading || state.alone > 0 || state.ahead > 0;
            is_carrying || !state.pending.is_empty()
        };
        let (_state, timeout) = self
            .empty
            .wait_timeout_while(state, deadline, busy)
            .unwrap_or_else(PoisonError::into_inner);
        !timeout.timed_out()
    }

    /// Counts a request that was durable already and needed no fence.
    pub fn count_skipped(&self) {
        let mut state = self.lock();
        state.stats.requests += 1;
        state.stats.skipped += 1;
    }

    /// Figures since the start, for `lanefs status`.
    pub fn status(&self) -> LaneStatus {
        let state = self.lock();
        state.stats.status(state.pending.len(), state.policy.fence_estimate_ns())
    }

    /// Whether the fence can make everything durable without being told of what.
    pub fn commits_everything(&self) -> bool {
        self.fence.commits_everything()
    }

    /// Name of the fence's mechanism.
    pub fn mechanism(&self) -> &'static str {
        self.fence.mechanism()
    }

    fn lead(&self, after_group: &mut dyn FnMut()) {
        while let Some(group) = self.next_group() {
            self.carry(group);
            after_group();
        }
    }

    /// The next group, held as the policy says; `None`, and no leader any more,
    /// when nothing is pending. What the last group has made durable is not held, nor
    /// what keeps those out for whom it would be held.
    fn next_group(&self) -> Option<Vec<Parked<B>>> {
        let mut state = self.lock();
        let mut hold_start = None;
        let mut durable;
        loop {
            if state.pending.is_empty() {
                state.leading = false;
                self.empty.notify_all();
                return None;
            }
            durable = state.pending.iter().take_while(|parked| self.is_durable(parked)).count();
            let now = self.now();
            let go = durable > 0 || state.pending.iter().any(|p| p.request.keeps_others_out);
            let decision = if go { Decision::Go } else { state.policy.decide(now) };
            let Decision::HoldUntil(until) = decision else { break };
            hold_start.get_or_insert(now);
            state.holding = true;
            let wait = Duration::from_nanos(until.saturating_sub(now));
            (state, _) =
                self.leave.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner);
            if !std::mem::take(&mut state.holding) {
                break;
            }
        }
        let ops = if durable > 0 { durable } else { state.pending.len() };
        let ops = ops.min(self.config.policy.group_ops_max);
        let now = self.now();
        state.policy.departed(ops, now);
        let hold = hold_start.map_or(0, |start| now.saturating_sub(start));
        state.stats.departed(ops, hold);
        Some(state.pending.drain(..ops).collect())
    }

    fn carry(&self, group: Vec<Parked<B>>) {
        let (requests, completions): (Vec<_>, Vec<_>) =
            group.into_iter().map(|parked| (parked.request, parked.done)).unzip();
        let outcome = self.run_fence(&requests);
        {
            let mut state = self.lock();
            let took = u64::try_from(outcome.service.as_nanos()).unwrap_or(u64::MAX);
            // A group that needed nothing says nothing about what a fence takes.
            let known = state.policy.fence_estimate_ns();
            let service = known.filter(|_| outcome.way == Way::Nothing).unwrap_or(took);
            note_pace(&requests, &outcome, known.map(Duration::from_nanos));
            let now = self.now();
            state.policy.released(service, now);
            state.stats.finished(&outcome);
        }
        for (done, result) in completions.into_iter().zip(outcome.results) {
            complete(done, result);
        }
    }

    /// Requests past the full queue, beside the group that may be under way.
    fn carry_alone(&self, mut requests: Vec<Parked<B>>) {
        while !requests.is_empty() {
            let ops = requests.len().min(self.config.policy.group_ops_max.max(1));
            self.carry_group_alone(requests.drain(..ops));
        }
    }

    fn carry_group_alone(&self, group: impl Iterator<Item = Parked<B>>) {
        let (requests, completions): (Vec<_>, Vec<_>) =
            group.map(|parked| (parked.request, parked.done)).unzip();
        let outcome = self.run_fence(&requests);
        {
            let mut state = self.lock();
            state.stats.finished(&outcome);
            state.alone -= requests.len();
            self.empty.notify_all();
        }
        for (done, result) in completions.into_iter().zip(outcome.results) {
            complete(done, result);
        }
    }

    /// The fence's outcome; a panic in it fails this group and nobody else.
    fn run_fence(&self, requests: &[SyncRequest<B>]) -> FenceOutcome {
        let start = Instant::now();
        match catch_unwind(AssertUnwindSafe(|| self.fence.run(requests))) {
            Ok(outcome) if outcome.results.len() == requests.len() => outcome,
            _ => {
                tracing::error!(ops = requests.len(), "a fence panicked; its group gets EIO");
                FenceOutcome {
                    results: vec![Err(Errno::IO); requests.len()],
                    way: Way::Nothing,
                    service: start.elapsed(),
                }
            }
        }
    }

    fn is_durable(&self, parked: &Parked<B>) -> bool {
        self.fence.is_durable(&parked.request)
    }

    fn now(&self) -> Nanos {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has the files of a group remember how long it took.
fn note_pace<B: Backing>(
    requests: &[SyncRequest<B>],
    outcome: &FenceOutcome,
    usual: Option<Duration>,
) {
    for (request, result) in requests.iter().zip(&outcome.results) {
        if let (Some(ahead), Ok(())) = (&request.ahead, result) {
            ahead.synced(outcome.service, usual);
        }
    }
}

/// Calls a completion; its panic must not keep the others from being called.
fn complete(done: Completion, result: Result<()>) {
    if catch_unwind(AssertUnwindSafe(|| done(result))).is_err() {
        tracing::error!("a completion panicked");
    }
}

#[cfg(all(test, shuttle))]
mod shuttle_tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;
    use crate::platform::sim::SimBacking;

    const THREADS: usize = 4;
    const REQUESTS: usize = 3;

    /// A fence that gives way in its middle, and is never entered twice.
    struct GivesWay(AtomicBool);

    impl GroupFence<SimBacking> for GivesWay {
        fn run(&self, group: &[SyncRequest<SimBacking>]) -> FenceOutcome {
            assert!(!self.0.swap(true, Ordering::SeqCst), "one group at a time");
            shuttle::thread::yield_now();
            self.0.store(false, Ordering::SeqCst);
            let results = vec![Ok(()); group.len()];
            FenceOutcome { results, way: Way::Nothing, service: Duration::from_micros(100) }
        }

        fn mechanism(&self) -> &'static str {
            "gives way"
        }
    }

    /// In any order of threads every request is answered once, groups do not overlap, and
    /// whoever waits for the lanes to be empty is woken.
    #[test]
    fn shuttle_every_request_is_answered_once() {
        let check = || {
            // No hold: nothing times out here.
            let policy =
                PolicyConfig { hold_ratio_max: 0.0, round_trip_ns: 0, ..PolicyConfig::default() };
            let config = LaneConfig { policy, ..LaneConfig::default() };
            let lanes = Arc::new(Lanes::new(Arc::new(GivesWay(AtomicBool::new(false))), config));
            let answers = Arc::new(AtomicUsize::new(0));
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let (lanes, answers) = (Arc::clone(&lanes), Arc::clone(&answers));
                    shuttle::thread::spawn(move || {
                        let own = Arc::new(AtomicUsize::new(0));
                        let done = || {
                            let (answers, own) = (Arc::clone(&answers), Arc::clone(&own));
                            Box::new(move |_| {
                                answers.fetch_add(1, Ordering::SeqCst);
                                own.fetch_add(1, Ordering::SeqCst);
                            }) as Completion
                        };
                        let all = (0..REQUESTS - 1).map(|_| (SyncRequest::everything(), done()));
                        let relieve = || {
                            let lanes = Arc::clone(&lanes);
                            drop(shuttle::thread::spawn(move || lanes.go_on_leading()));
                            true
                        };
                        let waits = thread % 2 == 0;
                        let before = own.load(Ordering::SeqCst);
                        lanes.submit_own(thread as u64, all.collect(), waits, &relieve);
                        let now = own.load(Ordering::SeqCst);
                        assert!(!waits || now - before == REQUESTS - 1, "it has waited");
                        lanes.submit(thread as u64, SyncRequest::everything(), done());
                    })
                })
                .collect();
            assert!(lanes.drain(Duration::from_secs(1000)));
            threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
            assert!(lanes.drain(Duration::from_secs(1000)));
            assert_eq!(answers.load(Ordering::SeqCst), THREADS * REQUESTS);
        };
        shuttle::check_random(check, 2000);
        shuttle::check_pct(check, 2000, 3);
    }
}
