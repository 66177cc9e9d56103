//! What the threads do.
//!
//! A workload is prepared in the directory itself, before lanefs is mounted over it, and is the same
//! for every number of threads: the files of a thread depend on its number only, and stay for the
//! next contest. Then each thread gets a [`Worker`], on the bare directory or on the mount.

use std::fmt;
use std::io;
use std::path::Path;

use clap::ValueEnum;
use serde::Serialize;

use self::files::{Append, Blocks, Replace};
use self::mailbox::{Mailbox, Varmail};
use self::programs::{Git, Sqlite, Unpack};
use self::shared::{SharedAppend, SharedDirectory, SharedFile};
use self::unsynced::Write;
use super::words;
use crate::random::Random;

mod files;
mod mailbox;
mod programs;
mod shared;
mod unsynced;

/// What a thread does again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// append 4 KiB to an own file, fdatasync
    Append,
    /// overwrite a random 4 KiB block of an own file of 4 MiB, fdatasync
    Overwrite,
    /// overwrite a random 4 KiB block of an own file of 3,000 blocks with 3,000 holes, fdatasync
    Sparse,
    /// write a temporary file of 4 KiB, fsync, rename it over the old one, fsync the own directory
    Replace,
    /// in a directory shared by all: delete a file; create one, append 16 KiB, fsync; read one,
    /// append 16 KiB, fsync; read one
    Varmail,
    /// overwrite 4 KiB at an own place of a file shared by all, fdatasync
    SharedFile,
    /// append 4 KiB to a file shared by all, fdatasync
    SharedAppend,
    /// create a file of 4 KiB in a directory shared by all, fsync it, fsync the directory
    SharedDirectory,
    /// write 1 MiB in pieces of 4 KiB to an own file that is never synced
    WriteSmall,
    /// write 1 MiB at once to an own file that is never synced
    WriteLarge,
    /// a transaction of SQLite with a rollback journal: insert one row
    SqliteDelete,
    /// a transaction of SQLite with a write-ahead log: insert one row
    SqliteWal,
    /// change 4 of 40 files of a repository, git commit with core.fsync=all
    GitCommit,
    /// unpack a package of 300 files over an older one as dpkg does: write all under other names,
    /// fsync and rename each, fsync their directories
    Unpack,
}

impl Workload {
    /// Those that say most about a filesystem.
    pub const BASIC: [Workload; 4] =
        [Workload::Append, Workload::Overwrite, Workload::Replace, Workload::Varmail];

    /// One operation, for headings.
    pub fn story(self) -> String {
        words::story(&self)
    }

    /// What an operation writes to files that are never synced, if it does only that.
    pub fn unsynced_bytes(self) -> Option<u64> {
        let writes = matches!(self, Workload::WriteSmall | Workload::WriteLarge);
        writes.then_some(unsynced::OPERATION_BYTES as u64)
    }

    /// Makes in `root` what `threads` workers need and what is missing of it.
    pub(super) fn prepare(self, root: &Path, threads: usize) -> io::Result<()> {
        let mut numbers = 0..threads;
        match self {
            Workload::Append => numbers.try_for_each(|n| Append::prepare(root, n)),
            Workload::Overwrite => numbers.try_for_each(|n| Blocks::DENSE.prepare(root, n)),
            Workload::Sparse => numbers.try_for_each(|n| Blocks::SPARSE.prepare(root, n)),
            Workload::Replace | Workload::WriteSmall | Workload::WriteLarge => Ok(()),
            Workload::Varmail => Mailbox::prepare(root),
            Workload::SharedFile => SharedFile::prepare(root, threads),
            Workload::SharedAppend => SharedAppend::prepare(root),
            Workload::SharedDirectory => SharedDirectory::prepare(root),
            Workload::SqliteDelete => numbers.try_for_each(|n| Sqlite::DELETE.prepare(root, n)),
            Workload::SqliteWal => numbers.try_for_each(|n| Sqlite::WAL.prepare(root, n)),
            Workload::GitCommit => numbers.try_for_each(|n| Git::prepare(root, n)),
            Workload::Unpack => numbers.try_for_each(|n| Unpack::prepare(root, n)),
        }
    }

    /// The workers, on a directory that was prepared.
    pub(super) fn workers(self, root: &Path, threads: usize) -> io::Result<Vec<Box<dyn Worker>>> {
        let numbers = 0..threads;
        match self {
            Workload::Append => numbers.map(|n| boxed(Append::new(root, n)?)).collect(),
            Workload::Overwrite => numbers.map(|n| boxed(Blocks::DENSE.worker(root, n)?)).collect(),
            Workload::Sparse => numbers.map(|n| boxed(Blocks::SPARSE.worker(root, n)?)).collect(),
            Workload::Replace => numbers.map(|n| boxed(Replace::new(root, n)?)).collect(),
            Workload::Varmail => {
                let mailbox = Mailbox::open(root)?;
                numbers.map(|n| boxed(Varmail::new(&mailbox, n))).collect()
            }
            Workload::SharedFile => numbers.map(|n| boxed(SharedFile::new(root, n)?)).collect(),
            Workload::SharedAppend => numbers.map(|n| boxed(SharedAppend::new(root, n)?)).collect(),
            Workload::SharedDirectory => {
                numbers.map(|n| boxed(SharedDirectory::new(root, n)?)).collect()
            }
            Workload::WriteSmall => numbers.map(|n| boxed(Write::small(root, n)?)).collect(),
            Workload::WriteLarge => numbers.map(|n| boxed(Write::large(root, n)?)).collect(),
            Workload::SqliteDelete => {
                numbers.map(|n| boxed(Sqlite::DELETE.start(root, n)?)).collect()
            }
            Workload::SqliteWal => numbers.map(|n| boxed(Sqlite::WAL.start(root, n)?)).collect(),
            Workload::GitCommit => numbers.map(|n| boxed(Git::new(root, n))).collect(),
            Workload::Unpack => numbers.map(|n| boxed(Unpack::new(root, n))).collect(),
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&words::name(self))
    }
}

/// A thread's part of a workload.
pub(crate) trait Worker: Send {
    /// One operation, durable when it returns, unless the workload says otherwise.
    fn operate(&mut self) -> io::Result<()>;

    /// Called after each slice, so that files do not grow for ever; what it does is not timed.
    fn tidy_up(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn boxed<W: Worker + 'static>(worker: W) -> io::Result<Box<dyn Worker>> {
    Ok(Box::new(worker))
}

// Zeros might be spared on the way to the disk.
fn bytes(length: usize, seed: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    Random::new(seed as u64 + 1).fill(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_name_and_a_story() {
        for workload in Workload::value_variants() {
            assert_eq!(serde_json::json!(workload), workload.to_string());
            assert!(!workload.story().is_empty());
        }
    }

    #[test]
    fn every_workload_works_on_any_directory() {
        // Where a sync costs nothing, if there is such a place.
        let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let root = root.expect("a directory");
        for workload in Workload::value_variants() {
            // Twice: the files of the first time are found again.
            for threads in [1, 2] {
                let worked = || -> io::Result<()> {
                    workload.prepare(root.path(), threads)?;
                    let mut workers = workload.workers(root.path(), threads)?;
                    assert_eq!(workers.len(), threads);
                    workers.iter_mut().try_for_each(|worker| {
                        worker.operate()?;
                        worker.tidy_up()?;
                        worker.operate()
                    })
                };
                worked().unwrap_or_else(|error| panic!("{workload}, {threads}: {error}"));
            }
        }
    }
}
