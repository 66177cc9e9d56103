//! Who replaces files fastest from a Rust program? `tests libraries` lets them take turns.
//!
//! ```text
//!   LibrariesArgs   how many threads, which flush times, how long
//!   subject         plain std, the crate fsys, the library of fs-core: one replace, or 16 in a batch
//!   round           each subject on a disk of its own, slice by slice, in turns (crate::contest)
//!   report          a table for each setting, or one object a line
//! ```
//!
//! All of it is one process, so nobody is stopped while it is another's turn: what the library does
//! later (a checkpoint) takes processor time from the others. Flushes and journal commits are
//! counted from a subject's first operation to its last, those between its turns too.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use self::report::{Report, Row};
use self::round::Round;
use self::subject::Subject;
use crate::contest::{self, End, Ground, Timing, Watch};
use crate::filesystem::Filesystem;

mod report;
mod round;
mod subject;

const THREADS: [usize; 4] = [1, 4, 16, 64];
const FLUSH_MS: [f64; 2] = [0.5, 2.0];
const THREADS_MAX: u64 = 1024;
const FLUSH_MS_MAX: f64 = 100.0;

/// Compare libraries that replace files durably.
///
/// 4 KiB at a time on ext4, on disks of memory whose flushes take a set time. All takes about four
/// minutes.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Exit codes: 0 everything required is reached; 1 something is not, or it failed; 2 usage.

Examples:
  cargo run --release -p tests -- libraries
  cargo run --release -p tests -- libraries --threads 1,16 --flush-ms 2 --seconds 10 --json")]
pub struct LibrariesArgs {
    /// How many threads replace files, each its own: 1 to 1024.
    #[arg(long, value_name = "T", value_delimiter = ',', default_values_t = THREADS.map(|t| t as u64),
          value_parser = clap::value_parser!(u64).range(1..=THREADS_MAX))]
    pub threads: Vec<u64>,

    /// How long a flush of the disk takes, in milliseconds: 0 to 100.
    #[arg(long, value_name = "MS", value_delimiter = ',', default_values_t = FLUSH_MS,
          value_parser = flush_ms)]
    pub flush_ms: Vec<f64>,

    /// Print one JSON object a line instead of tables, each as soon as it is known.
    #[arg(long)]
    pub json: bool,

    /// How long to measure each subject in each setting, in seconds: 0.5 to 120.
    #[arg(long, value_name = "S", value_parser = contest::seconds, default_value_t = 3.0)]
    pub seconds: f64,
}

fn flush_ms(text: &str) -> Result<f64, String> {
    contest::between(text, 0.0, FLUSH_MS_MAX, "milliseconds")
}

/// Measures and prints; true if everything required is reached.
///
/// # Errors
/// The machine cannot do it, something failed on the way, or `stop` was set. What was measured
/// until then is printed.
pub fn run(args: &LibrariesArgs, stop: &AtomicBool) -> Result<bool, String> {
    contest::check_root()?;
    let slices = u64::from(Timing::new(args.seconds, Duration::ZERO).slices);
    let settings = (args.threads.len() * args.flush_ms.len()) as u64;
    let steps = settings * slices * Subject::ALL.len() as u64;
    let mut report = Report::new(args.json, steps);
    let progress = report.progress().clone();
    let watch = Watch { stop, progress: &progress };
    let outcome = measure(args, watch, &mut report);
    let reached = report.finish()?;
    outcome?;
    Ok(reached)
}

fn measure(args: &LibrariesArgs, watch: Watch<'_>, report: &mut Report) -> Result<(), End> {
    let ground = |subject| Ok((subject, Ground::in_memory(Filesystem::Ext4)?));
    let grounds = Subject::ALL.map(ground).into_iter().collect::<std::io::Result<Vec<_>>>();
    let grounds = grounds.map_err(|error| format!("no disk: {error}"))?;
    for &flush_ms in &args.flush_ms {
        let flush_time = Duration::from_secs_f64(flush_ms / 1e3);
        let timing = Timing::new(args.seconds, flush_time);
        for &threads in &args.threads {
            watch.check()?;
            watch.progress.set_message(format!("{threads} threads, {flush_ms} ms"));
            let mut round = Round::new(&grounds, threads as usize, flush_time)?;
            for _ in 0..timing.slices {
                round.turns(timing, watch)?;
            }
            let results = round.finish()?;
            for row in Row::all(threads, flush_ms, &results) {
                report.add(&row)?;
            }
        }
    }
    Ok(())
}
