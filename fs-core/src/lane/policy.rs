//! When a group leaves: the waiting policy of the group lane, a pure function of injected time.
//!
//! **Cohort hold.** One fence costs the same for one request as for a hundred. Writers that loop on
//! sync come back a moment after they were released, and a group that leaves the instant the device
//! is free misses them: the loop falls apart into two convoys that each see every other fence. So
//! the policy remembers how soon each writer usually returns, and keeps the group back for those
//! that are due within a small fraction of the fence time, as long as that is predicted to pay:
//!
//! - `F` is the fence time, averaged with weight 7/8. A writer's *return gap* runs from its release
//!   to its next request; `g` is its average with weight 3/4, `d` its mean deviation likewise.
//! - The *budget* `max(alpha F, 3 R)` runs from the moment the device got free, once for the whole
//!   group.
//! - A writer that was released is *due* at `released + 1.5 g + d`: nearly always back by then,
//!   whether it is as regular as a clock or not. If only `released + g` is within the budget it is
//!   due when the budget ends, because it still comes back in time more often than not.
//! - A writer is *expected* if it was released, has not come back, and its due time is still ahead
//!   but not after the budget.
//! - Holding from one due time to the next costs `n` waiting requests that much time each and saves
//!   the one that joins a fence of its own: `gain += F - n * (due - previous due)`, then `n += 1`.
//!   The group is held until the due time with the highest positive sum.
//!
//! What holds whatever the writers do: a group waits only for somebody else who is known to come
//! back, so a lone writer never waits; no hold ends after the budget; a writer that leaves is waited
//! for until its due time and not after, because only another release sets a new one.

use std::collections::{BTreeSet, HashMap, VecDeque};

/// Nanoseconds since an arbitrary start; time is injected, the policy never reads a clock.
pub type Nanos = u64;

/// Who brings sync requests, predicted by its own habits. (A front-end passes the caller's thread.)
pub type WriterId = u64;

/// The walk over the expected writers is repeated only after this part of them has arrived, so that
/// a group of `n` costs `O(n)` steps and not `O(n^2)`. Up to this many expected writers every
/// arrival gets its own walk, and beyond that the waiting count lags by at most 1/32.
const WALKED_PER_ARRIVAL: usize = 32;

/// A return gap counts at most this many times the average of its writer: one pause in a tight loop
/// must not make the writer unpredictable for the next thirty groups.
const GAP_OUTLIER_FACTOR: Nanos = 8;

/// The settings of a [`CohortPolicy`].
#[derive(Debug, Clone)]
pub struct PolicyConfig {
    /// alpha: a hold never exceeds this fraction of the fence time ...
    pub hold_ratio_max: f64,
    /// R: ... or three of these round trips, whichever is larger.
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

/// What is remembered of one writer.
#[derive(Debug, Default)]
struct Habit {
    /// Requests pending or in the group under way. The writer is *absent* while this is zero.
    outstanding: usize,
    /// When its last request was released. Set exactly while the writer is absent.
    released_at: Option<Nanos>,
    /// Its average return gap; unknown until it has returned once.
    gap_ns: Option<Nanos>,
    /// The average distance of a gap from `gap_ns`.
    deviation_ns: Nanos,
    /// Its key in `CohortPolicy::expected`, while absent and with a known gap.
    due: Option<Nanos>,
}

impl Habit {
    fn observe_gap(&mut self, gap_ns: Nanos) {
        let Some(average) = self.gap_ns else {
            self.gap_ns = Some(gap_ns);
            return;
        };
        let gap_ns = gap_ns.min(average.max(1).saturating_mul(GAP_OUTLIER_FACTOR));
        self.gap_ns = Some(moving_average(average, gap_ns, 4));
        self.deviation_ns = moving_average(self.deviation_ns, gap_ns.abs_diff(average), 4);
    }

