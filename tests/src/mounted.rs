//! lanefs mounted, through its command line only.
//!
//! `LANEFS_TEST_OPTIONS` has options for every mount of every test, in front of the test's own:
//! `LANEFS_TEST_OPTIONS=transport=ring cargo test -p tests` runs all of them on the other transport.
//!
//! `Drop` unmounts with `lanefs umount` and fails the test when that does not work: a mount that
//! cannot be left cleanly is a bug like any other. Whatever happens, nothing stays mounted.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::run::{self, Outcome};
use crate::scratch::{Scratch, unmount_patiently};
use crate::watchdog::{self, Watchdog};
use crate::{binary, leftovers, tools};

/// What pjdfstest and the programs need: devices and suid bits honoured, other users admitted.
pub const DEFAULT_OPTIONS: &str = "dev,suid,allow_other";

const MOUNT_DEADLINE: Duration = Duration::from_secs(30);
const UNMOUNT_DEADLINE: Duration = Duration::from_secs(90);
const BUSY_DEADLINE: Duration = Duration::from_secs(5);
const STATUS_DEADLINE: Duration = Duration::from_secs(20);

/// A lanefs mount; dropped, it is gone.
pub struct Mounted {
    mount_point: PathBuf,
    daemon_pid: Option<i32>,
    unmounted: bool,
    watchdog: Option<Watchdog>,
    // Last: the mount point goes after the mount.
    _scratch: Scratch,
}

impl Mounted {
    /// Mounts `backing` on a new private mount point with the given `-o` options.
    #[track_caller]
    pub fn new(backing: &Path, options: &str) -> Self {
        Self::start(Command::new(binary::lanefs()), backing, options)
    }

    /// The same, where it is for a user to hear why that cannot be: the options are his.
    ///
    /// # Errors
    /// What the command said, in one line.
    pub fn attempt(backing: &Path, options: &str) -> Result<Self, String> {
        Self::try_start(Command::new(binary::lanefs()), backing, options).map_err(|outcome| {
            format!("lanefs mount ended with {}: {}", outcome.status, outcome.stderr.trim())
        })
    }

    /// The same with a daemon that may have at most `files_max` open files, as `ulimit -n` sets it,
    /// soft and hard.
    #[track_caller]
    pub fn with_file_limit(backing: &Path, options: &str, files_max: u64) -> Self {
        let mut command = Command::new(tools::debian("util-linux", "prlimit"));
        command.arg(format!("--nofile={files_max}:{files_max}")).arg(binary::lanefs());
        Self::start(command, backing, options)
    }

    #[track_caller]
    fn start(command: Command, backing: &Path, options: &str) -> Self {
        let this = Self::try_start(command, backing, options);
        this.unwrap_or_else(|outcome| panic!("{}", outcome.describe()))
    }

