//! Whether a filesystem keeps what a shared commit, and what a log, rely on.
//!
//! A shared commit (`fence/marker.rs`) needs metadata that one journal commits in
//! the order in which it was changed, and data on the device of that journal. A
//! log needs more: that written-back data lies where it stays, not in a journal
//! and not in an inode; that a commit is never reordered on the device; that
//! objects are found again by handle; that times keep nanoseconds.
//!
//! What cannot be found out counts as not so. Each answer is a sentence for
//! people, with the remedy where there is one.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, StatVfsMountFlags, Timespec, Timestamps, UTIME_OMIT};

use super::fence::{BTRFS_MAGIC, EXT4_MAGIC, FUSE_MAGIC, FenceMechanism, XFS_MAGIC};
use crate::error::Result;
use crate::types::Time;

/// What a check says: nothing, or why not.
pub(super) type Verdict = std::result::Result<(), String>;

/// Whether one commit of the journal makes every earlier metadata change of this
/// filesystem durable, and all data that its device had been given.
pub(super) fn commits_in_order(magic: u64, directory: BorrowedFd<'_>) -> Verdict {
    match magic {
        EXT4_MAGIC => ext4_commits_in_order(&Device::of(directory)?),
        XFS_MAGIC => xfs_commits_in_order(directory),
        other => Err(no_ordered_journal(other)),
    }?;
    options_allow(&Device::of(directory)?.filesystem_options()?)
}

/// Largest block of a filesystem that can have a log: a page of the log.
const BLOCK_BYTES_MAX: u64 = 4096;

/// Whether a log can be kept for this filesystem.
pub(super) fn can_keep_log(
    magic: u64,
    directory: BorrowedFd<'_>,
    handles: bool,
    mechanism: FenceMechanism,
) -> Verdict {
    let stat = rustix::fs::fstatvfs(directory).map_err(|e| format!("cannot ask for it: {e}"))?;
    if stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err("the backing directory is mounted read-only".to_owned());
    }
    if !matches!(magic, EXT4_MAGIC | XFS_MAGIC) {
        return Err(no_ordered_journal(magic));
    }
    // The log knows pages, and recovery gives each page a block of its own at once: of a
    // larger block an interrupted recovery could leave a part (XFS, Linux 6.12).
    if stat.f_bsize > BLOCK_BYTES_MAX {
        return Err(format!(
            "its blocks are of {} bytes: make it anew with blocks of {BLOCK_BYTES_MAX}",
            stat.f_bsize
        ));
    }
    if !handles {
        return Err("objects cannot be found again by file handle: \
                    run lanefs with CAP_DAC_READ_SEARCH (as root), and without pinned objects"
            .to_owned());
    }
    if mechanism != FenceMechanism::Auto {
        return Err("one journal commit for a group was ruled out by `sync_by`: \
                    leave that option away"
            .to_owned());
    }
    commits_in_order(magic, directory)?;
    if magic == EXT4_MAGIC {
        ext4_writes_in_place(&Device::of(directory)?)?;
        // XFS always does. A full one may have no room for an inode to try it with, and its log is to
        // be recovered all the same (seen: the mount was refused).
        keeps_nanoseconds(directory)?;
    }
    Ok(())
}

fn no_ordered_journal(magic: u64) -> String {
    let what = match magic {
        BTRFS_MAGIC => "btrfs logs the changes of one file at a time (its tree log)",
        0x0102_1994 | 0x8584_58f6 => "tmpfs keeps nothing over a power cut",
        super::opening::OVERLAY_MAGIC => "overlayfs has no journal of its own",
        0x6969 => "an NFS server commits its files one by one",
        FUSE_MAGIC => "a FUSE filesystem does not say what its syncs cover",
        0xf2f5_2010 => "f2fs recovers the files that were synced, each for itself",
        _ => "this filesystem is not known to keep its changes in order",
    };
    format!("{what}; a log needs ext4 or XFS")
}

/// The block device that a filesystem is on.
struct Device {
    /// As in /sys/dev/block and /proc/self/mountinfo.
    number: String,
}

impl Device {
    fn of(directory: BorrowedFd<'_>) -> std::result::Result<Self, String> {
        let stat = rustix::fs::fstat(directory).map_err(|e| format!("cannot ask for it: {e}"))?;
        let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
        Ok(Self { number: format!("{major}:{minor}") })
    }

