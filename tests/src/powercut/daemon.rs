//! A lanefs mount that may fail, be killed, or refuse to go.
//!
//! [`Mounted`](crate::mounted::Mounted) fails its test when anything is wrong with a mount; here things
//! are made to go wrong, and what lanefs does then is told to the campaign.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::scratch::{Scratch, unmount_patiently};
use crate::watchdog::{self, Watchdog};
use crate::{binary, leftovers, run};

const COMMAND_DEADLINE: Duration = Duration::from_secs(60);
const GONE_DEADLINE: Duration = Duration::from_secs(20);
const BUSY_PATIENCE: Duration = Duration::from_secs(5);

/// A lanefs mount; dropped, it is gone.
pub struct Daemon {
    mount_point: PathBuf,
    pid: Pid,
    alive: bool,
    _watchdog: Watchdog,
    // Last: the mount point goes after the mount.
    _scratch: Scratch,
}

impl Daemon {
    /// Mounts `backing` at a private place.
    ///
    /// # Errors
    /// What the command said.
    pub fn mount(backing: &Path, options: &str) -> Result<Self, String> {
        Self::mount_with(backing, options, |_| Vec::new())
    }

    /// The same with more words on the command line, which may need the mount point.
    ///
    /// # Errors
    /// What the command said.
    pub fn mount_with(
        backing: &Path,
        options: &str,
        words: impl FnOnce(&Path) -> Vec<OsString>,
    ) -> Result<Self, String> {
        let scratch = Scratch::new(0);
        let mount_point = scratch.subdirectory("mount");
        let mut command = Command::new(binary::lanefs());
        command.arg("mount").arg(backing).arg(&mount_point).args(["--daemon", "-o", options]);
        command.args(words(&mount_point));
        let outcome = run::run(&mut command, COMMAND_DEADLINE);
        if !outcome.status.success() {
            unmount_patiently(&mount_point, Duration::ZERO);
            return Err(format!("lanefs mount: {}: {}", outcome.status, outcome.stderr.trim()));
        }
        let pid = daemon_of(&mount_point)?;
        let watchdog = Watchdog::new(pid.as_raw_nonzero().get(), watchdog::mount_deadline());
        Ok(Daemon { mount_point, pid, alive: true, _watchdog: watchdog, _scratch: scratch })
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    /// The process that serves the mount.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// What `lanefs status --json` says.
    ///
    /// # Errors
    /// What it says instead.
    pub fn status(&self) -> Result<Value, String> {
        status_of(&self.mount_point)
    }

    /// Makes a copy of the process id, to kill the daemon from another thread.
    pub fn killer(&self) -> impl Fn() + Send + Sync + use<> {
        let pid = self.pid;
        // Fails only when it is gone already, which its mount's users will notice.
        move || {
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Waits until a killed daemon is gone, and removes the dead mount.
    ///
    /// # Errors
    /// One of both does not go.
    pub fn bury(mut self) -> Result<(), String> {
        let process = PathBuf::from(format!("/proc/{}", self.pid.as_raw_nonzero()));
        let gone = || (!process.exists() || is_zombie(&process)).then_some(());
        run::poll(GONE_DEADLINE, gone).ok_or("a killed daemon does not end")?;
        self.alive = false;
        self.unmount_command()
    }

    /// Unmounts as a user would.
    ///
    /// # Errors
    /// What the command said; the mount is gone all the same.
    pub fn unmount(mut self) -> Result<(), String> {
        let outcome = self.unmount_command();
        self.alive = outcome.is_err();
        outcome
    }

    fn unmount_command(&self) -> Result<(), String> {
        let attempt = || {
            let mut command = Command::new(binary::lanefs());
            run::run(command.arg("umount").arg(&self.mount_point), COMMAND_DEADLINE)
        };
        // A thread that starts a program duplicates all our descriptors for a moment.
        let patient = run::poll(BUSY_PATIENCE, || {
            Some(attempt()).filter(|outcome| !outcome.stderr.contains("busy"))
        });
        let outcome = patient.unwrap_or_else(attempt);
        if !outcome.status.success() {
            return Err(format!("lanefs umount: {}: {}", outcome.status, outcome.stderr.trim()));
        }
        match leftovers::is_mounted(&self.mount_point) {
            true => Err("still mounted after lanefs umount".to_owned()),
            false => Ok(()),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if leftovers::is_mounted(&self.mount_point) {
            unmount_patiently(&self.mount_point, Duration::from_millis(200));
        }
        if self.alive && is_lanefs(self.pid, &self.mount_point) {
            let _ = kill_process(self.pid, Signal::KILL);
            let process = PathBuf::from(format!("/proc/{}", self.pid.as_raw_nonzero()));
            run::poll(GONE_DEADLINE, || (!process.exists() || is_zombie(&process)).then_some(()));
        }
    }
}

fn status_of(mount_point: &Path) -> Result<Value, String> {
    let mut command = Command::new(binary::lanefs());
    command.arg("status").arg(mount_point).arg("--json");
    let outcome = run::run(&mut command, COMMAND_DEADLINE);
    serde_json::from_str(&outcome.stdout).map_err(|error| {
        format!("lanefs status: {}: {error}: {}", outcome.status, outcome.stderr.trim())
    })
}

fn daemon_of(mount_point: &Path) -> Result<Pid, String> {
    let pid = status_of(mount_point)?["pid"].as_i64();
    let pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    pid.ok_or_else(|| "lanefs status names no process".to_owned())
}

// The id may belong to another program by now.
fn is_lanefs(pid: Pid, mount_point: &Path) -> bool {
    let words = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()));
    String::from_utf8_lossy(&words.unwrap_or_default()).contains(&*mount_point.to_string_lossy())
}

// Killed, but nobody has waited for it: in a container without an init this is as gone as it gets.
fn is_zombie(process: &Path) -> bool {
    let stat = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
}