    #[track_caller]
    fn try_start(mut command: Command, backing: &Path, options: &str) -> Result<Self, Outcome> {
        let scratch = Scratch::new(0);
        let mount_point = scratch.subdirectory("mount");
        let mut this = Mounted {
            mount_point,
            daemon_pid: None,
            unmounted: false,
            watchdog: None,
            _scratch: scratch,
        };
        command.arg("mount").arg(backing).arg(&this.mount_point);
        if let Ok(all) = std::env::var("LANEFS_TEST_OPTIONS") {
            command.args(["-o", &all]);
        }
        command.args(["--daemon", "-o", options]);
        let outcome = run::run(&mut command, MOUNT_DEADLINE);
        if !outcome.status.success() {
            return Err(outcome);
        }
        assert!(leftovers::is_mounted(&this.mount_point), "the command said that it had mounted");
        // Asked for now: a daemon that hangs later cannot be asked any more.
        let pid = this.status()["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.expect("a `pid` in the status");
        this.daemon_pid = Some(pid);
        this.watchdog = Some(Watchdog::new(pid, watchdog::mount_deadline()));
        Ok(this)
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    /// The process that serves the mount.
    pub fn daemon_pid(&self) -> i32 {
        self.daemon_pid.expect("known since the mount")
    }

    /// What `lanefs status --json` says.
    #[track_caller]
    pub fn status(&self) -> Value {
        let mut command = Command::new(binary::lanefs());
        command.arg("status").arg(&self.mount_point).arg("--json");
        let outcome = run::run(&mut command, STATUS_DEADLINE).expect_success();
        serde_json::from_str(&outcome.stdout)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {}", outcome.describe()))
    }

    /// Kills the daemon as a crash would (SIGKILL) and waits until its process is gone.
    #[track_caller]
    pub fn kill_daemon(&mut self) {
        // Its process id is free for others from now on.
        self.watchdog = None;
        let pid = Pid::from_raw(self.daemon_pid()).expect("a process id");
        kill_process(pid, Signal::KILL).expect("the daemon was running");
        let process = PathBuf::from(format!("/proc/{}", self.daemon_pid()));
        let gone = || (!process.exists() || is_zombie(&process)).then_some(());
        run::poll(UNMOUNT_DEADLINE, gone).expect("a killed process ends");
    }

    /// Runs `lanefs umount` and returns what it did. Tries again for a while when the mount is busy:
    /// a thread that starts a program duplicates all our descriptors for a moment, those of other
    /// tests included.
    #[track_caller]
    pub fn unmount_command(&self) -> Outcome {
        let attempt = || {
            let mut command = Command::new(binary::lanefs());
            run::run(command.arg("umount").arg(&self.mount_point), UNMOUNT_DEADLINE)
        };
        let is_busy = |outcome: &Outcome| outcome.stderr.contains("busy");
        let patient = run::poll(BUSY_DEADLINE, || Some(attempt()).filter(|done| !is_busy(done)));
        patient.unwrap_or_else(attempt)
    }

    /// Unmounts and fails the test unless the command succeeds and nothing is mounted any more.
    #[track_caller]
    pub fn unmount(mut self) {
        self.unmounted = true;
        self.unmount_command().expect_success();
        assert!(!leftovers::is_mounted(&self.mount_point), "still mounted after `lanefs umount`");
    }

    // The way out when nothing else helps.
    fn remove_by_force(&self) {
        unmount_patiently(&self.mount_point, Duration::from_millis(200));
        if let Some(pid) = self.daemon_pid.and_then(Pid::from_raw)
            // The id may belong to another program by now.
            && self.is_our_daemon()
        {
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    fn is_our_daemon(&self) -> bool {
        let path = format!("/proc/{}/cmdline", self.daemon_pid.unwrap_or_default());
        let words = std::fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(&*self.mount_point.to_string_lossy())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.unmounted && !leftovers::is_mounted(&self.mount_point) {
            return;
        }
        if !leftovers::is_mounted(&self.mount_point) {
            // The mount command failed, or the test unmounted by other means.
            self.remove_by_force();
            return;
        }
        // `run` panics at its deadline; a second panic while unwinding would abort the process.
        let outcome = std::panic::catch_unwind(|| self.unmount_command());
        let problem = match outcome {
            Ok(outcome) if outcome.status.success() => None,
            Ok(outcome) => Some(outcome.describe()),
            Err(_) => Some("`lanefs umount` did not end".to_owned()),
        };
        let problem = problem.or_else(|| {
            leftovers::is_mounted(&self.mount_point)
                .then(|| "still mounted after umount".to_owned())
        });
        if let Some(problem) = problem {
            self.remove_by_force();
            if std::thread::panicking() {
                eprintln!("{problem}");
            } else {
                panic!("{problem}");
            }
        }
    }
}

// Killed, but nobody has waited for it: in a container without an init this is as gone as it gets.
fn is_zombie(process: &Path) -> bool {
    let stat = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
}