    /// The kernel's name of the device, `/` in it replaced by `!`.
    fn name(&self) -> std::result::Result<String, String> {
        let link = std::fs::read_link(format!("/sys/dev/block/{}", self.number));
        let name = link.ok().and_then(|link| Some(link.file_name()?.to_str()?.to_owned()));
        name.ok_or_else(|| {
            format!("no block device {} is shown in /sys/dev/block: mount /sys", self.number)
        })
    }

    /// Options of the filesystem (the last field of /proc/self/mountinfo; what
    /// stands there is the superblock's, whichever of its mounts the line is about).
    fn filesystem_options(&self) -> std::result::Result<String, String> {
        let missing = || format!("no mount of device {} in /proc/self/mountinfo", self.number);
        let table = std::fs::read_to_string("/proc/self/mountinfo").map_err(|_| missing())?;
        let line = table.lines().find(|line| line.split(' ').nth(2) == Some(&*self.number));
        let options = line.and_then(|line| line.split(' ').next_back()).ok_or_else(missing)?;
        Ok(options.to_owned())
    }
}

fn options_allow(options: &str) -> Verdict {
    for option in options.split(',') {
        match option.split('=').next().unwrap_or(option) {
            "ro" => return Err("the filesystem is read-only".to_owned()),
            // A sync of a file writes times that were kept back, and a sync of
            // another file does not.
            "lazytime" => return Err(remount("it is mounted with lazytime", "nolazytime")),
            "logdev" => return Err("its journal is on a device of its own".to_owned()),
            "rtdev" => return Err("it has a real-time device".to_owned()),
            _ => {}
        }
    }
    Ok(())
}

fn remount(what: &str, option: &str) -> String {
    format!("{what}: remount it with -o remount,{option}")
}

/// An ext4 with an internal journal and full commits only.
fn ext4_commits_in_order(device: &Device) -> Verdict {
    let name = device.name()?;
    let superblock = Ext4Superblock::read(&name)?;
    // jbd2 shows an internal journal as DEVICE-INODE (the journal is inode 8), an
    // external one under its own device's name, and no journal not at all: also
    // where there is one that a mount with `noload` leaves alone.
    if !Path::new(&format!("/proc/fs/jbd2/{name}-8")).exists() {
        return Err(if !superblock.has(Feature::Journal) {
            format!(
                "this ext4 has no journal: unmount it and run tune2fs -O has_journal {}",
                superblock.path.display()
            )
        } else if superblock.journal_inode == 0 {
            "its journal is on a device of its own".to_owned()
        } else {
            "its journal is not in use (mount option noload?): mount it anew".to_owned()
        });
    }
    // A sync that meets a fast commit under way waits for it and returns,
    // although what came after its begin is not in it (`ext4_fc_commit`, Linux
    // 6.18). No mount option shows it.
    if superblock.has(Feature::FastCommit) {
        return Err(format!(
            "this ext4 has fast_commit: unmount it and run tune2fs -O ^fast_commit {}",
            superblock.path.display()
        ));
    }
    Ok(())
}

/// An ext4 whose data write-back puts where it stays, and whose commit is
/// flushed in order.
fn ext4_writes_in_place(device: &Device) -> Verdict {
    let name = device.name()?;
    let superblock = Ext4Superblock::read(&name)?;
    // Small files live in their inode then: their bytes are metadata.
    if superblock.has(Feature::InlineData) {
        return Err("this ext4 has inline_data: bytes of small files lie in the journal".to_owned());
    }
    // Recovery could not write an encrypted file before somebody gives its key.
    if superblock.has(Feature::Encrypt) {
        return Err("this ext4 has the feature encrypt: recovery has no keys".to_owned());
    }
    ext4_options_allow(&ext4_options(&name)?)
}

/// Unlike /proc/self/mountinfo this shows options that are the default, which
/// tune2fs may have chosen (`ext4_seq_options_show`).
fn ext4_options(name: &str) -> std::result::Result<String, String> {
    let path = format!("/proc/fs/ext4/{name}/options");
    std::fs::read_to_string(&path).map_err(|e| format!("cannot read {path}: {e}"))
}

/// Whether blocks that are allocated late begin as unwritten extents, which become written ones when
/// the data is there: XFS does so, and ext4 unless it is mounted with `dioread_lock`. (A remount may
/// change that unseen; it takes a failing disk as well to lose something by it.)
pub(super) fn delays_allocation(directory: BorrowedFd<'_>, magic: u64) -> bool {
    let ext4 = || ext4_options(&Device::of(directory)?.name()?);
    match magic {
        XFS_MAGIC => true,
        EXT4_MAGIC => ext4().is_ok_and(|options| ext4_delays_allocation(&options)),
        _ => false,
    }
}

