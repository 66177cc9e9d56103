//! What durability costs without lanefs and with it, on a disk whose flush takes a known time.
//!
//! ```text
//!   BaselineArgs  which cells: filesystem x workload x flush time x threads
//!   cell          one contest (crate::contest), as two lines of results
//!   report        one object a line, or a table; CSV and figures (plot)
//! ```
//!
//! Each cell has a daemon of its own, so that none remembers the flush time of the cell before.
//!
//! Nothing is left behind after success, failure, SIGINT, SIGTERM and SIGHUP: everything is taken
//! down by `Drop`, and the signals only ask for an early end. What SIGKILL leaves is removed by the
//! next test run (see [`scratch`](crate::scratch)).

use std::sync::atomic::AtomicBool;

use indicatif::ProgressBar;

pub use self::args::BaselineArgs;
use self::cell::{Cell, measure_cell};
pub use self::cell::{Comparison, Measurement};
use self::report::Report;
use crate::contest::{Bench, End, Timing, Watch};
pub use crate::contest::{Subject, Workload};
pub use crate::filesystem::Filesystem;
use crate::{binary, contest};

mod args;
mod cell;
mod plot;
mod report;
mod table;

/// Measures what `args` ask for and prints it: `tests baseline`.
///
/// # Errors
/// The machine cannot do it, something failed on the way, or `stop` was set. What was measured until
/// then is printed and written.
pub fn run(args: &BaselineArgs, stop: &AtomicBool) -> Result<(), String> {
    contest::check_root()?;
    let mut report = Report::new(args);
    let progress = report.progress().clone();
    let watch = Watch { stop, progress: &progress };
    let outcome = measure(args, watch, |comparison| report.add(comparison));
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
    let watch = Watch { stop: &AtomicBool::new(false), progress: &ProgressBar::hidden() };
    measure(args, watch, |comparison| {
        comparisons.push(comparison);
        Ok(())
    })?;
    Ok(comparisons)
}

// Cell by cell; `each` gets what was found at once, so that an early end loses only one cell.
fn measure(
    args: &BaselineArgs,
    watch: Watch<'_>,
    mut each: impl FnMut(Comparison) -> Result<(), String>,
) -> Result<(), End> {
    watch.progress.set_message("building lanefs");
    binary::lanefs();
    for &fs in &args.filesystems {
        watch.progress.set_message(format!("making {fs}"));
        let bench = Bench::in_memory(fs, fs).map_err(|error| format!("{fs}: {error}"))?;
        for &workload in &args.workloads {
            for (flush_ms, threads) in args.grid() {
                watch.check()?;
                let cell = Cell { fs, workload, threads, flush_ms };
                watch.progress.set_message(cell.to_string());
                let timing = Timing::new(args.seconds, cell.flush_time());
                let outcome = measure_cell(&bench, cell, timing, watch);
                each(outcome.map_err(|end| end.at(&cell))?)?;
            }
            bench.clear().map_err(|error| format!("{fs}: cannot remove files: {error}"))?;
        }
    }
    Ok(())
}
