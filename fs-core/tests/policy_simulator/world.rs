//! The device, the writers in front of it, and the rule that says when a group leaves.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use fs_core::lane::policy::{CohortPolicy, Decision, Nanos, PolicyConfig, WriterId};

use crate::writers::Writer;
use crate::{CORES, RECORD_NS, ROUND_TRIP_NS};

/// Who decides when a group leaves.
pub enum Rule {
    /// Leave with at least this many; 1 is natural batching.
    Threshold(usize),
    /// The policy under test.
    Cohort(CohortPolicy),
    /// The policy under test, set to a fixed window.
    Window(CohortPolicy),
}

impl Rule {
    pub fn policy(&mut self) -> Option<&mut CohortPolicy> {
        match self {
            Rule::Threshold(_) => None,
            Rule::Cohort(policy) | Rule::Window(policy) => Some(policy),
        }
    }
}

pub fn cohort() -> Rule {
    Rule::Cohort(CohortPolicy::new(PolicyConfig::default()))
}

pub fn fixed_window(window_ns: Nanos) -> Rule {
    let window_ns = Some(window_ns);
    Rule::Window(CohortPolicy::new(PolicyConfig { window_ns, ..PolicyConfig::default() }))
}

/// The longest that a group may be held without trust and with it: `max(F/4, 3 R)`, `max(F, 3 R)`.
/// As exact as the policy's own, which is that of a float: fences of months come out a bit longer.
pub fn budget_bounds_ns(policy: &CohortPolicy) -> (Nanos, Nanos) {
    let fence_ns = policy.fence_estimate_ns().unwrap_or(0);
    let floor_ns = 3 * ROUND_TRIP_NS;
    (((fence_ns as f64 / 4.0) as Nanos).max(floor_ns), (fence_ns as f64 as Nanos).max(floor_ns))
}

/// One group that left.
pub struct Group {
    pub ops: usize,
    /// How long the device was idle although a request was pending.
    pub held_ns: Nanos,
}

/// Processor time still needed before the next request, and the longest turn.
pub type Work = (Nanos, Nanos);

pub struct World {
    pub writers: Vec<Writer>,
    pub rule: Rule,
    pub fence_ns: Nanos,
    pub now: Nanos,
    /// Who wants what next: the processor for the work left, or, with none left, a sync.
    pub returns: BinaryHeap<Reverse<(Nanos, WriterId, Work)>>,
    pub cores_free_at: [Nanos; CORES],
    pub pending: Vec<(WriterId, Nanos)>,
    pub device_free_since: Nanos,
    pub groups: Vec<Group>,
}

impl World {
    pub fn new(fence_ns: Nanos, writers: Vec<Writer>, rule: Rule) -> Self {
        let mut world = World {
            writers,
            rule,
            fence_ns,
            now: 0,
            returns: BinaryHeap::new(),
            cores_free_at: [0; CORES],
            pending: Vec::new(),
            device_free_since: 0,
            groups: Vec::new(),
        };
        for writer in 0..world.writers.len() {
            world.schedule_return(writer as WriterId);
        }
        world
    }

    pub fn schedule_return(&mut self, id: WriterId) {
        let writer = &mut self.writers[id as usize];
        if writer.requests_left == 0 {
            return;
        }
        writer.requests_left -= 1;
        writer.round += 1;
        let (at, work) = match writer.think.work(writer.round, &mut writer.random) {
            Some(work) => (self.now, work),
            None => (self.now + writer.think.draw(writer.round, &mut writer.random), (0, 0)),
        };
        self.returns.push(Reverse((at, id, work)));
    }

    /// When the next request comes, if that is not after `until`. Everything that happens on the
    /// processor before is played out.
    pub fn next_return(&mut self, until: Nanos) -> Option<Nanos> {
        loop {
            let &Reverse((at, id, (work_ns, turn_ns))) = self.returns.peek()?;
            if at > until || work_ns == 0 {
                return (at <= until).then_some(at);
            }
            self.returns.pop();
            let core = self.cores_free_at.iter_mut().min().expect("there are cores");
            let turn = work_ns.min(turn_ns);
            *core = at.max(*core) + turn;
            self.returns.push(Reverse((*core, id, (work_ns - turn, turn_ns))));
        }
    }

