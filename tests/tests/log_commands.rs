//! Promise: `recover`, `check` and `log format` do what they say on a filesystem that keeps a log,
//! and destroy nothing.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tests::filesystem::{Filesystem, Making};
use tests::loopfs::{LoopFs, Recipe};
use tests::mounted::{DEFAULT_OPTIONS, Mounted};
use tests::run::{self, Outcome};
use tests::scratch::Scratch;
use tests::subject::is_bare;
use tests::{binary, require};

const DEADLINE: Duration = Duration::from_secs(60);
const FILESYSTEM_MIB: u64 = 256;
const DEVICE_MIB: u64 = 16;
const SYNCED: &[u8] = b"acknowledged";

fn can_run() -> bool {
    require::mount_support() && !is_bare()
}

fn lanefs(words: &[&str], path: &Path) -> Outcome {
    run::run(Command::new(binary::lanefs()).args(words).arg(path), DEADLINE)
}

/// What a refused command said, in its one line.
#[track_caller]
fn refused(words: &[&str], path: &Path, exit_code: i32) -> String {
    let outcome = lanefs(words, path);
    assert_eq!(outcome.status.code(), Some(exit_code), "{}", outcome.describe());
    assert_eq!(outcome.stderr.trim_end().lines().count(), 1, "{}", outcome.describe());
    outcome.stderr
}

#[track_caller]
fn report(command: &str, backing: &Path) -> Value {
    let outcome = lanefs(&[command, "--json"], backing).expect_success();
    serde_json::from_str(&outcome.stdout).expect("--json prints JSON")
}

/// A backing directory on ext4 with synced files in its log, and no daemon any more.
fn with_log_left(filesystem: &LoopFs, options: &str) -> PathBuf {
    let backing = filesystem.path().join("backing");
    fs::create_dir(&backing).expect("mkdir");
    let mut mount = Mounted::new(&backing, options);
    assert_eq!(mount.status()["log"], "in use");
    for index in 0..10 {
        let path = mount.path().join(format!("file{index}"));
        let mut file = fs::File::create(path).expect("a new file");
        file.write_all(SYNCED).and_then(|()| file.sync_all()).expect("a synced file");
    }
    mount.kill_daemon();
    backing
}

#[track_caller]
fn expect_files(backing: &Path) {
    for index in 0..10 {
        let content = fs::read(backing.join(format!("file{index}"))).expect("a synced file");
        assert_eq!(content, SYNCED);
    }
}

/// A disk whose flush took less than 40 us had no log, "a log would gain nothing": a lone writer gains a
/// third there, too (decision 0030), and without a log no file that is rewritten keeps what it held.
#[test]
fn a_log_is_kept_however_fast_the_disk_flushes() {
    if !can_run() {
        return;
    }
    let filesystem = LoopFs::ext4_in_memory(FILESYSTEM_MIB);
    let backing = filesystem.path().join("backing");
    fs::create_dir(&backing).expect("mkdir");
    let mount = Mounted::new(&backing, DEFAULT_OPTIONS);
    let status = mount.status();
    assert_eq!(status["log"], "in use", "{status}");
}

#[test]
fn what_a_dead_daemon_left_is_checked_then_recovered() {
    if !can_run() {
        return;
    }
    let filesystem = LoopFs::ext4(FILESYSTEM_MIB);
    // No checkpoint comes between.
    let backing = with_log_left(&filesystem, "fence=log,checkpoint_ms=3600000");
    let readme = backing.join(".lanefs/README");
    assert!(readme.exists(), "who finds the directory is told");

    let found = report("check", &backing);
    assert!(found["groups"].as_u64().is_some_and(|groups| groups > 0), "{found}");
    assert_eq!(found["same_boot"], true, "{found}");
    assert_eq!(report("check", &backing)["groups"], found["groups"], "a check changes nothing");
    assert!(readme.exists());
    let shown = lanefs(&["check"], &backing).expect_success().stdout;
    assert!(shown.contains("up to date") && shown.contains("groups in the log"), "{shown}");

    let recovered = report("recover", &backing);
    assert_eq!(recovered["groups"], found["groups"], "{recovered}");
    expect_files(&backing);
    assert!(!readme.exists(), "nothing is left to say");
    // To be repeated at will.
    assert_eq!(report("recover", &backing)["groups"], 0);
    let shown = lanefs(&["recover"], &backing).expect_success().stdout;
    assert!(shown.contains("is up to date"), "{shown}");
}