fn ext4_delays_allocation(options: &str) -> bool {
    ["delalloc", "dioread_nolock"].iter().all(|wanted| options.lines().any(|line| line == *wanted))
}

fn ext4_options_allow(options: &str) -> Verdict {
    let has = |wanted: &str| options.lines().any(|option| option == wanted);
    if !has("data=ordered") {
        return Err("it is mounted with data=journal or data=writeback: \
                    mount it anew with data=ordered"
            .to_owned());
    }
    if has("journal_async_commit") {
        return Err("it is mounted with journal_async_commit: mount it anew without".to_owned());
    }
    if !has("barrier") {
        return Err(remount("it is mounted with nobarrier", "barrier"));
    }
    Ok(())
}

/// What of an ext4's superblock matters here.
struct Ext4Superblock {
    path: PathBuf,
    compatible: u32,
    incompatible: u32,
    journal_inode: u32,
}

#[derive(Clone, Copy)]
enum Feature {
    Journal,
    FastCommit,
    InlineData,
    Encrypt,
}

impl Ext4Superblock {
    /// Where it begins on the device.
    const OFFSET: u64 = 1024;

    fn read(name: &str) -> std::result::Result<Self, String> {
        let path = Path::new("/dev").join(name.replace('!', "/"));
        let mut bytes = [0; 256];
        std::fs::File::open(&path)
            .and_then(|device| device.read_exact_at(&mut bytes, Self::OFFSET))
            .map_err(|e| format!("cannot read the superblock on {}: {e}", path.display()))?;
        // Offsets of fs/ext4/ext4.h, `struct ext4_super_block`.
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        if u64::from(word(0x38) & 0xffff) != EXT4_MAGIC {
            return Err(format!("{} is not the device of this ext4", path.display()));
        }
        Ok(Self {
            path,
            compatible: word(0x5c),
            incompatible: word(0x60),
            journal_inode: word(0xe0),
        })
    }

    fn has(&self, feature: Feature) -> bool {
        match feature {
            Feature::Journal => self.compatible & 0x0004 != 0,
            Feature::FastCommit => self.compatible & 0x0400 != 0,
            Feature::InlineData => self.incompatible & 0x8000 != 0,
            Feature::Encrypt => self.incompatible & 0x1_0000 != 0,
        }
    }
}

/// An XFS with its journal in its one device. A real-time section inside that
/// device (zoned XFS, Linux 6.15) shows in no mount option; its files are
/// written out of place.
fn xfs_commits_in_order(directory: BorrowedFd<'_>) -> Verdict {
    let geometry =
        xfs_geometry(directory).map_err(|e| format!("XFS does not tell its geometry: {e}"))?;
    if geometry.realtime_blocks != 0 {
        return Err("this XFS has a real-time section".to_owned());
    }
    if geometry.log_start == 0 {
        return Err("its journal is on a device of its own".to_owned());
    }
    Ok(())
}

/// `struct xfs_fsop_geom_v4` of the kernel's `xfs_fs.h`.
#[repr(C)]
pub(super) struct XfsGeometry {
    pub(super) block_bytes: u32,
    _sizes: [u32; 5],
    pub(super) inode_bytes: u32,
    _imax_percent: u32,
    _data_blocks: u64,
    realtime_blocks: u64,
    _realtime_extents: u64,
    log_start: u64,
    _uuid: [u8; 16],
    _stripes: [u32; 2],
    _version: i32,
    flags: u32,
    _rest: [u32; 4],
}

impl XfsGeometry {
    /// Whether it has the format with checksums, whose inodes have longer heads.
    pub(super) const fn has_checksums(&self) -> bool {
        /// `XFS_FSOP_GEOM_FLAGS_V5SB`.
        const V5: u32 = 1 << 15;
        self.flags & V5 != 0
    }
}

pub(super) fn xfs_geometry(directory: BorrowedFd<'_>) -> Result<XfsGeometry> {
    /// `XFS_IOC_FSGEOMETRY_V4`.
    const OPCODE: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<XfsGeometry>(b'X', 124);
    // SAFETY: the opcode carries the size of the structure, which is what XFS
    // fills (`xfs_ioc_fsgeometry`); another filesystem does not know the opcode.
    let geometry = unsafe {
        rustix::ioctl::ioctl(directory, rustix::ioctl::Getter::<OPCODE, XfsGeometry>::new())
    };
    Ok(geometry?)
}

