//! Any sequence of calls: what the rule says, within its bounds, and no panic.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use fs_core::lane::policy::{CohortPolicy, Decision, Nanos, PolicyConfig, WriterId};
use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::test_runner::Config as ProptestConfig;

use crate::reference::Reference;
use crate::world::budget_bounds_ns;
use crate::writers::{Random, Think};
use crate::{MS, US};

/// The policy and the written rule, side by side under the same writers.
struct Pair {
    policy: CohortPolicy,
    rule: Reference,
    random: Random,
    gaps_ns: Vec<Nanos>,
    returns: BinaryHeap<Reverse<(Nanos, usize)>>,
}

impl Pair {
    fn new(group_ops_max: usize, gaps_us: &[u64], seed: u64) -> Self {
        Pair {
            policy: CohortPolicy::new(PolicyConfig { group_ops_max, ..Default::default() }),
            rule: Reference::new(group_ops_max, gaps_us.len()),
            random: Random(seed),
            gaps_ns: gaps_us.iter().map(|gap_us| gap_us * US).collect(),
            returns: (0..gaps_us.len()).map(|id| Reverse((0, id))).collect(),
        }
    }

    /// Lets the next request arrive if that is not after `until`, and returns when it did.
    fn accept_until(&mut self, until: Nanos) -> Option<Nanos> {
        let Reverse((at, id)) = *self.returns.peek().filter(|Reverse((at, _))| *at <= until)?;
        self.returns.pop();
        // Sometimes a second request follows before the first is released.
        if self.random.next().is_multiple_of(16) {
            self.returns.push(Reverse((at + self.random.next() % (100 * US), id)));
        }
        self.policy.arrived(id as WriterId, at);
        self.rule.arrived(id, at);
        Some(at)
    }

    fn depart(&mut self, group_ops_max: usize, now: Nanos) {
        let ops = self.rule.pending.len().min(group_ops_max);
        self.policy.departed(ops, now);
        self.rule.departed(ops, now);
    }

    /// The writers think again: around their usual gap, and sometimes much longer.
    fn release(&mut self, service_ns: Nanos, now: Nanos) {
        let mut leaving = self.rule.in_flight.clone();
        leaving.sort_unstable();
        leaving.dedup();
        self.policy.released(service_ns, now);
        self.rule.released(service_ns, now);
        leaving.retain(|id| self.returns.iter().all(|Reverse((_, other))| other != id));
        for id in leaving {
            let pause = if self.random.next().is_multiple_of(64) { 100 } else { 1 };
            let gap_ns = Think::Around(self.gaps_ns[id] * pause).draw(0, &mut self.random);
            self.returns.push(Reverse((now + gap_ns, id)));
        }
    }
}

/// One call in no sensible order, at a time that may lie in the past.
#[derive(Debug, Clone)]
enum Call {
    Arrived(WriterId),
    Decide,
    Departed(usize),
    Released(Nanos),
}

fn any_call() -> impl Strategy<Value = (Call, Nanos)> {
    let call = prop_oneof![
        4 => (0_u64..8).prop_map(Call::Arrived),
        4 => any::<()>().prop_map(|()| Call::Decide),
        2 => (0_usize..6).prop_map(Call::Departed),
        2 => prop_oneof![0..10 * MS, any::<Nanos>()].prop_map(Call::Released),
    ];
    (call, prop_oneof![50 => 0..20 * MS, 1 => any::<Nanos>()])
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    /// Writers of any habits, several requests of one writer at a time included, at any fence time:
    /// every decision is the one of the written rule, and ends within the budget.
    #[test]
    fn every_decision_follows_the_rule_and_keeps_the_budget(
        group_ops_max in 2_usize..16,
        gaps_us in prop::collection::vec(prop_oneof![1_u64..100, 1_u64..2_000], 2..12),
        fence_ns in prop_oneof![5 * US..200 * US, 200 * US..8 * MS],
        seed in any::<u64>(),
    ) {
        let mut pair = Pair::new(group_ops_max, &gaps_us, seed);
        let (mut now, mut freed) = (0, 0);
        for _ in 0..400 {
            if pair.rule.pending.is_empty() {
                let Some(at) = pair.accept_until(Nanos::MAX) else { break };
                now = now.max(at);
            }
            let decision = pair.policy.decide(now);
            prop_assert_eq!(decision, pair.rule.decide(now));
            prop_assert_eq!(pair.policy.fence_estimate_ns(), pair.rule.fence_ns);
            prop_assert_eq!(pair.policy.hold_budget_ns(), pair.rule.budget_ns(pair.rule.trust));
            if let Decision::HoldUntil(until) = decision {
                prop_assert!(until > now);
                prop_assert!(until - freed <= pair.policy.hold_budget_ns());
                now = pair.accept_until(until).unwrap_or(until);
                continue;
            }
            let service_ns = fence_ns / 2 + pair.random.next() % fence_ns;
            pair.depart(group_ops_max, now);
            now += service_ns;
            while pair.accept_until(now).is_some() {}
            pair.release(service_ns, now);
            freed = now;
        }
    }

    /// Calls in any order, times that go back or to the end of the scale: no panic, no hold without
    /// a release within the budget before it, no hold into the past.
    #[test]
    fn no_sequence_of_calls_breaks_the_bounds(
        calls in prop::collection::vec(any_call(), 1..300),
        writers_max in 0_usize..6,
    ) {
        let mut policy = CohortPolicy::new(PolicyConfig { writers_max, ..Default::default() });
        let (mut clock, mut freed) = (0, None);
        for (call, now) in calls {
            clock = now.max(clock);
            match call {
                Call::Arrived(writer) => policy.arrived(writer, now),
                Call::Departed(ops) => policy.departed(ops, now),
                Call::Released(service_ns) => {
                    policy.released(service_ns, now);
                    freed = Some(clock);
                }
                Call::Decide => {
                    let Decision::HoldUntil(until) = policy.decide(now) else { continue };
                    prop_assert!(until > clock);
                    let budget_ns = policy.hold_budget_ns();
                    prop_assert!(until - freed.unwrap() <= budget_ns);
                    prop_assert!(budget_ns <= budget_bounds_ns(&policy).1);
                }
            }
        }
    }
}
