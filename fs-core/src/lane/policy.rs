//! When a group leaves: the waiting policy of the group lane, a pure function of injected time.
//!
//! **Cohort hold.** One fence costs the same for one request as for a hundred. Writers that loop on
//! sync come back a moment after they were released, and a group that leaves the instant the device
//! is free misses them: the loop falls apart into two convoys that each see every other fence. So
//! the policy remembers how soon each writer usually returns, and keeps the group back for those
//! that are due within a part of the fence time, as long as that is predicted to pay:
//!
//! - `F` is the fence time, averaged with weight 7/8. A writer's *return gap* runs from its release
//!   to its next request; `g` is its average with weight 3/4, `d` its mean deviation likewise. Both
//!   are kept twice, for every other return: an operation often has two syncs (the file, then its
//!   directory), and what it does after the one takes longer than what it does after the other.
//! - A writer that was released is *due* at `released + 1.5 (g + d)`: nearly always back by then,
//!   whether it is as regular as a clock or not; most often it is back after two thirds of that.
//!   It is *expected* until then if `g` is within the longest hold ever possible, and due at the
//!   end of that if it would be due later.
//! - The *budget* `max(r F, 3 R)` runs from the moment the device got free, once for the whole
//!   group. Nobody is waited for who is due after it.
//! - Holding until the last of `k` expected writers is likely back saves each of them a fence of
//!   its own. It delays the end of the next fence for all who will wait for that end: those who
//!   wait now and all who are expected. The group is held until the due time with the highest
//!   positive `gain = k F - (waiting + expected) * (likely - now)`. (In a loop of `W` writers that
//!   come back one after the other, over the time `S` in all, `W` waits pay for `W` fences: one
//!   group for all beats two convoys exactly if `S < F`.)
//!
//! The longest hold is a matter of *trust*, because where many writers queue for few processors
//! their returns are spread over a large part of `F`, and a short hold splits them into convoys.
//!
//! - A due time is a promise. If at most a quarter of those that ended in one round, from release to
//!   release, were *broken*, and some were *kept*, `r` grows by `alpha`, up to 1. This goes by what
//!   the writers do and not by what was held for them, so building up trust costs nothing.
//! - If more were broken, `r` is `alpha` again; so it is if the holds of late, each booked with the
//!   gain it had in the end and with half the weight of the one after it, have not paid.
//!
//! What holds whatever the writers do: a group waits only for somebody else who is known to come
//! back, so a lone writer never waits; no hold ends after the budget, which is never more than
//! `max(F, 3 R)`; a hold of `r F` for promises that are then broken has `r / alpha - 1` rounds of
//! kept ones before it, so those holds take no more than `max(alpha F, 3 R)` a group on average; a
//! writer that leaves is waited for until its due time and not after, because only another release
//! sets a new one.

use std::collections::{BTreeSet, HashMap, VecDeque};

/// Nanoseconds since an arbitrary start; time is injected, the policy never reads a clock.
pub type Nanos = u64;

/// Who brings sync requests, predicted by its own habits. (A front-end passes the caller's thread.)
pub type WriterId = u64;

/// The walk over the expected writers is repeated only after this part of them has arrived, so that
/// a group of `n` costs `O(n)` steps and not `O(n^2)`. Up to this many expected writers every
/// arrival gets its own walk, and beyond that the waiting count lags by at most 1/32.
const WALKED_PER_ARRIVAL: usize = 32;

/// The budget grows as long as no more than one promise in this many is broken.
const PROMISES_PER_BROKEN: usize = 4;

/// A return gap counts at most this many times the average of its writer: one pause in a tight loop
/// must not make the writer unpredictable for the next thirty groups.
const GAP_OUTLIER_FACTOR: Nanos = 8;

/// The settings of a [`CohortPolicy`].
#[derive(Debug, Clone)]
pub struct PolicyConfig {
    /// alpha: without trust a hold never exceeds this fraction of the fence time ...
    pub hold_ratio_max: f64,
    /// ... and with trust, which adds alpha for each round in which writers came back as predicted,
    /// it never exceeds this one ...
    pub hold_ratio_trusted_max: f64,
    /// R: ... or three of these round trips, if that is more.
    pub round_trip_ns: Nanos,
    /// A group this large leaves at once.
    pub group_ops_max: usize,
    /// Remembered writers; the longest unseen are forgotten. Writers with a request under way are
    /// always remembered.
    pub writers_max: usize,
    /// `None` means cohort hold. `Some(w)` is a fixed window, chosen explicitly: every group is held
    /// until `w` after its first request arrived or until it has `group_ops_max` requests.
    pub window_ns: Option<Nanos>,
}

