//! A mount's life, from the checks before it to the last flush.
//!
//! ```text
//! preflight: paths and options make sense, FUSE exists -> exit 2 (1 for the latter)
//! backing:   open, lock, private mount clone          -> exit 1
//! kernel:    /dev/fuse, mount(2), INIT                -> exit 1
//! serve:     workers, control socket, signals
//! shutdown:  flush everything, unmount, flush again   -> exit 0
//! ```
//!
//! A restart ([`restart`]) comes in at `resume` instead, with the kernel's side and the
//! backing directory inherited.
//!
//! Shutdown is reached by SIGINT, SIGTERM, `lanefs umount` or an `umount(8)` of
//! the mount point; whichever comes first, the order is the same.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fs_core::engine::Tree;
use fs_core::platform::linux::{BackingOptions, Inherited, LinuxBacking, raise_open_files_limit};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR2};

use self::kernel::KernelMount;
pub use self::options::MountOptions;
use self::restart::state::State;
use self::restart::{Outcome, Wish};
use crate::config::Settings;
use crate::control::{self, Answers, ControlServer, Status};
use crate::failure::Failure;
use crate::logging;
use crate::metrics::server::{Address, Listener};
use crate::skin::reply::Channel;
use crate::skin::{Counters, Skin, SkinOptions};
use crate::supervisor::{self, Supervisor};

pub mod daemon;
pub mod engine;
pub mod fstab;
pub mod kernel;
pub mod mounts;
pub mod options;
pub mod preflight;
pub mod restart;

/// How long a shutdown waits for sync requests that are under way.
pub const DRAIN_MAX: Duration = Duration::from_secs(30);
/// How long `lanefs umount` tries again before it says that the mount is busy.
const BUSY_RETRY_MAX: Duration = Duration::from_millis(500);
/// How long a signal waits for programs to let go of the mount before it is
/// detached under them.
const BUSY_MAX: Duration = Duration::from_secs(2);

/// A mount to make.
#[derive(Debug, Clone)]
pub struct MountPlan {
    /// The directory that holds the files, absolute.
    pub backing: PathBuf,
    /// Where it shall appear, absolute; may be the same.
    pub mount_point: PathBuf,
    /// What is durable when.
    pub settings: Settings,
    /// Everything else.
    pub options: MountOptions,
    /// Where metrics are shown, if they are.
    pub metrics: Option<Address>,
    /// Where the command was given: its relative paths begin there.
    pub directory: PathBuf,
}

/// Something that the serving thread has to act on.
pub enum Event {
    /// SIGINT, SIGTERM, or SIGUSR2 for a restart.
    Signal(i32),
    /// `lanefs umount`; the answer goes to its connection.
    Unmount {
        /// Detach even while files are open.
        lazy: bool,
        /// Where the outcome is reported.
        answer: Sender<Result<(), Failure>>,
    },
    /// The daemon shall be replaced, the mount stay.
    Restart(Wish),
    /// The kernel has ended the session: somebody unmounted.
    SessionEnded(std::io::Result<()>),
    /// A ring does not work any more: requests of its processor would wait forever.
    RingFailed(String),
}

/// Everything that a running mount consists of.
pub struct Mount {
    plan: MountPlan,
    tree: Arc<MountedTree>,
    kernel: KernelMount,
    control: ControlServer,
    events: Receiver<Event>,
    channel: Arc<Channel>,
    counters: Arc<Counters>,
    skin: Arc<Skin>,
    status: Arc<Status>,
    /// When the mount was made, in seconds since 1970.
    mounted_at: u64,
    /// How often the daemon was replaced since.
    restarts: u64,
}

/// What answers requests, before it is connected.
struct Side {
    tree: Arc<MountedTree>,
    filesystem: &'static str,
    no_log: Option<String>,
    channel: Arc<Channel>,
    counters: Arc<Counters>,
    skin: Arc<Skin>,
}

