//! What the plugin's calls mean.
//!
//! Every call can be repeated, and can be cut off anywhere: the engines repeat calls that were not
//! answered, and either process may be killed between two steps. So each step leaves something
//! that the next start understands:
//!
//! | call | order of steps | cut off between them |
//! | --- | --- | --- |
//! | create | directory, then state | a directory that the next create of that name takes up |
//! | mount | mount, then user into the state, then answer | a mount without users: taken away at the next start |
//! | unmount | user out of the state, then unmount | the same |
//! | remove | unmount, files put aside if `purge`, then state | a volume without files; remove again |
//!
//! Calls of one volume wait for each other; those of others do not.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::client::Client;
use super::engine::EngineSettings;
use super::layout::{self, Layout};
use super::options::VolumeOptions;
use super::state::{State, Store, User, Volume, new_volume};
use super::wire::{MountedVolume, Order, Request};
use super::{in_use, purge};
use crate::control;
use crate::failure::Failure;
use crate::mount::mounts;

/// A mount request younger than that counts as a use, whatever the kernel says: between the
/// answer and the container's mount namespace an engine takes a moment.
const USER_AGE_MIN: Duration = Duration::from_secs(15);
const RESTART_PAUSE: Duration = Duration::from_millis(20);
const RESTART_PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Permissions of a new volume's root.
const MODE_DEFAULT: u32 = 0o755;

/// The volumes of a root.
pub struct Driver {
    layout: Layout,
    store: Mutex<Store>,
    locks: Mutex<HashMap<String, Arc<Mutex<()>>>>,
    client: Client,
    /// The plugin ends: an engine that ends is not started anew.
    ending: AtomicBool,
    /// Held as long as we serve the root.
    _lock: File,
}

/// A volume, as the engines are told.
pub struct Described {
    /// Its name.
    pub name: String,
    /// Where it is mounted, when it is.
    pub mount_point: PathBuf,
    /// When it was made, in seconds since 1970.
    pub created_unix_s: u64,
    /// Figures, for people.
    pub status: Value,
}

impl Driver {
    /// Takes a root: starts its engine or finds it, and brings mounts and state together.
    ///
    /// # Errors
    /// Another plugin has the root, its state cannot be read, or the engine cannot be started.
    pub fn start(root: &Path, settings: EngineSettings) -> Result<Arc<Self>, Failure> {
        let layout = Layout::new(root)?;
        let lock = layout.lock()?;
        let store = Mutex::new(Store::open(&layout.state_file())?);
        let client = Client::new(&layout, settings)?;
        let driver = Self {
            layout,
            store,
            locks: Mutex::default(),
            client,
            ending: AtomicBool::new(false),
            _lock: lock,
        };
        if let Err(failure) = purge::remove_all(&driver.layout.removed()) {
            tracing::warn!("{failure}");
        }
        driver.reconcile()?;
        let driver = Arc::new(driver);
        driver.watch_engine()?;
        Ok(driver)
    }

    /// Makes a volume; done if it is there and the same.
    ///
    /// # Errors
    /// The name or an option makes no sense, or the directory cannot be used.
    pub fn create(&self, name: &str, words: &BTreeMap<String, String>) -> Result<(), Failure> {
        layout::check_name(name)?;
        let mut options = VolumeOptions::parse(words)?;
        let lock = self.volume_lock(name);
        let _turn = lock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = &options.source {
            options.source = Some(self.resolve_source(source)?);
        }
        if let Some(volume) = self.store().volume(name) {
            return if words.is_empty() || volume.options == options {
                Ok(())
            } else {
                Err(Failure::usage(format!(
                    "volume {name} exists with other options: remove it first (its files stay), \
                     or choose another name"
                )))
            };
        }
        // No other volume comes in between the check and the entry.
        let mut store = self.store();
        self.prepare_source(name, &options, store.state())?;
        store.update(|state| state.volumes.insert(name.to_owned(), new_volume(options)))?;
        Ok(())
    }