    /// When a writer released now is back for all that is known; `None` if nothing is.
    fn due(&self, now: Nanos, budget_end: Nanos) -> Option<Nanos> {
        let mean = now.saturating_add(self.gap_ns?);
        let due = mean.saturating_add(self.gap_ns? / 2).saturating_add(self.deviation_ns);
        Some(if mean <= budget_end { due.min(budget_end) } else { due })
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
    /// No hold ends later; set when the device gets free.
    budget_end: Nanos,
    pending: VecDeque<Pending>,
    /// The writers of the group under way, one entry for each request.
    in_flight: Vec<WriterId>,
    writers: HashMap<WriterId, Habit>,
    /// Absent writers by release time: the order in which they are forgotten.
    absent: BTreeSet<(Nanos, WriterId)>,
    /// Absent writers with a known gap by due time. Times that have passed are dropped lazily.
    expected: BTreeSet<(Nanos, WriterId)>,
    hold: Option<Hold>,
}

impl CohortPolicy {
    /// A policy that knows no writer and no fence time yet, so its first group leaves at once.
    pub fn new(config: PolicyConfig) -> Self {
        Self {
            config,
            clock: 0,
            fence_ns: None,
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
        if let Some(due) = habit.due.take() {
            self.expected.remove(&(due, writer));
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
        until.filter(|&until| until > now).map_or(Decision::Go, Decision::HoldUntil)
    }

    /// The first `ops` pending requests, in order of arrival, leave as one group.
    pub fn departed(&mut self, ops: usize, now: Nanos) {
        self.advance(now);
        self.hold = None;
        let ops = ops.min(self.pending.len());
        self.in_flight.extend(self.pending.drain(..ops).map(|request| request.writer));
    }

    /// The group that left is durable, or failed, and its writers are being released;
    /// `service_ns` is how long the fence took. The device is free from here on.
    pub fn released(&mut self, service_ns: Nanos, now: Nanos) {
        let now = self.advance(now);
        self.hold = None;
        let fence_ns = self.fence_ns.map_or(service_ns, |f| moving_average(f, service_ns, 8));
        self.fence_ns = Some(fence_ns);
        self.budget_end = now.saturating_add(self.budget_ns(fence_ns));
        while self.expected.first().is_some_and(|&(due, _)| due <= now) {
            self.expected.pop_first();
        }
        for writer in self.in_flight.drain(..) {
            let Some(habit) = self.writers.get_mut(&writer) else { continue };
            habit.outstanding = habit.outstanding.saturating_sub(1);
            if habit.outstanding > 0 {
                continue;
            }
            habit.released_at = Some(now);
            self.absent.insert((now, writer));
            habit.due = habit.due(now, self.budget_end);
            self.expected.extend(habit.due.map(|due| (due, writer)));
        }
        self.forget_surplus();
    }

    /// The average fence time, `None` before the first group. For status output.
    pub fn fence_estimate_ns(&self) -> Option<Nanos> {
        self.fence_ns
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

    /// `max(alpha F, 3 R)`. The cast saturates, and takes a ratio that is no number as zero.
    fn budget_ns(&self, fence_ns: Nanos) -> Nanos {
        let share = (self.config.hold_ratio_max * fence_ns as f64) as Nanos;
        share.max(self.config.round_trip_ns.saturating_mul(3))
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
        let fence_ns = i128::from(self.fence_ns?);
        let pending = self.pending.len();
        let window = (now.checked_add(1)?, WriterId::MIN)..=(self.budget_end, WriterId::MAX);
        let joiners_max = self.config.group_ops_max.saturating_sub(pending);
        let (mut gain, mut best_gain, mut best) = (0_i128, 0_i128, None);
        let (mut previous, mut walked) = (now, 0_usize);
        for &(due, _) in self.expected.range(window).take(joiners_max) {
            gain += fence_ns - (pending + walked) as i128 * i128::from(due - previous);
            walked += 1;
            previous = due;
            if gain > best_gain {
                (best_gain, best) = (gain, Some(due));
            }
        }
        best.map(|until| (until, walked))
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
