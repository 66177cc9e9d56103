//! Promise: the library for Rust programs keeps its word on real filesystems with a log,
//! also when the program that uses it is killed in the middle of a batch.
//!
//! The checks are those of `fs-core/tests/library/logged.rs`; this test makes the
//! filesystems for them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tests::loopfs::LoopFs;
use tests::{require, run};

mod checks;

const DEADLINE: Duration = Duration::from_secs(240);
const EXT4_MIB: u64 = 128;
const XFS_MIB: u64 = 320;

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
    let mut command = Command::new(checks::build("library"));
    command.args(["logged::", "--ignored", "--test-threads=1", "--nocapture"]);
    command.env("LANEFS_TEST_DIRECTORY", place);
    let outcome = run::run(&mut command, DEADLINE).expect_success();
    println!("{}", outcome.stdout);
}
