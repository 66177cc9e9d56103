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
//! Shutdown is reached by SIGINT, SIGTERM, `lanefs umount` or an `umount(8)` of
//! the mount point; whichever comes first, the order is the same.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fs_core::engine::Tree;
use fs_core::platform::linux::{BackingOptions, LinuxBacking, raise_open_files_limit};
use signal_hook::consts::{SIGINT, SIGTERM};

use self::kernel::KernelMount;
pub use self::options::MountOptions;
use crate::config::Settings;
use crate::control::{ControlServer, Status};
use crate::failure::Failure;
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
}

/// Something that the serving thread has to act on.
pub enum Event {
    /// SIGINT or SIGTERM.
    Signal(i32),
    /// `lanefs umount`; the answer goes to its connection.
    Unmount {
        /// Detach even while files are open.
        lazy: bool,
        /// Where the outcome is reported.
        answer: Sender<Result<(), Failure>>,
    },
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
        let options = &plan.options;
        let backing = LinuxBacking::open(&plan.backing, backing_options(options))
            .map_err(|error| Failure::new(error.to_string()))?;
        let backing = Arc::new(backing);
        let filesystem = backing.filesystem_name();
        let engine::MountEngine { engine, no_log } = engine::start(&backing, &plan)?;
        let tree = engine.add_tree(backing).map_err(|error| {
            Failure::new(format!("cannot serve {}: {error}", plan.backing.display()))
        })?;

        tree.set_policy(plan.settings.policy.clone());

        let (channel_out, counters) = (Arc::new(Channel::default()), Arc::new(Counters::default()));
        let skin_options = skin_options(options);
        let (out, counted) = (Arc::clone(&channel_out), Arc::clone(&counters));
        let skin = Arc::new(Skin::new(Arc::clone(&tree), out, counted, skin_options));
        let (event_sender, events) = channel();
        let kernel = KernelMount::new(&plan, &skin, &channel_out, event_sender.clone())?;

        let status = Status {
            plan: plan.clone(),
            filesystem,
            no_log,
            open_files_max,
            started: Instant::now(),
            tree: Arc::clone(&tree),
            counters,
            skin,
            transport: kernel.transport().to_owned(),
            settings: Mutex::new(plan.settings.clone()),
        };
        let control =
            ControlServer::start(kernel.device_number(), Arc::new(status), event_sender.clone())?;
        watch_signals(event_sender)?;
        kernel.wait_until_it_answers()?;
        // What others wrote to the backing directory before must not count as
        // unsynced by programs that find it clean here.
        tree.engine().flush(DRAIN_MAX).map_err(|error| {
            Failure::new(format!("cannot sync {}: {error}", plan.backing.display()))
        })?;
        tracing::info!(
            backing = %plan.backing.display(),
            mount_point = %plan.mount_point.display(),
            filesystem,
            "mounted"
        );
        Ok(Self { plan, tree, kernel, control, events })
    }

    /// Serves until the mount ends, then makes everything durable.
    ///
    /// # Errors
    /// The last flush failed, or the mount could not be ended.
    pub fn serve(mut self) -> Result<(), Failure> {
        let mut answers = Vec::new();
        let mut flushed = Ok(());
        let supervisor = Supervisor::start(&self.plan.mount_point, &self.describe());
        let ended = loop {
            match self.events.recv().expect("the signal thread holds a sender") {
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
        default_permissions: options.default_permissions,
    }
}

pub(crate) fn watch_signals(events: Sender<Event>) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("cannot watch signals: {error}"));
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
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
