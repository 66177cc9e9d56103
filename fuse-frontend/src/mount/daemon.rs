//! `--daemon`: the command returns when the mount answers, with its outcome.
//!
//! The serving process is started anew instead of forked, so that no thread,
//! lock or buffer is inherited half-way. It reports over its standard output,
//! a pipe, with one line: `ready`, or an exit code and a message.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use crate::failure::Failure;
use crate::supervisor::SOCKET_VARIABLE;

/// Set in the environment of the serving process.
pub const CHILD_VARIABLE: &str = "LANEFS_DAEMON_CHILD";

/// Starts this program again with the same arguments to serve in the
/// background, and returns when it is ready.
///
/// # Errors
/// What the serving process reported, with its exit code.
pub fn start_in_background() -> Result<(), Failure> {
    start(std::env::args_os().skip(1))
}

/// The same with other arguments, those of `lanefs mount --daemon`.
///
/// # Errors
/// As [`start_in_background`].
pub fn start(words: impl IntoIterator<Item = OsString>) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("cannot start the daemon: {error}"));
    let mut child = Command::new(std::env::current_exe().map_err(failed)?)
        .args(words)
        .env(CHILD_VARIABLE, "1")
        // A service manager knows the command that waits, not the process that serves.
        .env_remove(SOCKET_VARIABLE)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let output = child.stdout.take().expect("the output is a pipe");
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).map_err(failed)?;
    match line.trim_end().split_once(' ') {
        None if line.trim_end() == "ready" => Ok(()),
        Some((code, message)) => {
            let exit_code = code.parse().unwrap_or(crate::failure::EXIT_FAILURE);
            Err(Failure { exit_code, message: message.to_owned() })
        }
        None => {
            let status = child.wait().map_err(failed)?;
            Err(Failure::new(format!("the daemon ended before the mount answered ({status})")))
        }
    }
}

/// Whether this process is the one that serves in the background.
#[must_use]
pub fn is_child() -> bool {
    std::env::var_os(CHILD_VARIABLE).is_some()
}

/// Leaves the terminal and the current directory, in the serving process.
///
/// # Errors
/// The system refused.
pub fn detach() -> Result<(), Failure> {
    leave_session();
    leave_directory()
}

/// Leaves the terminal. Not before the mount answers: at a place of systemd's automount only
/// processes of its own process group get past autofs, to which this one belongs until now; all
/// others wait for the mount that it makes.
pub fn leave_session() {
    // A process that leads a session already (started so by a supervisor) may stay.
    let _ = rustix::process::setsid();
}

/// Leaves the current directory, which may have to be unmounted.
///
/// # Errors
/// The system refused.
pub fn leave_directory() -> Result<(), Failure> {
    std::env::set_current_dir("/").map_err(|error| Failure::new(format!("cannot go to /: {error}")))
}

/// Reports the outcome to the waiting command and lets go of its terminal.
pub fn report(outcome: Result<(), &Failure>) {
    let line = match outcome {
        Ok(()) => "ready\n".to_owned(),
        Err(failure) => format!("{} {}\n", failure.exit_code, failure.message.replace('\n', " ")),
    };
    let mut output = std::io::stdout();
    let _ = output.write_all(line.as_bytes()).and_then(|()| output.flush());
    if let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}
