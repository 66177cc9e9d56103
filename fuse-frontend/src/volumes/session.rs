//! One volume's mount: a tree of the shared engine and the FUSE session that serves it.
//!
//! A session can outlive its place in the mount table: containers have the mount in their own
//! namespaces, and a process may have copied it into one that nobody thinks of any more. It is
//! served until the kernel says that nobody has it; then its tree goes.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fs_core::engine::{Engine, NodeId};
use fs_core::platform::linux::LinuxBacking;
use fs_core::types::Caller;

use super::wire::Order;
use crate::control::{Answers, ControlServer, Status};
use crate::failure::Failure;
use crate::mount::kernel::KernelMount;
use crate::mount::{self, Event, MountPlan, MountedTree};
use crate::skin::reply::Channel;
use crate::skin::{Counters, Skin};

/// How long a volume may be busy before it is detached under those who use it.
const BUSY_MAX: Duration = Duration::from_secs(2);
/// How long an ended mount's session may take to end, normally.
const END_MAX: Duration = Duration::from_secs(2);
/// How long changes of names may take to become durable at an unmount.
const COMMIT_MAX: Duration = Duration::from_secs(30);

/// What all volumes have in common.
pub(super) struct Shared {
    pub(super) engine: Arc<Engine<LinuxBacking>>,
    pub(super) no_log: Option<String>,
    pub(super) open_files_max: u64,
}

/// A mounted volume.
pub(super) struct Session {
    kernel: KernelMount,
    tree: Arc<MountedTree>,
    order: Order,
    /// Disconnected when the session has ended.
    ended: Mutex<Receiver<()>>,
}

impl Session {
    /// Mounts a volume; when this returns it answers.
    ///
    /// # Errors
    /// A [`Failure`] with cause and remedy; nothing is left mounted.
    pub(super) fn start(shared: &Shared, order: Order, plan: MountPlan) -> Result<Self, Failure> {
        let options = &plan.options;
        let backing = LinuxBacking::open(&plan.backing, mount::backing_options(options))
            .map_err(|error| Failure::new(error.to_string()))?;
        let filesystem = backing.filesystem_name();
        let tree = shared.engine.add_tree(backing).map_err(|error| {
            Failure::new(format!("cannot serve {}: {error}", plan.backing.display()))
        })?;
        tree.set_policy(plan.settings.policy.clone());
        // A container sees its own volumes; two of one container are two mounts.
        tree.set_apart();

        let (device, counters) = (Arc::new(Channel::default()), Arc::new(Counters::default()));
        let skin_options = mount::skin_options(options);
        let (out, counted) = (Arc::clone(&device), Arc::clone(&counters));
        let skin = Arc::new(Skin::new(Arc::clone(&tree), out, counted, skin_options));
        let (event_sender, events) = channel();
        let kernel = KernelMount::new(&plan, &skin, &device, event_sender.clone())?;
        let status = Status {
            plan: plan.clone(),
            filesystem,
            no_log: shared.no_log.clone(),
            open_files_max: shared.open_files_max,
            mounted_at: mount::now_s(),
            restarts: 0,
            restart_pause: Duration::ZERO,
            no_restart: Some(NO_RESTART.to_owned()),
            tree: Arc::clone(&tree),
            counters,
            skin,
            transport: kernel.transport().to_owned(),
            settings: Mutex::new(plan.settings),
        };
        let status = Arc::new(status);
        let answers = Arc::clone(&status) as Arc<dyn Answers>;
        let control = ControlServer::start(kernel.device_number(), &answers, event_sender);
        let control = control.inspect_err(|_| kernel.unmount_now())?;
        kernel.wait_until_it_answers()?;
        let (end, ended) = channel();
        let name = order.name.clone();
        let serve = move || {
            serve(&name, &events, &control);
            // The control socket answers as long as somebody holds this.
            drop(status);
            drop(end);
        };
        let thread = std::thread::Builder::new().name("lanefs-volume".into());
        if let Err(error) = thread.spawn(serve) {
            kernel.unmount_now();
            return Err(Failure::new(format!("cannot serve {}: {error}", order.name)));
        }
        Ok(Self { kernel, tree, order, ended: Mutex::new(ended) })
    }

    /// What it was mounted by.
    pub(super) fn order(&self) -> &Order {
        &self.order
    }

    /// Device number of the mount, as `major:minor`.
    pub(super) fn device(&self) -> &str {
        self.kernel.device_number()
    }

