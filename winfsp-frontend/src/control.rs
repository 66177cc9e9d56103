//! The pipe through which a running mount is asked and told.
//!
//! One named pipe for each mount, named after its mount point. A client sends one line of JSON
//! and gets one line back: `commands::protocol`, as on Linux.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use commands::config::{Settings, Source, commit_interval, shown_interval};
use commands::failure::Failure;
use commands::protocol::{Request, Response};
use commands::report::{DurabilityReport, STATUS_SCHEMA};
use commands::values::durability;
use fs_core::engine::EngineStatus;
use serde::Serialize;

use crate::mount::{Event, MountPlan};
use crate::skin::MountedTree;
use crate::skin::counters::Counters;
use crate::system::PipeEnd;

/// Where all pipes are.
const PIPES: &str = r"\\.\pipe\";
/// What the names of ours begin with.
const PREFIX: &str = "lanefs-mount-";
/// Longest request line in bytes.
const REQUEST_BYTES_MAX: u64 = 4096;
/// How long an `umount` may take: flushing much data to a slow disk takes long.
const UNMOUNT_TIME_MAX: Duration = Duration::from_secs(600);
/// How long is tried again while all ends of a pipe are taken.
const BUSY_TIME_MAX: Duration = Duration::from_secs(5);

/// `ERROR_PIPE_BUSY`.
const PIPE_BUSY: i32 = 231;

/// What `lanefs status --json` prints for a mount: as on Linux, less what only Linux has.
#[derive(Debug, Serialize)]
pub struct StatusReport {
    /// [`STATUS_SCHEMA`].
    pub schema: u32,
    /// Version of lanefs.
    pub version: &'static str,
    /// Process that serves the mount.
    pub pid: u32,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// What is mounted.
    pub backing: PathBuf,
    /// Type of the backing filesystem.
    pub filesystem: String,
    /// Seconds since the mount was made.
    pub uptime_s: u64,
    /// Whether changes are refused.
    pub read_only: bool,
    /// How requests come.
    pub transport: String,
    /// What is durable when, and who says so.
    pub durability: DurabilityReport,
    /// Objects that programs have open, or that the engine knows.
    pub nodes: usize,
    /// Open files.
    pub files: usize,
    /// Open directories.
    pub directories: usize,
    /// The engine and its lanes.
    pub engine: EngineStatus,
    /// Why no log is kept.
    pub log: String,
    /// Requests of WinFsp by kind.
    pub requests: BTreeMap<&'static str, u64>,
}

/// Where a report gets its figures.
pub struct Status {
    /// The mount.
    pub plan: MountPlan,
    /// The tree that it exports.
    pub tree: Arc<MountedTree>,
    /// Its request counters.
    pub counters: Arc<Counters>,
    /// Why no log is kept.
    pub no_log: String,
    /// When the mount was made.
    pub started: Instant,
    /// What holds now; starts as the plan has it.
    pub settings: Mutex<Settings>,
}

impl Status {
    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The report.
    pub fn report(&self) -> StatusReport {
        let (nodes, files, directories) = self.tree.counts();
        StatusReport {
            schema: STATUS_SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            mount_point: self.plan.mount_point.clone(),
            backing: self.plan.backing.clone(),
            filesystem: self.tree.backing().filesystem_name().to_owned(),
            uptime_s: self.started.elapsed().as_secs(),
            read_only: self.plan.options.read_only,
            transport: format!("WinFsp, {} threads", self.plan.options.threads),
            durability: DurabilityReport::of(&self.settings()),
            nodes,
            files,
            directories,
            engine: self.tree.engine().status(),
            log: format!("none: {}", self.no_log),
            requests: self.counters.snapshot(),
        }
    }

    /// Checks everything before anything is changed.
    fn set(&self, mode: Option<&str>, interval: Option<&str>) -> Result<Response, Failure> {
        let mode = mode.map(durability).transpose()?;
        let interval = interval.map(commit_interval).transpose()?;
        let mut settings = self.settings();
        if let Some(mode) = mode {
            (settings.policy, settings.policy_from) =
                (settings.policy.with_default(mode), Source::Set);
            self.tree.set_policy(settings.policy.clone());
        }
        if let Some(interval) = interval {
            (settings.commit_interval, settings.commit_interval_from) = (interval, Source::Set);
            self.tree.engine().set_commit_interval(interval);
        }
        Ok(Response::Set {
            durability: settings.policy.default_mode().to_string(),
            commit_interval: shown_interval(settings.commit_interval),
        })
    }
}