/// Recovery noted every object that it made anew in a file of its own, which stayed until the end:
/// a log that makes and replaces more files than the filesystem has inodes ended in ENOSPC.
///
/// No group is made before the sync: a file that loses its name while its group is put together has
/// the journal commit instead, and what that kept is not made anew.
#[test]
fn recovery_needs_no_inodes_for_files_that_were_replaced() {
    const INODES: u64 = 4000;
    const NAMES: u64 = 10;
    if !can_run() {
        return;
    }
    let (kind, inodes) = (Filesystem::Ext4, Some(INODES));
    let filesystem =
        LoopFs::new(Recipe { kind, inodes, size_mib: FILESYSTEM_MIB, in_memory: false });
    // The journal keeps nothing by itself while this runs.
    let mut remount = Command::new("mount");
    remount.args(["-o", "remount,commit=600"]).arg(filesystem.path());
    run::run(&mut remount, DEADLINE).expect_success();
    let backing = filesystem.path().join("backing");
    fs::create_dir(&backing).expect("mkdir");
    let options = "fence=log,log_size=64M,checkpoint_ms=3600000,commit_interval=0";
    let mut mount = Mounted::new(&backing, options);
    for number in 0..2 * INODES {
        let new = mount.path().join("new");
        fs::File::create(&new).expect("a mount has room for what it replaces");
        fs::rename(&new, mount.path().join(format!("name{}", number % NAMES))).expect("a rename");
    }
    fs::File::open(mount.path()).and_then(|root| root.sync_all()).expect("a synced directory");
    mount.kill_daemon();

    let left = filesystem.after_power_cut();
    let recovered = report("recover", &left.path().join("backing"));
    let [redone, left_out] = ["redone", "left_out"].map(|key| recovered[key].as_u64());
    assert!(redone.zip(left_out).is_some_and(|(one, two)| one + two > INODES), "{recovered}");
    let there = fs::read_dir(left.path().join("backing")).expect("a directory").count() as u64;
    assert_eq!(there, NAMES + 1, "the names and .lanefs");
}

#[test]
fn a_directory_is_not_recovered_while_it_is_served() {
    if !can_run() {
        return;
    }
    let filesystem = LoopFs::ext4(FILESYSTEM_MIB);
    let backing = filesystem.path().join("backing");
    fs::create_dir(&backing).expect("mkdir");
    let mount = Mounted::new(&backing, "fence=log");
    for command in ["recover", "check"] {
        let said = refused(&[command], &backing, 1);
        assert!(said.contains("already served by another lanefs"), "{said}");
    }
    fs::write(mount.path().join("file"), SYNCED).expect("the mount works on");
    mount.unmount();
}

/// A loop device without a filesystem mounted.
struct Device {
    path: PathBuf,
    image: PathBuf,
    _scratch: Scratch,
}

impl Device {
    fn new(mib: u64, make: impl FnOnce(&Path)) -> Self {
        let scratch = Scratch::new(mib);
        let image = scratch.path().join("image");
        fs::File::create(&image).and_then(|file| file.set_len(mib << 20)).expect("an image");
        make(&image);
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show"]).arg(&image);
        let name = run::run(&mut losetup, DEADLINE).expect_success().stdout;
        Device { path: PathBuf::from(name.trim()), image, _scratch: scratch }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = run::run(Command::new("losetup").arg("-d").arg(&self.path), DEADLINE);
    }
}

#[test]
fn a_device_with_a_filesystem_is_left_alone_unless_forced() {
    if !can_run() {
        return;
    }
    let device = Device::new(DEVICE_MIB, |image| {
        Filesystem::Ext4.make_as(image, Making::default());
    });
    let before = fs::read(&device.image).expect("the image");
    let said = refused(&["log", "format"], &device.path, 2);
    for word in ["ext4", "nothing was changed", "--force"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert!(fs::read(&device.image).expect("the image") == before, "the device was written to");

    // Forced, it is a log, and that is the next thing to be refused.
    let said = lanefs(&["log", "format", "--force"], &device.path).expect_success().stdout;
    assert!(said.contains("is an empty log of 16 MiB"), "{said}");
    let said = refused(&["log", "format"], &device.path, 2);
    assert!(said.contains("a log of lanefs"), "{said}");
}

#[test]
fn a_device_that_is_too_small_is_refused() {
    if !can_run() {
        return;
    }
    let device = Device::new(2, |_| {});
    let said = refused(&["log", "format", "--size", "4M"], &device.path, 1);
    assert!(said.contains(&device.path.display().to_string()), "{said}");
    let said = refused(&["log", "format"], &device.path, 1);
    assert!(said.contains("a log needs"), "{said}");
    let content = fs::read(&device.image).expect("the image");
    assert!(content.iter().all(|&byte| byte == 0), "nothing was written");
}

/// A log elsewhere must be named by everything that comes after.
#[test]
fn a_log_on_a_device_is_used_and_asked_for() {
    if !can_run() {
        return;
    }
    let device = Device::new(DEVICE_MIB, |_| {});
    lanefs(&["log", "format"], &device.path).expect_success();
    let filesystem = LoopFs::ext4(FILESYSTEM_MIB);
    let log = format!("log={}", device.path.display());
    let options = format!("fence=log,checkpoint_ms=3600000,{log}");
    let backing = with_log_left(&filesystem, &options);
    assert!(!backing.join(".lanefs/log").exists(), "the log is elsewhere");

    for command in ["check", "recover"] {
        let said = refused(&[command], &backing, 1);
        assert!(said.contains("lies elsewhere") && said.contains("--log PATH"), "{said}");
    }
    let mount_point = filesystem.path().join("mount");
    fs::create_dir(&mount_point).expect("mkdir");
    let backing_shown = backing.display().to_string();
    let said = refused(&["mount", "--daemon", &backing_shown], &mount_point, 1);
    assert!(said.contains("--log PATH"), "{said}");

    let device_shown = device.path.display().to_string();
    let outcome = lanefs(&["recover", "--json", "--log", &device_shown], &backing);
    let recovered: Value = serde_json::from_str(&outcome.expect_success().stdout).expect("JSON");
    assert!(recovered["groups"].as_u64().is_some_and(|groups| groups > 0), "{recovered}");
    expect_files(&backing);
    // Empty now, it need not be named any more.
    lanefs(&["check"], &backing).expect_success();
}