impl Side {
    fn new(plan: &MountPlan, backing: LinuxBacking) -> Result<Self, Failure> {
        let backing = Arc::new(backing);
        let filesystem = backing.filesystem_name();
        let engine::MountEngine { engine, no_log } = engine::start(&backing, plan)?;
        let tree = engine.add_tree(backing).map_err(|error| {
            Failure::new(format!("cannot serve {}: {error}", plan.backing.display()))
        })?;
        tree.set_policy(plan.settings.policy.clone());
        let (channel, counters) = (Arc::new(Channel::default()), Arc::new(Counters::default()));
        let (out, counted) = (Arc::clone(&channel), Arc::clone(&counters));
        let skin = Skin::new(Arc::clone(&tree), out, counted, skin_options(&plan.options));
        Ok(Self { tree, filesystem, no_log, channel, counters, skin: Arc::new(skin) })
    }
}

impl Mount {
    /// Makes the mount; when this returns it answers.
    ///
    /// # Errors
    /// A [`Failure`] with the cause and the remedy; nothing is left mounted.
    pub fn start(plan: MountPlan) -> Result<Self, Failure> {
        preflight::check(&plan)?;
        if let Some(count) = plan.options.lie_one_in {
            tracing::error!("test_lie_one_in={count}: this mount LIES about durability, for tests");
        }
        supervisor::starting(&format!(
            "opening {}; after a power cut its log is read first",
            plan.backing.display()
        ));
        let open_files_max = raise_open_files_limit();
        let backing = LinuxBacking::open(&plan.backing, backing_options(&plan.options))
            .map_err(|error| Failure::new(error.to_string()))?;
        let metrics = plan.metrics.as_ref().map(Listener::bind).transpose()?;
        let side = Side::new(&plan, backing)?;
        let (sender, events) = channel();
        let kernel = KernelMount::new(&plan, &side.skin, &side.channel, sender.clone())?;
        if let Some(reason) = kernel.no_restart() {
            tracing::info!(reason, "`lanefs restart` will not work on this mount");
        }
        let mount = Self::assemble(plan, side, kernel, (&sender, events), open_files_max, None)?;
        watch_signals(sender)?;
        if let Some(metrics) = metrics {
            metrics.serve(Arc::downgrade(&mount.status))?;
        }
        mount.kernel.wait_until_it_answers()?;
        // What others wrote to the backing directory before must not count as
        // unsynced by programs that find it clean here.
        mount.tree.engine().flush(DRAIN_MAX).map_err(|error| {
            Failure::new(format!("cannot sync {}: {error}", mount.plan.backing.display()))
        })?;
        tracing::info!(
            backing = %mount.plan.backing.display(),
            mount_point = %mount.plan.mount_point.display(),
            filesystem = mount.status.filesystem,
            "mounted"
        );
        Ok(mount)
    }

