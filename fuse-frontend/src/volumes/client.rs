//! The plugin's side of the engine: starts it, asks it, and starts it anew when it has died.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::engine::EngineSettings;
use super::layout::Layout;
use super::wire::{self, MountedVolume, PROTOCOL, Request, Response};
use crate::failure::Failure;

/// How long a new engine waits for the end of the one before, which flushes.
const PREDECESSOR_MAX: Duration = Duration::from_secs(60);
/// Engines that die while they are asked, before a request is given up.
const ATTEMPTS: usize = 3;

/// A root's engine.
pub struct Client {
    root: PathBuf,
    socket: PathBuf,
    settings: EngineSettings,
    starting: Mutex<()>,
}

/// What an engine says of itself.
pub(super) struct Listed {
    pub(super) pid: u32,
    pub(super) volumes: Vec<MountedVolume>,
}

impl Client {
    /// A client; nothing is started before something is asked.
    ///
    /// # Errors
    /// The place of the socket cannot be made.
    pub fn new(layout: &Layout, settings: EngineSettings) -> Result<Self, Failure> {
        let socket = wire::socket_path(layout.root())?;
        let root = layout.root().to_owned();
        Ok(Self { root, socket, settings, starting: Mutex::new(()) })
    }

    /// Has something done.
    ///
    /// # Errors
    /// What the engine says; or it cannot be started, or dies over it again and again.
    pub(super) fn ask(&self, request: &Request) -> Result<Response, Failure> {
        for _ in 0..ATTEMPTS {
            self.ensure_running()?;
            if let Some(response) = wire::ask(&self.socket, request)? {
                return Ok(response);
            }
        }
        Err(Failure::new("the engine died while it was asked; its messages say why"))
    }

    /// Which volumes are mounted. An engine of another version that serves none is replaced.
    ///
    /// # Errors
    /// As [`Self::ask`]; or an engine of another version that speaks otherwise is in use.
    pub(super) fn list(&self) -> Result<Listed, Failure> {
        let Response::Volumes { protocol, version, pid, volumes } = self.ask(&Request::List)?
        else {
            return Err(Failure::new("the engine answered something else"));
        };
        if version == env!("CARGO_PKG_VERSION") && protocol == PROTOCOL {
            return Ok(Listed { pid, volumes });
        }
        if volumes.is_empty() {
            tracing::info!(version, "replacing an engine of another version");
            self.end();
            return self.list();
        }
        if protocol == PROTOCOL {
            return Ok(Listed { pid, volumes });
        }
        Err(Failure::new(format!(
            "{} volumes are served by lanefs {version} (process {pid}), which this version cannot \
             talk to: stop their containers, then start the plugin again",
            volumes.len()
        )))
    }

    /// Has the engine end, if there is one.
    pub(super) fn end(&self) {
        if let Err(failure) = wire::ask(&self.socket, &Request::End) {
            tracing::warn!("{failure}");
        }
        // It takes its socket away when it begins to end.
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.socket.exists() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Returns when the engine that runs now has ended.
    pub(super) fn wait_for_end(&self) {
        let Ok(Some(connection)) = wire::connect(&self.socket) else { return };
        if wire::say(&connection, &Request::Watch).is_ok() {
            let _ = wire::hear::<Response>(&connection);
        }
    }

    /// Starts an engine unless one runs.
    ///
    /// # Errors
    /// What the new engine says.
    pub(super) fn ensure_running(&self) -> Result<(), Failure> {
        let _one = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        let deadline = Instant::now() + PREDECESSOR_MAX;
        loop {
            if wire::connect(&self.socket)?.is_some() {
                return Ok(());
            }
            match self.start() {
                Ok(()) => return Ok(()),
                // One that has just been killed, or ends, has the lock until it is gone.
                Err(failure)
                    if failure.message.contains("already served by another lanefs")
                        && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    fn start(&self) -> Result<(), Failure> {
        let failed =
            |error: std::io::Error| Failure::new(format!("cannot start the engine: {error}"));
        // By this name it is our own version, also when the file has been replaced meanwhile.
        let mut child = Command::new("/proc/self/exe")
            .arg0("lanefs")
            .arg("volume-engine")
            .arg("--root")
            .arg(&self.root)
            .args(self.settings.arguments())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let output = child.stdout.take().expect("the output is a pipe");
        let mut line = String::new();
        let read = BufReader::new(output).read_line(&mut line);
        // It ends after us as a rule; if before, somebody has to hear of it.
        let pid = child.id();
        std::thread::spawn(move || child.wait());
        read.map_err(failed)?;
        match line.trim_end().split_once(' ') {
            None if line.trim_end() == "ready" => {
                tracing::info!(pid, "engine started");
                Ok(())
            }
            Some((code, message)) => Err(Failure {
                exit_code: code.parse().unwrap_or(crate::failure::EXIT_FAILURE),
                message: message.to_owned(),
            }),
            None => Err(Failure::new("the engine ended before it could serve")),
        }
    }
}
