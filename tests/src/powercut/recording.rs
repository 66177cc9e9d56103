//! One run of a workload on a disk that remembers everything.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::{MountFlags, mount};

use super::filesystem::Filesystem;
use super::notes::{History, Notes};
use super::workload::Workload;
use crate::disk::{Disk, DiskOptions, Position, Record};
use crate::mounted::Mounted;
use crate::scratch::{Scratch, unmount_patiently};

/// A flush takes a moment, so that groups form and cuts fall between them.
const FLUSH_TIME: Duration = Duration::from_micros(300);
const PATIENCE: Duration = Duration::from_secs(15);

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
    let mounted = MountedDisk::new(&disk, filesystem)?;
    let tree = mounted.path().join("tree");
    fs::create_dir(&tree).map_err(|error| format!("a fresh filesystem: {error}"))?;
    workload.prepare(&tree).map_err(|error| format!("preparing: {error}"))?;
    mounted.sync()?;
    disk.forget_durable();
    disk.set_flush_time(FLUSH_TIME);

    let start = disk.position();
    let notes = Notes::new(&disk);
    let outcome = match subject {
        Subject::Bare => workload.run(&tree, &notes),
        Subject::Lanefs { options } => {
            let lanefs = Mounted::new(&tree, options);
            let outcome = workload.run(lanefs.path(), &notes);
            // Unmounting makes everything durable: what the cut could take is what is recorded
            // before it, so the record ends here.
            let record = disk.record();
            lanefs.unmount();
            outcome.map_err(|error| format!("the workload failed: {error}"))?;
            disk.check()?;
            return Ok(Recording { record, start, history: notes.history() });
        }
    };
    outcome.map_err(|error| format!("the workload failed: {error}"))?;
    disk.check()?;
    Ok(Recording { record: disk.record(), start, history: notes.history() })
}

/// The disk's filesystem at a path; dropped, it is unmounted.
struct MountedDisk {
    path: PathBuf,
    _scratch: Scratch,
}

impl MountedDisk {
    fn new(disk: &Disk, filesystem: Filesystem) -> Result<Self, String> {
        let scratch = Scratch::new(0);
        let path = scratch.subdirectory("fs");
        mount(disk.path(), &path, filesystem.kernel_name(), MountFlags::empty(), None)
            .map_err(|error| format!("mounting a fresh {}: {error}", filesystem.name()))?;
        Ok(MountedDisk { path, _scratch: scratch })
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn sync(&self) -> Result<(), String> {
        let root = fs::File::open(&self.path).map_err(|error| error.to_string())?;
        rustix::fs::syncfs(root).map_err(|error| error.to_string())
    }
}

impl Drop for MountedDisk {
    fn drop(&mut self) {
        unmount_patiently(&self.path, PATIENCE);
    }
}