    /// Goes on with a mount in place of the program that this one has replaced; when this
    /// returns it answers.
    ///
    /// # Errors
    /// A [`Failure`] with the cause; the mount is dead then, and everything durable.
    pub fn resume(plan: MountPlan, state: State, inherited: Inherited) -> Result<Self, Failure> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Failure::new(format!("cannot go on with the mount: {what}: {error}"))
        };
        let open_files_max = raise_open_files_limit();
        if let Some(level) = &state.log_level {
            let _ = logging::set_level(level);
        }
        let device = inherited.get(state.device).map_err(|error| failed("the device", &error))?;
        let asker = state.asker.map(|number| inherited.get(number)).transpose();
        let asker = asker.map_err(|error| failed("who asked for it", &error))?;
        let (doors, options) = ((state.root, state.original), backing_options(&plan.options));
        let backing = LinuxBacking::resume(&plan.backing, doors, inherited, options)
            .map_err(|error| failed("the backing directory", &error))?;
        let side = Side::new(&plan, backing)?;
        side.counters.resume(&state.requests);
        let counts = state.tree.counts();
        side.tree.resume(state.tree).map_err(|error| failed("open files", &error))?;
        let (sender, events) = channel();
        // From here on signals are ours; one that came too late for the predecessor, too.
        watch_signals(sender.clone())?;
        let _ = restart::signals().thread_unblock();
        if let Some(signal) = state.signal {
            let _ = sender.send(Event::Signal(signal));
        }
        let connection = (&*side.channel, device);
        // The channel is connected before a backing id can end.
        side.skin.resume_passthrough(&state.passthrough);
        let (number, out) = (state.device_number, sender.clone());
        let kernel = KernelMount::resume(&plan, &side.skin, connection, number, out)?;
        let pause = Duration::from_nanos(restart::monotonic_now().saturating_sub(state.paused_at));
        let before = Some((state.mounted_at, state.restarts, pause));
        let mount = Self::assemble(plan, side, kernel, (&sender, events), open_files_max, before)?;
        // Programs need the mount more than anybody needs its figures.
        let metrics = mount.plan.metrics.as_ref().map(Listener::bind).transpose();
        let shown = metrics.and_then(|listener| {
            listener.map_or(Ok(()), |listener| listener.serve(Arc::downgrade(&mount.status)))
        });
        if let Err(failure) = shown {
            tracing::error!(%failure, "no metrics any more");
        }
        let (nodes, files, directories) = counts;
        tracing::info!(
            pause_ms = pause.as_millis() as u64,
            restarts = state.restarts,
            from = state.written_by,
            nodes,
            files,
            directories,
            "restarted"
        );
        if let Some(asker) = asker {
            control::tell_restarted(asker, pause);
        }
        Ok(mount)
    }

    fn assemble(
        plan: MountPlan,
        side: Side,
        kernel: KernelMount,
        (sender, events): (&Sender<Event>, Receiver<Event>),
        open_files_max: u64,
        before: Option<(u64, u64, Duration)>,
    ) -> Result<Self, Failure> {
        let (mounted_at, restarts, pause) = before.unwrap_or((now_s(), 0, Duration::ZERO));
        let Side { tree, filesystem, no_log, channel, counters, skin } = side;
        let status = Arc::new(Status {
            plan: plan.clone(),
            filesystem,
            no_log,
            open_files_max,
            mounted_at,
            restarts,
            restart_pause: pause,
            no_restart: kernel.no_restart().map(str::to_owned),
            tree: Arc::clone(&tree),
            counters: Arc::clone(&counters),
            skin: Arc::clone(&skin),
            transport: kernel.transport().to_owned(),
            settings: Mutex::new(plan.settings.clone()),
        });
        let answers = Arc::clone(&status) as Arc<dyn Answers>;
        let control = ControlServer::start(kernel.device_number(), &answers, sender.clone())?;
        Ok(Self {
            plan,
            tree,
            kernel,
            control,
            events,
            channel,
            counters,
            skin,
            status,
            mounted_at,
            restarts,
        })
    }

    /// What is durable when, as `lanefs set` may have changed it.
    fn settings(&self) -> Settings {
        self.status.settings().clone()
    }

    /// Serves until the mount ends, then makes everything durable.
    ///
    /// # Errors
    /// The last flush failed, or the mount could not be ended.
    pub fn serve(mut self) -> Result<(), Failure> {
        let mut answers = Vec::new();
        let mut flushed = Ok(());
        let mut supervisor = Some(self.supervise());
        let ended = loop {
            match self.events.recv().expect("the signal thread holds a sender") {
                Event::Signal(SIGUSR2) => {
                    let wish = Wish { binary: None, asker: None };
                    if let Outcome::Failed(failure) = self.restart(wish, &mut supervisor) {
                        return self.end_after_failed_restart(failure);
                    }
                }
                Event::Restart(wish) => {
                    if let Outcome::Failed(failure) = self.restart(wish, &mut supervisor) {
                        return self.end_after_failed_restart(failure);
                    }
                }
                Event::Signal(signal) => {
                    tracing::info!(signal, "shutting down");
                    supervisor::stopping();
                    // The mount ends even if its data could not be made durable:
                    // that is reported, and a dead mount would help nobody.
                    flushed = self.flush();
                    self.unmount_patiently();
                }
                Event::Unmount { lazy, answer } => {
                    match self.flush().and_then(|()| self.unmount(lazy)) {
                        Ok(()) => answers.push(answer),
                        Err(failure) => {
                            let _ = answer.send(Err(failure));
                        }
                    }
                }
                Event::SessionEnded(result) => break result,
                Event::RingFailed(error) => {
                    tracing::error!(error, "a ring failed; the mount ends");
                    flushed = Err(Failure::new(format!(
                        "FUSE over io_uring failed: {error}; `-o transport=classic` does without"
                    )));
                    self.kernel.unmount_now();
                }
            }
        };
        supervisor::stopping();
        drop(supervisor);
        // What was written between the first flush and the end.
        let flushed = flushed.and(self.close());
        let outcome = flushed.and_then(|()| {
            ended.map_err(|error| Failure::new(format!("the FUSE session failed: {error}")))
        });
        self.control.stop();
        // Whoever waits for the answer may mount again at once.
        self.tree.backing().release_lock();
        for answer in answers {
            let _ = answer.send(outcome.clone());
        }
        // Lets the control threads write their answers.
        self.control.finish();
        tracing::info!(mount_point = %self.plan.mount_point.display(), "unmounted");
        outcome
    }

    /// Nobody answers any more, and everything is durable.
    fn end_after_failed_restart(&mut self, failure: Failure) -> Result<(), Failure> {
        self.kernel.unmount_now();
        self.control.stop();
        Err(failure)
    }

    /// Tells the service manager that the mount answers.
    fn supervise(&self) -> Supervisor {
        Supervisor::start(&self.plan.mount_point, &self.describe())
    }

    /// One line about the mount, for the service manager.
    fn describe(&self) -> supervisor::Describe {
        let place =
            format!("{} from {}", self.plan.mount_point.display(), self.plan.backing.display());
        // Nobody but the mount itself keeps the engine alive.
        let tree = Arc::downgrade(&self.tree);
        Arc::new(move || match tree.upgrade() {
            Some(tree) => supervisor::described(&place, &tree.engine().status()),
            None => format!("{place}: ending"),
        })
    }

    fn flush(&self) -> Result<(), Failure> {
        self.tree.engine().flush(DRAIN_MAX).map_err(|error| self.not_durable(&error))
    }

    /// The last flush, after which the log is empty.
    fn close(&self) -> Result<(), Failure> {
        self.tree.engine().close(DRAIN_MAX).map_err(|error| self.not_durable(&error))
    }

    fn not_durable(&self, error: &dyn std::fmt::Display) -> Failure {
        let backing = self.plan.backing.display();
        Failure::new(format!(
            "not everything could be made durable in {backing}: {error}; \
             the data is in the backing directory, but a power cut may lose it"
        ))
    }

    fn unmount(&mut self, lazy: bool) -> Result<(), Failure> {
        // A program that is just starting another one holds all its descriptors
        // twice for a moment: that alone shall not count as busy.
        let deadline = Instant::now() + BUSY_RETRY_MAX;
        let ended = loop {
            match self.kernel.unmount(lazy) {
                Err(nix::Error::EBUSY) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                other => break other,
            }
        };
        ended.map_err(|error| match error {
            nix::Error::EBUSY => Failure::new(format!(
                "{} is busy: close the programs that use it (`fuser -vm` lists them), \
                 or detach it with `lanefs umount --lazy`",
                self.plan.mount_point.display()
            )),
            other => {
                Failure::new(format!("cannot unmount {}: {other}", self.plan.mount_point.display()))
            }
        })
    }

    /// Unmounts as soon as nobody uses the mount any more, or after a while
    /// anyhow: a signal means that the process will end.
    fn unmount_patiently(&mut self) {
        let deadline = Instant::now() + BUSY_MAX;
        while self.unmount(false).is_err() {
            if Instant::now() >= deadline {
                tracing::warn!("still in use; detached, open files will answer ENOTCONN");
                self.kernel.unmount_now();
                return;
            }
        }
    }
}

/// Seconds since 1970.
pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// An engine's tree, for those who make mounts without a command line.
pub type MountedTree = Tree<LinuxBacking>;

pub(crate) fn backing_options(options: &MountOptions) -> BackingOptions {
    BackingOptions {
        read_only: options.read_only,
        no_atime: options.no_atime,
        pin_objects: options.pin_objects,
        cached_fds_max: None,
        mechanism: options.mechanism,
        as_library: false,
    }
}

pub(crate) fn skin_options(options: &MountOptions) -> SkinOptions {
    SkinOptions {
        attr_timeout: options.attr_timeout,
        entry_timeout: options.entry_timeout,
        passthrough: options.passthrough,
        slow_sync: options.slow_sync,
        default_permissions: options.default_permissions,
    }
}

pub(crate) fn watch_signals(events: Sender<Event>) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("cannot watch signals: {error}"));
    let mut signals =
        signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGUSR2]).map_err(failed)?;
    let watch = move || {
        for signal in signals.forever() {
            if events.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("lanefs-signals".into()).spawn(watch).map_err(failed)?;
    Ok(())
}
