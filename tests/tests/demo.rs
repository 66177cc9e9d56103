//! Promise: `lanefs demo` works on any machine that can mount, verifies what it wrote, and leaves
//! nothing behind.

use std::fs;
use std::process::Command;
use std::time::Duration;

use tests::loopfs::LoopFs;
use tests::subject::is_bare;
use tests::{binary, leftovers, require, run};

const DEADLINE: Duration = Duration::from_secs(90);

#[test]
fn the_demo_ends_well_and_leaves_nothing() {
    if !require::mount_support() || is_bare() {
        return;
    }
    // A filesystem that is its alone: whatever it leaves is seen.
    let filesystem = LoopFs::ext4(512);
    let directory = filesystem.path().join("demo");
    fs::create_dir(&directory).expect("mkdir");
    let mut command = Command::new(binary::lanefs());
    command.args(["demo", "--seconds", "1", "--dir"]).arg(&directory);
    let outcome = run::run(&mut command, DEADLINE).expect_success();
    println!("{}", outcome.stdout);
    assert!(!outcome.stdout.trim().is_empty(), "no table");
    let left: Vec<_> = fs::read_dir(&directory).expect("opendir").flatten().collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    let mounts = leftovers::mounts_below(&directory);
    assert!(mounts.is_empty(), "still mounted: {mounts:?}");
}
