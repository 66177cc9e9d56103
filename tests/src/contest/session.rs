//! One contest: both sides have their files and their threads, and take turns.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde_json::Value;

use super::outcome::{Outcome, Record};
use super::slice::{Timing, run_slice};
use super::workload::{Worker, Workload};
use super::{Bench, End, Ground, Watch};
use crate::mounted::Mounted;

/// What is compared.
#[derive(Clone, Copy, Debug)]
pub struct Contest {
    /// What the threads do.
    pub workload: Workload,
    /// How many they are.
    pub threads: usize,
    /// How long a flush takes, where the disk can be told.
    pub flush_time: Duration,
    /// How long it goes on.
    pub timing: Timing,
}

/// Without lanefs or with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// The filesystem alone.
    Bare,
    /// A lanefs mount over it.
    Lanefs,
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Subject::Bare => "the bare filesystem",
            Subject::Lanefs => "lanefs",
        })
    }
}

/// A contest under way; the mount is a new one, so that no daemon remembers another flush time.
pub struct Session<'b> {
    bench: &'b Bench,
    contest: Contest,
    // In this order: the sides close their files before the mount goes, and a daemon that is
    // stopped goes on before they do.
    paused: Option<Paused>,
    bare: Side<'b>,
    lanefs: Side<'b>,
    mounted: Mounted,
    pairs: u32,
}

impl<'b> Session<'b> {
    /// Makes the files, mounts lanefs with `options`, opens the files.
    ///
    /// # Errors
    /// The files cannot be made or opened, or lanefs does not mount with these options.
    pub fn new(bench: &'b Bench, contest: Contest, options: &str) -> Result<Self, End> {
        let Contest { workload, threads, flush_time, .. } = contest;
        bench.set_flush_time(Duration::ZERO);
        for ground in bench.grounds() {
            workload
                .prepare(&ground.root(), threads)
                .and_then(|()| ground.sync())
                .map_err(|error| format!("cannot prepare the files: {error}"))?;
        }
        // Before the mount: lanefs measures a flush and chooses by it.
        bench.set_flush_time(flush_time);
        let mounted = Mounted::attempt(&bench.lanefs.root(), options)?;
        let bare = Side::new(Subject::Bare, contest, &bench.bare.root(), &bench.bare)?;
        let lanefs = Side::new(Subject::Lanefs, contest, mounted.path(), &bench.lanefs)?;
        Ok(Session { bench, contest, paused: None, bare, lanefs, mounted, pairs: 0 })
    }

    /// One turn of each side. Who begins alternates.
    ///
    /// # Errors
    /// It was interrupted, or a thread failed.
    pub fn pair(&mut self, watch: Watch<'_>) -> Result<(), End> {
        let bare_first = self.pairs.is_multiple_of(2);
        self.pairs += 1;
        if bare_first {
            self.bare_turn(watch)?;
            self.lanefs_turn(watch)
        } else {
            self.lanefs_turn(watch)?;
            self.bare_turn(watch)
        }
    }

    fn bare_turn(&mut self, watch: Watch<'_>) -> Result<(), End> {
        if self.paused.is_none() {
            self.paused = Some(Paused::new(&self.mounted));
        }
        self.bare.take_turn(self.contest.timing, watch)
    }

    fn lanefs_turn(&mut self, watch: Watch<'_>) -> Result<(), End> {
        self.paused = None;
        let before = requests(&self.mounted.status());
        self.lanefs.take_turn(self.contest.timing, watch)?;
        self.lanefs.record.requests += requests(&self.mounted.status()) - before;
        Ok(())
    }

    /// The mount, its daemon at work.
    pub fn mounted(&mut self) -> &Mounted {
        self.paused = None;
        &self.mounted
    }

    /// Takes everything down and gives what was found.
    ///
    /// # Errors
    /// A side did nothing that could be measured.
    pub fn finish(self) -> Result<Outcome, End> {
        let Session { bench, paused, mut bare, mut lanefs, mounted, .. } = self;
        drop(paused);
        let status = mounted.status();
        bare.record.flushes = bare.flushes();
        lanefs.record.flushes = lanefs.flushes();
        bench.set_flush_time(Duration::ZERO);
        drop((bare.workers, lanefs.workers));
        mounted.unmount();
        Outcome::new(bare.record, lanefs.record, status)
    }
}

// One of the two, and what it has done so far.
struct Side<'b> {
    subject: Subject,
    ground: &'b Ground,
    workers: Vec<Box<dyn Worker>>,
    record: Record,
    // Counted before its first operation.
    flushes_before: u64,
}

impl<'b> Side<'b> {
    fn new(
        subject: Subject,
        contest: Contest,
        root: &Path,
        ground: &'b Ground,
    ) -> Result<Self, String> {
        let workers = contest.workload.workers(root, contest.threads);
        let workers =
            workers.map_err(|error| format!("cannot open {}: {error}", root.display()))?;
        let (record, flushes_before) = (Record::default(), ground.work().flushes);
        Ok(Side { subject, ground, workers, record, flushes_before })
    }

    fn take_turn(&mut self, timing: Timing, watch: Watch<'_>) -> Result<(), End> {
        let slice = run_slice(&mut self.workers, timing, watch.stop);
        let slice = slice.map_err(|end| end.at(&format!("a thread on {} failed", self.subject)))?;
        self.record.slices.push(slice);
        self.workers
            .iter_mut()
            .try_for_each(|worker| worker.tidy_up())
            .map_err(|error| format!("between two slices: {error}"))?;
        watch.progress.inc(1);
        Ok(())
    }

    fn flushes(&self) -> u64 {
        self.ground.work().flushes - self.flushes_before
    }
}

// The daemon, stopped: it does nothing at the cost of the other side.
struct Paused {
    daemon: Pid,
}

impl Paused {
    fn new(mounted: &Mounted) -> Self {
        let daemon = Pid::from_raw(mounted.daemon_pid()).expect("a process id");
        let _ = kill_process(daemon, Signal::STOP);
        Paused { daemon }
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        let _ = kill_process(self.daemon, Signal::CONT);
    }
}

// All requests of the kernel so far, whatever their kind.
fn requests(status: &Value) -> u64 {
    let counts = status["requests"].as_object().expect("`requests` in the status");
    counts.values().filter_map(Value::as_u64).sum()
}
