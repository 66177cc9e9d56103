//! What a mount tells the service manager: sd_notify(3) of systemd, and of whatever else sets
//! `NOTIFY_SOCKET`.
//!
//! | when | what |
//! | --- | --- |
//! | before recovery | `STATUS=` what takes the time |
//! | the mount has answered a request | `READY=1`, `STATUS=` |
//! | `WATCHDOG_USEC` is set: three times in that time | [`ping`] the mount; if it answers `WATCHDOG=1`, `STATUS=` |
//! | the mount ends | `STOPPING=1` |
//!
//! A mount that does not answer sends nothing, which is what the manager acts on. Without a manager
//! there is no thread and no process for this.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;

use fs_core::engine::EngineStatus;
use sd_notify::NotifyState;

use self::ping::Pinger;

pub mod ping;

/// In the environment of a program that may notify. A daemon in the background is not the process
/// that the manager knows, so it is started without.
pub const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";

/// Describes the mount in one line.
pub type Describe = Arc<dyn Fn() -> String + Send + Sync>;

/// Keeps the service manager informed while it lives.
pub struct Supervisor {
    // Dropping it ends the thread.
    watch: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Supervisor {
    /// Says that the mount is ready, and from now on that it still answers.
    #[must_use]
    pub fn start(mount_point: &Path, describe: &Describe) -> Self {
        if !is_supervised() {
            return Self { watch: None };
        }
        tell(&[NotifyState::Ready, NotifyState::Status(&describe())]);
        let Some(limit) = sd_notify::watchdog_enabled() else { return Self { watch: None } };
        let (stop, stopped) = channel();
        let (mount_point, describe) = (mount_point.to_owned(), Arc::clone(describe));
        let watch = move || {
            // A late ping must not be the last one: three fit.
            let interval = limit / 3;
            let mut pinger = Pinger::new(mount_point);
            loop {
                if pinger.ping(interval) {
                    tell(&[NotifyState::Watchdog, NotifyState::Status(&describe())]);
                } else {
                    tell(&[NotifyState::Status("the mount does not answer")]);
                    tracing::error!("the mount does not answer; the watchdog is not fed");
                }
                if stopped.recv_timeout(interval) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("lanefs-watchdog".into()).spawn(watch);
        match thread {
            Ok(thread) => Self { watch: Some((stop, thread)) },
            Err(error) => {
                tracing::error!(%error, "no watchdog thread: the manager will end this process");
                Self { watch: None }
            }
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.watch.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

/// What is being done before the mount is ready.
pub fn starting(what: &str) {
    if is_supervised() {
        tell(&[NotifyState::Status(what)]);
    }
}

/// The mount is ending: what follows takes as long as the disk does.
pub fn stopping() {
    if is_supervised() {
        tell(&[NotifyState::Stopping, NotifyState::Status("making everything durable")]);
    }
}

/// The line that `systemctl status` shows of a mount that is ready.
#[must_use]
pub fn described(place: &str, engine: &EngineStatus) -> String {
    let lanes = &engine.lanes;
    let counts = format!("{} sync requests in {} groups", lanes.sync_requests, lanes.groups);
    match engine.log.as_ref().and_then(|log| log.failure.as_ref()) {
        Some(why) => format!("{place}: THE LOG FAILED ({why}); {counts}, {} errors", lanes.errors),
        None => format!("{place}, fence {}: {counts}, {} errors", engine.fence, lanes.errors),
    }
}

fn is_supervised() -> bool {
    std::env::var_os(SOCKET_VARIABLE).is_some_and(|value| !value.is_empty())
}

/// A manager that does not listen is no reason to fail.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}
