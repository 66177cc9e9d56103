//! Promise: what lanefs asks of a filesystem before it keeps a log there is so, and where it is not
//! lanefs says why.
//!
//! The checks are those of `fs-core/tests/platform/log_platform.rs`, which know system calls and structures
//! that no program shows; this test makes the filesystems and devices for them and runs them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use tests::loopfs::LoopFs;
use tests::scratch::{Scratch, unmount_patiently};
use tests::{leftovers, require, run, tools};

mod checks;

const CHECK_DEADLINE: Duration = Duration::from_secs(120);
const TOOL_DEADLINE: Duration = Duration::from_secs(60);
const BUSY_DEADLINE: Duration = Duration::from_secs(15);
const EXT4_MIB: u64 = 64;
const XFS_MIB: u64 = 320;
/// The smallest that mkfs.xfs makes.
const XFS_LOG_MIB: u64 = 64;
const BTRFS_MIB: u64 = 128;

#[test]
fn on_ext4() {
    if require::mount_support() {
        let filesystem = LoopFs::ext4(EXT4_MIB);
        run_checks(filesystem.path());
    }
}

#[test]
fn on_xfs() {
    if require::mount_support() {
        let filesystem = LoopFs::xfs(XFS_MIB);
        run_checks(filesystem.path());
    }
}

/// XFS answered fsync with 0 when the write of its journal had failed, two milliseconds after it had been
/// shut down (docs/power-cuts.md): acknowledged operations were lost. Syncs on XFS end with a look at the
/// inode since, which only helps as long as the kernel refuses that once the filesystem is down.
#[test]
fn an_inode_of_a_shut_down_xfs_cannot_be_looked_at() {
    if !require::mount_support() {
        return;
    }
    let filesystem = LoopFs::xfs(XFS_MIB);
    let file = File::create(filesystem.path().join("file")).expect("a new filesystem has room");
    assert!(file.metadata().is_ok());
    let mut shut_down = Command::new(tools::debian("xfsprogs", "xfs_io"));
    shut_down.args(["-x", "-c", "shutdown"]).arg(filesystem.path());
    run::run(&mut shut_down, TOOL_DEADLINE).expect_success();
    let error = file.metadata().expect_err("the filesystem is down");
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
}

/// How an ext4 is made and mounted, and what lanefs says to it.
const EXT4_OBSTACLES: &[(&[&str], &str, &str)] = &[
    (&["-O", "^has_journal"], "rw", "no journal"),
    (&["-O", "fast_commit"], "rw", "fast_commit"),
    (&["-O", "inline_data"], "rw", "inline_data"),
    (&["-O", "encrypt"], "rw", "encrypt"),
    (&["-I", "128"], "rw", "nanoseconds"),
    (&[], "data=journal", "data=journal"),
    (&[], "data=writeback", "data=writeback"),
    (&[], "nobarrier", "nobarrier"),
    (&[], "lazytime", "lazytime"),
    (&[], "ro", "read-only"),
    (&[], "noload", "not in use"),
    // As it should be; also what changes nothing.
    (&[], "rw", ""),
    (&["-O", "bigalloc"], "nodelalloc,noatime,commit=60", ""),
];

#[test]
fn obstacles_of_ext4() {
    if !require::mount_support() {
        return;
    }
    let filesystem = LoopFs::ext4(EXT4_MIB);
    for (making, options, expected) in EXT4_OBSTACLES {
        unmount(filesystem.path());
        let mut mkfs = Command::new(tools::debian("e2fsprogs", "mkfs.ext4"));
        mkfs.args(["-q", "-F"]).args(*making).arg(filesystem.device());
        run::run(&mut mkfs, TOOL_DEADLINE).expect_success();
        mount("ext4", options, filesystem.device(), filesystem.path());
        expect_obstacle(filesystem.path(), expected);
    }
}

/// A journal on a device of its own is not flushed with the data.
#[test]
fn obstacle_of_an_external_journal() {
    if !require::mount_support() {
        return;
    }
    // Two devices: their filesystems make room for what we want.
    let (data, journal) = (LoopFs::ext4(EXT4_MIB), LoopFs::ext4(EXT4_MIB));
    unmount(data.path());
    unmount(journal.path());
    let mkfs = tools::debian("e2fsprogs", "mkfs.ext4");
    let mut command = Command::new(&mkfs);
    command.args(["-q", "-F", "-b", "4096", "-O", "journal_dev", journal.device()]);
    run::run(&mut command, TOOL_DEADLINE).expect_success();
    let place = format!("device={}", journal.device());
    let mut command = Command::new(&mkfs);
    command.args(["-q", "-F", "-b", "4096", "-J", &place, data.device()]);
    run::run(&mut command, TOOL_DEADLINE).expect_success();
    mount("ext4", "rw", data.device(), data.path());
    expect_obstacle(data.path(), "device of its own");
    unmount(data.path());
}

