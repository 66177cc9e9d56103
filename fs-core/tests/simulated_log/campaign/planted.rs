//! Every rule against losing data, left out: the campaign must find what is lost then.

use fs_core::log::PlantedBugs;

use super::{MODELS, number, plan, run_seed, told};
use crate::workload::Plan;

/// A planted bug must show within so many crashes.
const CRASHES_TO_FIND: u64 = 1_000_000;

/// Runs seeds until a planted bug shows.
fn is_found(test: &str, bugs: PlantedBugs, change: impl Fn(&mut Plan)) {
    let mut crashes = 0;
    for seed in number("LANEFS_SIM_SEED").unwrap_or(0).. {
        let mut plan = plan(MODELS[seed as usize % 2], seed);
        plan.always_by_engine = true;
        plan.log.bugs = bugs;
        change(&mut plan);
        let outcome = run_seed(&plan, seed);
        crashes += outcome.crashes;
        if let Some(told) = told(test, seed, &outcome) {
            let line = told.lines().next().unwrap_or_default();
            println!("{test}: found within {crashes} crashes: {line}");
            return;
        }
        assert!(crashes < CRASHES_TO_FIND, "{test}: {crashes} crashes did not show it");
    }
}

/// A test for each rule that `PlantedBugs` can leave out.
macro_rules! planted {
    ($($(#[$doc:meta])* $test:ident: $bug:ident, $change:expr;)+) => {$(
        $(#[$doc])*
        #[test]
        fn $test() {
            let bugs = PlantedBugs { $bug: true, ..PlantedBugs::default() };
            is_found(stringify!($test), bugs, $change);
        }
    )+};
}

fn as_it_is(_: &mut Plan) {}

/// The log has a device of its own.
fn elsewhere(plan: &mut Plan) {
    plan.options.log_elsewhere = true;
    plan.shape.elsewhere = true;
}

planted! {
    /// Way 1: older bytes of the log over newer ones in place.
    replay_over_blocks_is_found: replay_over_blocks, as_it_is;
    /// Way 2: log space that is used again after a commit that failed.
    free_after_failed_checkpoint_is_found: free_after_failed_checkpoint, |plan| {
        plan.fail_one_in = 8;
        plan.checkpoint_one_in = 8;
    };
    /// Way 3: a durable log covers itself only.
    no_write_back_is_found: no_write_back, as_it_is;
    /// Way 1: a block with older content than the log, which was left to be written later.
    leave_placed_is_found: leave_placed, as_it_is;
    /// Way 3: a commit that says nothing of what has no block.
    commit_delayed_is_found: commit_delayed, |plan| plan.fail_one_in = 12;
    /// Way 2: log space that is used again before what only the log has is in place.
    free_delayed_is_found: free_delayed, |plan| plan.checkpoint_one_in = 8;
    /// Way 3, with two devices.
    no_device_flush_is_found: no_device_flush, elsewhere;
    /// Way 4: answered before it is durable.
    answer_before_flush_is_found: answer_before_flush, as_it_is;
    /// Way 6: the kernel lives, and its pages are newer than the log.
    replay_same_boot_is_found: replay_same_boot, |plan| plan.kill_one_in = 20;
    /// Truncations that the backing journal keeps and the log does not know.
    no_marks_is_found: no_marks, as_it_is;
    /// Blocks whose place no durable journal knows.
    trust_uncommitted_is_found: trust_uncommitted, as_it_is;
    /// Batches that a power cut takes apart.
    no_batch_marks_is_found: no_batch_marks, as_it_is;
    /// Logged pages that have been written again.
    no_compare_is_found: no_compare, |plan| {
        // Records stay live.
        (plan.checkpoint_one_in, plan.sync_all_one_in, plan.kill_one_in) = (0, 0, 0);
        plan.options.commit_one_in = None;
    };
}

/// Way 3: a flush that covers the log's own writes only, though the log is said to
/// share the device.
#[test]
fn a_flush_of_the_log_alone_is_found() {
    is_found("a_flush_of_the_log_alone_is_found", PlantedBugs::default(), |plan| {
        plan.options.log_elsewhere = false;
        plan.shape.elsewhere = false;
        plan.options.log_flush_is_fua = true;
    });
}

/// A log on a filesystem whose metadata does not survive in order.
#[test]
fn reordered_metadata_is_found() {
    is_found("reordered_metadata_is_found", PlantedBugs::default(), |plan| {
        plan.options.reorder_metadata = true;
    });
}
