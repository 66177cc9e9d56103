//! Mount options: the words after `-o`.

use std::path::PathBuf;
use std::time::Duration;

use commands::values::number;
pub use commands::values::{durability, log_bytes};
use fs_core::lane::LaneConfig;
use fs_core::lane::policy::PolicyConfig;
use fs_core::log::LogConfig;
use fs_core::log::format::LOG_BYTES_DEFAULT;
use fs_core::platform::linux::{FenceMechanism, running_as_root};

use crate::config::{Flags, commit_interval};
use crate::failure::Failure;
use crate::ring::Transport;

/// Workers that read requests. At most one of them leads a group; the others
/// keep the mount answering.
pub const WORKERS_DEFAULT: usize = 4;
/// Fewest workers: the leader and two others.
const WORKERS_MIN: usize = 3;
/// Most workers: each has a request buffer of 16 MiB of address space.
const WORKERS_MAX: usize = 64;

/// What makes groups durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceChoice {
    /// The log where it is safe and pays.
    Auto,
    /// The log, or no mount.
    Log,
    /// The backing directory.
    Backing,
}

/// All settings of a mount.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// Refuse changes.
    pub read_only: bool,
    /// Let users other than the mounting one in.
    pub allow_other: bool,
    /// The kernel checks permissions by mode, owner and ACL.
    pub default_permissions: bool,
    /// Device nodes work.
    pub dev: bool,
    /// Set-user-id bits work.
    pub suid: bool,
    /// Programs can be run.
    pub exec: bool,
    /// Access times are left alone.
    pub no_atime: bool,
    /// The mount point may hold files; they are hidden while mounted.
    pub nonempty: bool,
    /// Name shown as the source in /proc/mounts; the backing directory if none.
    pub fsname: Option<String>,
    /// How long the kernel may use attributes without asking.
    pub attr_timeout: Duration,
    /// How long the kernel may use names without asking.
    pub entry_timeout: Duration,
    /// Reads and writes go straight to the backing files where the kernel can.
    pub passthrough: bool,
    /// How requests come.
    pub transport: Transport,
    /// Threads that answer requests.
    pub workers: usize,
    /// Pin known objects by descriptors instead of using file handles.
    pub pin_objects: bool,
    /// What flags say about durability.
    pub durability: Flags,
    /// The file with settings of mounts, if it is not the usual one.
    pub config: Option<PathBuf>,
    /// What makes groups durable.
    pub fence: FenceChoice,
    /// A log outside of the backing directory.
    pub log: Option<PathBuf>,
    /// Size of a log in the backing directory, in bytes.
    pub log_bytes: u64,
    /// The backing directory is made durable at least that long after a group.
    pub checkpoint_interval: Duration,
    /// How the backing directory syncs a group of several files.
    pub mechanism: FenceMechanism,
    /// Syncs that take longer are told of and counted; `None`: none are.
    pub slow_sync: Option<Duration>,
    /// A planted bug, for tests of tests: one sync in this many is answered
    /// without being made. Not in the help text, and loud.
    pub lie_one_in: Option<u64>,
    /// Failures on purpose can be asked for.
    pub faults: bool,
    /// A fixed waiting time for groups instead of the adaptive rule.
    pub window: Option<Duration>,
    /// Most sync requests in a group.
    pub group_ops_max: usize,
    /// Most sync requests parked.
    pub queue_ops_max: usize,
}

impl Default for MountOptions {
    fn default() -> Self {
        let (policy, lanes) = (PolicyConfig::default(), LaneConfig::default());
        Self {
            read_only: false,
            allow_other: false,
            default_permissions: running_as_root(),
            dev: false,
            suid: false,
            exec: true,
            no_atime: false,
            nonempty: false,
            fsname: None,
            attr_timeout: Duration::from_secs(1),
            entry_timeout: Duration::from_secs(1),
            passthrough: true,
            transport: Transport::Auto,
            workers: WORKERS_DEFAULT,
            pin_objects: false,
            durability: Flags::default(),
            config: None,
            fence: FenceChoice::Auto,
            log: None,
            log_bytes: LOG_BYTES_DEFAULT,
            checkpoint_interval: LogConfig::default().checkpoint_interval,
            mechanism: FenceMechanism::Auto,
            slow_sync: Some(Duration::from_secs(1)),
            lie_one_in: None,
            faults: false,
            window: None,
            group_ops_max: policy.group_ops_max,
            queue_ops_max: lanes.queue_ops_max,
        }
    }
}

