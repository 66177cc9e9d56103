//! Promise: every byte read is the byte last written, whichever way both went.
//!
//! fsx 0.3.2 does random operations on one file (read, write, mapped read and write, truncate, and
//! here also fsync, fallocate, punch, sendfile, copy_file_range) and compares each read with what it
//! must be. Three runs with fixed seeds: its defaults, mostly mapped, and every operation it has; and,
//! since fsx cannot open with O_DIRECT, one of our own that does (`tests::direct`).
//!
//! `LANEFS_FSX_OPS=100000 cargo test -p tests --test fsx` is the long run.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use tests::subject::Subject;
use tests::{direct, require, run, tools};

const OPERATIONS: u64 = 20_000;

#[test]
fn defaults() {
    fsx("defaults", 1, "");
}

#[test]
fn mostly_mapped() {
    // fsx never unmaps what it mapped to read, and the kernel allows 65,530 mappings: not too many
    // mapped reads. No msync after each mapped write, so that reads and truncations meet dirty pages.
    let configuration = r"
        nomsyncafterwrite = true
        [weights]
        mapread = 30
        mapwrite = 40
        read = 10
        write = 10
        truncate = 6
        invalidate = 2
        fsync = 1
        close_open = 1
    ";
    fsx("mapped", 2, configuration);
}

#[test]
fn every_operation() {
    // At least one byte: fsx hands a length of zero on to posix_fallocate, which must refuse it.
    let configuration = r"
        flen = 1048576
        nomsyncafterwrite = true
        [opsize]
        min = 1
        max = 131072
        [weights]
        mapread = 10
        mapwrite = 10
        read = 20
        write = 20
        truncate = 6
        invalidate = 2
        fsync = 2
        fdatasync = 2
        close_open = 2
        posix_fallocate = 6
        punch_hole = 8
        sendfile = 4
        posix_fadvise = 4
        copy_file_range = 8
    ";
    fsx("every operation", 3, configuration);
}

#[test]
fn direct_and_buffered() {
    if !require::mount_support() {
        return;
    }
    let subject = Subject::ext4_in_memory(128);
    // The backing filesystem is ext4, which can: so must the mount.
    assert!(direct::is_supported(subject.backing()), "ext4 has O_DIRECT");
    assert!(direct::is_supported(subject.path()), "O_DIRECT is lost on the mount");
    let start = Instant::now();
    let result = direct::exercise(&subject.path().join("file"), 4, operations());
    println!("direct: {} operations in {:.1} s", operations(), start.elapsed().as_secs_f64());
    assert_eq!(result, Ok(()));
}

fn operations() -> u64 {
    let wanted = std::env::var("LANEFS_FSX_OPS").ok();
    wanted.map_or(OPERATIONS, |text| text.parse().expect("LANEFS_FSX_OPS is a number"))
}

fn fsx(name: &str, seed: u64, configuration: &str) {
    if !require::mount_support() {
        return;
    }
    let program = tools::cargo_tool("fsx", "0.3.2");
    let subject = Subject::ext4_in_memory(128);
    // Beside the mount: what fsx saves about a failure must not depend on what failed.
    let artifacts = subject.filesystem().scratch();
    let file = artifacts.join("fsx.toml");
    fs::write(&file, configuration).expect("the configuration");

    let mut command = Command::new(program);
    command.arg("-f").arg(&file).arg("-P").arg(artifacts);
    command.args(["-S", &seed.to_string(), "-N", &operations().to_string()]);
    command.arg(subject.path().join("file"));
    // 10 ms an operation is ten times what a mount should need.
    let deadline = Duration::from_secs(60) + Duration::from_millis(10 * operations());
    let outcome = run::run(&mut command, deadline).expect_success();
    assert!(outcome.stdout.contains("A-OK"), "{}", outcome.describe());
    let elapsed = outcome.elapsed.as_secs_f64();
    println!("fsx {name}: {} operations with seed {seed} in {elapsed:.1} s", operations());
}
