//! Windows, full groups, and how much is remembered.

use fs_core::lane::policy::{CohortPolicy, Decision, PolicyConfig};

use crate::world::{fixed_window, run};
use crate::writers::{Think, same};
use crate::{MS, US};

/// A fixed window holds every group for exactly the window, a lone writer too, or until it is full.
#[test]
fn a_fixed_window_holds_for_the_window_or_until_full() {
    let config =
        PolicyConfig { window_ns: Some(100 * US), group_ops_max: 3, ..PolicyConfig::default() };
    let mut policy = CohortPolicy::new(config);
    policy.arrived(1, 1_000);
    assert_eq!(policy.decide(1_000), Decision::HoldUntil(101_000));
    policy.arrived(1, 50_000);
    assert_eq!(policy.decide(50_000), Decision::HoldUntil(101_000), "from the first arrival");
    assert_eq!(policy.decide(101_000), Decision::Go);
    policy.departed(2, 101_000);
    // Requests that came while the device was busy have used up their window.
    policy.arrived(1, 110_000);
    policy.released(2 * MS, 2_101_000);
    assert_eq!(policy.decide(2_101_000), Decision::Go);
    policy.departed(1, 2_101_000);
    policy.released(2 * MS, 4_101_000);
    for writer in 0..3 {
        assert!(writer == 0 || policy.decide(4_200_000) == Decision::HoldUntil(4_300_000));
        policy.arrived(writer, 4_200_000);
    }
    assert_eq!(policy.decide(4_200_000), Decision::Go, "full");

    let window = |window_ns| run(MS, same(Think::Exactly(40 * US), 1), fixed_window(window_ns));
    let period_ns = |window_ns| 1e9 / window(window_ns).throughput;
    assert!((period_ns(300 * US) - period_ns(0) - 300e3).abs() < 1.0);
}

/// A group of `group_ops_max` leaves although more writers are expected.
#[test]
fn a_full_group_leaves() {
    let config = PolicyConfig { group_ops_max: 4, ..PolicyConfig::default() };
    let mut policy = CohortPolicy::new(config);
    let mut now = 0;
    for round in 0..5 {
        for writer in 0..8 {
            policy.arrived(writer, now + writer * US);
            let decision = policy.decide(now + writer * US);
            let full = writer >= 3;
            assert_eq!(decision == Decision::Go, full || round < 2, "{round}, writer {writer}");
        }
        for _ in 0..2 {
            now += 20 * US;
            policy.departed(4, now);
            now += 2 * MS;
            policy.released(2 * MS, now);
        }
    }
}

/// `writers_max` bounds what is remembered, and the longest unseen go first.
#[test]
fn memory_is_bounded_and_strangers_do_not_displace_regulars() {
    let config = PolicyConfig { writers_max: 16, ..PolicyConfig::default() };
    let mut policy = CohortPolicy::new(config);
    let (mut now, mut holds) = (0, 0);
    for stranger in 0..100_000 {
        policy.arrived(1_000_000, now + 10 * US);
        policy.arrived(1_000 + stranger, now + 10 * US);
        holds += u32::from(policy.decide(now + 10 * US) != Decision::Go);
        policy.arrived(1_000_001, now + 30 * US);
        policy.departed(3, now + 30 * US);
        now += 2 * MS;
        policy.released(2 * MS, now);
        assert!(policy.writers_remembered() <= 16);
    }
    assert!(holds >= 99_990, "regulars were still expected in {holds} groups");
}

/// Writers with a request under way are never forgotten, but only as long as that lasts.
#[test]
fn memory_shrinks_once_a_crowd_is_released() {
    let mut policy = CohortPolicy::new(PolicyConfig::default());
    (0..100_000).for_each(|writer| policy.arrived(writer, 0));
    policy.departed(50_000, 0);
    policy.released(2 * MS, 2 * MS);
    assert_eq!(policy.writers_remembered(), 50_000);
    policy.departed(usize::MAX, 2 * MS);
    policy.released(2 * MS, 4 * MS);
    assert_eq!(policy.writers_remembered(), PolicyConfig::default().writers_max);
}