/// Every option with its help line, for `lanefs mount --help`.
pub const OPTIONS_HELP: &str = "\
Options for -o (several: comma-separated, or -o again):
  ro, rw                 refuse changes / allow them (default rw)
  allow_other            let other users in (default: only who mounted)
  default_permissions    the kernel checks permissions (default when root)
  no_default_permissions the mount does not check; only without allow_other
  dev, nodev             device nodes work / do not (default nodev)
  suid, nosuid           set-user-id bits work / do not (default nosuid)
  exec, noexec           programs can be run / cannot (default exec)
  noatime, atime         leave access times alone (default: as the backing mount)
  nonempty               mount over a directory that holds files
  fsname=NAME            source shown in /proc/mounts (default: BACKING)
  attr_timeout=SECONDS   how long the kernel may trust attributes (default 1)
  entry_timeout=SECONDS  how long the kernel may trust names (default 1)
  passthrough, no_passthrough
                         reads and writes straight to the backing files
                         (default: where kernel and privilege allow it)
  transport=auto|ring|classic
                         how requests come: by io_uring, one ring for each processor,
                         which costs less processor time (needs Linux 6.14 and, as root,
                         `echo Y > /sys/module/fuse/parameters/enable_uring`), or by
                         /dev/fuse (default auto: ring where the kernel offers it)
  workers=N              threads that answer requests, 3 to 64 (default 4); with
                         transport=ring those that may wait for the disk
  handles, no_handles    know files by handle / pin each by a descriptor
                         (default: handles where privilege allows it)
  durability=fsync|close|always|relaxed:MS
                         what is durable when a call returns: what it asks for; also a
                         written file at close and each change of names; every change;
                         or nothing, but what was asked for MS milliseconds later
                         (default fsync)
  commit_interval=TIME   commit what was applied about so often although nobody asks,
                         10ms to 3600s, 0 for never (default 1s)
  config=FILE            settings of mounts, in place of /etc/lanefs.toml
  fence=auto|log|backing what makes a group durable: one write to the log (where the
                         backing filesystem allows it), or syncing the backing
                         directory (default auto)
  log=PATH               a log in a file or on a device outside of BACKING, made by
                         `lanefs log format` (default: in BACKING/.lanefs)
  log_size=SIZE          size of a log in BACKING, from 4M (default 64M)
  checkpoint_ms=N        make the backing directory durable N ms after a group at the
                         latest, 10 to 3600000 (default 5000)
  sync_by=auto|uring|threads
                         how the backing directory syncs a group: one journal
                         commit where possible (auto), or each file in parallel
  faults                 record the mount, so that `lanefs fault` can make operations fail and
                         the power go; for tests of programs: slow, all in memory, no log
  window_us=N            wait a fixed time for a group, 0 to 1000000, instead of
                         only for writers that are about to return
  slow_sync_ms=N         warn of syncs that take longer, with the process that waited, and
                         count them, 0 (never) to 3600000 (default 1000)
  group_ops_max=N        most sync requests in one group (default 4096)
  queue_ops_max=N        most sync requests parked; more are carried out one by
                         one (default 65536)
Ignored, for fstab: defaults, auto, noauto, nofail, _netdev, async, relatime, norelatime,
                    user, users, owner, group, their no..., comment=, x-*
Ignored, for remount: user_id=, group_id=";

/// Words that mount(8) passes on or fstab(5) has, and that ask nothing of us.
const IGNORED: &[&str] = &[
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "async",
    "relatime",
    "norelatime",
    "user",
    "users",
    "nouser",
    "nousers",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "comment",
    "user_id",
    "group_id",
];

impl MountOptions {
    /// Takes in the words of one `-o`.
    ///
    /// # Errors
    /// An unknown word, or a value out of its range, with what would be right.
    pub fn apply(&mut self, words: &str) -> Result<(), Failure> {
        for word in words.split(',').filter(|word| !word.is_empty()) {
            self.apply_word(word)?;
        }
        Ok(())
    }

