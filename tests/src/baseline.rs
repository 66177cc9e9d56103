//! What durability costs without lanefs and with it, on a disk whose flush takes a known time.
//!
//! ```text
//!   BaselineArgs  which cells: filesystem x workload x flush time x threads
//!   bench         one disk and one filesystem; two directories on it: `bare`, and `tree` below lanefs
//!   workload      what a thread does again and again: append, overwrite, replace, varmail
//!   slice         W threads work for part of a second; the disk counts meanwhile
//!   cell          bare and lanefs take turns, slice by slice; medians
//!   report        one object a line, or a table; CSV and figures (plot)
//! ```
//!
//! Times on a shared machine are noise, so a ratio is the median over pairs of neighbouring slices,
//! and what counts are counts: flushes as the disk saw them, requests as the daemon saw them. Both
//! sides are on the same filesystem, so they share its age and its journal; each cell has a daemon of
//! its own, so that none remembers the flush time of the cell before.
//!
//! Nothing is left behind after success, failure, SIGINT, SIGTERM and SIGHUP: everything is taken
//! down by `Drop`, and the signals only ask for an early end. What SIGKILL leaves is removed by the
//! next test run (see [`scratch`](crate::scratch)).

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::ProgressBar;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

pub use self::args::BaselineArgs;
use self::bench::Bench;
pub use self::bench::Filesystem;
use self::cell::{Cell, measure_cell};
pub use self::cell::{Comparison, Measurement, Subject};
use self::report::Report;
use self::slice::Timing;
pub use self::workload::Workload;
use crate::binary;

mod args;
mod bench;
mod cell;
mod plot;
mod report;
mod slice;
mod table;
mod workload;

// Why measuring ended before its end.
enum End {
    Interrupted,
    Failed(String),
}

impl End {
    // Says where it happened.
    fn at(self, place: &impl Display) -> End {
        match self {
            End::Failed(error) => End::Failed(format!("{place}: {error}")),
            End::Interrupted => End::Interrupted,
        }
    }
}

impl From<String> for End {
    fn from(error: String) -> End {
        End::Failed(error)
    }
}

impl From<End> for String {
    fn from(end: End) -> String {
        match end {
            End::Failed(error) => error,
            End::Interrupted => "interrupted; nothing is left mounted or running".to_owned(),
        }
    }
}

/// Measures what `args` ask for and prints it: `tests baseline`.
///
/// # Errors
/// The machine cannot do it, something failed on the way, or a signal came. What was measured until
/// then is printed and written.
pub fn run(args: &BaselineArgs) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("this needs root: it mounts filesystems".to_owned());
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| format!("cannot watch signals: {error}"))?;
    }
    let mut report = Report::new(args);
    let progress = report.progress().clone();
    let outcome = measure(args, &stop, &progress, |comparison| report.add(comparison));
    let written = report.finish();
    outcome?;
    written
}

/// The same for a test: prints nothing, writes nothing.
///
/// # Errors
/// As [`run`].
pub fn collect(args: &BaselineArgs) -> Result<Vec<Comparison>, String> {
    let mut comparisons = Vec::new();
    measure(args, &AtomicBool::new(false), &ProgressBar::hidden(), |comparison| {
        comparisons.push(comparison);
        Ok(())
    })?;
    Ok(comparisons)
}

// Cell by cell; `each` gets what was found at once, so that an early end loses only one cell.
fn measure(
    args: &BaselineArgs,
    stop: &AtomicBool,
    progress: &ProgressBar,
    mut each: impl FnMut(Comparison) -> Result<(), String>,
) -> Result<(), End> {
    progress.set_message("building lanefs");
    binary::lanefs();
    for &fs in &args.filesystems {
        progress.set_message(format!("making {fs}"));
        let bench = Bench::new(fs).map_err(|error| format!("{fs}: {error}"))?;
        for &workload in &args.workloads {
            for (flush_ms, threads) in args.grid() {
                if stop.load(Ordering::Relaxed) {
                    return Err(End::Interrupted);
                }
                let cell = Cell { fs, workload, threads, flush_ms };
                progress.set_message(cell.to_string());
                let timing = Timing::new(args.seconds, cell.flush_time());
                let outcome = measure_cell(&bench, cell, timing, stop, progress);
                each(outcome.map_err(|end| end.at(&cell))?)?;
            }
            bench.clear().map_err(|error| format!("{fs}: cannot remove files: {error}"))?;
        }
    }
    Ok(())
}
