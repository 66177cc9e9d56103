//! The filesystems that are tried.

use std::path::Path;
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use crate::{run, tools};

/// A filesystem and how it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filesystem {
    /// With its journal, defaults.
    Ext4,
    /// With `fast_commit`.
    Ext4FastCommit,
    /// Defaults.
    Xfs,
    /// Defaults.
    Btrfs,
}

impl Filesystem {
    /// All of them.
    pub const ALL: [Filesystem; 4] =
        [Filesystem::Ext4, Filesystem::Ext4FastCommit, Filesystem::Xfs, Filesystem::Btrfs];

    /// Name on the command line.
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

    /// Options for mounting a crash image: what a power cut left may have any UUID twice.
    pub fn image_options(self) -> &'static str {
        match self {
            Filesystem::Xfs => "nouuid",
            _ => "",
        }
    }

    /// Makes the filesystem.
    pub fn make(self, device: &Path) {
        let (package, program, arguments): (_, _, &[&str]) = match self {
            Filesystem::Ext4 => ("e2fsprogs", "mkfs.ext4", &["-q", "-F", "-J", "size=8"]),
            Filesystem::Ext4FastCommit => {
                ("e2fsprogs", "mkfs.ext4", &["-q", "-F", "-J", "size=8", "-O", "fast_commit"])
            }
            Filesystem::Xfs => ("xfsprogs", "mkfs.xfs", &["-q", "-f"]),
            Filesystem::Btrfs => ("btrfs-progs", "mkfs.btrfs", &["-q", "-f"]),
        };
        let mut command = Command::new(tools::debian(package, program));
        run::run(command.args(arguments).arg(device), Duration::from_secs(60)).expect_success();
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
