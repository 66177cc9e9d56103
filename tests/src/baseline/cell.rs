//! One cell of the grid: bare and lanefs take turns.

use std::fmt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::Value;

use super::End;
use super::bench::{Bench, Filesystem};
use super::slice::{Slice, Timing, run_slice};
use super::workload::{Worker, Workload};
use crate::mounted::{DEFAULT_OPTIONS, Mounted};

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    pub fs: Filesystem,
    pub workload: Workload,
    pub threads: usize,
    pub flush_ms: f64,
}

impl Cell {
    pub fn flush_time(self) -> Duration {
        Duration::from_secs_f64(self.flush_ms / 1e3)
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cell { fs, workload, threads, flush_ms } = self;
        write!(formatter, "{fs}, {workload}, flush {flush_ms} ms, {threads} threads")
    }
}

/// Without lanefs or with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// The filesystem alone.
    Bare,
    /// A lanefs mount over it.
    Lanefs,
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Subject::Bare => "the bare filesystem",
            Subject::Lanefs => "lanefs",
        })
    }
}

/// What one side of a cell did: a line of the results.
#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    /// Which side.
    pub subject: Subject,
    /// The filesystem, bare or below lanefs.
    pub fs: Filesystem,
    /// What the threads did.
    pub workload: Workload,
    /// How many they were.
    pub threads: usize,
    /// How long a flush of the disk took.
    pub flush_ms: f64,
    /// Operations per second of all threads; median over the slices.
    pub ops_per_s: f64,
    /// Half of all operations took at most this.
    pub p50_us: f64,
    /// 99 of 100 operations took at most this.
    pub p99_us: f64,
    /// Flushes of the disk per operation, over all slices.
    pub flushes_per_op: f64,
    /// Requests of the kernel to the daemon per operation, over all slices; none for the bare side.
    pub requests_per_op: Option<f64>,
}

/// Both sides of a cell.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The filesystem alone.
    pub bare: Measurement,
    /// lanefs over it.
    pub lanefs: Measurement,
    /// Operations per second on lanefs by those on the bare side; median over pairs of slices.
    pub ratio: f64,
}

/// Measures one cell.
pub(super) fn measure_cell(
    bench: &Bench,
    cell: Cell,
    timing: Timing,
    stop: &AtomicBool,
    progress: &ProgressBar,
) -> Result<Comparison, End> {
    let failed = |error: std::io::Error| format!("cannot prepare the files: {error}");
    let Cell { workload, threads, .. } = cell;
    bench.disk().set_flush_time(Duration::ZERO);
    for root in [bench.bare(), bench.tree()] {
        workload.prepare(&root, threads).map_err(failed)?;
    }
    bench.settle(Duration::ZERO).map_err(failed)?;
    let mounted = Mounted::new(&bench.tree(), DEFAULT_OPTIONS);
    // After the mount: the files that the sides hold open are closed before it is unmounted.
    let mut bare = Side::new(cell, &bench.bare(), None)?;
    let mut lanefs = Side::new(cell, mounted.path(), Some(&mounted))?;
    for pair in 0..timing.slices {
        // Who comes second finds the journal fuller; so each comes first half of the time.
        let order = if pair % 2 == 0 { [&mut bare, &mut lanefs] } else { [&mut lanefs, &mut bare] };
        for side in order {
            side.take_turn(bench, timing, stop)?;
            progress.inc(1);
        }
    }
    let comparison = Comparison {
        ratio: ratio(&bare.slices, &lanefs.slices),
        bare: bare.measurement()?,
        lanefs: lanefs.measurement()?,
    };
    drop((bare, lanefs));
    bench.disk().set_flush_time(Duration::ZERO);
    mounted.unmount();
    Ok(comparison)
}

// One of the two, and what it has done so far.
struct Side<'m> {
    cell: Cell,
    mounted: Option<&'m Mounted>,
    workers: Vec<Box<dyn Worker>>,
    slices: Vec<Slice>,
    requests: u64,
}

