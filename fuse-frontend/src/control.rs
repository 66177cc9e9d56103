//! The socket through which a running mount is asked and told.
//!
//! One Unix socket for each mount, named after the mount's device number, in a
//! directory that only the mounting user may enter. A client sends one line of
//! JSON and gets one line back. Nothing of this appears in the mounted tree,
//! which stays an exact mirror of the backing directory.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

pub use commands::protocol::{Request, Response};
use commands::report::{DurabilityReport, STATUS_SCHEMA};
use fs_core::engine::EngineStatus;
use serde::Serialize;

use crate::config::{self, Settings, Source, commit_interval, shown_interval};
use crate::failure::Failure;
use crate::logging;
use crate::mount::mounts;
use crate::mount::options::durability;
use crate::mount::restart::Wish;
use crate::mount::{DRAIN_MAX, Event, MountPlan, MountedTree, now_s};
use crate::skin::{Counters, Skin};

pub use self::client::{ask, remove_leftover};

mod client;

/// Longest request line in bytes.
const REQUEST_BYTES_MAX: u64 = 1 << 20;
/// How long a client may take to send its line.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(5);
/// How long an `umount` may take: flushing much data to a slow disk takes long.
const UNMOUNT_TIME_MAX: Duration = Duration::from_secs(600);

/// What `lanefs status --json` prints for a mount.
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
    pub filesystem: &'static str,
    /// Seconds since the mount was made.
    pub uptime_s: u64,
    /// How often the daemon was replaced since (`lanefs restart`).
    pub restarts: u64,
    /// How long the last time took, without answers, in milliseconds.
    pub restart_pause_ms: f64,
    /// Why the daemon cannot be replaced, if so.
    pub no_restart: Option<String>,
    /// Whether changes are refused.
    pub read_only: bool,
    /// How requests come: `ring`, or `classic` and why.
    pub transport: String,
    /// What is durable when, and who says so.
    pub durability: DurabilityReport,
    /// Whether the kernel reads and writes backing files by itself.
    pub passthrough: bool,
    /// Whether objects are known by file handle.
    pub handles: bool,
    /// Whether created files are given to their callers.
    pub impersonation: bool,
    /// Most files that may be open for writing at once.
    pub open_files_max: u64,
    /// Objects that the kernel knows.
    pub nodes: usize,
    /// Open files.
    pub files: usize,
    /// Open directories.
    pub directories: usize,
    /// The engine and its lanes.
    pub engine: EngineStatus,
    /// State of the log: `in use`, or why it is not.
    pub log: String,
    /// Sync requests that took longer than `slow_sync_ms`.
    pub slow_syncs: u64,
    /// Requests of the kernel by kind.
    pub requests: BTreeMap<&'static str, u64>,
}

/// Where a report gets its figures.
pub struct Status {
    /// The mount.
    pub plan: MountPlan,
    /// Type of the backing filesystem.
    pub filesystem: &'static str,
    /// Why no log is kept, if none is.
    pub no_log: Option<String>,
    /// The process's limit of open files.
    pub open_files_max: u64,
    /// When the mount was made, in seconds since 1970.
    pub mounted_at: u64,
    /// How often the daemon was replaced since.
    pub restarts: u64,
    /// How long that took the last time.
    pub restart_pause: Duration,
    /// Why it cannot be, if so.
    pub no_restart: Option<String>,
    /// The tree that it exports.
    pub tree: Arc<MountedTree>,
    /// Its request counters.
    pub counters: Arc<Counters>,
    /// Its FUSE side.
    pub skin: Arc<Skin>,
    /// How requests come.
    pub transport: String,
    /// What holds now; starts as the plan has it.
    pub settings: Mutex<Settings>,
}

impl Status {
    pub(crate) fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks everything before anything is changed.
    fn set(&self, mode: Option<&str>, interval: Option<&str>) -> Result<Response, Failure> {
        let changed = changed(self.settings().clone(), mode, interval)?;
        Ok(self.put_in_force(changed))
    }

    /// What the file says for this mount, with the flags that it was mounted with; then as `set`.
    fn configure(
        &self,
        file: &Path,
        mode: Option<&str>,
        interval: Option<&str>,
    ) -> Result<Response, Failure> {
        let (file, config) = config::load(Some(file), None)?;
        let flags = self.plan.options.durability;
        let settings = config::settle(flags, file, &config, &self.plan.mount_point)?;
        Ok(self.put_in_force(changed(settings, mode, interval)?))
    }

