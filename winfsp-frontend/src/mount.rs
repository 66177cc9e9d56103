//! A mount's life: options, engine, WinFsp's dispatcher, end.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use commands::config::{Flags, Settings, commit_interval};
use commands::failure::Failure;
use commands::values::{durability, number};
use fs_core::engine::{Engine, EngineConfig};
use fs_core::lane::policy::PolicyConfig;
use fs_core::lane::{Duty, LaneConfig};
use fs_core::platform::Backing;
use fs_core::platform::windows::{BackingOptions, WindowsBacking};
use winfsp::host::{FileSystemHost, FileSystemParams, VolumeParams};

use crate::control::{ControlServer, Status};
use crate::skin::{MountedTree, Skin};

/// Threads of WinFsp's dispatcher. WinFsp takes the answer of a flush from its callback only, so
/// each program that waits for its flush holds one: with fewer threads than programs that sync, groups
/// would be smaller than they could be, and others' requests would wait for the disk. A thread that
/// waits costs its stack (the system commits what is touched: some ten KiB).
pub const THREADS_DEFAULT: usize = 64;
/// Fewest: two that wait for the disk, two for everybody else.
const THREADS_MIN: usize = 4;
const THREADS_MAX: usize = 512;

/// How long the driver may use attributes without asking: others may change the backing directory.
const INFO_TIMEOUT_MS: u32 = 1000;
/// How long the end of a mount waits for what is under way.
const END_TIME_MAX: Duration = Duration::from_secs(600);

/// Options, for `lanefs mount --help`.
pub const OPTIONS_HELP: &str = "\
Options for -o (several: comma-separated, or -o again):
  ro, rw                 refuse changes / allow them (default rw)
  durability=fsync|close|always|relaxed:MS
                         what is durable when a call returns (default fsync)
  commit_interval=TIME   commit what was applied about so often although nobody asks,
                         10ms to 3600s, 0 for never (default 1s)
  fence=auto|backing     what makes a group durable; on Windows there is only backing:
                         a flush of each file and directory
  threads=N              threads of WinFsp's dispatcher, 4 to 512 (default 64); each program
                         that waits for a flush holds one
  label=NAME             label of the volume (default lanefs)
  window_us=N            wait a fixed time for a group, 0 to 1000000, instead of
                         only for writers that are about to return
  group_ops_max=N        most sync requests in one group (default 4096)
  queue_ops_max=N        most sync requests parked (default 65536)";

/// All settings of a mount.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// Refuse changes.
    pub read_only: bool,
    /// What flags say about durability.
    pub durability: Flags,
    /// Threads of the dispatcher.
    pub threads: usize,
    /// Label of the volume.
    pub label: String,
    /// A fixed waiting time for groups instead of the adaptive rule.
    pub window: Option<Duration>,
    /// Most sync requests in a group.
    pub group_ops_max: usize,
    /// Most sync requests parked.
    pub queue_ops_max: usize,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            durability: Flags::default(),
            threads: THREADS_DEFAULT,
            label: "lanefs".to_owned(),
            window: None,
            group_ops_max: PolicyConfig::default().group_ops_max,
            queue_ops_max: LaneConfig::default().queue_ops_max,
        }
    }
}

impl MountOptions {
    /// Takes in the words of one `-o`.
    ///
    /// # Errors
    /// An unknown word, or a value out of its range, with what would be right.
    pub fn apply(&mut self, words: &str) -> Result<(), Failure> {
        for word in words.split(',').filter(|word| !word.is_empty()) {
            match word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value))) {
                ("ro", None) => self.read_only = true,
                ("rw", None) => self.read_only = false,
                ("durability", Some(value)) => {
                    self.durability.durability = Some(durability(value)?);
                }
                ("commit_interval", Some(value)) => {
                    self.durability.commit_interval = Some(commit_interval(value)?);
                }
                ("fence", Some("auto" | "backing")) => {}
                ("fence", Some("log")) => {
                    return Err(Failure::usage(
                        "fence=log: no log can be kept on Windows: which changes of names survive \
                         a power cut in which order is not documented for NTFS; leave it out",
                    ));
                }
                (name @ "threads", Some(value)) => {
                    self.threads = number(name, value, THREADS_MIN, THREADS_MAX)?;
                }
                // The volume's information has room for so many units.
                ("label", Some(value)) if (1..=32).contains(&value.encode_utf16().count()) => {
                    self.label = value.to_owned();
                }
                (name @ "window_us", Some(value)) => {
                    let window_us = number(name, value, 0, 1_000_000)?;
                    self.window = Some(Duration::from_micros(window_us as u64));
                }
                (name @ "group_ops_max", Some(value)) => {
                    self.group_ops_max = number(name, value, 1, 65_536)?;
                }
                (name @ "queue_ops_max", Some(value)) => {
                    self.queue_ops_max = number(name, value, 1, 1_048_576)?;
                }
                _ => {
                    return Err(Failure::usage(format!(
                        "unknown mount option `{word}`: `lanefs mount --help` lists the options \
                         and their values"
                    )));
                }
            }
        }
        Ok(())
    }

    /// What the lanes need of it.
    #[must_use]
    pub fn lanes(&self) -> LaneConfig {
        let policy = PolicyConfig {
            group_ops_max: self.group_ops_max,
            window_ns: self.window.map(|w| u64::try_from(w.as_nanos()).unwrap_or(u64::MAX)),
            ..PolicyConfig::default()
        };
        LaneConfig { policy, queue_ops_max: self.queue_ops_max, ..LaneConfig::default() }
    }
}

