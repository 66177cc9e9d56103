//! Promise: `tests performance` judges what it measures, and leaves nothing behind.
//!
//! - A gate gives an object a line, and its exit code says whether all that is required is reached.
//! - `tests libraries` counts what a replaced file costs, and finds the library's as few as promised.
//! - Ctrl-C in the middle of a program's transaction ends it soon, with no loop device left (so no
//!   filesystem on it, no mount over that, and nobody who has a file there).

use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tests::{binary, leftovers, require, run, scratch};

const DEADLINE: Duration = Duration::from_secs(120);

fn performance(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tests"));
    // Built here, and not in the time of the command.
    command.env("LANEFS_BIN", binary::lanefs()).arg("performance").args(words);
    command
}

#[test]
fn a_gate_is_judged_row_by_row() {
    if !require::mount_support() {
        return;
    }
    let outcome = run::run(&mut performance(&["lone", "--json", "--seconds", "0.5"]), DEADLINE);
    let parse =
        |line: &str| serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    let rows = outcome.stdout.lines().map(parse).collect::<Vec<_>>();
    assert_eq!(rows.len(), 6, "{}", outcome.describe());
    for row in &rows {
        assert_eq!(row["gate"], "lone");
        assert!(row["lanefs"].is_number(), "{row}");
        assert_eq!(row["required"].is_null(), row["reached"].is_null(), "{row}");
    }
    // A writer alone is never held back, however busy the machine is.
    let held = rows.iter().filter(|row| row["case"].as_str().is_some_and(|c| c.contains("held")));
    assert_eq!(held.filter(|row| row["reached"] == true).count(), 3, "{}", outcome.stdout);
    let missed = rows.iter().any(|row| row["reached"] == false);
    assert_eq!(outcome.status.code(), Some(i32::from(missed)), "{}", outcome.describe());
}

/// Times are noise on a busy machine; flushes and commits are not.
#[test]
#[cfg(feature = "library")]
fn libraries_are_counted() {
    if !require::mount_support() {
        return;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_tests"));
    command.args(["libraries", "--threads", "1", "--flush-ms", "1", "--seconds", "0.5", "--json"]);
    let outcome = run::run(&mut command, DEADLINE);
    let parse =
        |line: &str| serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    let rows = outcome.stdout.lines().map(parse).collect::<Vec<_>>();
    let figure = |subject: &str, name: &str| {
        let row = rows.iter().find(|row| row["subject"] == subject);
        let figure = row.and_then(|row| row[name].as_f64());
        figure.unwrap_or_else(|| panic!("no {name} of {subject}: {}", outcome.describe()))
    };
    assert_eq!(rows.len(), 5, "{}", outcome.describe());
    // Two commits of two flushes each; for the library one flush, and its background work.
    for subject in ["std", "fsys"] {
        assert!((1.8..2.4).contains(&figure(subject, "commits_per_file")), "{}", outcome.stdout);
        assert!((3.6..4.8).contains(&figure(subject, "flushes_per_file")), "{}", outcome.stdout);
    }
    assert!(figure("library", "commits_per_file") <= 0.1, "{}", outcome.stdout);
    assert!((1.0..1.2).contains(&figure("library", "flushes_per_file")), "{}", outcome.stdout);
    assert!(figure("library-batch", "flushes_per_file") <= 0.1, "{}", outcome.stdout);
    let missed = rows.iter().any(|row| row["reached"] == false);
    assert_eq!(outcome.status.code(), Some(i32::from(missed)), "{}", outcome.describe());
}

/// Mount options that lanefs does not know ended in a panic and its backtrace.
#[test]
fn unknown_mount_options_are_refused_in_one_line() {
    if !require::mount_support() {
        return;
    }
    let outcome = run::run(&mut performance(&["lone", "--options", "nonsense"]), DEADLINE);
    assert_eq!(outcome.status.code(), Some(1), "{}", outcome.describe());
    assert_eq!(outcome.stderr.trim_end().lines().count(), 1, "{}", outcome.describe());
    for word in ["unknown mount option `nonsense`", "lanefs mount --help"] {
        assert!(outcome.stderr.contains(word), "{}", outcome.describe());
    }
}

#[test]
fn nothing_is_left_after_an_interrupt() {
    if !require::mount_support() {
        return;
    }
    let mut command = performance(&["programs", "--seconds", "60"]);
    let mut child = command.stdout(Stdio::null()).spawn().expect("a process");
    // The disk's file has its process in its name.
    let ours = format!("{}disk-{}-", scratch::PREFIX, child.id());
    let devices = || leftovers::all().iter().filter(|line| line.contains(&ours)).count();
    let both = run::poll(DEADLINE, || (devices() == 2).then_some(()));
    assert!(both.is_some(), "no disks: {:?}", child.try_wait());
    std::thread::sleep(Duration::from_secs(3));

    kill_process(Pid::from_child(&child), Signal::INT).expect("it runs");
    let ended = run::poll(DEADLINE, || child.try_wait().expect("a child"));
    assert_eq!(ended.expect("an end, soon").code(), Some(1));
    let none = run::poll(DEADLINE, || (devices() == 0).then_some(()));
    assert!(none.is_some(), "{:?}", leftovers::all());
}
