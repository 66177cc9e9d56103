//! What the rule reaches against the best that a search finds, and against never holding.

use fs_core::lane::policy::{CohortPolicy, Decision, Nanos, PolicyConfig};

use crate::world::{Outcome, Rule, World, cohort, fixed_window, run, run_requests};
use crate::writers::{Sharing, Think, Writer, mixed, same};
use crate::{MS, US};

/// Throughputs as fractions of the best threshold found by search.
struct Comparison {
    natural: f64,
    window_100_us: f64,
    cohort: f64,
    cohort_group_ops: f64,
}

fn compare(fence_ns: Nanos, writers: impl Fn() -> Vec<Writer>) -> Comparison {
    let count = writers().len();
    let natural = run(fence_ns, writers(), Rule::Threshold(1)).throughput;
    let thresholds = [2, 3, 4, 6, 8, 12, 16, 24, 32, 40, 48, 56, 64];
    let oracle = thresholds
        .into_iter()
        .filter(|&threshold| threshold <= count)
        .map(|threshold| run(fence_ns, writers(), Rule::Threshold(threshold)).throughput)
        .fold(natural, f64::max);
    let cohort = run(fence_ns, writers(), cohort());
    let window = run(fence_ns, writers(), fixed_window(100 * US));
    Comparison {
        natural: natural / oracle,
        window_100_us: window.throughput / oracle,
        cohort: cohort.throughput / oracle,
        cohort_group_ops: cohort.group_ops_mean,
    }
}

const FENCES_NS: [Nanos; 4] = [100 * US, 500 * US, 2 * MS, 8 * MS];
const WRITERS: [usize; 5] = [1, 2, 4, 16, 64];

#[test]
fn table_of_throughput_fractions() {
    type Kind = fn(Nanos, usize) -> Vec<Writer>;
    let kinds: [(&str, Kind); 5] = [
        ("gap 40 us +-50 %", |_, w| same(Think::Around(40 * US), w)),
        ("think exp(0.1 F)", |f, w| same(Think::Exponential(f / 10), w)),
        ("think exp(F)", |f, w| same(Think::Exponential(f), w)),
        ("think exp(5 F)", |f, w| same(Think::Exponential(5 * f), w)),
        ("half tight, half 5 F", mixed),
    ];
    println!("natural / fixed 100 us / cohort, as fractions of the best threshold found by search");
    for fence_ns in FENCES_NS {
        print!("\nF = {:4} us            ", fence_ns / US);
        WRITERS.iter().for_each(|writers| print!("| W = {writers:<13}"));
        for (name, kind) in kinds {
            print!("\n{name:22} ");
            for writers in WRITERS {
                let seen = compare(fence_ns, || kind(fence_ns, writers));
                print!("| {:.2} {:.2} [{:.2}]  ", seen.natural, seen.window_100_us, seen.cohort);
                assert!(seen.cohort >= 0.84, "{name}, F = {fence_ns}, W = {writers}");
            }
        }
        println!();
    }
}

/// The outcomes of never holding and of cohort hold, and the throughput of holding for everybody,
/// for writers that queue for the processor. Long runs, because never holding goes from one pattern
/// of convoys to another, some of them slower by several per cent.
fn compare_work(
    fence_ns: Nanos,
    (short_us, long_us): (Nanos, Nanos),
    sharing: Sharing,
    writers: usize,
) -> (Outcome, Outcome, f64) {
    let think = Think::Work { short_ns: short_us * US, long_ns: long_us * US, sharing };
    let run = |rule| run_requests(500 * (writers + 4), fence_ns, same(think, writers), rule);
    let full = run(Rule::Threshold(writers)).throughput;
    (run(Rule::Threshold(1)), run(cohort()), full)
}