/// What is to be mounted, where, and how.
#[derive(Debug, Clone)]
pub struct MountPlan {
    /// The directory that holds the files.
    pub backing: PathBuf,
    /// A drive (`X:`), or a directory that does not exist yet.
    pub mount_point: PathBuf,
    /// What is durable when.
    pub settings: Settings,
    /// Everything else.
    pub options: MountOptions,
}

impl MountPlan {
    /// With defaults.
    #[must_use]
    pub fn plain(backing: &Path, mount_point: &Path) -> Self {
        Self {
            backing: backing.to_owned(),
            mount_point: mount_point.to_owned(),
            settings: Settings::default(),
            options: MountOptions::default(),
        }
    }
}

/// What ends a mount.
pub enum Event {
    /// `lanefs umount`; the answer is given when everything is durable.
    Unmount(Sender<Result<(), Failure>>),
    /// Ctrl-C, or the end of the session; as above.
    Ended(Sender<()>),
}

/// A tree with its engine, and why the engine has no log.
pub struct Served {
    /// The tree.
    pub tree: Arc<MountedTree>,
    /// Why no log is kept.
    pub no_log: String,
}

/// Opens the backing directory and makes its engine; groups are led by a thread of their own.
///
/// # Errors
/// The directory cannot be opened, or no thread started.
pub fn serve_directory(plan: &MountPlan) -> Result<Served, Failure> {
    let options = BackingOptions { read_only: plan.options.read_only };
    let backing = WindowsBacking::open(&plan.backing, options)
        .map_err(|error| Failure::new(error.to_string()))?;
    let backing = Arc::new(backing);
    let no_log = backing.log_obstacle().unwrap_or_default();
    let lanes = plan.options.lanes();
    let config = EngineConfig { lanes, commit_interval: plan.settings.commit_interval };
    let engine = Engine::new(&*backing, config);
    let committer = start_committer()
        .map_err(|error| Failure::new(format!("cannot start a thread: {error}")))?;
    engine.lead_elsewhere(Box::new(move |duty| {
        // Only to lead: what a full queue has no room for is the thread's own affair, which
        // waits for it anyway. A duty that nobody takes any more is done when it is dropped.
        if duty.is_to_lead() {
            drop(committer.send(duty));
        } else {
            duty.run(&mut || {});
        }
    }));
    let tree = engine.add_tree(backing).map_err(|error| {
        Failure::new(format!("cannot serve {}: {error}", plan.backing.display()))
    })?;
    tree.set_policy(plan.settings.policy.clone());
    Ok(Served { tree, no_log })
}

/// The thread that leads groups: a thread of the dispatcher that led would answer its own flush
/// only when nobody else syncs any more.
fn start_committer() -> std::io::Result<Sender<Duty<WindowsBacking>>> {
    let (sender, duties) = channel::<Duty<WindowsBacking>>();
    let work = move || {
        for duty in duties {
            duty.run(&mut || {});
        }
    };
    std::thread::Builder::new().name("lanefs-commit".into()).spawn(work)?;
    Ok(sender)
}