/// Marks are nanoseconds of a time; ext4 with inodes of 128 bytes has seconds only.
fn keeps_nanoseconds(directory: BorrowedFd<'_>) -> Verdict {
    const NANOS: i64 = 999_999_999;
    let probe = || -> Result<bool> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, c".", flags, Mode::RUSR)?;
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: 1, tv_nsec: NANOS },
        };
        rustix::fs::futimens(&file, &times)?;
        let time = super::attr::stat_fd(file.as_fd())?.0.mtime;
        Ok(time.secs == 1 && i64::from(time.nanos) == NANOS)
    };
    match probe() {
        Ok(true) => Ok(()),
        Ok(false) => Err("times lose their nanoseconds here (ext4 with inodes of 128 bytes): \
                          make the filesystem anew with larger inodes"
            .to_owned()),
        Err(error) => Err(format!("no unnamed file can be made in the directory: {error}")),
    }
}

/// Whether every change of an object that follows a look at its attributes gets a
/// time of change of its own (multigrain timestamps, Linux 6.13: then, and only
/// then, `ctime` is read from a clock finer than the tick, `inode_set_ctime_current`).
/// Tried, since no system call tells it.
pub(super) fn has_exact_times(directory: BorrowedFd<'_>) -> bool {
    /// Changes in a row, each of which must show.
    const CHANGES: u32 = 200;
    /// In this time far fewer ticks pass than there are changes (a tick is 1 ms
    /// at least), so that a clock of ticks cannot make all of them differ.
    const TIME_MAX: Duration = Duration::from_millis(50);
    /// Somebody else may have had the processor.
    const ATTEMPTS: u32 = 5;

    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::openat(directory, c".", flags, Mode::RUSR) else { return false };
    let change = |byte: u32| -> Result<Time> {
        rustix::io::pwrite(&file, &[byte as u8], 0)?;
        Ok(super::attr::stat_fd(file.as_fd())?.0.ctime)
    };
    for _ in 0..ATTEMPTS {
        let start = Instant::now();
        let mut last = None;
        for byte in 0..CHANGES {
            match change(byte) {
                Ok(time) if Some(time) != last => last = Some(time),
                _ => return false,
            }
        }
        if start.elapsed() < TIME_MAX {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_under_which_one_commit_is_not_enough() {
        assert_eq!(options_allow("rw,relatime,rw,data=ordered"), Ok(()));
        for option in ["lazytime", "logdev=/dev/sdb", "rtdev=/dev/sdc", "ro"] {
            assert!(options_allow(&format!("rw,relatime,{option}")).is_err(), "{option}");
        }
    }

    #[test]
    fn options_under_which_ext4_keeps_no_log() {
        let good = "rw\nbarrier\nnojournal_checksum\ndata=ordered\ncommit=5\n";
        assert_eq!(ext4_options_allow(good), Ok(()));
        for (from, to) in [
            ("data=ordered", "data=journal"),
            ("data=ordered", "data=writeback"),
            ("barrier", "nobarrier"),
            ("nojournal_checksum", "journal_async_commit"),
        ] {
            assert!(ext4_options_allow(&good.replace(from, to)).is_err(), "{to}");
        }
    }

    #[test]
    fn options_under_which_ext4_delays_allocation() {
        let good = "rw\nbarrier\ndelalloc\ndioread_nolock\ndata=ordered\n";
        assert!(ext4_delays_allocation(good));
        for (from, to) in [("dioread_nolock", "dioread_lock"), ("delalloc", "nodelalloc")] {
            assert!(!ext4_delays_allocation(&good.replace(from, to)), "{to}");
        }
    }

    #[test]
    fn filesystems_without_an_ordered_journal_are_named() {
        let directory = tempfile::tempdir().expect("scratch directory");
        let place = std::fs::File::open(directory.path()).expect("scratch directory");
        for (magic, name) in [(BTRFS_MAGIC, "btrfs"), (FUSE_MAGIC, "FUSE"), (0x0102_1994, "tmpfs")]
        {
            let reason = commits_in_order(magic, place.as_fd()).expect_err(name);
            assert!(reason.contains(name), "{reason}");
            let verdict = can_keep_log(magic, place.as_fd(), true, FenceMechanism::Auto);
            assert!(verdict.is_err(), "{name}");
        }
    }

    #[test]
    fn an_xfs_geometry_has_the_size_of_its_ioctl() {
        assert_eq!(size_of::<XfsGeometry>(), 112);
    }
}
