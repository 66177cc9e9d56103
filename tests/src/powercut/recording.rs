//! One run of a workload on a disk that remembers everything.

use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::daemon::Daemon;
use super::filesystem::Filesystem;
use super::notes::{History, Notes, Promised};
use super::snapshot::Snapshot;
use super::workload::{Parts, Place};
use crate::disk::{Disk, DiskMount, DiskOptions, Image, Position, Record, Tearing};
use crate::scratch::Scratch;

mod faulty;
mod killed;
mod restarted;

/// A flush takes a moment, so that groups form and cuts fall between them.
const FLUSH_TIME: Duration = Duration::from_micros(300);

/// What the workload runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The filesystem alone.
    Bare,
    /// lanefs over it.
    Lanefs {
        /// Its mount options.
        options: String,
    },
}

/// What happens to a run besides the power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// Nothing.
    None,
    /// The disk fails.
    Faults,
    /// The daemon is killed.
    Kill,
    /// The daemon is replaced again and again; nobody may notice.
    Restarts,
}

impl Mishap {
    /// How many parts a run with it has: what comes after needs directories that nothing happened to.
    pub fn parts(self) -> usize {
        match self {
            Mishap::None | Mishap::Restarts => 0,
            Mishap::Faults | Mishap::Kill => 3,
        }
    }
}

/// Directories and what they held.
pub type Trees = Vec<(String, Arc<Snapshot>)>;

/// Everything that a campaign needs to know of a run.
pub struct Recording {
    /// What was written and flushed.
    pub record: Record,
    /// Where the workload began.
    pub start: Position,
    /// What was promised.
    pub history: History,
    /// The log's promises count.
    pub log: bool,
    /// What was closed, and names, are promised.
    pub at_close: bool,
    /// From a position on, directories that must be exactly so.
    pub exact: Vec<(Position, Trees)>,
    /// From a position on, directories as they were when a daemon died.
    pub left: Vec<(Position, Trees)>,
    /// Files may have been rewritten without a copy of what they held.
    pub without_copy: bool,
    /// The disk failed, and programs were told so.
    pub refused: bool,
    /// Where something special happened: cuts are worth more there.
    pub hot: Vec<RangeInclusive<u64>>,
    /// What is on the disk after everything was unmounted, and what must be there.
    pub last: (Image, Promised),
    /// What was found wrong while it ran.
    pub live_losses: Vec<String>,
    /// What was done to it, in words.
    pub story: Vec<String>,
    /// Parts that ended with an error because of that.
    pub parts_failed: usize,
}

impl Recording {
    /// What a cut at `position` must have kept.
    pub fn promised(&self, position: Position) -> Promised {
        let last = |trees: &[(Position, Trees)]| {
            let last = trees.iter().rev().find(|(from, _)| *from <= position);
            last.map(|(_, directories)| directories.clone()).unwrap_or_default()
        };
        self.history
            .at(position)
            .under_log(self.log)
            .promised_at_close(self.at_close)
            .exactly(last(&self.exact))
            .or_left(last(&self.left))
            .perhaps_without_copy(self.without_copy)
            .perhaps_refused(self.refused)
    }
}

/// A fresh filesystem on a recording disk, with the directory `tree` prepared for a workload.
struct Stage {
    // Dropped in this order.
    mounted: DiskMount,
    _scratch: Scratch,
    disk: Disk,
    tree: PathBuf,
}

/// What a run of a kind of its own leaves to say.
#[derive(Default)]
struct Events {
    exact: Vec<(Position, Trees)>,
    left: Vec<(Position, Trees)>,
    without_copy: bool,
    refused: bool,
    hot: Vec<RangeInclusive<u64>>,
    // The state after everything, when it is known.
    last_exact: Vec<(String, Arc<Snapshot>)>,
    live_losses: Vec<String>,
    story: Vec<String>,
    parts_failed: usize,
}

impl Stage {
    fn new(filesystem: Filesystem, workload: &Parts) -> Result<Self, String> {
        let disk = Disk::new(DiskOptions::new(filesystem.size_mib()))
            .map_err(|error| format!("cannot make a disk: {error}"))?;
        filesystem.make(disk.path());
        // At a real path: lanefs and SQLite resolve the names that they are given.
        let scratch = Scratch::new(0);
        let place = scratch.subdirectory("fs");
        let mounted = disk
            .mount_at(&place, filesystem.kernel_name(), "")
            .map_err(|error| format!("mounting a fresh {}: {error}", filesystem.name()))?;
        let tree = mounted.path().join("tree");
        prepare(&tree, mounted.path(), workload).map_err(|error| format!("preparing: {error}"))?;
        disk.forget_durable();
        disk.set_flush_time(FLUSH_TIME);
        Ok(Stage { mounted, _scratch: scratch, disk, tree })
    }