/// Never noticeably slower than never holding, wherever the bottleneck is.
#[test]
fn table_of_loops_that_queue_for_the_processor() {
    println!(
        "throughput relative to never holding: cohort (holding for all); group size / W: never"
    );
    println!(
        "holding -> cohort. Rows: processor time after every other sync + after those between"
    );
    for sharing in [Sharing::Queue, Sharing::Turns] {
        for fence_ns in FENCES_NS {
            println!("\nF = {} us, two cores, {sharing:?}", fence_ns / US);
            for work in [(100, 100), (100, 300), (200, 200), (200, 420), (420, 420)] {
                print!("{:3} + {:3} us ", work.0, work.1);
                for writers in [4, 16, 24, 64] {
                    let (natural, cohort, full) = compare_work(fence_ns, work, sharing, writers);
                    let gain = cohort.throughput / natural.throughput;
                    print!(
                        "| {writers:2}: {gain:.2} ({:.2}) {:.2} -> {:.2} ",
                        full / natural.throughput,
                        natural.group_ops_mean / writers as f64,
                        cohort.group_ops_mean / writers as f64,
                    );
                    assert!(gain >= 0.95, "F = {fence_ns}, {work:?}, {sharing:?}, W = {writers}");
                }
                println!();
            }
        }
    }
}

/// The loop of an atomic replace (write, sync, rename, sync) on the real mount: 200 us of processor
/// time for a sync, however they are spread over the two, make 16 writers come back over 1.6 ms. One
/// group carries them all the same.
#[test]
fn loops_that_queue_for_the_processor_travel_as_one_group() {
    for sharing in [Sharing::Queue, Sharing::Turns] {
        for work in [(200, 200), (150, 250), (100, 300)] {
            let (natural, cohort, _) = compare_work(2 * MS, work, sharing, 16);
            let case = format!("{work:?}, {sharing:?}");
            let group_ops = cohort.group_ops_mean;
            assert!(group_ops >= 0.9 * 16.0, "{case}: groups of {group_ops:.2}");
            let gain = cohort.throughput / natural.throughput;
            assert!(gain >= 1.05, "{case}: {gain:.3} of never holding");
        }
    }
}

/// A lone writer waits exactly zero, whatever its habits and however slow the device.
#[test]
fn a_lone_writer_is_never_held() {
    for fence_ns in [10 * US, 100 * US, 500 * US, 2 * MS, 8 * MS, 50 * MS] {
        let mut thinks = vec![Think::Exactly(0)];
        for mean in [US, 40 * US, fence_ns / 10, fence_ns, 5 * fence_ns] {
            thinks.extend([Think::Exactly(mean), Think::Around(mean), Think::Exponential(mean)]);
            let (short_ns, long_ns) = (mean, 3 * mean);
            thinks.extend([Sharing::Queue, Sharing::Turns].map(|sharing| Think::Work {
                short_ns,
                long_ns,
                sharing,
            }));
        }
        for think in thinks {
            let mut world = World::new(fence_ns, same(think, 1), cohort());
            (0..300).for_each(|_| assert!(world.step()));
            let held_ns: Nanos = world.groups.iter().map(|group| group.held_ns).sum();
            assert_eq!(held_ns, 0, "F = {fence_ns} ns, {think:?}");
        }
    }
}

/// One flow of requests that moves between threads is a lone writer too: each thread comes back
/// only after the others had their turn, later than any budget.
#[test]
fn a_lone_flow_over_several_threads_is_never_held() {
    for fence_ns in [10 * US, 100 * US, 2 * MS] {
        for threads in [2, 3, 8] {
            let mut policy = CohortPolicy::new(PolicyConfig::default());
            let mut now = 0;
            for turn in 0..300 {
                now += 10 * US;
                policy.arrived(turn % threads, now);
                assert_eq!(policy.decide(now), Decision::Go, "F = {fence_ns}, turn {turn}");
                policy.departed(1, now);
                now += fence_ns;
                policy.released(fence_ns, now);
            }
        }
    }
}

/// Tight loops travel together, where never holding splits them into two convoys.
#[test]
fn tight_loops_travel_as_one_group() {
    for fence_ns in [500 * US, 2 * MS, 8 * MS] {
        for writers in [2, 4, 16, 64] {
            let seen = compare(fence_ns, || same(Think::Around(40 * US), writers));
            let case = format!("F = {fence_ns} ns, W = {writers}");
            let group_ops = seen.cohort_group_ops;
            assert!(group_ops >= 0.95 * writers as f64, "{case}: groups of {group_ops:.2}");
            assert!(seen.cohort >= 0.95, "{case}: cohort {:.3}", seen.cohort);
            assert!(seen.natural < 0.7, "{case}: natural {:.3}", seen.natural);
        }
    }
}

