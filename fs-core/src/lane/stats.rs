//! What the lanes did, counted under the lane's own lock.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::policy::Nanos;
use crate::fence::{FenceOutcome, Way};
use crate::platform::FenceMethod;

/// Longest time that is told apart in a histogram: a minute.
const TIME_NS_MAX: u64 = 60_000_000_000;

/// Counters of the lanes.
pub(super) struct LaneStats {
    pub(super) requests: u64,
    pub(super) skipped: u64,
    pub(super) overflows: u64,
    pub(super) written_ahead: u64,
    groups: u64,
    solo: u64,
    carried: u64,
    group_ops_max: u64,
    whole_fs_groups: u64,
    shared_commit_groups: u64,
    file_sync_groups: u64,
    log_groups: u64,
    flush_groups: u64,
    free_groups: u64,
    errors: u64,
    last_error: Option<String>,
    hold_ns: Histogram<u64>,
    fence_ns: Histogram<u64>,
}

/// Figures of the lanes since the engine started.
#[derive(Debug, Clone, Serialize)]
pub struct LaneStatus {
    /// Sync requests, answered or waiting.
    pub sync_requests: u64,
    /// Of them, answered without a fence: durable already.
    pub skipped: u64,
    /// Fences run for the group lane, groups of one included.
    pub groups: u64,
    /// Of them, groups of one: the solo lane.
    pub solo_groups: u64,
    /// Most requests in one group.
    pub group_ops_max: u64,
    /// Mean number of requests in a group.
    pub group_ops_mean: f64,
    /// Groups made durable by one sync of the whole filesystem.
    pub whole_fs_groups: u64,
    /// Groups made durable by one journal commit for all.
    pub shared_commit_groups: u64,
    /// Groups whose files were synced each by itself.
    pub file_sync_groups: u64,
    /// Groups made durable by one write to the log and one flush.
    pub log_groups: u64,
    /// Groups whose data had its place already: one flush.
    pub flush_groups: u64,
    /// Groups that turned out to be durable already: no I/O.
    pub free_groups: u64,
    /// Requests carried out past a full queue.
    pub queue_overflows: u64,
    /// Requests whose file had so much to write that it was written ahead of its group.
    pub written_ahead: u64,
    /// Requests waiting now.
    pub pending: u64,
    /// Median time that a group was held for writers expected back, the device
    /// being free, in microseconds.
    pub hold_us_p50: f64,
    /// 99th percentile of the same.
    pub hold_us_p99: f64,
    /// Median fence time in microseconds.
    pub fence_us_p50: f64,
    /// 99th percentile of the fence time.
    pub fence_us_p99: f64,
    /// The policy's running estimate of the fence time.
    pub fence_us_estimate: Option<f64>,
    /// Requests answered with an error.
    pub errors: u64,
    /// The latest of them.
    pub last_error: Option<String>,
}

impl LaneStats {
    pub(super) fn new() -> Self {
        // Two significant digits: 30 KiB a histogram.
        let histogram = || Histogram::new_with_max(TIME_NS_MAX, 2).expect("valid bounds");
        Self {
            requests: 0,
            skipped: 0,
            overflows: 0,
            written_ahead: 0,
            groups: 0,
            solo: 0,
            carried: 0,
            group_ops_max: 0,
            whole_fs_groups: 0,
            shared_commit_groups: 0,
            file_sync_groups: 0,
            log_groups: 0,
            flush_groups: 0,
            free_groups: 0,
            errors: 0,
            last_error: None,
            hold_ns: histogram(),
            fence_ns: histogram(),
        }
    }

    pub(super) fn departed(&mut self, ops: usize, hold: Nanos) {
        self.groups += 1;
        self.solo += u64::from(ops == 1);
        self.carried += ops as u64;
        self.group_ops_max = self.group_ops_max.max(ops as u64);
        self.hold_ns.saturating_record(hold);
    }

    pub(super) fn finished(&mut self, outcome: &FenceOutcome) {
        let service = u64::try_from(outcome.service.as_nanos()).unwrap_or(u64::MAX);
        self.fence_ns.saturating_record(service);
        match outcome.way {
            Way::Backing(FenceMethod::WholeFs) => self.whole_fs_groups += 1,
            Way::Backing(FenceMethod::SharedCommit) => self.shared_commit_groups += 1,
            Way::Backing(FenceMethod::Parallel) => self.file_sync_groups += 1,
            Way::Log => self.log_groups += 1,
            Way::Flush => self.flush_groups += 1,
            Way::Nothing => self.free_groups += 1,
        }
        for error in outcome.results.iter().filter_map(|result| result.err()) {
            self.errors += 1;
            self.last_error = Some(error.to_string());
        }
    }

    pub(super) fn status(&self, pending: usize, estimate: Option<Nanos>) -> LaneStatus {
        let us = |ns: u64| ns as f64 / 1000.0;
        let mean = if self.groups == 0 { 0.0 } else { self.carried as f64 / self.groups as f64 };
        LaneStatus {
            sync_requests: self.requests,
            skipped: self.skipped,
            groups: self.groups,
            solo_groups: self.solo,
            group_ops_max: self.group_ops_max,
            group_ops_mean: mean,
            whole_fs_groups: self.whole_fs_groups,
            shared_commit_groups: self.shared_commit_groups,
            file_sync_groups: self.file_sync_groups,
            log_groups: self.log_groups,
            flush_groups: self.flush_groups,
            free_groups: self.free_groups,
            queue_overflows: self.overflows,
            written_ahead: self.written_ahead,
            pending: pending as u64,
            hold_us_p50: us(self.hold_ns.value_at_quantile(0.5)),
            hold_us_p99: us(self.hold_ns.value_at_quantile(0.99)),
            fence_us_p50: us(self.fence_ns.value_at_quantile(0.5)),
            fence_us_p99: us(self.fence_ns.value_at_quantile(0.99)),
            fence_us_estimate: estimate.map(us),
            errors: self.errors,
            last_error: self.last_error.clone(),
        }
    }
}
