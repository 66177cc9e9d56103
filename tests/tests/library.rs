//! Promise: the library for Rust programs keeps its word on real filesystems with a log: when
//! the program that uses it is killed in the middle of a batch, and when the power fails.
//!
//! The checks are those of `fs-core/tests/library/platform/logged.rs`; this test makes the
//! filesystems for them, and cuts the power.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tests::disk::{CrashImages, Disk, DiskOptions, Position, Tearing, for_each_image};
use tests::filesystem::Filesystem;
use tests::loopfs::LoopFs;
use tests::scratch::Scratch;
use tests::{require, run};

mod checks;

const DEADLINE: Duration = Duration::from_secs(240);
const EXT4_MIB: u64 = 128;
const XFS_MIB: u64 = 320;
/// Batches that are answered before the power is cut.
const BATCHES: usize = 150;
const FLUSH_TIME: Duration = Duration::from_micros(500);

#[test]
fn on_ext4() {
    if require::mount_support() {
        run_checks(LoopFs::ext4(EXT4_MIB).path());
    }
}

#[test]
fn on_xfs() {
    if require::mount_support() {
        run_checks(LoopFs::xfs(XFS_MIB).path());
    }
}

fn run_checks(place: &Path) {
    let mut command = check(place, "platform::logged::");
    let outcome = run::run(command.arg("--test-threads=1"), DEADLINE).expect_success();
    println!("{}", outcome.stdout);
}

fn check(place: &Path, name: &str) -> Command {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let mut command = Command::new(PROGRAM.get_or_init(|| checks::build("library")));
    command.args([name, "--ignored", "--nocapture"]).env("LANEFS_TEST_DIRECTORY", place);
    command
}

#[test]
fn power_cuts_take_batches_whole_on_ext4() {
    power_cuts(Filesystem::Ext4);
}

#[test]
fn power_cuts_take_batches_whole_on_xfs() {
    power_cuts(Filesystem::Xfs);
}

/// After a power cut at any place all files of a batch are of one generation, and no older
/// than the last one that was answered. With `LANEFS_TEST_PLANT=1` batches are not written
/// down before they are applied, and this must fail.
fn power_cuts(filesystem: Filesystem) {
    if !require::mount_support() {
        return;
    }
    let scratch = Scratch::new(64);
    let options = DiskOptions::new(filesystem.size_mib()).flush_time(FLUSH_TIME);
    let disk = Disk::new(options).expect("a disk");
    filesystem.make(disk.path());
    let place = scratch.subdirectory("first");
    let mount = disk.mount_at(&place, filesystem.kernel_name(), "").expect("it was just made");
    let answered = commit_until_cut(&place, &disk);
    disk.check().unwrap_or_else(|difference| panic!("{difference}"));
    let tearing = Tearing::sparing_superblock(filesystem.kernel_name());
    let record = disk.record().with_tearing(tearing);
    drop(mount);
    drop(disk);

    let images: usize = std::env::var("LANEFS_LIBRARY_IMAGES")
        .map_or(60, |images| images.parse().expect("LANEFS_LIBRARY_IMAGES is a number"));
    let from = answered.first().expect("some were answered").0;
    let crashes = CrashImages::new(&record, from, 1).take(images);
    let (looks, newer) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let outcome = for_each_image(crashes, 2, options.unrecorded(), |copy, crash| {
        let number = looks.fetch_add(1, Ordering::Relaxed);
        let place = scratch.subdirectory(&format!("cut{number}"));
        let options = filesystem.image_options();
        let mount = copy.mount_at(&place, filesystem.kernel_name(), options);
        let mount = mount.unwrap_or_else(|error| panic!("{error}: {crash:?}"));
        let mut command = check(&place, "platform::logged::tells_the_generation");
        command.arg("--exact").env("LANEFS_TEST_TELL", "1");
        let told = run::run(&mut command, DEADLINE);
        drop(mount);
        let promised = answered.iter().rev().find(|(position, _)| *position <= crash.position);
        let promised = promised.map(|(_, generation)| *generation);
        let found = told.stdout.lines().find_map(|line| {
            let number = line.strip_prefix("generation Some(")?.strip_suffix(')')?;
            number.parse::<u64>().ok()
        });
        let context = format!("{crash:?}, promised {promised:?}\n{}", told.describe());
        assert!(told.status.success(), "{context}");
        assert!(found >= promised, "found {found:?}: {context}");
        newer.fetch_add(usize::from(found > promised), Ordering::Relaxed);
    });
    outcome.expect("disks to look at them");
    let newer = newer.into_inner();
    println!("{filesystem:?}: {images} power cuts, {newer} with a batch that was not answered");
}

/// Runs the program that commits batches; when which of them was known to be answered.
fn commit_until_cut(place: &Path, disk: &Disk) -> Vec<(Position, u64)> {
    let mut command = check(place, "platform::logged::endless_batches");
    command.arg("--exact").env("LANEFS_TEST_ENDLESS", "1").stdout(Stdio::piped());
    let mut program = command.spawn().expect("it was just built");
    let mut answered = Vec::new();
    let output = program.stdout.take().expect("it is a pipe");
    for line in BufReader::new(output).lines() {
        if let Ok(generation) = line.expect("text").parse() {
            answered.push((disk.position(), generation));
        }
        if answered.len() == BATCHES {
            break;
        }
    }
    program.kill().expect("it runs");
    program.wait().expect("it was killed");
    assert_eq!(answered.len(), BATCHES, "the program ended by itself");
    answered
}