    /// Checks what single words cannot tell.
    ///
    /// # Errors
    /// Options that contradict each other.
    pub fn check(&self) -> Result<(), Failure> {
        if self.faults && (self.read_only || self.fence == FenceChoice::Log || self.log.is_some()) {
            return Err(Failure::usage(
                "faults cannot be combined with ro, fence=log or log=PATH: a mount that fails on \
                 purpose keeps no log",
            ));
        }
        if self.allow_other && !self.default_permissions {
            return Err(Failure::usage(
                "allow_other without default_permissions would let every user do everything: \
                 add `-o default_permissions`, or drop allow_other",
            ));
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
        LaneConfig { policy, queue_ops_max: self.queue_ops_max, lie_one_in: self.lie_one_in }
    }

    fn apply_word(&mut self, word: &str) -> Result<(), Failure> {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        match (name, value) {
            ("ro", None) => self.read_only = true,
            ("rw", None) => self.read_only = false,
            ("allow_other", None) => self.allow_other = true,
            ("default_permissions", None) => self.default_permissions = true,
            ("no_default_permissions", None) => self.default_permissions = false,
            ("dev", None) => self.dev = true,
            ("nodev", None) => self.dev = false,
            ("suid", None) => self.suid = true,
            ("nosuid", None) => self.suid = false,
            ("exec", None) => self.exec = true,
            ("noexec", None) => self.exec = false,
            ("noatime", None) => self.no_atime = true,
            ("atime", None) => self.no_atime = false,
            ("nonempty", None) => self.nonempty = true,
            ("passthrough", None) => self.passthrough = true,
            ("no_passthrough", None) => self.passthrough = false,
            ("handles", None) => self.pin_objects = false,
            ("no_handles", None) => self.pin_objects = true,
            ("fsname", Some(value)) => self.fsname = Some(value.to_owned()),
            ("attr_timeout", Some(value)) => self.attr_timeout = seconds(name, value)?,
            ("entry_timeout", Some(value)) => self.entry_timeout = seconds(name, value)?,
            ("workers", Some(value)) => {
                self.workers = number(name, value, WORKERS_MIN, WORKERS_MAX)?;
            }
            ("transport", Some("auto")) => self.transport = Transport::Auto,
            ("transport", Some("ring")) => self.transport = Transport::Ring,
            ("transport", Some("classic")) => self.transport = Transport::Classic,
            ("durability", Some(value)) => self.durability.durability = Some(durability(value)?),
            ("commit_interval", Some(value)) => {
                self.durability.commit_interval = Some(commit_interval(value)?);
            }
            ("fence", Some("auto")) => self.fence = FenceChoice::Auto,
            ("fence", Some("log")) => self.fence = FenceChoice::Log,
            ("fence", Some("backing")) => self.fence = FenceChoice::Backing,
            ("log", Some(value)) => self.log = Some(absolute(name, value)?),
            ("config", Some(value)) => self.config = Some(absolute(name, value)?),
            ("log_size", Some(value)) => self.log_bytes = log_bytes(value)?,
            ("checkpoint_ms", Some(value)) => {
                let ms = number(name, value, 10, 3_600_000)?;
                self.checkpoint_interval = Duration::from_millis(ms as u64);
            }
            ("sync_by", Some("auto")) => self.mechanism = FenceMechanism::Auto,
            ("sync_by", Some("uring")) => self.mechanism = FenceMechanism::Uring,
            ("sync_by", Some("threads")) => self.mechanism = FenceMechanism::Threads,
            ("slow_sync_ms", Some(value)) => {
                let ms = number(name, value, 0, 3_600_000)?;
                self.slow_sync = (ms > 0).then(|| Duration::from_millis(ms as u64));
            }
            ("test_lie_one_in", Some(value)) => {
                self.lie_one_in = Some(number(name, value, 1, 1_000_000)? as u64);
            }
            ("faults", None) => self.faults = true,
            ("window_us", Some(value)) => {
                let window_us = number(name, value, 0, 1_000_000)?;
                self.window = Some(Duration::from_micros(window_us as u64));
            }
            ("group_ops_max", Some(value)) => {
                self.group_ops_max = number(name, value, 1, 65_536)?;
            }
            ("queue_ops_max", Some(value)) => {
                self.queue_ops_max = number(name, value, 1, 1_048_576)?;
            }
            (name, value) => return unknown(name, value),
        }
        Ok(())
    }
}

/// The daemon leaves the current directory, so the path must not depend on it.
fn absolute(name: &str, value: &str) -> Result<PathBuf, Failure> {
    std::path::absolute(value)
        .map_err(|error| Failure::usage(format!("{name}={value} is no path: {error}")))
}

fn unknown(name: &str, value: Option<&str>) -> Result<(), Failure> {
    if IGNORED.contains(&name) || name.starts_with("x-") || name.starts_with("X-") {
        return Ok(());
    }
    let word = value.map_or_else(|| name.to_owned(), |value| format!("{name}={value}"));
    let help = "`lanefs mount --help` lists the options and their values";
    let form = forms().find(|form| name_of(form) == name);
    Err(Failure::usage(match (form, nearest(name)) {
        (Some(form), _) => format!("mount option `{word}`: write `{form}`; {help}"),
        (None, Some(form)) => format!("unknown mount option `{word}`: is it `{form}`? {help}"),
        (None, None) => format!("unknown mount option `{word}`: {help}"),
    }))
}

/// The options as the help text writes them: `ro`, `workers=N`, `fence=auto|log|backing`.
fn forms() -> impl Iterator<Item = &'static str> {
    let entries = OPTIONS_HELP.lines().filter_map(|line| {
        let entry = line.strip_prefix("  ").filter(|entry| !entry.starts_with(' '))?;
        // Two options of one entry have a comma between them, and a blank follows it.
        let end = entry.replace(", ", ",_").find(' ').unwrap_or(entry.len());
        entry.get(..end)
    });
    entries.flat_map(|entry| entry.split(", "))
}