/// The pipe of the mount at a place.
#[must_use]
pub fn pipe_name(mount_point: &Path) -> String {
    // A pipe's name has no separators; case means nothing in a path.
    let place = mount_point.to_string_lossy().trim_end_matches(['\\', '/']).to_lowercase();
    let place: String = place
        .chars()
        .map(|letter| match letter {
            '\\' | '/' => '!',
            other => other,
        })
        .collect();
    format!("{PIPES}{PREFIX}{place}")
}

/// Answers clients until it is stopped.
pub struct ControlServer {
    name: String,
    stopped: Arc<AtomicBool>,
}

impl ControlServer {
    /// Listens for a mount.
    ///
    /// # Errors
    /// The pipe cannot be made: another mount is at the same place.
    pub fn start(status: Status, events: Sender<Event>) -> Result<Self, Failure> {
        let name = pipe_name(&status.plan.mount_point);
        let failed = |error: std::io::Error| {
            Failure::new(format!("cannot make the control pipe {name}: {error}"))
        };
        let mut next = PipeEnd::make(&name, true).map_err(failed)?;
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopped);
        let again = name.clone();
        // A client that lingers must not keep the engine, and so the lock, alive.
        let status = Arc::new(status);
        let listen = move || {
            loop {
                let accepted = next.accept();
                if stop.load(Ordering::Acquire) {
                    return;
                }
                // The next end is made before this one is served, so that the name stays ours.
                let Ok(following) = PipeEnd::make(&again, false) else { return };
                let end = std::mem::replace(&mut next, following);
                if accepted.is_ok() {
                    let (status, events) = (Arc::downgrade(&status), events.clone());
                    std::thread::spawn(move || {
                        answer(end.stream(), &status, &events);
                        end.finish();
                    });
                }
            }
        };
        std::thread::Builder::new().name("lanefs-control".into()).spawn(listen).map_err(failed)?;
        Ok(Self { name, stopped })
    }

    /// Takes no more clients.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        // Wakes the listener, which then sees that it shall stop.
        drop(File::options().read(true).write(true).open(&self.name));
    }
}

fn answer(mut connection: &File, status: &Weak<Status>, events: &Sender<Event>) {
    let mut line = String::new();
    if BufReader::new(connection.take(REQUEST_BYTES_MAX)).read_line(&mut line).is_err() {
        return;
    }
    let ending = || Response::Failed { message: "the mount is ending".to_owned() };
    let plain = "a report is plain data";
    let response = match serde_json::from_str(&line) {
        Err(error) => Response::Failed { message: format!("not a request: {error}") },
        Ok(Request::Unmount { .. }) => ask_to_unmount(events),
        Ok(request) => match (status.upgrade(), request) {
            (None, _) => ending(),
            (Some(status), Request::Status) => {
                Response::Status { status: serde_json::to_value(status.report()).expect(plain) }
            }
            (Some(status), Request::AtRisk) => {
                let at_risk = status.tree.engine().at_risk();
                Response::AtRisk { at_risk: serde_json::to_value(at_risk).expect(plain) }
            }
            (Some(status), Request::Set { durability, commit_interval }) => status
                .set(durability.as_deref(), commit_interval.as_deref())
                .unwrap_or_else(|failure| Response::Failed { message: failure.message }),
            (Some(_), _) => Response::Failed { message: "not on Windows".to_owned() },
        },
    };
    let mut text = serde_json::to_string(&response).expect("a response is plain data");
    text.push('\n');
    let _ = connection.write_all(text.as_bytes());
}

fn ask_to_unmount(events: &Sender<Event>) -> Response {
    let (sender, outcome) = channel();
    if events.send(Event::Unmount(sender)).is_err() {
        return Response::Failed { message: "the mount is ending already".to_owned() };
    }
    match outcome.recv_timeout(UNMOUNT_TIME_MAX) {
        Ok(Ok(())) => Response::Unmounted,
        Ok(Err(failure)) => Response::Failed { message: failure.message },
        Err(_) => Response::Failed { message: "the mount did not end in 600 s".to_owned() },
    }
}

