//! Many seeds: no model loses anything that was promised, and every planted bug
//! is found.
//!
//! A loss is printed with its seed and step. The same case again, alone:
//!
//!     LANEFS_SIM_SEED=17 cargo test -p fs-core --test simulated_crashes -- --nocapture NAME
//!
//! More seeds than usual: `LANEFS_SIM_SEEDS=10000`, best with `--release`.

use std::time::{Duration, Instant};

use fs_core::platform::sim::{DurabilityModel, SimOptions};

use crate::workload::{Outcome, Plan, run};

/// Crashes a second that the simulator owes in a release build.
const CRASHES_PER_SECOND_MIN: f64 = 2_000.0;

/// Seeds of one test unless said otherwise: a few seconds for all tests.
const SEEDS: u64 = if cfg!(debug_assertions) { 25 } else { 200 };

/// A planted bug must show within so many crashes.
const CRASHES_TO_FIND: u64 = 10_000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

/// The seeds to run: one from the environment, or many.
fn seeds() -> std::ops::Range<u64> {
    match number("LANEFS_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LANEFS_SIM_SEEDS").unwrap_or(SEEDS),
    }
}

/// What one test runs; details of the machine vary with the seed, so that all
/// of them are met.
fn plan(model: DurabilityModel, seed: u64) -> Plan {
    let honest = SimOptions::new(model, 0);
    let two_trees = seed % 4 == 1;
    let options = SimOptions {
        torn_sectors: !seed.is_multiple_of(5),
        // A clock that cannot tell changes apart; what one tree does the other
        // notices by the clock only.
        changes_per_tick: if seed.is_multiple_of(3) && !two_trees { 1_000 } else { 1 },
        pending_ops_max: if seed.is_multiple_of(7) { 20 } else { honest.pending_ops_max },
        shared_commit: honest.shared_commit && seed.is_multiple_of(2),
        whole_fs_one_in: seed.is_multiple_of(6).then_some(8),
        ..honest
    };
    Plan { options, steps: 150, fail_one_in: 0, two_trees }
}

fn told(test: &str, seed: u64, outcome: &Outcome) -> Option<String> {
    let loss = outcome.loss.as_ref()?;
    Some(format!(
        "{test}, seed {seed}, {loss}\nagain: LANEFS_SIM_SEED={seed} cargo test -p fs-core \
         --test simulated_crashes -- --nocapture {test}"
    ))
}

/// Runs seeds that must lose nothing.
fn nothing_is_lost(test: &str, plan: impl Fn(u64) -> Plan) -> Outcome {
    let start = Instant::now();
    let mut sum = Outcome::default();
    for seed in seeds() {
        let outcome = run(&plan(seed), seed);
        if let Some(told) = told(test, seed, &outcome) {
            panic!("{told}");
        }
        sum.add(&outcome);
    }
    report(test, &sum, start.elapsed());
    sum
}

fn report(test: &str, sum: &Outcome, time: Duration) {
    let rate = sum.crashes as f64 / time.as_secs_f64();
    println!(
        "{test}: {} crashes, {rate:.0} a second; {} steps, {} groups, the largest of {}; \
         {} syncs kept, {} of them by skipping, {} failed",
        sum.crashes,
        sum.steps,
        sum.groups,
        sum.group_ops_max,
        sum.syncs_kept,
        sum.skipped,
        sum.syncs_failed
    );
    if !cfg!(debug_assertions) && time > Duration::from_millis(100) {
        assert!(rate >= CRASHES_PER_SECOND_MIN, "{test}: only {rate:.0} crashes a second");
    }
}

/// Runs seeds until a planted bug shows.
fn is_found(test: &str, plan: impl Fn(u64) -> Plan) {
    let mut crashes = 0;
    let first = seeds().start;
    for seed in first.. {
        let outcome = run(&plan(seed), seed);
        crashes += outcome.crashes;
        if let Some(told) = told(test, seed, &outcome) {
            println!("found within {crashes} crashes: {told}");
            return;
        }
        assert!(
            crashes < CRASHES_TO_FIND,
            "{test}: {crashes} crashes did not show the planted bug"
        );
    }
}

/// What the tests of one model check besides: that the cases they are about came.
fn nothing_is_lost_with(test: &str, model: DurabilityModel) {
    let sum = nothing_is_lost(test, |seed| plan(model, seed));
    if number("LANEFS_SIM_SEED").is_none() {
        let seeds = seeds().count() as u64;
        assert!(sum.skipped > seeds, "{test}: directories were skipped {} times", sum.skipped);
        assert!(sum.group_ops_max > 1, "{test}: no request ever waited for a group");
    }
}

#[test]
fn nothing_is_lost_on_ext4() {
    nothing_is_lost_with("nothing_is_lost_on_ext4", DurabilityModel::Ext4Ordered);
}

#[test]
fn nothing_is_lost_on_xfs() {
    nothing_is_lost_with("nothing_is_lost_on_xfs", DurabilityModel::Xfs);
}

#[test]
fn nothing_is_lost_with_writeback() {
    nothing_is_lost_with("nothing_is_lost_with_writeback", DurabilityModel::Writeback);
}

#[test]
fn nothing_is_lost_with_posix_min() {
    nothing_is_lost_with("nothing_is_lost_with_posix_min", DurabilityModel::PosixMin);
}

/// A failed sync is told to who asked for it; what others were promised holds.
#[test]
fn failing_syncs_lose_nothing_of_others() {
    let sum = nothing_is_lost("failing_syncs_lose_nothing_of_others", |seed| {
        let model = DurabilityModel::ALL[seed as usize % 4];
        Plan { fail_one_in: 10, ..plan(model, seed) }
    });
    assert!(sum.syncs_failed > 0);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..4 {
        let plan = plan(DurabilityModel::ALL[seed as usize], seed);
        assert_eq!(run(&plan, seed), run(&plan, seed));
    }
}

/// One sync in fifty is answered without being done.
#[test]
fn a_lying_fence_is_found() {
    for model in DurabilityModel::ALL {
        is_found("a_lying_fence_is_found", |seed| {
            let mut plan = plan(model, seed);
            plan.options.lie_one_in = Some(50);
            plan
        });
    }
}

#[test]
fn dropped_syncs_of_directories_are_found() {
    for model in DurabilityModel::ALL {
        is_found("dropped_syncs_of_directories_are_found", |seed| {
            let mut plan = plan(model, seed);
            plan.options.drop_dir_syncs = true;
            plan
        });
    }
}

/// One journal commit for a whole group, where there is no journal that keeps
/// its order: what must not be done on btrfs, say.
#[test]
fn a_shared_commit_without_order_is_found() {
    is_found("a_shared_commit_without_order_is_found", |seed| {
        let mut plan = plan(DurabilityModel::PosixMin, seed);
        plan.options.shared_commit = true;
        plan
    });
}