#[test]
fn obstacles_of_xfs() {
    if !require::mount_support() {
        return;
    }
    let filesystem = LoopFs::xfs(XFS_MIB);
    expect_obstacle(filesystem.path(), "");
    unmount(filesystem.path());
    let mkfs = tools::debian("xfsprogs", "mkfs.xfs");
    let mut command = Command::new(&mkfs);
    command.args(["-q", "-f", "-b", "size=16384", filesystem.device()]);
    run::run(&mut command, TOOL_DEADLINE).expect_success();
    // Before Linux 6.12 nobody can mount it.
    let mut attempt = Command::new("mount");
    attempt.args(["-t", "xfs", filesystem.device()]).arg(filesystem.path());
    if run::run(&mut attempt, TOOL_DEADLINE).status.success() {
        expect_obstacle(filesystem.path(), "blocks are of 16384 bytes");
        unmount(filesystem.path());
    }
    let log = LoopFs::ext4(2 * XFS_LOG_MIB);
    unmount(log.path());
    let mut command = Command::new(&mkfs);
    let place = format!("logdev={},size={XFS_LOG_MIB}m", log.device());
    command.args(["-q", "-f", "-l", &place, filesystem.device()]);
    run::run(&mut command, TOOL_DEADLINE).expect_success();
    let options = format!("logdev={}", log.device());
    mount("xfs", &options, filesystem.device(), filesystem.path());
    expect_obstacle(filesystem.path(), "device of its own");
    unmount(filesystem.path());
}

/// An XFS that was full when the power was cut: the mount, which would have recovered its log, was refused,
/// because there was no room for an inode to try something with that XFS always does.
#[test]
fn a_full_xfs_is_no_obstacle() {
    if !require::mount_support() {
        return;
    }
    let filesystem = LoopFs::xfs(XFS_MIB);
    let place = filesystem.path();
    let fill = File::create(place.join("fill")).expect("a new filesystem has room");
    let is_full =
        |step: u64| (0..).any(|n| fill.write_all_at(&vec![1; step as usize], n * step).is_err());
    // Whatever is left is too little for inodes, which come by 64.
    assert!(is_full(1 << 20) && (fill.metadata().is_ok_and(|made| made.len() > 100 << 20)));
    let room = (0..1 << 16).find(|n| File::create(place.join(format!("file{n}"))).is_err());
    assert!(room.is_some(), "it never is full");
    expect_obstacle(place, "");
}

#[test]
fn obstacles_of_other_filesystems() {
    if !require::mount_support() {
        return;
    }
    let filesystem = LoopFs::btrfs(BTRFS_MIB);
    expect_obstacle(filesystem.path(), "btrfs");

    let scratch = Scratch::new(1);
    let [lower, upper, work, merged] =
        ["lower", "upper", "work", "merged"].map(|name| scratch.subdirectory(name));
    let memory = scratch.subdirectory("memory");
    mount("tmpfs", "rw", "memory", &memory);
    expect_obstacle(&memory, "tmpfs");
    unmount(&memory);
    let directory = |name: &str, path: &Path| format!("{name}={}", path.display());
    let options =
        [directory("lowerdir", &lower), directory("upperdir", &upper), directory("workdir", &work)];
    mount("overlay", &options.join(","), "overlay", &merged);
    expect_obstacle(&merged, "overlayfs");
    unmount(&merged);
}

/// A log on a block device: what it carries is told, it is claimed, and nobody's data is taken.
#[test]
fn a_log_on_a_device() {
    if !require::mount_support() {
        return;
    }
    let (backing, device) = (LoopFs::ext4(EXT4_MIB), LoopFs::ext4(EXT4_MIB));
    run_check("a_device_in_use", backing.path(), device.device());
    unmount(device.path());
    run_check("a_log_on_a_device", backing.path(), device.device());
}

fn unmount(mount_point: &Path) {
    if leftovers::is_mounted(mount_point) {
        assert!(unmount_patiently(mount_point, BUSY_DEADLINE), "{} is busy", mount_point.display());
    }
}

fn mount(kind: &str, options: &str, source: &str, mount_point: &Path) {
    let mut command = Command::new("mount");
    command.args(["-t", kind, "-o", options, source]).arg(mount_point);
    run::run(&mut command, TOOL_DEADLINE).expect_success();
}

/// All checks of a filesystem on which a log can be kept.
fn run_checks(place: &Path) {
    let mut command = check(place);
    // Those that want another environment. One at a time: a directory has one owner, and its
    // device's requests are counted.
    command.args(["--skip", "_device", "--test-threads=1", "--nocapture"]);
    let outcome = run::run(&mut command, CHECK_DEADLINE).expect_success();
    println!("{}", outcome.stdout);
}

fn expect_obstacle(place: &Path, expected: &str) {
    let mut command = check(place);
    command.args(["--exact", "obstacle", "--nocapture"]).env("LANEFS_TEST_OBSTACLE", expected);
    let outcome = run::run(&mut command, CHECK_DEADLINE);
    assert!(ran_one(&outcome.stdout), "expected `{expected}`: {}", outcome.describe());
    outcome.expect_success();
}

fn run_check(name: &str, place: &Path, device: &str) {
    let mut command = check(place);
    command.args(["--exact", name, "--nocapture"]).env("LANEFS_TEST_DEVICE", device);
    let outcome = run::run(&mut command, CHECK_DEADLINE).expect_success();
    assert!(ran_one(&outcome.stdout), "{}", outcome.describe());
}

// A test that was renamed must not pass by not being there.
fn ran_one(stdout: &str) -> bool {
    stdout.contains("running 1 test")
}

fn check(place: &Path) -> Command {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let mut command = Command::new(BUILT.get_or_init(|| checks::build("log_platform")));
    command.arg("--ignored").env("LANEFS_TEST_DIRECTORY", place);
    command.env("LANEFS_TEST_OBSTACLE", "");
    command
}
