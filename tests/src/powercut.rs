//! Power cuts: does what programs were promised survive?
//!
//! A campaign for each workload: make a disk and a filesystem, run the workload on a lanefs mount over
//! it (or on the filesystem alone), take down every promise with the disk's position, then make images
//! of what a cut could have left, let the filesystem recover on each, and check every promise given
//! before the cut.
//!
//! | part | what it does |
//! | --- | --- |
//! | [`notes`] | who was promised what, when |
//! | [`workload`] | what runs, and what it must find again |
//! | [`recording`] | one run |
//! | [`cuts`] | where to cut |
//! | [`checking`] | serve, recover, judge |
//! | [`cases`] | losses kept and judged again |

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use self::checking::{Outcome, Verdict, judge};
use self::cuts::Cuts;
use self::filesystem::Filesystem;
use self::recording::{Subject, record};
use self::workload::WORKLOADS;

pub mod cases;
pub mod checking;
pub mod cuts;
pub mod filesystem;
pub mod notes;
pub mod recording;
pub mod workload;

/// Losses of one workload that are kept on disk and shown.
const KEPT_LOSSES_MAX: usize = 3;
/// Images of one recording; more come from another run of the workload.
const IMAGES_PER_RECORDING: u64 = 500;

/// Arguments of `powercut`.
#[derive(Debug, clap::Args)]
pub struct PowercutArgs {
    /// Filesystem: ext4, ext4-fast-commit, xfs or btrfs.
    #[arg(long, default_value = "ext4")]
    pub fs: Filesystem,
    /// What makes groups durable on the mount: backing, log or auto. `none`: no lanefs at all.
    #[arg(long, default_value = "auto", value_parser = ["backing", "log", "auto", "none"])]
    pub fence: String,
    /// One workload; all if left out.
    #[arg(long, value_parser = known_workload)]
    pub workload: Option<String>,
    /// Images for each workload.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub images: u64,
    /// Where all chance comes from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// A bug on purpose: the mount answers one sync in N without making it.
    #[arg(long, value_name = "N")]
    pub plant_lie: Option<u32>,
    /// Judge a kept case again.
    #[arg(long, value_name = "DIRECTORY")]
    pub replay: Option<PathBuf>,
    /// One JSON object a line for each workload.
    #[arg(long)]
    pub json: bool,
}

impl PowercutArgs {
    fn subject(&self) -> Subject {
        if self.fence == "none" {
            return Subject::Bare;
        }
        let mut options = format!("allow_other,fence={}", self.fence);
        if let Some(count) = self.plant_lie {
            options.push_str(&format!(",test_lie_one_in={count}"));
        }
        Subject::Lanefs { options }
    }
}

fn known_workload(name: &str) -> Result<String, String> {
    workload::by_name(name, 0).map(|_| name.to_owned())
}

/// What came of one workload.
struct Line {
    workload: &'static str,
    verdict: Verdict,
    images_per_s: f64,
    suspects: usize,
}

/// Runs the campaign; true if nothing was lost and nothing refused.
///
/// # Errors
/// It could not be run, or was used wrongly.
pub fn run(args: &PowercutArgs, stop: &AtomicBool) -> Result<bool, String> {
    if let Some(directory) = &args.replay {
        return replay(directory);
    }
    let subject = args.subject();
    let wanted = |name: &str| args.workload.as_ref().is_none_or(|wanted| wanted == name);
    let mut lines = Vec::new();
    for (name, _) in WORKLOADS.iter().filter(|(name, _)| wanted(name)) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let line = campaign(args, &subject, name, stop)?;
        if args.json {
            println!("{}", json_line(args, &line));
        }
        lines.push(line);
    }
    if !args.json {
        print_table(args, &lines);
    }
    report_refusals(args, &lines);
    if stop.load(Ordering::Relaxed) {
        return Err("interrupted; the lines above count what was judged until then".to_owned());
    }
    Ok(lines.iter().all(|line| line.verdict.losses.is_empty() && line.verdict.refused == 0))
}