/// What the driver is told of the volume.
fn volume_params(plan: &MountPlan) -> VolumeParams {
    let mut params = VolumeParams::new();
    params
        .filesystem_name("lanefs")
        .sector_size(512)
        .sectors_per_allocation_unit(8)
        .max_component_length(255)
        .volume_serial_number(std::process::id())
        .file_info_timeout(INFO_TIMEOUT_MS)
        .dir_info_timeout(INFO_TIMEOUT_MS)
        .volume_info_timeout(INFO_TIMEOUT_MS)
        .security_timeout(INFO_TIMEOUT_MS)
        .case_sensitive_search(false)
        .case_preserved_names(true)
        .unicode_on_disk(true)
        .persistent_acls(true)
        .reparse_points(true)
        .reparse_points_access_check(false)
        // A name with a colon is refused.
        .named_streams(false)
        .extended_attributes(true)
        .read_only_volume(plan.options.read_only)
        .pass_query_directory_pattern(true)
        .supports_posix_unlink_rename(true)
        .post_disposition_only_when_necessary(false)
        // What was written before a handle is closed may be cached by the driver otherwise.
        .flush_and_purge_on_cleanup(true);
    params
}

/// A mount that answers.
pub struct Mount {
    host: FileSystemHost<Skin>,
    tree: Arc<MountedTree>,
    control: ControlServer,
    events: Receiver<Event>,
}

impl Mount {
    /// Mounts.
    ///
    /// # Errors
    /// WinFsp is not installed, or refuses; the directory cannot be served.
    pub fn start(plan: MountPlan) -> Result<Self, Failure> {
        winfsp::winfsp_init().map_err(|_| {
            Failure::new(
                "WinFsp is not installed, and lanefs mounts through it: install it from \
                 https://winfsp.dev (2.0 or later), then try again",
            )
        })?;
        let Served { tree, no_log } = serve_directory(&plan)?;
        let counters = Arc::default();
        let skin = Skin::new(Arc::clone(&tree), Arc::clone(&counters), plan.options.label.clone());
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Failure::new(format!(
                "WinFsp cannot {what} {}: {error}; is its driver running (`sc query WinFsp`), and \
                 is the place free?",
                plan.mount_point.display()
            ))
        };
        let params = FileSystemParams::default_params(volume_params(&plan));
        let mut host = FileSystemHost::<Skin>::new_with_options(params, skin)
            .map_err(|error| failed("make a volume for", &error))?;
        host.mount(plan.mount_point.as_os_str()).map_err(|error| failed("mount", &error))?;
        host.start_with_threads(plan.options.threads as u32)
            .map_err(|error| failed("start the dispatcher of", &error))?;
        let (sender, events) = channel();
        let status = Status {
            settings: Mutex::new(plan.settings.clone()),
            tree: Arc::clone(&tree),
            counters,
            no_log,
            started: Instant::now(),
            plan,
        };
        let control = ControlServer::start(status, sender.clone())?;
        let end = Box::new(move || {
            let (answer, ended) = channel();
            if sender.send(Event::Ended(answer)).is_ok() {
                let _ = ended.recv_timeout(END_TIME_MAX);
            }
        });
        crate::system::on_end(end)
            .map_err(|error| Failure::new(format!("cannot wait for Ctrl-C: {error}")))?;
        Ok(Self { host, tree, control, events })
    }

    /// Serves until it is told to end; then makes everything durable.
    ///
    /// # Errors
    /// Something could not be made durable.
    pub fn serve(self) -> Result<(), Failure> {
        let Self { mut host, tree, control, events } = self;
        let event = events.recv();
        control.stop();
        host.unmount();
        host.stop();
        let closed = tree.engine().close(END_TIME_MAX).map_err(|error| {
            Failure::new(format!("not everything could be made durable at the end: {error}"))
        });
        tree.backing().release_lock();
        match event {
            Ok(Event::Unmount(answer)) => drop(answer.send(closed.clone())),
            Ok(Event::Ended(answer)) => drop(answer.send(())),
            Err(_) => {}
        }
        // The answer travels through another thread.
        std::thread::sleep(Duration::from_millis(100));
        closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        let mut options = MountOptions::default();
        options.apply("ro,threads=8,label=Data,durability=close,window_us=5").expect("good words");
        assert!(options.read_only);
        assert_eq!((options.threads, options.label.as_str()), (8, "Data"));
        assert_eq!(options.lanes().policy.window_ns, Some(5000));
        for (word, hint) in [
            ("threads=3", "from 4 to 512"),
            ("fence=log", "no log can be kept on Windows"),
            ("allow_other", "unknown mount option"),
            ("durability=never", "give fsync"),
        ] {
            let error = MountOptions::default().apply(word).expect_err(word);
            assert!(error.message.contains(hint), "{word}: {error}");
        }
    }
}
