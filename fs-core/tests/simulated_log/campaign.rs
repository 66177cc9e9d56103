//! Many seeds: nothing that was promised is lost, and every rule that is left out is
//! found.
//!
//! A loss is printed with its seed and step. The same case again, alone, in words:
//!
//!     LANEFS_SIM_SEED=17 cargo test -p fs-core --test simulated_log -- --nocapture NAME
//!
//! More than usual: `LANEFS_SIM_SEEDS=10000` or `LANEFS_SIM_CRASHES=10000000`, with
//! `--release`. Seeds run on all processors.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fs_core::durability::Durability;
use fs_core::log::{LogConfig, PlantedBugs};
use fs_core::platform::sim::{DurabilityModel, Random, SimOptions};

use crate::disk::LogShape;
use crate::workload::{Outcome, Plan, run};

mod planted;

/// Seeds of one test unless said otherwise.
const SEEDS: u64 = if cfg!(debug_assertions) { 12 } else { 400 };

pub const MODELS: [DurabilityModel; 2] = [DurabilityModel::Ext4Ordered, DurabilityModel::Xfs];

pub fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

/// What one seed runs; details of the machine vary with it, so that all are met.
pub fn plan(model: DurabilityModel, seed: u64) -> Plan {
    let mut random = Random::new(seed ^ 0x5eed);
    let options = SimOptions {
        torn_sectors: !random.one_in(4),
        changes_per_tick: if random.one_in(3) { 1_000 } else { 1 },
        pending_ops_max: [30, 100, 300, 4096][random.index(4)],
        flusher_one_in: [None, Some(4), Some(20)][random.index(3)],
        commit_one_in: [None, None, Some(10), Some(40)][random.index(4)],
        settled_ranges_max: if random.one_in(8) { 1 } else { usize::MAX },
        log_elsewhere: random.one_in(5),
        tells_mounts: seed.is_multiple_of(2),
        length_first: model == DurabilityModel::Ext4Ordered && seed.is_multiple_of(3),
        ..SimOptions::new(model, 0)
    };
    let shape = if random.one_in(64) {
        LogShape::SMALLEST
    } else {
        LogShape {
            segments: 2 + random.below(7) as u32,
            segment_bytes: [8, 16, 32, 64][random.index(4)] << 10,
            elsewhere: options.log_elsewhere && random.one_in(2),
        }
    };
    let log = LogConfig {
        bytes: shape.bytes(),
        inline_bytes_max: Some([8 << 10, 20 << 10, 512 << 10][random.index(3)]),
        // Of the campaign's files nearly all have more than one or two.
        file_parts_max: [128, 128, 128, 0, 1, 2][Random::new(seed ^ 0x9a57).index(6)],
        probe: None,
        background: false,
        checkpoint_interval: Duration::from_secs(3600),
        // A truncation is an operation like others here; see `rewrites`.
        rewrite_bytes_max: 0,
        bugs: PlantedBugs::default(),
        ..LogConfig::default()
    };
    Plan {
        options,
        shape,
        log,
        durability: Durability::Fsync,
        steps: 120,
        lives: 2,
        fail_one_in: 0,
        fail_write_back: false,
        two_trees: random.one_in(4),
        checkpoint_one_in: [0, 15, 40][random.index(3)],
        sync_all_one_in: [0, 25, 100][random.index(3)],
        kill_one_in: [0, 40][random.index(2)],
        cuts: 4,
        always_by_engine: false,
        in_words: number("LANEFS_SIM_SEED").is_some(),
    }
}

/// Runs a seed; a panic is a loss too.
fn run_seed(plan: &Plan, seed: u64) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| run(plan, seed))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
        Outcome { loss: Some(format!("a panic: {text:?}")), ..Outcome::default() }
    })
}

fn told(test: &str, seed: u64, outcome: &Outcome) -> Option<String> {
    let loss = outcome.loss.as_ref()?;
    Some(format!(
        "{test}, seed {seed}, {loss}\nagain: LANEFS_SIM_SEED={seed} cargo test -p fs-core \
         --test simulated_log -- --nocapture {test}"
    ))
}

