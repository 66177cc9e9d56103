//! What the threads do.
//!
//! A workload is prepared in the directory itself, before lanefs is mounted over it, and is the same
//! for every number of threads: the files of a thread depend on its number only, and stay for the
//! next cell. Then each thread gets a [`Worker`], on the bare directory or on the mount.

use std::fmt;
use std::io;
use std::path::Path;

use clap::ValueEnum;
use serde::Serialize;

use self::files::{Append, Overwrite, Replace};
use self::mailbox::{Mailbox, Varmail};
use crate::random::Random;

mod files;
mod mailbox;

/// What a thread does again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// append 4 KiB to an own file, fdatasync
    Append,
    /// overwrite a random 4 KiB block of an own file of 4 MiB, fdatasync
    Overwrite,
    /// write a temporary file of 4 KiB, fsync, rename it over the old one, fsync the own directory
    Replace,
    /// in a directory shared by all: delete a file; create one, append 16 KiB, fsync; read one,
    /// append 16 KiB, fsync; read one
    Varmail,
}

impl Workload {
    /// All of them, in the order of the tables.
    pub const ALL: [Workload; 4] =
        [Workload::Append, Workload::Overwrite, Workload::Replace, Workload::Varmail];

    /// The name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Workload::Append => "append",
            Workload::Overwrite => "overwrite",
            Workload::Replace => "replace",
            Workload::Varmail => "varmail",
        }
    }

    /// One operation, for headings.
    pub fn story(self) -> &'static str {
        match self {
            Workload::Append => "append 4 KiB to an own file, fdatasync",
            Workload::Overwrite => "overwrite 4 KiB anywhere in an own file of 4 MiB, fdatasync",
            Workload::Replace => "write 4 KiB to a temporary file, fsync, rename, fsync directory",
            Workload::Varmail => {
                "shared directory: delete; create, append 16 KiB, fsync; \
                 read, append 16 KiB, fsync; read"
            }
        }
    }

    /// Makes in `root` what `threads` workers need and what is missing of it.
    pub(super) fn prepare(self, root: &Path, threads: usize) -> io::Result<()> {
        match self {
            Workload::Append => (0..threads).try_for_each(|number| Append::prepare(root, number)),
            Workload::Overwrite => {
                (0..threads).try_for_each(|number| Overwrite::prepare(root, number))
            }
            Workload::Replace => Ok(()),
            Workload::Varmail => Mailbox::prepare(root),
        }
    }

    /// The workers, on a directory that was prepared.
    pub(super) fn workers(self, root: &Path, threads: usize) -> io::Result<Vec<Box<dyn Worker>>> {
        let numbers = 0..threads;
        match self {
            Workload::Append => numbers.map(|n| boxed(Append::new(root, n)?)).collect(),
            Workload::Overwrite => numbers.map(|n| boxed(Overwrite::new(root, n)?)).collect(),
            Workload::Replace => numbers.map(|n| boxed(Replace::new(root, n)?)).collect(),
            Workload::Varmail => {
                let mailbox = Mailbox::open(root)?;
                numbers.map(|n| boxed(Varmail::new(&mailbox, n))).collect()
            }
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// A thread's part of a workload.
pub(super) trait Worker: Send {
    /// Called before each slice; what it does is not measured.
    fn get_ready(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// One operation, durable when it returns.
    fn operate(&mut self) -> io::Result<()>;
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
