//! Running a program with a deadline.
//!
//! A filesystem that hangs must fail a test, not stop the run: every program gets a deadline, after
//! which its whole process group is killed and the test fails with what was printed so far. Output
//! goes to files, not pipes, so that a daemon that keeps its inherited stdout cannot hold us up.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// What a program did.
#[derive(Debug)]
pub struct Outcome {
    /// The command line, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed on standard output.
    pub stdout: String,
    /// What it printed on standard error.
    pub stderr: String,
    /// How long it took.
    pub elapsed: Duration,
}

impl Outcome {
    /// The outcome itself if the program succeeded; otherwise fails the test with everything that
    /// it printed.
    #[track_caller]
    pub fn expect_success(self) -> Self {
        assert!(self.status.success(), "{}", self.describe());
        self
    }

    /// Command, exit status and output, for a failure message.
    pub fn describe(&self) -> String {
        let Outcome { command, status, stdout, stderr, elapsed } = self;
        format!(
            "`{command}` ended with {status} after {:.1} s\n--- stdout\n{}\n--- stderr\n{}",
            elapsed.as_secs_f64(),
            tail(stdout),
            tail(stderr)
        )
    }
}

/// A program under way whose output is being collected.
pub struct Running {
    command: String,
    child: Child,
    stdout: File,
    stderr: File,
    started: Instant,
}

/// Starts a program in a process group of its own.
#[track_caller]
pub fn start(command: &mut Command) -> Running {
    let stdout = tempfile::tempfile().expect("a file for the output");
    let stderr = tempfile::tempfile().expect("a file for the output");
    let duplicate = |file: &File| Stdio::from(file.try_clone().expect("a second handle"));
    command.process_group(0).stdin(Stdio::null());
    command.stdout(duplicate(&stdout)).stderr(duplicate(&stderr));
    let text = describe_command(command);
    let child = command.spawn().unwrap_or_else(|error| panic!("cannot start `{text}`: {error}"));
    Running { command: text, child, stdout, stderr, started: Instant::now() }
}

impl Running {
    /// Waits for the end; at `deadline` (from the start) kills the group and fails the test.
    #[track_caller]
    pub fn finish(mut self, deadline: Duration) -> Outcome {
        let ended = poll(deadline.saturating_sub(self.started.elapsed()), || {
            self.child.try_wait().expect("a child that can be waited for")
        });
        let late = ended.is_none();
        let status = ended.unwrap_or_else(|| {
            self.kill_group();
            self.child.wait().expect("a killed child")
        });
        let outcome = Outcome {
            command: std::mem::take(&mut self.command),
            status,
            stdout: read_again(&mut self.stdout),
            stderr: read_again(&mut self.stderr),
            elapsed: self.started.elapsed(),
        };
        assert!(!late, "not done after {deadline:?}: {}", outcome.describe());
        outcome
    }

    fn kill_group(&mut self) {
        if let Some(group) = Pid::from_raw(self.child.id().cast_signed()) {
            // Fails only when the group is gone already.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Running {
    // A test that fails while a program runs must not leave it behind.
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.kill_group();
            let _ = self.child.wait();
        }
    }
}

/// Runs a program to its end.
#[track_caller]
pub fn run(command: &mut Command, deadline: Duration) -> Outcome {
    start(command).finish(deadline)
}

/// Runs a bash script (`set -euo pipefail`) in `directory`; the arguments are `$1`, `$2` and so on.
#[track_caller]
pub fn script<S: AsRef<OsStr>>(
    directory: &Path,
    text: &str,
    arguments: &[S],
    deadline: Duration,
) -> Outcome {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", text, "test"]).args(arguments);
    run(command.current_dir(directory), deadline)
}

/// Asks `question` until it has an answer, at most for `deadline`.
pub fn poll<T>(deadline: Duration, mut question: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(answer) = question() {
            return Some(answer);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn describe_command(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

fn read_again(file: &mut File) -> String {
    let mut bytes = Vec::new();
    // The child shared our file offset: go back to read all of it.
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("the collected output");
    String::from_utf8_lossy(&bytes).into_owned()
}

// Enough to see what went wrong, not enough to drown it.
fn tail(text: &str) -> &str {
    const KEEP_BYTES: usize = 16 * 1024;
    let mut from = text.len().saturating_sub(KEEP_BYTES);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}
