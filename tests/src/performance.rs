//! Is lanefs faster than the filesystem alone? `tests performance` measures every promise about it.
//!
//! ```text
//!   PerformanceArgs  which gates, which mount options, how long
//!   Gate             one promise and its figures
//!     gates            those that are contests (crate::contest): a table of what must be reached
//!     trial            runs such a table
//!     lone, durable,   what no contest shows: waiting, round trips, syncs that cost nothing,
//!     recovery         recovery from a full log
//!   Row              one figure: bare, lanefs, ratio, what is required, whether it is reached
//!   report           a table for each gate, or one object a line
//! ```
//!
//! Both sides run in the same process, on equal disks, in turns; so what else the machine does
//! slows both. A ratio says how many times better lanefs is: above 1 it is faster, or flushes less.
//!
//! Nothing is left behind, as in [`baseline`](crate::baseline).

use std::fmt;
use std::sync::atomic::AtomicBool;

use clap::ValueEnum;
use serde::Serialize;

use self::report::Report;
use self::row::Row;
use crate::binary;
use crate::contest::{self, End, Watch, words};
use crate::mounted::DEFAULT_OPTIONS;

mod durable;
mod gates;
mod lone;
mod recovery;
mod report;
mod row;
mod trial;

/// Show that lanefs is faster than the bare filesystem.
///
/// Measures both in turns and compares with what must be reached. All gates take about ten minutes.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Exit codes: 0 everything required is reached; 1 something is not, or it failed; 2 usage.

Examples:
  cargo run --release -p tests -- performance
  cargo run --release -p tests -- performance latency own-disk --options fence=log
  cargo run --release -p tests -- performance flushes --seconds 10 --json")]
pub struct PerformanceArgs {
    /// Which gates; all if left out.
    #[arg(value_name = "GATE", value_enum)]
    pub gates: Vec<Gate>,

    /// Print one JSON object a line instead of tables, each as soon as it is known.
    #[arg(long)]
    pub json: bool,

    /// Options of the lanefs mount, such as fence=log, beside those of all tests.
    #[arg(long, value_name = "MOUNT_OPTIONS")]
    pub options: Option<String>,

    /// How long to measure each side of each case, in seconds: 0.5 to 120.
    #[arg(long, value_name = "S", value_parser = contest::seconds, default_value_t = 3.0)]
    pub seconds: f64,
}

/// A promise about speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// flushes of the disk for one operation, all counted
    Flushes,
    /// median time of an operation, against ext4, ext4 with fast_commit, and XFS for information
    Latency,
    /// the same on the machine's own disk: ext4 on a file of it, through direct I/O
    OwnDisk,
    /// who is alone does not wait for others
    Lone,
    /// median time that programs take: SQLite, git, dpkg
    Programs,
    /// many threads in one file or one directory; syncs of what is durable already
    Shared,
    /// writes to files that are never synced
    Unsynced,
    /// time of `lanefs recover` with a full log (always with fence=log)
    Recovery,
}

impl PerformanceArgs {
    fn gates(&self) -> &[Gate] {
        if self.gates.is_empty() { Gate::value_variants() } else { &self.gates }
    }

    fn mount_options(&self) -> String {
        let own = self.options.as_deref().filter(|options| !options.is_empty());
        own.map_or(DEFAULT_OPTIONS.to_owned(), |own| format!("{DEFAULT_OPTIONS},{own}"))
    }
}

impl Gate {
    fn measure(self, lab: &mut Lab<'_>) -> Result<(), End> {
        trial::run(self, lab)?;
        match self {
            Gate::Lone => lone::measure(lab),
            Gate::Shared => durable::measure(lab),
            Gate::Recovery => recovery::measure(lab),
            _ => Ok(()),
        }
    }

    // How often the progress bar goes on.
    fn steps(self, seconds: f64) -> u64 {
        let others = match self {
            Gate::Lone => lone::steps(seconds),
            Gate::Shared => durable::STEPS,
            Gate::Recovery => recovery::STEPS,
            _ => 0,
        };
        others + trial::steps(self, seconds)
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&words::name(self))
    }
}

// What a gate needs to be measured.
struct Lab<'l> {
    options: String,
    seconds: f64,
    watch: Watch<'l>,
    // Gets each row as soon as it is known.
    report: &'l mut Report,
}

impl Lab<'_> {
    fn show(&mut self, row: &Row) -> Result<(), End> {
        Ok(self.report.add(row)?)
    }
}

/// Measures the gates that `args` ask for and prints what was found; true if everything required is
/// reached.
///
/// # Errors
/// The machine cannot do it, something failed on the way, or `stop` was set. What was measured
/// until then is printed.
pub fn run(args: &PerformanceArgs, stop: &AtomicBool) -> Result<bool, String> {
    contest::check_root()?;
    let steps = args.gates().iter().map(|gate| gate.steps(args.seconds)).sum();
    let mut report = Report::new(args.json, steps);
    let progress = report.progress().clone();
    let watch = Watch { stop, progress: &progress };
    let (options, seconds) = (args.mount_options(), args.seconds);
    let mut lab = Lab { options, seconds, watch, report: &mut report };
    progress.set_message("building lanefs");
    binary::lanefs();
    let outcome = args.gates().iter().try_for_each(|&gate| {
        watch.check()?;
        gate.measure(&mut lab).map_err(|end| end.at(&gate))
    });
    let reached = report.finish()?;
    outcome?;
    Ok(reached)
}