    /// Lets the next request arrive if that is not after `until`.
    pub fn accept_until(&mut self, until: Nanos) -> bool {
        let Some(at) = self.next_return(until) else { return false };
        let Reverse((_, writer, _)) = self.returns.pop().expect("it was just seen");
        self.now = at;
        self.pending.push((writer, at));
        if let Some(policy) = self.rule.policy() {
            policy.arrived(writer, at);
        }
        true
    }

    pub fn decide(&mut self) -> Decision {
        match &mut self.rule {
            Rule::Threshold(ops) if self.pending.len() >= *ops => Decision::Go,
            Rule::Threshold(_) => Decision::HoldUntil(Nanos::MAX),
            Rule::Cohort(policy) | Rule::Window(policy) => policy.decide(self.now),
        }
    }

    /// Runs until one more group is durable; false when nobody will ever ask again.
    pub fn step(&mut self) -> bool {
        for _ in 0..10_000 {
            if self.pending.is_empty() && !self.accept_until(Nanos::MAX) {
                return false;
            }
            match self.decide() {
                Decision::Go => {
                    self.flush();
                    return true;
                }
                Decision::HoldUntil(until) => {
                    assert!(until > self.now, "a hold ends later");
                    if !self.accept_until(until) {
                        self.now = until;
                    }
                }
            }
        }
        panic!("a group that never leaves");
    }

    pub fn flush(&mut self) {
        let ops = self.pending.len();
        let service_ns = self.fence_ns + RECORD_NS * ops as Nanos;
        let held_ns = self.now - self.pending[0].1.max(self.device_free_since);
        if let Rule::Cohort(policy) = &self.rule {
            let budget_ns = policy.hold_budget_ns();
            let (untrusted_ns, trusted_ns) = budget_bounds_ns(policy);
            assert!(held_ns <= budget_ns, "held {held_ns} ns of at most {budget_ns}");
            assert!((untrusted_ns..=trusted_ns).contains(&budget_ns), "a budget of {budget_ns} ns");
        }
        self.groups.push(Group { ops, held_ns });
        if let Some(policy) = self.rule.policy() {
            policy.departed(ops, self.now);
        }
        let leaving: Vec<WriterId> = self.pending.drain(..).map(|(writer, _)| writer).collect();
        let end = self.now + service_ns;
        while self.accept_until(end) {}
        self.now = end;
        self.device_free_since = end;
        if let Some(policy) = self.rule.policy() {
            policy.released(service_ns, end);
        }
        for writer in leaving {
            self.schedule_return(writer);
        }
    }
}

/// What a run reached after its warm-up.
#[derive(Clone, Copy)]
pub struct Outcome {
    /// Requests made durable each second.
    pub throughput: f64,
    pub group_ops_mean: f64,
}

pub fn run(fence_ns: Nanos, writers: Vec<Writer>, rule: Rule) -> Outcome {
    let requests = 1_500 + 100 * writers.len();
    run_requests(requests, fence_ns, writers, rule)
}

pub fn run_requests(requests: usize, fence_ns: Nanos, writers: Vec<Writer>, rule: Rule) -> Outcome {
    let mut world = World::new(fence_ns, writers, rule);
    let mut done = 0;
    let mut warm = None;
    while done < requests {
        assert!(world.step(), "a closed loop never ends");
        done += world.groups.last().map_or(0, |group| group.ops);
        if warm.is_none() && done >= requests / 5 {
            warm = Some((world.groups.len(), done, world.now));
        }
    }
    let (warm_groups, warm_done, warm_now) = warm.expect("the run is longer than its warm-up");
    let measured = &world.groups[warm_groups..];
    let ops = (done - warm_done) as f64;
    Outcome {
        throughput: ops / (world.now - warm_now) as f64 * 1e9,
        group_ops_mean: ops / measured.len() as f64,
    }
}