impl Default for PolicyConfig {
    fn default() -> Self {
        Self {
            hold_ratio_max: 0.25,
            hold_ratio_trusted_max: 1.0,
            round_trip_ns: 20_000,
            group_ops_max: 4096,
            writers_max: 4096,
            window_ns: None,
        }
    }
}

/// What the leader of a pending group does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Leave now.
    Go,
    /// Ask again at this time, or as soon as another request arrives. Always later than the time
    /// passed to [`CohortPolicy::decide`].
    HoldUntil(Nanos),
}

/// A request that is waiting for its group to leave.
#[derive(Debug)]
struct Pending {
    writer: WriterId,
    arrived: Nanos,
}

/// How soon a writer returns after its release.
#[derive(Debug, Default, Clone, Copy)]
struct ReturnGap {
    mean_ns: Nanos,
    /// The average distance of a gap from `mean_ns`.
    deviation_ns: Nanos,
}

impl ReturnGap {
    fn observe(&mut self, gap_ns: Nanos) {
        let gap_ns = gap_ns.min(self.mean_ns.max(1).saturating_mul(GAP_OUTLIER_FACTOR));
        self.deviation_ns = moving_average(self.deviation_ns, gap_ns.abs_diff(self.mean_ns), 4);
        self.mean_ns = moving_average(self.mean_ns, gap_ns, 4);
    }

    /// When a writer released at `now` is nearly always back; `None` if usually not before `horizon`.
    fn due(self, now: Nanos, horizon: Nanos) -> Option<Nanos> {
        let likely_ns = self.mean_ns.saturating_add(self.deviation_ns);
        let due = now.saturating_add(likely_ns).saturating_add(likely_ns / 2);
        (now.saturating_add(self.mean_ns) <= horizon).then(|| due.min(horizon))
    }
}

/// What is remembered of one writer.
#[derive(Debug, Default)]
struct Habit {
    /// Requests pending or in the group under way. The writer is *absent* while this is zero.
    outstanding: usize,
    /// When its last request was released. Set exactly while the writer is absent.
    released_at: Option<Nanos>,
    /// Its gap before the next return and the one before the return after that; unknown until it
    /// has returned once, and from then on the one stands for the other until that is known too.
    gaps: Option<[ReturnGap; 2]>,
    /// Its key in `CohortPolicy::expected`, unless the time has passed.
    due: Option<Nanos>,
}

impl Habit {
    fn observe_gap(&mut self, gap_ns: Nanos) {
        let Some([next, after_next]) = &mut self.gaps else {
            self.gaps = Some([ReturnGap { mean_ns: gap_ns, deviation_ns: 0 }; 2]);
            return;
        };
        next.observe(gap_ns);
        std::mem::swap(next, after_next);
    }
}

/// A hold that is still trusted without another walk.
#[derive(Debug)]
struct Hold {
    until: Nanos,
    arrivals_left: usize,
}

/// Decides when the pending group of one lane leaves. See the module text for the rule.
///
/// Calls follow the life of a group: any number of [`arrived`](Self::arrived) at any time;
/// [`decide`](Self::decide) after each while the device is idle and at the time of the last
/// [`Decision::HoldUntil`]; on [`Decision::Go`] one [`departed`](Self::departed), and one
/// [`released`](Self::released) when its fence is over.
///
/// Time may stand still. A time before one already seen counts as that one.
#[derive(Debug)]
pub struct CohortPolicy {
    config: PolicyConfig,
    /// The latest time seen.
    clock: Nanos,
    fence_ns: Option<Nanos>,
    /// r: the part of the fence time that the budget may be, by trust.
    hold_ratio: f64,
    /// Since the last release: expected writers that came by their due time, and that did not.
    promises_kept: usize,
    promises_broken: usize,
    /// When the pending group was first held, and the number of its requests then.
    hold_start: Option<(Nanos, usize)>,
    /// What holds gained of late, in time that requests wait.
    hold_balance_ns: i128,
    /// When the device got free.
    freed_at: Nanos,
    /// No hold ends later; set when the device gets free.
    budget_end: Nanos,
    pending: VecDeque<Pending>,
    /// The writers of the group under way, one entry for each request.
    in_flight: Vec<WriterId>,
    writers: HashMap<WriterId, Habit>,
    /// Absent writers by release time: the order in which they are forgotten.
    absent: BTreeSet<(Nanos, WriterId)>,
    /// Absent writers that may be waited for, by due time. Times that have passed are dropped at the
    /// next release.
    expected: BTreeSet<(Nanos, WriterId)>,
    hold: Option<Hold>,
}