/// Asks the mount behind a pipe.
///
/// # Errors
/// Nobody listens, or the answer makes no sense.
pub fn ask(pipe: &str, request: &Request) -> Result<Response, Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("the mount did not answer: {error}"));
    let mut connection = connect(pipe)?;
    let mut text = serde_json::to_string(request).expect("a request is plain data");
    text.push('\n');
    connection.write_all(text.as_bytes()).map_err(failed)?;
    let mut line = String::new();
    BufReader::new(&connection).read_line(&mut line).map_err(failed)?;
    serde_json::from_str(&line)
        .map_err(|error| Failure::new(format!("the mount's answer makes no sense: {error}")))
}

fn connect(pipe: &str) -> Result<File, Failure> {
    let deadline = Instant::now() + BUSY_TIME_MAX;
    loop {
        let error = match File::options().read(true).write(true).open(pipe) {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        let shown = pipe.trim_start_matches(PIPES).trim_start_matches(PREFIX).replace('!', "\\");
        match error.kind() {
            _ if error.raw_os_error() == Some(PIPE_BUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            ErrorKind::NotFound => {
                return Err(Failure::new(format!(
                    "no lanefs mount is at {shown}: `lanefs status` lists the mounts"
                )));
            }
            ErrorKind::PermissionDenied => {
                return Err(Failure::new(format!(
                    "the mount at {shown} is another user's: ask as that user, or as administrator"
                )));
            }
            _ => return Err(Failure::new(format!("cannot ask the mount at {shown}: {error}"))),
        }
    }
}

/// The pipes of all mounts.
///
/// # Errors
/// The system does not list pipes.
pub fn all() -> Result<Vec<String>, Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(format!("cannot list the mounts: {error}; name the mount point"))
    };
    let mut pipes = Vec::new();
    for entry in std::fs::read_dir(PIPES).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) {
            pipes.push(format!("{PIPES}{name}"));
        }
    }
    pipes.sort();
    Ok(pipes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_has_one_pipe_however_it_is_written() {
        let name = pipe_name(Path::new("X:"));
        assert_eq!(name, r"\\.\pipe\lanefs-mount-x:");
        assert_eq!(pipe_name(Path::new("x:\\")), name);
        assert_eq!(pipe_name(Path::new(r"C:\mnt\d")), r"\\.\pipe\lanefs-mount-c:!mnt!d");
    }

    #[test]
    fn nobody_at_a_place_is_said() {
        let error = ask(&pipe_name(Path::new(r"C:\no\mount")), &Request::Status);
        let error = error.expect_err("nobody is there");
        assert!(error.message.contains(r"no lanefs mount is at c:\no\mount"), "{error}");
    }

    /// Real pipes, a mount that is none.
    #[test]
    fn a_request_is_answered_and_the_listener_ends() {
        let place = tempfile::tempdir().expect("a scratch directory");
        let point = PathBuf::from(format!("T:{}", std::process::id()));
        let plan = MountPlan::plain(place.path(), &point);
        let backing = fs_core::platform::windows::WindowsBacking::open(
            place.path(),
            fs_core::platform::windows::BackingOptions::default(),
        );
        let backing = Arc::new(backing.expect("a directory"));
        let engine =
            fs_core::engine::Engine::new(&*backing, fs_core::engine::EngineConfig::default());
        let tree = engine.add_tree(backing).expect("a tree");
        let status = Status {
            settings: Mutex::new(plan.settings.clone()),
            plan,
            tree,
            counters: Arc::default(),
            no_log: "a test".to_owned(),
            started: Instant::now(),
        };
        let (events, received) = channel();
        let server = ControlServer::start(status, events).expect("a pipe");
        let pipe = pipe_name(&point);
        for _ in 0..3 {
            let Ok(Response::Status { status }) = ask(&pipe, &Request::Status) else {
                panic!("a status")
            };
            assert_eq!(status["log"], "none: a test");
            assert_eq!(status["durability"]["mode"], "fsync");
        }
        let set = Request::Set { durability: Some("close".to_owned()), commit_interval: None };
        assert!(matches!(ask(&pipe, &set), Ok(Response::Set { .. })));
        let asked = std::thread::spawn({
            let pipe = pipe.clone();
            move || ask(&pipe, &Request::Unmount { lazy: false })
        });
        let Ok(Event::Unmount(answer)) = received.recv() else { panic!("an event") };
        answer.send(Ok(())).expect("somebody waits");
        assert!(matches!(asked.join().expect("no panic"), Ok(Response::Unmounted)));
        server.stop();
    }
}
