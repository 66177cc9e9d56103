//! The gates that are contests: what is compared, and what must be reached.

use super::Gate;
use super::row::{Requirement, Setting};
use crate::contest::Workload;
use crate::filesystem::Filesystem;

/// One contest of a gate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trial {
    pub setting: Setting,
    pub figure: Figure,
    pub required: Option<Requirement>,
}

/// What is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figure {
    /// Flushes of the disk for one operation.
    Flushes,
    /// Median time of an operation.
    Time,
    /// Operations or bytes a second.
    Rate,
}

use Figure::{Flushes, Rate, Time};
use Filesystem::{Ext4, Ext4FastCommit, Xfs};
use Requirement::{LanefsMax, RatioAbove, RatioMin};
use Workload::{Append, Replace};

const FLUSH_MS: f64 = 2.0;

/// The contests of a gate, those on the same disks together.
pub(super) fn trials(gate: Gate) -> Vec<Trial> {
    match gate {
        Gate::Flushes => flushes(),
        Gate::Latency => [against_ext4(), against_fast_commit(), against_xfs()].concat(),
        Gate::OwnDisk => own_disk(),
        Gate::Programs => programs(),
        Gate::Shared => shared(),
        Gate::Unsynced => unsynced(),
        Gate::Lone | Gate::Recovery => Vec::new(),
    }
}

// lanefs over ext4 against ext4 on a disk of memory; nothing is required yet.
fn trial(figure: Figure, workload: Workload, threads: usize, flush_ms: f64) -> Trial {
    let setting =
        Setting { workload, threads, flush_ms: Some(flush_ms), bare_fs: Ext4, lanefs_fs: Ext4 };
    Trial { setting, figure, required: None }
}

impl Trial {
    fn requires(self, required: Requirement) -> Self {
        Trial { required: Some(required), ..self }
    }
}

fn flushes() -> Vec<Trial> {
    // A flush for a group, and hardly a group more than there must be.
    let append = [(1, 1.02), (4, 0.27), (16, 0.07), (64, 0.02)].map(|limit| (Append, limit));
    let replace = [(1, 2.05), (4, 0.55), (16, 0.14), (64, 0.04)].map(|limit| (Replace, limit));
    let trials = append.into_iter().chain(replace).map(|(workload, (threads, max))| {
        trial(Flushes, workload, threads, FLUSH_MS).requires(LanefsMax(max))
    });
    trials.collect()
}

fn against_ext4() -> Vec<Trial> {
    let mut trials = Vec::new();
    let slow = (FLUSH_MS, [(1, 1.8), (4, 3.0), (16, 3.0)]);
    let fast = (0.5, [(1, 1.5), (4, 2.5), (16, 2.5)]);
    for (flush_ms, limits) in [slow, fast] {
        for workload in [Append, Replace] {
            trials.extend(limits.map(|(threads, min)| {
                trial(Time, workload, threads, flush_ms).requires(RatioMin(min))
            }));
        }
    }
    trials.push(trial(Time, Workload::Varmail, 16, FLUSH_MS).requires(RatioMin(2.0)));
    trials
}

// The strongest opponent that ext4 has, and lanefs over the ordinary one.
fn against_fast_commit() -> Vec<Trial> {
    let cases =
        [Append, Replace].map(|workload| [1, 2, 4, 8, 16].map(|threads| (workload, threads)));
    let trials = cases.into_iter().flatten().map(|(workload, threads)| {
        let mut trial = trial(Time, workload, threads, FLUSH_MS).requires(RatioMin(1.7));
        trial.setting.bare_fs = Ext4FastCommit;
        trial
    });
    trials.collect()
}

// For information.
fn against_xfs() -> Vec<Trial> {
    let cases = [Append, Replace].map(|workload| [1, 4, 16].map(|threads| (workload, threads)));
    let trials = cases.into_iter().flatten().map(|(workload, threads)| {
        let mut trial = trial(Time, workload, threads, FLUSH_MS);
        (trial.setting.bare_fs, trial.setting.lanefs_fs) = (Xfs, Xfs);
        trial
    });
    trials.collect()
}

fn own_disk() -> Vec<Trial> {
    let cases = [Append, Replace].map(|workload| [1, 4, 16].map(|threads| (workload, threads)));
    let trials = cases.into_iter().flatten().map(|(workload, threads)| {
        let mut trial = trial(Time, workload, threads, 0.0).requires(RatioMin(2.0));
        trial.setting.flush_ms = None;
        trial
    });
    trials.collect()
}

fn programs() -> Vec<Trial> {
    let limits = [
        (Workload::SqliteDelete, RatioMin(1.7)),
        (Workload::SqliteWal, RatioMin(1.0)),
        (Workload::GitCommit, RatioAbove(1.0)),
        (Workload::Unpack, RatioAbove(1.0)),
    ];
    limits.map(|(workload, limit)| trial(Time, workload, 1, FLUSH_MS).requires(limit)).to_vec()
}

fn shared() -> Vec<Trial> {
    let mut trials = Vec::new();
    for workload in [Workload::SharedFile, Workload::SharedAppend, Workload::SharedDirectory] {
        for flush_ms in [0.1, 0.5, FLUSH_MS] {
            for threads in [16, 32] {
                let required = (flush_ms == FLUSH_MS).then_some(RatioMin(1.0));
                trials.push(Trial { required, ..trial(Rate, workload, threads, flush_ms) });
            }
        }
    }
    trials
}

fn unsynced() -> Vec<Trial> {
    let cases = [Workload::WriteSmall, Workload::WriteLarge].map(|workload| {
        [1, 4].map(|threads| trial(Rate, workload, threads, 0.0).requires(RatioMin(0.9)))
    });
    cases.concat()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use clap::ValueEnum;

    use super::*;

    #[test]
    fn no_contest_is_held_twice_in_a_gate() {
        for gate in Gate::value_variants() {
            let trials = trials(*gate);
            let cases =
                trials.iter().map(|trial| trial.setting.to_string()).collect::<HashSet<_>>();
            assert_eq!(cases.len(), trials.len(), "{gate}");
        }
    }
}
