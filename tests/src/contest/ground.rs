//! Where the sides work: filesystems on disks of their own.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::disk::{Disk, DiskMount, DiskOptions};
use crate::filesystem::{Filesystem, Making};
use crate::loopfs::LoopFs;
use crate::run;
use crate::scratch::Scratch;

/// Room for the files of every workload; only what is written costs memory.
const DISK_MIB: u64 = 4096;
/// All of it is written when it is made.
const OWN_DISK_MIB: u64 = 1024;

/// A filesystem on a disk; dropped, both are gone.
pub struct Ground {
    filesystem: Filesystem,
    device: Device,
}

enum Device {
    Memory {
        // Dropped in this order: the filesystem before its disk, the mount point last.
        mount: DiskMount,
        disk: Disk,
        _scratch: Scratch,
    },
    Own(LoopFs),
}

impl Device {
    fn in_memory(
        scratch: Scratch,
        disk: Disk,
        filesystem: Filesystem,
        options: &str,
    ) -> io::Result<Self> {
        // At a path: lanefs resolves the path of its backing directory.
        let place = scratch.subdirectory("fs");
        let mount = disk.mount_at(&place, filesystem.kernel_name(), options)?;
        Ok(Device::Memory { mount, disk, _scratch: scratch })
    }
}

/// What a device was asked for, counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Flushes that were done.
    pub flushes: u64,
    /// Writes that were done.
    pub writes: u64,
}

impl Ground {
    /// On a disk of memory, whose flushes take the time that it is told.
    ///
    /// # Errors
    /// There is no such disk to be had.
    pub fn in_memory(filesystem: Filesystem) -> io::Result<Self> {
        Self::in_memory_mounted(filesystem, filesystem.quiet_options())
    }

    /// The same, mounted with these options.
    ///
    /// # Errors
    /// As [`Ground::in_memory`].
    pub fn in_memory_mounted(filesystem: Filesystem, options: &str) -> io::Result<Self> {
        // First, because it removes what a killed run left, and that may hold a loop device.
        let scratch = Scratch::new(0);
        let disk = Disk::new(DiskOptions::new(DISK_MIB).unrecorded())?;
        filesystem.make_as(disk.path(), Making::default());
        let device = Device::in_memory(scratch, disk, filesystem, options)?;
        Self::over(filesystem, device)
    }

    /// A disk with what this one holds now, as a power cut might leave it that spared the disk's
    /// cache; its filesystem has recovered. Flushes take no time. None if this is no disk of memory.
    ///
    /// # Errors
    /// There is no second disk to be had, or the filesystem does not recover.
    pub fn after_power_cut(&self) -> io::Result<Option<Self>> {
        let Device::Memory { disk, .. } = &self.device else { return Ok(None) };
        let filesystem = self.filesystem;
        let copy = Disk::from_image(disk.cached(), DiskOptions::new(DISK_MIB).unrecorded())?;
        let options = filesystem.image_options();
        let device = Device::in_memory(Scratch::new(0), copy, filesystem, options)?;
        Ok(Some(Ground { filesystem, device }))
    }

    /// On a file of the machine's own disk, written beforehand and used with direct I/O.
    ///
    /// # Errors
    /// The filesystem cannot be used.
    pub fn on_own_disk(filesystem: Filesystem) -> io::Result<Self> {
        Self::over(filesystem, Device::Own(LoopFs::prewritten(filesystem, OWN_DISK_MIB)))
    }

    fn over(filesystem: Filesystem, device: Device) -> io::Result<Self> {
        let ground = Ground { filesystem, device };
        fs::create_dir(ground.root())?;
        Ok(ground)
    }

    /// The directory that a side works in, or that lanefs mounts.
    pub fn root(&self) -> PathBuf {
        self.mount_point().join("root")
    }

    fn mount_point(&self) -> &Path {
        match &self.device {
            Device::Memory { mount, .. } => mount.path(),
            Device::Own(filesystem) => filesystem.path(),
        }
    }

    /// What the device did so far.
    pub fn work(&self) -> Work {
        match &self.device {
            Device::Memory { disk, .. } => {
                let counters = disk.counters();
                Work { flushes: counters.flushes, writes: counters.writes }
            }
            Device::Own(loop_fs) => Work { flushes: loop_fs.flushes(), writes: loop_fs.writes() },
        }
    }

    /// Commits of the journal so far, of an ext4.
    ///
    /// # Errors
    /// It is another filesystem, or has no journal.
    pub fn journal_commits(&self) -> io::Result<u64> {
        let device = fs::metadata(self.mount_point())?.dev();
        let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
        let link = fs::read_link(format!("/sys/dev/block/{number}"))?;
        let name = link.file_name().and_then(OsStr::to_str).unwrap_or_default();
        // The journal is inode 8.
        let info = fs::read_to_string(format!("/proc/fs/jbd2/{name}-8/info"))?;
        let commits = info.split(' ').next().and_then(|word| word.parse().ok());
        commits.ok_or_else(|| io::Error::other(format!("a journal that says {info:?}")))
    }

    /// Lets a flush take this time; a disk of the machine takes its own.
    pub fn set_flush_time(&self, time: Duration) {
        if let Device::Memory { disk, .. } = &self.device {
            disk.set_flush_time(time);
        }
    }

    /// Writes out what is dirty.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(File::open(self.mount_point())?)?)
    }

    /// Removes all files.
    ///
    /// # Errors
    /// One cannot be removed.
    pub fn clear(&self) -> io::Result<()> {
        self.set_flush_time(Duration::ZERO);
        fs::remove_dir_all(self.root())?;
        fs::create_dir(self.root())?;
        self.sync()
    }

    /// Waits until the device has done nothing for `quiet`; false if that takes longer than
    /// `patience`.
    pub fn is_quiet(&self, quiet: Duration, patience: Duration) -> bool {
        let still = || {
            let before = self.work();
            std::thread::sleep(quiet);
            (self.work() == before).then_some(())
        };
        run::poll(patience, still).is_some()
    }
}

/// The grounds of both sides.
pub struct Bench {
    /// Where the bare side works.
    pub bare: Ground,
    /// What lanefs is mounted on.
    pub lanefs: Ground,
}

impl Bench {
    /// Two disks of memory.
    ///
    /// # Errors
    /// As [`Ground::in_memory`].
    pub fn in_memory(bare: Filesystem, lanefs: Filesystem) -> io::Result<Self> {
        Ok(Bench { bare: Ground::in_memory(bare)?, lanefs: Ground::in_memory(lanefs)? })
    }

    /// Two files of the machine's own disk.
    ///
    /// # Errors
    /// As [`Ground::on_own_disk`].
    pub fn on_own_disk(filesystem: Filesystem) -> io::Result<Self> {
        let ground = || Ground::on_own_disk(filesystem);
        Ok(Bench { bare: ground()?, lanefs: ground()? })
    }

    /// Both of them.
    pub fn grounds(&self) -> [&Ground; 2] {
        [&self.bare, &self.lanefs]
    }

    /// Lets flushes of both take this time.
    pub fn set_flush_time(&self, time: Duration) {
        self.grounds().into_iter().for_each(|ground| ground.set_flush_time(time));
    }

    /// Removes the files of both sides.
    ///
    /// # Errors
    /// As [`Ground::clear`].
    pub fn clear(&self) -> io::Result<()> {
        self.grounds().into_iter().try_for_each(Ground::clear)
    }
}