    /// All at once: an operation is judged by the old settings or by the new ones.
    fn put_in_force(&self, new: Settings) -> Response {
        let mut settings = self.settings();
        self.tree.set_policy(new.policy.clone());
        self.tree.engine().set_commit_interval(new.commit_interval);
        *settings = new;
        let (durability, commit_interval) =
            (settings.policy.default_mode().to_string(), shown_interval(settings.commit_interval));
        let rules = settings.policy.rules().len();
        tracing::info!(durability, commit_interval, rules, "set");
        Response::Set { durability, commit_interval }
    }

    /// mount(8) can change it behind our back: the kernel asks nobody.
    fn is_read_only(&self) -> bool {
        let mount = || mounts::at(&self.plan.mount_point).ok().flatten();
        self.plan.options.read_only || mount().is_some_and(|mount| mount.read_only)
    }

    fn flush(&self) -> Result<Response, Failure> {
        self.tree.engine().flush(DRAIN_MAX).map(|()| Response::Done).map_err(|error| {
            let shown = self.plan.mount_point.display();
            Failure::new(format!("not everything on {shown} could be made durable: {error}"))
        })
    }

    fn may_write(&self) -> Result<Response, Failure> {
        if self.plan.options.read_only {
            return Err(Failure::new(format!(
                "{} was mounted read-only and has no log to write to: unmount it, then mount it \
                 without `ro`",
                self.plan.mount_point.display()
            )));
        }
        Ok(Response::Done)
    }

    fn uptime_s(&self) -> u64 {
        now_s().saturating_sub(self.mounted_at)
    }

    fn log_state(&self) -> String {
        let failure = || self.tree.engine().log().and_then(|log| log.status().failure);
        match &self.no_log {
            Some(reason) => format!("none: {reason}"),
            None => failure().map_or_else(|| "in use".to_owned(), |why| format!("failed: {why}")),
        }
    }

    pub(crate) fn report(&self) -> StatusReport {
        let (nodes, files, directories) = self.tree.counts();
        StatusReport {
            schema: STATUS_SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            mount_point: self.plan.mount_point.clone(),
            backing: self.plan.backing.clone(),
            filesystem: self.filesystem,
            uptime_s: self.uptime_s(),
            restarts: self.restarts,
            restart_pause_ms: self.restart_pause.as_secs_f64() * 1e3,
            no_restart: self.no_restart.clone(),
            read_only: self.is_read_only(),
            transport: self.transport.clone(),
            durability: DurabilityReport::of(&self.settings()),
            passthrough: self.skin.is_passthrough(),
            handles: self.tree.backing().uses_handles(),
            impersonation: self.tree.backing().can_impersonate(),
            open_files_max: self.open_files_max,
            nodes,
            files,
            directories,
            engine: self.tree.engine().status(),
            log: self.log_state(),
            slow_syncs: self.skin.slow_syncs(),
            requests: self.counters.snapshot(),
        }
    }
}

/// Answers clients until it is stopped.
pub struct ControlServer {
    path: PathBuf,
    /// Inode number of our socket: the name may be another daemon's by now.
    inode: u64,
    stopped: Arc<AtomicBool>,
    /// Connections whose answer is not written yet.
    open: Arc<AtomicUsize>,
}

