//! One cell of the grid: a contest, and its figures as they are written.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::contest::{
    self, Bench, Contest, End, Outcome, Record, Subject, Timing, Watch, Workload, rounded,
};
use crate::filesystem::Filesystem;
use crate::mounted::DEFAULT_OPTIONS;

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
    /// Flushes of the disk per operation, from the first operation to the last.
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
    watch: Watch<'_>,
) -> Result<Comparison, End> {
    let Cell { workload, threads, .. } = cell;
    let contest = Contest { workload, threads, flush_time: cell.flush_time(), timing };
    let outcome = contest::hold(bench, contest, DEFAULT_OPTIONS, watch)?;
    Ok(Comparison::new(cell, &outcome))
}

impl Comparison {
    fn new(cell: Cell, outcome: &Outcome) -> Self {
        let Outcome { bare, lanefs, .. } = outcome;
        let requests_per_op = Some(rounded(lanefs.requests_per_op(), 3));
        Comparison {
            bare: Measurement::new(Subject::Bare, cell, bare),
            lanefs: Measurement {
                requests_per_op,
                ..Measurement::new(Subject::Lanefs, cell, lanefs)
            },
            ratio: outcome.ops_ratio(),
        }
    }
}

impl Measurement {
    fn new(subject: Subject, cell: Cell, record: &Record) -> Self {
        let Cell { fs, workload, threads, flush_ms } = cell;
        Measurement {
            subject,
            fs,
            workload,
            threads,
            flush_ms,
            ops_per_s: rounded(record.ops_per_s(), 2),
            p50_us: rounded(record.percentile_us(50), 1),
            p99_us: rounded(record.percentile_us(99), 1),
            flushes_per_op: rounded(record.flushes_per_op(), 4),
            requests_per_op: None,
        }
    }
}