    /// Whether somebody has unmounted it behind our back.
    pub(super) fn is_over(&self) -> bool {
        let ended = self.ended.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        matches!(ended.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected))
    }

    /// Takes the mount away. Those who still have it, in whatever namespace, keep it.
    ///
    /// # Errors
    /// What was changed could not be made durable. The mount is gone all the same.
    pub(super) fn end(self) -> Result<(), Failure> {
        let committed = self.commit();
        let deadline = Instant::now() + BUSY_MAX;
        while self.kernel.unmount(false).is_err() {
            if Instant::now() >= deadline {
                tracing::warn!(volume = self.order.name, "still in use; detached");
                let _ = self.kernel.unmount(true);
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if !self.has_ended_within(END_MAX) {
            tracing::warn!(
                volume = self.order.name,
                "another mount namespace still has this volume's mount; it is served until that ends"
            );
        }
        // Whoever mounts the volume next must find it free, also while leftovers are served.
        self.tree.backing().release_lock();
        committed
    }

    /// As [`Self::end`] when the engine ends: who still has it is cut off.
    ///
    /// # Errors
    /// As [`Self::end`].
    pub(super) fn end_now(self) -> Result<(), Failure> {
        let committed = self.commit();
        if self.kernel.unmount(false).is_err() || !self.has_ended_within(END_MAX) {
            tracing::warn!(volume = self.order.name, "still in use; cut off");
            self.kernel.unmount_now();
        }
        committed
    }

    fn has_ended_within(&self, limit: Duration) -> bool {
        let ended = self.ended.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        ended.recv_timeout(limit) == Err(RecvTimeoutError::Disconnected)
    }

    /// Has changes of names become durable. Content that nobody has synced follows within a few
    /// commit intervals, as on any mount.
    fn commit(&self) -> Result<(), Failure> {
        if self.order.read_only {
            return Ok(());
        }
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(format!("cannot make {} durable: {error}", self.order.source.display()))
        };
        if self.tree.engine().log().is_none() {
            // No group to go with: the filesystem's own sync, as umount(8) does it.
            return self.tree.engine().flush(COMMIT_MAX).map_err(|error| failed(&error));
        }
        let root = self.tree.open_dir(NodeId::ROOT).map_err(|error| failed(&error))?;
        let (sender, answer) = channel();
        let caller = Caller { uid: 0, gid: 0, thread: 0 };
        let done = Box::new(move |result| {
            let _ = sender.send(result);
        });
        self.tree.sync_dir(caller, root, done);
        let answer = answer.recv_timeout(COMMIT_MAX);
        self.tree.release_dir(root);
        match answer {
            Ok(result) => result.map_err(|error| failed(&error)),
            Err(_) => Err(failed(&"no answer in 30 s")),
        }
    }
}

/// Why a volume cannot go on in another program.
const NO_RESTART: &str = "it is served by the volume plugin, with other volumes";

/// Answers what comes for the mount until its session has ended.
fn serve(name: &str, events: &Receiver<Event>, control: &ControlServer) {
    while let Ok(event) = events.recv() {
        match event {
            Event::SessionEnded(result) => {
                if let Err(error) = result {
                    tracing::warn!(volume = name, %error, "the FUSE session failed");
                }
                break;
            }
            Event::Unmount { answer, .. } => {
                let _ = answer.send(Err(Failure::new(format!(
                    "this is the container volume {name}: it is unmounted when its last container \
                     stops (`docker ps --filter volume={name}` lists them)"
                ))));
            }
            // Volumes use the classic transport, and signals go to the engine.
            Event::Restart(wish) => wish.refuse(Failure::new(format!(
                "this is the container volume {name}: one of several of a plugin, which cannot be \
                 replaced under its volumes"
            ))),
            Event::RingFailed(_) | Event::Signal(_) => {}
        }
    }
    control.stop();
    control.finish();
}

/// The plan of a volume's mount.
pub(super) fn plan(base: &MountPlan, order: &Order, mount_point: &Path) -> MountPlan {
    let mut options = base.options.clone();
    options.read_only = order.read_only;
    // As a directory of the host in a container: other users, devices and set-user-id work,
    // and what the container may do with them is the container engine's decision.
    options.allow_other = true;
    options.default_permissions = true;
    (options.dev, options.suid) = (true, true);
    options.fsname = Some(order.source.display().to_string());
    // The log is the engine's.
    options.log = None;
    MountPlan {
        backing: order.source.clone(),
        mount_point: mount_point.to_owned(),
        settings: base.settings.clone(),
        options,
        metrics: None,
        directory: base.directory.clone(),
    }
}
