//! What a machine must offer for tests that mount.
//!
//! Such a test *fails* where it cannot run, with the reason: a silent skip looks like success. Who
//! knows that the machine cannot mount says so with `LANEFS_SKIP_MOUNT_TESTS=1`.

use std::fs::File;
use std::path::Path;

use crate::subject;

/// True when mounts can be tested here. Otherwise fails the test with the reason, or, with
/// `LANEFS_SKIP_MOUNT_TESTS=1`, prints the reason and returns false; the test then returns.
#[must_use = "a test that cannot run must return"]
#[track_caller]
pub fn mount_support() -> bool {
    let Some(reason) = what_is_missing() else { return true };
    let skip = std::env::var_os("LANEFS_SKIP_MOUNT_TESTS").is_some_and(|value| value == "1");
    assert!(
        skip,
        "this test cannot run here: {reason}. Set LANEFS_SKIP_MOUNT_TESTS=1 to skip tests that \
         mount"
    );
    eprintln!("skipped: {reason}");
    false
}

fn what_is_missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("mounting needs root".to_owned());
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("there is no /dev/loop-control (loop devices)".to_owned());
    }
    // Opening it does nothing until a mount names the descriptor.
    match File::options().read(true).write(true).open("/dev/fuse") {
        Err(error) if !subject::is_bare() => Some(format!("/dev/fuse cannot be opened: {error}")),
        _ => None,
    }
}
