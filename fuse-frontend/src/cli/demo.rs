//! `lanefs demo`: what a program gains on a mount, shown and verified.
//!
//! The same writers run in turns on a scratch mount and on a bare directory of the
//! same filesystem. As root that is ext4 on a scratch disk, and in the end its power
//! is cut: the filesystem is shut down and the daemon killed while the writers write,
//! then the disk is mounted again and recovered. Every acknowledged replace and append
//! is checked afterwards, in the backing directory, without lanefs.
//!
//! Nothing is left behind, also after Ctrl-C; if the daemon dies on the way, the check
//! still runs. Only when something is lost, the scratch disk's image stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use self::report::{PowerCut, Report, Side};
use self::scratch::{Scratch, ScratchMount, kill, lanefs};
use self::workload::Workload;
use super::DemoArgs;
use super::table::print;
use crate::failure::Failure;

mod disk;
mod report;
mod scratch;
mod workload;

/// One turn on the mount or on the bare directory; the last ends in the power cut.
const TURN: Duration = Duration::from_millis(500);
const LAST_TURN_MAX: Duration = Duration::from_secs(2);
const SINCE_COMMIT_MIN: Duration = Duration::from_millis(300);

pub(super) fn run(args: &DemoArgs) -> Result<(), Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| Failure::new(format!("cannot watch signals: {error}")))?;
    }
    let progress = progress_bar(args);
    progress.set_message("preparing");
    let outcome = demonstrate(args, &stop, &progress);
    progress.finish_and_clear();
    let (report, place) = outcome?;
    print(&if args.json {
        format!("{}\n", serde_json::to_string(&report).expect("a report is plain data"))
    } else {
        report.shown(&place)
    })
}

/// Everything but the output; the scratch place is gone when it returns.
fn demonstrate(
    args: &DemoArgs,
    stop: &AtomicBool,
    progress: &ProgressBar,
) -> Result<(Report, std::path::PathBuf), Failure> {
    let mut scratch = Scratch::new(args)?;
    unless_stopped(stop)?;
    let mount = ScratchMount::new(&scratch)?;
    let report = measure(args, &mut scratch, mount, stop, progress)?;
    Ok((report, scratch.root().to_owned()))
}

fn measure(
    args: &DemoArgs,
    scratch: &mut Scratch,
    mount: ScratchMount,
    stop: &AtomicBool,
    progress: &ProgressBar,
) -> Result<Report, Failure> {
    let writers = usize::from(args.writers);
    let prepared = |error| Failure::new(format!("cannot prepare the scratch directories: {error}"));
    let mut on_mount = Workload::new(mount.path(), writers).map_err(prepared)?;
    let mut on_bare = Workload::new(&scratch.bare(), writers).map_err(prepared)?;
    let outcome = take_turns(args, scratch, [&mut on_bare, &mut on_mount], stop, progress);
    let status = mount.status();
    let mut report = outcome.map(|[bare, mount]| Report::new(args, &mount, &bare, &status));

    let mut was_cut = None;
    let interrupted = stop.load(Ordering::Relaxed);
    if let (Ok(_), Ok(disk), false) = (&report, scratch.disk(), interrupted) {
        progress.set_message("cutting the power");
        match cut_power(disk, &mount, &mut on_mount, stop) {
            Ok(acknowledged) => was_cut = Some(acknowledged),
            Err(failure) => report = Err(failure),
        }
        progress.inc(TURN.as_millis() as u64);
    }
    mount.end()?;
    progress.set_message("verifying");
    let power_cut = match was_cut {
        Some(in_last_turn) => Some(recover(scratch, &on_mount, in_last_turn)?),
        None => None,
    };

    // What was acknowledged on the mount must be in the backing directory.
    let verified = on_mount.acknowledged().verify(&scratch.backing());
    let bare = on_bare.acknowledged().verify(&scratch.bare());
    let mut report = report.map_err(|failure| {
        let kept = verified
            .clone()
            .map_or_else(|lost| lost, |_| "everything acknowledged is there".into());
        Failure::new(format!("{failure}; {kept}"))
    })?;
    let bare = bare.map_err(|lost| format!("{lost} (and that without lanefs)"));
    let verified = verified
        .and_then(|verified| bare.map(|_| verified))
        .map_err(|lost| Failure::new(lost + &kept_for_inquest(scratch)))?;
    unless_stopped(stop)?;
    report.verified(verified);
    report.power_cut = power_cut;
    report.no_power_cut = scratch.disk().err().map(str::to_owned);
    Ok(report)
}