impl CohortPolicy {
    /// A policy that knows no writer and no fence time yet, so its first group leaves at once.
    pub fn new(config: PolicyConfig) -> Self {
        Self {
            hold_ratio: config.hold_ratio_max,
            config,
            clock: 0,
            fence_ns: None,
            promises_kept: 0,
            promises_broken: 0,
            hold_start: None,
            hold_balance_ns: 0,
            freed_at: 0,
            budget_end: 0,
            pending: VecDeque::new(),
            in_flight: Vec::new(),
            writers: HashMap::new(),
            absent: BTreeSet::new(),
            expected: BTreeSet::new(),
            hold: None,
        }
    }

    /// A sync request of `writer` was queued. It is pending until [`departed`](Self::departed)
    /// counts it. One writer may have several requests pending; only its first one after a release
    /// says something about its return gap.
    pub fn arrived(&mut self, writer: WriterId, now: Nanos) {
        let now = self.advance(now);
        self.pending.push_back(Pending { writer, arrived: now });
        if let Some(hold) = &mut self.hold {
            hold.arrivals_left = hold.arrivals_left.saturating_sub(1);
        }
        let habit = self.writers.entry(writer).or_default();
        habit.outstanding += 1;
        if let Some(released_at) = habit.released_at.take() {
            habit.observe_gap(now - released_at);
            self.absent.remove(&(released_at, writer));
        }
        if let Some(due) = habit.due.take()
            && self.expected.remove(&(due, writer))
        {
            let promises =
                if now <= due { &mut self.promises_kept } else { &mut self.promises_broken };
            *promises += 1;
        }
        self.forget_surplus();
    }

    /// The device is idle and at least one request is pending: leave now, or wait until when?
    ///
    /// Takes `O(log writers)` steps plus, amortised over the arrivals, at most a constant number of
    /// steps over the expected writers.
    pub fn decide(&mut self, now: Nanos) -> Decision {
        let now = self.advance(now);
        let Some(first) = self.pending.front() else { return Decision::Go };
        if self.pending.len() >= self.config.group_ops_max {
            return Decision::Go;
        }
        let until = match self.config.window_ns {
            Some(window_ns) => Some(first.arrived.saturating_add(window_ns)),
            None => self.cohort_hold(now),
        };
        let Some(until) = until.filter(|&until| until > now) else { return Decision::Go };
        self.hold_start.get_or_insert((now, self.pending.len()));
        Decision::HoldUntil(until)
    }

    /// The first `ops` pending requests, in order of arrival, leave as one group.
    pub fn departed(&mut self, ops: usize, now: Nanos) {
        let now = self.advance(now);
        self.hold = None;
        let ops = ops.min(self.pending.len());
        if let Some((start, waiting)) = self.hold_start.take() {
            let gain_ns = self.gain_ns(ops.saturating_sub(waiting), now - start);
            self.hold_balance_ns = self.hold_balance_ns / 2 + gain_ns;
        }
        self.in_flight.extend(self.pending.drain(..ops).map(|request| request.writer));
    }

    /// The group that left is durable, or failed, and its writers are being released;
    /// `service_ns` is how long the fence took. The device is free from here on.
    pub fn released(&mut self, service_ns: Nanos, now: Nanos) {
        let now = self.advance(now);
        self.hold = None;
        let fence_ns = self.fence_ns.map_or(service_ns, |f| moving_average(f, service_ns, 8));
        self.fence_ns = Some(fence_ns);
        self.judge_trust(now);
        self.freed_at = now;
        self.budget_end = now.saturating_add(self.budget_ns(self.hold_ratio));
        let horizon = now.saturating_add(self.budget_ns(self.config.hold_ratio_trusted_max));
        for writer in self.in_flight.drain(..) {
            let Some(habit) = self.writers.get_mut(&writer) else { continue };
            habit.outstanding = habit.outstanding.saturating_sub(1);
            if habit.outstanding > 0 {
                continue;
            }
            habit.released_at = Some(now);
            self.absent.insert((now, writer));
            habit.due = habit.gaps.and_then(|[next, _]| next.due(now, horizon));
            self.expected.extend(habit.due.map(|due| (due, writer)));
        }
        self.forget_surplus();
    }

    /// The average fence time, `None` before the first group. For status output.
    pub fn fence_estimate_ns(&self) -> Option<Nanos> {
        self.fence_ns
    }

    /// The longest that the next group may be held. For status output.
    pub fn hold_budget_ns(&self) -> Nanos {
        self.budget_ns(self.hold_ratio)
    }