impl ControlServer {
    /// Listens for a mount.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn start(
        device: &str,
        answers: &Arc<dyn Answers>,
        events: Sender<Event>,
    ) -> Result<Self, Failure> {
        let path = socket_path(nix::unistd::geteuid().as_raw(), device);
        let failed = |error: std::io::Error| {
            Failure::new(format!("cannot make the control socket {}: {error}", path.display()))
        };
        make_socket_directory().map_err(failed)?;
        let (listener, inode) = bind(&path).map_err(failed)?;
        let stopped = Arc::new(AtomicBool::new(false));
        let open = Arc::new(AtomicUsize::new(0));
        let server = Self { path: path.clone(), inode, stopped, open };
        let (stop, open) = (Arc::clone(&server.stopped), Arc::clone(&server.open));
        // What answers goes with the mount: a client that lingers must not keep
        // the engine, and so the lock on the backing directory, alive.
        let answers = Arc::downgrade(answers);
        let listen = move || {
            for connection in listener.incoming() {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                let Ok(connection) = connection else { continue };
                let (answers, events) = (Weak::clone(&answers), events.clone());
                let counted = CountedConnection::new(&open);
                std::thread::spawn(move || {
                    let _counted = counted;
                    answer(&connection, &answers, &events);
                });
            }
        };
        std::thread::Builder::new().name("lanefs-control".into()).spawn(listen).map_err(failed)?;
        Ok(server)
    }

    /// Takes no more clients and removes the socket.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        let Ok(_lock) = lock_sockets(&self.path) else { return };
        if inode_of(&self.path).is_ok_and(|inode| inode == self.inode) {
            // Wakes the listener, which then sees that it shall stop.
            let _ = UnixStream::connect(&self.path);
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// Waits, briefly, until open connections have their answer.
    pub fn finish(&self) {
        let deadline = Instant::now() + Duration::from_secs(2);
        while self.open.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Makes the socket. The kernel gives the device number of an ended mount to the
/// next one at once, while the old daemon still flushes: whatever has the name
/// is a leftover, and taking it over must not cross the old daemon's removal.
fn bind(path: &Path) -> std::io::Result<(UnixListener, u64)> {
    let _lock = lock_sockets(path)?;
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok((listener, inode_of(path)?))
}

/// Held while sockets are made and removed.
fn lock_sockets(path: &Path) -> std::io::Result<std::fs::File> {
    let directory = path.parent().expect("a socket's path has a directory");
    let lock = std::fs::File::options().create(true).append(true).open(directory.join("lock"))?;
    lock.lock()?;
    Ok(lock)
}

fn inode_of(path: &Path) -> std::io::Result<u64> {
    Ok(std::fs::symlink_metadata(path)?.ino())
}

struct CountedConnection(Arc<AtomicUsize>);

impl CountedConnection {
    fn new(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(open))
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What of a mount answers clients, but for `LogLevel`, `Restart` and `Unmount`.
pub trait Answers: Send + Sync + 'static {
    /// Does what is asked.
    fn answer(&self, request: Request) -> Response;
}

impl Answers for Status {
    fn answer(&self, request: Request) -> Response {
        match request {
            Request::Status => {
                let status = serde_json::to_value(self.report()).expect("a report is plain data");
                Response::Status { status }
            }
            Request::AtRisk => {
                let at_risk = self.tree.engine().at_risk();
                let at_risk = serde_json::to_value(at_risk).expect("a report is plain data");
                Response::AtRisk { at_risk }
            }
            Request::Set { durability, commit_interval } => {
                or_failed(self.set(durability.as_deref(), commit_interval.as_deref()))
            }
            Request::Configure { file, durability, commit_interval } => {
                let (mode, interval) = (durability.as_deref(), commit_interval.as_deref());
                or_failed(self.configure(&file, mode, interval))
            }
            Request::Flush => or_failed(self.flush()),
            Request::MayWrite => or_failed(self.may_write()),
            Request::Fault { .. } => Response::Failed {
                message: "this mount has no failures on purpose: mount it with `-o faults`"
                    .to_owned(),
            },
            Request::LogLevel { .. } | Request::Restart { .. } | Request::Unmount { .. } => {
                unanswerable()
            }
        }
    }
}

/// Settings with what `lanefs set` gives in words.
fn changed(
    mut settings: Settings,
    mode: Option<&str>,
    interval: Option<&str>,
) -> Result<Settings, Failure> {
    if let Some(mode) = mode.map(durability).transpose()? {
        settings.policy = settings.policy.with_default(mode);
        settings.policy_from = Source::Set;
    }
    if let Some(interval) = interval.map(commit_interval).transpose()? {
        settings.commit_interval = interval;
        settings.commit_interval_from = Source::Set;
    }
    Ok(settings)
}

fn or_failed(answer: Result<Response, Failure>) -> Response {
    answer.unwrap_or_else(|failure| Response::Failed { message: failure.message })
}

/// To requests that somebody else answers.
pub(crate) fn unanswerable() -> Response {
    Response::Failed { message: "this mount cannot do that".to_owned() }
}

fn answer(mut connection: &UnixStream, answers: &Weak<dyn Answers>, events: &Sender<Event>) {
    let _ = connection.set_read_timeout(Some(REQUEST_TIME_MAX));
    let mut line = String::new();
    let mut limited = BufReader::new(std::io::Read::take(connection, REQUEST_BYTES_MAX));
    if limited.read_line(&mut line).is_err() {
        return;
    }
    let response = match serde_json::from_str(&line) {
        Ok(Request::LogLevel { level }) => set_log_level(level),
        Ok(Request::Restart { binary }) => ask_to_restart(binary, connection, events),
        Ok(Request::Unmount { lazy }) => ask_to_unmount(lazy, events),
        Ok(request) => match answers.upgrade() {
            Some(answers) => answers.answer(request),
            None => Response::Failed { message: "the mount is ending".to_owned() },
        },
        Err(error) => Response::Failed { message: format!("not a request: {error}") },
    };
    let _ = connection.write_all(as_line(&response).as_bytes());
}

fn ask_to_unmount(lazy: bool, events: &Sender<Event>) -> Response {
    let (sender, outcome) = channel();
    if events.send(Event::Unmount { lazy, answer: sender }).is_err() {
        return Response::Failed { message: "the mount is ending already".to_owned() };
    }
    match outcome.recv_timeout(UNMOUNT_TIME_MAX) {
        Ok(Ok(())) => Response::Unmounted,
        Ok(Err(failure)) => Response::Failed { message: failure.message },
        Err(_) => Response::Failed { message: "the mount did not end in 600 s".to_owned() },
    }
}

fn set_log_level(level: String) -> Response {
    or_failed(logging::set_level(&level).map(|()| Response::LogLevel { level }))
}

/// A refusal; if it is done the new daemon answers, by the same connection.
fn ask_to_restart(
    binary: Option<PathBuf>,
    connection: &UnixStream,
    events: &Sender<Event>,
) -> Response {
    let (sender, outcome) = channel();
    let connection = match connection.as_fd().try_clone_to_owned() {
        Ok(connection) => connection,
        Err(error) => return Response::Failed { message: format!("out of descriptors: {error}") },
    };
    let wish = Wish { binary, asker: Some((sender, connection)) };
    if events.send(Event::Restart(wish)).is_err() {
        return Response::Failed { message: "the mount is ending already".to_owned() };
    }
    match outcome.recv() {
        Ok(Err(failure)) => Response::Failed { message: failure.message },
        Ok(Ok(())) | Err(_) => Response::Failed { message: "the mount is ending".to_owned() },
    }
}

/// Tells who asked for a restart that it is done.
pub(crate) fn tell_restarted(asker: OwnedFd, pause: Duration) {
    let response = Response::Restarted {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        pause_ms: pause.as_secs_f64() * 1e3,
    };
    // Whoever went away does not want to know.
    let _ = UnixStream::from(asker).write_all(as_line(&response).as_bytes());
}

fn as_line(response: &Response) -> String {
    let mut text = serde_json::to_string(response).expect("a response is plain data");
    text.push('\n');
    text
}

fn socket_path(user_id: u32, device: &str) -> PathBuf {
    socket_directory(user_id).join(format!("{device}.sock"))
}

/// The directory of a user's sockets: the same whoever asks, so that root can
/// talk to the daemons of all.
fn socket_directory(user_id: u32) -> PathBuf {
    if user_id == 0 {
        return PathBuf::from("/run/lanefs");
    }
    let runtime = PathBuf::from(format!("/run/user/{user_id}"));
    if runtime.is_dir() {
        return runtime.join("lanefs");
    }
    PathBuf::from(format!("/tmp/lanefs-{user_id}"))
}

/// Makes the directory of this user's sockets; where it is.
///
/// # Errors
/// It cannot be made, or belongs to somebody else.
pub(crate) fn make_socket_directory() -> std::io::Result<PathBuf> {
    let directory = socket_directory(nix::unistd::geteuid().as_raw());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    // Somebody else's directory in a shared place must not be trusted.
    let owner = std::fs::symlink_metadata(&directory)?.uid();
    if owner == nix::unistd::geteuid().as_raw() {
        Ok(directory)
    } else {
        Err(std::io::Error::other("the directory belongs to another user"))
    }
}