/// A thousand loops still travel together, although not every arrival gets its own walk over them.
#[test]
fn a_thousand_loops_travel_as_one_group() {
    let mut world = World::new(8 * MS, same(Think::Around(40 * US), 1_000), cohort());
    (0..60).for_each(|_| assert!(world.step()));
    let warm = &world.groups[10..];
    let group_ops = warm.iter().map(|group| group.ops).sum::<usize>() as f64 / warm.len() as f64;
    assert!(group_ops >= 950.0, "groups of {group_ops:.1}");
}

/// In a large group most arrivals shorten the hold without another walk over all expected writers:
/// it ends at the last due time of somebody still missing, and when nobody is.
#[test]
fn a_hold_of_a_large_group_ends_with_the_last_missing_writer() {
    let mut policy = CohortPolicy::new(PolicyConfig::default());
    let mut now = 0;
    for _ in 0..5 {
        (0..99).for_each(|writer| policy.arrived(writer, now + 40 * US));
        policy.arrived(99, now + 60 * US);
        policy.departed(100, now + 60 * US);
        now += 8 * MS;
        policy.released(8 * MS, now);
    }
    let at = now + 40 * US;
    policy.arrived(0, at);
    assert_eq!(policy.decide(at), Decision::HoldUntil(now + 90 * US));
    policy.arrived(99, at);
    assert_eq!(policy.decide(at), Decision::HoldUntil(now + 60 * US));
    for writer in 1..98 {
        policy.arrived(writer, at);
        assert_eq!(policy.decide(at), Decision::HoldUntil(now + 60 * US));
    }
    policy.arrived(98, at);
    assert_eq!(policy.decide(at), Decision::Go);
}

/// A fence of only 2.5 return gaps: the budget is its floor of three round trips and ends before
/// the slowest returns, and the group is still worth holding.
#[test]
fn tight_loops_on_a_fast_device_use_the_floor_of_the_budget() {
    for writers in [2, 4, 16, 64] {
        let seen = compare(100 * US, || same(Think::Around(40 * US), writers));
        assert!(seen.cohort >= 0.95, "W = {writers}: cohort {:.3}", seen.cohort);
    }
}

/// Think times that cannot be predicted cost nothing, and short ones still gain.
#[test]
fn random_think_times_keep_most_of_the_best_throughput() {
    for fence_ns in FENCES_NS {
        for (tenths, writers) in [1, 10, 50].iter().flat_map(|t| WRITERS.map(|w| (t, w))) {
            let think = Think::Exponential(fence_ns / 10 * tenths);
            let seen = compare(fence_ns, || same(think, writers));
            let case = format!("F = {fence_ns} ns, {think:?}, W = {writers}");
            assert!(seen.cohort >= 0.84, "{case}: cohort {:.3}", seen.cohort);
            let regret = seen.cohort / seen.natural;
            assert!(regret >= 0.97, "{case}: {regret:.3} of never holding");
        }
    }
}

/// Writers that think long do not spoil the group of those that do not.
#[test]
fn mixed_populations_keep_most_of_the_best_throughput() {
    for fence_ns in FENCES_NS {
        for writers in [2, 4, 16, 64] {
            let seen = compare(fence_ns, || mixed(fence_ns, writers));
            let case = format!("F = {fence_ns} ns, W = {writers}");
            assert!(seen.cohort >= 0.84, "{case}: cohort {:.3}", seen.cohort);
            let regret = seen.cohort / seen.natural;
            assert!(regret >= 0.97, "{case}: {regret:.3} of never holding");
            if writers >= 4 && fence_ns >= 500 * US {
                assert!(regret >= 1.3, "{case}: only {regret:.3} of never holding");
            }
        }
    }
}
