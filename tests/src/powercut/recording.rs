//! One run of a workload on a disk that remembers everything.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::filesystem::Filesystem;
use super::notes::{History, Notes};
use super::workload::Workload;
use crate::disk::{Disk, DiskOptions, Position, Record, Tearing};
use crate::mounted::Mounted;
use crate::scratch::Scratch;

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

/// Everything that a campaign needs to know of a run.
pub struct Recording {
    /// What was written and flushed.
    pub record: Record,
    /// Where the workload began.
    pub start: Position,
    /// What was promised.
    pub history: History,
}

/// Runs a workload and takes down what the disk saw and what the programs were promised.
///
/// # Errors
/// The workload failed on a healthy disk, or the disk's record is not what it stored.
pub fn record(
    filesystem: Filesystem,
    subject: &Subject,
    workload: &dyn Workload,
) -> Result<Recording, String> {
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

    let start = disk.position();
    let notes = Notes::new(&disk);
    let (outcome, record) = match subject {
        Subject::Bare => (workload.run(&tree, &notes), disk.record()),
        Subject::Lanefs { options } => {
            let lanefs = Mounted::new(&tree, options);
            let outcome = workload.run(lanefs.path(), &notes);
            // Unmounting makes everything durable: what a cut can take is recorded before it.
            let record = disk.record();
            lanefs.unmount();
            (outcome, record)
        }
    };
    outcome.map_err(|error| format!("the workload failed: {error}"))?;
    disk.check()?;
    let record = record.with_tearing(Tearing::sparing_superblock(filesystem.kernel_name()));
    Ok(Recording { record, start, history: notes.history() })
}

fn prepare(tree: &Path, filesystem: &Path, workload: &dyn Workload) -> io::Result<()> {
    fs::create_dir(tree)?;
    workload.prepare(tree)?;
    Ok(rustix::fs::syncfs(fs::File::open(filesystem)?)?)
}
