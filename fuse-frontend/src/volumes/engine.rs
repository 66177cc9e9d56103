//! The engine's process: serves the mounts of all volumes of one root.
//!
//! It is started by the plugin, in a session of its own, and outlives it. Whoever starts it
//! holds the lock on the root first, so there is one. Mounts that it finds below the root at
//! its start were an engine's that died; nobody can serve them any more, and they are detached.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fs_core::platform::linux::{LinuxBacking, raise_open_files_limit};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::layout::Layout;
use super::session::{self, Session, Shared};
use super::wire::{self, MountedVolume, Order, PROTOCOL, Request, Response};
use crate::config::{self, ConfigFile};
use crate::failure::Failure;
use crate::mount::{self, MountOptions, MountPlan, MountedTree, engine, kernel, mounts};
use crate::ring::Transport;

/// FUSE workers of each volume: one may lead a group, two others keep answering.
const WORKERS: usize = 3;
/// How long the end waits for requests that are under way.
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// What an engine is started with.
#[derive(Debug, Clone, Default)]
pub struct EngineSettings {
    /// Words of `-o`, for the engine.
    pub options: Vec<String>,
    /// The file with settings.
    pub config: Option<PathBuf>,
}

impl EngineSettings {
    /// Checks the words.
    ///
    /// # Errors
    /// One is no option, or none of an engine.
    pub fn mount_options(&self) -> Result<MountOptions, Failure> {
        let mut options = MountOptions::default();
        for words in &self.options {
            options.apply(words)?;
        }
        if options.transport == Transport::Ring {
            return Err(Failure::usage(
                "transport=ring serves one mount; volumes share an engine: leave it out",
            ));
        }
        if options.faults {
            return Err(Failure::usage("faults are for mounts of their own, by `lanefs mount`"));
        }
        options.transport = Transport::Classic;
        options.workers = WORKERS;
        options.check()?;
        Ok(options)
    }

    /// The same as arguments of a command line.
    #[must_use]
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments = Vec::new();
        for words in &self.options {
            arguments.extend([OsString::from("-o"), words.into()]);
        }
        if let Some(config) = &self.config {
            arguments.extend([OsString::from("--config"), config.into()]);
        }
        arguments
    }
}

/// An engine with its volumes.
pub struct VolumeEngine {
    layout: Layout,
    base: MountPlan,
    config: (Option<PathBuf>, ConfigFile),
    backing: Arc<LinuxBacking>,
    /// No mount: syncs of everything go by an engine's first tree, and volumes come and go and may
    /// be read-only.
    _root: Arc<MountedTree>,
    shared: Shared,
    volumes: Mutex<BTreeMap<String, Session>>,
    socket: PathBuf,
    end: Sender<()>,
}

impl VolumeEngine {
    /// Starts to serve a root; recovers its log first.
    ///
    /// # Errors
    /// Another engine serves it, or the log cannot be kept or recovered.
    pub fn start(
        root: &Path,
        options: MountOptions,
        config: (Option<PathBuf>, ConfigFile),
    ) -> Result<(Arc<Self>, Ends), Failure> {
        let layout = Layout::new(root)?;
        let open_files_max = raise_open_files_limit();
        let common =
            config::settle(options.durability, config.0.clone(), &config.1, layout.root())?;
        let backing = LinuxBacking::open(layout.root(), mount::backing_options(&options))
            .map_err(|error| Failure::new(error.to_string()))?;
        let backing = Arc::new(backing);
        detach_dead_mounts(&layout)?;
        let base = MountPlan {
            backing: layout.root().to_owned(),
            mount_point: layout.mounts(),
            settings: common,
            options,
            metrics: None,
            directory: PathBuf::from("/"),
        };
        let engine::MountEngine { engine, no_log } = engine::start(&backing, &base)?;
        let root = engine.add_tree(Arc::clone(&backing)).map_err(|error| {
            Failure::new(format!("cannot serve {}: {error}", layout.root().display()))
        })?;
        let shared = Shared { engine, no_log, open_files_max };
        let socket = wire::socket_path(layout.root())?;
        let (end, ends) = channel();
        let volumes = Mutex::new(BTreeMap::new());
        let this =
            Self { layout, base, config, backing, _root: root, shared, volumes, socket, end };
        let this = Arc::new(this);
        this.listen()?;
        this.watch_signals()?;
        Ok((this, ends))
    }