impl<'m> Side<'m> {
    fn new(cell: Cell, root: &Path, mounted: Option<&'m Mounted>) -> Result<Self, String> {
        let workers = cell.workload.workers(root, cell.threads);
        let workers =
            workers.map_err(|error| format!("cannot open {}: {error}", root.display()))?;
        Ok(Side { cell, mounted, workers, slices: Vec::new(), requests: 0 })
    }

    fn subject(&self) -> Subject {
        if self.mounted.is_some() { Subject::Lanefs } else { Subject::Bare }
    }

    fn take_turn(&mut self, bench: &Bench, timing: Timing, stop: &AtomicBool) -> Result<(), End> {
        let ready = self.workers.iter_mut().try_for_each(|worker| worker.get_ready());
        let ready = ready.and_then(|()| bench.settle(self.cell.flush_time()));
        ready.map_err(|error| format!("between two slices: {error}"))?;
        let requests_before = self.mounted.map_or(0, requests);
        let subject = self.subject();
        let slice = run_slice(&mut self.workers, bench.disk(), timing, stop)
            .map_err(|end| end.at(&format!("a thread on {subject} failed")))?;
        self.requests += self.mounted.map_or(0, requests) - requests_before;
        self.slices.push(slice);
        Ok(())
    }

    fn measurement(&self) -> Result<Measurement, End> {
        let Cell { fs, workload, threads, flush_ms } = self.cell;
        let ops = self.slices.iter().map(|slice| slice.ops).sum::<f64>();
        let flushes = self.slices.iter().map(|slice| slice.flushes).sum::<u64>();
        let all_ops = self.slices.iter().map(|slice| slice.all_ops).sum::<u64>();
        let latencies_us = self.slices.iter().flat_map(|slice| slice.latencies_us.iter().copied());
        let latencies_us = sorted(latencies_us);
        if latencies_us.is_empty() {
            let error = format!("no operation on {} ended: raise --seconds", self.subject());
            return Err(error.into());
        }
        Ok(Measurement {
            subject: self.subject(),
            fs,
            workload,
            threads,
            flush_ms,
            ops_per_s: rounded(median(self.slices.iter().map(|slice| slice.ops_per_s)), 2),
            p50_us: rounded(percentile(&latencies_us, 50), 1),
            p99_us: rounded(percentile(&latencies_us, 99), 1),
            flushes_per_op: rounded(flushes as f64 / ops, 4),
            requests_per_op: self
                .mounted
                .map(|_| rounded(self.requests as f64 / all_ops as f64, 3)),
        })
    }
}

// All requests of the kernel so far, whatever their kind.
fn requests(mounted: &Mounted) -> u64 {
    let status = mounted.status();
    let counts = status["requests"].as_object().expect("`requests` in the status");
    counts.values().filter_map(Value::as_u64).sum()
}

fn ratio(bare: &[Slice], lanefs: &[Slice]) -> f64 {
    median(bare.iter().zip(lanefs).map(|(bare, lanefs)| lanefs.ops_per_s / bare.ops_per_s))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    percentile(&sorted(values), 50)
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values = values.collect::<Vec<_>>();
    values.sort_by(f64::total_cmp);
    values
}

// The smallest value that so many in a hundred do not exceed.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() * percent).div_ceil(100) - 1]
}

// What is beyond was not measured.
fn rounded(value: f64, digits: i32) -> f64 {
    let unit = 10f64.powi(digits);
    (value * unit).round() / unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let hundred = sorted((1..=100).rev().map(f64::from));
        assert_eq!(percentile(&hundred, 50), 50.0);
        assert_eq!(percentile(&hundred, 99), 99.0);
        assert_eq!(percentile(&[7.0], 99), 7.0);
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
    }

    #[test]
    fn numbers_are_written_as_exactly_as_they_are_known() {
        assert_eq!(rounded(0.123_456, 4), 0.1235);
        assert_eq!(rounded(14_999.96, 1), 15_000.0);
    }
}
