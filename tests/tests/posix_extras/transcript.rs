//! Running one scenario on both sides and comparing what they said.

use std::fmt::Debug;
use std::path::Path;

use rustix::io::Errno;
use tests::actor::{Actor, Identity};
use tests::require;
use tests::subject::Subject;

/// What the steps of a scenario returned.
#[derive(Default)]
pub struct Transcript {
    lines: Vec<String>,
}

impl Transcript {
    /// Writes down any value.
    pub fn note(&mut self, step: &str, value: impl Debug) {
        self.lines.push(format!("{step}: {value:?}"));
    }

    /// Writes down success or the error of a system call.
    pub fn call<T, E: Into<std::io::Error>>(&mut self, step: &str, result: Result<T, E>) {
        self.value(step, result.map(|_| ()));
    }

    /// Writes down the value or the error of a system call.
    pub fn value<T: Debug, E: Into<std::io::Error>>(&mut self, step: &str, result: Result<T, E>) {
        let line = match result {
            Ok(value) => format!("{step}: {value:?}"),
            Err(error) => format!("{step}: {}", error_name(&error.into())),
        };
        self.lines.push(line);
    }

    /// Gives an actor an order and writes down its answer, with paths left out of the order.
    pub fn ask(&mut self, actor: &mut Actor, directory: &Path, words: &str) {
        let order = words.replace('@', &format!("{}/", directory.display()));
        let answer = actor.ask(&order);
        self.lines.push(format!("{words}: {answer}"));
    }
}

// "EEXIST" and not "File exists (os error 17)".
fn error_name(error: &std::io::Error) -> String {
    match Errno::from_io_error(error) {
        Some(errno) => format!("{:?}", nix::errno::Errno::from_raw(errno.raw_os_error())),
        None => error.to_string(),
    }
}

/// Runs the scenario on plain ext4 and on the mount; fails with the lines that differ.
#[track_caller]
pub fn same_on_both(scenario: impl Fn(&Path, &mut Transcript)) {
    if !require::mount_support() {
        return;
    }
    let subject = Subject::ext4_in_memory(128);
    let record = |directory: &Path| {
        let mut transcript = Transcript::default();
        scenario(directory, &mut transcript);
        transcript.lines
    };
    let (expected, found) = (record(subject.plain()), record(subject.path()));
    assert!(!expected.is_empty(), "a scenario that notes nothing tests nothing");
    let length = expected.len().max(found.len());
    let none = "(nothing)".to_owned();
    let differences = (0..length).filter_map(|index| {
        let plain = expected.get(index).unwrap_or(&none);
        let mount = found.get(index).unwrap_or(&none);
        (plain != mount).then(|| format!("  ext4:   {plain}\n  lanefs: {mount}\n"))
    });
    let differences: String = differences.collect();
    assert!(differences.is_empty(), "the mount is not like the backing filesystem:\n{differences}");
}

/// A second process as root.
pub fn root_actor() -> Actor {
    Actor::root(env!("CARGO_BIN_EXE_actor"))
}

/// A second process without privilege.
pub fn somebody(identity: Identity) -> Actor {
    Actor::somebody(env!("CARGO_BIN_EXE_actor"), identity)
}
