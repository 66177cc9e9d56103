//! Promise: a daemon that is replaced by `lanefs restart` is not noticed, except as a pause.
//!
//! - `load`: fsx, SQLite and writers who note what was acknowledged run on while it is replaced 50
//!   times; none sees an error, nothing acknowledged is gone, a power cut included.
//! - `open_things`: every kind of open thing goes on: files without a name, mappings, locks,
//!   directory streams, files that are being rewritten; by descriptors and by handles, with
//!   passthrough and without.
//! - `refusals`: what cannot be done is refused and changes nothing.
//!
//! `tests powercut --restarts` cuts the power between any two device writes of such a run.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tests::binary;
use tests::loopfs::LoopFs;
use tests::mounted::{DEFAULT_OPTIONS, Mounted};
use tests::run::{self, Outcome};
use tests::subject::Subject;

mod load;
mod open_things;
mod refusals;

const DEADLINE: Duration = Duration::from_secs(60);

// Runs `lanefs restart`.
fn try_restart(mount_point: &Path, words: &[&str]) -> Outcome {
    let mut command = Command::new(binary::lanefs());
    command.arg("restart").arg(mount_point).args(words);
    run::run(&mut command, DEADLINE)
}

// Replaces the daemon; how long there were no answers.
#[track_caller]
fn restart(mount_point: &Path) -> Duration {
    let outcome = try_restart(mount_point, &["--json"]).expect_success();
    let told: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    Duration::from_secs_f64(told["pause_ms"].as_f64().expect("a pause") / 1e3)
}

// A mount that can be restarted, whatever root has switched on (and a test beside this one does).
fn subject(size_mib: u64) -> Subject {
    let options = format!("{DEFAULT_OPTIONS},transport=classic");
    Subject::over(LoopFs::ext4_in_memory(size_mib), |tree| Mounted::new(tree, &options))
}

fn mounted(subject: &Subject) -> &Mounted {
    subject.mounted().expect("not bare")
}