    fn place(&self, root: &Path) -> Place {
        Place { root: root.to_path_buf(), backing: self.tree.clone() }
    }
}

/// What kind of run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// What happens to it.
    pub mishap: Mishap,
    /// The log's promises count.
    pub log: bool,
    /// What was closed, and names, are promised.
    pub at_close: bool,
    /// A sync that was under way while the disk failed may have been answered wrongly: the
    /// filesystem alone does that.
    pub forgive_shaken: bool,
    /// Decides what the mishap is like.
    pub seed: u64,
    /// The number of the run in its campaign: kinds of mishaps take turns.
    pub round: u64,
}

/// Runs a workload and takes down what the disk saw and what the programs were promised.
///
/// # Errors
/// The workload failed on a healthy disk, or the disk's record is not what it stored.
pub fn record(
    filesystem: Filesystem,
    subject: &Subject,
    workload: &Parts,
    run: Run,
) -> Result<Recording, String> {
    let stage = Stage::new(filesystem, workload)?;
    let start = stage.disk.position();
    let notes = Notes::new(&stage.disk);
    let events = match (run.mishap, subject) {
        (Mishap::None, _) => plain(&stage, subject, workload, &notes)?,
        (Mishap::Faults, _) => faulty::run(&stage, subject, workload, &notes, run)?,
        (Mishap::Kill, Subject::Lanefs { options }) => {
            killed::run(&stage, options, workload, &notes, run)?
        }
        (Mishap::Restarts, Subject::Lanefs { options }) => {
            restarted::run(&stage, options, workload, &notes)?
        }
        (Mishap::Kill | Mishap::Restarts, Subject::Bare) => {
            return Err("there is no daemon to kill".to_owned());
        }
    };
    let history = notes.history();
    let history = if run.forgive_shaken { history.without_shaken() } else { history };
    let Stage { mounted, _scratch: scratch, disk, .. } = stage;
    let record = disk.record();
    disk.clear_faults();
    drop(mounted);
    drop(scratch);
    disk.check()?;
    let left = events.left.last().map(|(_, trees)| trees.clone()).unwrap_or_default();
    let promised = history
        .at(record.last_position())
        .under_log(run.log)
        .promised_at_close(run.at_close)
        .exactly(events.last_exact)
        .or_left(left)
        .perhaps_without_copy(events.without_copy)
        .perhaps_refused(events.refused);
    Ok(Recording {
        record: record.with_tearing(Tearing::sparing_superblock(filesystem.kernel_name())),
        start,
        history,
        log: run.log,
        at_close: run.at_close,
        exact: events.exact,
        left: events.left,
        without_copy: events.without_copy,
        refused: events.refused,
        hot: events.hot,
        last: (disk.cached(), promised),
        live_losses: events.live_losses,
        story: events.story,
        parts_failed: events.parts_failed,
    })
}

/// Nothing happens; after everything was unmounted all is there, synced or not.
fn plain(
    stage: &Stage,
    subject: &Subject,
    workload: &Parts,
    notes: &Notes<'_>,
) -> Result<Events, String> {
    let failed = |error| format!("the workload failed: {error}");
    let seen = |root: &Path| {
        let snapshot = Snapshot::take(root).map_err(|error| format!("looking at it: {error}"));
        snapshot.map(|snapshot| vec![(String::new(), Arc::new(snapshot))])
    };
    let last_exact = match subject {
        Subject::Bare => {
            workload.run(0, &stage.place(&stage.tree), notes).map_err(failed)?;
            seen(&stage.tree)?
        }
        Subject::Lanefs { options } => {
            let lanefs = Daemon::mount(&stage.tree, options)?;
            workload.run(0, &stage.place(lanefs.path()), notes).map_err(failed)?;
            let seen = seen(lanefs.path())?;
            lanefs.unmount()?;
            seen
        }
    };
    Ok(Events { last_exact, ..Events::default() })
}

fn prepare(tree: &Path, filesystem: &Path, workload: &Parts) -> io::Result<()> {
    fs::create_dir(tree)?;
    workload.prepare(tree)?;
    Ok(rustix::fs::syncfs(fs::File::open(filesystem)?)?)
}
