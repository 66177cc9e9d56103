//! What a daemon leaves to the one that replaces it: descriptors by number, and JSON that
//! says what they are, in a file in memory.
//!
//! The format has one version number. Fields may be added without raising it if the
//! daemons that do not write them are served by a default.

use std::ffi::OsString;
use std::io::{Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_core::durability::{Policy, Rule};
use fs_core::engine::TreeRecord;
use fs_core::platform::linux::Inherited;
use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};

use super::STATE_VARIABLE;
use crate::config::{Settings, Source};
use crate::failure::Failure;
use crate::skin::PassthroughRecord;

/// Version of the format: raised when a successor must know of a change.
pub const STATE_VERSION: u32 = 1;

/// A mount that goes on in another program.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// [`STATE_VERSION`].
    pub version: u32,
    /// Version of lanefs that wrote it.
    pub written_by: String,
    /// How often the daemon has been replaced, this time included.
    pub restarts: u64,
    /// When the mount was made, in seconds since 1970.
    pub mounted_at: u64,
    /// When it stopped answering, in nanoseconds of the monotonic clock.
    pub paused_at: u64,
    /// A signal that came too late for the daemon that wrote this.
    pub signal: Option<i32>,
    /// Where the arguments' relative paths begin.
    pub directory: Bytes,
    /// The directory that holds the files.
    pub backing: Bytes,
    /// Where it appears.
    pub mount_point: Bytes,
    /// Device number of the mount.
    pub device_number: String,
    /// The kernel's connection.
    pub device: RawFd,
    /// The backing directory.
    pub root: RawFd,
    /// The backing directory by the mount that it was named by.
    pub original: RawFd,
    /// Connection of who asked for the restart.
    pub asker: Option<RawFd>,
    /// What is durable when.
    pub settings: SettingsRecord,
    /// How much is written of what happens, if `lanefs set` has said so.
    pub log_level: Option<String>,
    /// Which inodes the kernel reads and writes by itself.
    pub passthrough: PassthroughRecord,
    /// Requests so far, by kind.
    pub requests: Vec<(String, u64)>,
    /// Nodes and open files.
    pub tree: TreeRecord<RawFd>,
}

/// A path or a name, which need not be text.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bytes(Vec<u8>);

impl From<&Path> for Bytes {
    fn from(path: &Path) -> Self {
        Self(path.as_os_str().as_bytes().to_owned())
    }
}

impl From<Bytes> for PathBuf {
    fn from(bytes: Bytes) -> Self {
        Self::from(OsString::from_vec(bytes.0))
    }
}

/// [`Settings`], which `lanefs set` may have changed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SettingsRecord {
    mode: String,
    mode_from: String,
    rules: Vec<(String, String)>,
    commit_interval_ms: Option<u64>,
    commit_interval_from: String,
    file: Option<Bytes>,
}

impl From<&Settings> for SettingsRecord {
    fn from(settings: &Settings) -> Self {
        let rule = |rule: &Rule| (rule.pattern.clone(), rule.durability.to_string());
        Self {
            mode: settings.policy.default_mode().to_string(),
            mode_from: settings.policy_from.word().to_owned(),
            rules: settings.policy.rules().iter().map(rule).collect(),
            commit_interval_ms: settings.commit_interval.map(|time| time.as_millis() as u64),
            commit_interval_from: settings.commit_interval_from.word().to_owned(),
            file: settings.file.as_deref().map(Bytes::from),
        }
    }
}

impl SettingsRecord {
    /// The settings again.
    ///
    /// # Errors
    /// A mode or a pattern is none of this version's.
    pub fn settings(self) -> Result<Settings, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::new(format!("settings: {error}"));
        let source = |word: &str| {
            Source::from_word(word).ok_or_else(|| failed(&format!("{word} is no source")))
        };
        let mode = self.mode.parse().map_err(|error| failed(&error))?;
        let rules = self.rules.into_iter().map(|(pattern, durability)| {
            let durability = durability.parse().map_err(|error| failed(&error))?;
            Ok(Rule { pattern, durability })
        });
        let rules = rules.collect::<Result<_, Failure>>()?;
        Ok(Settings {
            policy: Policy::new(mode, rules).map_err(|error| failed(&error))?,
            policy_from: source(&self.mode_from)?,
            commit_interval: self.commit_interval_ms.map(Duration::from_millis),
            commit_interval_from: source(&self.commit_interval_from)?,
            file: self.file.map(PathBuf::from),
        })
    }
}

impl State {
    /// All descriptors that go with it.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> + '_ {
        let doors = [self.device, self.root, self.original];
        doors.into_iter().chain(self.asker).chain(self.tree.tokens())
    }

    /// The state that a predecessor has left to this process, and its descriptors, if it
    /// was started to go on with a mount.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn inherited() -> Result<Option<(Self, Inherited)>, Failure> {
        let Some(number) = std::env::var_os(STATE_VARIABLE) else { return Ok(None) };
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(format!("cannot go on with the mount: its state: {error}"))
        };
        let number = number.to_str().and_then(|text| text.parse::<RawFd>().ok());
        let number = number.ok_or_else(|| failed(&format!("{STATE_VARIABLE} is no number")))?;
        let text = std::fs::read(format!("/proc/self/fd/{number}")).map_err(|e| failed(&e))?;
        let state: Self = serde_json::from_slice(&text).map_err(|error| failed(&error))?;
        if state.version != STATE_VERSION {
            return Err(failed(&format!("version {} is not {STATE_VERSION}", state.version)));
        }
        let inherited = Inherited::take(state.descriptors().chain([number]));
        let inherited = inherited.map_err(|error| failed(&error))?;
        // Not needed any more.
        drop(inherited.get(number));
        Ok(Some((state, inherited)))
    }
}

/// A state that is ready to be inherited.
pub(super) struct Handed(OwnedFd);

impl Handed {
    pub(super) fn new(state: &State) -> std::io::Result<Self> {
        let memory = rustix::fs::memfd_create("lanefs-state", MemfdFlags::CLOEXEC)?;
        let mut file = std::fs::File::from(memory);
        file.write_all(&serde_json::to_vec(state)?)?;
        file.rewind()?;
        Ok(Self(file.into()))
    }

    pub(super) fn number(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
