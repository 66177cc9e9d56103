//! How long a recovery takes.
//!
//! The backing filesystem keeps nothing by itself (its own commits wait ten minutes), so everything
//! has to be done again. Two logs: 64 MiB of crash-safe replaces; and all that many threads do in
//! five seconds, the time between two checkpoints, if they only change names: a dense log.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::row::{Requirement, Row, Unit};
use super::{Gate, Lab};
use crate::contest::{End, Ground, Watch};
use crate::filesystem::Filesystem;
use crate::mounted::{DEFAULT_OPTIONS, Mounted};
use crate::replace::Replacer;
use crate::{binary, run};

const USED_MIB: f64 = 64.0;
/// A checkpoint comes when half of a log is used: so this one has room for more than twice of it.
const LOG_MIB: f64 = 136.0;
const RECOVERY_S_MAX: f64 = 2.0;
const BETWEEN_CHECKPOINTS: Duration = Duration::from_secs(5);
const FLUSH_TIME: Duration = Duration::from_millis(2);
const THREADS: usize = 16;
/// Names changed between two syncs.
const NAMES: usize = 500;
const PAUSE: Duration = Duration::from_millis(100);
const DEADLINE: Duration = Duration::from_secs(300);

pub(super) const STEPS: u64 = 2;

/// Fills a log in both ways, and recovers.
pub(super) fn measure(lab: &mut Lab<'_>) -> Result<(), End> {
    let full = |status: &Value, _| used_mib(status) >= USED_MIB;
    recover("64 MiB of replaces", replaces, full, lab)?;
    recover("5 s of names", names, |_, elapsed| elapsed >= BETWEEN_CHECKPOINTS, lab)
}

// Works until told that it is over.
type Filling = fn(&Path, usize, &AtomicBool) -> io::Result<()>;

fn replaces(root: &Path, number: usize, over: &AtomicBool) -> io::Result<()> {
    let replacer = Replacer::new(root, number as u64)?;
    let mut sequence = 0;
    while !over.load(Ordering::Relaxed) {
        sequence += 1;
        replacer.replace(sequence)?;
    }
    Ok(())
}

fn names(root: &Path, number: usize, over: &AtomicBool) -> io::Result<()> {
    let directory = root.join(format!("names-{number}"));
    fs::create_dir(&directory)?;
    let mut sequence = 0;
    while !over.load(Ordering::Relaxed) {
        for _ in 0..NAMES {
            sequence += 1;
            let path = directory.join(format!("new-{sequence}"));
            File::create(&path)?;
            fs::rename(&path, directory.join(format!("name-{}", sequence % NAMES)))?;
        }
        File::open(&directory)?.sync_all()?;
    }
    Ok(())
}

fn recover(
    case: &str,
    filling: Filling,
    enough: impl Fn(&Value, Duration) -> bool,
    lab: &mut Lab<'_>,
) -> Result<(), End> {
    lab.watch.check()?;
    lab.watch.progress.set_message(format!("recovery: {case}"));
    let failed = |error: io::Error| error.to_string();
    let fs = Filesystem::Ext4;
    let options = format!("{},commit=600", fs.quiet_options());
    let ground = Ground::in_memory_mounted(fs, &options).map_err(failed)?;
    // Lanefs measures a flush when it mounts; to fill the log, flushes need take no time.
    ground.set_flush_time(FLUSH_TIME);
    let log = format!("fence=log,log_size={LOG_MIB}M,checkpoint_ms=3600000");
    let mounted = Mounted::new(&ground.root(), &format!("{DEFAULT_OPTIONS},{log}"));
    ground.set_flush_time(Duration::ZERO);
    fill(&mounted, filling, enough, lab.watch)?;
    let status = mounted.status();
    let after = ground.after_power_cut().map_err(failed)?.expect("a disk of memory");
    mounted.unmount();
    if status["engine"]["log"]["checkpoints"] != 0 {
        return Err("a checkpoint came while the log was filled".to_owned().into());
    }

    after.set_flush_time(FLUSH_TIME);
    let mut command = Command::new(binary::lanefs());
    let outcome = run::run(command.arg("recover").arg(after.root()).arg("--json"), DEADLINE);
    let succeeded = outcome.status.success();
    if !succeeded {
        lab.watch.progress.suspend(|| eprintln!("{}", outcome.describe()));
    }
    let report = serde_json::from_str::<Value>(&outcome.stdout).unwrap_or_default();
    let row = Row {
        unit: Unit::Seconds,
        // A recovery that fails took no time that would be worth anything.
        lanefs: succeeded.then_some(outcome.elapsed.as_secs_f64()),
        ..Row::note(Gate::Recovery, format!("{case}, 2 ms: {} records", report["records"]))
    };
    lab.show(&row.of(&status).judged(Some(Requirement::LanefsMax(RECOVERY_S_MAX))))?;
    lab.watch.progress.inc(1);
    Ok(())
}

fn fill(
    mounted: &Mounted,
    filling: Filling,
    enough: impl Fn(&Value, Duration) -> bool,
    watch: Watch<'_>,
) -> Result<(), End> {
    let over = AtomicBool::new(false);
    let filled = thread::scope(|scope| {
        let over = &over;
        let threads = (0..THREADS).map(|number| {
            let work = move || filling(mounted.path(), number, over);
            scope.spawn(move || work().inspect_err(|_| over.store(true, Ordering::Relaxed)))
        });
        let (threads, start) = (threads.collect::<Vec<_>>(), Instant::now());
        let is_over = || over.load(Ordering::Relaxed) || watch.check().is_err();
        while !is_over() && !enough(&mounted.status(), start.elapsed()) {
            thread::sleep(PAUSE);
        }
        over.store(true, Ordering::Relaxed);
        let outcomes = threads.into_iter().map(|thread| thread.join().expect("none panics"));
        outcomes.collect::<io::Result<()>>()
    });
    watch.check()?;
    filled.map_err(|error| format!("while the log was filled: {error}").into())
}

fn used_mib(status: &Value) -> f64 {
    let log = &status["engine"]["log"];
    let bytes = log["bytes"].as_f64().unwrap_or_default();
    log["used_ratio"].as_f64().unwrap_or_default() * bytes / f64::from(1 << 20)
}
