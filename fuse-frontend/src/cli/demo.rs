//! `lanefs demo`: what a program gains on a mount, shown and verified.
//!
//! The same writers run in turns on a scratch mount and on a bare directory of
//! the same filesystem. Every acknowledged replace and append is checked
//! afterwards, in the backing directory, without lanefs. Nothing is left behind,
//! also after Ctrl-C; if the daemon dies on the way, the check still runs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::Value;

use self::workload::{Acknowledged, Tally, Workload};
use super::DemoArgs;
use super::table::{print, row, table};
use super::umount::find;
use crate::control::{self, Request, Response};
use crate::failure::Failure;

mod workload;

/// One turn on the mount or on the bare directory.
const TURN: Duration = Duration::from_millis(500);

#[derive(Debug, Serialize)]
struct Report {
    writers: u16,
    seconds: u16,
    mount_replaces_per_s: f64,
    bare_replaces_per_s: f64,
    mount_appends_per_s: f64,
    bare_appends_per_s: f64,
    replaces_verified: u64,
    appends_verified: u64,
    sync_requests: u64,
    groups: u64,
    group_ops_mean: f64,
    group_ops_max: u64,
    requests_per_replace: f64,
}

pub(super) fn run(args: &DemoArgs) -> Result<(), Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| Failure::new(format!("cannot watch signals: {error}")))?;
    }
    let scratch = Scratch::new(args.dir.as_deref())?;
    let mount = ScratchMount::new(&scratch)?;
    let report = measure(args, &scratch, mount, &stop)?;
    print(&if args.json {
        format!("{}\n", serde_json::to_string(&report).expect("a report is plain data"))
    } else {
        shown(&report, &scratch)
    })
}

fn measure(
    args: &DemoArgs,
    scratch: &Scratch,
    mount: ScratchMount,
    stop: &AtomicBool,
) -> Result<Report, Failure> {
    let writers = usize::from(args.writers);
    let mut on_mount = Workload::new(mount.path(), writers).map_err(|error| io(&error))?;
    let mut on_bare = Workload::new(&scratch.bare(), writers).map_err(|error| io(&error))?;
    let whole = Duration::from_secs(u64::from(args.seconds));
    let progress = progress_bar(2 * whole, args.json);
    let outcome = take_turns(whole, &mut on_mount, &mut on_bare, stop, &progress);
    progress.finish_and_clear();
    let status = mount.status();
    mount.end()?;

    // What was acknowledged on the mount must be in the backing directory.
    let verified = on_mount.acknowledged().verify(&scratch.backing());
    let bare = on_bare.acknowledged().verify(&scratch.bare());
    if let Err(failure) = outcome {
        let kept = verified.map_or_else(|lost| lost, |_| "everything acknowledged is there".into());
        return Err(Failure::new(format!("{failure}; {kept}")));
    }
    let verified = verified.and_then(|verified| bare.map(|_| verified)).map_err(Failure::new)?;
    if stop.load(Ordering::Relaxed) {
        return Err(Failure::new("interrupted; nothing is left behind"));
    }
    Ok(report(args, &on_mount.tally(), &on_bare.tally(), verified, &status))
}

/// Runs both workloads in turns, so that whatever else the machine does falls
/// on both.
fn take_turns(
    whole: Duration,
    on_mount: &mut Workload,
    on_bare: &mut Workload,
    stop: &AtomicBool,
    progress: &ProgressBar,
) -> Result<(), Failure> {
    let mut done = Duration::ZERO;
    while done < whole && !stop.load(Ordering::Relaxed) {
        for (workload, place) in [(&mut *on_mount, "mount"), (&mut *on_bare, "bare directory")] {
            workload.run(TURN, stop).map_err(|error| {
                Failure::new(format!("a writer on the {place} failed: {error}"))
            })?;
            progress.inc(TURN.as_millis() as u64);
        }
        done += TURN;
    }
    Ok(())
}

fn progress_bar(whole: Duration, quiet: bool) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("  writing on the mount and beside it {bar:30} {percent}%");
    ProgressBar::new(whole.as_millis() as u64)
        .with_style(style.expect("the template is constant and valid"))
}

fn report(
    args: &DemoArgs,
    mount: &Tally,
    bare: &Tally,
    verified: Acknowledged<u64>,
    status: &Value,
) -> Report {
    let lanes = &status["engine"]["lanes"];
    let number = |name: &str| lanes[name].as_u64().unwrap_or(0);
    let requests = status["requests"].as_object().into_iter().flatten();
    let requests: u64 = requests.filter_map(|(_, count)| count.as_u64()).sum();
    Report {
        writers: args.writers,
        seconds: args.seconds,
        mount_replaces_per_s: mount.replaces_per_s(),
        bare_replaces_per_s: bare.replaces_per_s(),
        mount_appends_per_s: mount.appends_per_s(),
        bare_appends_per_s: bare.appends_per_s(),
        replaces_verified: verified.replaces,
        appends_verified: verified.appends,
        sync_requests: number("sync_requests"),
        groups: number("groups"),
        group_ops_mean: lanes["group_ops_mean"].as_f64().unwrap_or(0.0),
        group_ops_max: number("group_ops_max"),
        requests_per_replace: requests as f64 / mount.replaces.max(1) as f64,
    }
}

