//! Power cuts: does what programs were promised survive?
//!
//! A campaign for each workload: make a disk and a filesystem, run the workload on a lanefs mount over
//! it (or on the filesystem alone), take down every promise with the disk's position, then make images
//! of what a cut could have left, let the filesystem and lanefs recover on each, and check every
//! promise given before the cut.
//!
//! | part | what it does |
//! | --- | --- |
//! | [`args`] | what is asked for |
//! | [`notes`] | who was promised what, when |
//! | [`workload`] | what runs, and what it must find again |
//! | [`recording`] | one run, with a fault or a killed daemon in it if wanted |
//! | [`daemon`] | a mount that may fail |
//! | [`cuts`] | where to cut |
//! | [`recovery`] | what lanefs does to an image first |
//! | [`checking`] | serve, recover, judge |
//! | [`nested`] | cuts during recovery |
//! | [`snapshot`] | a directory, to be found the same again |
//! | [`report`] | what came of it |
//! | [`cases`] | losses kept and judged again |

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

pub use self::args::PowercutArgs;
use self::cases::Origin;
use self::checking::{Loss, Outcome, Rules, judge};
use self::cuts::Cuts;
use self::recording::{Mishap, Recording, Run, record};
use self::report::{Line, Progress};
use self::workload::{Entry, Parts, WORKLOADS};

pub mod args;
pub mod cases;
pub mod checking;
pub mod cuts;
pub mod daemon;
pub mod filesystem;
pub mod nested;
pub mod notes;
pub mod recording;
pub mod recovery;
pub mod report;
pub mod snapshot;
pub mod workload;

/// Losses of one workload that are kept on disk and shown.
const KEPT_LOSSES_MAX: usize = 3;
/// Images of one recording; more come from another run of the workload.
const IMAGES_PER_RECORDING: u64 = 250;
/// The same where what happens to the run is of interest: many runs, few images of each.
const IMAGES_PER_KILL: u64 = 25;
const IMAGES_PER_FAULT: u64 = 15;

/// Runs the campaign; true if nothing was lost and nothing refused.
///
/// # Errors
/// It could not be run, or was used wrongly.
pub fn run(args: &PowercutArgs, stop: &AtomicBool) -> Result<bool, String> {
    if let Some(directory) = &args.replay {
        return replay(directory, args.explain);
    }
    let wanted = |entry: &&Entry| args.workload.as_ref().is_none_or(|wanted| wanted == entry.name);
    let mut lines = Vec::new();
    for entry in WORKLOADS.iter().filter(wanted) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let line = if entry.needs_log && !args.promises_of_log() {
            Line::skipped(entry.name, "only a log keeps that: --fence log")
        } else if args.restarts && entry.name == "mmap" {
            // A restart syncs the filesystem at any moment, so also between two stores of a program
            // to one sector: that sector is then half of each, on any filesystem.
            Line::skipped(entry.name, "a sector may be written while it is stored to")
        } else {
            campaign(args, entry.name, stop)?
        };
        if args.json {
            println!("{}", report::json_line(args, &line));
        }
        lines.push(line);
    }
    if !args.json {
        report::print_table(args, &lines);
    }
    if stop.load(Ordering::Relaxed) {
        return Err("interrupted; the lines above count what was judged until then".to_owned());
    }
    Ok(lines.iter().all(Line::is_good))
}

fn campaign(args: &PowercutArgs, name: &'static str, stop: &AtomicBool) -> Result<Line, String> {
    let progress = Progress::new(args, name);
    let mishap = args.mishap();
    let images_each = match mishap {
        Mishap::None | Mishap::Restarts => IMAGES_PER_RECORDING,
        Mishap::Kill => IMAGES_PER_KILL,
        Mishap::Faults => IMAGES_PER_FAULT,
    };
    let mut line = Line::new(name);
    let start = Instant::now();
    while line.verdict.images < args.images && !stop.load(Ordering::Relaxed) {
        let round = line.recordings;
        let seed = args.seed + 1000 * round;
        let (subject, recovery) = (args.subject(round), args.recovery(round));
        let rules = Rules { filesystem: args.fs, recovery, nested: args.nested };
        let workload = Parts::new(name, seed, mishap.parts())?;
        let (log, forgive_shaken) = (args.promises_of_log(), args.forgives_shaken());
        let at_close = args.promises_at_close();
        let run = Run { mishap, log, at_close, forgive_shaken, seed, round };
        progress.recording(round);
        let recording = record(args.fs, &subject, &workload, run)
            .map_err(|error| format!("{name}, seed {seed}: {error}"))?;
        line.recordings += 1;
        line.recording_time = start.elapsed() - line.judging_time;
        let cuts = Cuts::new(&recording, seed);
        line.suspects += cuts.suspects_count();
        line.parts_failed += recording.parts_failed;
        let count = (args.images - line.verdict.images).min(images_each);
        let tick = |images| progress.judged(images);
        let judging = Instant::now();
        let verdict = judge(&rules, &recording, &workload, cuts, count, stop, &tick)?;
        line.judging_time += judging.elapsed();
        for loss in &recording.live_losses {
            progress.say(&format!("LOST ({name}, seed {seed}), without a power cut: {loss}"));
        }
        line.live_losses += recording.live_losses.len();
        for loss in &verdict.losses {
            if line.kept < KEPT_LOSSES_MAX {
                line.kept += 1;
                let run = (name, &*args.mount_options(round), seed, mishap);
                keep(args, run, &recording, loss, &progress)?;
            }
        }
        line.verdict.add(verdict);
    }
    progress.finish();
    line.elapsed = start.elapsed();
    Ok(line)
}

fn keep(
    args: &PowercutArgs,
    (name, options, seed, mishap): (&str, &str, u64, Mishap),
    recording: &Recording,
    loss: &Loss,
    progress: &Progress,
) -> Result<(), String> {
    let origin = Origin {
        filesystem: args.fs,
        fence: &args.fence,
        options,
        workload: name,
        seed,
        parts: mishap.parts(),
        story: &recording.story,
    };
    let directory = cases::keep(&origin, loss)?;
    let what = if loss.refused { "REFUSED" } else { "LOST" };
    let position = loss.cut.position.0;
    progress.say(&format!("{what} ({name}, seed {seed}, position {position}): {}", loss.what));
    if !recording.story.is_empty() {
        progress.say(&format!("  before that: {}", recording.story.join("; ")));
    }
    progress.say(&format!("  {}", loss.how));
    progress.say(&format!(
        "  again: cargo run --release -p tests -- powercut --replay {}",
        directory.display()
    ));
    Ok(())
}

fn replay(directory: &std::path::Path, explain: u64) -> Result<bool, String> {
    match cases::replay(directory, explain, |line| println!("{line}"))? {
        Outcome::Kept => {
            println!("kept: every promise holds");
            Ok(true)
        }
        Outcome::Lost(what) => {
            println!("lost: {what}");
            Ok(false)
        }
        Outcome::Refused(reason) => {
            println!("refused: {reason}");
            Ok(false)
        }
    }
}