/// Runs seeds that must lose nothing, on all processors.
fn nothing_is_lost(test: &str, plan: impl Fn(u64) -> Plan + Sync) -> Outcome {
    let start = Instant::now();
    if let Some(seed) = number("LANEFS_SIM_SEED") {
        let outcome = run_seed(&plan(seed), seed);
        println!("{:#?}", Outcome { loss: None, ..outcome.clone() });
        if let Some(told) = told(test, seed, &outcome) {
            panic!("{told}");
        }
        return outcome;
    }
    let crashes_wanted = number("LANEFS_SIM_CRASHES");
    let seeds = match crashes_wanted {
        Some(_) => u64::MAX,
        None => number("LANEFS_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let first = number("LANEFS_SIM_FIRST").unwrap_or(0);
    let (next, crashes, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let sum = Mutex::new(Outcome::default());
    let losses = Mutex::new(Vec::new());
    let all = number("LANEFS_SIM_ALL").is_some();
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let enough =
                crashes_wanted.is_some_and(|wanted| crashes.load(Ordering::Relaxed) >= wanted);
            if index >= seeds || enough {
                break;
            }
            let seed = first + index;
            let outcome = run_seed(&plan(seed), seed);
            crashes.fetch_add(outcome.crashes, Ordering::Relaxed);
            if let Some(told) = told(test, seed, &outcome) {
                let mut losses = losses.lock().expect("no panic in here");
                losses.push((seed, told));
                stop.store(!all, Ordering::Relaxed);
            }
            sum.lock().expect("no panic in here").add(&outcome);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    let mut losses = losses.into_inner().expect("no panic in there");
    losses.sort();
    let sum = sum.into_inner().expect("no panic in there");
    report(test, &sum, start.elapsed());
    if all {
        for (_, told) in &losses {
            println!("{}\n", &told[..told.len().min(700)]);
        }
        println!("{} losses", losses.len());
    }
    if let Some((_, told)) = losses.first() {
        panic!("{told}");
    }
    sum
}

fn report(test: &str, sum: &Outcome, time: Duration) {
    let rate = sum.crashes as f64 / time.as_secs_f64();
    println!("{test}: {rate:.0} crashes a second; {:?}", Outcome { loss: None, ..sum.clone() });
}

#[test]
fn nothing_is_lost_on_ext4() {
    let test = "nothing_is_lost_on_ext4";
    nothing_is_lost(test, |seed| plan(DurabilityModel::Ext4Ordered, seed));
}

#[test]
fn nothing_is_lost_on_xfs() {
    nothing_is_lost("nothing_is_lost_on_xfs", |seed| plan(DurabilityModel::Xfs, seed));
}

/// In the mode `close` a name that was changed and a file that was closed are promised when the
/// call returns, with everything done before, and nobody asks for a sync.
#[test]
fn nothing_is_lost_that_was_closed() {
    let sum = nothing_is_lost("nothing_is_lost_that_was_closed", |seed| Plan {
        durability: Durability::Close,
        ..plan(MODELS[seed as usize % 2], seed)
    });
    assert!(sum.owed * 5 > sum.steps as u64, "one operation in five is a name or a close");
}

/// In the mode `always` every operation is.
#[test]
fn nothing_is_lost_that_was_done() {
    let sum = nothing_is_lost("nothing_is_lost_that_was_done", |seed| Plan {
        durability: Durability::Always,
        ..plan(MODELS[seed as usize % 2], seed)
    });
    assert!(sum.owed * 2 > sum.steps as u64, "most operations change something");
}

/// A failed sync is told to who asked for it; what others were promised holds.
#[test]
fn failures_lose_nothing_of_others() {
    let sum = nothing_is_lost("failures_lose_nothing_of_others", |seed| Plan {
        fail_one_in: 12,
        ..plan(MODELS[seed as usize % 2], seed)
    });
    assert!(sum.given_up > 0);
}

/// The same, when data cannot be written: names and attributes are safe.
#[test]
fn failing_write_back_loses_no_names() {
    let sum = nothing_is_lost("failing_write_back_loses_no_names", |seed| {
        let plan = plan(MODELS[seed as usize % 2], seed);
        // A page that could not be written is in memory only: a restart may fill it.
        Plan { fail_one_in: 12, fail_write_back: true, kill_one_in: 0, ..plan }
    });
    assert!(sum.syncs_failed > 0);
}
