//! What lanefs does to a backing directory after a power cut, before anybody reads it.
//!
//! A process for each image, so starting it is kept cheap: output goes to memory, and its end is
//! waited for without asking again and again.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;

use super::daemon::Daemon;
use super::snapshot::LANEFS_HOME;
use crate::binary;

const DEADLINE: Duration = Duration::from_secs(60);

/// When a backing directory is recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Never,
    /// If something of lanefs lies in it.
    IfThere,
    Always,
}

/// How the backing directories of a campaign are recovered.
#[derive(Clone, Debug)]
pub struct Recovery {
    when: When,
    // Empty when it is never needed.
    lanefs: PathBuf,
    /// For mounting, where that is the way.
    options: String,
}

/// One way to recover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `lanefs recover`.
    Command,
    /// The same, after one that was killed so long after it had started.
    CommandAfterKill(Duration),
    /// By mounting.
    Mount,
}

/// A directory that was recovered.
pub struct Recovered {
    /// What lanefs reported; null if there was nothing to do.
    pub report: Value,
    /// The mount, when that was the way; unmount it before the filesystem.
    pub mount: Option<Daemon>,
    /// Whether lanefs was asked at all.
    pub asked: bool,
    /// How long it took.
    pub elapsed: Duration,
}

impl Recovery {
    /// For images of a mount with this `fence` and these options; `none`: without lanefs.
    pub fn new(fence: &str, options: &str) -> Self {
        let when = match fence {
            "none" => When::Never,
            "log" => When::Always,
            _ => When::IfThere,
        };
        let lanefs = if when == When::Never { PathBuf::new() } else { binary::lanefs() };
        Recovery { when, lanefs, options: options.to_owned() }
    }

    /// Whether the filesystem must be mounted at a path that other programs can name.
    pub fn needs_path(&self) -> bool {
        self.when != When::Never
    }

    /// Whether this directory is to be recovered.
    pub fn wants(&self, tree: &Path) -> bool {
        match self.when {
            When::Never => false,
            When::IfThere => tree.join(LANEFS_HOME).exists(),
            When::Always => true,
        }
    }

    /// Recovers the directory `tree` if that is wanted.
    ///
    /// # Errors
    /// What lanefs said when it refused.
    pub fn run(&self, tree: &Path, way: Way) -> Result<Recovered, String> {
        let start = Instant::now();
        if !self.wants(tree) {
            let nothing = Duration::ZERO;
            return Ok(Recovered {
                report: Value::Null,
                mount: None,
                asked: false,
                elapsed: nothing,
            });
        }
        let (report, mount) = match way {
            Way::Mount => (Value::Null, Some(Daemon::mount(tree, &self.options)?)),
            Way::Command => (self.command(tree, None)?, None),
            Way::CommandAfterKill(delay) => {
                // Whatever came of it.
                let _ = self.command(tree, Some(delay));
                (self.command(tree, None)?, None)
            }
        };
        Ok(Recovered { report, mount, asked: true, elapsed: start.elapsed() })
    }

    fn command(&self, tree: &Path, kill_after: Option<Duration>) -> Result<Value, String> {
        let mut command = Command::new(&self.lanefs);
        command.arg("recover").arg(tree).arg("--json");
        let (status, stdout, stderr) = output(&mut command, kill_after)
            .map_err(|error| format!("{} recover: {error}", self.lanefs.display()))?;
        if !status.success() {
            return Err(format!("lanefs recover: {status}: {} {}", stderr.trim(), stdout.trim()));
        }
        serde_json::from_str(&stdout)
            .map_err(|error| format!("lanefs recover --json said {stdout:?}: {error}"))
    }
}

/// Runs a program to its end, or kills it after a while.
fn output(
    command: &mut Command,
    kill_after: Option<Duration>,
) -> std::io::Result<(ExitStatus, String, String)> {
    let memory =
        |name| Ok::<_, std::io::Error>(File::from(memfd_create(name, MemfdFlags::CLOEXEC)?));
    let (stdout, stderr) = (memory("stdout")?, memory("stderr")?);
    command.stdin(Stdio::null()).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    // Ctrl-C is for the campaign, which lets every image come to its end.
    command.process_group(0);
    let mut child = command.spawn()?;
    if !wait(&child, kill_after.unwrap_or(DEADLINE))? {
        child.kill()?;
        if kill_after.is_none() {
            child.wait()?;
            let text = format!("not done after {DEADLINE:?}: {}", read(stderr)?);
            return Err(std::io::Error::other(text));
        }
    }
    let status = child.wait()?;
    Ok((status, read(stdout)?, read(stderr)?))
}

// False when it has not ended in time.
fn wait(child: &Child, patience: Duration) -> std::io::Result<bool> {
    let pid = Pid::from_raw(child.id().cast_signed()).expect("a process has an id");
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let end = Instant::now() + patience;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).expect("less than 500 years");
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn read(mut file: File) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    // The child shared our file offset: go back to read all of it.
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_and_exit_code_come_back() {
        let (status, stdout, stderr) =
            output(&mut shell("echo '{}'; echo no >&2; exit 3"), None).expect("a shell");
        assert_eq!((status.code(), stdout.trim(), stderr.trim()), (Some(3), "{}", "no"));
    }

    #[test]
    fn a_program_is_killed_when_that_is_wanted() {
        let start = Instant::now();
        let (status, ..) =
            output(&mut shell("exec sleep 60"), Some(Duration::from_millis(30))).expect("a shell");
        assert_eq!(status.code(), None);
        assert!(start.elapsed() < Duration::from_secs(30));
        let (status, ..) =
            output(&mut shell("exit 0"), Some(Duration::from_secs(30))).expect("a shell");
        assert!(status.success(), "it had ended before");
    }

    #[test]
    fn a_refusal_tells_what_lanefs_said() {
        let place = tempfile::tempdir().expect("scratch directory");
        let lanefs = place.path().join("lanefs");
        let stand_in = |script: &str| {
            std::fs::write(&lanefs, format!("#!/bin/sh\n{script}\n")).expect("scratch");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&lanefs, mode).expect("scratch");
        };
        stand_in("[ \"$1 $3\" = 'recover --json' ] && echo '{\"redone\": 3}'");
        let recovery = |when| Recovery { when, lanefs: lanefs.clone(), options: String::new() };
        let run = |when| loop {
            let outcome = recovery(when).run(place.path(), Way::Command);
            // Another thread that starts a program has our descriptors for a moment.
            if !outcome.as_ref().is_err_and(|said| said.contains("Text file busy")) {
                break outcome;
            }
        };
        assert_eq!(run(When::Always).map(|done| done.report["redone"].clone()), Ok(3.into()));
        assert!(run(When::IfThere).is_ok_and(|done| !done.asked), "there is no log");
        std::fs::create_dir(place.path().join(LANEFS_HOME)).expect("scratch");
        assert!(run(When::IfThere).is_ok_and(|done| done.asked));
        stand_in("echo 'damaged group' >&2; exit 1");
        let said = run(When::Always).err().expect("a refusal");
        assert!(said.contains("damaged group"), "{said}");
        stand_in("echo done");
        assert!(run(When::Always).is_err(), "that is not JSON");
    }
}
