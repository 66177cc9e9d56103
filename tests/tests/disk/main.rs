//! Promise: the disk of the power cuts behaves like a disk with a volatile cache, its record tells
//! the truth, and nothing of it is left behind.
//!
//! - `content`: what was written is read, by many at once; memory is used only for what was written;
//!   a flush takes the configured time.
//! - `power`: what was acknowledged before a flush arrived is in every image after it; what was not
//!   may be lost, torn at 512 bytes; images are made and mounted fast, and repeat from their seed.
//! - `faults`: each fault does what it says, and only that.
//! - `ext4`: on top of it bare ext4 needs the flushes that it is known to need.
//! - `leftovers`: no mount, loop device or process remains after success, panic and SIGKILL.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use rustix::fs::OFlags;
use tests::disk::{Disk, DiskOptions};
use tests::{require, run, tools};

mod content;
mod ext4;
mod faults;
mod leftovers;
mod power;

const DEADLINE: Duration = Duration::from_secs(60);

/// A page in memory where direct I/O wants it.
#[repr(align(4096))]
struct Block([u8; 4096]);

impl Block {
    fn of(byte: u8) -> Box<Block> {
        Box::new(Block([byte; 4096]))
    }
}

static TURNS: RwLock<()> = RwLock::new(());

/// Lets the test run beside others, or, held by a test that measures time, alone. None: it cannot
/// run here.
fn beside_others() -> Option<RwLockReadGuard<'static, ()>> {
    require::mount_support().then(|| TURNS.read().unwrap_or_else(PoisonError::into_inner))
}

fn alone() -> Option<RwLockWriteGuard<'static, ()>> {
    require::mount_support().then(|| TURNS.write().unwrap_or_else(PoisonError::into_inner))
}

fn disk(options: DiskOptions) -> Disk {
    Disk::new(options).expect("a disk")
}

/// The block device past the page cache: a write that returned was answered by the disk.
fn open_direct(disk: &Disk) -> File {
    let flags = OFlags::DIRECT.bits().cast_signed();
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(flags).open(disk.path()).expect("the device")
}

fn write_block(device: &File, number: u64, byte: u8) {
    device.write_all_at(&Block::of(byte).0, number * 4096).expect("a write");
}

fn make_ext4(disk: &Disk) {
    make_filesystem("ext4", disk);
}

/// A filesystem with everything on the disk before anything is measured.
fn make_filesystem(name: &str, disk: &Disk) {
    let (package, arguments): (_, &[&str]) = match name {
        "ext4" => ("e2fsprogs", &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"]),
        "xfs" => ("xfsprogs", &["-q", "-f"]),
        _ => ("btrfs-progs", &["-q", "-f"]),
    };
    let mut command = Command::new(tools::debian(package, &format!("mkfs.{name}")));
    run::run(command.args(arguments).arg(disk.path()), DEADLINE).expect_success();
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