    /// Serves until it is told to end; then makes everything durable.
    ///
    /// # Errors
    /// Not everything could be made durable.
    pub fn serve(&self, ends: &Ends) -> Result<(), Failure> {
        let _ = ends.recv();
        let _ = std::fs::remove_file(&self.socket);
        let volumes = std::mem::take(&mut *self.lock());
        tracing::info!(volumes = volumes.len(), "the engine ends");
        // At the end of a machine many may be in use: none waits for another.
        std::thread::scope(|scope| {
            for (name, volume) in volumes {
                scope.spawn(move || {
                    if let Err(failure) = volume.end_now() {
                        tracing::error!(volume = name, "{failure}");
                    }
                });
            }
        });
        let closed = self.shared.engine.close(DRAIN_MAX).map_err(|error| {
            let root = self.layout.root().display();
            Failure::new(format!(
                "not everything could be made durable in {root}: {error}; the data is there, but a \
                 power cut may lose it"
            ))
        });
        self.backing.release_lock();
        closed
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Session>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(self: &Arc<Self>) -> Result<(), Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(format!("cannot listen at {}: {error}", self.socket.display()))
        };
        // We hold the lock on the root: what has the name is a dead engine's.
        let _ = std::fs::remove_file(&self.socket);
        let listener = UnixListener::bind(&self.socket).map_err(failed)?;
        let this = Arc::clone(self);
        let listen = move || {
            for connection in listener.incoming().flatten() {
                let this = Arc::clone(&this);
                std::thread::spawn(move || this.answer(&connection));
            }
        };
        let thread = std::thread::Builder::new().name("lanefs-engine".into());
        thread.spawn(listen).map_err(failed)?;
        Ok(())
    }

    fn watch_signals(&self) -> Result<(), Failure> {
        let failed = |error: std::io::Error| Failure::new(format!("cannot watch signals: {error}"));
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
        let end = self.end.clone();
        let watch = move || {
            for signal in signals.forever() {
                tracing::info!(signal, "shutting down");
                let _ = end.send(());
            }
        };
        std::thread::Builder::new().name("lanefs-signals".into()).spawn(watch).map_err(failed)?;
        Ok(())
    }

    fn answer(&self, connection: &UnixStream) {
        let request = match wire::hear(connection) {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(error) => {
                let message = format!("not a request: {error}");
                let _ = wire::say(connection, &Response::Failed { message });
                return;
            }
        };
        let done = match request {
            Request::Mount(order) => self.mount(order),
            Request::Unmount { name } => self.unmount(&name),
            Request::List => {
                let _ = wire::say(connection, &self.list());
                return;
            }
            Request::Watch => {
                // Returns when the plugin has ended. Our end closes the connection.
                let _ = wire::hear::<Request>(connection);
                return;
            }
            Request::End => {
                let _ = self.end.send(());
                Ok(())
            }
        };
        let response = match done {
            Ok(()) => Response::Done,
            Err(Failure { message, .. }) => Response::Failed { message },
        };
        let _ = wire::say(connection, &response);
    }

    fn mount(&self, order: Order) -> Result<(), Failure> {
        let mut volumes = self.lock();
        if let Some(session) = volumes.get(&order.name) {
            if !session.is_over() && *session.order() == order {
                return Ok(());
            }
            let session = volumes.remove(&order.name).expect("it was there");
            session.end()?;
        }
        let mount_point = self.layout.mount_point(&order.name);
        prepare_mount_point(&mount_point)?;
        let plan = self.plan(&order, &mount_point)?;
        let name = order.name.clone();
        let session = Session::start(&self.shared, order, plan)?;
        tracing::info!(volume = name, "mounted");
        volumes.insert(name, session);
        Ok(())
    }

    fn plan(&self, order: &Order, mount_point: &Path) -> Result<MountPlan, Failure> {
        let mut flags = self.base.options.durability;
        if let Some(mode) = &order.durability {
            flags.durability = Some(mount::options::durability(mode)?);
        }
        let (file, config) = &self.config;
        let mut settings = config::settle(flags, file.clone(), config, mount_point)?;
        // One clock for all of an engine's trees.
        settings.commit_interval = self.base.settings.commit_interval;
        settings.commit_interval_from = self.base.settings.commit_interval_from;
        let mut plan = session::plan(&self.base, order, mount_point);
        plan.settings = settings;
        Ok(plan)
    }

    fn unmount(&self, name: &str) -> Result<(), Failure> {
        let mut volumes = self.lock();
        let Some(session) = volumes.remove(name) else { return Ok(()) };
        session.end()?;
        tracing::info!(volume = name, "unmounted");
        Ok(())
    }

    fn list(&self) -> Response {
        let volumes = self.lock();
        let mounted = volumes.iter().filter(|(_, session)| !session.is_over());
        let mounted = mounted.map(|(name, session)| MountedVolume {
            name: name.clone(),
            device: session.device().to_owned(),
        });
        Response::Volumes {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            volumes: mounted.collect(),
        }
    }
}

/// Tells an engine to end.
pub type Ends = Receiver<()>;

/// Makes the directory if it is missing. Whatever is mounted or lies there is left alone.
fn prepare_mount_point(mount_point: &Path) -> Result<(), Failure> {
    let shown = mount_point.display();
    let failed =
        |error: std::io::Error| Failure::new(format!("cannot use mount point {shown}: {error}"));
    match std::fs::create_dir(mount_point) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(failed(error));
        }
        _ => {}
    }
    if let Some(mount) = mounts::at(mount_point).map_err(failed)? {
        return Err(Failure::new(format!(
            "a {} is mounted at {shown} already: unmount it with umount(8)",
            mount.filesystem
        )));
    }
    if std::fs::read_dir(mount_point).map_err(failed)?.next().is_some() {
        return Err(Failure::new(format!(
            "mount point {shown} holds files, which the mount would hide: move them away"
        )));
    }
    Ok(())
}

/// Detaches what an engine that died has left: the kernel answers ENOTCONN there.
fn detach_dead_mounts(layout: &Layout) -> Result<(), Failure> {
    let failed = |error| Failure::new(format!("cannot read the mount table: {error}"));
    let directory = layout.mounts();
    // The last one first: one may lie over another.
    for mount in mounts::ours().map_err(failed)?.iter().rev() {
        if mount.mount_point.parent() == Some(&directory) {
            let shown = mount.mount_point.display();
            tracing::warn!(mount_point = %shown, "detaching a dead mount");
            kernel::unmount(&mount.mount_point, true).map_err(|error| {
                Failure::new(format!("cannot unmount the dead mount {shown}: {error}"))
            })?;
            crate::control::remove_leftover(mount);
        }
    }
    Ok(())
}
