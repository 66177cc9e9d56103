//! Where the demo works: directories, perhaps on a disk of their own, and the mount.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::disk::{self, Disk};
use crate::cli::DemoArgs;
use crate::cli::umount::find;
use crate::control::{self, Request, Response};
use crate::failure::Failure;

const BUSY_TIME_MAX: Duration = Duration::from_secs(5);

/// Directories that vanish when the demo ends, however it ends.
pub(super) struct Scratch {
    // Dropped in this order: nothing is removed below a mount.
    disk: Result<Disk, String>,
    root: tempfile::TempDir,
}

impl Scratch {
    /// A disk where that is possible, else a plain directory; [`Scratch::disk`] says
    /// which, and why.
    pub(super) fn new(args: &DemoArgs) -> Result<Self, Failure> {
        let may_have_disk = match &args.dir {
            Some(_) => Err("--dir was given".to_owned()),
            None if !nix::unistd::geteuid().is_root() => {
                Err("as root, the demo works on a scratch disk and cuts its power".to_owned())
            }
            None => Ok(()),
        };
        let place = args.dir.clone().unwrap_or_else(disk::place);
        let root = tempfile::Builder::new().prefix("lanefs-demo-").tempdir_in(&place);
        let root = root.map_err(|error| {
            Failure::usage(format!(
                "cannot make a scratch directory in {}: {error}; choose another with --dir",
                place.display()
            ))
        })?;
        let disk = may_have_disk.and_then(|()| Disk::new(root.path(), args.seconds));
        let scratch = Self { disk, root };
        for directory in [scratch.backing(), scratch.bare(), scratch.mount_point()] {
            std::fs::create_dir(directory).map_err(|error| {
                Failure::new(format!("cannot prepare the scratch directories: {error}"))
            })?;
        }
        Ok(scratch)
    }

    /// The scratch disk, or why there is none.
    pub(super) fn disk(&self) -> Result<&Disk, &str> {
        self.disk.as_ref().map_err(String::as_str)
    }

    pub(super) fn disk_mut(&mut self) -> Option<&mut Disk> {
        self.disk.as_mut().ok()
    }

    /// Leaves everything where it is, for who wants to know why something is lost.
    pub(super) fn keep(&mut self) {
        self.root.disable_cleanup(true);
    }

    pub(super) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(super) fn backing(&self) -> PathBuf {
        self.place().join("backing")
    }

    pub(super) fn bare(&self) -> PathBuf {
        self.place().join("bare")
    }

    fn mount_point(&self) -> PathBuf {
        self.root().join("mount")
    }

    fn place(&self) -> &Path {
        self.disk.as_ref().map_or(self.root(), Disk::path)
    }
}

/// A mount made by this program's own `mount --daemon`, as a user would.
pub(super) struct ScratchMount {
    mount_point: PathBuf,
    ended: bool,
}

impl ScratchMount {
    pub(super) fn new(scratch: &Scratch) -> Result<Self, Failure> {
        // Made first: whatever goes wrong, nothing stays mounted.
        let mount = Self { mount_point: scratch.mount_point(), ended: false };
        let paths: &[&Path] = &[&scratch.backing(), &mount.mount_point];
        // On the scratch disk the log is shown also where a user would do without: a
        // loop device may flush faster than any disk.
        let with_log = || lanefs(&["mount", "--daemon", "-o", "fence=log"], paths);
        if scratch.disk.is_err() || with_log().is_err() {
            lanefs(&["mount", "--daemon"], paths)?;
        }
        Ok(mount)
    }

    pub(super) fn path(&self) -> &Path {
        &self.mount_point
    }

    /// The mount's status; nothing if the daemon is gone.
    pub(super) fn status(&self) -> Value {
        let response =
            find(&self.mount_point).and_then(|mount| control::ask(&mount, &Request::Status));
        match response {
            Ok(Some(Response::Status { status })) => status,
            _ => Value::Null,
        }
    }

    /// Checkpoints and journal commits so far; nothing if no log is kept.
    pub(super) fn commits(&self) -> (Option<u64>, Option<u64>) {
        let log = &self.status()["engine"]["log"];
        (log["checkpoints"].as_u64(), log["commits"].as_u64())
    }

    /// The process that serves the mount.
    pub(super) fn daemon(&self) -> Result<OwnedFd, Failure> {
        let pid = self.status()["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(rustix::process::Pid::from_raw);
        let daemon = pid.and_then(|pid| {
            rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
        });
        daemon.ok_or_else(|| Failure::new("the daemon of the scratch mount is gone"))
    }

    pub(super) fn end(mut self) -> Result<(), Failure> {
        self.ended = true;
        self.unmount()
    }

    /// The last file may be on its way out of the kernel: tries for a while.
    fn unmount(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + BUSY_TIME_MAX;
        loop {
            match lanefs(&["umount"], &[&self.mount_point]) {
                Err(_) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                outcome => return outcome.map(drop),
            }
        }
    }
}

impl Drop for ScratchMount {
    fn drop(&mut self) {
        if !self.ended && find(&self.mount_point).is_ok() && self.unmount().is_err() {
            let _ = lanefs(&["umount", "--lazy"], &[&self.mount_point]);
        }
    }
}

/// Ends a daemon as a power cut would: at once, with nothing said to it.
pub(super) fn kill(daemon: &OwnedFd) {
    let _ = rustix::process::pidfd_send_signal(daemon, rustix::process::Signal::KILL);
    let mut ended = [rustix::event::PollFd::new(daemon, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
    let _ = rustix::event::poll(&mut ended, Some(&limit));
}

/// Runs this program with other arguments; returns what it printed.
pub(super) fn lanefs(words: &[&str], paths: &[&Path]) -> Result<String, Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("cannot run lanefs: {error}"));
    let program = std::env::current_exe().map_err(failed)?;
    let output = undisturbed(program).args(words).args(paths).output().map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    let message = message.trim().trim_start_matches("lanefs: ");
    let exit_code = output.status.code().and_then(|code| u8::try_from(code).ok());
    Err(Failure {
        exit_code: exit_code.unwrap_or(crate::failure::EXIT_FAILURE),
        message: message.to_owned(),
    })
}

/// A command that Ctrl-C on our terminal does not reach: we end in order, and need it
/// for that.
pub(super) fn undisturbed(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.process_group(0);
    command
}