fn shown(report: &Report, scratch: &Scratch) -> String {
    let rate = |value: f64| format!("{value:.0}");
    let ratio = |mount: f64, bare: f64| format!("{:.2}", mount / bare.max(f64::MIN_POSITIVE));
    let (m, b) = (report.mount_replaces_per_s, report.bare_replaces_per_s);
    let (ma, ba) = (report.mount_appends_per_s, report.bare_appends_per_s);
    let rates = table(&[
        row([&"", &"on the mount", &"without lanefs", &"ratio"]),
        row([&"replaces/s", &rate(m), &rate(b), &ratio(m, b)]),
        row([&"appends/s", &rate(ma), &rate(ba), &ratio(ma, ba)]),
    ]);
    let lanes = table(&[
        row([&"sync requests", &report.sync_requests]),
        row([&"groups", &report.groups]),
        row([&"mean group size", &format!("{:.2}", report.group_ops_mean)]),
        row([&"largest group", &report.group_ops_max]),
        row([&"requests per replace", &format!("{:.1}", report.requests_per_replace)]),
    ]);
    format!(
        "{} writers replace their file crash-safely (write, fsync, rename, fsync directory),\n\
         one appends to a log (write, fdatasync), in {}.\n\n{rates}\n{lanes}\n\
         Verified in the backing directory: {} files replaced, {} records appended, none lost.\n",
        report.writers,
        scratch.root().display(),
        report.replaces_verified,
        report.appends_verified
    )
}

fn io(error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot prepare the scratch directories: {error}"))
}

/// Directories that vanish when the demo ends, however it ends.
struct Scratch {
    root: tempfile::TempDir,
}

impl Scratch {
    fn new(place: Option<&Path>) -> Result<Self, Failure> {
        let place = place.map_or_else(std::env::temp_dir, Path::to_owned);
        let root = tempfile::Builder::new().prefix("lanefs-demo-").tempdir_in(&place);
        let root = root.map_err(|error| {
            Failure::usage(format!(
                "cannot make a scratch directory in {}: {error}; choose another with --dir",
                place.display()
            ))
        })?;
        let scratch = Self { root };
        for directory in [scratch.backing(), scratch.bare(), scratch.mount_point()] {
            std::fs::create_dir(directory).map_err(|error| io(&error))?;
        }
        Ok(scratch)
    }

    fn root(&self) -> &Path {
        self.root.path()
    }

    fn backing(&self) -> PathBuf {
        self.root().join("backing")
    }

    fn bare(&self) -> PathBuf {
        self.root().join("bare")
    }

    fn mount_point(&self) -> PathBuf {
        self.root().join("mount")
    }
}

/// A mount made by this program's own `mount --daemon`, as a user would.
struct ScratchMount {
    mount_point: PathBuf,
    ended: bool,
}

impl ScratchMount {
    fn new(scratch: &Scratch) -> Result<Self, Failure> {
        let mount_point = scratch.mount_point();
        command(&["mount", "--daemon"], &[&scratch.backing(), &mount_point])?;
        Ok(Self { mount_point, ended: false })
    }

    fn path(&self) -> &Path {
        &self.mount_point
    }

    /// The mount's status; nothing if the daemon is gone.
    fn status(&self) -> Value {
        let response =
            find(&self.mount_point).and_then(|mount| control::ask(&mount, &Request::Status));
        match response {
            Ok(Some(Response::Status { status })) => status,
            _ => Value::Null,
        }
    }

    fn end(mut self) -> Result<(), Failure> {
        self.ended = true;
        self.unmount()
    }

    /// The last file may be on its way out of the kernel: tries for a while.
    fn unmount(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match command(&["umount"], &[&self.mount_point]) {
                Err(_) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                outcome => return outcome,
            }
        }
    }
}

impl Drop for ScratchMount {
    fn drop(&mut self) {
        if !self.ended && self.unmount().is_err() {
            let _ = command(&["umount", "--lazy"], &[&self.mount_point]);
        }
    }
}

/// Runs this program with other arguments.
fn command(words: &[&str], paths: &[&Path]) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("cannot run lanefs: {error}"));
    let program = std::env::current_exe().map_err(failed)?;
    let output = Command::new(program).args(words).args(paths).output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    let message = message.trim().trim_start_matches("lanefs: ");
    let exit_code = output.status.code().and_then(|code| u8::try_from(code).ok());
    Err(Failure {
        exit_code: exit_code.unwrap_or(crate::failure::EXIT_FAILURE),
        message: message.to_owned(),
    })
}