/// Runs both workloads in turns, so that whatever else the machine does falls
/// on both.
fn take_turns(
    args: &DemoArgs,
    scratch: &Scratch,
    workloads: [&mut Workload; 2],
    stop: &AtomicBool,
    progress: &ProgressBar,
) -> Result<[Side; 2], Failure> {
    let [bare, mount] = workloads;
    let flushes = || scratch.disk().ok().and_then(disk::Disk::flushes);
    let mut flushed = [flushes().map(|_| 0); 2];
    let mut done = Duration::ZERO;
    while done < whole(args) && !stop.load(Ordering::Relaxed) {
        let turns = [(&mut *bare, "in the bare directory"), (&mut *mount, "on the mount")];
        for ((workload, place), flushed) in turns.into_iter().zip(&mut flushed) {
            progress.set_message(format!("writing {place}"));
            let before = flushes();
            workload
                .run(TURN, stop)
                .map_err(|error| Failure::new(format!("a writer {place} failed: {error}")))?;
            let turn = before.and_then(|before| flushes()?.checked_sub(before));
            *flushed = flushed.and_then(|sum| Some(sum + turn?));
            progress.inc(TURN.as_millis() as u64);
        }
        done += TURN;
    }
    let [bare_flushes, mount_flushes] = flushed;
    Ok([
        Side { tally: bare.tally(), flushes: bare_flushes },
        Side { tally: mount.tally(), flushes: mount_flushes },
    ])
}

/// A last turn on the mount, ended by a power cut. Returns what was acknowledged in it.
fn cut_power(
    disk: &disk::Disk,
    mount: &ScratchMount,
    on_mount: &mut Workload,
    stop: &AtomicBool,
) -> Result<u64, Failure> {
    let before = on_mount.acknowledged().count();
    let daemon = mount.daemon()?;
    let cut = || {
        let cut = disk.cut();
        kill(&daemon);
        cut
    };
    // A commit makes durable all that was before it. So that there is something to be
    // recovered, the cut does not come right after one.
    let start = Instant::now();
    let mut last_commit = (mount.commits(), start);
    let ready = || {
        let commits = mount.commits();
        if commits != last_commit.0 {
            last_commit = (commits, Instant::now());
        }
        let is_late = start.elapsed() >= LAST_TURN_MAX;
        is_late || last_commit.1.elapsed() >= SINCE_COMMIT_MIN && start.elapsed() >= TURN
    };
    on_mount
        .run_until_cut(stop, ready, cut)
        .map_err(|error| Failure::new(format!("in the turn before the power cut: {error}")))?;
    Ok(on_mount.acknowledged().count() - before)
}

/// Mounts the disk again as the power cut left it, and recovers it.
fn recover(
    scratch: &mut Scratch,
    on_mount: &Workload,
    in_last_turn: u64,
) -> Result<PowerCut, Failure> {
    let disk = scratch.disk_mut().expect("only a disk's power is cut");
    if let Err(error) = disk.power_on() {
        let kept = kept_for_inquest(scratch);
        return Err(Failure::new(format!("the disk does not come back: {error}{kept}")));
    }
    let acknowledged = on_mount.acknowledged();
    let behind = acknowledged.losses(&scratch.backing()).len();
    let recovered = lanefs(&["recover", "--json"], &[&scratch.backing()]);
    let recovered = recovered.map_err(|failure| {
        Failure::new(format!("recovery failed: {failure}{}", kept_for_inquest(scratch)))
    })?;
    let recovered: Value = serde_json::from_str(&recovered).unwrap_or_default();
    let number = |name: &str| recovered[name].as_u64().unwrap_or(0);
    Ok(PowerCut {
        acknowledged_replaces: acknowledged.replaces.iter().sum(),
        acknowledged_appends: acknowledged.appends.iter().sum(),
        acknowledged_in_last_turn: in_last_turn,
        files_behind_before_recovery: behind as u64,
        log_found: recovered.is_object(),
        log_groups: number("groups"),
        operations_redone: number("redone"),
        files_filled: number("files_filled"),
        bytes_filled: number("bytes_filled"),
        recovery_s: recovered["seconds"].as_f64().unwrap_or(0.0),
    })
}

/// Keeps the scratch disk's image, if there is one, and says where.
fn kept_for_inquest(scratch: &mut Scratch) -> String {
    let Ok(image) = scratch.disk().map(|disk| disk.image().to_owned()) else {
        return String::new();
    };
    scratch.keep();
    format!("; the disk's image is kept: {}", image.display())
}

fn unless_stopped(stop: &AtomicBool) -> Result<(), Failure> {
    if stop.load(Ordering::Relaxed) {
        return Err(Failure::new("interrupted; nothing is left behind"));
    }
    Ok(())
}

fn whole(args: &DemoArgs) -> Duration {
    Duration::from_secs(u64::from(args.seconds))
}

fn progress_bar(args: &DemoArgs) -> ProgressBar {
    if args.json {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("  {spinner} {msg:30} {bar:30} {percent}%");
    let bar = ProgressBar::new((2 * whole(args) + TURN).as_millis() as u64)
        .with_style(style.expect("the template is constant and valid"));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