    /// How many writers are remembered. For status output.
    pub fn writers_remembered(&self) -> usize {
        self.writers.len()
    }

    /// Moves the clock, which never goes back.
    fn advance(&mut self, now: Nanos) -> Nanos {
        self.clock = self.clock.max(now);
        self.clock
    }

    /// `max(hold_ratio F, 3 R)`. The cast saturates, and takes a ratio that is no number as zero.
    fn budget_ns(&self, hold_ratio: f64) -> Nanos {
        let share = (hold_ratio * self.fence_ns.unwrap_or(0) as f64) as Nanos;
        share.max(self.config.round_trip_ns.saturating_mul(3))
    }

    /// What it is worth that `joiners` came into the pending group while it was held: a fence for
    /// each of them, less the delay of all who wait for the end of the next fence.
    fn gain_ns(&self, joiners: usize, hold_ns: Nanos) -> i128 {
        let delayed = self.pending.len() + self.expected.len();
        let fence_ns = self.fence_ns.unwrap_or(0);
        joiners as i128 * i128::from(fence_ns) - delayed as i128 * i128::from(hold_ns)
    }

    /// Trust is built up step by step and lost at once. A step is as long as the longest hold without
    /// trust, so that a long hold for broken promises takes no more time than a short one in each
    /// of the rounds before it would have.
    fn judge_trust(&mut self, now: Nanos) {
        while self.expected.first().is_some_and(|&(due, _)| due <= now) {
            self.expected.pop_first();
            self.promises_broken += 1;
        }
        let kept = std::mem::take(&mut self.promises_kept);
        let broken = std::mem::take(&mut self.promises_broken);
        let PolicyConfig { hold_ratio_max, hold_ratio_trusted_max, .. } = self.config;
        if broken.saturating_mul(PROMISES_PER_BROKEN) > kept + broken || self.hold_balance_ns < 0 {
            self.hold_ratio = hold_ratio_max;
            self.hold_balance_ns = 0;
        } else if kept > 0 {
            let grown = self.hold_ratio + hold_ratio_max;
            self.hold_ratio = grown.min(hold_ratio_trusted_max.max(hold_ratio_max));
        }
    }

    /// Until when holding pays, from the last walk where that is recent enough.
    fn cohort_hold(&mut self, now: Nanos) -> Option<Nanos> {
        if now >= self.budget_end {
            return None;
        }
        if let Some(hold) = &mut self.hold
            && hold.arrivals_left > 0
            && let Some(&(due, _)) = self.expected.range(..=(hold.until, WriterId::MAX)).next_back()
            && due > now
        {
            // The writers that were due later have arrived: nobody is left to wait for after `due`.
            hold.until = due;
            return Some(due);
        }
        let (until, walked) = self.walk(now)?;
        self.hold = Some(Hold { until, arrivals_left: 1 + walked / WALKED_PER_ARRIVAL });
        Some(until)
    }

    /// The due time with the best positive gain, and the number of writers looked at.
    fn walk(&self, now: Nanos) -> Option<(Nanos, usize)> {
        let window = (now.checked_add(1)?, WriterId::MIN)..=(self.budget_end, WriterId::MAX);
        let joiners_max = self.config.group_ops_max.saturating_sub(self.pending.len());
        let (mut best_gain_ns, mut best, mut joiners) = (0, None, 0);
        for &(due, _) in self.expected.range(window).take(joiners_max) {
            joiners += 1;
            // Whoever was released before the device got free is likely back earlier than this.
            let likely = self.freed_at + (due - self.freed_at) / 3 * 2;
            let gain_ns = self.gain_ns(joiners, likely.saturating_sub(now));
            if gain_ns > best_gain_ns {
                (best_gain_ns, best) = (gain_ns, Some(due));
            }
        }
        best.map(|until| (until, joiners))
    }

    /// Forgets the longest absent writers until no more than `writers_max` are remembered, or only
    /// those with a request under way.
    fn forget_surplus(&mut self) {
        while self.writers.len() > self.config.writers_max {
            let Some((_, writer)) = self.absent.pop_first() else { return };
            if let Some(due) = self.writers.remove(&writer).and_then(|habit| habit.due) {
                self.expected.remove(&(due, writer));
            }
        }
    }
}

/// `average` moved towards `sample` by one part in `parts`, without overflow.
fn moving_average(average: Nanos, sample: Nanos, parts: Nanos) -> Nanos {
    if sample >= average {
        average + (sample - average) / parts
    } else {
        average - (average - sample) / parts
    }
}
