//! Which method makes a group of a given size durable most cheaply.
//!
//! Where one journal commit can cover the group, that is it: nothing costs less.
//! Elsewhere: one sync of the whole filesystem costs a constant number of flushes but
//! drags everybody's dirty data along; parallel syncs cost more work for each
//! file. Which wins depends on the filesystem, the device and its other users,
//! and changes. So both are measured: mostly the cheaper one runs, the other is
//! tried again now and then, the more rarely the worse it was. The whole
//! filesystem must win clearly: it writes data that nobody asked for, and on
//! ext4 it costs twice the flushes.
//!
//! Pure: durations are given, no clock is read.

use std::time::Duration;

use crate::platform::FenceMethod;

/// Smaller groups always use parallel syncs: the whole-filesystem sync alone
/// costs about four flushes on ext4, parallel syncs two to three.
pub const WHOLE_FS_OPS_MIN: usize = 8;

/// Groups before the first trial of the whole-filesystem sync.
const TRIAL_INTERVAL_FIRST: u32 = 32;
/// Groups between two trials of the worse method at least ...
const TRIAL_INTERVAL_MIN: u32 = 128;
/// ... and at most, when it was the worse one each time.
const TRIAL_INTERVAL_MAX: u32 = 16_384;
/// The whole-filesystem sync is the better one if it takes less than this part
/// of the time of parallel syncs.
const WHOLE_FS_ADVANTAGE: f64 = 0.7;

/// Groups are compared with groups of about the same size: 8 to 15, 16 to 31, ...
const SIZE_CLASSES: usize = 8;

/// The running comparison.
#[derive(Debug)]
pub struct MethodChoice {
    shared_commit: bool,
    whole_fs: bool,
    classes: [SizeClass; SIZE_CLASSES],
}

#[derive(Debug, Clone, Copy)]
struct SizeClass {
    parallel_ns: Option<f64>,
    whole_fs_ns: Option<f64>,
    groups_since_trial: u32,
    trial_interval: u32,
}

impl MethodChoice {
    /// Says which methods are to be had besides parallel syncs.
    #[must_use]
    pub fn new(shared_commit: bool, whole_fs: bool) -> Self {
        let class = SizeClass {
            parallel_ns: None,
            whole_fs_ns: None,
            groups_since_trial: 0,
            trial_interval: TRIAL_INTERVAL_FIRST,
        };
        Self { shared_commit, whole_fs, classes: [class; SIZE_CLASSES] }
    }

    /// The method for a group of `ops`.
    pub fn choose(&mut self, ops: usize) -> FenceMethod {
        // A request alone is synced as its program asked: nothing to share.
        if self.shared_commit && ops > 1 {
            return FenceMethod::SharedCommit;
        }
        if !self.whole_fs || ops < WHOLE_FS_OPS_MIN {
            return FenceMethod::Parallel;
        }
        let class = &mut self.classes[size_class(ops)];
        let better = class.better();
        class.groups_since_trial += 1;
        if class.groups_since_trial < class.trial_interval {
            return better;
        }
        class.groups_since_trial = 0;
        match better {
            FenceMethod::WholeFs => FenceMethod::Parallel,
            _ => FenceMethod::WholeFs,
        }
    }

    /// Takes in how long a group of `ops` took.
    pub fn observe(&mut self, method: FenceMethod, ops: usize, service: Duration) {
        if self.shared_commit || !self.whole_fs || ops < WHOLE_FS_OPS_MIN {
            return;
        }
        let class = &mut self.classes[size_class(ops)];
        let better = class.better();
        let was_trial = method != better;
        let sample = service.as_nanos() as f64;
        let mean = match method {
            FenceMethod::WholeFs => &mut class.whole_fs_ns,
            _ => &mut class.parallel_ns,
        };
        // A trial is rare, so its latest result counts for half; the method in
        // use is averaged over the last eight groups or so.
        let weight = if was_trial { 0.5 } else { 0.125 };
        *mean = Some(mean.map_or(sample, |mean| mean + weight * (sample - mean)));
        if was_trial {
            let confirmed = class.better() == better;
            class.trial_interval = if confirmed {
                (class.trial_interval * 2).min(TRIAL_INTERVAL_MAX)
            } else {
                TRIAL_INTERVAL_MIN
            };
        }
    }
}

impl SizeClass {
    fn better(&self) -> FenceMethod {
        match (self.parallel_ns, self.whole_fs_ns) {
            (Some(parallel), Some(whole_fs)) if whole_fs < WHOLE_FS_ADVANTAGE * parallel => {
                FenceMethod::WholeFs
            }
            _ => FenceMethod::Parallel,
        }
    }
}

fn size_class(ops: usize) -> usize {
    let class = (ops / WHOLE_FS_OPS_MIN).max(1).ilog2() as usize;
    class.min(SIZE_CLASSES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `groups` groups of `ops` and counts how often each method was used.
    fn drive(
        choice: &mut MethodChoice,
        groups: usize,
        ops: usize,
        cost_us: [u64; 2],
    ) -> [usize; 2] {
        let mut used = [0; 2];
        for _ in 0..groups {
            let method = choice.choose(ops);
            let index = usize::from(method == FenceMethod::WholeFs);
            used[index] += 1;
            choice.observe(method, ops, Duration::from_micros(cost_us[index]));
        }
        used
    }

    #[test]
    fn the_cheaper_method_is_used_nearly_always() {
        let used = drive(&mut MethodChoice::new(false, true), 10_000, 16, [5000, 1000]);
        assert!(used[1] > 9_900, "{used:?}");
        let used = drive(&mut MethodChoice::new(false, true), 10_000, 16, [1000, 5000]);
        assert!(used[0] > 9_900, "{used:?}");
        assert!(used[1] > 0, "the other method must be tried at all: {used:?}");
    }

    #[test]
    fn a_shared_commit_is_used_wherever_it_can_be() {
        let mut choice = MethodChoice::new(true, true);
        assert_eq!(choice.choose(1), FenceMethod::Parallel);
        for ops in [2, 7, 64, 4096] {
            assert_eq!(choice.choose(ops), FenceMethod::SharedCommit);
        }
    }

    #[test]
    fn a_change_is_noticed() {
        let mut choice = MethodChoice::new(false, true);
        drive(&mut choice, 1000, 32, [1000, 1500]);
        let used = drive(&mut choice, 10_000, 32, [2000, 1000]);
        assert!(used[1] > 8_000, "{used:?}");
    }

    #[test]
    fn a_narrow_advantage_is_none() {
        let used = drive(&mut MethodChoice::new(false, true), 10_000, 16, [1000, 800]);
        assert!(used[0] > 9_900, "{used:?}");
    }

    #[test]
    fn small_groups_and_unable_filesystems_use_parallel_syncs() {
        let used =
            drive(&mut MethodChoice::new(false, true), 1000, WHOLE_FS_OPS_MIN - 1, [9000, 1]);
        assert_eq!(used, [1000, 0]);
        let used = drive(&mut MethodChoice::new(false, false), 1000, 64, [9000, 1]);
        assert_eq!(used, [1000, 0]);
    }
}
