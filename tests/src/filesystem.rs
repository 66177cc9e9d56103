//! The filesystems that tests stand on: how each is made, and how it is mounted.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::{run, tools};

const MKFS_DEADLINE: Duration = Duration::from_secs(60);
/// So small that a short run goes round it.
const SMALL_JOURNAL_MIB: u32 = 8;

/// A filesystem and how it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Filesystem {
    /// ext4 as mkfs makes it: a commit is two flushes, and half of the waiting threads share one
    Ext4,
    /// ext4 with the feature `fast_commit`: all waiting threads share a commit
    Ext4FastCommit,
    /// XFS as mkfs makes it; at least 300 MiB
    Xfs,
    /// btrfs as mkfs makes it; at least 128 MiB
    Btrfs,
}

/// What is not as mkfs would choose.
#[derive(Clone, Copy, Debug, Default)]
pub struct Making {
    /// Room for this many files (ext4 decides it once and for all; others grow).
    pub inodes: Option<u64>,
    /// Size of the journal (ext4).
    pub journal_mib: Option<u32>,
    /// Leave the blocks of the device as they are, and do not discard them.
    pub keep_blocks: bool,
}

impl Filesystem {
    /// All of them.
    pub const ALL: [Filesystem; 4] =
        [Filesystem::Ext4, Filesystem::Ext4FastCommit, Filesystem::Xfs, Filesystem::Btrfs];

    /// The name on command lines and in results.
    pub fn name(self) -> &'static str {
        match self {
            Filesystem::Ext4 => "ext4",
            Filesystem::Ext4FastCommit => "ext4-fast-commit",
            Filesystem::Xfs => "xfs",
            Filesystem::Btrfs => "btrfs",
        }
    }

    /// What mount(2) calls it.
    pub fn kernel_name(self) -> &'static str {
        match self {
            Filesystem::Ext4 | Filesystem::Ext4FastCommit => "ext4",
            Filesystem::Xfs => "xfs",
            Filesystem::Btrfs => "btrfs",
        }
    }

    /// Options for mounting it where something is counted: no work in the background.
    pub fn quiet_options(self) -> &'static str {
        match self {
            Filesystem::Ext4 | Filesystem::Ext4FastCommit => "noinit_itable",
            Filesystem::Xfs | Filesystem::Btrfs => "",
        }
    }

    /// Options for mounting a crash image: what a power cut left may have any UUID twice.
    pub fn image_options(self) -> &'static str {
        match self {
            Filesystem::Xfs => "nouuid",
            _ => "",
        }
    }

    /// Smallest disk that it likes, in MiB (XFS refuses less than 300).
    pub fn size_mib(self) -> u64 {
        320
    }

    /// How many images may be mounted side by side. btrfs knows devices by UUID, and images of one
    /// disk have the same; for the others two for each processor keep it busy.
    pub fn benches_max(self) -> usize {
        match self {
            Filesystem::Btrfs => 1,
            _ => 2 * std::thread::available_parallelism().map_or(2, usize::from),
        }
    }

    /// Makes the filesystem on a disk of [`Filesystem::size_mib`], with a journal to match.
    pub fn make(self, device: &Path) {
        let journal_mib = Some(SMALL_JOURNAL_MIB);
        self.make_as(device, Making { journal_mib, ..Making::default() });
    }

    /// Makes the filesystem on a device or in a file.
    #[track_caller]
    pub fn make_as(self, device: &Path, making: Making) {
        let mut command = match self {
            Filesystem::Ext4 => mkfs_ext4(making),
            Filesystem::Ext4FastCommit => {
                let mut command = mkfs_ext4(making);
                command.args(["-O", "fast_commit"]);
                command
            }
            Filesystem::Xfs => mkfs_other("xfsprogs", "mkfs.xfs", making),
            Filesystem::Btrfs => mkfs_other("btrfs-progs", "mkfs.btrfs", making),
        };
        run::run(command.arg(device), MKFS_DEADLINE).expect_success();
    }
}

// Inode tables and journal written at once: no background work while we count.
fn mkfs_ext4(Making { inodes, journal_mib, keep_blocks }: Making) -> Command {
    let mut command = Command::new(tools::debian("e2fsprogs", "mkfs.ext4"));
    let discard = if keep_blocks { "nodiscard" } else { "discard" };
    let extended = format!("lazy_itable_init=0,lazy_journal_init=0,{discard}");
    command.args(["-q", "-F", "-E", &extended]);
    if let Some(inodes) = inodes {
        command.args(["-N", &inodes.to_string()]);
    }
    if let Some(journal_mib) = journal_mib {
        command.args(["-J", &format!("size={journal_mib}")]);
    }
    command
}

// These two have the same names for what we ask of them.
fn mkfs_other(package: &str, program: &str, making: Making) -> Command {
    let mut command = Command::new(tools::debian(package, program));
    command.args(["-q", "-f"]);
    if making.keep_blocks {
        command.arg("-K");
    }
    command
}

impl fmt::Display for Filesystem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for Filesystem {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Filesystem::ALL.into_iter().find(|known| known.name() == name).ok_or_else(|| {
            let names = Filesystem::ALL.map(Filesystem::name).join(", ");
            format!("no filesystem `{name}`: there are {names}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_on_command_lines_and_in_results() {
        for filesystem in Filesystem::ALL {
            let value = filesystem.to_possible_value().expect("none is hidden");
            assert_eq!(value.get_name(), filesystem.name());
            assert_eq!(serde_json::json!(filesystem), filesystem.name());
            assert_eq!(filesystem.name().parse(), Ok(filesystem));
        }
        assert!("zfs".parse::<Filesystem>().is_err_and(|said| said.contains("ext4-fast-commit")));
    }
}