fn name_of(form: &str) -> &str {
    form.split_once('=').map_or(form, |(name, _)| name)
}

/// What somebody may have meant.
fn nearest(name: &str) -> Option<&'static str> {
    const SIMILAR_MIN: f64 = 0.84;
    match name {
        // What these promise elsewhere.
        "sync" | "dirsync" => return Some("durability=always"),
        "readonly" | "read_only" => return Some("ro"),
        _ => {}
    }
    let similar = |form| (strsim::jaro_winkler(name_of(form), name), form);
    let similar = forms().map(similar).filter(|(likeness, _)| *likeness >= SIMILAR_MIN);
    similar.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, form)| form)
}

fn seconds(name: &str, value: &str) -> Result<Duration, Failure> {
    const SECONDS_MAX: f64 = 86_400.0;
    match value.parse::<f64>() {
        Ok(seconds) if (0.0..=SECONDS_MAX).contains(&seconds) => {
            Ok(Duration::from_secs_f64(seconds))
        }
        _ => Err(Failure::usage(format!(
            "mount option {name}={value}: give seconds from 0 to {SECONDS_MAX}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<MountOptions, Failure> {
        let mut options = MountOptions::default();
        options.apply(words)?;
        options.check()?;
        Ok(options)
    }

    #[test]
    fn words_are_taken_in_order() {
        let options = parse("ro,dev,suid,rw,attr_timeout=0.5,fsname=a=b,workers=8").unwrap();
        assert!(!options.read_only && options.dev && options.suid);
        assert_eq!(options.attr_timeout, Duration::from_millis(500));
        assert_eq!(options.fsname.as_deref(), Some("a=b"));
        assert_eq!(options.workers, 8);
    }

    #[test]
    fn fstab_words_are_ignored() {
        assert!(
            parse(
                "defaults,noauto,_netdev,users,user=joe,comment=a,x-systemd.automount,x-a=b,X-c,,"
            )
            .is_ok()
        );
    }

    #[test]
    fn the_help_text_has_every_option_in_a_form_that_is_read() {
        let forms: Vec<_> = forms().collect();
        for form in ["ro", "rw", "no_passthrough", "workers=N", "fence=auto|log|backing"] {
            assert!(forms.contains(&form), "{form} not in {forms:?}");
        }
        for form in forms {
            let Err(failure) = parse(form) else { continue };
            // A placeholder is no value, but the option is known.
            assert!(form.contains('='), "{form}: {failure}");
            assert!(!failure.message.contains("unknown"), "{form}: {failure}");
        }
    }

    #[test]
    fn mistakes_name_the_nearest_option() {
        for (word, form) in [
            ("allowother", "`allow_other`"),
            ("no_atime", "`noatime`"),
            ("durabilty=close", "`durability=fsync|close|always|relaxed:MS`"),
            ("commit-interval=1s", "`commit_interval=TIME`"),
            ("sync", "`durability=always`"),
            ("fence=magic", "`fence=auto|log|backing`"),
            ("workers", "`workers=N`"),
            ("ro=1", "`ro`"),
        ] {
            let failure = parse(word).expect_err(word);
            assert!(failure.message.contains(form), "{word}: {failure}");
            assert!(failure.message.contains(word), "{word}: {failure}");
        }
        let failure = parse("zzz").expect_err("no option");
        assert!(!failure.message.contains("is it"), "nothing is near: {failure}");
    }

    #[test]
    fn mistakes_name_the_option_and_the_remedy() {
        for (words, must_name) in [
            ("allowother", "allowother"),
            ("workers=1", "from 3 to 64"),
            ("workers=many", "workers=many"),
            ("attr_timeout=-1", "from 0 to"),
            ("fence=magic", "fence=magic"),
            ("transport=pigeon", "transport=pigeon"),
            ("ro=1", "ro=1"),
            ("default_permissions,allow_other,no_default_permissions", "default_permissions"),
        ] {
            let failure = parse(words).expect_err(words);
            assert_eq!(failure.exit_code, crate::failure::EXIT_USAGE, "{words}");
            assert!(failure.message.contains(must_name), "{words}: {failure}");
        }
    }
}