fn campaign(
    args: &PowercutArgs,
    subject: &Subject,
    name: &'static str,
    stop: &AtomicBool,
) -> Result<Line, String> {
    let progress = progress_bar(args, name);
    let start = Instant::now();
    let mut line =
        Line { workload: name, verdict: Verdict::default(), images_per_s: 0.0, suspects: 0 };
    let mut round = 0;
    while line.verdict.images < args.images && !stop.load(Ordering::Relaxed) {
        let seed = args.seed + 1000 * round;
        round += 1;
        let workload = workload::by_name(name, seed)?;
        let recording = record(args.fs, subject, &*workload).map_err(|e| format!("{name}: {e}"))?;
        let cuts = Cuts::new(&recording, seed);
        line.suspects += cuts.suspects_count();
        let count = (args.images - line.verdict.images).min(IMAGES_PER_RECORDING);
        let tick = || progress.inc(1);
        let verdict = judge(&recording, args.fs, &*workload, cuts, count, stop, &tick)?;
        for loss in verdict.losses.iter().take(KEPT_LOSSES_MAX) {
            let directory = cases::keep(args.fs, name, seed, loss)?;
            progress.suspend(|| {
                eprintln!(
                    "LOST ({name}, seed {seed}, position {}): {}",
                    loss.cut.position.0, loss.what
                );
                eprintln!(
                    "  again: cargo run --release -p tests -- powercut --replay {}",
                    directory.display()
                );
            });
        }
        merge(&mut line.verdict, verdict);
    }
    progress.finish_and_clear();
    line.images_per_s = line.verdict.images as f64 / start.elapsed().as_secs_f64();
    Ok(line)
}

fn merge(all: &mut Verdict, more: Verdict) {
    all.images += more.images;
    all.distinct += more.distinct;
    all.losses.extend(more.losses);
    all.refused += more.refused;
    all.refusal = all.refusal.take().or(more.refusal);
}

fn progress_bar(args: &PowercutArgs, name: &str) -> ProgressBar {
    if args.json {
        return ProgressBar::hidden();
    }
    let template = "{msg:<14} {bar:30} {pos}/{len} images, {per_sec}, {eta} left";
    let style = ProgressStyle::with_template(template).expect("the template is constant");
    ProgressBar::new(args.images).with_style(style).with_message(name.to_owned())
}

fn json_line(args: &PowercutArgs, line: &Line) -> serde_json::Value {
    json!({
        "fs": args.fs.name(),
        "fence": args.fence,
        "workload": line.workload,
        "images": line.verdict.images,
        "distinct": line.verdict.distinct,
        "lost": line.verdict.losses.len(),
        "refused": line.verdict.refused,
        "images_per_s": (line.images_per_s * 10.0).round() / 10.0,
        "seed": args.seed,
        "unflushed_acks": line.suspects,
    })
}

fn print_table(args: &PowercutArgs, lines: &[Line]) {
    let lanefs =
        if args.fence == "none" { "no lanefs".to_owned() } else { format!("fence {}", args.fence) };
    println!("{} with {lanefs}, seed {}", args.fs.name(), args.seed);
    println!(
        "  {:<14}{:>8}{:>10}{:>8}{:>9}{:>10}{:>16}",
        "workload", "images", "distinct", "lost", "refused", "images/s", "acks, no flush"
    );
    for line in lines {
        let verdict = &line.verdict;
        println!(
            "  {:<14}{:>8}{:>10}{:>8}{:>9}{:>10.1}{:>16}",
            line.workload,
            verdict.images,
            verdict.distinct,
            verdict.losses.len(),
            verdict.refused,
            line.images_per_s,
            line.suspects
        );
    }
}

fn report_refusals(args: &PowercutArgs, lines: &[Line]) {
    for line in lines {
        if let Some(refusal) = &line.verdict.refusal {
            eprintln!("refused ({}, seed {}): {refusal}", line.workload, args.seed);
        }
    }
}

fn replay(directory: &std::path::Path) -> Result<bool, String> {
    match cases::replay(directory)? {
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
