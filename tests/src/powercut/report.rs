//! What came of a campaign: while it runs, as a table, as JSON.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::args::PowercutArgs;
use super::checking::Verdict;

/// What came of one workload.
pub struct Line {
    /// Its name.
    pub workload: &'static str,
    /// Why it was not run, if so.
    pub skipped: Option<&'static str>,
    /// Its images.
    pub verdict: Verdict,
    /// What was lost without a power cut.
    pub live_losses: usize,
    /// Runs.
    pub recordings: u64,
    /// Parts of runs that ended with an error, on command.
    pub parts_failed: usize,
    /// Acknowledgements that came without a flush of their own.
    pub suspects: usize,
    /// Losses kept on disk.
    pub kept: usize,
    /// Time of all.
    pub elapsed: Duration,
    /// Part of it in which workloads ran.
    pub recording_time: Duration,
    /// Part of it in which images were judged.
    pub judging_time: Duration,
}

impl Line {
    /// Nothing yet.
    pub fn new(workload: &'static str) -> Self {
        Line {
            workload,
            skipped: None,
            verdict: Verdict::default(),
            live_losses: 0,
            recordings: 0,
            parts_failed: 0,
            suspects: 0,
            kept: 0,
            elapsed: Duration::ZERO,
            recording_time: Duration::ZERO,
            judging_time: Duration::ZERO,
        }
    }

    /// Not run, and why.
    pub fn skipped(workload: &'static str, why: &'static str) -> Self {
        Line { skipped: Some(why), ..Line::new(workload) }
    }

    /// Nothing was lost, nothing refused.
    pub fn is_good(&self) -> bool {
        self.verdict.lost + self.verdict.refused == 0 && self.live_losses == 0
    }

    fn lost(&self) -> u64 {
        self.verdict.lost + self.live_losses as u64
    }

    fn images_per_s(&self) -> f64 {
        self.verdict.images as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// One JSON object for a workload.
pub fn json_line(args: &PowercutArgs, line: &Line) -> Value {
    if let Some(why) = line.skipped {
        let (fs, fence) = (args.fs.name(), &args.fence);
        return json!({ "fs": fs, "fence": fence, "workload": line.workload, "skipped": why });
    }
    let verdict = &line.verdict;
    let rounded = |value: f64| (value * 10.0).round() / 10.0;
    let each_ms = |time: Duration| rounded(time.as_secs_f64() * 1e3 / verdict.images.max(1) as f64);
    json!({
        "fs": args.fs.name(),
        "fence": args.fence,
        "mishap": format!("{:?}", args.mishap()).to_lowercase(),
        "workload": line.workload,
        "images": verdict.images,
        "nested": verdict.nested,
        "killed_recoveries": verdict.killed,
        "distinct": verdict.distinct,
        "lost": line.lost(),
        "lost_live": line.live_losses,
        "refused": verdict.refused,
        "images_per_s": rounded(line.images_per_s()),
        "recordings": line.recordings,
        "parts_failed": line.parts_failed,
        "seed": args.seed,
        "unflushed_acks": line.suspects,
        "recording_s": rounded(line.recording_time.as_secs_f64()),
        "load_ms": each_ms(verdict.times.load),
        "mount_ms": each_ms(verdict.times.mount),
        "recover_ms": each_ms(verdict.times.recover),
        "check_ms": each_ms(verdict.times.check),
        "unmount_ms": each_ms(verdict.times.unmount),
    })
}

/// All workloads, for people.
pub fn print_table(args: &PowercutArgs, lines: &[Line]) {
    println!("{}", args.describe());
    println!(
        "  {:<17}{:>8}{:>8}{:>10}{:>6}{:>6}{:>9}{:>10}{:>9}{:>16}",
        "workload",
        "images",
        "nested",
        "distinct",
        "runs",
        "lost",
        "refused",
        "images/s",
        "recover",
        "acks, no flush"
    );
    for line in lines {
        if let Some(why) = line.skipped {
            println!("  {:<17} skipped: {why}", line.workload);
            continue;
        }
        let verdict = &line.verdict;
        let recover = verdict.times.recover.as_secs_f64() * 1e3 / verdict.images.max(1) as f64;
        println!(
            "  {:<17}{:>8}{:>8}{:>10}{:>6}{:>6}{:>9}{:>10.1}{:>6.1} ms{:>16}",
            line.workload,
            verdict.images,
            verdict.nested,
            verdict.distinct,
            line.recordings,
            line.lost(),
            verdict.refused,
            line.images_per_s(),
            recover,
            line.suspects
        );
    }
    let run = || lines.iter().filter(|line| line.skipped.is_none());
    let images: u64 = run().map(|line| line.verdict.images).sum();
    let seconds = run().map(|line| line.elapsed).sum::<Duration>().as_secs_f64();
    let killed: u64 = run().map(|line| line.verdict.killed).sum();
    let failed: usize = run().map(|line| line.parts_failed).sum();
    let recording = run().map(|line| line.recording_time).sum::<Duration>().as_secs_f64();
    println!(
        "  together {images} images in {seconds:.0} s ({:.1} a second; {recording:.0} s of it \
         recording), {killed} recoveries killed, {failed} parts of runs ended with an error",
        images as f64 / seconds.max(1e-9)
    );
}

/// Shows how far a workload is.
pub struct Progress(ProgressBar);

impl Progress {
    /// For this workload; nothing with `--json`, and nothing where there is no terminal.
    pub fn new(args: &PowercutArgs, name: &str) -> Self {
        if args.json {
            return Progress(ProgressBar::hidden());
        }
        let template = "{msg:<28} {bar:30} {pos}/{len} images, {per_sec}, {eta} left";
        let style = ProgressStyle::with_template(template).expect("the template is constant");
        Progress(ProgressBar::new(args.images).with_style(style).with_message(name.to_owned()))
    }

    /// A run begins.
    pub fn recording(&self, round: u64) {
        let message = self.0.message();
        let name = message.split(',').next().unwrap_or_default();
        self.0.set_message(format!("{name}, run {}", round + 1));
    }

    /// So many images more were judged.
    pub fn judged(&self, images: u64) {
        self.0.inc(images);
    }

    /// A line for people, on standard error.
    pub fn say(&self, text: &str) {
        self.0.suspend(|| eprintln!("{text}"));
    }

    /// The end.
    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}
