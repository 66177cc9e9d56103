//! A deadline for what a test does by system calls of its own.
//!
//! A daemon that stops answering leaves the caller in the kernel for ever. Killing the daemon ends
//! the connection, the call returns an error, and the test fails in the ordinary way, with its
//! clean-up. So each mount has a watchdog that does just that.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Kills a process unless dropped in time.
pub struct Watchdog {
    // Never sent to: dropping it is the message.
    _alive: Sender<()>,
}

impl Watchdog {
    /// Starts the clock for the process `pid`.
    pub fn new(pid: i32, deadline: Duration) -> Self {
        let (alive, watched) = mpsc::channel::<()>();
        thread::spawn(move || {
            if watched.recv_timeout(deadline) == Err(RecvTimeoutError::Timeout)
                && let Some(process) = Pid::from_raw(pid)
            {
                eprintln!("not done after {deadline:?}: killing the daemon, process {pid}");
                let _ = kill_process(process, Signal::KILL);
            }
        });
        Watchdog { _alive: alive }
    }
}

/// The deadline of a mount: longer than any test takes.
pub fn mount_deadline() -> Duration {
    Duration::from_secs(if crate::long_run() { 3600 } else { 400 })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn it_bites_when_late_and_only_then() {
        let mut late = Command::new("sleep").arg("60").spawn().expect("a process");
        let mut in_time = Command::new("sleep").arg("0.2").spawn().expect("a process");
        let pid = |child: &std::process::Child| child.id().cast_signed();
        let _bites = Watchdog::new(pid(&late), Duration::from_millis(20));
        drop(Watchdog::new(pid(&in_time), Duration::from_millis(20)));
        assert_eq!(late.wait().expect("an end").signal(), Some(9));
        assert!(in_time.wait().expect("an end").success());
    }
}
