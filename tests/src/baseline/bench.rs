//! Where both sides work: one disk, one filesystem on it, two directories.

use std::ffi::CStr;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::ValueEnum;
use rustix::mount::{MountFlags, mount};
use serde::Serialize;

use crate::disk::{Disk, DiskOptions};
use crate::scratch::{Scratch, unmount_patiently};
use crate::{run, tools};

/// Room for the files of every workload, both sides; only what is written costs memory.
const DISK_MIB: u64 = 4096;
const MKFS_DEADLINE: Duration = Duration::from_secs(60);
const BUSY_PATIENCE: Duration = Duration::from_secs(15);

/// A filesystem to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Filesystem {
    /// ext4 as mkfs makes it: a commit is two flushes, and half of the waiting threads share one
    Ext4,
    /// ext4 with the feature `fast_commit`: all waiting threads share a commit
    Ext4FastCommit,
    /// XFS as mkfs makes it
    Xfs,
}

impl Filesystem {
    /// All of them, in the order of the tables.
    pub const ALL: [Filesystem; 3] =
        [Filesystem::Ext4, Filesystem::Ext4FastCommit, Filesystem::Xfs];

    /// The name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Filesystem::Ext4 => "ext4",
            Filesystem::Ext4FastCommit => "ext4-fast-commit",
            Filesystem::Xfs => "xfs",
        }
    }

    // Inode tables and journal written at once: no background work while we count.
    fn mkfs(self) -> Command {
        let ext4 = |features: &[&str]| {
            let mut command = Command::new(tools::debian("e2fsprogs", "mkfs.ext4"));
            command.args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"]);
            command.args(features);
            command
        };
        match self {
            Filesystem::Ext4 => ext4(&[]),
            Filesystem::Ext4FastCommit => ext4(&["-O", "fast_commit"]),
            Filesystem::Xfs => {
                let mut command = Command::new(tools::debian("xfsprogs", "mkfs.xfs"));
                command.args(["-q", "-f"]);
                command
            }
        }
    }

    // What mount(2) wants: the type and its options.
    fn mount_as(self) -> (&'static str, Option<&'static CStr>) {
        match self {
            Filesystem::Ext4 | Filesystem::Ext4FastCommit => ("ext4", Some(c"noinit_itable")),
            Filesystem::Xfs => ("xfs", None),
        }
    }
}

impl fmt::Display for Filesystem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// A filesystem on a disk; dropped, both are gone.
pub(super) struct Bench {
    // Dropped in this order: the filesystem before its disk, the mount point last.
    mount: Mount,
    disk: Disk,
    _scratch: Scratch,
}

impl Bench {
    pub fn new(fs: Filesystem) -> io::Result<Self> {
        // First, because it removes what a killed run left, and that may hold a loop device.
        let scratch = Scratch::new(0);
        let disk = Disk::new(DiskOptions::new(DISK_MIB).unrecorded())?;
        run::run(fs.mkfs().arg(disk.path()), MKFS_DEADLINE).expect_success();
        let mount = Mount::new(disk.path(), scratch.subdirectory("fs"), fs)?;
        let bench = Bench { mount, disk, _scratch: scratch };
        for directory in [bench.bare(), bench.tree()] {
            fs::create_dir(directory)?;
        }
        Ok(bench)
    }

    /// The directory of the bare side.
    pub fn bare(&self) -> PathBuf {
        self.mount.path.join("bare")
    }

    /// The directory that lanefs mounts.
    pub fn tree(&self) -> PathBuf {
        self.mount.path.join("tree")
    }

    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Writes out what is still dirty, at no cost of flushes, and then lets flushes take
    /// `flush_time`: what one slice left to do is not the next one's.
    pub fn settle(&self, flush_time: Duration) -> io::Result<()> {
        self.disk.set_flush_time(Duration::ZERO);
        rustix::fs::syncfs(File::open(&self.mount.path)?)?;
        self.disk.set_flush_time(flush_time);
        Ok(())
    }

    /// Removes the files of both sides.
    pub fn clear(&self) -> io::Result<()> {
        self.disk.set_flush_time(Duration::ZERO);
        for directory in [self.bare(), self.tree()] {
            fs::remove_dir_all(&directory)?;
            fs::create_dir(&directory)?;
        }
        self.settle(Duration::ZERO)
    }
}

// At a path, unlike `Disk::mount`: lanefs resolves the path of its backing directory.
struct Mount {
    path: PathBuf,
}

impl Mount {
    fn new(device: &Path, path: PathBuf, fs: Filesystem) -> io::Result<Self> {
        let (kind, options) = fs.mount_as();
        mount(device, &path, kind, MountFlags::empty(), options)?;
        Ok(Mount { path })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if !unmount_patiently(&self.path, BUSY_PATIENCE) {
            eprintln!("{} stayed busy and was detached", self.path.display());
        }
    }
}