    /// Forgets a volume. Its files stay, unless it was made with `purge=true`.
    ///
    /// # Errors
    /// There is none of that name, it is in use, or its files cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), Failure> {
        let lock = self.volume_lock(name);
        let _turn = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let volume = self.volume(name)?;
        self.check_unused(name, &volume)?;
        self.client.ask(&Request::Unmount { name: name.to_owned() })?;
        if volume.options.purge {
            let source = self.layout.source(name, &volume.options);
            purge::put_aside(&source, &self.layout.removed())?;
        }
        self.store().update(|state| state.volumes.remove(name))?;
        // Never more than an empty directory: whatever is there otherwise is not ours.
        let _ = std::fs::remove_dir(self.layout.mount_point(name));
        if volume.options.purge {
            purge::remove_all(&self.layout.removed())?;
        }
        Ok(())
    }

    /// Mounts a volume for a user; where it is.
    ///
    /// # Errors
    /// There is none of that name, or it cannot be mounted.
    pub fn mount(&self, name: &str, user: &str) -> Result<PathBuf, Failure> {
        let lock = self.volume_lock(name);
        let _turn = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let volume = self.volume(name)?;
        self.mount_volume(name, &volume)?;
        let noted = self.store().update(|state| {
            if let Some(volume) = state.volumes.get_mut(name) {
                volume.users.insert(user.to_owned(), User::now());
            }
        });
        if let Err(failure) = noted {
            if volume.users.is_empty() {
                let _ = self.client.ask(&Request::Unmount { name: name.to_owned() });
            }
            return Err(failure);
        }
        Ok(self.layout.mount_point(name))
    }

    /// Takes a user's mount back; the last one's ends the mount. Done if the user has none.
    ///
    /// # Errors
    /// There is no volume of that name, or not everything could be made durable.
    pub fn unmount(&self, name: &str, user: &str) -> Result<(), Failure> {
        let lock = self.volume_lock(name);
        let _turn = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let volume = self.volume(name)?;
        if !volume.users.contains_key(user) {
            return Ok(());
        }
        let is_last = volume.users.len() == 1;
        self.store().update(|state| {
            state.volumes.get_mut(name).map(|volume| volume.users.remove(user));
        })?;
        if is_last {
            self.client.ask(&Request::Unmount { name: name.to_owned() })?;
        }
        Ok(())
    }

    /// Where a volume is mounted, when it is.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn path(&self, name: &str) -> Result<PathBuf, Failure> {
        self.volume(name).map(|_| self.layout.mount_point(name))
    }

    /// A volume with live figures.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn get(&self, name: &str) -> Result<Described, Failure> {
        let volume = self.volume(name)?;
        let mount_point = self.layout.mount_point(name);
        let mut status = json!({
            "source": self.layout.source(name, &volume.options),
            "users": volume.users.len(),
            "purge": volume.options.purge,
        });
        match live_status(&mount_point) {
            Ok(Some(live)) => {
                status["mounted"] = true.into();
                for key in
                    ["durability", "read_only", "log", "requests", "engine", "uptime_s", "pid"]
                {
                    status[key] = live[key].clone();
                }
            }
            Ok(None) => status["mounted"] = false.into(),
            Err(failure) => status["error"] = failure.message.into(),
        }
        let created_unix_s = volume.created_unix_s;
        Ok(Described { name: name.to_owned(), mount_point, created_unix_s, status })
    }

    /// All volumes, by name, with their mount points.
    pub fn list(&self) -> Vec<(String, PathBuf)> {
        let store = self.store();
        let volumes = store.state().volumes.keys();
        volumes.map(|name| (name.clone(), self.layout.mount_point(name))).collect()
    }

    /// Ends the engine, unless somebody uses a volume: then it goes on, and the next plugin
    /// finds it.
    pub fn stop(&self) {
        self.ending.store(true, Ordering::Release);
        match self.client.list() {
            Ok(listed) if listed.volumes.is_empty() => self.client.end(),
            Ok(listed) => tracing::warn!(
                volumes = listed.volumes.len(),
                engine_pid = listed.pid,
                "volumes are in use: their engine goes on, and the next plugin takes it over"
            ),
            Err(failure) => tracing::warn!("{failure}"),
        }
    }

    // ---- bringing mounts and state together ----

    /// Mounts what has users and takes away what has none. One volume that does not work must not
    /// keep the others from working.
    fn reconcile(&self) -> Result<(), Failure> {
        let mounted = self.client.list()?.volumes;
        let wanted: Vec<String> = {
            let store = self.store();
            let used = store.state().volumes.iter().filter(|(_, volume)| !volume.users.is_empty());
            used.map(|(name, _)| name.clone()).collect()
        };
        for volume in mounted.iter().filter(|volume| !wanted.contains(&volume.name)) {
            self.take_away(volume);
        }
        for name in wanted {
            let lock = self.volume_lock(&name);
            let _turn = lock.lock().unwrap_or_else(PoisonError::into_inner);
            let Ok(volume) = self.volume(&name) else { continue };
            if volume.users.is_empty() {
                continue;
            }
            if let Err(failure) = self.mount_volume(&name, &volume) {
                tracing::error!(volume = name, "cannot mount again: {failure}");
            }
        }
        Ok(())
    }

    fn take_away(&self, volume: &MountedVolume) {
        let lock = self.volume_lock(&volume.name);
        let _turn = lock.lock().unwrap_or_else(PoisonError::into_inner);
        if self.store().volume(&volume.name).is_some_and(|volume| !volume.users.is_empty()) {
            return;
        }
        match in_use::of_device(&volume.device, &self.layout.mount_point(&volume.name)) {
            Ok(None) => {
                tracing::info!(volume = volume.name, "mounted for nobody; unmounting");
                let name = volume.name.clone();
                if let Err(failure) = self.client.ask(&Request::Unmount { name }) {
                    tracing::warn!("{failure}");
                }
            }
            Ok(Some(used)) => tracing::warn!(
                volume = volume.name,
                pid = used.pid,
                "has no known user, but this process has it mounted; left alone"
            ),
            Err(error) => tracing::warn!(%error, "cannot read the mount tables"),
        }
    }

    /// Starts the engine anew whenever it ends, as long as the plugin lives.
    fn watch_engine(self: &Arc<Self>) -> Result<(), Failure> {
        let driver = Arc::downgrade(self);
        let watch = move || {
            while let Some(driver) = driver.upgrade() {
                driver.client.wait_for_end();
                if driver.ending.load(Ordering::Acquire) {
                    return;
                }
                // An engine that dies again and again must not keep us busy.
                std::thread::sleep(RESTART_PAUSE);
                if let Err(failure) = driver.reconcile() {
                    tracing::error!("{failure}");
                    std::thread::sleep(RESTART_PAUSE_AFTER_FAILURE);
                }
            }
        };
        let thread = std::thread::Builder::new().name("lanefs-watch".into());
        let failed = |error| Failure::new(format!("cannot watch the engine: {error}"));
        thread.spawn(watch).map(drop).map_err(failed)
    }

    // ---- parts of calls ----

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn volume(&self, name: &str) -> Result<Volume, Failure> {
        let missing = || {
            Failure::new(format!(
                "no such volume: {}; `docker volume ls` lists them",
                name.escape_default()
            ))
        };
        self.store().volume(name).cloned().ok_or_else(missing)
    }

    fn volume_lock(&self, name: &str) -> Arc<Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        // Names that nobody waits for any more; callers choose them.
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(name.to_owned()).or_default())
    }

    fn mount_volume(&self, name: &str, volume: &Volume) -> Result<(), Failure> {
        let source = self.layout.source(name, &volume.options);
        if !source.is_dir() {
            return Err(Failure::new(format!(
                "the files of volume {name} are not there: {} is no directory; bring it back, or \
                 remove the volume and create it anew",
                source.display()
            )));
        }
        if volume.options.source.is_some() {
            self.check_source(name, &source, self.store().state())?;
        }
        let order = Order {
            name: name.to_owned(),
            source,
            durability: volume.options.durability.clone(),
            read_only: volume.options.read_only,
        };
        self.client.ask(&Request::Mount(order)).map(drop)
    }

    fn resolve_source(&self, source: &Path) -> Result<PathBuf, Failure> {
        let shown = source.display();
        let resolved = source.canonicalize().map_err(|error| {
            Failure::usage(format!(
                "source {shown}: {error}; create it with `mkdir -p {shown}`, or check the path"
            ))
        })?;
        if resolved.is_dir() {
            Ok(resolved)
        } else {
            Err(Failure::usage(format!("source {shown} is not a directory: name a directory")))
        }
    }

    /// Whether a named directory can be a volume: at the creation, and again at each mount,
    /// because the host's administrator may have changed something meanwhile.
    fn check_source(&self, name: &str, source: &Path, state: &State) -> Result<(), Failure> {
        if source.canonicalize().ok().as_deref() != Some(source) {
            return Err(Failure::new(format!(
                "source {} is not where it was: it has become a link, or is gone",
                source.display()
            )));
        }
        let root = self.layout.root();
        let device = |path: &Path| {
            let failed =
                |error| Failure::new(format!("cannot look at {}: {error}", path.display()));
            path.metadata().map(|stat| stat.dev()).map_err(failed)
        };
        if device(source)? != device(root)? {
            return Err(Failure::usage(format!(
                "source {} is on another filesystem than {}: one engine serves one filesystem, and \
                 fsyncs of two cannot share a flush; start a second plugin with a root there",
                source.display(),
                root.display()
            )));
        }
        layout::check_no_log(source)?;
        let others = state.volumes.iter().filter(|(other, _)| *other != name);
        let mut taken: Vec<(String, PathBuf)> = others
            .map(|(other, volume)| {
                (format!("of volume {other}"), self.layout.source(other, &volume.options))
            })
            .collect();
        taken.push(("the plugin's root".to_owned(), root.to_owned()));
        layout::check_apart(source, &taken)
    }

    fn prepare_source(
        &self,
        name: &str,
        options: &VolumeOptions,
        state: &State,
    ) -> Result<(), Failure> {
        let source = self.layout.source(name, options);
        if options.source.is_some() {
            self.check_source(name, &source, state)?;
        }
        options.durability()?;
        let failed = |error: std::io::Error| {
            Failure::new(format!("cannot make {}: {error}", source.display()))
        };
        let made = match std::fs::DirBuilder::new().mode(MODE_DEFAULT).create(&source) {
            Ok(()) => true,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(failed(error)),
        };
        // A link in the place of the directory would lead to files of others.
        if !source.symlink_metadata().map_err(failed)?.is_dir() {
            return Err(Failure::new(format!("{} is not a directory", source.display())));
        }
        let prepare = || {
            if options.uid.is_some() || options.gid.is_some() {
                chown(&source, options.uid, options.gid).map_err(failed)?;
            }
            // After chown, which takes set-id bits away. A new one: whatever our umask is.
            if let Some(mode) = options.mode.or(made.then_some(MODE_DEFAULT)) {
                let permissions = std::fs::Permissions::from_mode(mode);
                std::fs::set_permissions(&source, permissions).map_err(failed)?;
            }
            if let Some(bytes) = options.size_bytes {
                limit_size(&source, bytes)?;
            }
            File::open(&source).and_then(|directory| directory.sync_all()).map_err(failed)?;
            let parent = source.parent().expect("it is not the root directory");
            File::open(parent).and_then(|directory| directory.sync_all()).map_err(failed)
        };
        prepare().inspect_err(|_| {
            if made {
                let _ = std::fs::remove_dir(&source);
            }
        })
    }

    /// Whether nobody uses a volume. Users that the state knows and the kernel does not are what
    /// engines that were killed have left.
    fn check_unused(&self, name: &str, volume: &Volume) -> Result<(), Failure> {
        if let Some((user, _)) = volume.users.iter().find(|(_, user)| user.age() < USER_AGE_MIN) {
            return Err(Failure::new(format!(
                "volume {name} is in use: it was mounted a moment ago for {}; stop the container",
                short(user)
            )));
        }
        let mount_point = self.layout.mount_point(name);
        let failed = |error| Failure::new(format!("cannot read the mount tables: {error}"));
        let Some(mount) = mounts::at(&mount_point).map_err(failed)? else { return Ok(()) };
        if let Some(used) = in_use::of_device(&mount.device, &mount_point).map_err(failed)? {
            return Err(Failure::new(format!(
                "volume {name} is in use: process {} has it mounted at {}; stop the container",
                used.pid,
                used.place.display()
            )));
        }
        if in_use::is_busy(&mount_point) {
            return Err(Failure::new(format!(
                "volume {name} is in use: programs have files open in {} (`fuser -vm` lists them)",
                mount_point.display()
            )));
        }
        if !volume.users.is_empty() {
            tracing::warn!(volume = name, users = volume.users.len(), "had users that are gone");
        }
        Ok(())
    }
}

/// Limits what a volume may hold.
fn limit_size(source: &Path, bytes: u64) -> Result<(), Failure> {
    fs_core::platform::linux::limit_directory(source, bytes).map_err(|error| {
        Failure::new(format!(
            "size: the filesystem of {} keeps no project quotas ({error}): on ext4 `tune2fs -O \
             project,quota` and the mount option prjquota, on XFS the mount option prjquota; or \
             leave size out",
            source.display()
        ))
    })
}

/// The status of a mount; `None` if nothing is mounted.
fn live_status(mount_point: &Path) -> Result<Option<Value>, Failure> {
    let failed = |error| Failure::new(format!("cannot read the mount table: {error}"));
    let Some(mount) = mounts::at(mount_point).map_err(failed)? else { return Ok(None) };
    if mount.filesystem != mounts::FILESYSTEM_TYPE {
        return Ok(None);
    }
    match control::ask(&mount, &control::Request::Status)? {
        Some(control::Response::Status { status }) => Ok(Some(status)),
        _ => Err(Failure::new("the engine has just died; it is being started anew")),
    }
}

/// Ids of engines have 64 digits.
fn short(user: &str) -> &str {
    user.get(..12).unwrap_or(user)
}
